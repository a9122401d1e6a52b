//! The scenarios: which load, how much of it, and what the result is called.
//!
//! `main` goes through [`Scenario::all`] and calls [`Scenario::run`] once per subject and round.

use std::io;

use crate::backend::Behaviour;
use crate::bulk;
use crate::exchange::{Exchange, Then};
use crate::idle;
use crate::machine::Cores;
use crate::measure::{Measured, Memory};
use crate::options::Options;
use crate::site::Site;
use crate::subject::Program;

/// What `--only` chooses from.
pub const NAMES: [&str; 6] = ["short", "bulk1", "bulk64", "ping64", "ping1k", "idle"];

const GB: u64 = 1_000_000_000;

/// Bytes of a message in all scenarios that are not about its size.
const SMALL: usize = 64;

pub struct Scenario {
    pub name: &'static str,
    pub what: String,
    pub unit: &'static str,
    /// Digits after the point that mean something.
    pub precision: usize,
    /// What accompanies the value.
    pub columns: &'static [Column],
    load: Load,
    warm_up: u64,
    length: u64,
}

/// A name, and how many digits after the point mean something.
pub struct Column(pub &'static str, pub usize);

enum Load {
    Exchange(Exchange),
    Bulk { connections: usize },
    Idle { connections: usize },
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
    pub fn all(options: &Options) -> Vec<Self> {
        let part = if options.quick { 2 } else { 1 };
        let mut all: Vec<Self> =
            NAMES.iter().map(|name| Self::named(name, part, options.idle)).collect();
        all.retain(|scenario| options.wants(scenario.name));
        all
    }

    /// `part` divides the work of the window.
    fn named(name: &'static str, part: u64, idle: usize) -> Self {
        let (load, warm_up, length) = match name {
            // Each connection leaves two in TIME_WAIT for a minute: enough of them slow the search
            // for a free port, so the runs are no longer than they must be.
            "short" => (Load::exchange(SMALL, 32, Then::Reconnect), 2000, 16_000 / part),
            "bulk1" => (Load::Bulk { connections: 1 }, GB / 5, 2 * GB / part),
            "bulk64" => (Load::Bulk { connections: 64 }, GB / 2, 4 * GB / part),
            "ping64" => (Load::exchange(SMALL, 64, Then::Repeat), 5000, 80_000 / part),
            "ping1k" => (Load::exchange(1024, 64, Then::Repeat), 5000, 80_000 / part),
            "idle" => (Load::Idle { connections: idle }, 100, 0),
            _ => unreachable!("{name} is not in NAMES"),
        };
        let what = match load {
            Load::Exchange(Exchange { bytes, clients, then: Then::Reconnect }) => {
                format!("CPU per connection, {bytes} bytes each way, {clients} in flight")
            }
            Load::Exchange(Exchange { bytes, clients, then: Then::Repeat }) => {
                format!("CPU per round trip of {bytes} bytes, {clients} connections")
            }
            Load::Bulk { connections: 1 } => "CPU per GB, 1 connection".to_owned(),
            Load::Bulk { connections } => format!("CPU per GB, {connections} connections"),
            Load::Idle { connections } => {
                format!("user memory (VmRSS) per idle connection, of {connections}")
            }
        };
        let (unit, precision, columns) = match load {
            Load::Exchange(_) => ("µs", 1, &[Column("1000/s", 1), Column("busy %", 0)]),
            Load::Bulk { .. } => ("s", 3, &[Column("GB/s", 2), Column("busy %", 0)]),
            Load::Idle { .. } => ("bytes", 0, &[Column("Pss", 0), Column("private", 0)]),
        };
        Self { name, what, unit, precision, columns, load, warm_up, length }
    }

    /// Measures one proxy once.
    pub fn run(&self, program: &Program, cores: Cores) -> io::Result<Outcome> {
        match &self.load {
            Load::Exchange(exchange) => {
                let mut site = Site::open(program, cores, Behaviour::Answer(exchange.bytes))?;
                let (measured, failures) = exchange.run(&mut site, self.warm_up, self.length)?;
                Ok(Outcome::from_cpu(&measured, 1e-6, 1e3, failures))
            }
            &Load::Bulk { connections } => {
                let mut site = Site::open(program, cores, Behaviour::Flood)?;
                let measured = bulk::run(&mut site, connections, self.warm_up, self.length)?;
                Ok(Outcome::from_cpu(&measured, 1e-9, 1e9, 0))
            }
            &Load::Idle { connections } => {
                let mut site = Site::open(program, cores, Behaviour::Answer(SMALL))?;
                let (before, with, failures) =
                    idle::run(&mut site, connections, SMALL, self.warm_up)?;
                Ok(Outcome::from_memory(before, with, connections, failures))
            }
        }
    }
}

impl Load {
    fn exchange(bytes: usize, clients: usize, then: Then) -> Self {
        Self::Exchange(Exchange { bytes, clients, then })
    }
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

    fn from_memory(before: Memory, with: Memory, connections: usize, failures: u64) -> Self {
        let each = |before: u64, with: u64| (with as f64 - before as f64) / connections as f64;
        Self {
            value: each(before.rss, with.rss),
            columns: vec![each(before.pss, with.pss), each(before.private, with.private)],
            undisturbed: 1.0,
            failures,
        }
    }
}
