//! The command line, read once by `main`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

pub const USAGE: &str = "\
usage: scripts/soak [OPTIONS]      (as root: in a network namespace of its own)

  --minutes N      how long (default 5); --seconds N for less
  --seed S         what is done follows from it (default: from the time; it is told)
  --clients N      checked clients at a time (default 16)
  --lockgate PATH  the lockgate binary (default: the one cargo built)
  --log FILE       write what the gateway logs there, and its access records to FILE with the
                   extension `records` (default: the end of the log, if something is unexplained)
  --measure        measure what crowds that misbehave cost others, beside haproxy, instead (as root)
  --help           this text
";

/// What this program was asked to do.
pub enum Command {
    Soak(Options),
    /// To be a backend, by the soak itself.
    Backend {
        name: String,
        ip: Ipv4Addr,
    },
    Help,
    /// There was no argument at all, not even cargo's `--bench`.
    Nothing,
}

pub struct Options {
    pub length: Duration,
    pub seed: u64,
    pub clients: usize,
    pub lockgate: PathBuf,
    pub log: Option<PathBuf>,
    /// Measure what crowds cost, instead.
    pub measure: bool,
}

impl Options {
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut options = Self {
            length: Duration::from_secs(300),
            seed: now.map_or(0, |since| since.as_secs()),
            clients: 16,
            lockgate: option_env!("CARGO_BIN_EXE_lockgate").unwrap_or("lockgate").into(),
            log: None,
            measure: false,
        };
        let mut any = false;
        while let Some(arg) = args.next() {
            any = true;
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                // Cargo passes this to every bench target.
                "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--backend" => {
                    let name = value()?;
                    let ip = value()?.parse().map_err(|_| "--backend NAME IP".to_owned())?;
                    return Ok(Command::Backend { name, ip });
                }
                "--minutes" => options.length = Duration::from_secs(60 * number(&arg, &value()?)?),
                "--seconds" => options.length = Duration::from_secs(number(&arg, &value()?)?),
                "--seed" => options.seed = number(&arg, &value()?)?,
                "--clients" => options.clients = number(&arg, &value()?)? as usize,
                "--lockgate" => options.lockgate = value()?.into(),
                "--measure" => options.measure = true,
                "--log" => options.log = Some(value()?.into()),
                _ => return Err(format!("unknown option {arg}")),
            }
        }
        if options.length.is_zero() || options.clients == 0 {
            return Err("nothing to do for no time, or without clients".to_owned());
        }
        Ok(if any { Command::Soak(options) } else { Command::Nothing })
    }
}

fn number(option: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{option}: {value} is no number"))
}
