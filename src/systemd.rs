//! What the process tells systemd (sd_notify(3)): that it is ready, reloads, stops, lives.
//!
//! A message is a datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names. Without
//! that variable nothing is told. systemd being slow, or gone, holds nobody up.
//!
//! With `Type=notify-reload`, systemd waits on a reload for [`Systemd::reloading`] and then
//! [`Systemd::ready`]. With `WatchdogSec=` it kills a process that has not said for so long that it
//! lives: the control loop says so, while every worker does what it should.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The way to systemd, if it started this process.
#[derive(Debug, Default)]
pub struct Systemd {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often a sign of life is due.
    watchdog: Option<Duration>,
    /// When the next one is.
    due: Option<Instant>,
}

impl Systemd {
    /// What the environment says.
    ///
    /// Fails if there is no talking to the socket that it names.
    pub fn of_environment() -> io::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            _ => SocketAddr::from_pathname(&name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let is_for_us =
            number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let timeout = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_for_us);
        // As sd_watchdog_enabled(3) advises, twice as often as it has to be.
        let watchdog = timeout.map(|micros| Duration::from_micros(micros) / 2);
        Ok(Self { socket: Some((socket, address)), watchdog, due: None })
    }

    /// The gateway serves, or has taken over another configuration. `status` is one line for
    /// people.
    pub fn ready(&mut self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
        // A process that is not the service yet is not waited for.
        self.due = self.watchdog.map(|_| Instant::now());
    }

    /// It begins to read its configuration again.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// It has begun to stop.
    pub fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// Another process is the service from now on.
    pub fn main_process_is(&mut self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
        *self = Self::default();
    }

    /// When [`Systemd::live`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Says that the process lives, if it is time, and if no worker has been silent for so long that
    /// it does not.
    pub fn live(&mut self, longest_silence: Duration, now: Instant) {
        let (Some(interval), Some(due)) = (self.watchdog, self.due) else { return };
        if now < due {
            return;
        }
        self.due = Some(now + interval);
        if longest_silence <= interval.max(SLACK) {
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, text: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::debug!(%error, text, "systemd was not told");
        }
    }
}

/// Workers show ten times a second that they live, if the host lets them.
const SLACK: Duration = Duration::from_millis(500);
