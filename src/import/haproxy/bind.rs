//! `bind` lines: where a listener listens, and its TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::super::Files;
use super::super::ledger::{Id, Kind, Ledger};
use super::super::model::{ClientAuth, Tls};
use super::super::{pattern, port_range};
use super::known;
use super::sections::Statement;
use super::settings::{Global, MILLISECOND, below};
use crate::config::accepts;

/// What a line says.
#[derive(Clone, Debug, Default)]
pub(super) struct Bind {
    pub(super) id: Id,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) tls: Option<Tls>,
    pub(super) accept_proxy: bool,
    pub(super) max_connections: Option<u32>,
    /// `tcp-ut`
    pub(super) user_timeout: Option<Duration>,
    /// It is for some clients only, in a way that lockgate cannot tell.
    pub(super) is_narrower: bool,
}

/// Words that have another one after them.
const WITH_VALUE: [&str; 44] = [
    "crt",
    "crt-list",
    "ca-file",
    "crl-file",
    "verify",
    "alpn",
    "ciphers",
    "ciphersuites",
    "ssl-min-ver",
    "ssl-max-ver",
    "name",
    "interface",
    "maxconn",
    "backlog",
    "nice",
    "process",
    "thread",
    "shards",
    "tcp-ut",
    "id",
    "mss",
    "curves",
    "ecdhe",
    "sigalgs",
    "client-sigalgs",
    "user",
    "group",
    "mode",
    "uid",
    "gid",
    "level",
    "namespace",
    "npn",
    "tls-ticket-keys",
    "ca-verify-file",
    "crt-ignore-err",
    "ca-ignore-err",
    "ca-sign-file",
    "ca-sign-pass",
    "severity-output",
    "proto",
    "guid-prefix",
    "default-crt",
    "ocsp-update",
];

/// Words of `bind` whose values matter together.
#[derive(Debug, Default)]
struct Words {
    is_tls: bool,
    no_tls12: bool,
    certificates: Vec<String>,
    verify: Option<String>,
    ca: Option<String>,
    crl: Option<String>,
    ciphers: Option<(String, Id)>,
    ciphersuites: Option<(String, Id)>,
    tls: Tls,
}

/// Reads a line. `None` if nothing of it can be carried over.
pub(super) fn bind(
    statement: &Statement,
    is_http: bool,
    global: &Global,
    files: &dyn Files,
    ledger: &mut Ledger,
) -> Option<Bind> {
    let id = statement.id;
    let mut bind = Bind { id, ..Bind::default() };
    let mut words = Words {
        ciphers: global.ciphers.clone(),
        ciphersuites: global.ciphersuites.clone(),
        ..Words::default()
    };
    for (options, from) in &global.bind_options {
        read(options, *from, &mut bind, &mut words, global, ledger);
    }
    let rest = statement.words.get(2..).unwrap_or_default();
    // An IPv6 socket takes IPv4 as well (net.ipv6.bindv6only = 0), unless it is told not to.
    let both_families = !rest.iter().any(|word| word == "v6only");
    for text in statement.word(1).split(',') {
        match addresses(text, both_families) {
            Ok(found) => bind.addresses.extend(found),
            Err(why) => ledger.lost(id, format!("{text}: {why}")),
        }
    }
    read(rest, id, &mut bind, &mut words, global, ledger);
    if bind.addresses.is_empty() {
        ledger.lost_unless_told(id, "no address is left of it");
        return None;
    }
    if words.is_tls {
        bind.tls = Some(tls(words, is_http, id, global.crt_base.as_ref(), files, ledger)?);
    }
    ledger.carried(id);
    Some(bind)
}

