//! The guard: a process that gives addresses up when the one that holds them cannot any more.
//!
//! This is the keeper's end of it: starting the process, telling it what is held, and the beat
//! that says that all is well. The other end is [`process`].

mod message;
pub mod process;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, send, setsockopt, socketpair, sockopt,
};

pub use message::{Holding, Message};

use crate::types::Moment;

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(100);

/// How long a process may at least be silent before it is taken for one that stands still: five
/// beats, on a host that may be busy.
const PATIENCE: Duration = Duration::from_millis(500);

/// The longest that is waited for: the kernel's lifetime would end first.
const MOST_PATIENCE: Duration = Duration::from_millis(1_500);

/// Time between two attempts to start a guard.
const RESPAWN: Duration = Duration::from_secs(1);

/// How long a guard may take to go when it is told good-bye.
const FAREWELL: Duration = Duration::from_millis(300);

/// How long a process may be silent that sends adverts at this interval: no backup takes over
/// before three of them are missed.
pub fn patience(interval: Duration) -> Duration {
    (interval * 3).clamp(PATIENCE, MOST_PATIENCE)
}

/// A guard that runs.
#[derive(Debug)]
struct Guard {
    socket: OwnedFd,
    child: Child,
}

impl Guard {
    /// Starts one: this very program, with these arguments.
    ///
    /// # Errors
    ///
    /// If there are too many open files or processes, or `/proc` is not there.
    fn start(arguments: &[OsString]) -> io::Result<Self> {
        let kind = SockType::SeqPacket;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, other) = socketpair(AddressFamily::Unix, kind, None, flags)?;
        // A message of 255 IPv6 addresses and as many peers.
        setsockopt(&socket, sockopt::SndBuf, &(1 << 20))?;
        let child = Command::new("/proc/self/exe")
            .args(arguments)
            // It needs nothing of what this process was told by its environment.
            .env_clear()
            .stdin(Stdio::from(other))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket, child })
    }

    /// Tells it something, without waiting.
    ///
    /// # Errors
    ///
    /// `EPIPE` or `ECONNRESET` if it is gone; `EAGAIN` if it does not listen.
    fn tell(&self, message: &Message) -> io::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.socket.as_raw_fd(), &message.encode(), flags)?;
        Ok(())
    }

    /// Takes leave of it, killing it if it does not go.
    fn stop(mut self) {
        if let Err(error) = self.tell(&Message::GoodBye) {
            tracing::debug!(%error, "the guard did not hear the good-bye");
        }
        let begin = Instant::now();
        while begin.elapsed() < FAREWELL {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Ok(Some(_)) => return,
                Err(error) => return tracing::debug!(%error, "the guard cannot be waited for"),
            }
        }
        self.bury();
    }

    /// Makes sure that it is gone, and takes its exit status.
    fn bury(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::debug!(%error, "the guard cannot be waited for");
        }
    }
}

/// What keeps a guard running. It belongs to one thread, whose end is what the guard notices
/// first.
#[derive(Debug)]
pub struct Minder {
    arguments: Option<Vec<OsString>>,
    guard: Option<Guard>,
    tried_at: Moment,
    beat_at: Moment,
}

impl Minder {
    /// One that has yet to [`Minder::start`]; without arguments there is never a guard.
    pub fn new(arguments: Option<Vec<OsString>>, now: Moment) -> Self {
        Self { arguments, guard: None, tried_at: now, beat_at: now }
    }

    /// Starts a guard on the calling thread.
    ///
    /// # Errors
    ///
    /// As [`Guard::start`].
    pub fn start(&mut self, now: Moment) -> io::Result<()> {
        self.tried_at = now;
        self.guard = self.arguments.as_deref().map(Guard::start).transpose()?;
        Ok(())
    }

    /// Whether one is to be started, since the one before died a while ago.
    pub fn is_start_due(&self, now: Moment) -> bool {
        self.arguments.is_some() && self.guard.is_none() && now - self.tried_at >= RESPAWN
    }

    /// When the next beat is due.
    pub fn beat_at(&self) -> Option<Moment> {
        self.arguments.is_some().then_some(self.beat_at)
    }

    /// Beats, if it is time and the process lives.
    pub fn beat(&mut self, lives: bool, now: Moment) {
        if now < self.beat_at {
            return;
        }
        self.beat_at = now + BEAT;
        if lives {
            self.tell(&Message::Beat);
        }
    }

    /// Tells the guard something. One that is gone hangs up, which is noticed; one that stands
    /// still will find all that fits into its queue, and beats among it.
    pub fn tell(&self, message: &Message) {
        let _unheard = self.guard.as_ref().map(|guard| guard.tell(message));
    }

    /// What becomes readable, or hangs up, when the guard dies.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.guard.as_ref().map(|guard| guard.socket.as_fd())
    }

    /// The guard died. Says which process it was.
    pub fn bury(&mut self) -> Option<u32> {
        let mut guard = self.guard.take()?;
        guard.bury();
        Some(guard.child.id())
    }

    /// Takes leave of the guard.
    pub fn stop(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.stop();
        }
    }
}
