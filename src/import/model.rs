//! What the dialects have in common, and lockgate can do: the result before it is text.
//!
//! Names are final: unique, and made of allowed characters. A pool is referred to by its name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::ledger::Id;
use super::names::Names;

/// A whole configuration.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) workers: Option<u32>,
    pub(super) max_connections: Option<u32>,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) nodes: Vec<Node>,
    pub(super) listeners: Vec<Listener>,
    pub(super) pools: Vec<Pool>,
    pub(super) vrrp: Vec<Vrrp>,
    pub(super) listener_names: Names,
    pub(super) pool_names: Names,
    pub(super) vrrp_names: Names,
}

/// `[node.NAME]`
#[derive(Debug)]
pub(super) struct Node {
    pub(super) from: Id,
    pub(super) name: String,
    pub(super) address: Option<String>,
    pub(super) priority: u8,
}

/// `[[listener]]`
#[derive(Clone, Debug, Default)]
pub(super) struct Listener {
    pub(super) from: Id,
    pub(super) name: String,
    pub(super) bind: Vec<(SocketAddr, Id)>,
    pub(super) protocol: Protocol,
    pub(super) pool: Option<String>,
    pub(super) routes: Vec<Route>,
    pub(super) max_connections: Option<u32>,
    pub(super) client_timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) half_close_timeout: Option<Duration>,
    pub(super) user_timeout: Option<Duration>,
    pub(super) accept_proxy_from: Vec<String>,
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    pub(super) limit: Limit,
    /// Rules that keep clients out, and could not be carried over.
    pub(super) closed: Vec<Id>,
    /// What a reader should know, at the place.
    pub(super) remarks: Vec<String>,
}

/// `protocol`
#[derive(Clone, Debug, Default)]
pub(super) enum Protocol {
    #[default]
    Tcp,
    Tls(Box<Tls>),
    Passthrough,
    Redirect {
        acme_dir: Option<String>,
        acme_pool: Option<String>,
    },
}

/// `[listener.tls]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) certificates: Vec<(String, String)>,
    pub(super) strict_sni: bool,
    /// Only version 1.3.
    pub(super) only_13: bool,
    pub(super) ciphers: Vec<String>,
    pub(super) alpn: Vec<String>,
    pub(super) client_auth: Option<ClientAuth>,
    pub(super) ocsp: Option<String>,
    pub(super) no_tickets: bool,
}

/// `client_auth`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientAuth {
    pub(super) required: bool,
    pub(super) ca: String,
    pub(super) crl: Option<String>,
}

/// `[[listener.route]]`
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    pub(super) from: Id,
    pub(super) sni: Vec<String>,
    pub(super) alpn: Vec<String>,
    pub(super) client: Vec<String>,
    pub(super) pool: String,
}

/// `[listener.limit]`
#[derive(Clone, Debug, Default)]
pub(super) struct Limit {
    pub(super) connections: Option<u32>,
    /// New connections, as it is written, and at once.
    pub(super) rate: Option<(String, u32)>,
    /// It only counts, and refuses nobody.
    pub(super) is_dry_run: bool,
    pub(super) from: Option<Id>,
}

/// `[pool.NAME]`
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pool {
    pub(super) from: Id,
    pub(super) name: String,
    pub(super) balance: Option<&'static str>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) retries: Option<u32>,
    pub(super) queue_timeout: Option<Duration>,
    /// Backups serve what full backends cannot.
    pub(super) backup_overflow: bool,
    pub(super) slow_start: Option<Duration>,
    pub(super) user_timeout: Option<Duration>,
    /// Connections of a backend that goes down are reset.
    pub(super) resets_on_down: bool,
    pub(super) send_proxy: Option<&'static str>,
    pub(super) source: Option<String>,
    pub(super) tls: Option<PoolTls>,
    pub(super) health: Option<Health>,
    pub(super) passive: Option<Passive>,
    pub(super) backends: Vec<Backend>,
}

/// `[pool.NAME.tls]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PoolTls {
    pub(super) ca: Option<String>,
    pub(super) no_verify: bool,
    pub(super) sni: Option<String>,
    pub(super) client: Option<(String, String)>,
}

/// `[pool.NAME.health]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) check: Check,
    pub(super) interval: Option<Duration>,
    pub(super) fast_interval: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
    pub(super) port: Option<u16>,
    /// The name that checks ask for in TLS.
    pub(super) sni: Option<String>,
    /// The authorities of checks, where clients' connections speak no TLS.
    pub(super) ca: Option<String>,
}

/// `type`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Check {
    #[default]
    Tcp,
    Tls,
    Http {
        tls: bool,
        path: String,
        host: Option<String>,
        statuses: Vec<String>,
    },
    /// Each a key of a step, and its text.
    SendExpect(Vec<(&'static str, String)>),
}

/// `[pool.NAME.passive]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passive {
    pub(super) max_fails: u32,
    pub(super) window: Duration,
    pub(super) eject_for: Duration,
}

/// `[[pool.NAME.backend]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) from: Id,
    pub(super) name: Option<String>,
    pub(super) address: String,
    /// Its address is a name, and each address of that a server.
    pub(super) each: bool,
    pub(super) weight: Option<u16>,
    pub(super) max_connections: Option<u32>,
    pub(super) health_port: Option<u16>,
    pub(super) backup: bool,
    pub(super) remark: Option<&'static str>,
}

/// `[[vrrp]]`
#[derive(Clone, Debug, Default)]
pub(super) struct Vrrp {
    pub(super) from: Id,
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) vrid: u8,
    pub(super) version: u8,
    pub(super) addresses: Vec<String>,
    /// `None` = that of the node.
    pub(super) priority: Option<u8>,
    pub(super) advert_interval: Duration,
    pub(super) no_preempt: bool,
    pub(super) preempt_delay: Option<Duration>,
    pub(super) unicast_peers: Vec<String>,
    pub(super) virtual_mac: bool,
    pub(super) garp_repeat: Option<u8>,
    pub(super) garp_refresh: Option<Duration>,
    pub(super) track_interfaces: Vec<String>,
    pub(super) sync_group: Option<String>,
    pub(super) notify: Option<PathBuf>,
}

impl Model {
    /// The pool of this name.
    pub(super) fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}
