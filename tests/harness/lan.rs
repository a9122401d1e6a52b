//! A pair of gateways on one network, made of network namespaces.
//!
//! ```text
//!      client              server               gw1                 gw2
//!   ┌──────────┐        ┌──────────┐       ┌───────────┐       ┌───────────┐
//!   │ 10.7.0.2 │        │ 10.7.0.3 │       │ 10.7.0.11 │       │ 10.7.0.12 │
//!   └────┬─────┘        └────┬─────┘       └─────┬─────┘       └─────┬─────┘
//!        │ eth0              │ eth0              │ eth0              │ eth0
//!   ┌────┴───────────────────┴───────────────────┴───────────────────┴─────┐
//!   │ client              server                gw1                 gw2    │
//!   │                       switch: the bridge br0                         │
//!   └──────────────────────────────────────────────────────────────────────┘
//!
//!   10.7.0.100 floats between gw1 (priority 150) and gw2 (priority 100).
//! ```
//!
//! Both gateways run the same file, and find out by their addresses which of the two they are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;

use super::lab::{Namespace, ip};
use super::{Config, Gateway, Launch, Server, until};

/// The address that floats.
pub const FLOATING: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 100));
/// Where clients connect to.
pub const SERVICE: SocketAddr = SocketAddr::new(FLOATING, 80);
/// Own addresses of the gateways.
pub const GATEWAYS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 7, 0, 11), Ipv4Addr::new(10, 7, 0, 12)];
/// Where the servers are.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 3);

/// The network, without anything that runs on it.
pub struct Lan {
    pub client: Namespace,
    pub server: Namespace,
    pub gateways: [Namespace; 2],
    switch: Namespace,
}

impl Lan {
    /// Makes it.
    ///
    /// # Panics
    ///
    /// If the test does not run as root.
    pub fn new() -> Self {
        let [switch, client, server, gw1, gw2] =
            ["switch", "client", "server", "gw1", "gw2"].map(Namespace::new);
        switch.ip("link add br0 type bridge mcast_snooping 0");
        switch.ip("link set br0 up");
        let ends =
            [("client", &client, 2), ("server", &server, 3), ("gw1", &gw1, 11), ("gw2", &gw2, 12)];
        for (port, end, host) in ends {
            ip(&format!(
                "link add {port} netns {} type veth peer name eth0 netns {}",
                switch.name(),
                end.name()
            ));
            switch.ip(&format!("link set {port} master br0 up"));
            end.ip(&format!("addr add 10.7.0.{host}/24 dev eth0"));
            end.ip("link set eth0 up");
        }
        Self { client, server, gateways: [gw1, gw2], switch }
    }

    /// A server of this name, at a port of its own.
    pub fn server(&self, name: &'static str, port: u16) -> Server {
        self.server.run(|| Server::named_at(name, SocketAddr::new(SERVER.into(), port)))
    }

    /// Starts a gateway on `gateways[index]`.
    pub fn start(&self, index: usize, config: impl ToString) -> Gateway {
        Launch::new(config).under(&self.gateways[index].enter()).start()
    }

    /// Starts both with the same configuration, the second one when the first is master: which of
    /// two that start together is the quicker one is not known, and it may be allowed to stay.
    pub fn pair(&self, config: impl ToString) -> [Gateway; 2] {
        let config = config.to_string();
        let first = self.start(0, &config);
        await_vrrp(&first, "master");
        let second = self.start(1, &config);
        await_vrrp(&second, "backup");
        [first, second]
    }

    /// Cuts a gateway off, or takes it back.
    pub fn plug(&self, index: usize, state: &str) {
        self.switch.ip(&format!("link set gw{} {state}", index + 1));
    }

    /// Whether a gateway's interface has an address.
    pub fn has(&self, index: usize, address: IpAddr) -> bool {
        let shown = self.gateways[index].output("-o addr show dev eth0");
        shown
            .split_whitespace()
            .any(|word| word.split_once('/').is_some_and(|(found, _)| found == address.to_string()))
    }
}

/// A listener on every address of the gateways, the pool `app`, and the pair.
pub fn config() -> Config {
    Config::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80))
}

/// The nodes and the instance `public`, with further lines of the latter.
pub fn pair(lines: &str) -> String {
    let [gw1, gw2] = GATEWAYS;
    format!(
        "[node.gw1]\naddress = \"{gw1}\"\npriority = 150\n\
         [node.gw2]\naddress = \"{gw2}\"\npriority = 100\n\
         [[vrrp]]\nname = \"public\"\ninterface = \"eth0\"\nvrid = 51\n\
         {}{lines}\n",
        if lines.contains("addresses = ") {
            String::new()
        } else {
            format!("addresses = [\"{FLOATING}/24\"]\n")
        }
    )
}

/// What the status says of the instance `public`.
pub fn public(gateway: &Gateway) -> Value {
    let status = gateway.status();
    let instances = status["vrrp"].as_array().unwrap();
    let found = instances.iter().find(|instance| instance["name"] == "public");
    found.unwrap_or_else(|| panic!("no instance public in {status:#}")).clone()
}

/// Waits until the instance `public` is in a state. Returns what is said of it.
#[track_caller]
pub fn await_vrrp(gateway: &Gateway, state: &str) -> Value {
    until(&format!("{} becomes {state}", gateway.status()["node"]), || {
        let found = public(gateway);
        (found["state"] == state).then_some(found)
    })
}
