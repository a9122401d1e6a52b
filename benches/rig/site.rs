//! Where a run takes place: a proxy, the backends behind it, and the poller that drives the load.
//!
//! Each run builds one and drops it; the clients in `exchange` and `bulk` work against it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::backend::{Backends, Behaviour};
use crate::machine::{Cores, Machine, pin};
use crate::poller::{Interest, Poller};
use crate::subject::{Program, Proxy};
use crate::tls::{Client, Line, Tally, Tls};

/// No run takes longer: those that do have stalled.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a load that sleeps does so at most, in milliseconds.
const NAP: i32 = 10;

/// What a run needs.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub behaviour: Behaviour,
    pub backends: u32,
    /// Workers of the proxy.
    pub workers: usize,
    /// Whether load and proxy may both use both cores, and the load sleeps when it has nothing to
    /// do.
    pub shares_cores: bool,
    /// What clients and proxy speak, if not plain TCP.
    pub tls: Option<&'a Tls>,
}

pub struct Site<'a> {
    // Dropped first: what is closed after it costs no handshakes.
    proxy: Proxy,
    backends: Backends,
    poller: Poller,
    tokens: Vec<u64>,
    deadline: Instant,
    connected: u32,
    machine: &'a Machine,
    plan: Plan<'a>,
    client: Option<Client>,
}

impl<'a> Site<'a> {
    pub fn open(program: &Program, machine: &'a Machine, plan: Plan<'a>) -> io::Result<Self> {
        let Cores { load, subject } = machine.cores;
        let poller = Poller::new()?;
        let addresses = (0..plan.backends).map(|index| machine.network.backend(index));
        let backends = Backends::listen(plan.behaviour, addresses, &poller)?;
        let both = [load, subject];
        let (load, subject) =
            if plan.shares_cores { (&both[..], &both[..]) } else { (&both[..1], &both[1..]) };
        let proxy = Proxy::start(program, backends.addresses(), &plan, &machine.network, subject)?;
        pin(load)?;
        Ok(Self {
            proxy,
            backends,
            poller,
            tokens: Vec::new(),
            deadline: Instant::now() + PATIENCE,
            connected: 0,
            machine,
            plan,
            client: plan.tls.map(Tls::client).transpose()?,
        })
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.proxy.pid()
    }

    /// It and its children.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        self.proxy.pids()
    }

    /// What all connections with TLS have in common.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Fails if handshakes were not what this run is about.
    pub fn judge(&self, clients: usize, tally: &Tally) -> io::Result<()> {
        self.plan.tls.map_or(Ok(()), |tls| tls.judge(clients, tally))
    }

    /// Starts a connection to the proxy, with TLS if the run has it.
    pub fn dial(&mut self, client: usize) -> io::Result<Line> {
        let socket = self.connect(client, Interest::Edges)?;
        Line::new(socket, self.client.as_ref())
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
        let source = self.machine.network.client(self.connected);
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
        self.poller.ready(&mut self.tokens, if self.plan.shares_cores { NAP } else { 0 })?;
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
