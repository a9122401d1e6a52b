//! Blocks around each other, and what of them holds inside.

use std::path::Path;
use std::time::Duration;

use super::super::ledger::Ledger;
use super::super::model::{ClientAuth, Limit, PoolTls, Tls};
use super::super::networks::{Access, Networks};
use super::super::tree::Node;
use super::super::{names, pattern};

const SECOND: Duration = Duration::from_secs(1);

/// Blocks, the outermost first.
#[derive(Clone, Debug)]
pub(super) struct Scope<'a> {
    pub(super) blocks: Vec<&'a [Node]>,
    /// The directory of the main file, which files are relative to.
    pub(super) base: &'a Path,
}

impl<'a> Scope<'a> {
    /// The same with a block in it.
    pub(super) fn within(&self, node: &'a Node) -> Self {
        let mut blocks = self.blocks.clone();
        blocks.push(node.children());
        Self { blocks, base: self.base }
    }

    /// The directives of these names that hold: those of the innermost block that has any.
    pub(super) fn all(&self, names: &[&str]) -> Vec<&'a Node> {
        for block in self.blocks.iter().rev() {
            let found: Vec<&Node> =
                block.iter().filter(|node| names.contains(&node.name())).collect();
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    /// The last of them.
    pub(super) fn find(&self, name: &str) -> Option<&'a Node> {
        self.all(&[name]).pop()
    }

