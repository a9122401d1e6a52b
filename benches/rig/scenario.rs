//! The scenarios: which load, how much of it, and what the result is called.
//!
//! `main` goes through [`Scenario::all`] and calls [`Scenario::run`] once per subject and round.

use std::io;

use crate::backend::Behaviour;
use crate::bulk;
use crate::exchange::{Exchange, Then};
use crate::histogram::Slices;
use crate::hostile;
use crate::idle;
use crate::latency::{Beside, OpenLoop};
use crate::machine::Machine;
use crate::measure::{Measured, Memory};
use crate::options::Options;
use crate::site::{Plan, Site};
use crate::subject::{Kind, Program};
use crate::tls::{Key, Tls, Version};

/// What `--only` chooses from, in the order in which they run.
pub const NAMES: [&str; 29] = [
    "short",
    "bulk1",
    "bulk64",
    "ping64",
    "ping1k",
    "conns100",
    "conns1k",
    "conns9k",
    "short9k",
    "backends1",
    "backends100",
    "backends1000",
    "latency-kept",
    "latency-new",
    "workers1",
    "workers2",
    "idle",
    "tls-full-ecdsa",
    "tls-full-rsa",
    "tls12-full-ecdsa",
    "tls12-full-rsa",
    "tls-resumed",
    "tls12-resumed",
    "tls-bulk1",
    "tls-bulk16",
    "tls-idle",
    "tls-calm",
    "tls-storm",
    "tls-hostile",
];

/// What is left with `--quick`.
pub const QUICK: [&str; 13] = [
    "short",
    "bulk1",
    "bulk64",
    "ping64",
    "conns9k",
    "backends1000",
    "latency-kept",
    "latency-new",
    "idle",
    "tls-full-ecdsa",
    "tls-resumed",
    "tls-bulk16",
    "tls-idle",
];

const GB: u64 = 1_000_000_000;

/// Bytes of a message in all scenarios that are not about its size.
const SMALL: usize = 64;

/// Connections in flight where each carries one exchange.
const SHORT: usize = 32;

/// Backends in all scenarios that are not about their number. Each has its own ~28 000 ephemeral
/// ports towards it, and closed connections keep theirs for a while.
const BACKENDS: u32 = 8;

/// How much of what the reference can do at most is asked for where latency is measured.
const MODERATE: f64 = 0.4;

/// Requests a second on kept connections, and new connections a second beside them, where it is
/// about a storm of handshakes.
const CALM: f64 = 2000.0;
const STORM: f64 = 2000.0;

/// How often that maximum is measured.
const CALIBRATIONS: usize = 3;

/// The share of its core that the load must have had for a latency to mean something, and how often
/// that is tried again.
const UNDISTURBED: f64 = 0.97;
const REPEATS: usize = 2;

pub struct Scenario {
    pub name: &'static str,
    pub what: String,
    pub unit: &'static str,
    /// Digits after the point that mean something.
    pub precision: usize,
    /// What accompanies the value.
    pub columns: &'static [Column],
    /// Workers of the proxy.
    pub workers: usize,
    load: Load,
    warm_up: u64,
    length: u64,
    backends: u32,
    shares_cores: bool,
    tls: Option<Tls>,
    /// Requests per second, of an open loop.
    rate: f64,
}

