//! Servers of `stream` that share an address: since nginx 1.25.5 the name that a client asks for
//! (`server_name`) says which of them it comes to. They become routes of one listener.

use super::super::ledger::{Id, Ledger};
use super::super::model::{Listener, Protocol, Route};
use super::stream::sni;

/// A listener of a server, and what else decides who comes to it.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) listener: Listener,
    /// The directives `server_name`.
    pub(super) from: Vec<Id>,
    pub(super) names: Vec<String>,
    pub(super) is_default: bool,
}

/// Makes one listener of those that have the same addresses and are told apart by name. The default
/// one, or the first, gets the clients with other names.
pub(super) fn merge(all: Vec<Named>, ledger: &mut Ledger) -> Vec<Listener> {
    let mut groups: Vec<Vec<Named>> = Vec::new();
    for named in all {
        let shares = |group: &&mut Vec<Named>| {
            let addresses = |named: &Named| {
                let mut all: Vec<_> = named.listener.bind.iter().map(|(one, _)| *one).collect();
                all.sort_unstable();
                all
            };
            addresses(&group[0]) == addresses(&named)
        };
        match groups.iter_mut().find(shares) {
            Some(group) => group.push(named),
            None => groups.push(vec![named]),
        }
    }
    groups.into_iter().flat_map(|group| merged(group, ledger)).collect()
}

fn merged(mut group: Vec<Named>, ledger: &mut Ledger) -> Vec<Listener> {
    let is_told_apart = group.len() > 1
        && group.iter().skip(1).all(|one| !one.names.is_empty())
        && group.iter().all(|one| !matches!(one.listener.protocol, Protocol::Tcp));
    if !is_told_apart {
        for named in &group {
            for &from in &named.from {
                ledger.needless(from, "no other server shares its addresses");
            }
        }
        return group.into_iter().map(|named| named.listener).collect();
    }
    let default = group.iter().position(|one| one.is_default).unwrap_or(0);
    group.swap(0, default);
    let mut ways: Vec<(u8, Route)> = Vec::new();
    for named in &group {
        for &from in &named.from {
            ledger.carried(from);
        }
        let Some(pool) = named.listener.pool.clone().filter(|_| named.listener.routes.is_empty())
        else {
            for &from in &named.from {
                ledger.lost(from, "a server that chooses by a map cannot be chosen by name too");
            }
            continue;
        };
        for name in &named.names {
            // Exact names before those with a '*', the longest of these first.
            let rank = u8::from(name.starts_with(['*', '.']));
            let names = match name.strip_prefix('.') {
                Some(parent) => vec![parent.to_owned(), format!("*.{parent}")],
                None => vec![name.clone()],
            };
            let from = named.listener.from;
            let names = sni(&names, from, ledger);
            if !names.is_empty() {
                let route = Route { from, sni: names, pool: pool.clone(), ..Route::default() };
                ways.push((rank, route));
            }
        }
    }
    let depth = |route: &Route| route.sni.first().map_or(0, String::len);
    ways.sort_by_key(|(rank, route)| {
        (*rank, if *rank == 0 { 0 } else { usize::MAX - depth(route) })
    });
    let mut group = group.into_iter().map(|named| named.listener);
    let Some(mut first) = group.next() else { return Vec::new() };
    for other in group {
        take_in(&mut first, other, ledger);
    }
    first.routes.splice(..0, ways.into_iter().map(|(_, route)| route));
    // What the default does for every name needs no route.
    while first.routes.last().is_some_and(|route| Some(&route.pool) == first.pool.as_ref()) {
        first.routes.pop();
    }
    vec![first]
}

/// Certificates are added; who is let in must be the same.
fn take_in(first: &mut Listener, other: Listener, ledger: &mut Ledger) {
    ledger.carried(other.from);
    let is_stricter = (&first.allow, &first.deny) != (&other.allow, &other.deny)
        || first.limit.connections != other.limit.connections
        || first.accept_proxy_from != other.accept_proxy_from;
    let are_alike = match (&mut first.protocol, other.protocol) {
        (Protocol::Tls(tls), Protocol::Tls(of_other)) => {
            for pair in &of_other.certificates {
                if !tls.certificates.iter().any(|(cert, _)| *cert == pair.0) {
                    tls.certificates.push(pair.clone());
                }
            }
            tls.client_auth == of_other.client_auth && tls.only_13 == of_other.only_13
        }
        (Protocol::Passthrough, Protocol::Passthrough) => true,
        _ => false,
    };
    if is_stricter || !are_alike {
        let why = "it lets in other clients than the first server on its addresses, whose rules \
                   would hold for both";
        ledger.closed(other.from, why);
        first.closed.push(other.from);
    }
    first.closed.extend(other.closed);
    first.remarks.extend(other.remarks);
    if (first.idle_timeout, first.client_timeout) != (other.idle_timeout, other.client_timeout) {
        let why = "the timeouts of the first server on its addresses hold";
        ledger.changed(other.from, why);
    }
}
