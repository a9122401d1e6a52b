//! Reads a configuration file: text in, a [`Plan`] or every error of the file out.
//!
//! `lockgate check`, the start of the gateway and every reload come through [`load`]. A file goes
//! through these steps, and each of them reports what is wrong and carries on:
//!
//! ```text
//! text ─► syntax (TOML, repaired) ─► schema (what was typed) ─► resolve (what it means) ─► Plan
//!                └──────────────┬─────────────┴───────────────────────┘
//!                            findings ─► diagnostics: Report
//! ```
//!
//! A value that is wrong is reported, then stood in for by its default, so that one mistake neither
//! hides the next nor causes another. The stand-in never gets out: a plan is handed over only when
//! nothing was reported.
//!
//! Apart from reading the one file, this module is pure: it opens no socket, resolves no name and
//! knows nothing of the machine it runs on.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use diagnostics::{Diagnostic, Report};
pub use plan::Plan;
pub use suggest::nearest;
pub use units::format_duration;

pub mod accepts;
pub mod plan;

mod address;
mod cipher;
mod diagnostics;
mod findings;
mod guard;
mod health;
mod mention;
mod protocol;
mod reader;
mod resolve;
mod route;
mod schema;
mod suggest;
mod syntax;
mod tls;
mod units;
mod value;
mod vocabulary;
mod vrrp;

#[cfg(test)]
mod tests;

/// The largest file that is read, in bytes. Far above any real configuration; it stops a mistaken
/// path (a log, a device) from being read to the end.
pub const MAX_FILE_SIZE: u64 = 4 << 20;

/// Why there is no [`Plan`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read as text. Trying again helps once the file itself is put right.
    #[error("cannot read {}: {}", path.display(), cause(source))]
    Unreadable {
        /// The file, as it was named.
        path: PathBuf,
        /// What stood in the way; `InvalidData` for text that is not UTF-8, `FileTooLarge` above
        /// [`MAX_FILE_SIZE`].
        source: io::Error,
    },
    /// The file was read and holds mistakes: all of them are in the report.
    #[error("{0}")]
    Invalid(Report),
}

/// Reads the configuration file at `path`.
///
/// # Errors
///
/// [`Error::Unreadable`] when it is missing, a directory, not permitted, above [`MAX_FILE_SIZE`] or
/// not UTF-8; [`Error::Invalid`] as for [`parse`].
pub fn load(path: &Path) -> Result<Plan, Error> {
    let source =
        read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &source)
}

/// Reads the configuration in `source`. `file` is the name that the report shows.
///
/// # Errors
///
/// [`Error::Invalid`] with every mistake in `source`, in the order of the file.
pub fn parse(file: &str, source: &str) -> Result<Plan, Error> {
    // Editors on Windows begin a file with a byte order mark, which is not part of its first line.
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let mut errors = findings::Findings::default();
    let text = syntax::Repaired::new(source, &mut errors);
    let table = text.table();
    let typed = schema::File::read(&table, &mut errors);
    let plan = resolve::resolve(typed, &mut errors);
    match errors.into_report(file, source, &text) {
        Some(report) => Err(Error::Invalid(report)),
        None => Ok(plan),
    }
}

/// A message about a file that the configuration at `path` names, with the line that names it before
/// it, if it can be told: `lockgate.toml:7: …`.
pub fn with_line(path: &Path, message: &str) -> String {
    match read(path).ok().and_then(|source| mention::line_of(&source, message)) {
        Some(line) => format!("{}:{line}: {message}", path.display()),
        None => message.to_owned(),
    }
}

/// Where a configuration that may be full of mistakes says that the admin socket is. `None` if it cannot
/// be told.
pub fn admin_socket(path: &Path) -> Option<PathBuf> {
    let source = read(path).ok()?;
    let mut errors = findings::Findings::default();
    let text = syntax::Repaired::new(&source, &mut errors);
    schema::File::read(&text.table(), &mut errors).admin.socket
}

/// Reads a duration as a configuration has it: `"60s"`.
///
/// # Errors
///
/// What is wrong with it, in words.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    units::parse_duration(text).map_err(|problem| match problem.help {
        Some(help) => format!("{}: {help}", problem.message),
        None => problem.message,
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        let message = format!("larger than {} MiB", MAX_FILE_SIZE >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 (line {line})"))
    })
}

/// Opens an ordinary file: a pipe would be waited for, and with it the whole control plane.
fn open(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.file_type() {
        kind if kind.is_file() => Ok(file),
        kind if kind.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not an ordinary file")),
    }
}

/// The usual causes in plain words; the rest as the system puts it.
fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}
