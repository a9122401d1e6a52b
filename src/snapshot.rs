//! The world as workers see it: immutable, published as a whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use crate::pool::Pool;
use crate::stats::{ListenerStats, PerWorker};

/// One generation of the configuration. A connection keeps the parts that it began with.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts publications, from 1.
    pub generation: u64,
    /// Connections at once, over all listeners.
    pub max_connections: u32,
    /// Write access records.
    pub access_log: bool,
    /// By the order of the file.
    pub listeners: Vec<Arc<Listener>>,
}

/// Where connections come in, and what becomes of them.
#[derive(Debug)]
pub struct Listener {
    /// Unique name.
    pub name: Arc<str>,
    /// Where it listens.
    pub bind: Vec<SocketAddr>,
    /// Where connections go; `None` = they are refused.
    pub pool: Option<Arc<Pool>>,
    /// Connections at once; 0 = no limit of its own.
    pub max_connections: u32,
    /// Longest time without a byte.
    pub idle_timeout: Duration,
    /// Longest time without a byte after one side has sent FIN.
    pub half_close_timeout: Duration,
    /// What one generation hands on to the next.
    pub meters: Arc<ListenerMeters>,
}

/// What is counted of a listener.
#[derive(Debug)]
pub struct ListenerMeters {
    /// Counts of each worker.
    pub stats: PerWorker<ListenerStats>,
    /// Connections now.
    pub active: AtomicU32,
    /// Seconds from accept to the end.
    pub duration_seconds: metrics::Histogram,
}
