//! Servers of `http` that share an address: one listener.

use std::net::SocketAddr;

use super::super::ledger::Ledger;
use super::super::model::{Listener, Model, Protocol, Route, Tls};
use super::http::{Server, Service};
use super::stream::{proxy_protocol, sni};

/// Adds the listener of these addresses: that of the servers which share them, the default one
/// first.
pub(super) fn listener(
    servers: &[Server<'_>],
    members: &[(usize, usize)],
    addresses: &[SocketAddr],
    model: &mut Model,
    ledger: &mut Ledger,
) {
    let Some(&(first, which)) = members.first() else { return };
    let (server, listen) = (&servers[first], &servers[first].listens[which]);
    let all: Vec<&Server<'_>> = members.iter().map(|&(index, _)| &servers[index]).collect();
    let is_tls = members.iter().any(|&(index, which)| servers[index].listens[which].is_tls);
    let name =
        server.names.iter().find(|name| name.contains('.') && !name.starts_with(['~', '*', '.']));
    let port = addresses.first().map_or(0, SocketAddr::port);
    let mut listener = Listener {
        from: server.node.id,
        bind: addresses.iter().map(|address| (*address, listen.id)).collect(),
        ..Listener::default()
    };
    for one in &all {
        listener.closed.extend(&one.guards);
    }
    let is_carried = if is_tls {
        terminated(&all, &mut listener, ledger)
    } else {
        plain(&all, &mut listener, ledger)
    };
    if !is_carried {
        for one in &all {
            let why = "what it does needs requests to be seen, which lockgate does not";
            ledger.lost_unless_told(one.node.id, why);
            ledger.lost(listen.id, why);
        }
        return;
    }
    let wish = match name {
        Some(name) if is_tls => name.clone(),
        _ => format!("http-{port}"),
    };
    listener.name = model.listener_names.claim(&wish);
    (listener.allow, listener.deny) = server.scope.access(ledger);
    for other in all.iter().skip(1) {
        if other.scope.access(ledger) != (listener.allow.clone(), listener.deny.clone()) {
            for rule in other.scope.all(&["allow", "deny"]) {
                let why = "servers on one address let in different clients";
                ledger.closed(rule.id, why);
                listener.closed.push(rule.id);
            }
            if !listener.allow.is_empty() || !listener.deny.is_empty() {
                ledger.changed(other.node.id, "who is let in is that of the first server here");
            }
        }
    }
    let (limit, most) = server.scope.limit(addresses.len(), ledger);
    listener.limit = limit;
    listener.max_connections = most;
    let group = [listen.clone()];
    proxy_protocol(&mut listener, &group, &server.scope, ledger);
    ledger.carried(server.node.id);
    model.listeners.push(listener);
}

/// Servers without TLS: one service for all of them, as nothing tells them apart.
fn plain(all: &[&Server<'_>], listener: &mut Listener, ledger: &mut Ledger) -> bool {
    let services: Vec<&Service> = all.iter().filter_map(|one| one.service.as_ref()).collect();
    let Some(first) = services.first() else { return false };
    match first {
        Service::Redirect { .. } => {
            if services.iter().any(|service| matches!(service, Service::Relay { .. })) {
                return false;
            }
            let (mut dir, mut pool) = (None, None);
            for service in &services {
                if let Service::Redirect { acme_dir, acme_pool } = service {
                    dir = dir.or_else(|| acme_dir.clone());
                    pool = pool.or_else(|| acme_pool.clone());
                }
            }
            let acme_pool = if dir.is_some() { None } else { pool };
            listener.protocol = Protocol::Redirect { acme_dir: dir, acme_pool };
            for one in all {
                match one.service {
                    Some(_) => ledger.carried(one.node.id),
                    None => ledger.changed(one.node.id, "every name is redirected to HTTPS"),
                }
            }
            // A redirect gives nothing away.
            listener.closed.clear();
            true
        }
        Service::Relay { pool } => {
            let is_same = |service: &&Service| matches!(service, Service::Relay { pool: other } if other == pool);
            if services.len() != all.len() || !services.iter().all(is_same) {
                return false;
            }
            listener.pool = Some(pool.clone());
            for one in all {
                ledger.carried(one.node.id);
            }
            true
        }
    }
}

/// Servers with TLS: told apart by the name that the client asks for.
fn terminated(all: &[&Server<'_>], listener: &mut Listener, ledger: &mut Ledger) -> bool {
    let mut merged: Option<Tls> = None;
    let mut are_all_carried = true;
    for one in all {
        let tls = one.scope.tls(ledger);
        let relay = match (&one.service, &tls) {
            (Some(Service::Relay { pool }), Some(_)) => Some(pool.clone()),
            _ => None,
        };
        if let Some(tls) = tls {
            match &mut merged {
                None => merged = Some(tls),
                Some(merged) => {
                    for pair in tls.certificates.clone() {
                        if !merged.certificates.iter().any(|(cert, _)| *cert == pair.0) {
                            merged.certificates.push(pair);
                        }
                    }
                    let alone = Tls { certificates: merged.certificates.clone(), ..tls };
                    if alone.client_auth != merged.client_auth || alone.only_13 != merged.only_13 {
                        let why = "ssl_verify_client, ssl_protocols: those of the first server on \
                                   the address would hold";
                        ledger.closed(one.node.id, why);
                        listener.closed.push(one.node.id);
                    }
                }
            }
        }
        let Some(pool) = relay else {
            are_all_carried = false;
            let why = "it does not hand all requests to one upstream: clients that ask for its \
                       names are refused";
            ledger.lost(one.node.id, why);
            listener.remarks.push(format!("{} is missing here.", ledger.origin(one.node.id)));
            continue;
        };
        ledger.carried(one.node.id);
        if listener.pool.is_none() && listener.routes.is_empty() && std::ptr::eq(*one, all[0]) {
            listener.pool = Some(pool.clone());
        }
        let names: Vec<String> = one
            .names
            .iter()
            .filter(|name| {
                !matches!(name.as_str(), "_" | "" | "localhost") && !name.starts_with('~')
            })
            .flat_map(|name| match name.strip_prefix('.') {
                Some(parent) => vec![parent.to_owned(), format!("*.{parent}")],
                None => vec![name.clone()],
            })
            .collect();
        let names = sni(&names, one.node.id, ledger);
        if !names.is_empty() {
            let route =
                Route { from: one.node.id, sni: names, alpn: Vec::new(), client: Vec::new(), pool };
            listener.routes.push(route);
        }
    }
    if !are_all_carried {
        // The names of those that are missing must not go to others.
        listener.pool = None;
    } else if let Some(pool) = &listener.pool {
        // What the default does for every name needs no route.
        while listener.routes.last().is_some_and(|route| route.pool == *pool) {
            listener.routes.pop();
        }
    }
    let Some(tls) = merged else { return false };
    listener.protocol = Protocol::Tls(Box::new(tls));
    listener.pool.is_some() || !listener.routes.is_empty()
}
