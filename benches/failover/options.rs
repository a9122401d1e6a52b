//! The command line, read once by `main`.

use std::path::PathBuf;
use std::time::Duration;

use crate::rows::Row;
use crate::subject::{Programs, Subject};

pub const USAGE: &str = "\
usage: cargo bench --bench failover -- [OPTIONS]      (as root)

  --trials N           trials of each row (default 20; 1 of busy, which takes a minute each)
  --rows A,B           cut, stop, kill, kill-all, pause, busy, many (default: all)
  --peers A,B          keepalived, keepalived-100ms, keepalived-10ms, keepalived-tuned, lockgate,
                       lockgate-10ms (default: all; each row has those of them that it is about)
  --busy SECONDS       how long the row busy lasts (default 60)
  --lockgate PATH      the lockgate binary (default: the one cargo built)
  --keepalived PATH    the keepalived binary (default: /usr/sbin/keepalived)
  --json FILE          also write all results to FILE
  --help               this text
";

/// What this program was asked to do.
pub enum Command {
    Measure(Options),
    Help,
    /// There was no argument at all, not even cargo's `--bench`.
    Nothing,
}

pub struct Options {
    trials: Option<usize>,
    pub rows: Vec<Row>,
    peers: Vec<Subject>,
    pub busy: Duration,
    pub programs: Programs,
    pub json: Option<PathBuf>,
}

impl Options {
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut options = Self {
            trials: None,
            rows: Row::ALL.to_vec(),
            peers: Subject::ALL.to_vec(),
            busy: Duration::from_secs(60),
            programs: Programs {
                keepalived: "/usr/sbin/keepalived".into(),
                lockgate: option_env!("CARGO_BIN_EXE_lockgate").unwrap_or("lockgate").into(),
            },
            json: None,
        };
        let mut any = false;
        while let Some(arg) = args.next() {
            any = true;
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                // Cargo passes this to every bench target.
                "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--trials" => options.trials = Some(positive(&arg, &value()?)?),
                "--busy" => {
                    options.busy = Duration::from_secs(positive(&arg, &value()?)? as u64);
                }
                "--rows" => {
                    options.rows = value()?.split(',').map(row).collect::<Result<_, _>>()?;
                }
                "--peers" => {
                    options.peers =
                        value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--lockgate" => options.programs.lockgate = value()?.into(),
                "--keepalived" => options.programs.keepalived = value()?.into(),
                "--json" => options.json = Some(value()?.into()),
                _ => return Err(format!("unknown option {arg}")),
            }
        }
        Ok(if any { Command::Measure(options) } else { Command::Nothing })
    }

    /// How many trials a row has.
    pub fn trials(&self, row: Row) -> usize {
        self.trials.unwrap_or_else(|| row.trials())
    }

    /// Who takes part in a row.
    pub fn subjects(&self, row: Row) -> Vec<Subject> {
        let all = row.subjects().iter().copied();
        all.filter(|subject| self.peers.contains(subject)).collect()
    }
}

fn row(name: &str) -> Result<Row, String> {
    let found = Row::ALL.into_iter().find(|row| row.name() == name);
    found.ok_or_else(|| format!("no row is called {name}"))
}

fn positive(option: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{option} needs a positive number, not {value}")),
    }
}
