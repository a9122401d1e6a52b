//! A `backend`, or the servers of a `listen`: a pool.

use std::time::Duration;

use super::super::ledger::{Id, Ledger};
use super::super::model::{Backend, Health, Model, Passive, Pool};
use super::check;
use super::sections::Section;
use super::server::{Server, servers};
use super::settings::{Global, Settings};
use crate::config::accepts;

/// The default of `inter`.
const INTERVAL: Duration = Duration::from_secs(2);

/// The defaults of lockgate's `connect_timeout` and `queue_timeout`.
const USUAL: Duration = Duration::from_secs(5);

/// Makes a pool of a section. `ports` are those of the listeners that send somebody here.
pub(super) fn pool(
    section: &Section,
    settings: &Settings<'_>,
    ports: &[u16],
    global: &Global,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Option<String> {
    let servers = servers(&settings.0, global, ledger);
    if servers.is_empty() {
        return None;
    }
    let servers = of_one_kind(servers, ledger);
    let tls = servers.first().and_then(|server| server.tls.clone());
    let mut backends = Vec::new();
    let is_weighted = servers.iter().any(|server| server.weight.is_some());
    let health = health(settings, &servers, tls.is_some(), ledger);
    // One port for all is the pool's.
    let health_port = health.as_ref().map(|health| health.port);
    for server in &servers {
        if let Some(mut backend) = backend(server, is_weighted, ports, ledger) {
            backend.health_port = server.port.filter(|_| server.check && health_port == Some(None));
            backends.push(backend);
        }
    }
    backups(settings, &backends, ledger);
    names_are_checked(&servers, ledger);
    if backends.is_empty() {
        ledger.lost(section.id, "no server of it can be carried over");
        return None;
    }
    let connect = settings.timeout("connect", ledger);
    let queue = settings.timeout("queue", ledger);
    let mut pool = Pool {
        from: section.id,
        name: model.pool_names.claim(&section.name),
        balance: balance(settings, ledger),
        connect_timeout: connect.map(|(time, _)| time).filter(|&time| time != USUAL),
        queue_timeout: queue
            // Without `timeout queue`, that of connecting holds.
            .or_else(|| {
                connect.filter(|_| backends.iter().any(|one| one.max_connections.is_some()))
            })
            .map(|(time, _)| time)
            .filter(|&time| time != USUAL),
        // Its backups wait for the others to be down, whatever their maxconn.
        backup_overflow: false,
        retries: retries(settings, ledger),
        slow_start: servers.iter().filter_map(|server| server.slow_start).max(),
        send_proxy: servers.first().and_then(|server| server.send_proxy),
        source: source(settings, &servers, ledger),
        health,
        user_timeout: user_timeout(&servers, ledger),
        resets_on_down: servers.iter().any(|server| server.resets_on_down),
        passive: passive(&servers),
        tls,
        backends,
    };
    if let Some(tls) = &mut pool.tls
        && tls.no_verify
    {
        tls.ca = None;
    }
    ledger.carried(section.id);
    let name = pool.name.clone();
    model.pools.push(pool);
    Some(name)
}

/// A pool speaks to all of its backends alike.
fn of_one_kind(servers: Vec<Server>, ledger: &mut Ledger) -> Vec<Server> {
    let mut alike: Vec<Server> = Vec::new();
    for server in servers {
        if let Some(first) = alike.first()
            && (first.tls != server.tls || first.send_proxy != server.send_proxy)
        {
            ledger.lost(
                server.id,
                "it is spoken to in another way (TLS, PROXY header) than the first of the pool: \
                 give it a pool of its own",
            );
            continue;
        }
        alike.push(server);
    }
    alike
}

fn backend(
    server: &Server,
    is_weighted: bool,
    ports: &[u16],
    ledger: &mut Ledger,
) -> Option<Backend> {
    let address = match address(&server.address, ports) {
        Ok(address) => address,
        Err(why) => {
            ledger.lost(server.id, why);
            return None;
        }
    };
    ledger.carried(server.id);
    let each = server.template.is_some() && accepts::is_name(&address);
    if let Some(count) = &server.template {
        let why = match each {
            true => format!(
                "server-template: a backend for each address of the name, called after it, however \
                 many there are (not {count})"
            ),
            false => format!(
                "server-template: one backend stands for all ({count}), which have the same address"
            ),
        };
        ledger.changed(server.id, why);
    }
    if server.disabled {
        ledger.changed(server.id, "disabled: weight = 0, and it is checked all the same");
    }
    let weight = match (server.disabled, server.weight) {
        (true, _) => Some(0),
        (false, Some(weight)) => Some(weight),
        (false, None) => is_weighted.then_some(1),
    };
    Some(Backend {
        from: server.id,
        name: Some(super::super::names::fit(&server.name)).filter(|name| *name != address),
        address,
        each,
        weight,
        max_connections: server.max_connections.filter(|&most| most > 0),
        health_port: None,
        backup: server.backup,
        remark: server.disabled.then_some("disabled"),
    })
}

/// An address as lockgate writes it. A port that is missing, or relative, is that of the listener.
fn address(text: &str, ports: &[u16]) -> Result<String, String> {
    let of_listener = |offset: i32| match ports {
        [port] => u16::try_from(i32::from(*port) + offset)
            .ok()
            .filter(|&port| port > 0)
            .ok_or_else(|| "its port is out of range".to_owned()),
        _ => Err("it has no port of its own, and that of its listener is not one".to_owned()),
    };
    let stripped = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    if stripped.contains('@') || stripped.starts_with('/') {
        return Err("backends are reached by TCP only".to_owned());
    }
    // More than one colon without a bracket: the last one is that of the port all the same.
    let (host, port) = match stripped.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (stripped, ""),
    };
    let port = match port.as_bytes().first() {
        None => of_listener(0)?,
        Some(b'+' | b'-') => of_listener(port.parse().map_err(|_| "its port is no number")?)?,
        Some(_) => port.parse().map_err(|_| format!("'{port}' is no port"))?,
    };
    if host.starts_with('_') {
        return Err("SRV records are not looked up: write the name of its servers".to_owned());
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = if bare.contains(':') { format!("[{bare}]") } else { bare.to_owned() };
    accepts::backend(&format!("{host}:{port}")).map(|address| address.to_string())
}

fn backups(settings: &Settings<'_>, backends: &[Backend], ledger: &mut Ledger) {
    let backups: Vec<_> = backends.iter().filter(|backend| backend.backup).collect();
    match settings.option("allbackups") {
        Some(option) => ledger.carried(option.id),
        None => {
            for backend in backups.iter().skip(1) {
                ledger.changed(
                    backend.from,
                    "backup: all backups are used when every other backend is down, not only the \
                     first",
                );
            }
        }
    }
}

/// HAProxy compares the name of a certificate only with that of `sni` or `verifyhost`.
fn names_are_checked(servers: &[Server], ledger: &mut Ledger) {
    for server in servers {
        if server.tls.as_ref().is_some_and(|tls| !tls.no_verify && tls.sni.is_none()) {
            ledger.changed(
                server.id,
                "verify: the certificate has to be for the backend's address as well; if it has \
                 another name, set sni in [pool.NAME.tls]",
            );
        }
    }
}

fn balance(settings: &Settings<'_>, ledger: &mut Ledger) -> Option<&'static str> {
    let mut sticks = None;
    for statement in settings.all(&["stick"]) {
        if statement.words.iter().any(|word| word == "src") {
            sticks = Some(statement.id);
            ledger.changed(
                statement.id,
                "balance = \"source_hash\" keeps a client at its backend, without a table",
            );
        }
    }
    let statement = settings.last(&["balance"]);
    for earlier in settings.all(&["balance"]) {
        if statement.is_some_and(|last| last.id != earlier.id) {
            ledger.needless(earlier.id, "a later one takes its place");
        }
    }
    let Some(statement) = statement else {
        return sticks.map(|_| "source_hash");
    };
    let id = statement.id;
    let algorithm = statement.word(1);
    let found = match algorithm.split('(').next().unwrap_or(algorithm) {
        "roundrobin" | "static-rr" => {
            ledger.carried(id);
            None
        }
        "leastconn" => {
            ledger.carried(id);
            Some("least_connections")
        }
        "random" => {
            ledger.carried(id);
            Some("random")
        }
        "source" => {
            let why = "source_hash: clients stay where they are, but once for all come to another \
                       backend than before";
            ledger.changed(id, why);
            Some("source_hash")
        }
        "hash" if statement.word(2) == "src" || statement.word(1) == "hash(src)" => {
            ledger.changed(id, "source_hash (Maglev) spreads clients in another way");
            Some("source_hash")
        }
        "first" => {
            ledger.changed(id, "backends are not filled one after another: weighted_round_robin");
            None
        }
        "uri" | "url_param" | "hdr" | "rdp-cookie" | "hash" | "sticky" | "log-hash" => {
            ledger.changed(
                id,
                "lockgate does not look at what is asked for: source_hash keeps a client at its \
                 backend",
            );
            Some("source_hash")
        }
        _ => {
            ledger.lost(id, "it is unknown: weighted_round_robin");
            None
        }
    };
    if sticks.is_some() { Some("source_hash") } else { found }
}

fn retries(settings: &Settings<'_>, ledger: &mut Ledger) -> Option<u32> {
    let statement = settings.last(&["retries"])?;
    let number = statement.word(1).parse::<u32>().ok()?.min(100);
    for earlier in settings.all(&["retries"]) {
        ledger.carried(earlier.id);
    }
    let redispatch = settings.option("redispatch");
    if let Some(option) = redispatch {
        ledger.carried(option.id);
    } else if number > 0 {
        ledger.changed(statement.id, "each retry is made with another backend");
    }
    (number != 2).then_some(number)
}

fn source(settings: &Settings<'_>, servers: &[Server], ledger: &mut Ledger) -> Option<String> {
    if let Some(statement) = settings.last(&["source"]) {
        let address = statement.word(1);
        if statement.word(2) == "usesrc" {
            ledger.lost(
                statement.id,
                "usesrc: backends see the gateway's address; send_proxy tells them the client's",
            );
        }
        let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip);
        if matches!(ip, "0.0.0.0" | "*" | "") {
            ledger.lost_unless_told(statement.id, "the system chooses the address anyway");
            return None;
        }
        ledger.carried(statement.id);
        return Some(ip.to_owned());
    }
    let first = servers.first()?.source.clone()?;
    for server in servers.iter().filter(|server| server.source.as_ref() != Some(&first)) {
        let why = format!("source: a pool connects from one address, {first}");
        ledger.changed(server.id, why);
    }
    Some(first)
}

fn health(
    settings: &Settings<'_>,
    servers: &[Server],
    is_tls: bool,
    ledger: &mut Ledger,
) -> Option<Health> {
    let timeout = settings.timeout("check", ledger);
    let first = servers.iter().find(|server| server.check)?;
    for server in servers {
        if !server.check {
            ledger.changed(server.id, "it is checked as the others of the pool are");
        }
        let differs = |id: Id, ledger: &mut Ledger| {
            ledger.changed(id, "it is checked as the first of the pool is");
        };
        if server.check
            && (server.interval, server.rise, server.fall, &server.check_name)
                != (first.interval, first.rise, first.fall, &first.check_name)
        {
            differs(server.id, ledger);
        }
    }
    let interval = first.interval.unwrap_or(INTERVAL);
    let found = check::check(settings, is_tls || first.check_tls, ledger);
    let are_alike = servers.iter().filter(|one| one.check).all(|one| one.port == first.port);
    let of_servers = first.port.filter(|&port| are_alike && port > 0);
    // Without `timeout check`, a check may take as long as the time between two.
    let timeout = timeout.map_or(interval, |(time, _)| time);
    Some(Health {
        check: found.check,
        interval: (interval != INTERVAL).then_some(interval),
        fast_interval: first
            .fast_interval
            .map(|fast| fast.min(interval))
            .filter(|&fast| fast != Duration::from_millis(500)),
        timeout: (timeout != Duration::from_secs(1)).then_some(timeout),
        rise: first.rise.filter(|&rise| rise != 2 && rise > 0),
        fall: first.fall.filter(|&fall| fall != 3 && fall > 0),
        port: found.port.or(of_servers),
        sni: found.sni.or_else(|| first.check_name.clone()).filter(|_| found.is_tls),
        ca: first.check_ca().filter(|_| found.is_tls && !is_tls),
    })
}

fn user_timeout(servers: &[Server], ledger: &mut Ledger) -> Option<Duration> {
    let first = servers.iter().find_map(|server| server.user_timeout)?;
    for server in servers.iter().filter(|server| server.user_timeout != Some(first)) {
        ledger.changed(server.id, "tcp-ut: a pool has one user_timeout, the first");
    }
    Some(first)
}

/// What HAProxy is told to make of failures of traffic. Without that, lockgate's own way holds.
fn passive(servers: &[Server]) -> Option<Passive> {
    let observed = servers.iter().find(|server| server.observes())?;
    let usual = Duration::from_secs(30);
    let max_fails = observed.error_limit.unwrap_or(10);
    Some(Passive { max_fails, window: usual, eject_for: usual })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        for (text, ports, expected) in [
            ("10.0.0.1:80", &[][..], Ok("10.0.0.1:80")),
            ("10.0.0.1", &[443], Ok("10.0.0.1:443")),
            ("10.0.0.1:+1000", &[443], Ok("10.0.0.1:1443")),
            ("10.0.0.1:-43", &[443], Ok("10.0.0.1:400")),
            ("::1:80", &[], Ok("[::1]:80")),
            ("[2001:db8::1]", &[80], Ok("[2001:db8::1]:80")),
            ("ipv4@web.example:80", &[], Ok("web.example:80")),
            ("10.0.0.1", &[80, 443], Err(())),
            ("unix@/run/x", &[80], Err(())),
            ("/run/x", &[80], Err(())),
            ("10.0.0.1:99999", &[], Err(())),
        ] {
            let found = address(text, ports);
            assert_eq!(found.as_deref().map_err(|_| ()), expected, "{text}");
        }
    }
}
