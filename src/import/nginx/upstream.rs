//! `upstream`, and what `proxy_*` says about its use: pools.

use std::collections::HashMap;
use std::time::Duration;

use super::super::ledger::{Id, Ledger};
use super::super::model::{Backend, Check, Health, Model, Passive, Pool, PoolTls};
use super::super::pattern;
use super::super::tree::Node;
use super::scope::Scope;
use crate::config::accepts;

const SECOND: Duration = Duration::from_secs(1);

/// Of names that nginx knows the addresses of once and for all.
const RESOLVED_AGAIN: &str = "a backend for each address of the name, which is resolved again when its TTL ends, not only at \
     the start";

/// What the beginning of an URL says: whether TLS is spoken, and at which port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scheme {
    pub(super) is_tls: bool,
    pub(super) port: Option<u16>,
}

/// How a server speaks to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Manner {
    connect_timeout: Duration,
    /// `None` = as many attempts as there are servers.
    retries: Option<u32>,
    send_proxy: bool,
    source: Option<String>,
    tls: Option<PoolTls>,
    /// The port of servers that have none.
    port: Option<u16>,
}

/// The upstreams of a block, and the pools that became of them.
pub(super) struct Upstreams<'a> {
    nodes: HashMap<String, &'a Node>,
    made: Vec<(String, Manner, Option<String>)>,
}

impl<'a> Upstreams<'a> {
    /// Those that are defined in `block`.
    pub(super) fn of(block: &'a [Node], ledger: &mut Ledger) -> Self {
        let mut nodes = HashMap::new();
        for node in block.iter().filter(|node| node.name() == "upstream") {
            ledger.structure(node.id);
            nodes.insert(node.word(1).to_owned(), node);
        }
        Self { nodes, made: Vec::new() }
    }

    /// The pool for `target`, the name of an upstream or an address, used from `scope`.
    pub(super) fn pool(
        &mut self,
        target: &str,
        by: Id,
        scheme: Scheme,
        scope: &Scope<'_>,
        model: &mut Model,
        ledger: &mut Ledger,
    ) -> Option<String> {
        let name = self.nodes.contains_key(target).then_some(target);
        let manner = manner(scheme, name, scope, ledger);
        let known = self.made.iter().find(|(name, other, _)| name == target && *other == manner);
        if let Some((_, _, pool)) = known {
            return pool.clone();
        }
        let pool = match self.nodes.get(target) {
            Some(node) => upstream(node, &manner, model, ledger),
            None => single(target, by, &manner, model, ledger),
        };
        self.made.push((target.to_owned(), manner, pool.clone()));
        pool
    }

    /// Makes pools of those that nobody sends anybody to.
    pub(super) fn rest(
        &mut self,
        port: Option<u16>,
        scope: &Scope<'_>,
        model: &mut Model,
        ledger: &mut Ledger,
    ) {
        let mut unused: Vec<&&Node> = self
            .nodes
            .values()
            .filter(|node| !self.made.iter().any(|(name, ..)| name == node.word(1)))
            .collect();
        unused.sort_by_key(|node| node.id);
        for node in unused {
            let manner = manner(Scheme { is_tls: false, port }, None, scope, ledger);
            upstream(node, &manner, model, ledger);
        }
    }
}

fn manner(
    scheme: Scheme,
    upstream: Option<&str>,
    scope: &Scope<'_>,
    ledger: &mut Ledger,
) -> Manner {
    let is_off = scope.value("proxy_next_upstream", ledger) == Some("off");
    let tries = scope.value("proxy_next_upstream_tries", ledger);
    let tries = tries.and_then(|tries| tries.parse::<u32>().ok()).filter(|&tries| tries > 0);
    let source = scope.find("proxy_bind").and_then(|node| {
        let ip = node.word(1).rsplit_once(':').map_or_else(|| node.word(1), |(ip, _)| ip);
        if ip.contains('$') || node.word(2) == "transparent" {
            ledger.lost(
                node.id,
                "backends see the gateway's address; send_proxy tells them the client's",
            );
            return None;
        }
        ledger.carried(node.id);
        (ip != "off").then(|| ip.to_owned())
    });
    let is_tls = scheme.is_tls || scope.is_on("proxy_ssl", ledger);
    Manner {
        // nginx's own default.
        connect_timeout: scope.time("proxy_connect_timeout", ledger).unwrap_or(SECOND * 60),
        retries: if is_off { Some(0) } else { tries.map(|tries| tries - 1) },
        send_proxy: scope.is_on("proxy_protocol", ledger),
        source,
        tls: is_tls.then(|| scope.pool_tls(upstream, ledger)),
        port: scheme.port,
    }
}

