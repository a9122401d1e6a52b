//! Clients that mean harm: crowds that say nothing, that drip, that never read, that reset in every
//! phase, that only half open. Each has a price in memory, which is stated here with a generous
//! margin; each ends in time; and whoever behaves is served meanwhile.

mod crowds;
mod half_open;

use std::net::SocketAddr;

use crate::harness::tls::{Authority, Store, visit_tls};
use crate::harness::{Config, Gateway, Launch, Server, unused_address, visit};

const NAME: &str = "www.example.com";

/// A gateway with a listener of each kind, before one server.
struct Site {
    gateway: Gateway,
    plain: SocketAddr,
    tls: SocketAddr,
    passed: SocketAddr,
    redirect: SocketAddr,
    client: rustls::ClientConfig,
    _store: Store,
}

impl Site {
    /// `client_timeout`, in seconds, is that of all listeners.
    fn before(server: &Server, client_timeout: u32) -> Self {
        let [plain, tls, passed, redirect] = std::array::from_fn(|_| unused_address());
        let (authority, store) = (Authority::new("authority"), Store::new());
        let files = store.put("site", &authority.issue(&[NAME]));
        let timeout = format!("client_timeout = \"{client_timeout}s\"");
        let config = Config::new(tls).tls(&[&files], "").listener(&timeout).backend(server, "");
        let others = format!(
            "[[listener]]\nname = \"plain\"\nbind = \"{plain}\"\npool = \"app\"\n{timeout}\n\
             [[listener]]\nname = \"passed\"\nbind = \"{passed}\"\npool = \"app\"\n{timeout}\n\
             protocol = \"tls_passthrough\"\n\
             [[listener]]\nname = \"redirect\"\nbind = \"{redirect}\"\n{timeout}\n\
             protocol = \"redirect\"\n"
        );
        let gateway = Launch::new(format!("{config}{others}")).start();
        let client = authority.client();
        Self { gateway, plain, tls, passed, redirect, client, _store: store }
    }

    /// Whoever behaves is served, in the clear and with TLS.
    fn serves(&self, server: &str) {
        assert_eq!(visit(self.plain).unwrap(), server);
        assert_eq!(visit_tls(&self.client, NAME, self.tls).unwrap().greeting, server);
    }
}
