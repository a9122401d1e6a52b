//! The client: pings the floating address and opens TCP connections to it, by the clock, and writes
//! down when it was answered.
//!
//! A connection counts when its first SYN is answered. One that is not is given up before TCP would
//! repeat it, a second later: the next is on its way already, and its answer is what is waited for.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};

use crate::clock::{Stamp, now};
use crate::network::{FLOATING, Space};
use crate::stamped::Stamped;
use crate::wire::{echo_reply, echo_request};

const PING_EVERY: Duration = Duration::from_millis(2);
const CONNECT_EVERY: Duration = Duration::from_millis(5);
/// TCP_TIMEOUT_INIT of Linux is one second.
const GIVE_UP: Duration = Duration::from_millis(900);
const PORT: u16 = 7000;
const IDENTIFIER: u16 = 0x10c6;

/// A question and its answer: when it was asked, and when it was answered, if it was.
#[derive(Clone, Copy)]
pub struct Asked {
    pub at: Stamp,
    pub answered: Option<Stamp>,
}

/// All questions of a kind, in the order in which they were asked.
#[derive(Default)]
struct Questions(Mutex<Vec<Asked>>);

impl Questions {
    fn ask(&self) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Asked { at: now(), answered: None });
        all.len() - 1
    }

    fn answer(&self, number: usize, stamp: Stamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = all.get_mut(number) {
            asked.answered.get_or_insert(stamp);
        }
    }

    fn since(&self, since: Stamp) -> Vec<Asked> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all[all.partition_point(|asked| asked.at < since)..].to_vec()
    }
}

/// The longest that anybody had to wait who began to ask at any of these moments and did not stop
/// before there was an answer; `None` if there was none to the last of them, or nobody asked.
///
/// A client that had no core for a while, and did not ask, was not kept waiting.
pub fn longest_wait(asked: &[Asked]) -> Option<Duration> {
    let mut next: Option<Stamp> = None;
    let mut longest = None;
    for Asked { at, answered } in asked.iter().rev() {
        next = match (next, *answered) {
            (Some(next), Some(answered)) => Some(next.min(answered)),
            (next, answered) => next.or(answered),
        };
        if let Some(next) = next {
            longest = longest.max(Some(next.saturating_sub(*at)));
        }
    }
    longest
}

pub struct Client {
    pings: Arc<Questions>,
    connections: Arc<Questions>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Client {
    pub fn start(space: &Space) -> io::Result<Self> {
        let (pings, connections) = (Arc::<Questions>::default(), Arc::<Questions>::default());
        let stop = Arc::<AtomicBool>::default();
        let threads = space.run(|| {
            let icmp = Stamped::icmp(FLOATING)?;
            let (answers, stopped) = (Arc::clone(&pings), Arc::clone(&stop));
            let pinging = thread::spawn(move || {
                complain("ping", ping(&icmp, &answers, &stopped));
            });
            let (answers, stopped) = (Arc::clone(&connections), Arc::clone(&stop));
            let connecting = thread::spawn(move || {
                complain("connect", connect(&answers, &stopped));
            });
            Ok(vec![pinging, connecting])
        })?;
        Ok(Self { pings, connections, stop, threads })
    }

    /// Pings since then.
    pub fn pings(&self, since: Stamp) -> Vec<Asked> {
        self.pings.since(since)
    }

    /// Attempts to connect since then.
    pub fn connections(&self, since: Stamp) -> Vec<Asked> {
        self.connections.since(since)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn complain(what: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("failover: the client cannot {what} any more: {error}");
    }
}

/// Waits for the clock; what is late is not made up for.
fn next_tick(due: Stamp, every: Duration) -> Stamp {
    (due + every).max(now())
}

fn ping(icmp: &Stamped, answers: &Questions, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 256];
    let mut due = now();
    while !stop.load(Ordering::Relaxed) {
        icmp.wait(due.saturating_sub(now()))?;
        while let Some((stamp, length)) = icmp.receive(&mut buffer)? {
            if let Some(sequence) = echo_reply(&buffer[..length], IDENTIFIER) {
                answers.answer(sequence.into(), stamp);
            }
        }
        if now() >= due {
            due = next_tick(due, PING_EVERY);
            // Two minutes of pings have numbers of their own, and no trial takes so long.
            let request = echo_request(IDENTIFIER, answers.ask() as u16);
            // That the host is unreachable, say, is part of what is measured.
            let _ = send(icmp.as_fd().as_raw_fd(), &request, MsgFlags::MSG_DONTWAIT);
        }
    }
    Ok(())
}

fn connect(answers: &Questions, stop: &AtomicBool) -> io::Result<()> {
    let mut trying: Vec<(Stamp, usize, Socket)> = Vec::new();
    let mut due = now();
    while !stop.load(Ordering::Relaxed) {
        if now() >= due {
            due = next_tick(due, CONNECT_EVERY);
            let number = answers.ask();
            if let Some(socket) = dial()? {
                trying.push((now(), number, socket));
            }
        }
        let mut watched: Vec<_> = trying
            .iter()
            .map(|(_, _, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLOUT))
            .collect();
        let rest = TimeSpec::from_duration(due.saturating_sub(now()));
        match ppoll(&mut watched, Some(rest), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let stamp = now();
        let ready: Vec<bool> = watched.iter().map(|one| one.any().unwrap_or(false)).collect();
        let mut ready = ready.into_iter();
        trying.retain(|(since, number, socket)| {
            if !ready.next().unwrap_or(false) {
                return *since + GIVE_UP > stamp;
            }
            if matches!(socket.take_error(), Ok(None)) {
                answers.answer(*number, stamp);
            }
            false
        });
    }
    Ok(())
}

/// Starts a connection that will end with a reset, and so leaves nothing behind.
fn dial() -> io::Result<Option<Socket>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&SocketAddr::from((FLOATING, PORT)).into()) {
        Err(error)
            if error.kind() != ErrorKind::WouldBlock
                && error.raw_os_error() != Some(libc::EINPROGRESS) =>
        {
            Ok(None)
        }
        _ => Ok(Some(socket)),
    }
}

/// Accepts the client's connections on a gateway. It is the same for every subject: what is measured
/// is where the address is, not what serves it.
pub struct Acceptor {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    pub fn start(space: &Space) -> io::Result<Self> {
        let listener = space.run(|| TcpListener::bind(("0.0.0.0", PORT)))?;
        let accepting = listener.try_clone()?;
        let thread = thread::spawn(move || {
            // A connection that was reset before it was accepted is no reason to stop.
            while !accepting.accept().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
            {
            }
        });
        Ok(Self { listener, thread: Some(thread) })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // Closing would not wake the thread that waits in accept(2).
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
