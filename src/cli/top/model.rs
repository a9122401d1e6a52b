//! What `top` shows: a function of two answers of a gateway and of what the viewer wishes.
//!
//! Touches neither a terminal nor a clock. What has no answer before it, or one of another process,
//! has no rates: those are unknown, not zero.

use std::cmp::Ordering;
use std::collections::HashMap;

use clap::ValueEnum;

use crate::admin::status::{Backend, Listener, Status};
use crate::cli::text::{Mood, bytes, of_most, span, weight};

/// What backends are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// As in the file.
    #[default]
    File,
    /// By pool and name.
    Name,
    /// The worst first.
    State,
    /// Most connections first.
    Conns,
    /// Most new connections first.
    New,
    /// Most bytes to the backend first.
    In,
    /// Most bytes from the backend first.
    Out,
    /// Most failed connects first.
    Failed,
    /// The slowest to connect to first.
    Connect,
}

impl Sort {
    /// The next one, or the one before; round and round.
    pub fn step(self, forward: bool) -> Self {
        let all = Self::value_variants();
        let at = all.iter().position(|&sort| sort == self).unwrap_or(0);
        let to = if forward { at + 1 } else { at + all.len() - 1 };
        all[to % all.len()]
    }

    /// As it is typed.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What the viewer wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Order of the backends.
    pub sort: Sort,
    /// The other way round.
    pub reversed: bool,
    /// Words; only backends that have all of them in their pool, name, address or state are shown.
    pub filter: String,
}

/// One look at a gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Glance {
    /// The gateway as a whole, in lines with the mood of each.
    pub head: Vec<(Mood, String)>,
    /// By instance: its state, and what there is to say.
    pub instances: Vec<(Mood, [String; 6])>,
    /// In the order of the file.
    pub listeners: Vec<Vec<String>>,
    /// As wished.
    pub backends: Vec<Row>,
    /// Backends that the filter hides.
    pub hidden: usize,
}

/// A backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Pool and name.
    pub name: String,
    /// As configured, or as it resolved.
    pub address: String,
    /// Its state.
    pub state: String,
    /// What picks go by, and what is configured.
    pub weight: String,
    /// Connections now.
    pub conns: u32,
    /// At most; 0 = no limit.
    pub most: u32,
    /// New connections a second.
    pub new: Option<f64>,
    /// Bytes a second, to it and from it.
    pub bytes: [Option<f64>; 2],
    /// Failed connects a second.
    pub failed: Option<f64>,
    /// Seconds that a connect took since the last answer; `None` if there was none.
    pub connect: Option<f64>,
    /// The last check.
    pub check: String,
    /// Seconds in its state.
    pub since: f64,
    /// Why, and who has set it.
    pub reason: String,
}

/// Titles of [`Glance::listeners`].
pub const LISTENERS: [&str; 8] =
    ["listener", "protocol", "conns", "new/s", "in/s", "out/s", "refused/s", "tls failed/s"];

