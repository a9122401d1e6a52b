//! `server` lines: the backends of a pool, and what they say about the pool as a whole.

use std::time::Duration;

use super::super::ledger::{Id, Kind, Ledger};
use super::super::model::PoolTls;
use super::super::pattern;
use super::known;
use super::sections::Statement;
use super::settings::{Global, MILLISECOND, below};

/// What a line says, with that of `default-server` before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) id: Id,
    pub(super) name: String,
    /// As it is written.
    pub(super) address: String,
    /// Of a `server-template`: how many it makes.
    pub(super) template: Option<String>,
    pub(super) weight: Option<u16>,
    pub(super) max_connections: Option<u32>,
    pub(super) backup: bool,
    pub(super) disabled: bool,
    pub(super) slow_start: Option<Duration>,
    pub(super) send_proxy: Option<&'static str>,
    pub(super) source: Option<String>,
    pub(super) tls: Option<PoolTls>,
    pub(super) check: bool,
    pub(super) check_tls: bool,
    pub(super) check_name: Option<String>,
    pub(super) interval: Option<Duration>,
    pub(super) fast_interval: Option<Duration>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
    pub(super) port: Option<u16>,
    /// `tcp-ut`
    pub(super) user_timeout: Option<Duration>,
    /// `on-marked-down shutdown-sessions`
    pub(super) resets_on_down: bool,
    /// Failures of traffic that count.
    pub(super) error_limit: Option<u32>,
    /// What is said about TLS, whether it is spoken or not.
    wish: PoolTls,
    is_tls: bool,
    observes: bool,
}

/// Words that have another one after them.
const WITH_VALUE: [&str; 63] = [
    "weight",
    "maxconn",
    "minconn",
    "maxqueue",
    "inter",
    "fastinter",
    "downinter",
    "rise",
    "fall",
    "port",
    "addr",
    "slowstart",
    "cookie",
    "source",
    "interface",
    "ca-file",
    "crt",
    "crl-file",
    "verify",
    "verifyhost",
    "sni",
    "alpn",
    "check-sni",
    "check-alpn",
    "check-proto",
    "proto",
    "id",
    "observe",
    "error-limit",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "track",
    "redir",
    "resolvers",
    "init-addr",
    "resolve-prefer",
    "resolve-net",
    "resolve-opts",
    "pool-max-conn",
    "pool-purge-delay",
    "pool-low-conn",
    "max-reuse",
    "agent-port",
    "agent-inter",
    "agent-addr",
    "agent-send",
    "ciphers",
    "ciphersuites",
    "curves",
    "sigalgs",
    "tcp-ut",
    "namespace",
    "socks4",
    "log-proto",
    "ws",
    "proxy-v2-options",
    "ssl-min-ver",
    "ssl-max-ver",
    "npn",
    "usesrc",
    "guid",
    "init-state",
];

