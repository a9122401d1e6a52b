//! Two gateways on a LAN, for tests of the pair.
//!
//! ```text
//!   client    10.9.0.1  fd00:9::1 ────┐            ┌──── gw1  10.9.0.2  fd00:9::2
//!                                     │   switch   │
//!                                     ├── (bridge)─┤     floating: 10.9.0.100, fd00:9::100
//!                                     │            │
//!   stranger  10.9.0.9  fd00:9::9 ────┘            └──── gw2  10.9.0.3  fd00:9::3
//! ```
//!
//! The gateways are at 0 and 1 of the arrays. The stranger has the backends, and sends what no peer
//! should. Each gateway has a server of its own on port 7000 that answers with the gateway's name,
//! so that a client can ask who has the floating address, whichever program holds it.
//!
//! The client believes for an hour what it once heard of a hardware address: if nobody announces
//! that an address has moved, the client does not find out, and the test fails.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;
use std::{fs, io};

use nix::unistd::Pid;

use super::lab::Namespace;
use super::{Server, eventually, greeting};

/// The gateways' own addresses.
pub const GATEWAYS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 3)];
/// The stranger's.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 9);
/// The stranger's servers'.
const SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 9, 0, 10), Ipv4Addr::new(10, 9, 0, 11), Ipv4Addr::new(10, 9, 0, 12)];
/// Names of the gateways.
pub const NAMES: [&str; 2] = ["gw1", "gw2"];
const WHO: u16 = 7000;

/// Four hosts on a switch.
pub struct Pair {
    // Before the namespaces, so that they can go.
    servers: Vec<Server>,
    pub client: Namespace,
    pub stranger: Namespace,
    pub gateways: [Namespace; 2],
    switch: Namespace,
}

impl Pair {
    pub fn new() -> Self {
        let [client, stranger, one, two, switch] =
            ["client", "stranger", "gw1", "gw2", "switch"].map(Namespace::new);
        let mut lan = Self { servers: Vec::new(), client, stranger, gateways: [one, two], switch };
        // Groups are flooded: on a switch without a querier, snooping would forget them.
        let bridge = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        lan.switch.ip(&format!("link add bridge {bridge}"));
        lan.switch.ip("link set bridge up");
        let [one, two] = &lan.gateways;
        let hosts = [
            ("client", &lan.client, 1),
            ("gw1", one, 2),
            ("gw2", two, 3),
            ("else", &lan.stranger, 9),
        ];
        for (port, host, number) in hosts {
            // An address that is being checked for duplicates cannot be used for a second or two.
            set(host, "ipv6/conf/default/accept_dad", 0);
            lan.switch.cable(port, host, "eth0");
            lan.switch.ip(&format!("link set {port} master bridge up"));
            host.ip(&format!("link set eth0 address 02:00:00:00:00:{number:02x} up"));
            host.ip(&format!("addr add 10.9.0.{number}/24 dev eth0"));
            host.ip(&format!("addr add fd00:9::{number}/64 dev eth0 nodad"));
        }
        for family in ["ipv4", "ipv6"] {
            let of_client = |name| format!("{family}/neigh/eth0/{name}");
            set(&lan.client, &of_client("base_reachable_time_ms"), 3_600_000);
            set(&lan.client, &of_client("delay_first_probe_time"), 3_600);
        }
        for address in SERVERS {
            lan.stranger.ip(&format!("addr add {address}/24 dev eth0"));
        }
        for (gateway, name) in lan.gateways.iter().zip(NAMES) {
            let any = SocketAddr::from(([0_u16; 8], WHO));
            lan.servers.push(gateway.run(|| Server::named_at(name, any)));
        }
        lan
    }

    /// Servers behind the gateways.
    pub fn backends(&self) -> Vec<Server> {
        let server = |address: &Ipv4Addr| {
            let address = SocketAddr::from((*address, 80));
            self.stranger.run(|| Server::named_at(&address.ip().to_string(), address))
        };
        SERVERS.iter().map(server).collect()
    }

    /// Cuts a gateway off, without its noticing: its cable stays in.
    pub fn cut(&self, gateway: usize) {
        self.switch.ip(&format!("link set {} nomaster", NAMES[gateway]));
    }

    /// Undoes [`Pair::cut`].
    pub fn heal(&self, gateway: usize) {
        self.switch.ip(&format!("link set {} master bridge", NAMES[gateway]));
    }

    /// Which gateways have an address.
    pub fn owners(&self, address: IpAddr) -> [bool; 2] {
        [0, 1].map(|gateway| self.gateways[gateway].has(address))
    }

    /// Processes on a gateway, those included that nobody waits for.
    pub fn processes(&self, gateway: usize) -> Vec<Pid> {
        self.gateways[gateway].processes()
    }

    /// Waits until one gateway alone has an address, and the client is answered by it.
    #[track_caller]
    pub fn await_owner(&self, address: IpAddr, gateway: usize) {
        let expected = [gateway == 0, gateway == 1];
        let name = NAMES[gateway];
        eventually(&format!("{name} alone has {address}"), || self.owners(address) == expected);
        self.await_answer(address, gateway);
    }

    /// Waits until the client is answered by one gateway, whoever else thinks that it has the
    /// address.
    #[track_caller]
    pub fn await_answer(&self, address: IpAddr, gateway: usize) {
        let name = NAMES[gateway];
        let who = SocketAddr::new(address, WHO);
        eventually(&format!("{name} answers at {address}"), || {
            self.client.run(|| ask(who)).is_ok_and(|answer| answer == name)
        });
    }

    /// The hardware address that the client believes an address to be at.
    pub fn believed(&self, address: IpAddr) -> String {
        self.client.output(&format!("neigh show {address}"))
    }
}

/// Asks without much patience: who is asked may just be losing the address.
fn ask(who: SocketAddr) -> io::Result<String> {
    let patience = Duration::from_millis(500);
    let mut stream = TcpStream::connect_timeout(&who, patience)?;
    stream.set_read_timeout(Some(patience))?;
    greeting(&mut stream)
}

/// Sets what sysctl(8) calls `net.…` in a namespace.
pub fn set(namespace: &Namespace, name: &str, value: u32) {
    let path = format!("/proc/sys/net/{name}");
    namespace.run(|| fs::write(path, value.to_string()).unwrap());
}
