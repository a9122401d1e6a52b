//! The world as workers see it: immutable, published as a whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use crate::guard::Guard;
use crate::pool::Pool;
use crate::redirect::Challenges;
use crate::relay::Limits;
use crate::route::{Asked, Routes};
use crate::stats::{ListenerStats, PerWorker};
use crate::tls::server::Server;

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
    /// What clients speak.
    pub protocol: Protocol,
    /// Where connections go, by what they say first and where they come from.
    pub routes: Routes<Arc<Pool>>,
    /// Where those go that no route is for; `None` = they are refused.
    pub pool: Option<Arc<Pool>>,
    /// Connections at once; 0 = no limit of its own.
    pub max_connections: u32,
    /// What it takes to come in; `None` = nothing.
    pub guard: Option<Guard>,
    /// Longest time from accept to the end of the PROXY header and of the TLS handshake.
    pub client_timeout: Duration,
    /// Longest time that the first bytes of a client are waited for, where a route asks for them;
    /// `None` = none does.
    pub first_bytes_timeout: Option<Duration>,
    /// How long its connections may be silent.
    pub limits: Limits,
    /// What one generation hands on to the next.
    pub meters: Arc<ListenerMeters>,
}

impl Listener {
    /// Where a client goes; `None` = it is refused.
    pub fn route(&self, asked: &Asked<'_>) -> Option<&Arc<Pool>> {
        self.routes.find(asked).or(self.pool.as_ref())
    }
}

/// What the clients of a listener speak.
#[derive(Debug)]
pub enum Protocol {
    /// Anything: it is passed on as it is.
    Tcp,
    /// TLS, which ends here.
    Tls {
        /// The server's side of it.
        server: Server,
        /// Seconds that handshakes took.
        handshake_seconds: metrics::Histogram,
    },
    /// TLS, which is passed on as it is: only its ClientHello is read.
    TlsPassthrough,
    /// HTTP, which is sent to HTTPS.
    Redirect(Option<Challenges>),
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
