//! The command line, read once by `main`.

use std::path::PathBuf;

use crate::scenario;
use crate::subject::Kind;

pub const USAGE: &str = "\
usage: cargo bench --bench rig -- [OPTIONS]

  --quick              less work and fewer rounds: 60 to 90 seconds in all
  --rounds N           rounds per scenario (default 9; with --quick 5)
  --only A,B           scenarios, or prefixes of their names:
                       short, bulk1, bulk64, ping64, ping1k, idle
  --subjects A,B       lockgate, floor, haproxy, haproxy-splice, nginx (default: all but nginx);
                       a subject named twice is measured twice, which shows the noise
  --idle N             connections in the idle scenario (default 3000)
  --lockgate PATH      the lockgate binary (default: the one cargo built)
  --json FILE          also write all results to FILE
  --help               this text
";

/// What the rig was asked to do.
pub enum Command {
    Measure(Options),
    Help,
    /// There was no argument at all, not even cargo's `--bench`.
    Nothing,
}

pub struct Options {
    pub quick: bool,
    rounds: Option<usize>,
    only: Vec<String>,
    pub subjects: Vec<Kind>,
    pub idle: usize,
    pub lockgate: Option<PathBuf>,
    pub json: Option<PathBuf>,
}

impl Options {
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut options = Self {
            quick: false,
            rounds: None,
            only: Vec::new(),
            subjects: vec![Kind::Lockgate, Kind::Floor, Kind::Haproxy, Kind::HaproxySplice],
            idle: 3000,
            lockgate: option_env!("CARGO_BIN_EXE_lockgate").map(PathBuf::from),
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
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = Some(positive(&arg, &value()?)?),
                "--idle" => options.idle = positive(&arg, &value()?)?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--subjects" => {
                    options.subjects =
                        value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--lockgate" => options.lockgate = Some(value()?.into()),
                "--json" => options.json = Some(value()?.into()),
                _ => return Err(format!("unknown option {arg}")),
            }
        }
        for wanted in &options.only {
            if !scenario::NAMES.iter().any(|name| name.starts_with(wanted)) {
                return Err(format!("no scenario is called {wanted}"));
            }
        }
        Ok(if any { Command::Measure(options) } else { Command::Nothing })
    }

    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 5 } else { 9 })
    }

    /// Whether `--only` lets this scenario through.
    pub fn wants(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| scenario.starts_with(wanted))
    }
}

fn positive(option: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{option} needs a positive number, not {value}")),
    }
}
