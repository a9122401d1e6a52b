//! `lockgate status`: the running gateway on one screen.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::SystemTime;

use super::text::{Mood, Table, bytes, few, of_most, span, weight};
use super::{Error, Exit, Gateway, print, runtime};
use crate::admin::client;
use crate::admin::status::{Backend, Certificate, Instance, Listener, Pool, Status};

/// A certificate that ends within this many seconds is shown as such: 30 days.
const SOON: u64 = 30 * 86_400;

/// Prints the state of the running gateway on one screen, or as JSON.
pub fn status(gateway: &Gateway, json: bool) -> Result<(), Error> {
    let socket = gateway.socket()?;
    let body = runtime()?.block_on(client::get(&socket, "/v1/status"))?;
    if json {
        return print(&format!("{}\n", String::from_utf8_lossy(&body).trim_end()));
    }
    let status = parse(&body)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    print(&screen(&status, now.map_or(0, |now| now.as_secs()), colors()))
}

/// What a gateway has answered.
pub(super) fn parse(body: &[u8]) -> Result<Status, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::new(Exit::Software, format_args!("unexpected answer: {error}")))
}

/// Whether standard output is for somebody who sees colours (<https://no-color.org>).
pub(super) fn colors() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted
}

/// `now` in seconds since 1970.
fn screen(status: &Status, now: u64, color: bool) -> String {
    let mut text = head(status, color);
    if !status.vrrp.is_empty() {
        text.push_str("\nvrrp\n");
        instances(&status.vrrp, color).write(&mut text);
        status.vrrp.iter().filter_map(advert_errors).for_each(|(line, is_now)| {
            let mood = if is_now { Mood::Bad } else { Mood::Fair };
            let _ = writeln!(text, "  {}", mood.paint(&line, color));
        });
    }
    text.push_str("\nlisteners\n");
    listeners(&status.listeners).write(&mut text);
    for pool in &status.pools {
        let _ = writeln!(text, "\n{}", title(pool, color));
        let titles =
            ["name", "address", "state", "weight", "conns", "total", "failed", "for", "reason"];
        let mut table = Table::new(&titles, &[3, 4, 5, 6]);
        table.rows.extend(pool.backends.iter().map(|backend| row(backend, color)));
        table.write(&mut text);
    }
    if !status.certificates.is_empty() {
        text.push_str("\ncertificates\n");
        certificates(&status.certificates, now, color).write(&mut text);
    }
    text
}

/// The gateway as a whole. Writing to a string cannot fail.
fn head(status: &Status, color: bool) -> String {
    let node = status.node.as_ref().map(|node| format!("  node {node}")).unwrap_or_default();
    let mut text = format!(
        "lockgate {}{node}  {}  up {}  generation {}  connections {}/{}\n",
        status.version,
        Mood::of(&status.state).paint(&status.state, color),
        span(status.uptime_seconds),
        status.generation,
        status.connections,
        status.max_connections,
    );
    let process = &status.process;
    let _ = writeln!(
        text,
        "pid {}  memory {}  cpu {}  files {}/{}",
        status.pid,
        bytes(process.resident_bytes),
        span(process.cpu_seconds),
        process.open_files,
        process.max_open_files,
    );
    for older in &status.previous {
        let _ = writeln!(
            text,
            "process {} still serves {} connections, for {}",
            older.pid,
            older.connections,
            span(older.since_seconds)
        );
    }
    if let Some(drain) = &status.drain {
        let what = format!("this node is drained by {}, since {}", drain.who, drain.since);
        let _ = writeln!(text, "{}", Mood::Fair.paint(&what, color));
    }
    if let Some(last) = status.reloads.last.as_ref().filter(|last| last.result != "ok") {
        // The errors of a file are many lines; the log has all of them.
        let cause = last.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let what = format!("the reload of {} was refused: {cause}", last.time);
        let _ = writeln!(text, "{}", Mood::Bad.paint(&what, color));
    }
    text
}

