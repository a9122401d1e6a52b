//! What `GET /v1/status` answers and `lockgate status` prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything there is to show of a gateway.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Version of the running binary.
    pub version: String,
    /// The process.
    pub pid: u32,
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
    /// What the process uses.
    pub process: Process,
    /// Reloads since the start.
    pub reloads: Reloads,
    /// Older processes that still serve the connections they had when this one took over, the
    /// latest first.
    pub previous: Vec<Previous>,
    /// Who drains the node as a whole; `null` = nobody.
    pub drain: Option<NodeDrain>,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Process {
    /// Files and sockets that are open.
    pub open_files: u64,
    /// How many may be (`RLIMIT_NOFILE`).
    pub max_open_files: u64,
    /// Memory in RAM, in bytes.
    pub resident_bytes: u64,
    /// Processor time so far, of all threads, user and system.
    pub cpu_seconds: f64,
}

/// Reloads since the start.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Reloads {
    /// Those taken over.
    pub ok: u64,
    /// Those refused.
    pub failed: u64,
    /// The last one.
    pub last: Option<Reload>,
}

/// A reload.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Reload {
    /// When (RFC 3339).
    pub time: String,
    /// `ok` or `failed`.
    pub result: String,
    /// What changed, or why nothing did.
    pub text: String,
}

/// An older process that still serves connections.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Previous {
    /// Its process id.
    pub pid: u32,
    /// Connections that it still has.
    pub connections: u32,
    /// For how long it has been draining.
    pub since_seconds: f64,
}

/// A drain of the node as a whole.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct NodeDrain {
    /// Who asked for it.
    pub who: String,
    /// Since when (RFC 3339).
    pub since: String,
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
    /// Other routers that were heard, each once, the last heard first.
    pub heard: Vec<Heard>,
    /// Adverts that were refused, or taken though they differ from what is configured here
    /// (`…_mismatch`), by reason; reasons that never came are left out.
    #[serde(default)]
    pub advert_errors: BTreeMap<String, u64>,
    /// The last of them.
    #[serde(default)]
    pub last_advert_error: Option<AdvertError>,
}

/// An advert that was refused, or taken though it differs from what is configured here.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AdvertError {
    /// What is wrong with it, as in `advert_errors`.
    pub reason: String,
    /// Whether it had no effect.
    pub refused: bool,
    /// The sender.
    pub from: String,
    /// When it came (RFC 3339).
    pub time: String,
    /// How long ago that was, in seconds.
    pub ago_seconds: f64,
    /// What was received, as the log had it last of this sender; `null` if it has not said so since
    /// the settings of the instance changed.
    pub received: Option<String>,
    /// What was expected.
    pub expected: Option<String>,
}

/// Another router of the same VRRP instance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Heard {
    /// Its address.
    pub address: String,
    /// The priority in its last advert.
    pub priority: u8,
    /// How long ago that was, in seconds.
    pub ago_seconds: f64,
    /// Adverts that were heard of it.
    pub adverts: u64,
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
    /// Connections at once; 0 = no limit of its own.
    pub max_connections: u32,
    /// Connections that ended before they were served, for a reason that lies here or with the
    /// client: refused, denied, limited, a failed handshake, no backend.
    pub refused_total: u64,
    /// Connections that have ended, by reason; those that never occurred are left out.
    pub closed: BTreeMap<String, u64>,
    /// TLS handshakes made.
    pub handshakes_total: u64,
    /// TLS handshakes that failed.
    pub handshake_failures_total: u64,
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
    /// Further backends that were tried after a failed connect.
    pub retries_total: u64,
    /// Whether a connection would find a backend.
    pub usable: bool,
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
    /// Time that the connections made took to be made, in sum.
    pub connect_seconds_total: f64,
    /// Age of the oldest connection, in seconds; `null` if there is none.
    pub oldest_seconds: Option<f64>,
    /// The last active check; `null` if none has ended.
    pub check: Option<Check>,
    /// What an operator has set, and not undone; `null` = nothing.
    pub set: Option<Set>,
}

/// An active check.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Check {
    /// `ok` or `failed`.
    pub result: String,
    /// Why it failed; empty if it did not.
    pub text: String,
    /// How long it took.
    pub seconds: f64,
    /// How long ago it ended.
    pub ago_seconds: f64,
}

/// A live change by an operator.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Set {
    /// `draining` or `disabled`; `null` = enabled.
    pub state: Option<String>,
    /// Instead of the weight in the file; `null` = that.
    pub weight: Option<u16>,
    /// Who set it last.
    pub by: String,
    /// When (RFC 3339).
    pub since: String,
}