fn read(
    rest: &[String],
    id: Id,
    bind: &mut Bind,
    words: &mut Words,
    global: &Global,
    ledger: &mut Ledger,
) {
    let mut rest = rest.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        let value = if WITH_VALUE.contains(&word) { rest.next().unwrap_or_default() } else { "" };
        match word {
            "ssl" => words.is_tls = true,
            "crt" | "default-crt" => {
                words.certificates.push(below(global.crt_base.as_ref(), value));
            }
            "crt-list" => words.certificates.push(format!("list:{value}")),
            "ca-file" => words.ca = Some(below(global.ca_base.as_ref(), value)),
            "crl-file" => words.crl = Some(below(global.ca_base.as_ref(), value)),
            "verify" => words.verify = Some(value.to_owned()),
            "alpn" => {
                words.tls.alpn = value.split(',').map(|name| name.trim().to_owned()).collect();
            }
            "ciphers" => words.ciphers = Some((value.to_owned(), id)),
            "ciphersuites" => words.ciphersuites = Some((value.to_owned(), id)),
            "strict-sni" => words.tls.strict_sni = true,
            "no-tls-tickets" => words.tls.no_tickets = true,
            "ssl-min-ver" => match value {
                "TLSv1.3" => words.no_tls12 = true,
                "TLSv1.2" => words.no_tls12 = false,
                _ => ledger.changed(id, format!("{word} {value}: the least is TLS 1.2")),
            },
            "no-tlsv12" | "force-tlsv13" => words.no_tls12 = true,
            "no-tlsv13" | "ssl-max-ver" | "force-tlsv12" | "force-tlsv11" | "force-tlsv10" => {
                let text = format!("{word} {value}");
                let text = text.trim_end();
                ledger.changed(id, format!("{text}: TLS 1.2 and 1.3 are spoken"));
            }
            "name" | "v4v6" | "v6only" => {}
            "interface" | "namespace" => {
                bind.is_narrower = true;
                let why = format!(
                    "{word} {value}: write the addresses of that interface into bind instead"
                );
                ledger.closed(id, why);
            }
            "maxconn" => bind.max_connections = value.parse().ok().filter(|&most| most > 0),
            "tcp-ut" => bind.user_timeout = pattern::duration(value, MILLISECOND),
            "accept-proxy" => bind.accept_proxy = true,
            "accept-netscaler-cip" => {
                bind.is_narrower = true;
                ledger.closed(id, format!("{word}: only the PROXY protocol is understood"));
            }
            word => {
                let text = format!("{word} {value}");
                let text = text.trim_end();
                match known::bind(word) {
                    Some((Kind::Needless, why)) => ledger.needless(id, format!("{text}: {why}")),
                    Some((_, why)) => ledger.lost(id, format!("{text}: {why}")),
                    // The value of a word that is not known is a word that is not known.
                    None => ledger.lost(id, format!("{text}: lockgate import does not know this")),
                }
            }
        }
    }
}

/// `ADDRESS:PORT`, `ADDRESS:FIRST-LAST`, and what stands for all addresses.
fn addresses(text: &str, both_families: bool) -> Result<Vec<SocketAddr>, String> {
    let (family, rest) = match text.split_once('@') {
        Some(("ipv4" | "tcp4", rest)) => (Some(true), rest),
        Some(("ipv6" | "tcp6", rest)) => (Some(false), rest),
        Some(("tcp", rest)) => (None, rest),
        Some(_) => return Err("lockgate listens on TCP only".to_owned()),
        None => (None, text),
    };
    if rest.starts_with('/') {
        return Err("lockgate listens on TCP only".to_owned());
    }
    let (host, ports) = rest.rsplit_once(':').ok_or("it has no port")?;
    let ports = port_range(ports)?;
    let v4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let all_addresses = |both_families| match both_families {
        true => vec![Ipv6Addr::UNSPECIFIED.into(), v4],
        false => vec![Ipv6Addr::UNSPECIFIED.into()],
    };
    let ips = match host.trim_start_matches('[').trim_end_matches(']') {
        "" | "*" if family == Some(false) => all_addresses(both_families),
        "" | "*" => vec![v4],
        "::" => all_addresses(both_families),
        "localhost" => vec![Ipv4Addr::LOCALHOST.into()],
        host => vec![
            host.parse()
                .map_err(|_| "a name: write the addresses that it stands for".to_owned())?,
        ],
    };
    let mut found = Vec::new();
    for port in ports {
        for ip in &ips {
            let address = SocketAddr::new(*ip, port);
            found.push(accepts::bind(&address.to_string())?);
        }
    }
    if found.is_empty() {
        return Err("the range of ports is empty".to_owned());
    }
    Ok(found)
}

