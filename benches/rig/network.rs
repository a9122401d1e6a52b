//! What lies between the load and the proxy: loopback, or a pair of virtual Ethernet devices each
//! way.
//!
//! ```text
//!      load                          proxy
//!   ┌──────────────────┐        ┌──────────────────┐
//!   │ clients 10.1.0.2 ├────────┤ clients 10.1.0.1 │
//!   │ servers 10.2.0.2 ├────────┤ servers 10.2.0.1 │
//!   └──────────────────┘        └──────────────────┘
//! ```
//!
//! The load moves into a network namespace of its own, the proxies are started in another. Neither
//! has a name: both are gone when the rig and its proxy are, however they end.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sched::{CloneFlags, setns, unshare};

/// Where proxies listen on loopback. Connections to the backends have 127.0.0.1 as their source, so
/// on this address none of them can take the port of a listener, although both are ephemeral.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

/// Where they listen otherwise: in a namespace where nobody else does, but not on a port that the
/// last run has left connections of behind.
const PROXY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const FIRST_PORT: u16 = 5000;

/// How many addresses clients have. Each has its own ephemeral ports, so that none runs out while
/// closed connections keep theirs for a minute.
const CLIENTS: u32 = 4000;

/// Which one to measure on.
#[derive(Clone, Copy)]
pub enum Wanted {
    Loopback,
    Veth,
}

pub enum Network {
    Loopback,
    /// With the proxy's namespace.
    Veth(File),
}

impl Network {
    /// Makes the devices, and moves the calling thread, and all that it starts, to the load's side.
    pub fn veth() -> io::Result<Self> {
        let proxy = new_namespace()?;
        let load = new_namespace()?;
        let path = format!("/proc/{}/fd/{}", process::id(), proxy.as_raw_fd());
        for (device, net) in [("clients", 1), ("servers", 2)] {
            ip(&format!("link add {device} type veth peer name {device} netns {path}"))?;
            ip(&format!("addr add 10.{net}.0.2/24 dev {device}"))?;
            ip(&format!("link set {device} up"))?;
            // All addresses of this range are this end's.
            ip(&format!("route add local 10.{net}.128.0/17 dev lo"))?;
        }
        ip("link set lo up")?;

        setns(&proxy, CloneFlags::CLONE_NEWNET)?;
        ip("link set lo up")?;
        for (device, net) in [("clients", 1), ("servers", 2)] {
            ip(&format!("addr add 10.{net}.0.1/24 dev {device}"))?;
            ip(&format!("link set {device} up"))?;
            ip(&format!("route add 10.{net}.128.0/17 via 10.{net}.0.2"))?;
        }
        // As it is on loopback: a port is free a second after its connection ended.
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;

        setns(&load, CloneFlags::CLONE_NEWNET)?;
        Ok(Self::Veth(proxy))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Veth(_) => "veth",
        }
    }

    /// Where the next proxy can listen.
    pub fn listen(&self) -> io::Result<SocketAddr> {
        static RUNS: AtomicU16 = AtomicU16::new(0);
        match self {
            Self::Loopback => TcpListener::bind((LOOPBACK, 0))?.local_addr(),
            Self::Veth(_) => {
                let port = FIRST_PORT + RUNS.fetch_add(1, Ordering::Relaxed) % 20_000;
                Ok((PROXY, port).into())
            }
        }
    }

    /// The source address of a client's connection, of which each client makes many.
    pub fn client(&self, connection: u32) -> Ipv4Addr {
        let first = match self {
            Self::Loopback => Ipv4Addr::new(127, 1, 0, 1),
            Self::Veth(_) => Ipv4Addr::new(10, 1, 128, 1),
        };
        Ipv4Addr::from_bits(first.to_bits() + connection % CLIENTS)
    }

    /// The address of a backend.
    pub fn backend(&self, index: u32) -> Ipv4Addr {
        let first = match self {
            Self::Loopback => Ipv4Addr::new(127, 2, 0, 1),
            Self::Veth(_) => Ipv4Addr::new(10, 2, 128, 1),
        };
        Ipv4Addr::from_bits(first.to_bits() + index)
    }

    /// What a proxy has to enter by `setns(2)` before it starts.
    pub fn namespace(&self) -> Option<RawFd> {
        match self {
            Self::Loopback => None,
            Self::Veth(namespace) => Some(namespace.as_raw_fd()),
        }
    }
}

/// Makes one, and moves there.
fn new_namespace() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
        io::Error::other(format!("cannot make a network namespace, which needs root: {error}"))
    })?;
    File::open("/proc/thread-self/ns/net")
}

/// Runs ip(8) where the calling thread is.
fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}", error.trim_end())))
}
