//! Configurations of one listener, `web`, and one pool, `app`.

use std::fmt;
use std::net::SocketAddr;

use super::Server;
use super::tls::Files;

/// What most tests need; a test that needs more appends it to the text.
#[derive(Clone, Debug)]
pub struct Config {
    bind: SocketAddr,
    runtime: Vec<String>,
    listener: Vec<String>,
    tls: Vec<String>,
    pool: Vec<String>,
    backends: Vec<String>,
}

impl Config {
    /// A listener at `bind`, and a pool without backends yet.
    pub fn new(bind: SocketAddr) -> Self {
        Self {
            bind,
            runtime: vec![],
            listener: vec![],
            tls: vec![],
            pool: vec![],
            backends: vec![],
        }
    }

    /// Adds lines to `[runtime]`.
    pub fn runtime(mut self, lines: &str) -> Self {
        self.runtime.push(lines.to_owned());
        self
    }

    /// Adds lines to `[[listener]]`.
    pub fn listener(mut self, lines: &str) -> Self {
        self.listener.push(lines.to_owned());
        self
    }

    /// Makes the listener one that ends TLS, with these certificates and with lines of
    /// `[listener.tls]`.
    pub fn tls(mut self, certificates: &[&Files], lines: &str) -> Self {
        let pairs: Vec<_> = certificates
            .iter()
            .map(|Files { cert, key }| format!("{{ cert = {cert:?}, key = {key:?} }}"))
            .collect();
        self.listener.push("protocol = \"tls\"".to_owned());
        let certificates = format!("certificates = [{}]", pairs.join(", "));
        self.tls = vec!["[listener.tls]".to_owned(), certificates, lines.to_owned()];
        self
    }

    /// Adds lines to `[pool.app]`.
    pub fn pool(mut self, lines: &str) -> Self {
        self.pool.push(lines.to_owned());
        self
    }

    /// Adds a server as a backend of its name, with further lines.
    pub fn backend(self, server: &Server, lines: &str) -> Self {
        self.backend_at(server.name(), &server.address().to_string(), lines)
    }

    /// Adds any address as a backend.
    pub fn backend_at(mut self, name: &str, address: &str, lines: &str) -> Self {
        self.backends.push(format!("name = \"{name}\"\naddress = \"{address}\"\n{lines}"));
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[runtime]\n{}", self.runtime.join("\n"))?;
        writeln!(f, "[[listener]]\nname = \"web\"\nbind = [\"{}\"]\npool = \"app\"", self.bind)?;
        writeln!(f, "{}\n{}", self.listener.join("\n"), self.tls.join("\n"))?;
        writeln!(f, "[pool.app]\n{}", self.pool.join("\n"))?;
        self.backends.iter().try_for_each(|lines| writeln!(f, "[[pool.app.backend]]\n{lines}"))
    }
}
