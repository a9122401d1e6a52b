//! The command line, read once by `main`.

use std::path::PathBuf;

use crate::network::Wanted;
use crate::scenario;
use crate::subject::Kind;

pub const USAGE: &str = "\
usage: cargo bench --bench rig -- [OPTIONS]

  --quick              less work, fewer rounds and not all scenarios: below four minutes in all
  --rounds N           rounds per scenario (default 9; with --quick 3)
  --only A,B           scenarios, or prefixes of their names: short, bulk1, bulk64, ping64, ping1k,
                       conns100, conns1k, conns9k, short9k, backends1, backends100, backends1000,
                       latency-kept, latency-new, workers1, workers2, idle, tls-full-ecdsa,
                       tls-full-rsa, tls12-full-ecdsa, tls12-full-rsa, tls-resumed, tls12-resumed,
                       tls-bulk1, tls-bulk16, tls-idle, tls-calm, tls-storm, tls-hostile
  --subjects A,B       lockgate, floor, haproxy, haproxy-splice, nginx, envoy (default: all);
                       a subject named twice is measured twice, which shows the noise
  --network KIND       loopback (default), or veth: the proxy in a network namespace of its own,
                       behind virtual Ethernet devices (needs root)
  --idle N             connections in the idle scenario (default 3000)
  --lockgate PATH      the lockgate binary (default: the one cargo built)
  --envoy PATH         the envoy binary (default: where PATH has it)
  --json FILE          also write all results to FILE
  --chart FILE         also draw them, as SVG
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
    pub envoy: Option<PathBuf>,
    pub json: Option<PathBuf>,
    pub chart: Option<PathBuf>,
    pub network: Wanted,
}

impl Options {
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut options = Self {
            quick: false,
            rounds: None,
            only: Vec::new(),
            subjects: Kind::ALL.to_vec(),
            idle: 3000,
            lockgate: option_env!("CARGO_BIN_EXE_lockgate").map(PathBuf::from),
            envoy: None,
            json: None,
            chart: None,
            network: Wanted::Loopback,
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
                "--envoy" => options.envoy = Some(value()?.into()),
                "--chart" => options.chart = Some(value()?.into()),
                "--network" => {
                    options.network = match value()?.as_str() {
                        "loopback" => Wanted::Loopback,
                        "veth" => Wanted::Veth,
                        other => return Err(format!("no network is called {other}")),
                    }
                }
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
        self.rounds.unwrap_or(if self.quick { 3 } else { 9 })
    }

    /// Whether `--only` lets this scenario through or, without it, `--quick` does.
    pub fn wants(&self, scenario: &str) -> bool {
        if self.only.is_empty() {
            return !self.quick || scenario::QUICK.contains(&scenario);
        }
        self.only.iter().any(|wanted| scenario.starts_with(wanted))
    }
}

fn positive(option: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{option} needs a positive number, not {value}")),
    }
}