    /// Its value, which is carried over.
    pub(super) fn value(&self, name: &str, ledger: &mut Ledger) -> Option<&'a str> {
        let node = self.find(name)?;
        ledger.carried(node.id);
        Some(node.word(1))
    }

    /// The same as a time; `None` for what is none.
    pub(super) fn time(&self, name: &str, ledger: &mut Ledger) -> Option<Duration> {
        let node = self.find(name)?;
        let found = pattern::duration(node.word(1), SECOND).filter(|time| !time.is_zero());
        match found {
            Some(_) => ledger.carried(node.id),
            None => ledger.lost(node.id, "it is not a duration above zero"),
        }
        found
    }

    /// Whether it is on.
    pub(super) fn is_on(&self, name: &str, ledger: &mut Ledger) -> bool {
        self.value(name, ledger) == Some("on")
    }

    /// The same as the path of a file.
    pub(super) fn path(&self, name: &str, ledger: &mut Ledger) -> Option<String> {
        let value = self.value(name, ledger)?;
        Some(self.below(value))
    }

    fn below(&self, path: &str) -> String {
        self.base.join(path).to_string_lossy().into_owned()
    }

    /// `ssl_certificate` and what belongs to it. `None` without a certificate.
    pub(super) fn tls(&self, ledger: &mut Ledger) -> Option<Tls> {
        let mut tls = Tls::default();
        let certificates = self.all(&["ssl_certificate"]);
        let keys = self.all(&["ssl_certificate_key"]);
        for (cert, key) in certificates.iter().zip(&keys) {
            let (file, key_file) = (cert.word(1), key.word(1));
            if [file, key_file].iter().any(|file| file.contains('$') || file.contains(':')) {
                ledger.lost(cert.id, "a certificate is a file: write the files it may stand for");
                ledger.lost_unless_told(key.id, "it belongs to that certificate");
                continue;
            }
            ledger.carried(cert.id);
            ledger.carried(key.id);
            tls.certificates.push((self.below(file), self.below(key_file)));
        }
        if tls.certificates.is_empty() {
            return None;
        }
        if let Some(protocols) = self.find("ssl_protocols") {
            tls.only_13 = !protocols.rest().iter().any(|word| word != "TLSv1.3");
            let old = ["TLSv1", "TLSv1.1", "SSLv2", "SSLv3"];
            let has_old = protocols.rest().iter().any(|word| old.contains(&word.as_str()));
            let has_13 = protocols.rest().iter().any(|word| word == "TLSv1.3");
            if has_old || !has_13 {
                ledger.changed(protocols.id, "TLS 1.2 and 1.3 are spoken");
            } else {
                ledger.carried(protocols.id);
            }
        }
        if let Some(ciphers) = self.find("ssl_ciphers") {
            tls.ciphers = names::suites(ciphers.word(1), ciphers.id, ledger);
        }
        if let Some(alpn) = self.find("ssl_alpn") {
            tls.alpn = alpn.rest().to_vec();
            ledger.carried(alpn.id);
        }
        tls.no_tickets = self.value("ssl_session_tickets", ledger) == Some("off");
        if tls.certificates.len() == 1 {
            tls.ocsp = self.path("ssl_stapling_file", ledger);
        }
        self.client_auth(&mut tls, ledger)?;
        Some(tls)
    }

    /// `None` if clients are verified in a way that cannot be carried over.
    fn client_auth(&self, tls: &mut Tls, ledger: &mut Ledger) -> Option<()> {
        let Some(verify) = self.find("ssl_verify_client") else { return Some(()) };
        let required = match verify.word(1) {
            "on" => true,
            "optional" => false,
            "off" => {
                ledger.carried(verify.id);
                return Some(());
            }
            _ => {
                ledger.lost(verify.id, "a certificate that nobody verifies is not asked for");
                return Some(());
            }
        };
        let Some(ca) = self.path("ssl_client_certificate", ledger) else {
            ledger.lost(verify.id, "the authorities (ssl_client_certificate) are missing");
            return None;
        };
        ledger.carried(verify.id);
        let crl = self.path("ssl_crl", ledger);
        tls.client_auth = Some(ClientAuth { required, ca, crl });
        Some(())
    }

    /// TLS towards the backends of an upstream, whose name is `target`.
    pub(super) fn pool_tls(&self, target: Option<&str>, ledger: &mut Ledger) -> PoolTls {
        let is_verified = self.is_on("proxy_ssl_verify", ledger);
        let client = self.path("proxy_ssl_certificate", ledger);
        let key = self.path("proxy_ssl_certificate_key", ledger);
        let sni = self.find("proxy_ssl_name").and_then(|node| match node.word(1) {
            "$ssl_preread_server_name" | "$ssl_server_name" => {
                ledger.carried(node.id);
                Some("client".to_owned())
            }
            "$host" | "$http_host" => {
                ledger.changed(node.id, "the name that the client asks for in TLS, not in HTTP");
                Some("client".to_owned())
            }
            name if name.contains('$') => {
                ledger.lost(node.id, "the name is that of the backend's address");
                None
            }
            name => {
                ledger.carried(node.id);
                Some(name.to_owned())
            }
        });
        let is_name_sent = self.is_on("proxy_ssl_server_name", ledger);
        // Its default is the host of proxy_pass: for an upstream, one name for all its servers.
        let of_upstream = target
            .filter(|_| self.find("proxy_ssl_name").is_none() && (is_verified || is_name_sent));
        let sni = sni.or_else(|| of_upstream.map(str::to_owned));
        if let Some(verify) = self.find("proxy_ssl_verify").filter(|_| is_verified && !is_name_sent)
        {
            let why = "the name that is verified is sent in the handshake as well";
            ledger.changed(verify.id, why);
        }
        let authorities = self.find("proxy_ssl_trusted_certificate");
        let ca = if is_verified {
            self.path("proxy_ssl_trusted_certificate", ledger)
        } else {
            if let Some(node) = authorities {
                ledger.needless(node.id, "proxy_ssl_verify is off");
            }
            None
        };
        PoolTls { ca, no_verify: !is_verified, sni, client: client.zip(key) }
    }

    /// `allow` and `deny`.
    pub(super) fn access(&self, ledger: &mut Ledger) -> (Vec<String>, Vec<String>) {
        let mut access = Access::default();
        for rule in self.all(&["allow", "deny"]) {
            let is_let_in = rule.name() == "allow";
            let of = match rule.word(1) {
                "all" => Some(Networks::all()),
                "unix:" => {
                    ledger.needless(rule.id, "lockgate listens on TCP only");
                    continue;
                }
                text => Networks::parse(text),
            };
            match of {
                Some(of) => {
                    ledger.carried(rule.id);
                    access.rule(&of, is_let_in);
                }
                None => {
                    ledger.lost(rule.id, "it is no network");
                    // Whoever it may be: a rule that lets in is stricter without it.
                    if !is_let_in {
                        access.rule(&Networks::all(), false);
                    }
                }
            }
        }
        access.lists()
    }

    /// `limit_conn`, and a maximum for the whole listener.
    pub(super) fn limit(&self, addresses: usize, ledger: &mut Ledger) -> (Limit, Option<u32>) {
        let is_dry_run = self.is_on("limit_conn_dry_run", ledger);
        let (mut limit, mut most) = (Limit { is_dry_run, ..Limit::default() }, None);
        for node in self.all(&["limit_conn"]) {
            let Ok(number) = node.word(2).parse::<u32>() else {
                ledger.lost(node.id, "it has no number");
                continue;
            };
            let zone = self.zone(node.word(1));
            let key = zone.and_then(|zone| ZoneKey::read(zone.word(1)));
            match zone.map(|zone| zone.id).zip(key) {
                Some((id, key)) if key.by_client => {
                    limit.connections =
                        Some(limit.connections.map_or(number, |n: u32| n.min(number)));
                    limit.from.get_or_insert(node.id);
                    ledger.carried(node.id);
                    ledger.carried(id);
                    if key.by_listener && addresses > 1 {
                        let why = "a source is counted over all addresses of this listener";
                        ledger.changed(node.id, why);
                    } else if !key.by_listener && self.users_of_zone(node.word(1)) > 1 {
                        ledger.changed(
                            node.id,
                            "a source is counted by each listener, not over all that share the \
                             zone",
                        );
                    }
                }
                Some((id, _)) => {
                    ledger.carried(id);
                    if is_dry_run {
                        ledger.needless(node.id, "limit_conn_dry_run: it refuses nobody");
                        continue;
                    }
                    most = Some(most.map_or(number, |most: u32| most.min(number)));
                    ledger.carried(node.id);
                    if addresses > 1 {
                        ledger.changed(node.id, "all addresses of this listener share it");
                    }
                }
                _ => ledger.lost(node.id, "connections are counted by address, or by listener"),
            }
        }
        (limit, most)
    }

    /// How many servers around here count in a zone.
    fn users_of_zone(&self, name: &str) -> usize {
        let uses = |block: &[Node]| {
            let mut limits = block.iter().filter(|node| node.name() == "limit_conn").peekable();
            limits.peek().is_some().then(|| limits.any(|node| node.word(1) == name))
        };
        let Some((_, around)) = self.blocks.split_last() else { return 0 };
        let inherited = around.iter().rev().find_map(|block| uses(block)).unwrap_or(false);
        let servers = around.iter().flat_map(|block| block.iter());
        servers
            .filter(|node| node.name() == "server")
            .filter(|server| uses(server.children()).unwrap_or(inherited))
            .count()
    }

    fn zone(&self, name: &str) -> Option<&'a Node> {
        let prefix = format!("zone={name}:");
        let nodes = self.blocks.iter().flat_map(|block| block.iter());
        nodes
            .filter(|node| node.name() == "limit_conn_zone")
            .find(|node| node.word(2).starts_with(&prefix))
    }

    /// A variable that is one text.
    pub(super) fn constant(&self, name: &str, ledger: &mut Ledger) -> Option<&'a str> {
        let nodes = self.blocks.iter().rev().flat_map(|block| block.iter());
        let mut sets = nodes.filter(|node| node.name() == "set" && node.word(1) == name);
        let node = sets.next().filter(|node| !node.word(2).contains('$'))?;
        ledger.carried(node.id);
        Some(node.word(2))
    }
}