/// A name, and how many digits after the point mean something.
pub struct Column(pub &'static str, pub usize);

enum Load {
    Exchange(Exchange),
    Bulk { connections: usize },
    Idle { connections: usize },
    OpenLoop(OpenLoop),
}

/// What one run showed. Less is better.
pub struct Outcome {
    pub value: f64,
    pub columns: Vec<f64>,
    /// How much of its core the load had, in [0, 1]. Not 1: others ran there.
    pub undisturbed: f64,
    /// Connections that broke, or carried what they should not.
    pub failures: u64,
}

impl Scenario {
    /// Those that were asked for.
    pub fn all(options: &Options) -> io::Result<Vec<Self>> {
        let part = if options.quick { 2 } else { 1 };
        NAMES
            .iter()
            .filter(|name| options.wants(name))
            .map(|name| Self::named(name, part, options.idle))
            .collect()
    }

    /// `part` divides the work of the window.
    fn named(name: &'static str, part: u64, idle: usize) -> io::Result<Self> {
        let short = Exchange { bytes: SMALL, clients: SHORT, then: Then::Reconnect, beside: 0 };
        let kept = |bytes, clients| Exchange { bytes, clients, then: Then::Repeat, beside: 0 };
        let (load, warm_up, length) = match name {
            // Each connection leaves two in TIME_WAIT for a minute: enough of them slow the search
            // for a free port, so the runs are no longer than they must be.
            "short" | "backends1" | "backends100" | "backends1000" | "workers1" | "workers2" => {
                (Load::Exchange(short), 2000, 16_000)
            }
            "short9k" => (Load::Exchange(Exchange { beside: 9000, ..short }), 2000, 16_000),
            "bulk1" => (Load::Bulk { connections: 1 }, GB / 5, 2 * GB),
            "bulk64" => (Load::Bulk { connections: 64 }, GB / 2, 4 * GB),
            "ping64" => (Load::Exchange(kept(SMALL, 64)), 5000, 80_000),
            "ping1k" => (Load::Exchange(kept(1024, 64)), 5000, 80_000),
            "conns100" => (Load::Exchange(kept(SMALL, 100)), 10_000, 80_000),
            "conns1k" => (Load::Exchange(kept(SMALL, 1000)), 10_000, 80_000),
            "conns9k" => (Load::Exchange(kept(SMALL, 9000)), 20_000, 80_000),
            "latency-kept" => {
                let connections = 64;
                let then = Then::Repeat;
                let load = OpenLoop { bytes: SMALL, then, connections, beside: Beside::Nobody };
                (Load::OpenLoop(load), 20_000, 120_000)
            }
            "tls-calm" | "tls-storm" | "tls-hostile" => {
                let beside = match name {
                    "tls-storm" => Beside::Storm(STORM),
                    "tls-hostile" => Beside::Hostile,
                    _ => Beside::Nobody,
                };
                let load = OpenLoop { bytes: SMALL, then: Then::Repeat, connections: 64, beside };
                (Load::OpenLoop(load), 4000, 24_000)
            }
            "latency-new" => {
                let (then, connections) = (Then::Reconnect, 0);
                let load = OpenLoop { bytes: SMALL, then, connections, beside: Beside::Nobody };
                (Load::OpenLoop(load), 4000, 40_000)
            }
            "idle" | "tls-idle" => (Load::Idle { connections: idle }, 100, 0),
            "tls-full-ecdsa" | "tls12-full-ecdsa" | "tls-resumed" | "tls12-resumed" => {
                (Load::Exchange(short), 500, 5000)
            }
            "tls-full-rsa" | "tls12-full-rsa" => (Load::Exchange(short), 200, 2000),
            "tls-bulk1" => (Load::Bulk { connections: 1 }, GB / 5, GB),
            "tls-bulk16" => (Load::Bulk { connections: 16 }, GB / 5, 2 * GB),
            _ => unreachable!("{name} is not in NAMES"),
        };
        let (unit, precision, columns): (_, _, &[Column]) = match load {
            Load::Exchange(_) => ("µs", 1, &[Column("1000/s", 1), Column("busy %", 0)]),
            Load::Bulk { .. } => ("s", 3, &[Column("GB/s", 2), Column("busy %", 0)]),
            Load::OpenLoop(_) => (
                "µs",
                0,
                &[
                    Column("p50", 0),
                    Column("p99.9", 0),
                    Column("CPU µs", 1),
                    Column("1000/s", 1),
                    Column("busy %", 0),
                ],
            ),
            Load::Idle { .. } => {
                ("bytes", 0, &[Column("Pss", 0), Column("private", 0), Column("kernel", 0)])
            }
        };
        let mut scenario = Self {
            name,
            what: String::new(),
            unit,
            precision,
            columns,
            workers: if name == "workers2" { 2 } else { 1 },
            load,
            warm_up,
            length: length / part,
            backends: match name {
                "backends1" => 1,
                "backends100" => 100,
                "backends1000" => 1000,
                _ => BACKENDS,
            },
            shares_cores: name.starts_with("workers"),
            tls: tls_of(name)?,
            rate: CALM,
        };
        scenario.what = scenario.describe();
        Ok(scenario)
    }

    fn describe(&self) -> String {
        let mut text = match self.load {
            Load::Exchange(Exchange { bytes, clients, then: Then::Reconnect, .. }) => {
                format!("CPU per connection, {bytes} bytes each way, {clients} in flight")
            }
            Load::Exchange(Exchange { bytes, clients, then: Then::Repeat, .. }) => {
                format!("CPU per round trip of {bytes} bytes, {clients} connections")
            }
            Load::Bulk { connections: 1 } => "CPU per GB, 1 connection".to_owned(),
            Load::Bulk { connections } => format!("CPU per GB, {connections} connections"),
            Load::Idle { connections } => {
                format!("user memory (VmRSS) per idle connection, of {connections}")
            }
            Load::OpenLoop(OpenLoop { bytes, then, connections, beside }) => {
                let on = match then {
                    Then::Repeat => format!("{connections} kept connections"),
                    Then::Reconnect => "a new connection each".to_owned(),
                };
                format!(
                    "99th percentile of latency, {:.0} requests/s of {bytes} bytes, {on}",
                    self.rate
                ) + &match beside {
                    Beside::Nobody => String::new(),
                    Beside::Storm(rate) => format!(", beside {rate:.0} new connections/s"),
                    Beside::Hostile => format!(
                        ", beside {} that drip and {:.0} resets/s",
                        hostile::DRIPPING,
                        hostile::RESETS
                    ),
                }
            }
        };
        if let Load::Exchange(Exchange { beside: 1.., .. }) = self.load {
            text.push_str(", 9000 idle beside");
        }
        if let Some(tls) = &self.tls {
            text.push_str(&format!(", {}", tls.version()));
            if let Load::Exchange(_) = self.load {
                text.push_str(&format!(", {}", tls.handshake()));
            }
        }
        if self.backends != BACKENDS {
            text.push_str(&format!(", backends: {}", self.backends));
        }
        if self.shares_cores {
            text.push_str(&format!(", workers: {}, both cores for all", self.workers));
        }
        text
    }

    /// Whether a subject can do what this is about.
    pub fn is_for(&self, kind: Kind) -> bool {
        kind.can_have(self.workers, self.tls.is_some())
    }

    /// Finds the rate at which latency is measured: part of what a proxy can do.
    pub fn calibrate(&mut self, reference: &Program, machine: &Machine) -> io::Result<()> {
        let Load::OpenLoop(OpenLoop { bytes, then, connections, .. }) = self.load else {
            return Ok(());
        };
        if self.tls.is_some() {
            return Ok(());
        }
        let clients = if then == Then::Repeat { connections } else { SHORT };
        let closed = Exchange { bytes, clients, then, beside: 0 };
        let mut capacity = 0.0_f64;
        // What disturbs a run makes it slower, so the fastest is the truest.
        for _ in 0..CALIBRATIONS {
            let mut site = Site::open(reference, machine, self.plan())?;
            let (measured, _) = closed.run(&mut site, self.warm_up, self.length / 4)?;
            capacity = capacity.max(measured.units as f64 / measured.wall.as_secs_f64());
        }
        self.rate = (capacity * MODERATE / 1000.0).round().max(1.0) * 1000.0;
        self.what = self.describe();
        Ok(())
    }

    fn plan(&self) -> Plan<'_> {
        Plan {
            behaviour: match self.load {
                Load::Exchange(Exchange { bytes, .. }) | Load::OpenLoop(OpenLoop { bytes, .. }) => {
                    Behaviour::Answer(bytes)
                }
                Load::Bulk { .. } => Behaviour::Flood,
                Load::Idle { .. } => Behaviour::Answer(SMALL),
            },
            backends: self.backends,
            workers: self.workers,
            shares_cores: self.shares_cores,
            tls: self.tls.as_ref(),
        }
    }

    /// Measures one proxy once. Latency is measured again if others had part of the load's core.
    pub fn run_undisturbed(&self, program: &Program, machine: &Machine) -> io::Result<Outcome> {
        let mut best = self.run(program, machine)?;
        if let Load::OpenLoop(_) = self.load {
            for _ in 0..REPEATS {
                if best.undisturbed > UNDISTURBED {
                    break;
                }
                let again = self.run(program, machine)?;
                if again.undisturbed > best.undisturbed {
                    best = again;
                }
            }
        }
        Ok(best)
    }

    /// Measures one proxy once.
    fn run(&self, program: &Program, machine: &Machine) -> io::Result<Outcome> {
        let mut site = Site::open(program, machine, self.plan())?;
        let (warm_up, length) = (self.warm_up, self.length);
        match &self.load {
            Load::Exchange(exchange) => {
                let (measured, failures) = exchange.run(&mut site, warm_up, length)?;
                let mut outcome = Outcome::from_cpu(&measured, 1e-6, 1e3, failures);
                if self.shares_cores {
                    // The load sleeps when it can.
                    outcome.undisturbed = 1.0;
                }
                Ok(outcome)
            }
            &Load::Bulk { connections } => {
                let measured = bulk::run(&mut site, connections, warm_up, length)?;
                Ok(Outcome::from_cpu(&measured, 1e-9, 1e9, 0))
            }
            &Load::Idle { connections } => {
                let (before, with, failures) = idle::run(&mut site, connections, SMALL, warm_up)?;
                Ok(Outcome::from_memory(before, with, connections, failures))
            }
            Load::OpenLoop(open) => {
                let (measured, latencies, failures) =
                    open.run(&mut site, self.rate, warm_up, length)?;
                Ok(Outcome::from_latency(&measured, &latencies, failures))
            }
        }
    }
}

