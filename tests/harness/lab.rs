//! Networks for tests for which loopback will not do, made of network namespaces.
//!
//! ```text
//!      client                   gateway                      left
//!   ┌───────────┐        ┌────────────────────┐        ┌────────────┐
//!   │  10.1.0.2 ├────────┤ 10.1.0.1  10.2.0.1 ├────────┤ 10.2.0.2   │
//!   │           │ wan eth0                    │ left eth0           │
//!   └───────────┘        │                    │        └────────────┘
//!                        │                    │              right
//!                        │                    │        ┌────────────┐
//!                        │           10.3.0.1 ├────────┤ 10.3.0.2   │
//!                        │                    │ right eth0          │
//!                        └────────────────────┘        └────────────┘
//! ```
//!
//! Each line is a pair of virtual Ethernet devices. Clients and servers are threads of the test
//! that have moved into a namespace; the gateway is started in one by `ip netns exec`. Nothing
//! routes: a client reaches a server only through the gateway. Dropping the lab takes the
//! namespaces away, and the devices with them, also when the test panics.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, Uid};

use super::output_of;

/// Address of the client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// Address of the gateway towards the client.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// Address of one server.
pub const LEFT: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// Address of the other server.
pub const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);

/// A client, a gateway and two servers.
pub struct Lab {
    pub client: Namespace,
    pub gateway: Namespace,
    pub left: Namespace,
    pub right: Namespace,
}

impl Lab {
    /// Makes it.
    pub fn new() -> Self {
        let [client, gateway, left, right] =
            ["client", "gateway", "left", "right"].map(Namespace::new);
        let ends = [(&client, "wan", 1), (&left, "left", 2), (&right, "right", 3)];
        for (end, device, net) in ends {
            gateway.cable(device, end, "eth0");
            gateway.ip(&format!("addr add 10.{net}.0.1/24 dev {device}"));
            gateway.ip(&format!("link set {device} up"));
            end.ip(&format!("addr add 10.{net}.0.2/24 dev eth0"));
            end.ip("link set eth0 up");
        }
        Self { client, gateway, left, right }
    }
}

/// A network namespace.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; `role` is part of its name.
    ///
    /// # Panics
    ///
    /// If the test does not run as root.
    pub fn new(role: &str) -> Self {
        assert!(Uid::effective().is_root(), "tests with network namespaces need root");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lockgate-{}-{number}-{role}", process::id());
        ip(&format!("netns add {name}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` here.
    pub fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    /// What `ip` says here.
    pub fn output(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Adds a cable between here and another namespace, with a device of these names at its ends.
    pub(super) fn cable(&self, device: &str, other: &Self, device_there: &str) {
        ip(&format!(
            "link add {device} netns {} type veth peer name {device_there} netns {}",
            self.name, other.name
        ));
    }

    /// Whether an address is on a device here.
    pub fn has(&self, address: IpAddr) -> bool {
        !self.output(&format!("-o addr show to {address}")).is_empty()
    }

    /// Processes whose first thread is here.
    pub fn processes(&self) -> Vec<Pid> {
        let pids = ip(&format!("netns pids {}", self.name));
        pids.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
    }

    /// The command that moves another command here.
    pub fn enter(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Does something here. Sockets and threads that it leaves behind stay here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        // A thread of its own: the namespace is an attribute of the thread.
        let outcome = thread::scope(|scope| {
            let moved = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            moved.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Gives programs started by [`Namespace::enter`] a resolver of their own.
    pub fn resolve_with(&self, server: IpAddr) {
        let directory = self.own_files();
        fs::create_dir_all(&directory).unwrap();
        let text = format!("nameserver {server}\noptions timeout:1 attempts:1\n");
        fs::write(directory.join("resolv.conf"), text).unwrap();
    }

    /// Gives programs started by [`Namespace::enter`] a name for an address.
    pub fn knows(&self, name: &str, address: &str) {
        let directory = self.own_files();
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("hosts"), format!("127.0.0.1 localhost\n{address} {name}\n"))
            .unwrap();
    }

    /// What ip-netns(8) mounts over the files of /etc.
    fn own_files(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left of a half-made lab is taken away as well, so nothing here may panic.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        let _ = fs::remove_dir_all(self.own_files());
    }
}

/// Runs `ip`. Returns what it says.
///
/// # Panics
///
/// If it fails.
pub fn ip(arguments: &str) -> String {
    let output = output_of(Command::new("ip").args(arguments.split_whitespace()));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