/// What there is to see in `now`, given the answer `before` it, if there is one.
pub fn glance(now: &Status, before: Option<&Status>, wish: &Wish) -> Glance {
    // Another process counts from zero.
    let before =
        before.filter(|before| before.pid == now.pid && before.uptime_seconds < now.uptime_seconds);
    let elapsed = before.map_or(0.0, |before| now.uptime_seconds - before.uptime_seconds);
    let rate = |now: u64, before: Option<u64>| {
        let grown = now.checked_sub(before?)?;
        (elapsed > 0.0).then(|| grown as f64 / elapsed)
    };
    let listeners_before: HashMap<&str, &Listener> =
        before.into_iter().flat_map(|b| &b.listeners).map(|l| (&*l.name, l)).collect();
    let backends_before: HashMap<(&str, &str), &Backend> = before
        .into_iter()
        .flat_map(|before| &before.pools)
        .flat_map(|pool| {
            pool.backends.iter().map(|backend| ((&*pool.name, &*backend.name), backend))
        })
        .collect();

    let mut glance = Glance { head: head(now, before, elapsed), ..Glance::default() };
    glance.instances = now.vrrp.iter().map(instance).collect();
    for listener in &now.listeners {
        let before = listeners_before.get(&*listener.name);
        let of = |count: fn(&Listener) -> u64| rate(count(listener), before.map(|b| count(b)));
        glance.listeners.push(vec![
            listener.name.clone(),
            listener.protocol.clone(),
            of_most(listener.connections, listener.max_connections),
            number(of(|l| l.connections_total)),
            amount(of(|l| l.bytes_in)),
            amount(of(|l| l.bytes_out)),
            number(of(|l| l.refused_total)),
            number(of(|l| l.handshake_failures_total)),
        ]);
    }
    for pool in &now.pools {
        for backend in &pool.backends {
            let before = backends_before.get(&(&*pool.name, &*backend.name));
            let of = |count: fn(&Backend) -> u64| rate(count(backend), before.map(|b| count(b)));
            glance.backends.push(Row {
                name: format!("{}/{}", pool.name, backend.name),
                address: backend.resolved.clone().unwrap_or_else(|| backend.address.clone()),
                state: backend.state.clone(),
                weight: weight(backend.effective_weight, backend.weight),
                conns: backend.connections,
                most: backend.max_connections,
                new: of(|b| b.connections_total),
                bytes: [of(|b| b.bytes_in), of(|b| b.bytes_out)],
                failed: of(|b| b.connect_failures_total),
                connect: before.and_then(|before| connect(backend, before)),
                check: check(backend),
                since: backend.since_seconds,
                reason: reason(backend),
            });
        }
    }
    let all = glance.backends.len();
    glance.backends.retain(|row| is_wanted(row, &wish.filter));
    glance.hidden = all - glance.backends.len();
    sort(&mut glance.backends, wish);
    glance
}

fn head(now: &Status, before: Option<&Status>, elapsed: f64) -> Vec<(Mood, String)> {
    let sum = |count: fn(&Listener) -> u64| {
        let all = |status: &Status| status.listeners.iter().map(count).sum::<u64>();
        let grown = all(now).checked_sub(all(before?))?;
        (elapsed > 0.0).then(|| grown as f64 / elapsed)
    };
    let cpu = before.filter(|_| elapsed > 0.0).map(|before| {
        100.0 * (now.process.cpu_seconds - before.process.cpu_seconds).max(0.0) / elapsed
    });
    let node = now.node.as_ref().map(|node| format!("  node {node}")).unwrap_or_default();
    let mut head = vec![
        (
            Mood::of(&now.state),
            format!(
                "lockgate {}{node}  {}  up {}  generation {}  pid {}",
                now.version,
                now.state,
                span(now.uptime_seconds),
                now.generation,
                now.pid
            ),
        ),
        (
            Mood::Good,
            format!(
                "connections {}/{}  new {}/s  in {}/s  out {}/s",
                now.connections,
                now.max_connections,
                number(sum(|l| l.connections_total)),
                amount(sum(|l| l.bytes_in)),
                amount(sum(|l| l.bytes_out)),
            ),
        ),
        (
            Mood::Good,
            format!(
                "cpu {}%  memory {}  files {}/{}  workers {}",
                number(cpu),
                bytes(now.process.resident_bytes),
                now.process.open_files,
                now.process.max_open_files,
                now.workers.iter().map(|w| w.connections.to_string()).collect::<Vec<_>>().join(" "),
            ),
        ),
    ];
    for pool in &now.pools {
        if !pool.usable {
            head.push((Mood::Bad, format!("pool {} has no usable backend", pool.name)));
        }
        if pool.queue > 0 {
            head.push((Mood::Fair, format!("pool {}: {} wait", pool.name, pool.queue)));
        }
    }
    if let Some(drain) = &now.drain {
        head.push((Mood::Fair, format!("this node is drained by {}", drain.who)));
    }
    for older in &now.previous {
        let text = format!("process {} still serves {} connections", older.pid, older.connections);
        head.push((Mood::Fair, text));
    }
    if let Some(last) = now.reloads.last.as_ref().filter(|last| last.result != "ok") {
        let cause = last.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        head.push((Mood::Bad, format!("the last reload was refused: {cause}")));
    }
    head
}