/// What a scenario of this name speaks.
fn tls_of(name: &str) -> io::Result<Option<Tls>> {
    let (version, rest) = if let Some(rest) = name.strip_prefix("tls-") {
        (Version::Tls13, rest)
    } else if let Some(rest) = name.strip_prefix("tls12-") {
        (Version::Tls12, rest)
    } else {
        return Ok(None);
    };
    let key = if rest == "full-rsa" { Key::Rsa } else { Key::Ecdsa };
    Tls::new(version, key, rest == "resumed").map(Some)
}

impl Outcome {
    /// `small` seconds are the unit of the value, `many` units of work that of the rate.
    fn from_cpu(measured: &Measured, small: f64, many: f64, failures: u64) -> Self {
        let units = measured.units as f64;
        let (cpu, wall) = (measured.subject.as_secs_f64(), measured.wall.as_secs_f64());
        Self {
            value: cpu / units / small,
            columns: vec![units / wall / many, 100.0 * cpu / wall],
            undisturbed: measured.load.as_secs_f64() / wall,
            failures,
        }
    }

    fn from_latency(measured: &Measured, latencies: &Slices, failures: u64) -> Self {
        let quantile = |share| latencies.quantile(share) * 1e6;
        let cpu = Self::from_cpu(measured, 1e-6, 1e3, failures);
        let mut columns = vec![quantile(0.5), quantile(0.999), cpu.value];
        columns.extend(cpu.columns);
        Self { value: quantile(0.99), columns, ..cpu }
    }

    fn from_memory(before: Memory, with: Memory, connections: usize, failures: u64) -> Self {
        let each = |before: u64, with: u64| (with as f64 - before as f64) / connections as f64;
        Self {
            value: each(before.rss, with.rss),
            columns: vec![
                each(before.pss, with.pss),
                each(before.private, with.private),
                each(before.kernel, with.kernel),
            ],
            undisturbed: 1.0,
            failures,
        }
    }
}
