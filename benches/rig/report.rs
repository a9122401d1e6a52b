//! What comes out: a table per scenario as soon as it is done, and JSON at the end.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::measure::Spread;
use crate::options::Options;
use crate::scenario::{Column, Outcome, Scenario};
use crate::subject::Program;

pub struct Report {
    machine: Machine,
    versions: Vec<(String, String)>,
    rounds: usize,
    quick: bool,
    tables: Vec<Table>,
}

impl Report {
    pub fn new(machine: Machine, programs: &[Program], options: &Options) -> Self {
        let versions = programs.iter().map(|p| (p.label.clone(), p.version.clone())).collect();
        let (rounds, quick) = (options.rounds(), options.quick);
        Self { machine, versions, rounds, quick, tables: Vec::new() }
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    pub fn push(&mut self, table: Table) {
        self.tables.push(table);
    }

    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The machine in a line.
    pub fn subtitle(&self) -> String {
        let Machine { kernel, cpu, network, .. } = &self.machine;
        format!("{cpu}, {kernel}, over {}; {} rounds", network.name(), self.rounds)
    }

    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.tables.iter().flat_map(|table| &table.rows).all(Row::is_clean)
    }

    pub fn print_heading(&self) {
        let Machine { cores, network, kernel, cpu, congestion_control } = &self.machine;
        println!("{cpu}, {kernel}, {congestion_control}, over {}", network.name());
        println!("load on core {}, proxy on core {}", cores.load, cores.subject);
        println!("{} interleaved rounds; CPU is the proxy's, user and system", self.rounds);
        for (label, version) in &self.versions {
            println!("  {label}: {version}");
        }
        if self.quick {
            println!("quick: less work, fewer rounds, and not all scenarios (--only has them all)");
        }
    }

    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        let Machine { cores, network, kernel, cpu, congestion_control } = &self.machine;
        let versions: serde_json::Map<String, Value> =
            self.versions.iter().map(|(label, text)| (label.clone(), json!(text))).collect();
        let scenarios: Vec<Value> = self.tables.iter().map(Table::to_json).collect();
        let all = json!({
            "machine": {
                "cpu": cpu,
                "kernel": kernel,
                "network": network.name(),
                "congestion_control": congestion_control,
                "load_core": cores.load,
                "proxy_core": cores.subject,
            },
            "versions": versions,
            "rounds": self.rounds,
            "quick": self.quick,
            "scenarios": scenarios,
        });
        fs::write(path, format!("{all:#}\n"))
    }
}

/// The results of one scenario.
pub struct Table {
    name: &'static str,
    what: String,
    unit: &'static str,
    precision: usize,
    columns: &'static [Column],
    rows: Vec<Row>,
}

struct Row {
    label: String,
    is_reference: bool,
    outcomes: Vec<Outcome>,
    failed_runs: u64,
}

impl Table {
    pub fn new(scenario: &Scenario, programs: &[Program]) -> Self {
        let rows = programs.iter().map(|program| Row {
            label: program.label.clone(),
            is_reference: program.kind.is_reference(),
            outcomes: Vec::new(),
            failed_runs: 0,
        });
        Self {
            name: scenario.name,
            what: scenario.what.clone(),
            unit: scenario.unit,
            precision: scenario.precision,
            columns: scenario.columns,
            rows: rows.collect(),
        }
    }

    pub fn record(&mut self, row: usize, outcome: Outcome) {
        self.rows[row].outcomes.push(outcome);
    }

    /// Whether a run had no value. The next would have none either, and may take long to say so.
    pub fn has_failed(&self, row: usize) -> bool {
        self.rows[row].failed_runs > 0
    }

    /// A run that has no value: the proxy did not start, or the load did not come through.
    pub fn record_failed_run(&mut self, row: usize) {
        self.rows[row].failed_runs += 1;
    }

    /// Its name, what its values are, and their unit.
    pub fn title(&self) -> (&str, &str, &str) {
        (self.name, &self.what, self.unit)
    }

