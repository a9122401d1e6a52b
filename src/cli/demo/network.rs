//! The network of the demo's pair: three network namespaces, which take everything with them when
//! they go.
//!
//! ```text
//!                     lan
//!   ┌──────────────────────────────────┐
//!   │  client, servers: 10.213.0.1     │
//!   │              br0                 │
//!   └──────┬────────────────────┬──────┘
//!          │ eth0               │ eth0
//!   ┌──────┴──────┐      ┌──────┴──────┐
//!   │ 10.213.0.11 │      │ 10.213.0.12 │      10.213.0.100 floats
//!   └─────────────┘      └─────────────┘
//!         gw1                  gw2
//! ```

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{self, Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// Where the client and the servers are.
pub const LAN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 213, 0, 1));
/// The address that floats.
pub const FLOATING: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 213, 0, 100));
/// Own addresses of the gateways.
pub const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 213, 0, 11)), IpAddr::V4(Ipv4Addr::new(10, 213, 0, 12))];

/// The namespaces; removed when dropped.
#[derive(Debug)]
pub struct Network {
    /// Of the client and the servers.
    pub lan: Namespace,
    /// Of the gateways.
    pub gateways: [Namespace; 2],
}

impl Network {
    /// Makes it. Fails without root, and without `ip`, and says why.
    pub fn new() -> io::Result<Self> {
        let (lan, gw1, gw2) =
            (Namespace::new("lan")?, Namespace::new("gw1")?, Namespace::new("gw2")?);
        lan.ip("link add br0 type bridge mcast_snooping 0")?;
        lan.ip(&format!("addr add {LAN}/24 dev br0"))?;
        lan.ip("link set br0 up")?;
        for (gateway, (port, address)) in
            [&gw1, &gw2].into_iter().zip(["gw1", "gw2"].into_iter().zip(GATEWAYS))
        {
            let (lan_name, name) = (&lan.name, &gateway.name);
            ip(&format!("link add {port} netns {lan_name} type veth peer name eth0 netns {name}"))?;
            lan.ip(&format!("link set {port} master br0 up"))?;
            gateway.ip(&format!("addr add {address}/24 dev eth0"))?;
            gateway.ip("link set eth0 up")?;
        }
        Ok(Self { lan, gateways: [gw1, gw2] })
    }
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn new(role: &str) -> io::Result<Self> {
        let name = format!("lockgate-demo-{}-{role}", process::id());
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    fn ip(&self, arguments: &str) -> io::Result<()> {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// A command that runs this program here.
    pub fn command(&self) -> io::Result<Command> {
        let mut command = Command::new("ip");
        // It replaces itself with the program, so that it can be killed as if it were that.
        command.args(["netns", "exec", &self.name]).arg(std::env::current_exe()?);
        Ok(command)
    }

    /// What moves a thread here.
    pub fn door(&self) -> io::Result<Door> {
        File::open(format!("/run/netns/{}", self.name)).map(Door)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left of a half-made network goes as well; there is nobody to tell.
        let _ =
            Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// The way into a namespace.
#[derive(Debug)]
pub struct Door(File);

impl Door {
    /// Moves the calling thread through, for good.
    pub fn enter(self) -> io::Result<()> {
        Ok(setns(self.0, CloneFlags::CLONE_NEWNET)?)
    }
}

fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}", said.trim_end())))
}
