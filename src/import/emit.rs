//! Model in, document out: what is written of it, in which order, and nothing that is the default.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::document::{Table, Weight, bare, list, quoted};
use super::ledger::{Id, Ledger};
use super::model::{Check, Health, Listener, Model, Node, Pool, Protocol, Route, Tls, Vrrp};
use crate::config::format_duration;

/// Who is nobody.
const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The port of `admin.http`, unless it is set.
const ADMIN_PORT: u16 = 8404;

/// Writes the model down.
pub(super) fn document(model: &mut Model, ledger: &mut Ledger) -> Table {
    keep_binds_apart(&mut model.listeners, ledger);
    let mut root = Table::default();
    if let Some(runtime) = runtime(model) {
        root.tables.push(runtime);
    }
    if let Some(admin) = admin(&model.listeners) {
        root.tables.push(admin);
    }
    root.tables.extend(model.nodes.iter().map(|node| node_table(node, ledger)));
    root.tables.extend(model.vrrp.iter().map(|vrrp| vrrp_table(vrrp, ledger)));
    root.tables.extend(model.listeners.iter().map(|one| listener_table(one, ledger)));
    let used = used_pools(&model.listeners);
    for pool in &model.pools {
        let mut table = pool_table(pool, ledger);
        if !used.contains(pool.name.as_str()) {
            table.comments.push("No listener sends anybody here.".to_owned());
        }
        root.tables.push(table);
    }
    root
}

fn used_pools(listeners: &[Listener]) -> HashSet<&str> {
    let mut used = HashSet::new();
    for listener in listeners {
        used.extend(listener.pool.as_deref());
        used.extend(listener.routes.iter().map(|route| route.pool.as_str()));
        if let Protocol::Redirect { acme_pool, .. } = &listener.protocol {
            used.extend(acme_pool.as_deref());
        }
    }
    used
}

/// Takes out addresses that overlap others: the kernel of another program may tell them apart,
/// lockgate does not take them.
fn keep_binds_apart(listeners: &mut Vec<Listener>, ledger: &mut Ledger) {
    let mut taken: HashMap<(bool, u16), Vec<(SocketAddr, Id)>> = HashMap::new();
    for listener in listeners.iter_mut() {
        let mut own: HashSet<SocketAddr> = HashSet::new();
        listener.bind.retain(|&(address, from)| {
            if !own.insert(address) {
                return false;
            }
            let of_port = taken.entry((address.is_ipv4(), address.port())).or_default();
            let overlaps = |other: &SocketAddr| {
                *other == address || other.ip().is_unspecified() || address.ip().is_unspecified()
            };
            match of_port.iter().find(|(other, _)| overlaps(other)) {
                Some((other, by)) => {
                    let by = ledger.place(*by);
                    ledger.lost(from, format!("{address} overlaps {other} of {by}"));
                    false
                }
                None => {
                    of_port.push((address, from));
                    true
                }
            }
        });
    }
    listeners.retain(|listener| {
        if listener.bind.is_empty() {
            ledger.lost(listener.from, "no address is left for it to listen on");
        }
        !listener.bind.is_empty()
    });
}

fn runtime(model: &Model) -> Option<Table> {
    let mut table = Table { header: "[runtime]".to_owned(), ..Table::default() };
    table.option("workers", model.workers.map(|n| n.to_string()));
    table.option("max_connections", model.max_connections.map(|n| n.to_string()));
    table.option("drain_timeout", model.drain_timeout.map(duration));
    (!table.keys.is_empty()).then_some(table)
}

/// Only where the default would be in the way.
fn admin(listeners: &[Listener]) -> Option<Table> {
    let ports: HashSet<u16> = listeners
        .iter()
        .flat_map(|listener| &listener.bind)
        .filter(|(address, _)| address.is_ipv4())
        .map(|(address, _)| address.port())
        .collect();
    if !ports.contains(&ADMIN_PORT) {
        return None;
    }
    let free = (ADMIN_PORT..u16::MAX).find(|port| !ports.contains(port))?;
    let mut table = Table { header: "[admin]".to_owned(), ..Table::default() };
    table.option("http", Some(quoted(&format!("127.0.0.1:{free}"))));
    table.remark(format!("{ADMIN_PORT} is taken by a listener"));
    Some(table)
}