/// The VRRP instances: who has which addresses, since when and why.
fn instances(all: &[Instance], color: bool) -> Table {
    let titles =
        ["name", "interface", "state", "priority", "master", "addresses", "for", "heard", "cause"];
    let mut table = Table::new(&titles, &[3]);
    for instance in all {
        let priority = match instance.effective_priority == instance.priority {
            true => instance.priority.to_string(),
            false => format!("{}/{}", instance.effective_priority, instance.priority),
        };
        let cause = match &instance.reason {
            Some(reason) => format!("{} ({reason})", instance.cause),
            None => instance.cause.clone(),
        };
        let heard = instance.heard.iter().map(|other| {
            format!("{}:{} {} ago", other.address, other.priority, span(other.ago_seconds))
        });
        let heard: Vec<_> = heard.collect();
        table.rows.push(vec![
            instance.name.clone(),
            format!("{} vrid {}", instance.interface, instance.vrid),
            Mood::of(&instance.state).paint(&instance.state, color),
            priority,
            instance.master.clone().unwrap_or_else(|| "-".to_owned()),
            few(&instance.addresses),
            span(instance.since_seconds),
            if heard.is_empty() { "-".to_owned() } else { few(&heard) },
            cause,
        ]);
    }
    table
}

/// What is wrong with the adverts of an instance, if anything is, and whether it was so a minute ago.
fn advert_errors(instance: &Instance) -> Option<(String, bool)> {
    let last = instance.last_advert_error.as_ref()?;
    let counts: Vec<_> =
        instance.advert_errors.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let texts = last.received.as_ref().zip(last.expected.as_ref());
    let texts = texts
        .map(|(received, expected)| format!(": received {received}, expected {expected}"))
        .unwrap_or_default();
    let what = if last.refused { "refused" } else { "taken, but differs" };
    let line = format!(
        "{}: adverts refused or different: {}; the last, {} ago, from {}, {} ({what}){texts}",
        instance.name,
        counts.join(", "),
        span(last.ago_seconds),
        last.from,
        last.reason,
    );
    Some((line, last.ago_seconds < 60.0))
}

fn listeners(all: &[Listener]) -> Table {
    let titles = [
        "name",
        "address",
        "protocol",
        "pool",
        "conns",
        "total",
        "in",
        "out",
        "refused",
        "tls failed",
    ];
    let mut table = Table::new(&titles, &[4, 5, 6, 7, 8, 9]);
    for listener in all {
        let handshakes = listener.handshakes_total + listener.handshake_failures_total;
        table.rows.push(vec![
            listener.name.clone(),
            few(&listener.bind),
            listener.protocol.clone(),
            listener.pool.clone().unwrap_or_else(|| "-".to_owned()),
            of_most(listener.connections, listener.max_connections),
            listener.connections_total.to_string(),
            bytes(listener.bytes_in),
            bytes(listener.bytes_out),
            listener.refused_total.to_string(),
            match handshakes {
                0 => "-".to_owned(),
                _ => listener.handshake_failures_total.to_string(),
            },
        ]);
    }
    table
}

fn title(pool: &Pool, color: bool) -> String {
    let mut title = format!("pool {}  {}", pool.name, pool.balance);
    if pool.queue > 0 {
        let _ = write!(title, "  {} waiting", pool.queue);
    }
    if pool.retries_total > 0 {
        let _ = write!(title, "  {} retries", pool.retries_total);
    }
    if !pool.usable {
        let _ = write!(title, "  {}", Mood::Bad.paint("no usable backend", color));
    }
    title
}

fn row(backend: &Backend, color: bool) -> Vec<String> {
    let state = match backend.backup {
        true => format!("{} (backup)", backend.state),
        false => backend.state.clone(),
    };
    let mut reason = backend.reason.clone();
    if let Some(set) = &backend.set {
        let weight = set.weight.map(|weight| format!("weight {weight}"));
        let what: Vec<_> = set.state.clone().into_iter().chain(weight).collect();
        let _ = write!(reason, " [{} by {} since {}]", what.join(", "), set.by, set.since);
    }
    vec![
        backend.name.clone(),
        match &backend.resolved {
            Some(resolved) => format!("{} ({resolved})", backend.address),
            None => backend.address.clone(),
        },
        Mood::of(&backend.state).paint(&state, color),
        weight(backend.effective_weight, backend.weight),
        of_most(backend.connections, backend.max_connections),
        backend.connections_total.to_string(),
        backend.connect_failures_total.to_string(),
        span(backend.since_seconds),
        reason,
    ]
}

fn certificates(all: &[Certificate], now: u64, color: bool) -> Table {
    let mut table = Table::new(&["listener", "names", "ends in", "file"], &[]);
    for certificate in all {
        let ends = match certificate.not_after.checked_sub(now) {
            None | Some(0) => Mood::Bad.paint("has ended", color),
            Some(left) if left < SOON => Mood::Fair.paint(&span(left as f64), color),
            Some(left) => span(left as f64),
        };
        table.rows.push(vec![
            certificate.listener.clone(),
            few(&certificate.names),
            ends,
            certificate.file.clone(),
        ]);
    }
    table
}
