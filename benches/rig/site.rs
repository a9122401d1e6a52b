//! Where a run takes place: a proxy, the backends behind it, and the poller that drives the load.
//!
//! Each run builds one and drops it; the clients in `exchange` and `bulk` work against it.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::backend::{Backends, Behaviour};
use crate::machine::Cores;
use crate::poller::{Interest, Poller};
use crate::subject::{Program, Proxy};

/// No run takes longer: those that do have stalled.
const PATIENCE: Duration = Duration::from_secs(30);

/// Source addresses of clients: this one and those after it, taken in turn. Each has its own
/// ephemeral ports, so that none runs out while closed connections keep theirs for a minute.
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
const CLIENTS: u32 = 4000;

pub struct Site {
    // Dropped first: what is closed after it costs no handshakes.
    proxy: Proxy,
    backends: Backends,
    poller: Poller,
    tokens: Vec<u64>,
    deadline: Instant,
    connected: u32,
}

impl Site {
    pub fn open(program: &Program, cores: Cores, behaviour: Behaviour) -> io::Result<Self> {
        let poller = Poller::new()?;
        let backends = Backends::listen(behaviour, &poller)?;
        let proxy = Proxy::start(program, backends.addresses(), cores.subject)?;
        Ok(Self {
            proxy,
            backends,
            poller,
            tokens: Vec::new(),
            deadline: Instant::now() + PATIENCE,
            connected: 0,
        })
    }

    pub fn pid(&self) -> u32 {
        self.proxy.pid()
    }

    /// Starts a client's connection to the proxy, and watches it.
    pub fn connect(&mut self, client: usize, interest: Interest) -> io::Result<TcpStream> {
        let socket = Socket::new_raw(
            Domain::IPV4,
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        // Without it, `bind` takes a port that is free towards every destination.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        let source = Ipv4Addr::from_bits(FIRST_CLIENT.to_bits() + self.connected % CLIENTS);
        self.connected = self.connected.wrapping_add(1);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.proxy.address().into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        self.poller.add(socket.as_fd(), client as u64, interest)?;
        Ok(socket.into())
    }

    /// Polls once, lets the backends work, and tells which clients have something to do.
    pub fn turn(&mut self, clients: &mut Vec<usize>) -> io::Result<()> {
        if Instant::now() > self.deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, "the run stalled"));
        }
        clients.clear();
        self.poller.ready(&mut self.tokens)?;
        for &token in &self.tokens {
            if Backends::owns(token) {
                self.backends.handle(token, &self.poller)?;
            } else {
                clients.push(usize::try_from(token).map_err(io::Error::other)?);
            }
        }
        Ok(())
    }
}
