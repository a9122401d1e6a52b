//! The counts that are kept, in `counts.toml`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::process::Command;
use std::{env, fs, io};

use serde::Deserialize;

/// By how much a count may differ before it is told of.
const TOLERANCE: f64 = 0.02;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/counts.toml");

/// Counts, and what they are true of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Version of rustc.
    pub toolchain: String,
    /// Kind of processor, as in [`env::consts::ARCH`].
    pub processor: String,
    /// Instructions per operation, to one decimal, by the name of the case.
    pub instructions: BTreeMap<String, f64>,
}

impl Counts {
    /// Counts that were made here and now.
    pub fn new(instructions: BTreeMap<String, f64>) -> io::Result<Self> {
        let processor = env::consts::ARCH.to_owned();
        Ok(Self { toolchain: toolchain()?, processor, instructions })
    }

    /// Reads the file.
    pub fn load() -> io::Result<Self> {
        let text = fs::read_to_string(FILE).map_err(at_file)?;
        toml::from_str(&text).map_err(|error| at_file(io::Error::other(error)))
    }

    /// Writes the file.
    pub fn store(&self) -> io::Result<()> {
        let mut text = format!(
            "# Instructions per operation: `scripts/instructions` compares with these, and writes\n\
             # them with --update.\n\
             toolchain = \"{}\"\nprocessor = \"{}\"\n\n[instructions]\n",
            self.toolchain, self.processor
        );
        for (name, count) in &self.instructions {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\"{name}\" = {count:.1}");
        }
        fs::write(FILE, text).map_err(at_file)
    }
}

fn at_file(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{FILE}: {error}"))
}

/// Version of the rustc that cargo uses here.
fn toolchain() -> io::Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output()?;
    let version = String::from_utf8_lossy(&output.stdout);
    // rustc 1.95.0 (59807616e 2026-04-14)
    let number = version.split_whitespace().nth(1);
    number.map(str::to_owned).ok_or_else(|| io::Error::other("rustc does not tell its version"))
}

/// A count then and now; displayed as the difference in per cent.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// As kept.
    pub before: f64,
    /// As counted.
    pub now: f64,
}

impl Change {
    /// Whether it takes notably more than before.
    pub fn is_dearer(self) -> bool {
        self.now > self.before * (1.0 + TOLERANCE)
    }

    /// Whether it takes notably less than before.
    pub fn is_cheaper(self) -> bool {
        self.now < self.before * (1.0 - TOLERANCE)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.1} %", (self.now / self.before - 1.0) * 100.0)
    }
}