fn node_table(node: &Node, ledger: &Ledger) -> Table {
    let mut table = Table::new(format!("[node.{}]", bare(&node.name)), node.from);
    table.comments.push(ledger.origin(node.from));
    table.option("address", node.address.as_deref().map(quoted));
    table.key("priority", node.priority.to_string(), Weight::Needed);
    table
}

fn vrrp_table(vrrp: &Vrrp, ledger: &Ledger) -> Table {
    let mut table = Table::new("[[vrrp]]", vrrp.from);
    table.comments.push(ledger.origin(vrrp.from));
    table.key("name", quoted(&vrrp.name), Weight::Needed);
    table.key("interface", quoted(&vrrp.interface), Weight::Needed);
    table.key("vrid", vrrp.vrid.to_string(), Weight::Needed);
    if vrrp.version != 3 {
        table.key("version", vrrp.version.to_string(), Weight::Needed);
    }
    table.key("addresses", list(&vrrp.addresses, 0), Weight::Needed);
    if let Some(priority) = vrrp.priority {
        table.key("priority", priority.to_string(), Weight::Needed);
    }
    let usual = Duration::from_millis(if vrrp.version == 3 { 100 } else { 1000 });
    if vrrp.advert_interval != usual {
        table.key("advert_interval", duration(vrrp.advert_interval), Weight::Needed);
    }
    if vrrp.no_preempt {
        table.key("preempt", "false", Weight::Optional);
    }
    table.option("preempt_delay", vrrp.preempt_delay.map(duration));
    if !vrrp.unicast_peers.is_empty() {
        table.key("unicast_peers", list(&vrrp.unicast_peers, 0), Weight::Needed);
    }
    if vrrp.virtual_mac {
        table.key("virtual_mac", "true", Weight::Optional);
    }
    table.option("garp_repeat", vrrp.garp_repeat.map(|n| n.to_string()));
    table.option("garp_refresh", vrrp.garp_refresh.map(duration));
    if !vrrp.track_interfaces.is_empty() {
        table.key("track_interfaces", list(&vrrp.track_interfaces, 0), Weight::Optional);
    }
    table.option("sync_group", vrrp.sync_group.as_deref().map(quoted));
    table.option("notify", vrrp.notify.as_ref().map(|path| quoted(&path.to_string_lossy())));
    table
}

fn listener_table(listener: &Listener, ledger: &Ledger) -> Table {
    let mut table = Table::new("[[listener]]", listener.from);
    table.comments.push(ledger.origin(listener.from));
    table.comments.extend(listener.remarks.iter().cloned());
    let bind: Vec<String> = listener.bind.iter().map(|(address, _)| address.to_string()).collect();
    table.key("name", quoted(&listener.name), Weight::Needed);
    table.key("bind", list(&bind, 0), Weight::Needed);
    match &listener.protocol {
        Protocol::Tcp => {}
        Protocol::Tls(_) => table.key("protocol", "\"tls\"", Weight::Guard),
        Protocol::Passthrough => table.key("protocol", "\"tls_passthrough\"", Weight::Guard),
        Protocol::Redirect { .. } => table.key("protocol", "\"redirect\"", Weight::Guard),
    }
    table.option("pool", listener.pool.as_deref().map(quoted));
    if let Protocol::Redirect { acme_dir, acme_pool } = &listener.protocol {
        table.option("acme_dir", acme_dir.as_deref().map(quoted));
        table.option("acme_pool", acme_pool.as_deref().map(quoted));
    }
    if let Some(most) = listener.max_connections {
        table.key("max_connections", most.to_string(), Weight::Optional);
    }
    access(listener, &mut table, ledger);
    table.option("client_timeout", listener.client_timeout.map(duration));
    table.option("idle_timeout", listener.idle_timeout.map(duration));
    table.option("half_close_timeout", listener.half_close_timeout.map(duration));
    table.option("user_timeout", listener.user_timeout.map(duration));
    if let Some(limit) = limit(listener) {
        table.tables.push(limit);
    }
    if let Protocol::Tls(tls) = &listener.protocol {
        table.tables.push(tls_table(tls, listener.from));
    }
    table.tables.extend(listener.routes.iter().map(|route| route_table(route, ledger)));
    table
}