/// An address instead of a name.
fn single(
    target: &str,
    by: Id,
    manner: &Manner,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Option<String> {
    let address = match address(target, manner.port) {
        Ok(address) => address,
        Err(why) => {
            ledger.lost(by, why);
            return None;
        }
    };
    if accepts::is_name(&address) {
        ledger.changed(by, RESOLVED_AGAIN);
    }
    let mut pool = begun(by, target, manner, 1, model);
    pool.backends.push(Backend {
        from: by,
        name: None,
        each: accepts::is_name(&address),
        address,
        weight: None,
        max_connections: None,
        health_port: None,
        backup: false,
        remark: None,
    });
    ledger.carried(by);
    let name = pool.name.clone();
    model.pools.push(pool);
    Some(name)
}

fn begun(from: Id, name: &str, manner: &Manner, servers: usize, model: &mut Model) -> Pool {
    // By default every server is tried once.
    let others = u32::try_from(servers.saturating_sub(1)).unwrap_or(100);
    let retries = manner.retries.unwrap_or(others).min(100);
    Pool {
        from,
        name: model.pool_names.claim(name),
        connect_timeout: Some(manner.connect_timeout),
        retries: Some(retries).filter(|&retries| retries != 2 && (servers > 1 || retries > 2)),
        send_proxy: manner.send_proxy.then_some("v1"),
        source: manner.source.clone(),
        tls: manner.tls.clone(),
        ..Pool::default()
    }
}

fn upstream(
    node: &Node,
    manner: &Manner,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Option<String> {
    let servers: Vec<&Node> =
        node.children().iter().filter(|child| child.name() == "server").collect();
    let is_weighted =
        servers.iter().any(|server| server.rest().iter().any(|word| word.starts_with("weight=")));
    let mut judged: Option<Passive> = None;
    let mut slow_start = None;
    let mut backends = Vec::new();
    for server in &servers {
        let (backend, passive, slow) = backend(server, manner, is_weighted, ledger);
        let Some(backend) = backend else { continue };
        match &judged {
            None => judged = Some(passive),
            Some(first) if *first != passive => {
                ledger
                    .changed(server.id, "max_fails, fail_timeout: those of the first server hold");
            }
            Some(_) => {}
        }
        slow_start = slow_start.max(slow);
        backends.push(backend);
    }
    if backends.is_empty() {
        ledger.lost(node.id, "no server of it can be carried over");
        return None;
    }
    let mut pool = begun(node.id, node.word(1), manner, backends.len(), model);
    // A server that is alone is never taken out. A name may have several.
    let is_alone = backends.len() == 1 && !backends.iter().any(|backend| backend.each);
    pool.passive = judged.filter(|_| !is_alone);
    pool.slow_start = slow_start;
    pool.balance = balance(node, ledger);
    pool.health = health(node, ledger);
    pool.queue_timeout = queue(node, &backends, ledger);
    let has_maximum = |backend: &&Backend| !backend.backup && backend.max_connections.is_some();
    pool.backup_overflow =
        backends.iter().any(|one| one.backup) && backends.iter().any(|one| has_maximum(&one));
    if node.child("zone").is_none() {
        for backend in backends.iter().filter(has_maximum) {
            let why = "max_conns: connections of all workers are counted together";
            ledger.changed(backend.from, why);
        }
    }
    pool.backends = backends;
    ledger.carried(node.id);
    let name = pool.name.clone();
    model.pools.push(pool);
    Some(name)
}

fn backend(
    server: &Node,
    manner: &Manner,
    is_weighted: bool,
    ledger: &mut Ledger,
) -> (Option<Backend>, Passive, Option<Duration>) {
    // nginx's own defaults.
    let mut passive = Passive { max_fails: 1, window: SECOND * 10, eject_for: SECOND * 10 };
    let mut slow_start = None;
    let is_service = server.rest().iter().any(|word| word.starts_with("service="));
    let address = match address(server.word(1), manner.port) {
        _ if is_service => Err("SRV records are not looked up".to_owned()),
        address => address,
    };
    let address = match address {
        Ok(address) => address,
        Err(why) => {
            ledger.lost(server.id, why);
            return (None, passive, None);
        }
    };
    let mut backend = Backend {
        from: server.id,
        name: None,
        each: accepts::is_name(&address),
        address,
        weight: is_weighted.then_some(1),
        max_connections: None,
        health_port: None,
        backup: false,
        remark: None,
    };
    ledger.carried(server.id);
    let mut is_down = false;
    for word in server.words.get(2..).unwrap_or_default() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "weight" => backend.weight = value.parse().ok(),
            "max_conns" => {
                backend.max_connections = value.parse().ok().filter(|&most: &u32| most > 0);
            }
            "max_fails" => passive.max_fails = value.parse().unwrap_or(1),
            "fail_timeout" => {
                if let Some(time) = pattern::duration(value, SECOND).filter(|time| !time.is_zero())
                {
                    passive.window = time;
                    passive.eject_for = time;
                }
            }
            "backup" => backend.backup = true,
            "down" => is_down = true,
            "slow_start" => slow_start = pattern::duration(value, SECOND),
            "resolve" => {
                ledger.needless(server.id, "resolve: names are resolved again when their TTL ends");
            }
            _ => ledger.lost(server.id, format!("{word}: lockgate import does not know this")),
        }
    }
    if backend.each && !server.rest().iter().any(|word| word == "resolve") {
        ledger.changed(server.id, RESOLVED_AGAIN);
    }
    if is_down {
        backend.weight = Some(0);
        backend.remark = Some("down");
        ledger.changed(server.id, "down: weight = 0");
    }
    (Some(backend), passive, slow_start.filter(|time| !time.is_zero()))
}