impl Server {
    /// Reads the words after the address.
    pub(super) fn read(&mut self, words: &[String], id: Id, global: &Global, ledger: &mut Ledger) {
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let value =
                if WITH_VALUE.contains(&word) { words.next().unwrap_or_default() } else { "" };
            if !self.word(word, value, id, global, ledger) {
                let text = format!("{word} {value}");
                let text = text.trim_end();
                match known::server(word) {
                    Some((Kind::Needless, why)) => ledger.needless(id, format!("{text}: {why}")),
                    Some((_, why)) => ledger.lost(id, format!("{text}: {why}")),
                    None => ledger.lost(id, format!("{text}: lockgate import does not know this")),
                }
            }
        }
        let mut tls = self.wish.clone();
        tls.no_verify |= tls.ca.is_none() && global.ssl_verify_none;
        self.tls = self.is_tls.then_some(tls);
    }

    fn word(
        &mut self,
        word: &str,
        value: &str,
        id: Id,
        global: &Global,
        ledger: &mut Ledger,
    ) -> bool {
        let time = pattern::duration(value, MILLISECOND).filter(|time| !time.is_zero());
        let path = |base| below(base, value);
        match word {
            "check" => self.check = true,
            "no-check" => self.check = false,
            "backup" => self.backup = true,
            "no-backup" => self.backup = false,
            "disabled" => self.disabled = true,
            "enabled" => self.disabled = false,
            "weight" => self.weight = value.parse().ok(),
            "maxconn" => self.max_connections = value.parse().ok(),
            "inter" => self.interval = time,
            "fastinter" => self.fast_interval = time,
            "downinter" => {
                ledger.changed(id, "downinter: a backend that is down is checked as others are");
            }
            "rise" => self.rise = value.parse().ok(),
            "fall" => self.fall = value.parse().ok(),
            "port" => self.port = value.parse().ok(),
            "addr" => {
                ledger.lost(id, format!("addr {value}: backends are checked where they serve"))
            }
            "slowstart" => self.slow_start = time,
            "send-proxy" => self.send_proxy = Some("v1"),
            "send-proxy-v2" => self.send_proxy = Some("v2"),
            "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => {
                self.send_proxy = Some("v2");
                ledger.changed(id, format!("{word}: the header says nothing of the client's TLS"));
            }
            "proxy-v2-options" => {
                ledger.lost(id, format!("{word} {value}: the header has no options"));
            }
            "no-send-proxy" | "no-send-proxy-v2" => self.send_proxy = None,
            "source" => {
                // An address, perhaps with a port, which cannot be chosen.
                let ip = value.rsplit_once(':').map_or(value, |(ip, _)| ip);
                self.source =
                    Some(ip.to_owned()).filter(|ip| !matches!(ip.as_str(), "0.0.0.0" | "*" | ""));
            }
            "ssl" => self.is_tls = true,
            "no-ssl" => self.is_tls = false,
            "ca-file" => {
                let ca = (value != "@system-ca").then(|| path(global.ca_base.as_ref()));
                self.wish.ca = ca;
            }
            "crt" => {
                let file = path(global.crt_base.as_ref());
                self.wish.client = Some((file.clone(), file));
            }
            "verify" => self.wish.no_verify = value == "none",
            "verifyhost" => self.wish.sni = Some(value.to_owned()),
            "sni" => self.sni(value, id, ledger),
            "check-ssl" => self.check_tls = true,
            "check-sni" => self.check_name = Some(value.to_owned()),
            "observe" => match value {
                "layer4" => self.observes = true,
                _ => ledger.changed(
                    id,
                    format!(
                        "observe {value}: answers are not looked at, only connections that fail"
                    ),
                ),
            },
            "tcp-ut" => self.user_timeout = time,
            "on-marked-down" if value == "shutdown-sessions" => self.resets_on_down = true,
            "error-limit" => self.error_limit = value.parse().ok(),
            _ => return false,
        }
        true
    }

    fn sni(&mut self, value: &str, id: Id, ledger: &mut Ledger) {
        let tls = &mut self.wish;
        let name = value.strip_prefix("str(").and_then(|rest| rest.strip_suffix(')'));
        match (value.split(',').next().unwrap_or(value), name) {
            (_, Some(name)) => tls.sni = Some(name.to_owned()),
            ("ssl_fc_sni" | "req.ssl_sni" | "req_ssl_sni", _) => {
                tls.sni = Some("client".to_owned())
            }
            ("req.hdr(host)" | "hdr(host)" | "req.hdr(Host)" | "hdr(Host)", _) => {
                tls.sni = Some("client".to_owned());
                ledger.changed(id, "sni: the name that the client asks for in TLS, not in HTTP");
            }
            _ => ledger.lost(id, format!("sni {value}: the name is that of the backend's address")),
        }
    }

    /// The authorities that are believed in checks.
    pub(super) fn check_ca(&self) -> Option<String> {
        self.wish.ca.clone().filter(|_| !self.wish.no_verify)
    }

    /// Whether failures of traffic count.
    pub(super) fn observes(&self) -> bool {
        self.observes
    }
}

/// Reads the lines of a proxy.
pub(super) fn servers(
    statements: &[&Statement],
    global: &Global,
    ledger: &mut Ledger,
) -> Vec<Server> {
    let mut defaults: Vec<&Statement> = Vec::new();
    let mut servers = Vec::new();
    for statement in statements {
        match statement.word(0) {
            "default-server" => {
                ledger.carried(statement.id);
                defaults.push(statement);
            }
            "server" => {
                let mut server = Server {
                    id: statement.id,
                    name: statement.word(1).to_owned(),
                    address: statement.word(2).to_owned(),
                    ..Server::default()
                };
                for default in &defaults {
                    let words = default.words.get(1..).unwrap_or_default();
                    server.read(words, default.id, global, ledger);
                }
                let words = statement.words.get(3..).unwrap_or_default();
                server.read(words, statement.id, global, ledger);
                servers.push(server);
            }
            "server-template" => {
                let mut server = Server {
                    id: statement.id,
                    name: statement.word(1).to_owned(),
                    address: statement.word(3).to_owned(),
                    template: Some(statement.word(2).to_owned()),
                    ..Server::default()
                };
                for default in &defaults {
                    let words = default.words.get(1..).unwrap_or_default();
                    server.read(words, default.id, global, ledger);
                }
                let words = statement.words.get(4..).unwrap_or_default();
                server.read(words, statement.id, global, ledger);
                servers.push(server);
            }
            _ => {}
        }
    }
    servers
}
