//! What stands before a listener: whose PROXY headers are believed, who may come in, and how much of
//! it.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::{Listener, Network, Plan};

/// `accept_proxy_from`, `allow`, `deny` and `[listener.limit]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Whose connections begin with a PROXY header, distinct; empty = nobody's.
    pub accept_proxy_from: Vec<Network>,
    /// Who may come in, distinct; empty = everybody.
    pub allow: Vec<Listed>,
    /// Who may not, distinct.
    pub deny: Vec<Listed>,
    /// What each source may do; `None` = anything.
    pub limit: Option<Limit>,
}

/// An element of `allow` or `deny`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listed {
    /// A network.
    Network(Network),
    /// A file with one on each line.
    File(PathBuf),
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// `[listener.limit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Connections at once.
    pub connections: Option<NonZeroU32>,
    /// New connections.
    pub rate: Option<Rate>,
    /// New connections at once, up to a million; `None` = one second's worth.
    pub burst: Option<NonZeroU32>,
    /// First bits that make a source of IPv4 addresses, up to 32.
    pub prefix_v4: u8,
    /// The same of IPv6, up to 128.
    pub prefix_v6: u8,
    /// What becomes of the connections beyond.
    pub action: Action,
}

impl Limit {
    /// New connections at once: what a second brings, and 1 at least, unless it is set.
    pub fn burst(&self) -> u32 {
        let of_a_second = |rate: Rate| {
            let seconds = u32::try_from(rate.period.as_secs()).unwrap_or(u32::MAX).max(1);
            (rate.count.get() / seconds).max(1)
        };
        self.burst.map_or_else(|| self.rate.map_or(1, of_a_second), NonZeroU32::get)
    }
}

/// `rate`: so many in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Up to a million.
    pub count: NonZeroU32,
    /// A second, a minute or an hour.
    pub period: Duration,
}

/// `action`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `reset`
    Reset,
    /// `drop`: closed in order.
    Drop,
    /// `log`: served, and counted.
    Log,
}

/// `send_proxy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// `v1`
    V1,
    /// `v2`
    V2,
}

/// What is allowed in these keys, and yet rarely meant.
pub(super) fn doubts(plan: &Plan) -> Vec<String> {
    plan.listeners.iter().flat_map(|listener| of_listener(plan, listener)).collect()
}

fn of_listener(plan: &Plan, listener: &Listener) -> Vec<String> {
    let mut doubts = Vec::new();
    let Guard { accept_proxy_from, allow, deny, limit } = &listener.guard;
    let mut doubt = |text: String| doubts.push(format!("listener {}: {text}", listener.name));
    for network in accept_proxy_from.iter().filter(|network| network.prefix == 0) {
        doubt(format!(
            "accept_proxy_from has {network}: anybody can claim to be anybody, which makes routes, \
             lists and limits by address worthless"
        ));
    }
    let families = |network: &Network| {
        listener.bind.iter().any(|bind| bind.is_ipv4() == network.address.is_ipv4())
    };
    for network in accept_proxy_from.iter().filter(|network| !families(network)) {
        doubt(format!("accept_proxy_from has {network}, and it listens on no such address"));
    }
    let networks = |list: &[Listed]| {
        let networks = list.iter().filter_map(|listed| match listed {
            Listed::Network(network) => Some(*network),
            Listed::File(_) => None,
        });
        networks.collect::<Vec<_>>()
    };
    let denied = networks(deny);
    for network in denied.iter().filter(|network| network.prefix == 0) {
        doubt(format!("deny has {network}, which is everybody"));
    }
    let within = |network: &Network, wider: &Network| {
        let contains = crate::route::Network::from(*wider).contains(network.address);
        network.prefix >= wider.prefix && contains
    };
    for network in networks(allow) {
        if let Some(wider) = denied.iter().find(|wider| within(&network, wider)) {
            doubt(format!("allow has {network}, and deny has {wider}: it is denied"));
        }
    }
    if let Some(limit) = limit {
        of_limit(plan, listener, limit).into_iter().for_each(doubt);
    }
    doubts
}

fn of_limit(plan: &Plan, listener: &Listener, limit: &Limit) -> Vec<String> {
    let mut doubts = Vec::new();
    if limit.connections.is_none() && limit.rate.is_none() {
        doubts.push("[listener.limit] has neither 'connections' nor 'rate': no effect".to_owned());
    }
    if limit.rate.is_none() && limit.burst.is_some() {
        doubts.push("limit.burst has no effect without limit.rate".to_owned());
    }
    let of_all = [
        ("max_connections", listener.max_connections),
        ("runtime.max_connections", plan.runtime.max_connections),
    ];
    for (name, most) in of_all {
        if let (Some(own), Some(most)) = (limit.connections, most)
            && own >= most
        {
            doubts.push(format!(
                "limit.connections = {own} has no effect: {name} lets in {most} in all"
            ));
        }
    }
    // One source then is everybody of that family.
    for (name, prefix, is_v4) in
        [("prefix_v4", limit.prefix_v4, true), ("prefix_v6", limit.prefix_v6, false)]
    {
        let is_met = listener.bind.iter().any(|bind| bind.is_ipv4() == is_v4);
        if prefix == 0 && (is_met || !listener.guard.accept_proxy_from.is_empty()) {
            doubts.push(format!("limit.{name} = 0 makes one source of everybody"));
        }
    }
    doubts
}

impl Guard {
    /// Whether there is anything to guard.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The files of both lists.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.allow.iter().chain(&self.deny).filter_map(|listed| match listed {
            Listed::File(path) => Some(path),
            Listed::Network(_) => None,
        })
    }
}

/// The address and prefix of a network, as lists have them.
impl From<Network> for crate::route::Network {
    fn from(Network { address, prefix }: Network) -> Self {
        Self { address, prefix }
    }
}
