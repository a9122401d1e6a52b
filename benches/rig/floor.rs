//! The floor: the least that a correct TCP relay can be, to see how little one can cost here.
//!
//! A subject like the others, but part of this binary: the rig starts itself with [`ARGUMENT`]. One
//! thread, epoll, and nothing that a connection does not need on its way: no timers, no limits, no
//! checks, no log, no metrics, and a backend that refuses a connection costs the client its own.
//! What another proxy spends beyond this, it spends on what this one cannot do, or wastes.
//!
//! * A socket is added to epoll once, for all edges, and never taken out before it is closed.
//! * A read that comes back short has emptied the socket, so none is made to hear `EAGAIN`.
//! * What the client has sent by the time it is accepted goes out right behind `connect`, in the
//!   segment that completes the handshake. A fast network has answered the SYN by then.
//! * The backend's socket gets `TCP_NODELAY` only before its second send: the first never waits.
//! * Last bytes and FIN leave in one segment where both are known of.
//! * Data in bulk goes through a pipe, which a flow only holds while there is something in it. A
//!   flow has one pipeful per round, also if epoll tells of it meanwhile. With many flows, pipes of
//!   128 KiB are best, which splices of as many bytes into larger ones are not; with one, 1 MiB.
//!
//! Tried, and dearer per short connection: `TCP_NODELAY` at once (by 2 %), no `MSG_MORE` (2 %), no
//! read before the first event (1 %), no delayed ACK (1 %). One `accept4` per round instead of as
//! many as there are is the same.
//!
//! It trusts its peers: one that never closes keeps its connection for ever.

#![allow(unsafe_code, reason = "descriptors that the kernel has just made, epoll's events")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::{fs, io, mem};

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, accept4};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::poller::{Interest, Poller};

mod connection;

use connection::{Connection, Tools};

/// The first argument that makes the rig a proxy; the second is the path of a file with a socket
/// address per line: where to listen, and then the backends.
pub const ARGUMENT: &str = "--floor";

/// The listener's token. Those of connections are their index, doubled, plus the end's number.
const LISTENER: u64 = u64::MAX;

struct Relay {
    poller: Poller,
    listener: Socket,
    backends: Vec<SockAddr>,
    /// Whose turn it is.
    next: usize,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    /// Closed in this round. Events for them may follow, so their places are not vacant yet.
    closed: Vec<usize>,
    /// Connections that used up their turn.
    unfinished: Vec<usize>,
    tools: Tools,
}

/// Relays until something fails that is not a connection.
pub fn run(config: &Path) -> io::Result<Infallible> {
    let text = fs::read_to_string(config)?;
    let mut addresses = text.lines().map(|line| line.parse().map_err(io::Error::other));
    let Some(listen) = addresses.next() else {
        return Err(io::Error::other("no address to listen on"));
    };
    let listen: SocketAddr = listen?;
    let backends: Vec<SockAddr> =
        addresses.map(|address| Ok(SockAddr::from(address?))).collect::<io::Result<_>>()?;
    if backends.is_empty() {
        return Err(io::Error::other("no backend"));
    }

    let kind = Type::STREAM.nonblocking().cloexec();
    let listener = Socket::new_raw(Domain::for_address(listen), kind, Some(Protocol::TCP))?;
    listener.set_reuse_address(true)?;
    // What is accepted inherits it.
    listener.set_tcp_nodelay(true)?;
    listener.bind(&listen.into())?;
    listener.listen(4096)?;
    let poller = Poller::new()?;
    poller.add(&listener, LISTENER, Interest::Readable)?;
    let mut relay = Relay {
        poller,
        listener,
        backends,
        next: 0,
        connections: Vec::new(),
        vacant: Vec::new(),
        closed: Vec::new(),
        unfinished: Vec::new(),
        tools: Tools::new(),
    };
    loop {
        relay.turn()?;
    }
}

impl Relay {
    fn turn(&mut self) -> io::Result<()> {
        let resumed = mem::take(&mut self.unfinished);
        self.tools.prepare(resumed.len());
        let count = self.poller.wait(if resumed.is_empty() { -1 } else { 0 })?;
        for position in 0..count {
            let libc::epoll_event { events, u64: token } = self.poller.event(position);
            if token == LISTENER {
                self.accept()?;
                continue;
            }
            let index = usize::try_from(token / 2).map_err(io::Error::other)?;
            let side = usize::from(token % 2 == 1);
            self.serve(index, |connection, tools| connection.react(side, events, tools));
        }
        for index in resumed {
            self.serve(index, Connection::resume);
        }
        self.vacant.append(&mut self.closed);
        Ok(())
    }

    /// Lets a connection work, and looks what has become of it.
    fn serve(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut Connection, &mut Tools) -> nix::Result<bool>,
    ) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        match work(connection, &mut self.tools) {
            Ok(_) if connection.has_ended() => {}
            Ok(unfinished) => {
                if unfinished && !mem::replace(&mut connection.is_unfinished, true) {
                    self.unfinished.push(index);
                }
                return;
            }
            Err(_) => connection.reset(),
        }
        self.connections[index] = None;
        self.closed.push(index);
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let client = match accept4(self.listener.as_raw_fd(), flags) {
                // SAFETY: the kernel just made it, for us.
                Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::ECONNABORTED | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let index = self.vacant.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let backend = &self.backends[self.next];
            self.next = (self.next + 1) % self.backends.len();
            let Ok(connection) = Connection::open(client, backend, &mut self.tools) else {
                self.vacant.push(index);
                continue;
            };
            for (side, end) in connection.ends.iter().enumerate() {
                self.poller.add(&end.socket, (2 * index + side) as u64, Interest::Edges)?;
            }
            self.connections[index] = Some(connection);
        }
    }
}