fn tls(
    words: Words,
    is_http: bool,
    id: Id,
    crt_base: Option<&String>,
    files: &dyn Files,
    ledger: &mut Ledger,
) -> Option<Tls> {
    let mut tls = words.tls;
    tls.only_13 = words.no_tls12;
    if is_http && tls.alpn.iter().any(|name| name == "h2") {
        tls.alpn.retain(|name| name != "h2");
        ledger.changed(id, "alpn h2: clients speak what the backends speak, which is HTTP/1.1");
    }
    for given in &words.certificates {
        certificates(given, id, &mut tls, crt_base, files, ledger);
    }
    if tls.certificates.is_empty() {
        ledger.lost(id, "there is no certificate: name one in [listener.tls]");
        return None;
    }
    for (list, from) in [words.ciphersuites, words.ciphers].into_iter().flatten() {
        tls.ciphers.extend(super::super::names::suites(&list, from, ledger));
    }
    let wants = words.verify.as_deref().unwrap_or("none");
    if wants != "none" {
        match words.ca {
            Some(ca) => {
                let required = wants == "required";
                tls.client_auth = Some(ClientAuth { required, ca, crl: words.crl });
            }
            None => {
                ledger.lost(id, "verify: the authorities (ca-file) are missing");
                return None;
            }
        }
    }
    Some(tls)
}

/// The files that `crt` stands for: one, those of a directory, or those in a list.
fn certificates(
    given: &str,
    id: Id,
    tls: &mut Tls,
    crt_base: Option<&String>,
    files: &dyn Files,
    ledger: &mut Ledger,
) {
    let mut paths = Vec::new();
    if let Some(list) = given.strip_prefix("list:") {
        match files.read(Path::new(list)) {
            Ok(text) => {
                for line in text.lines().map(str::trim) {
                    let mut words = line.split_whitespace();
                    match words.next() {
                        Some(first) if !first.starts_with('#') => {
                            paths.push(below(crt_base, first));
                        }
                        _ => continue,
                    }
                    if words.next().is_some() {
                        let why = format!("{list}: a certificate is for the names in it");
                        ledger.changed(id, why);
                    }
                }
            }
            Err(error) => ledger.lost(id, format!("{list} cannot be read: {error}")),
        }
    } else if let Ok(names) = files.list(Path::new(given)) {
        let is_other = |name: &String| {
            [".key", ".issuer", ".ocsp", ".sctl", ".dh"].iter().any(|end| name.ends_with(end))
        };
        let names = names.into_iter().filter(|name| !is_other(name) && !name.starts_with('.'));
        paths.extend(names.map(|name| format!("{}/{name}", given.trim_end_matches('/'))));
    } else {
        paths.push(given.to_owned());
    }
    for path in paths {
        if tls.certificates.iter().any(|(cert, _)| *cert == path) {
            continue;
        }
        if !path.starts_with('/') {
            ledger.changed(id, format!("{path} is relative to where lockgate is started"));
        }
        let key = format!("{path}.key");
        // As a rule the key is in the same file.
        let is_apart = files.read(Path::new(&path)).is_ok_and(|pem| !pem.contains("PRIVATE KEY"))
            && files.read(Path::new(&key)).is_ok();
        let ocsp = format!("{path}.ocsp");
        if tls.certificates.is_empty() && files.read(Path::new(&ocsp)).is_ok() {
            tls.ocsp = Some(ocsp);
        }
        tls.certificates.push((path.clone(), if is_apart { key } else { path }));
    }
    if tls.certificates.len() > 1 {
        tls.ocsp = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_haproxy_listens() {
        for (text, is_v6_only, expected) in [
            (":443", false, Ok(&["0.0.0.0:443"][..])),
            ("*:443", false, Ok(&["0.0.0.0:443"])),
            (":::443", false, Ok(&["[::]:443", "0.0.0.0:443"])),
            ("[::]:443", false, Ok(&["[::]:443", "0.0.0.0:443"])),
            (":::443", true, Ok(&["[::]:443"])),
            ("ipv6@:443", false, Ok(&["[::]:443", "0.0.0.0:443"])),
            ("ipv6@*:443", true, Ok(&["[::]:443"])),
            ("::1:443", false, Ok(&["[::1]:443"])),
            ("10.0.0.1:80-81", false, Ok(&["10.0.0.1:80", "10.0.0.1:81"])),
            ("localhost:80", false, Ok(&["127.0.0.1:80"])),
            ("udp@:53", false, Err(())),
            ("/run/x", false, Err(())),
        ] {
            let found = addresses(text, !is_v6_only).map_err(|_| ());
            let found = found.map(|all| all.iter().map(SocketAddr::to_string).collect::<Vec<_>>());
            let expected = expected.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
            assert_eq!(found, expected, "{text}");
        }
    }
}
