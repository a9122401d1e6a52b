//! `listen`: where a server listens, and how.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::ledger::{Id, Ledger};
use super::super::port_range;
use super::super::tree::Node;
use crate::config::accepts;

/// What a line says.
#[derive(Clone, Debug, Default)]
pub(super) struct Listen {
    pub(super) id: Id,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) is_tls: bool,
    pub(super) proxy_protocol: bool,
    pub(super) is_default: bool,
}

/// Reads a line. `None` if it cannot be carried over.
pub(super) fn listen(node: &Node, ledger: &mut Ledger) -> Option<Listen> {
    let mut listen = Listen { id: node.id, ..Listen::default() };
    let mut both_families = false;
    for word in node.words.get(2..).unwrap_or_default() {
        match word.as_str() {
            "ssl" => listen.is_tls = true,
            "proxy_protocol" => listen.proxy_protocol = true,
            "default_server" | "default" => listen.is_default = true,
            "ipv6only=off" => both_families = true,
            "udp" | "quic" => {
                ledger.lost(node.id, "lockgate does not relay UDP yet");
                return None;
            }
            "http2" | "spdy" => {
                ledger.changed(node.id, format!("{word}: clients speak what the backends speak"));
            }
            "reuseport" | "deferred" | "bind" | "ipv6only=on" => {}
            word if [
                "backlog=",
                "rcvbuf=",
                "sndbuf=",
                "fastopen=",
                "so_keepalive=",
                "setfib=",
                "accept_filter=",
                "multipath",
            ]
            .iter()
            .any(|known| word.starts_with(known)) => {}
            word => ledger.lost(node.id, format!("{word}: lockgate import does not know this")),
        }
    }
    match addresses(node.word(1), both_families) {
        Ok(found) => listen.addresses = found,
        Err(why) => {
            ledger.lost(node.id, why);
            return None;
        }
    }
    ledger.carried(node.id);
    Some(listen)
}

fn addresses(text: &str, both_families: bool) -> Result<Vec<SocketAddr>, String> {
    if text.starts_with("unix:") {
        return Err("lockgate listens on TCP only".to_owned());
    }
    if text.is_empty() {
        return Err("it has no address".to_owned());
    }
    let is_port =
        |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(['.', ':']);
    // An address, a port, or both.
    let (host, ports) = match text.rsplit_once(':') {
        Some((host, ports)) if !ports.contains(']') => (host, ports),
        _ if is_port(text) => ("*", text),
        _ => (text, "80"),
    };
    let ports = port_range(ports)?;
    let v4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let ips = match host {
        "*" | "" => vec![v4],
        "[::]" if both_families => vec![Ipv6Addr::UNSPECIFIED.into(), v4],
        "localhost" => vec![Ipv4Addr::LOCALHOST.into()],
        host => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let ip = host.parse();
            vec![ip.map_err(|_| "a name: write the addresses that it stands for".to_owned())?]
        }
    };
    let mut found = Vec::new();
    for port in ports {
        for ip in &ips {
            found.push(accepts::bind(&SocketAddr::new(*ip, port).to_string())?);
        }
    }
    if found.is_empty() {
        return Err("the range of ports is empty".to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nginx_listens() {
        for (text, expected) in [
            ("443", Ok(&["0.0.0.0:443"][..])),
            ("*:443", Ok(&["0.0.0.0:443"])),
            ("10.0.0.1", Ok(&["10.0.0.1:80"])),
            ("10.0.0.1:8000-8001", Ok(&["10.0.0.1:8000", "10.0.0.1:8001"])),
            ("[::]:443", Ok(&["[::]:443"])),
            ("[::1]", Ok(&["[::1]:80"])),
            ("localhost:80", Ok(&["127.0.0.1:80"])),
            ("unix:/x", Err(())),
            ("example.com:80", Err(())),
            ("0", Err(())),
            ("", Err(())),
        ] {
            let found = addresses(text, false).map_err(|_| ());
            let found = found.map(|all| all.iter().map(SocketAddr::to_string).collect::<Vec<_>>());
            let expected = expected.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
            assert_eq!(found, expected, "{text}");
        }
    }
}
