//! `virtual_server`: a listener and a pool in place of the kernel's tables (IPVS).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::ledger::Ledger;
use super::super::model::{Backend, Check, Health, Listener, Model, Pool};
use super::super::tree::Node;
use super::known;
use crate::config::accepts;

/// Adds what a virtual server says.
pub(super) fn virtual_server(node: &Node, tree: &[Node], model: &mut Model, ledger: &mut Ledger) {
    ledger.structure(node.id);
    let protocol = node.child("protocol").map_or("TCP", |child| child.word(1));
    if !protocol.eq_ignore_ascii_case("TCP") {
        node.all_lost("lockgate relays TCP only, so far", ledger);
        return;
    }
    let (bind, wish) = match node.word(1) {
        "fwmark" => {
            node.all_lost("marks of packets are not looked at: write the addresses", ledger);
            return;
        }
        "group" => (of_group(node.word(2), tree, ledger), node.word(2).to_owned()),
        address => {
            let wish = format!("{address}-{}", node.word(2));
            (addresses(address, node.word(2)), wish)
        }
    };
    if bind.is_empty() {
        node.all_lost("it has no address and port that a listener could have", ledger);
        return;
    }
    let mut pool = Pool { from: node.id, ..Pool::default() };
    let mut health: Option<Health> = None;
    let mut interval = None;
    let mut quits = false;
    for child in node.children() {
        ledger.carried(node.id);
        match child.name() {
            "protocol" => ledger.carried(child.id),
            "ip_family" => ledger.needless(child.id, "addresses say it"),
            "delay_loop" => {
                interval = child.word(1).parse::<f64>().ok().filter(|n| (0.001..1e6).contains(n));
                ledger.carried(child.id);
            }
            "lb_algo" | "lvs_sched" => pool.balance = balance(child, ledger).or(pool.balance),
            "lb_kind" | "lvs_method" => {
                let why = "connections end at the gateway: backends see its address, and answer \
                           through it; send_proxy tells them the client's";
                ledger.changed(child.id, why);
                quits = true;
            }
            "persistence_timeout" => {
                pool.balance = Some("source_hash");
                ledger.changed(child.id, "source_hash keeps a client at its backend, at all times");
            }
            "sorry_server" => {
                if let Some(mut backend) = backend(child, &bind, ledger) {
                    backend.backup = true;
                    pool.backends.push(backend);
                }
            }
            "real_server" => {
                let Some(mut backend) = backend(child, &bind, ledger) else {
                    child.all_lost("it cannot be carried over", ledger);
                    continue;
                };
                check(child, &mut backend, &mut health, ledger);
                pool.backends.push(backend);
            }
            _ => known::account(child, ledger),
        }
    }
    if pool.backends.is_empty() {
        node.all_lost("no server of it can be carried over", ledger);
        return;
    }
    if let Some(health) = &mut health {
        // keepalived's own default is a minute.
        let interval = Duration::from_secs_f64(interval.unwrap_or(60.0));
        health.interval = Some(interval);
        health.fast_interval = health.fast_interval.map(|fast| fast.min(interval));
    }
    if !quits {
        ledger.changed(node.id, "connections end at the gateway: backends see its address");
    }
    pool.health = health;
    pool.name = model.pool_names.claim(&wish);
    let listener = Listener {
        from: node.id,
        name: model.listener_names.claim(&wish),
        bind: bind.into_iter().map(|address| (address, node.id)).collect(),
        pool: Some(pool.name.clone()),
        ..Listener::default()
    };
    model.pools.push(pool);
    model.listeners.push(listener);
}

fn addresses(ip: &str, port: &str) -> Vec<SocketAddr> {
    let Ok(ip) = ip.parse::<IpAddr>() else { return Vec::new() };
    let Ok(port) = port.parse() else { return Vec::new() };
    let address = SocketAddr::new(ip, port);
    accepts::bind(&address.to_string()).into_iter().collect()
}

fn of_group(name: &str, tree: &[Node], ledger: &mut Ledger) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for group in tree {
        if group.name() != "virtual_server_group" || group.word(1) != name {
            continue;
        }
        ledger.carried(group.id);
        for entry in group.children() {
            let here = addresses(entry.name(), entry.word(1));
            if here.is_empty() {
                ledger.lost(entry.id, "it is not one address and port");
            } else {
                ledger.carried(entry.id);
            }
            found.extend(here);
        }
    }
    found
}

