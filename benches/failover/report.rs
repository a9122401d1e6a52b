//! What comes out: a table per row as soon as it is done, and JSON at the end.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use nix::sys::utsname::uname;
use serde_json::{Value, json};

use crate::options::Options;
use crate::rows::{Row, Values};
use crate::subject::Subject;

/// The results of all rows.
pub struct Report {
    kernel: String,
    versions: Vec<(Subject, String)>,
    tables: Vec<Table>,
}

impl Report {
    pub fn new(options: &Options) -> io::Result<Self> {
        let name = uname()?;
        let kernel =
            format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy());
        let mut versions: Vec<(Subject, String)> = Vec::new();
        for subject in options.rows.iter().flat_map(|row| options.subjects(*row)) {
            if versions.iter().all(|(other, _)| *other != subject) {
                let version = options.programs.version(subject).map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot run {subject}: {error}"))
                })?;
                versions.push((subject, version));
            }
        }
        Ok(Self { kernel, versions, tables: Vec::new() })
    }

    pub fn print_heading(&self) {
        println!("{}", self.kernel);
        for (subject, version) in &self.versions {
            println!("  {subject}: {version}");
        }
    }

    pub fn push(&mut self, table: Table) {
        table.print();
        self.tables.push(table);
    }

    /// Whether every trial came to its end.
    pub fn is_clean(&self) -> bool {
        self.tables.iter().flat_map(|table| &table.lines).all(|line| line.failed == 0)
    }

    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        let versions: serde_json::Map<String, Value> = self
            .versions
            .iter()
            .map(|(subject, version)| (subject.to_string(), json!(version)))
            .collect();
        let all = json!({
            "kernel": self.kernel,
            "versions": versions,
            "rows": self.tables.iter().map(Table::to_json).collect::<Vec<_>>(),
        });
        fs::write(path, format!("{all:#}\n"))
    }
}

/// The results of a row.
pub struct Table {
    row: Row,
    lines: Vec<Line>,
}

struct Line {
    subject: Subject,
    trials: Vec<Values>,
    failed: usize,
}

impl Table {
    pub fn new(row: Row, subjects: &[Subject]) -> Self {
        let line = |subject: &Subject| Line { subject: *subject, trials: vec![], failed: 0 };
        Self { row, lines: subjects.iter().map(line).collect() }
    }

    /// Takes what a trial has brought, if anything.
    pub fn record(&mut self, line: usize, outcome: io::Result<Values>) {
        let line = &mut self.lines[line];
        match outcome {
            Ok(values) => line.trials.push(values),
            Err(error) => {
                eprintln!("failover: {}, {}: {error}", self.row.name(), line.subject);
                line.failed += 1;
            }
        }
    }

    fn print(&self) {
        println!("\n{}: {}; median and worst", self.row.name(), self.row.what());
        let mut cells = vec![vec!["subject".to_owned(), "trials".to_owned()]];
        cells[0].extend(self.row.columns().iter().map(|&column| column.to_owned()));
        for line in &self.lines {
            let trials = match line.failed {
                0 => line.trials.len().to_string(),
                failed => format!("{} + {failed} failed", line.trials.len()),
            };
            let mut row = vec![line.subject.to_string(), trials];
            for column in 0..self.row.columns().len() {
                row.push(
                    line.spread(self.row, column)
                        .map_or_else(|| "-".to_owned(), |spread| spread.text()),
                );
            }
            cells.push(row);
        }
        let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
        for row in &cells {
            let mut text = format!("  {:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _ = write!(text, "  {cell:>width$}");
            }
            println!("{text}");
        }
    }

    fn to_json(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(|line| line.to_json(self.row)).collect();
        json!({ "name": self.row.name(), "what": self.row.what(), "subjects": lines })
    }
}

impl Line {
    fn spread(&self, row: Row, column: usize) -> Option<Spread> {
        let mut values: Vec<f64> = self.trials.iter().map(|values| values[column]).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            odd if odd % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        let (least, most) = (values[0], values[values.len() - 1]);
        let name = row.columns()[column];
        // Of addresses that were announced, few are bad.
        let worst = if name == "all announced" { least } else { most };
        let counted = (name == "black-holed").then(|| (values.iter().sum(), values.len()));
        Some(Spread { median, worst, counted, is_time: name.contains(" ms") })
    }

    fn to_json(&self, row: Row) -> Value {
        let number = |value: f64| {
            // JSON has no infinity.
            if value.is_finite() { json!((value * 1e3).round() / 1e3) } else { json!("never") }
        };
        let mut columns = serde_json::Map::new();
        for (index, name) in row.columns().iter().enumerate() {
            let all: Vec<_> = self.trials.iter().map(|values| number(values[index])).collect();
            let spread = self.spread(row, index);
            let [median, worst] = [
                spread.as_ref().map(|spread| spread.median),
                spread.as_ref().map(|spread| spread.worst),
            ]
            .map(|value| value.map(number));
            columns.insert(
                (*name).to_owned(),
                json!({ "median": median, "worst": worst, "trials": all }),
            );
        }
        json!({ "subject": self.subject.to_string(), "failed": self.failed, "columns": columns })
    }
}

/// What a column comes to.
struct Spread {
    median: f64,
    worst: f64,
    /// Of things that are or are not: how often they are, and of how many.
    counted: Option<(f64, usize)>,
    is_time: bool,
}

impl Spread {
    fn text(&self) -> String {
        if let Some((count, of)) = self.counted {
            return format!("{count} of {of}");
        }
        let show = |value: f64| match value {
            value if !value.is_finite() => "never".to_owned(),
            value if self.is_time && value < 1000.0 => format!("{value:.1}"),
            value => format!("{value:.0}"),
        };
        format!("{} / {}", show(self.median), show(self.worst))
    }
}
