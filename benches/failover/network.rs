//! A LAN of network namespaces, and the switch port that is cut.
//!
//! ```text
//!   client   10.9.0.1 ────┐              ┌──── gateways[0]  10.9.0.2   02:00:00:00:00:02
//!                         │    switch    │
//!                         ├── (bridge) ──┤              floating: 10.9.0.100
//!                         │              │
//!   watcher  10.9.0.9 ────┘              └──── gateways[1]  10.9.0.3   02:00:00:00:00:03
//! ```
//!
//! No namespace has a name: all is gone when the last process and descriptor in it is, however this
//! program ends. What happens here is done by threads that have moved into a namespace.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::process::{self, Command};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;

use crate::port::Port;

/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The gateways' own addresses.
pub const GATEWAYS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 3)];
/// The watcher's address.
pub const WATCHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 9);
/// The first floating address.
pub const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// All of them are in this network.
pub const PREFIX: u8 = 16;

/// A hardware address.
pub type Mac = [u8; 6];

/// The hardware address of whoever has this address of ours.
pub const fn mac_of(address: Ipv4Addr) -> Mac {
    [2, 0, 0, 0, 0, address.octets()[3]]
}

/// Four hosts on one switch.
pub struct Lan {
    pub client: Space,
    pub watcher: Space,
    pub gateways: [Space; 2],
    switch: Space,
}

impl Lan {
    pub fn new() -> io::Result<Self> {
        let lan = Self {
            client: Space::new()?,
            watcher: Space::new()?,
            gateways: [Space::new()?, Space::new()?],
            switch: Space::new()?,
        };
        // A switch that forwards at once, and that floods multicast whatever it knows of groups:
        // neither a listening phase nor a snooping querier is what is measured here.
        lan.switch
            .ip("link add bridge type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        lan.switch.ip("link set bridge up")?;
        let [one, two] = &lan.gateways;
        let hosts = [
            ("client", &lan.client, CLIENT),
            ("watcher", &lan.watcher, WATCHER),
            ("gw1", one, GATEWAYS[0]),
            ("gw2", two, GATEWAYS[1]),
        ];
        for (port, host, address) in hosts {
            let mac = mac_of(address).map(|byte| format!("{byte:02x}")).join(":");
            let path = host.path();
            lan.switch.ip(&format!("link add {port} type veth peer name eth0 netns {path}"))?;
            lan.switch.ip(&format!("link set {port} master bridge up"))?;
            host.ip("link set lo up")?;
            host.ip(&format!("link set eth0 address {mac} up"))?;
            host.ip(&format!("addr add {address}/{PREFIX} dev eth0"))?;
        }
        Ok(lan)
    }

    /// The switch's port towards a gateway.
    pub fn port(&self, gateway: usize) -> io::Result<Port> {
        let name = ["gw1", "gw2"][gateway];
        self.switch.run(|| Port::open(name))
    }
}

/// A network namespace.
pub struct Space {
    file: File,
}

impl Space {
    fn new() -> io::Result<Self> {
        let file = thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                File::open("/proc/thread-self/ns/net")
            });
            made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(Self { file })
    }

    /// Does something here. Sockets, threads and processes that it leaves behind stay here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        // A thread of its own: the namespace is an attribute of the thread.
        thread::scope(|scope| {
            let moved = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            moved.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn ip(&self, arguments: &str) -> io::Result<()> {
        let mut command = Command::new("ip");
        command.args(arguments.split_whitespace());
        let output = self.run(|| command.output())?;
        if output.status.success() {
            return Ok(());
        }
        let error = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("ip {arguments}: {}", error.trim())))
    }

    /// Where `ip` finds it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// Whether a host here listens to the group of VRRP, 224.0.0.18, on its device.
    pub fn listens_to_vrrp(&self) -> io::Result<bool> {
        // In /proc/net/igmp the address is a number in the byte order of the machine.
        let group = format!("{:08X}", u32::from_ne_bytes([224, 0, 0, 18]));
        let groups = self.run(|| fs::read_to_string("/proc/thread-self/net/igmp"))?;
        Ok(groups.lines().any(|line| line.split_whitespace().next() == Some(group.as_str())))
    }

    /// All processes here, whoever started them: the children of children as well, and those that
    /// have lost their parent.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let here = self.file.metadata()?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // One that has just ended has no such file.
            if let Ok(there) = fs::metadata(entry.path().join("ns/net"))
                && (there.st_dev(), there.st_ino()) == (here.st_dev(), here.st_ino())
            {
                found.push(Pid::from_raw(pid));
            }
        }
        Ok(found)
    }
}
