//! TLS towards clients: what a gateway that ends it agrees to, refuses, relays and tells.

mod alerts;
mod choosing;
mod cutting;
mod ending;
mod errors;
mod faults;
mod idling;
mod misbehaving;
mod observing;
mod records;
mod reencrypting;
mod relaying;
mod renewing;
mod resuming;
mod showing;

use std::io;
use std::net::SocketAddr;

use rustls::{ClientConfig, SupportedProtocolVersion};

use crate::harness::behind::{ServedStream, offering, serve_tls};
use crate::harness::tls::{Authority, Files, Store};
use crate::harness::{Config, Gateway, Server, eventually, unused_address};

/// The name that most tests ask for.
const NAME: &str = "www.example.com";
/// The name of servers that speak TLS themselves.
const BEHIND: &str = "behind.example.com";

/// A gateway that shows one certificate, for [`NAME`].
struct Site {
    gateway: Gateway,
    address: SocketAddr,
    client: ClientConfig,
    authority: Authority,
    files: Files,
    store: Store,
}

impl Site {
    /// Before one server.
    fn before(server: &Server) -> Self {
        Self::new(server, "", "")
    }

    /// With lines of `[[listener]]` and of `[listener.tls]`.
    fn new(server: &Server, listener: &str, tls: &str) -> Self {
        let (address, authority, store) =
            (unused_address(), Authority::new("authority"), Store::new());
        let files = store.put("site", &authority.issue(&[NAME]));
        let config =
            Config::new(address).listener(listener).tls(&[&files], tls).backend(server, "");
        let gateway = Gateway::start(config);
        Self { gateway, address, client: authority.client(), authority, files, store }
    }

    /// Before servers with certificates of the same authority, with lines of `[pool.app]` and of
    /// `[pool.app.tls]`.
    fn before_tls(authority: Authority, servers: &[&Server], pool: &str, tls: &str) -> Self {
        let (address, store) = (unused_address(), Store::new());
        let files = store.put("site", &authority.issue(&[NAME]));
        let ca = store.file("ca.pem", authority.pem());
        let config = Config::new(address).tls(&[&files], "").pool(pool);
        let config = servers.iter().fold(config, |config, server| config.backend(server, ""));
        let gateway = Gateway::start(format!("{config}[pool.app.tls]\nca = {ca:?}\n{tls}\n"));
        Self { gateway, address, client: authority.client(), authority, files, store }
    }

    /// Before one that has a certificate for [`BEHIND`], and speaks these versions.
    fn before_one(
        versions: &[&'static SupportedProtocolVersion],
        serve: impl Fn(ServedStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> (Self, Server) {
        let authority = Authority::new("authority");
        let config = offering(&authority.issue(&[BEHIND]), versions);
        let server = serve_tls("behind", unused_address(), config, serve);
        let site = Self::before_tls(authority, &[&server], "", &format!("sni = \"{BEHIND}\""));
        (site, server)
    }

    #[track_caller]
    fn await_failures(&self, reason: &str, count: usize) {
        await_failures(&self.gateway, reason, count);
    }
}

/// Handshakes that failed for this reason.
fn failures(gateway: &Gateway, reason: &str) -> f64 {
    let labels = [("listener", "web"), ("reason", reason)];
    gateway.metric("lockgate_tls_handshake_failures_total", &labels)
}

/// Waits for so many handshakes that failed for this reason: clients are told before it is counted.
#[track_caller]
fn await_failures(gateway: &Gateway, reason: &str, count: usize) {
    let count = count as f64;
    eventually(&format!("{count} failures: {reason}"), || failures(gateway, reason) == count);
}

/// Handshakes that succeeded.
fn handshakes(gateway: &Gateway) -> f64 {
    gateway.metric("lockgate_tls_handshakes_total", &[("listener", "web")])
}