    /// The label, the median as text and the ratio of each row that has them.
    pub fn bars(&self) -> Vec<(&str, String, f64)> {
        let Some((_, reference)) = self.reference() else {
            return Vec::new();
        };
        self.rows
            .iter()
            .filter_map(|row| {
                let median = row.values()?.median;
                let text = format!("{median:.*}", self.precision);
                Some((row.label.as_str(), text, median / reference))
            })
            .collect()
    }

    /// What the ratios are against: the HAProxy with the lower median, if one was measured.
    fn reference(&self) -> Option<(&str, f64)> {
        self.rows
            .iter()
            .filter(|row| row.is_reference)
            .filter_map(|row| Some((row.label.as_str(), row.values()?.median)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    pub fn print(&self) {
        let against = match self.reference() {
            Some((label, _)) => format!("; ratio against {label}"),
            None => String::new(),
        };
        println!("\n{}: {}, in {}{against}", self.name, self.what, self.unit);
        let mut lines =
            vec![["subject", "median", "min", "max", "ratio"].map(str::to_owned).to_vec()];
        lines[0].extend(self.columns.iter().map(|Column(name, _)| (*name).to_owned()));
        lines[0].push("failures".to_owned());
        for row in &self.rows {
            lines.push(self.cells(row));
        }
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        for line in &lines {
            let mut text = format!("  {:<width$}", line[0], width = widths[0]);
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                let _ = write!(text, "  {cell:>width$}");
            }
            println!("{text}");
        }
        let undisturbed = self.undisturbed();
        if undisturbed < 0.9 {
            println!(
                "  DISTURBED: the load had {:.0} % of its core, other work ran on this machine",
                100.0 * undisturbed
            );
        }
    }

    /// The least share of its core that the load had in any run.
    fn undisturbed(&self) -> f64 {
        let outcomes = self.rows.iter().flat_map(|row| &row.outcomes);
        outcomes.map(|outcome| outcome.undisturbed).fold(1.0, f64::min)
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let mut cells = vec![row.label.clone()];
        if let Some(Spread { median, min, max }) = row.values() {
            cells.extend([median, min, max].map(|value| format!("{value:.*}", self.precision)));
            cells.push(match self.reference() {
                Some((_, reference)) => format!("{:.2}", median / reference),
                None => "-".to_owned(),
            });
            for (index, Column(_, precision)) in self.columns.iter().enumerate() {
                let median = row.column(index).map_or(f64::NAN, |spread| spread.median);
                cells.push(format!("{median:.precision$}"));
            }
        } else {
            cells.resize(5 + self.columns.len(), "-".to_owned());
        }
        cells.push(match row.failed_runs {
            0 => row.failed_connections().to_string(),
            runs => format!("{} + {runs} runs", row.failed_connections()),
        });
        cells
    }

    fn to_json(&self) -> Value {
        let reference = self.reference();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let values = row.values();
                let mut columns = serde_json::Map::new();
                for (index, Column(name, _)) in self.columns.iter().enumerate() {
                    let median = row.column(index).map(|spread| spread.median);
                    columns.insert((*name).to_owned(), json!(median));
                }
                json!({
                    "subject": row.label,
                    "median": values.map(|spread| spread.median),
                    "min": values.map(|spread| spread.min),
                    "max": values.map(|spread| spread.max),
                    "ratio": values.zip(reference).map(|(spread, (_, of))| spread.median / of),
                    "rounds": row.outcomes.iter().map(|outcome| outcome.value).collect::<Vec<_>>(),
                    "columns": columns,
                    "failed_connections": row.failed_connections(),
                    "failed_runs": row.failed_runs,
                })
            })
            .collect();
        json!({
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "reference": reference.map(|(label, _)| label),
            "load_share_of_core": self.undisturbed(),
            "rows": rows,
        })
    }
}

impl Row {
    fn values(&self) -> Option<Spread> {
        Spread::of(self.outcomes.iter().map(|outcome| outcome.value))
    }

    fn column(&self, index: usize) -> Option<Spread> {
        Spread::of(self.outcomes.iter().map(|outcome| outcome.columns[index]))
    }

    fn failed_connections(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.failures).sum()
    }

    fn is_clean(&self) -> bool {
        self.failed_runs == 0 && self.failed_connections() == 0
    }
}
