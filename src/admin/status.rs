//! What `GET /v1/status` answers and `lockgate status` prints.

use serde::{Deserialize, Serialize};

/// Everything there is to show of a gateway.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Version of the running binary.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Publications of a configuration since the start.
    pub generation: u64,
    /// Name of this node in its pair; `null` for a single gateway.
    pub node: Option<String>,
    /// `running`, or `draining` once a stop has begun.
    pub state: String,
    /// Connections now.
    pub connections: u32,
    /// Connections that are taken at once.
    pub max_connections: u32,
    /// By worker.
    pub workers: Vec<Worker>,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    /// In the order of the file.
    pub pools: Vec<Pool>,
    /// In the order of the file.
    pub vrrp: Vec<Instance>,
    /// Those in use, by listener and file.
    pub certificates: Vec<Certificate>,
}

/// A VRRP instance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Instance {
    /// Name.
    pub name: String,
    /// Where its addresses go.
    pub interface: String,
    /// Which virtual router it is.
    pub vrid: u8,
    /// Version of the protocol: 2 or 3.
    pub version: u8,
    /// `init`, `backup` or `master`.
    pub state: String,
    /// Why it came into that state.
    pub cause: String,
    /// Why it cannot be master, or its priority is not the configured one.
    pub reason: Option<String>,
    /// As configured, here or for the node.
    pub priority: u8,
    /// With the weights of what is tracked.
    pub effective_priority: u8,
    /// With the lengths of their prefixes.
    pub addresses: Vec<String>,
    /// Who has the addresses, as far as known.
    pub master: Option<String>,
    /// Since when it is in its state (RFC 3339).
    pub since: String,
    /// For how long it has been.
    pub since_seconds: f64,
    /// Changes of state.
    pub transitions: u64,
    /// Adverts are sent by a thread with real-time priority.
    pub realtime: bool,
}

/// A certificate in use.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Certificate {
    /// Listener that shows it.
    pub listener: String,
    /// Whom it is for: names and addresses.
    pub names: Vec<String>,
    /// Its number, as OpenSSL writes it.
    pub serial: String,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: u64,
    /// Where it was read from.
    pub file: String,
}

/// A worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Worker {
    /// Connections now.
    pub connections: u32,
}

/// A listener.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Listener {
    /// Name.
    pub name: String,
    /// Addresses.
    pub bind: Vec<String>,
    /// As in the configuration.
    pub protocol: String,
    /// Where connections go.
    pub pool: Option<String>,
    /// Connections now.
    pub connections: u32,
    /// Connections accepted.
    pub connections_total: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// A pool.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Pool {
    /// Name.
    pub name: String,
    /// Policy, as configured.
    pub balance: String,
    /// Connections that wait for a backend.
    pub queue: usize,
    /// In the order of the file.
    pub backends: Vec<Backend>,
}

/// A backend.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Backend {
    /// Name.
    pub name: String,
    /// As configured.
    pub address: String,
    /// What the name resolved to, if the address is one.
    pub resolved: Option<String>,
    /// `up`, `down`, `draining`, `disabled`, `ejected`, `starting` or `unchecked`.
    pub state: String,
    /// Why it is in that state.
    pub reason: String,
    /// For how long it has been.
    pub since_seconds: f64,
    /// As configured.
    pub weight: u16,
    /// What picks go by; 0 = none come here.
    pub effective_weight: f64,
    /// Connections now.
    pub connections: u32,
    /// Connections at once; 0 = no limit.
    pub max_connections: u32,
    /// Used only when every other backend is down.
    pub backup: bool,
    /// Connections made.
    pub connections_total: u64,
    /// Connections that could not be made.
    pub connect_failures_total: u64,
    /// Bytes to the backend.
    pub bytes_in: u64,
    /// Bytes from it.
    pub bytes_out: u64,
}