fn balance(node: &Node, ledger: &mut Ledger) -> Option<&'static str> {
    let found = match node.word(1) {
        "rr" | "wrr" => {
            ledger.carried(node.id);
            return None;
        }
        "lc" | "wlc" => {
            ledger.carried(node.id);
            "least_connections"
        }
        "sed" | "nq" | "lblc" | "lblcr" | "dh" => {
            ledger.changed(node.id, "least_connections is the nearest");
            "least_connections"
        }
        "sh" | "mh" => {
            ledger.changed(node.id, "source_hash (Maglev) spreads clients in another way");
            "source_hash"
        }
        _ => {
            ledger.changed(node.id, "weighted_round_robin is the nearest");
            return None;
        }
    };
    Some(found)
}

fn backend(node: &Node, bind: &[SocketAddr], ledger: &mut Ledger) -> Option<Backend> {
    let ip: IpAddr = match node.word(1).parse() {
        Ok(ip) => ip,
        Err(_) => {
            ledger.lost(node.id, "it has no address");
            return None;
        }
    };
    let port = node.word(2).parse::<u16>().ok().filter(|&port| port > 0);
    let port = port.or_else(|| bind.first().map(SocketAddr::port))?;
    let address = match accepts::backend(&SocketAddr::new(ip, port).to_string()) {
        Ok(address) => address.to_string(),
        Err(why) => {
            ledger.lost(node.id, why);
            return None;
        }
    };
    ledger.carried(node.id);
    let mut backend = Backend {
        each: false,
        health_port: None,
        from: node.id,
        name: None,
        address,
        weight: None,
        max_connections: None,
        backup: false,
        remark: None,
    };
    for child in node.children() {
        match child.name() {
            "weight" => {
                // Its default is 1, as that of the others.
                backend.weight = child.number();
                ledger.carried(child.id);
            }
            "uthreshold" => {
                backend.max_connections = child.number().filter(|&most: &u32| most > 0);
                ledger.carried(child.id);
            }
            _ => {}
        }
    }
    if node.name() == "real_server" && backend.weight.is_none() {
        backend.weight = Some(1);
    }
    Some(backend)
}

/// The check of a server; a pool has one, that of the first.
fn check(server: &Node, backend: &mut Backend, health: &mut Option<Health>, ledger: &mut Ledger) {
    for child in server.children() {
        let mut found = match child.name() {
            "TCP_CHECK" => Health { check: Check::Tcp, ..timing(child, 1, ledger) },
            "HTTP_GET" | "SSL_GET" => {
                let check = http(child, child.name() == "SSL_GET", ledger);
                Health { check, ..timing(child, 3, ledger) }
            }
            "weight" | "uthreshold" => continue,
            _ => {
                known::account(child, ledger);
                continue;
            }
        };
        ledger.carried(child.id);
        backend.health_port = found.port.take();
        match health {
            None => *health = Some(found),
            Some(first) if *first != found => {
                ledger.changed(child.id, "all backends of a pool are checked as the first is");
            }
            Some(_) => {}
        }
    }
}

fn timing(node: &Node, retries: u32, ledger: &mut Ledger) -> Health {
    let mut health = Health {
        timeout: Some(Duration::from_secs(5)),
        rise: Some(1),
        fall: Some(retries + 1),
        ..Health::default()
    };
    for child in node.children() {
        let time = || {
            let number = child.word(1).parse::<f64>().ok()?;
            (0.001..1e6).contains(&number).then(|| Duration::from_secs_f64(number))
        };
        match child.name() {
            "connect_timeout" => health.timeout = time().or(health.timeout),
            "retry" | "nb_get_retry" => {
                health.fall = child.number::<u32>().map(|n| n.saturating_add(1).min(65_535));
            }
            "delay_before_retry" => health.fast_interval = time(),
            "connect_port" => health.port = child.number().filter(|&port| port > 0),
            "url" => continue,
            _ => {
                ledger.lost(child.id, "the check has no such setting");
                continue;
            }
        }
        ledger.carried(child.id);
    }
    health
}

fn http(node: &Node, tls: bool, ledger: &mut Ledger) -> Check {
    let mut path = "/".to_owned();
    let (mut host, mut statuses) = (None, Vec::new());
    let mut is_first = true;
    for url in node.children().iter().filter(|child| child.name() == "url") {
        if !is_first {
            url.all_lost("a check asks for one path", ledger);
            continue;
        }
        is_first = false;
        ledger.carried(url.id);
        for child in url.children() {
            match child.name() {
                "path" if child.word(1).starts_with('/') => path = child.word(1).to_owned(),
                "virtualhost" => host = Some(child.word(1).to_owned()),
                "status_code" => statuses.extend(child.rest().iter().cloned()),
                _ => {
                    ledger.lost(child.id, "only the status of the answer is looked at");
                    continue;
                }
            }
            ledger.carried(child.id);
        }
    }
    statuses.retain(|status| status.split('-').all(|n| n.len() == 3 && n.parse::<u16>().is_ok()));
    Check::Http { tls, path, host, statuses }
}
