//! `stream { server { … } }`: listeners.

use std::collections::HashMap;
use std::time::Duration;

use super::super::ledger::{Id, Ledger};
use super::super::model::{Listener, Model, Protocol, Route};
use super::super::networks::{Access, Networks};
use super::super::tree::Node;
use super::listen::{self, Listen};
use super::map::{self, Choice};
use super::named::{self, Named};
use super::scope::Scope;
use super::upstream::{Scheme, Upstreams};
use crate::config::accepts;

/// Adds what a `stream` block says.
pub(super) fn stream(node: &Node, outer: &Scope<'_>, model: &mut Model, ledger: &mut Ledger) {
    ledger.structure(node.id);
    let scope = outer.within(node);
    let mut upstreams = Upstreams::of(node.children(), ledger);
    let maps: HashMap<&str, &Node> = node
        .children()
        .iter()
        .filter(|child| matches!(child.name(), "map" | "geo"))
        .filter_map(|child| Some((child.words.last()?.as_str(), child)))
        .collect();
    let mut named = Vec::new();
    for server in node.children().iter().filter(|child| child.name() == "server") {
        ledger.structure(server.id);
        let mut stream = Stream {
            server,
            scope: scope.within(server),
            maps: &maps,
            upstreams: &mut upstreams,
            named: &mut named,
        };
        stream.listeners(model, ledger);
    }
    model.listeners.extend(named::merge(named, ledger));
    upstreams.rest(None, &scope, model, ledger);
}

/// Where clients of a server go.
#[derive(Debug, Default)]
struct Ways {
    pool: Option<String>,
    routes: Vec<Route>,
    /// Addresses that must not go where the rest goes.
    refused: Networks,
    closed: Vec<Id>,
    lost: Vec<Id>,
}

struct Stream<'a, 'b> {
    server: &'a Node,
    scope: Scope<'a>,
    maps: &'b HashMap<&'a str, &'a Node>,
    upstreams: &'b mut Upstreams<'a>,
    named: &'b mut Vec<Named>,
}

impl Stream<'_, '_> {
    fn listeners(&mut self, model: &mut Model, ledger: &mut Ledger) {
        let mut groups: Vec<Vec<Listen>> = Vec::new();
        for node in self.server.children().iter().filter(|node| node.name() == "listen") {
            let Some(listen) = listen::listen(node, ledger) else { continue };
            let is_alike = |group: &&mut Vec<Listen>| {
                group[0].is_tls == listen.is_tls && group[0].proxy_protocol == listen.proxy_protocol
            };
            match groups.iter_mut().find(is_alike) {
                Some(group) => group.push(listen),
                None => groups.push(vec![listen]),
            }
        }
        if groups.is_empty() {
            self.server.forsake("there is no listen that can be carried over", ledger);
            return;
        }
        let Some(pass) = self.scope.find("proxy_pass") else {
            self.server.forsake("without proxy_pass there is nothing to relay", ledger);
            return;
        };
        for group in groups {
            self.listener(&group, pass, model, ledger);
        }
    }

