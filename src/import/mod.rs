//! Makes a lockgate.toml of the configurations of HAProxy, nginx and keepalived.
//!
//! `lockgate import` comes here. Each dialect has a folder, which reads its files into statements,
//! and what they mean into the one `model`; `emit` writes that down, `mend` sees to it that the
//! result is valid:
//!
//! ```text
//! haproxy/ ─┐                            ┌─► text of a lockgate.toml, which config::parse takes
//! nginx/   ─┼─► model ─► emit ─► mend ───┤
//! keepalived/                            └─► notes: what became of each statement
//! ```
//!
//! Nothing is dropped in silence. Every statement is entered in the `ledger` as it is read; what
//! nobody has accounted for at the end is noted as not carried over. A rule that keeps clients out
//! and cannot be carried over closes its listener: the result is never more open than the source,
//! unless a person says so.
//!
//! Apart from [`System`], this module is pure: files come through [`Files`].

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

pub use ledger::{Fate, Kind, Line, Note};

mod document;
mod emit;
mod haproxy;
mod keepalived;
mod ledger;
mod mend;
mod model;
mod names;
mod networks;
mod nginx;
mod pattern;
#[cfg(test)]
mod tests;
mod tree;

/// Most ports of one range: each becomes an address of a listener.
const MOST_PORTS: usize = 1024;

/// `PORT` or `FIRST-LAST`, as HAProxy and nginx write it; empty if the last is below the first.
fn port_range(text: &str) -> Result<std::ops::RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|&port| port > 0)
            .ok_or_else(|| format!("'{text}' is no port"))
    };
    let (first, last) = (port(first)?, port(last)?);
    if usize::from(last.saturating_sub(first)) >= MOST_PORTS {
        return Err(format!("more than {MOST_PORTS} ports are too many"));
    }
    Ok(first..=last)
}

/// What is to be imported. Several files of a kind are read as that program reads them; two of
/// keepalived are those of the two hosts of a pair.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Files of HAProxy, in the order in which it would read them.
    pub haproxy: Vec<PathBuf>,
    /// Main files of nginx.
    pub nginx: Vec<PathBuf>,
    /// Files of keepalived, one for each host.
    pub keepalived: Vec<PathBuf>,
}

/// Where files come from.
pub trait Files {
    /// The text of a file.
    ///
    /// # Errors
    ///
    /// As the system has them; `InvalidData` for what is no text.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// The names in a directory, in order.
    ///
    /// # Errors
    ///
    /// As the system has them.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// The whole path of a file that is named relative to where the process was started.
    fn absolute(&self, path: &Path) -> PathBuf;
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<String>;
}

/// The files of this machine.
#[derive(Clone, Copy, Debug)]
pub struct System;

/// Above any real configuration, in bytes; it stops a mistaken path from being read to the end.
const MAX_FILE_SIZE: u64 = 16 << 20;

impl Files for System {
    fn read(&self, path: &Path) -> io::Result<String> {
        use io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_SIZE {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        // A comment in another encoding should not be in the way.
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// What has become of the sources.
#[derive(Clone, Debug)]
pub struct Imported {
    /// A configuration that [`crate::config::parse`] takes.
    pub toml: String,
    /// What there is to know about it, by file and line.
    pub notes: Vec<Note>,
    /// Every statement of the sources.
    pub lines: Vec<Line>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that was named cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file, as it was named.
        path: PathBuf,
        /// What stood in the way.
        source: io::Error,
    },
    /// A file is not of the kind that it was said to be, or ends too early.
    #[error("{file}:{line}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// Its line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Nothing in the sources can be carried over.
    #[error("nothing in these files can be carried over")]
    Nothing {
        /// Why.
        notes: Vec<Note>,
    },
    /// What was made is not valid, and could not be mended: a mistake of lockgate's.
    #[error("internal error: the result is not valid\n{report}")]
    Internal {
        /// What was made.
        toml: String,
        /// What is wrong with it.
        report: String,
    },
}

/// Makes a configuration of `sources`.
///
/// # Errors
///
/// See [`Error`].
pub fn import(sources: &Sources, files: &dyn Files) -> Result<Imported, Error> {
    let mut ledger = ledger::Ledger::default();
    let mut model = model::Model::default();
    if !sources.haproxy.is_empty() {
        haproxy::import(&sources.haproxy, files, &mut model, &mut ledger)?;
    }
    for file in &sources.nginx {
        nginx::import(file, files, &mut model, &mut ledger)?;
    }
    if !sources.keepalived.is_empty() {
        keepalived::import(&sources.keepalived, files, &mut model, &mut ledger)?;
    }
    let document = emit::document(&mut model, &mut ledger);
    mend::finish(document, ledger)
}

/// The notes as text: the gravest first, each with its file and line.
pub fn told(notes: &[Note]) -> String {
    let mut text = String::new();
    for kind in [Kind::Closed, Kind::Lost, Kind::Changed, Kind::Needless] {
        let of_kind: Vec<&Note> = notes.iter().filter(|note| note.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}:", kind.heading());
        for note in of_kind {
            let _ = writeln!(text, "{note}");
        }
    }
    text
}

/// Reads a file that somebody has named.
fn named(files: &dyn Files, path: &Path) -> Result<String, Error> {
    files.read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })
}
