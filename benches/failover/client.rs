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
use crate::wire::{echo_request, is_echo_reply};

const PING_EVERY: Duration = Duration::from_millis(2);
const CONNECT_EVERY: Duration = Duration::from_millis(5);
/// TCP_TIMEOUT_INIT of Linux is one second.
const GIVE_UP: Duration = Duration::from_millis(900);
const PORT: u16 = 7000;
const IDENTIFIER: u16 = 0x10c6;

/// When answers came.
#[derive(Default)]
struct Answers(Mutex<Vec<Stamp>>);

impl Answers {
    fn push(&self, stamp: Stamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(stamp);
    }

    fn since(&self, since: Stamp) -> Vec<Stamp> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The last before is the beginning of the first gap.
        all[all.partition_point(|stamp| *stamp < since).saturating_sub(1)..].to_vec()
    }
}

pub struct Client {
    pings: Arc<Answers>,
    connections: Arc<Answers>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Client {
    pub fn start(space: &Space) -> io::Result<Self> {
        let (pings, connections) = (Arc::<Answers>::default(), Arc::<Answers>::default());
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

    /// When pings were answered, in order, with the last one before.
    pub fn pings(&self, since: Stamp) -> Vec<Stamp> {
        self.pings.since(since)
    }

    /// When connections were made, in order, with the last one before.
    pub fn connections(&self, since: Stamp) -> Vec<Stamp> {
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

fn ping(icmp: &Stamped, answers: &Answers, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 256];
    let mut sequence = 0_u16;
    let mut due = now();
    while !stop.load(Ordering::Relaxed) {
        icmp.wait(due.saturating_sub(now()))?;
        while let Some((stamp, length)) = icmp.receive(&mut buffer)? {
            if is_echo_reply(&buffer[..length], IDENTIFIER) {
                answers.push(stamp);
            }
        }
        if now() >= due {
            due = next_tick(due, PING_EVERY);
            sequence = sequence.wrapping_add(1);
            let request = echo_request(IDENTIFIER, sequence);
            // That the host is unreachable, say, is part of what is measured.
            let _ = send(icmp.as_fd().as_raw_fd(), &request, MsgFlags::MSG_DONTWAIT);
        }
    }
    Ok(())
}

fn connect(answers: &Answers, stop: &AtomicBool) -> io::Result<()> {
    let mut trying: Vec<(Stamp, Socket)> = Vec::new();
    let mut due = now();
    while !stop.load(Ordering::Relaxed) {
        if now() >= due {
            due = next_tick(due, CONNECT_EVERY);
            if let Some(socket) = dial()? {
                trying.push((now(), socket));
            }
        }
        let mut watched: Vec<_> = trying
            .iter()
            .map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLOUT))
            .collect();
        let rest = TimeSpec::from_duration(due.saturating_sub(now()));
        match ppoll(&mut watched, Some(rest), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let stamp = now();
        let ready: Vec<bool> = watched.iter().map(|one| one.any().unwrap_or(false)).collect();
        let mut ready = ready.into_iter();
        trying.retain(|(since, socket)| {
            if !ready.next().unwrap_or(false) {
                return *since + GIVE_UP > stamp;
            }
            if matches!(socket.take_error(), Ok(None)) {
                answers.push(stamp);
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