/// What a zone of `limit_conn_zone` counts by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ZoneKey {
    by_client: bool,
    by_listener: bool,
}

impl ZoneKey {
    /// Reads a key. `None` if it has anything that lockgate does not count by.
    fn read(text: &str) -> Option<Self> {
        let mut key = Self::default();
        for variable in text.split('$').map(|part| part.trim_matches([':', '-', '_', '|', '/'])) {
            match variable.trim_matches(['{', '}']) {
                "" => {}
                "binary_remote_addr" | "remote_addr" => key.by_client = true,
                "server_name" | "server_port" | "server_addr" => key.by_listener = true,
                _ => return None,
            }
        }
        (key != Self::default()).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_zones_count_by() {
        for (text, expected) in [
            ("$binary_remote_addr", Some((true, false))),
            ("$remote_addr", Some((true, false))),
            ("$binary_remote_addr$server_port", Some((true, true))),
            ("$server_addr:$server_port", Some((false, true))),
            ("${binary_remote_addr}${server_port}", Some((true, true))),
            ("$server_name", Some((false, true))),
            ("$ssl_preread_server_name", None),
            ("$binary_remote_addr$geoip_country", None),
            ("", None),
        ] {
            let found = ZoneKey::read(text).map(|key| (key.by_client, key.by_listener));
            assert_eq!(found, expected, "{text}");
        }
    }
}
