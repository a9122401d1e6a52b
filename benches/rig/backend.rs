//! The servers behind the proxy: several addresses, one behaviour.
//!
//! They live in the thread of the load; [`crate::site::Site`] hands them their events.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use socket2::{Domain, Protocol, Socket, Type};

use crate::poller::{Interest, Poller};

/// Set in the tokens of backends, and of nobody else.
const BACKEND: u64 = 1 << 63;
/// Set in the token of their listener.
const LISTENER: u64 = 1 << 62;

/// What one `sendfile` sends at most. The data is zeros, in memory.
const FLOOD_BYTES: usize = 1 << 20;

#[derive(Clone, Copy)]
pub enum Behaviour {
    /// Answers each request of so many bytes with as many, every bit of them flipped.
    Answer(usize),
    /// Sends without end from the start, reads nothing.
    Flood,
}

pub struct Backends {
    /// One for all addresses.
    listener: TcpListener,
    addresses: Vec<SocketAddr>,
    behaviour: Behaviour,
    zeros: File,
    sessions: Vec<Option<Session>>,
    vacant: Vec<usize>,
}

/// An accepted connection.
struct Session {
    socket: TcpStream,
    request: Box<[u8]>,
    received: usize,
}

impl Backends {
    pub fn listen(
        behaviour: Behaviour,
        addresses: impl Iterator<Item = Ipv4Addr>,
        poller: &Poller,
    ) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(Domain::IPV4, kind, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        poller.add(&listener, BACKEND | LISTENER, Interest::Edges)?;
        let port = listener.local_addr()?.port();
        let addresses = addresses.map(|address| (address, port).into()).collect();
        let zeros = File::from(memfd_create("zeros", MFdFlags::MFD_CLOEXEC)?);
        zeros.set_len(FLOOD_BYTES as u64)?;
        Ok(Self { listener, addresses, behaviour, zeros, sessions: Vec::new(), vacant: Vec::new() })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether an event is for [`Backends::handle`].
    pub fn owns(token: u64) -> bool {
        token & BACKEND != 0
    }

    /// Deals with one event. A connection that fails is closed, which its client will notice;
    /// an error is one of the rig's own.
    pub fn handle(&mut self, token: u64, poller: &Poller) -> io::Result<()> {
        let index = usize::try_from(token & !(BACKEND | LISTENER)).map_err(io::Error::other)?;
        if token & LISTENER != 0 {
            return self.accept(poller);
        }
        // An event may outlive its session by one batch, then it finds nobody, or a successor.
        // Both take it as a spurious one.
        let Some(session) = &mut self.sessions[index] else {
            return Ok(());
        };
        let goes_on = match self.behaviour {
            Behaviour::Answer(_) => session.answer(),
            Behaviour::Flood => session.flood(&self.zeros),
        };
        if goes_on.is_err() {
            self.sessions[index] = None;
            self.vacant.push(index);
        }
        Ok(())
    }

    fn accept(&mut self, poller: &Poller) -> io::Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let index = self.vacant.pop().unwrap_or_else(|| {
                self.sessions.push(None);
                self.sessions.len() - 1
            });
            let (interest, request_len) = match self.behaviour {
                Behaviour::Answer(bytes) => (Interest::Edges, bytes),
                Behaviour::Flood => (Interest::Writable, 0),
            };
            poller.add(&socket, BACKEND | index as u64, interest)?;
            let request = vec![0; request_len].into_boxed_slice();
            self.sessions[index] = Some(Session { socket, request, received: 0 });
        }
    }
}

impl Session {
    /// Answers all that is there. An error ends the session, as does the client's end.
    fn answer(&mut self) -> io::Result<()> {
        loop {
            match self.socket.read(&mut self.request[self.received..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.received == self.request.len() {
                self.received = 0;
                self.request.iter_mut().for_each(|byte| *byte = !*byte);
                // The client waits for its answer, so the send buffer is empty and takes it whole.
                self.socket.write_all(&self.request)?;
            }
        }
    }

    fn flood(&mut self, zeros: &File) -> io::Result<()> {
        match sendfile(&self.socket, zeros, Some(&mut 0), FLOOD_BYTES) {
            Ok(_) | Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
