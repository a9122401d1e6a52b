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

/// Time between two beats.
pub const BEAT: Duration = Duration::from_millis(100);

/// How long a process may at least be silent before it is taken for one that stands still: five
/// beats, on a host that may be busy.
const PATIENCE: Duration = Duration::from_millis(500);

/// The longest that is waited for: the kernel's lifetime would end first.
const MOST_PATIENCE: Duration = Duration::from_millis(1_500);

/// How long a guard may take to go when it is told good-bye.
const FAREWELL: Duration = Duration::from_millis(300);

/// How long a process may be silent that sends adverts at this interval: no backup takes over
/// before three of them are missed.
pub fn patience(interval: Duration) -> Duration {
    (interval * 3).clamp(PATIENCE, MOST_PATIENCE)
}

/// A guard that runs.
#[derive(Debug)]
pub struct Guard {
    socket: OwnedFd,
    child: Child,
}

impl Guard {
    /// Starts one: this very program, with these arguments.
    ///
    /// # Errors
    ///
    /// If there are too many open files or processes, or `/proc` is not there.
    pub fn start(arguments: &[OsString]) -> io::Result<Self> {
        let kind = SockType::SeqPacket;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, other) = socketpair(AddressFamily::Unix, kind, None, flags)?;
        // A message of 255 IPv6 addresses and as many peers.
        setsockopt(&socket, sockopt::SndBuf, &(1 << 20))?;
        let child = Command::new("/proc/self/exe")
            .args(arguments)
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
    pub fn tell(&self, message: &Message) -> io::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.socket.as_raw_fd(), &message.encode(), flags)?;
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes leave of it, killing it if it does not go.
    pub fn stop(mut self) {
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
    pub fn bury(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::debug!(%error, "the guard cannot be waited for");
        }
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
