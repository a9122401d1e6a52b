//! `[node.NAME]` and `[[vrrp]]`: the gateways of a pair, and the addresses that float between them.
//!
//! A file is the same on all gateways of a pair. What depends on which of them this one is comes
//! from [`Vrrp::priority`] and [`Vrrp::peers`].

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use super::Plan;

/// `[node.NAME]`: what is different on one of the gateways that share a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique name.
    pub name: String,
    /// How its peers reach it; unique. `None` = not said, which only matters to those who ask.
    pub address: Option<IpAddr>,
    /// Priority of its instances, 1 to 254, unless they have their own.
    pub priority: NonZeroU8,
}

/// `[[vrrp]]`: addresses that one of several gateways has at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vrrp {
    /// Unique name.
    pub name: String,
    /// Network interface, of 1 to 15 bytes.
    pub interface: String,
    /// Which virtual router it is; unique for the interface and the family of its addresses.
    pub vrid: NonZeroU8,
    /// What is spoken.
    pub version: Version,
    /// 1 to 255 of IPv4, or 1 to 90 of IPv6: all of one family, none in two instances.
    pub addresses: Vec<Floating>,
    /// 1 to 254, or 255 for the owner of the addresses; `None` = that of the node, and then there
    /// are nodes.
    pub priority: Option<NonZeroU8>,
    /// Time between adverts. Version 3: 10 ms to 40.95 s, in steps of 10 ms; version 2: 1 to 255
    /// whole seconds.
    pub advert_interval: Duration,
    /// Take the addresses from a master of a lower priority. Always set for an owner.
    pub preempt: bool,
    /// How long such a master is left alone first.
    pub preempt_delay: Duration,
    /// Whom adverts are sent to; empty = multicast.
    pub unicast_peers: Vec<Peer>,
    /// Where adverts come from, of the family of the addresses; `None` = see [`Vrrp::source`].
    pub source: Option<IpAddr>,
    /// How adverts of version 3 over IPv4 are checked; `Auto` for others.
    pub checksum: Checksum,
    /// Have the addresses at a MAC address of their own.
    pub virtual_mac: bool,
    /// Announcements after becoming master, 1 to 100.
    pub garp_repeat: u8,
    /// Time between announcements after that; zero = none.
    pub garp_refresh: Duration,
    /// Interfaces without which this gateway cannot be master; distinct.
    pub track_interfaces: Vec<String>,
    /// Pools that change the priority; each once, and none for an owner.
    pub track_pools: Vec<TrackedPool>,
    /// Instances of the same group are masters together or not at all.
    pub sync_group: Option<String>,
    /// Program that is told of every change.
    pub notify: Option<PathBuf>,
}

/// Priority of the router whose own addresses the shared ones are (RFC 9568, section 5.2.4).
pub const OWNER: u8 = 255;

/// `version`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 3768, for IPv4.
    V2,
    /// RFC 9568
    V3,
}

/// An element of `addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Floating {
    /// The address of one machine.
    pub address: IpAddr,
    /// Length of its network's prefix, 1 to 32 or 128.
    pub prefix: u8,
}

impl fmt::Display for Floating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An element of `unicast_peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// `node`: all other nodes. There are some, and all have addresses of the right family.
    Nodes,
    /// An address, of the right family.
    Address(IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => f.write_str("node"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// `checksum`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Accept both forms, send what the peer sends.
    Auto,
    /// Over the message (RFC 9568, section 5.2.8).
    Rfc9568,
    /// Over a pseudo header as well (RFC 5798).
    PseudoHeader,
}

/// An element of `track_pools`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedPool {
    /// Index into [`Plan::pools`].
    pub pool: usize,
    /// What the priority changes by while the pool has no usable backend, -254 to -1.
    pub weight: i16,
}

impl Vrrp {
    /// Whether its addresses are IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.addresses.first().is_some_and(|first| first.address.is_ipv6())
    }

    /// The priority of this instance on `node`.
    ///
    /// Without a node, which a plan whose instances depend on nodes is not run, that is 100.
    pub fn priority(&self, node: Option<&Node>) -> u8 {
        const DEFAULT: u8 = 100;
        let of_node = node.map(|node| node.priority);
        self.priority.or(of_node).map_or(DEFAULT, NonZeroU8::get)
    }

    /// Where `node`, an address of the host `has`, sends adverts from: its peers take them from no
    /// other address. `None` = any that the interface has.
    pub fn source(&self, node: Option<&Node>, has: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let of_node = node.and_then(|node| node.address);
        let of_node = of_node.filter(|own| own.is_ipv6() == self.is_ipv6());
        let listed = self.unicast_peers.iter().find_map(|peer| match peer {
            Peer::Nodes => of_node,
            Peer::Address(address) => (of_node == Some(*address)).then_some(*address),
        });
        // A list of all gateways, by which this one is known to the others as well.
        let by_list = || {
            self.unicast_peers.iter().find_map(|peer| match peer {
                Peer::Address(address) if has(*address) => Some(*address),
                Peer::Address(_) | Peer::Nodes => None,
            })
        };
        // Nobody has said that it is on that interface, or on any.
        let likely = || of_node.filter(|own| !self.unicast_peers.is_empty() && has(*own));
        self.source.or(listed).or_else(by_list).or_else(likely)
    }

    /// Whom `node`, one of `nodes`, sends adverts to: never itself. Empty = multicast.
    pub fn peers(&self, node: Option<&Node>, nodes: &[Node]) -> Vec<IpAddr> {
        let own = node.and_then(|node| node.address);
        let mut peers = Vec::new();
        for peer in &self.unicast_peers {
            match peer {
                Peer::Address(address) => peers.push(*address),
                Peer::Nodes => peers.extend(nodes.iter().filter_map(|node| node.address)),
            }
        }
        peers.retain(|peer| Some(*peer) != own);
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}

impl Plan {
    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// What is allowed, and yet rarely meant.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = super::guard::doubts(self);
        doubts.extend(self.pools.iter().filter_map(super::Pool::doubt));
        let mut groups: HashMap<&str, usize> = HashMap::new();
        for vrrp in &self.vrrp {
            if let Some(group) = &vrrp.sync_group {
                *groups.entry(group).or_default() += 1;
            }
        }
        for vrrp in &self.vrrp {
            let name = &vrrp.name;
            if let Some(group) = vrrp.sync_group.as_deref().filter(|&group| groups[group] == 1) {
                doubts.push(format!("vrrp {name}: nothing else is in sync_group {group}"));
            }
            let is_link_local = |floating: &Floating| matches!(floating.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if vrrp.is_ipv6() && !vrrp.addresses.iter().any(is_link_local) {
                // RFC 9568, section 5.2.9, as of erratum 8300.
                doubts.push(format!(
                    "vrrp {name}: the first address of IPv6 has to be link-local, as in \
                     \"fe80::{:x}/64\"; others may discard its adverts",
                    vrrp.vrid
                ));
            }
            if vrrp.priority.is_some_and(|priority| priority.get() == OWNER) && self.nodes.len() > 1
            {
                doubts.push(format!(
                    "vrrp {name}: priority {OWNER} makes every node the owner; only the one whose \
                     own addresses they are can be"
                ));
            }
        }
        doubts
    }
}
