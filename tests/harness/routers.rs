//! Programs that speak VRRP on the gateways of a [`super::pair::Pair`]: lockgate and keepalived, from
//! the same description of an instance.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::pair::{GATEWAYS, NAMES, Pair};
use super::{Config, Gateway, Launch, Server, eventually};

/// How an instance is, on both gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// VRRPv2 over IPv4, to the group, each second.
    V2,
    /// VRRPv3 over IPv4, to the group.
    V3,
    /// VRRPv3 over IPv4, to the peer alone.
    Unicast,
    /// VRRPv3 over IPv6, to the group.
    Ipv6,
}

impl Mode {
    /// The floating address.
    pub fn floating(self) -> IpAddr {
        match self {
            Self::Ipv6 => "fd00:9::100".parse().unwrap(),
            _ => "10.9.0.100".parse().unwrap(),
        }
    }

    /// All addresses of the instance, in the order in which they are advertised.
    pub fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::Ipv6 => vec!["fe80::9:100".parse().unwrap(), self.floating()],
            _ => vec![self.floating()],
        }
    }

    fn prefixed(self) -> Vec<String> {
        let prefix = if self == Self::Ipv6 { 64 } else { 24 };
        self.addresses().iter().map(|address| format!("{address}/{prefix}")).collect()
    }

    /// What lockgate is told, with further lines for the instance.
    fn lockgate(self, gateway: usize, lines: &str) -> String {
        let peer = GATEWAYS[1 - gateway];
        let mode = match self {
            Self::V2 => "version = 2".to_owned(),
            Self::Unicast => format!("unicast_peers = [\"{peer}\"]"),
            Self::V3 | Self::Ipv6 => String::new(),
        };
        format!(
            "[[vrrp]]\nname = \"public\"\ninterface = \"eth0\"\nvrid = {VRID}\naddresses = {:?}\n\
             priority = {}\n{mode}\n{lines}\n",
            self.prefixed(),
            PRIORITIES[gateway],
        )
    }

    fn keepalived(self, gateway: usize) -> String {
        let (own, peer) = (GATEWAYS[gateway], GATEWAYS[1 - gateway]);
        let mode = match self {
            Self::V2 => "version 2\n advert_int 1".to_owned(),
            Self::V3 | Self::Ipv6 => "version 3\n advert_int 0.1".to_owned(),
            Self::Unicast => format!(
                "version 3\n advert_int 0.1\n unicast_src_ip {own}\n unicast_peer {{\n {peer}\n }}"
            ),
        };
        format!(
            "global_defs {{\n router_id {}\n}}\nvrrp_instance public {{\n state BACKUP\n \
             interface eth0\n virtual_router_id {VRID}\n priority {}\n {mode}\n \
             virtual_ipaddress {{\n {}\n }}\n}}\n",
            NAMES[gateway],
            PRIORITIES[gateway],
            self.prefixed().join("\n "),
        )
    }
}

/// The instance's number.
pub const VRID: u8 = 51;
/// The first gateway is master if all is well.
pub const PRIORITIES: [u8; 2] = [150, 100];

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Lockgate,
    Keepalived,
}

/// A running program.
pub enum Router {
    Lockgate(Gateway),
    Keepalived(Keepalived),
}

impl Router {
    /// Starts it on a gateway and waits until it takes part. lockgate gets further lines for its
    /// instance.
    pub fn start(program: Program, lan: &Pair, gateway: usize, mode: Mode, lines: &str) -> Self {
        match program {
            Program::Lockgate => Self::Lockgate(lockgate(lan, gateway, mode, lines, &[])),
            Program::Keepalived => {
                Self::Keepalived(Keepalived::start(lan, gateway, &mode.keepalived(gateway)))
            }
        }
    }

    /// Ends it in order, and waits for the end.
    pub fn stop(self) {
        match self {
            Self::Lockgate(mut gateway) => {
                gateway.signal(Signal::SIGTERM);
                assert!(gateway.wait().success(), "{}", gateway.stderr());
            }
            Self::Keepalived(mut keepalived) => keepalived.stop(),
        }
    }
}

/// Starts lockgate on a gateway, before these servers, with further lines for its instance.
pub fn lockgate(
    lan: &Pair,
    gateway: usize,
    mode: Mode,
    lines: &str,
    servers: &[Server],
) -> Gateway {
    let listener = SocketAddr::new(mode.floating(), 80);
    let mut config = Config::new(listener).pool("balance = \"source_hash\"");
    for server in servers {
        config = config.backend(server, "");
    }
    if servers.is_empty() {
        config = config.backend_at("none", "127.0.0.1:1", "");
    }
    let config = format!("{config}{}", mode.lockgate(gateway, lines));
    Launch::new(config).under(&lan.gateways[gateway].enter()).start()
}

/// The real keepalived; stopped when dropped.
pub struct Keepalived {
    child: Child,
    directory: TempDir,
}

impl Keepalived {
    fn start(lan: &Pair, gateway: usize, config: &str) -> Self {
        let directory = TempDir::with_prefix("keepalived-").unwrap();
        let path = |name| directory.path().join(name);
        fs::write(path("config"), config).unwrap();
        let log = File::create(path("log")).unwrap();
        let [enter, arguments @ ..] = lan.gateways[gateway].enter();
        let child = Command::new(enter)
            .args(arguments)
            .args(["keepalived", "--dont-fork", "--log-console", "--vrrp"])
            .arg("--use-file")
            .arg(path("config"))
            .arg("--pid")
            .arg(path("pid"))
            .arg("--vrrp_pid")
            .arg(path("vrrp-pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Self { child, directory };
        eventually("keepalived takes part", || started.log().contains("Entering BACKUP STATE"));
        started
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // It takes about a second.
        if self.child.try_wait().unwrap().is_none() {
            kill(pid, Signal::SIGTERM).unwrap();
            eventually("keepalived ends", || self.child.try_wait().unwrap().is_some());
        }
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- keepalived\n{}---", self.log());
            // Its other process ends with it: it has asked the kernel to be told.
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else {
            self.stop();
        }
    }
}