    fn listener(&mut self, group: &[Listen], pass: &Node, model: &mut Model, ledger: &mut Ledger) {
        let is_tls = group[0].is_tls;
        let prereads = self.scope.is_on("ssl_preread", ledger);
        let protocol = if is_tls {
            match self.scope.tls(ledger) {
                Some(tls) => Protocol::Tls(Box::new(tls)),
                None => {
                    let why = "there is no certificate that can be carried over";
                    self.give_up(group, why, ledger);
                    return;
                }
            }
        } else if prereads {
            Protocol::Passthrough
        } else {
            Protocol::Tcp
        };
        let looks_at_names = !matches!(protocol, Protocol::Tcp);
        let ways = self.ways(pass, looks_at_names, model, ledger);
        if ways.pool.is_none() && ways.routes.is_empty() {
            self.give_up(group, "there is no pool to send clients to", ledger);
            return;
        }
        let addresses = group.iter().map(|listen| listen.addresses.len()).sum();
        let (limit, most) = self.scope.limit(addresses, ledger);
        let wish = self.wish(pass, group);
        let mut listener = Listener {
            from: self.server.id,
            name: model.listener_names.claim(&wish),
            bind: group
                .iter()
                .flat_map(|listen| listen.addresses.iter().map(|address| (*address, listen.id)))
                .collect(),
            pool: ways.pool,
            routes: ways.routes,
            max_connections: most,
            limit,
            closed: ways.closed,
            ..Listener::default()
        };
        for lost in ways.lost {
            listener.remarks.push(format!("{} is missing here.", ledger.origin(lost)));
        }
        self.access(&mut listener, &ways.refused, ledger);
        proxy_protocol(&mut listener, group, &self.scope, ledger);
        // nginx's own default.
        let idle = self.scope.time("proxy_timeout", ledger).unwrap_or(Duration::from_secs(600));
        listener.idle_timeout = Some(idle).filter(|&idle| idle != Duration::from_secs(3600));
        listener.client_timeout = match protocol {
            Protocol::Tls(_) => self.scope.time("ssl_handshake_timeout", ledger),
            Protocol::Passthrough => self.scope.time("preread_timeout", ledger),
            _ => None,
        };
        listener.protocol = protocol;
        for node in self.scope.all(&["js_access"]) {
            ledger.closed(node.id, "there are no extensions");
            listener.closed.push(node.id);
        }
        ledger.carried(self.server.id);
        let server_names: Vec<&Node> =
            self.server.children().iter().filter(|node| node.name() == "server_name").collect();
        self.named.push(Named {
            listener,
            from: server_names.iter().map(|node| node.id).collect(),
            names: server_names
                .iter()
                .flat_map(|node| node.rest())
                .filter(|name| !matches!(name.as_str(), "" | "_"))
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            is_default: group.iter().any(|listen| listen.is_default),
        });
    }

    /// A server may be several listeners, of which others are there.
    fn give_up(&self, group: &[Listen], why: &str, ledger: &mut Ledger) {
        if ledger.is_carried(self.server.id) {
            for listen in group {
                ledger.lost(listen.id, why);
            }
        } else {
            self.server.forsake(why, ledger);
        }
    }

    /// Names are not given in nginx: that of what is relayed to, or the port.
    fn wish(&self, pass: &Node, group: &[Listen]) -> String {
        let target = pass.word(1);
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if target.chars().all(is_name) && target.contains(|c: char| c.is_ascii_alphabetic()) {
            return target.to_owned();
        }
        let port = group[0].addresses.first().map_or(0, std::net::SocketAddr::port);
        format!("stream-{port}")
    }

    fn access(&self, listener: &mut Listener, refused: &Networks, ledger: &mut Ledger) {
        let (allow, deny) = self.scope.access(ledger);
        if refused.is_empty() {
            (listener.allow, listener.deny) = (allow, deny);
            return;
        }
        let set = |list: &[String]| {
            let parsed = list.iter().filter_map(|network| Networks::parse(network));
            parsed.fold(Networks::default(), |all, of| all.union(&of))
        };
        let mut access = Access::default();
        access.rule(refused, false);
        access.rule(&set(&deny), false);
        if !allow.is_empty() {
            access.rule(&set(&allow).complement(), false);
        }
        (listener.allow, listener.deny) = access.lists();
    }