/// Who may come.
fn access(listener: &Listener, table: &mut Table, ledger: &Ledger) {
    if !listener.accept_proxy_from.is_empty() {
        let from = list(&listener.accept_proxy_from, 0);
        table.key("accept_proxy_from", from, Weight::Guard);
    }
    if !listener.allow.is_empty() {
        table.key("allow", list(&listener.allow, 0), Weight::Guard);
    }
    if let [first, ..] = listener.closed[..] {
        let more = listener.closed.len() - 1;
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        for closed in &listener.closed {
            table.comments.push(format!("CLOSED by {}", ledger.origin(*closed)));
        }
        table.comments.push(
            "which could not be carried over. Once you have seen to it, remove the line 'deny'."
                .to_owned(),
        );
        let everybody = EVERYBODY.map(str::to_owned);
        table.key("deny", list(&everybody, 0), Weight::Guard);
        table.remark(format!("in place of {}{more}", ledger.place(first)));
        if !listener.deny.is_empty() {
            let denied = list(&listener.deny, 0).replace('\n', " ");
            table.comments.push(format!("but leave deny = {denied}"));
        }
    } else if !listener.deny.is_empty() {
        table.key("deny", list(&listener.deny, 0), Weight::Guard);
    }
}

fn limit(listener: &Listener) -> Option<Table> {
    let limit = &listener.limit;
    let mut table = Table::new("[listener.limit]", limit.from.unwrap_or(listener.from));
    table.guard = true;
    if let Some(connections) = limit.connections {
        table.key("connections", connections.to_string(), Weight::Guard);
    }
    if let Some((rate, burst)) = &limit.rate {
        table.key("rate", quoted(rate), Weight::Guard);
        table.key("burst", burst.to_string(), Weight::Guard);
    }
    if !table.keys.is_empty() {
        // Others count by the whole address.
        table.key("prefix_v6", "128", Weight::Guard);
    }
    if limit.is_dry_run && !table.keys.is_empty() {
        table.key("action", "\"log\"", Weight::Guard);
    }
    (!table.keys.is_empty()).then_some(table)
}

fn tls_table(tls: &Tls, from: Id) -> Table {
    let mut table = Table::new("[listener.tls]", from);
    table.guard = true;
    let mut certificates = String::from("[\n");
    for (cert, key) in &tls.certificates {
        certificates.push_str(&format!(
            "    {{ cert = {}, key = {} }},\n",
            quoted(cert),
            quoted(key)
        ));
    }
    certificates.push_str("  ]");
    table.key("certificates", certificates, Weight::Guard);
    if tls.strict_sni {
        table.key("strict_sni", "true", Weight::Guard);
    }
    if tls.only_13 {
        table.key("min_version", "\"1.3\"", Weight::Guard);
    }
    // With version 1.3 alone, the suites of 1.2 are of no use.
    let is_of_13 = |name: &&String| name.starts_with("TLS_AES_") || name.starts_with("TLS_CHACHA");
    let ciphers: Vec<String> =
        tls.ciphers.iter().filter(|name| !tls.only_13 || is_of_13(name)).cloned().collect();
    if !ciphers.is_empty() {
        table.key("ciphers", list(&ciphers, 1), Weight::Optional);
    }
    if !tls.alpn.is_empty() {
        table.key("alpn", list(&tls.alpn, 1), Weight::Optional);
    }
    if let Some(auth) = &tls.client_auth {
        let wish = if auth.required { "\"required\"" } else { "\"optional\"" };
        table.key("client_auth", wish, Weight::Guard);
        table.key("client_ca", quoted(&auth.ca), Weight::Guard);
        if let Some(crl) = &auth.crl {
            table.key("client_crl", quoted(crl), Weight::Guard);
        }
    }
    table.option("ocsp", tls.ocsp.as_deref().map(quoted));
    if tls.no_tickets {
        table.key("tickets", "false", Weight::Optional);
    }
    table
}

fn route_table(route: &Route, ledger: &Ledger) -> Table {
    let mut table = Table::new("[[listener.route]]", route.from);
    table.comments.push(ledger.origin(route.from));
    for (name, conditions) in
        [("sni", &route.sni), ("alpn", &route.alpn), ("client", &route.client)]
    {
        if !conditions.is_empty() {
            table.key(name, list(conditions, 1), Weight::Needed);
        }
    }
    table.key("pool", quoted(&route.pool), Weight::Needed);
    table
}