fn instance(instance: &crate::admin::status::Instance) -> (Mood, [String; 6]) {
    let cause = match &instance.reason {
        Some(reason) => format!("{} ({reason})", instance.cause),
        None => instance.cause.clone(),
    };
    let cells = [
        instance.name.clone(),
        instance.state.clone(),
        instance.effective_priority.to_string(),
        instance.master.clone().unwrap_or_else(|| "-".to_owned()),
        span(instance.since_seconds),
        cause,
    ];
    (Mood::of(&instance.state), cells)
}

/// Mean of the connects since the last answer.
fn connect(now: &Backend, before: &Backend) -> Option<f64> {
    let made = now.connections_total.checked_sub(before.connections_total)?;
    let took = now.connect_seconds_total - before.connect_seconds_total;
    (made > 0 && took >= 0.0).then(|| took / made as f64)
}

fn check(backend: &Backend) -> String {
    match &backend.check {
        None => "-".to_owned(),
        Some(check) if check.result == "ok" => millis(Some(check.seconds)),
        Some(check) => check.result.clone(),
    }
}

fn reason(backend: &Backend) -> String {
    let mut reason = backend.reason.clone();
    if let Some(set) = &backend.set {
        reason.push_str(&format!(" [by {}]", set.by));
    }
    if backend.backup {
        reason.push_str(" [backup]");
    }
    reason.trim_start().to_owned()
}

fn is_wanted(row: &Row, filter: &str) -> bool {
    let text = format!("{} {} {}", row.name, row.address, row.state).to_lowercase();
    filter.split_whitespace().all(|word| text.contains(&word.to_lowercase()))
}

/// What is equal, or unknown, stays in the order of the file.
fn sort(rows: &mut [Row], wish: &Wish) {
    let most = |one: Option<f64>, other: Option<f64>| {
        other.unwrap_or(-1.0).partial_cmp(&one.unwrap_or(-1.0)).unwrap_or(Ordering::Equal)
    };
    let mood = |row: &Row| match Mood::of(&row.state) {
        Mood::Bad => 0,
        Mood::Fair => 1,
        Mood::Good => 2,
    };
    let compare = |one: &Row, other: &Row| match wish.sort {
        Sort::File => Ordering::Equal,
        Sort::Name => one.name.cmp(&other.name),
        Sort::State => mood(one).cmp(&mood(other)).then_with(|| one.state.cmp(&other.state)),
        Sort::Conns => other.conns.cmp(&one.conns),
        Sort::New => most(one.new, other.new),
        Sort::In => most(one.bytes[0], other.bytes[0]),
        Sort::Out => most(one.bytes[1], other.bytes[1]),
        Sort::Failed => most(one.failed, other.failed),
        Sort::Connect => most(one.connect, other.connect),
    };
    match (wish.sort, wish.reversed) {
        (Sort::File, true) => rows.reverse(),
        (_, true) => rows.sort_by(|one, other| compare(other, one)),
        (_, false) => rows.sort_by(compare),
    }
}

/// A number of three digits or so, or `-` if it is not known.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(value) if value < 9.95 => format!("{value:.1}"),
        Some(value) if value < 99_999.5 => format!("{value:.0}"),
        Some(value) => format!("{:.0}k", value / 1_000.0),
    }
}

/// Bytes, or `-` if they are not known.
pub fn amount(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| bytes(value.round() as u64))
}

/// Seconds as milliseconds, or `-` if they are not known.
pub fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1}", value * 1_000.0))
}