    fn ways(
        &mut self,
        pass: &Node,
        looks_at_names: bool,
        model: &mut Model,
        ledger: &mut Ledger,
    ) -> Ways {
        let mut ways = Ways::default();
        let target = pass.word(1);
        if !target.contains('$') {
            ways.pool = self.pool(target, pass.id, model, ledger);
            ledger.carried(pass.id);
            return ways;
        }
        if let Some(value) = self.scope.constant(target, ledger) {
            ways.pool = self.pool(value, pass.id, model, ledger);
            return ways;
        }
        let read = self.maps.get(target).copied().and_then(|node| map::read(node, ledger));
        let Some(map) = read else {
            ledger.lost(pass.id, format!("lockgate does not see what {target} depends on"));
            return ways;
        };
        ledger.carried(pass.id);
        if !looks_at_names && !map.choices.is_empty() {
            let why = "a listener of plain TCP has no routes: write ssl_preread on, or give each \
                       its own address";
            for choice in &map.choices {
                if choice.client.is_empty() {
                    ledger.lost(choice.node.id, why);
                    ways.lost.push(choice.node.id);
                    continue;
                }
                ledger.closed(
                    choice.node.id,
                    "a listener of plain TCP has no routes: these clients are refused",
                );
                let of = choice.client.iter().filter_map(|network| Networks::parse(network));
                ways.refused = of.fold(ways.refused, |all, of| all.union(&of));
            }
        } else {
            for choice in &map.choices {
                self.route(choice, &mut ways, model, ledger);
            }
        }
        let default = map.default.and_then(|(node, value)| {
            let pool = self.pool(value, node.id, model, ledger)?;
            ledger.carried(node.id);
            Some((node.id, pool))
        });
        match map.without_tls {
            Some((node, value)) if map.by_version => {
                ways.pool = self.pool(value, node.id, model, ledger);
                ledger.changed(node.id, "who says nothing for client_timeout goes here as well");
                ways.routes.extend(default.map(|(from, pool)| Route {
                    from,
                    sni: Vec::new(),
                    alpn: Vec::new(),
                    client: Vec::new(),
                    pool,
                }));
            }
            _ => ways.pool = default.map(|(_, pool)| pool),
        }
        ways
    }

    fn route(
        &mut self,
        choice: &Choice<'_>,
        ways: &mut Ways,
        model: &mut Model,
        ledger: &mut Ledger,
    ) {
        let id = choice.node.id;
        let Some(pool) = self.pool(choice.value, id, model, ledger) else {
            ledger.lost(id, "these clients go where the rest goes");
            ways.lost.push(id);
            return;
        };
        let mut route = Route {
            from: id,
            sni: Vec::new(),
            alpn: choice.alpn.clone(),
            client: choice.client.clone(),
            pool,
        };
        route.sni = sni(&choice.sni, id, ledger);
        if route.sni.is_empty() && route.alpn.is_empty() && route.client.is_empty() {
            ledger.lost(id, "no name is left of it");
            return;
        }
        ledger.carried(id);
        // Lines with the same value, one after another, are one route.
        match ways.routes.last_mut() {
            Some(last)
                if last.pool == route.pool
                    && !route.sni.is_empty()
                    && !last.sni.is_empty()
                    && last.alpn.is_empty()
                    && last.client.is_empty() =>
            {
                route.sni.retain(|name| !last.sni.contains(name));
                last.sni.extend(route.sni);
            }
            _ => ways.routes.push(route),
        }
    }

    fn pool(
        &mut self,
        target: &str,
        by: Id,
        model: &mut Model,
        ledger: &mut Ledger,
    ) -> Option<String> {
        self.upstreams.pool(target, by, Scheme::default(), &self.scope, model, ledger)
    }
}

/// Names as routes have them.
pub(super) fn sni(names: &[String], from: Id, ledger: &mut Ledger) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in names {
        match accepts::sni(name) {
            Ok(pattern) => {
                let name = pattern.to_string();
                if name.starts_with("*.") {
                    ledger.changed(from, "a '*' is one label: deeper names do not match");
                }
                if !found.contains(&name) {
                    found.push(name);
                }
            }
            Err(why) => ledger.lost(from, why),
        }
    }
    found
}

/// Who begins with a PROXY header: those whose word is believed, if it is said who they are.
pub(super) fn proxy_protocol(
    listener: &mut Listener,
    group: &[Listen],
    scope: &Scope<'_>,
    ledger: &mut Ledger,
) {
    if !group[0].proxy_protocol {
        return;
    }
    let trusted = scope.all(&["set_real_ip_from"]);
    let mut from = Networks::default();
    for node in &trusted {
        if let Some(of) = Networks::parse(node.word(1)) {
            ledger.carried(node.id);
            from = from.union(&of);
        } else {
            ledger.lost(node.id, "it is no network");
        }
    }
    if from.is_empty() {
        from = Networks::all();
        ledger.changed(
            group[0].id,
            "proxy_protocol: everybody's word is taken for who the client is; name those who \
             may say so in accept_proxy_from",
        );
    }
    listener.accept_proxy_from = from.to_list();
}