/// An address as lockgate writes it.
fn address(text: &str, default_port: Option<u16>) -> Result<String, String> {
    if text.starts_with("unix:") {
        return Err("backends are reached by TCP only".to_owned());
    }
    if text.contains('$') {
        return Err("where it leads is not known before".to_owned());
    }
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let text = match default_port {
        Some(port) if !has_port => format!("{text}:{port}"),
        _ => text.to_owned(),
    };
    accepts::backend(&text).map(|address| address.to_string())
}

fn balance(node: &Node, ledger: &mut Ledger) -> Option<&'static str> {
    for child in node.children() {
        let found = match (child.name(), child.word(1)) {
            ("least_conn", _) => "least_connections",
            ("random", "two") => "random",
            ("random", _) => {
                ledger.changed(child.id, "the less loaded of two that are drawn");
                "random"
            }
            ("least_time", _) => {
                ledger.changed(child.id, "by connections, not by time");
                "least_connections"
            }
            ("ip_hash", _) => {
                ledger.changed(child.id, "by the whole address, in another way (Maglev)");
                "source_hash"
            }
            ("hash", "$remote_addr" | "$binary_remote_addr") => {
                ledger.changed(child.id, "source_hash (Maglev) spreads clients in another way");
                "source_hash"
            }
            ("hash", _) => {
                ledger
                    .changed(child.id, "by the client's address: lockgate sees nothing else of it");
                "source_hash"
            }
            _ => continue,
        };
        ledger.carried(child.id);
        return Some(found);
    }
    None
}

/// `health_check` is written where the upstream is used; here is what older modules have.
fn health(node: &Node, ledger: &mut Ledger) -> Option<Health> {
    let check = node.child("check")?;
    let value = |name: &str| {
        check.rest().iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    ledger.changed(check.id, "type = \"tcp\"");
    Some(Health {
        check: Check::Tcp,
        interval: value("interval").and_then(|time| pattern::duration(time, SECOND / 1000)),
        timeout: value("timeout").and_then(|time| pattern::duration(time, SECOND / 1000)),
        rise: value("rise").and_then(|n| n.parse().ok()),
        fall: value("fall").and_then(|n| n.parse().ok()),
        ..Health::default()
    })
}

/// Without a queue, a connection that finds all servers full is refused.
fn queue(node: &Node, backends: &[Backend], ledger: &mut Ledger) -> Option<Duration> {
    if let Some(queue) = node.child("queue") {
        let time = queue.rest().iter().find_map(|word| word.strip_prefix("timeout="));
        ledger.changed(queue.id, "the queue has no length of its own");
        return time.map_or_else(|| Some(SECOND * 60), |time| pattern::duration(time, SECOND));
    }
    backends.iter().any(|backend| backend.max_connections.is_some()).then_some(Duration::ZERO)
}