fn pool_table(pool: &Pool, ledger: &Ledger) -> Table {
    let name = bare(&pool.name);
    let mut table = Table::new(format!("[pool.{name}]"), pool.from);
    table.comments.push(ledger.origin(pool.from));
    table.option("balance", pool.balance.map(quoted));
    table.option("connect_timeout", pool.connect_timeout.map(duration));
    table.option("retries", pool.retries.map(|n| n.to_string()));
    if let Some(version) = pool.send_proxy {
        table.key("send_proxy", quoted(version), Weight::Needed);
    }
    table.option("queue_timeout", pool.queue_timeout.map(duration));
    if pool.backup_overflow {
        table.key("backup_overflow", "true", Weight::Optional);
    }
    table.option("slow_start", pool.slow_start.map(duration));
    table.option("user_timeout", pool.user_timeout.map(duration));
    if pool.resets_on_down {
        table.key("on_down", "\"reset\"", Weight::Optional);
    }
    table.option("source", pool.source.as_deref().map(quoted));
    if let Some(tls) = &pool.tls {
        let mut inner = Table::new(format!("[pool.{name}.tls]"), pool.from);
        inner.guard = true;
        if let Some(ca) = &tls.ca {
            inner.key("ca", quoted(ca), Weight::Guard);
        }
        if tls.no_verify {
            inner.key("verify", "false", Weight::Optional);
        }
        inner.option("sni", tls.sni.as_deref().map(quoted));
        if let Some((cert, key)) = &tls.client {
            inner.key("client_cert", quoted(cert), Weight::Guard);
            inner.key("client_key", quoted(key), Weight::Guard);
        }
        table.tables.push(inner);
    }
    if let Some(health) = &pool.health {
        table.tables.push(health_table(health, &name, pool.from));
    }
    if let Some(passive) = &pool.passive {
        let mut inner = Table::new(format!("[pool.{name}.passive]"), pool.from);
        inner.key("max_fails", passive.max_fails.to_string(), Weight::Optional);
        if passive.max_fails > 0 {
            inner.option("window", Some(duration(passive.window)));
            inner.option("eject_for", Some(duration(passive.eject_for)));
        }
        table.tables.push(inner);
    }
    for backend in &pool.backends {
        let mut inner = Table::new(format!("[[pool.{name}.backend]]"), backend.from);
        inner.comments.push(ledger.origin(backend.from));
        inner.option("name", backend.name.as_deref().map(quoted));
        inner.key("address", quoted(&backend.address), Weight::Needed);
        if backend.each {
            inner.key("addresses", quoted("all"), Weight::Needed);
        }
        if let Some(weight) = backend.weight {
            inner.key("weight", weight.to_string(), Weight::Needed);
            if let Some(remark) = backend.remark {
                inner.remark(remark);
            }
        }
        inner.option("max_connections", backend.max_connections.map(|n| n.to_string()));
        inner.option("health_port", backend.health_port.map(|n| n.to_string()));
        if backend.backup {
            inner.key("backup", "true", Weight::Needed);
        }
        table.tables.push(inner);
    }
    table
}

fn health_table(health: &Health, name: &str, from: Id) -> Table {
    let mut table = Table::new(format!("[pool.{name}.health]"), from);
    match &health.check {
        Check::Tcp => table.key("type", "\"tcp\"", Weight::Needed),
        Check::Tls => table.key("type", "\"tls\"", Weight::Needed),
        Check::Http { tls, path, host, statuses } => {
            table.key("type", "\"http\"", Weight::Needed);
            if *tls {
                table.key("tls", "true", Weight::Optional);
            }
            table.key("path", quoted(path), Weight::Needed);
            table.option("host", host.as_deref().map(quoted));
            if !statuses.is_empty() {
                table.key("expect_status", list(statuses, 1), Weight::Needed);
            }
        }
        Check::SendExpect(steps) => {
            table.key("type", "\"send_expect\"", Weight::Needed);
            let steps: Vec<String> = steps
                .iter()
                .map(|(key, text)| format!("    {{ {key} = {} }},\n", quoted(text)))
                .collect();
            table.key("steps", format!("[\n{}  ]", steps.concat()), Weight::Needed);
        }
    }
    table.option("interval", health.interval.map(duration));
    table.option("fast_interval", health.fast_interval.map(duration));
    table.option("timeout", health.timeout.map(duration));
    table.option("rise", health.rise.map(|n| n.to_string()));
    table.option("fall", health.fall.map(|n| n.to_string()));
    table.option("port", health.port.map(|n| n.to_string()));
    table.option("sni", health.sni.as_deref().map(quoted));
    table.option("ca", health.ca.as_deref().map(quoted));
    table
}

fn duration(duration: Duration) -> String {
    quoted(&format_duration(duration))
}
