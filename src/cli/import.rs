//! `lockgate import`

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Error, Exit, print};
use crate::import::{self, Imported, Note, Sources, System};

/// What is imported, and where it goes.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("sources").required(true).multiple(true))]
pub struct Import {
    /// Configuration of HAProxy; several are read as one, in order
    #[arg(long, value_name = "FILE", group = "sources")]
    haproxy: Vec<PathBuf>,
    /// Main configuration file of nginx
    #[arg(long, value_name = "FILE", group = "sources")]
    nginx: Vec<PathBuf>,
    /// Configuration of keepalived; two are those of the two hosts of a pair
    #[arg(long, value_name = "FILE", group = "sources")]
    keepalived: Vec<PathBuf>,
    /// Write to this file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace that file if it is there
    #[arg(long, requires = "output")]
    force: bool,
    /// Print one JSON object: the configuration, unless it goes to a file, and what was not carried
    /// over
    #[arg(long)]
    json: bool,
}

/// Writes a configuration, and tells what could not be carried over.
pub fn import(wish: &Import) -> Result<(), Error> {
    let sources = Sources {
        haproxy: wish.haproxy.clone(),
        nginx: wish.nginx.clone(),
        keepalived: wish.keepalived.clone(),
    };
    // Said before any work is done.
    if let Some(output) = wish.output.as_deref().filter(|_| !wish.force)
        && output.symlink_metadata().is_ok()
    {
        return Err(exists(output));
    }
    let done = import::import(&sources, &System).map_err(|error| {
        if let import::Error::Nothing { notes } = &error {
            tell(notes);
        }
        Error::from(error)
    })?;
    if let Some(output) = &wish.output {
        write(output, &done.toml, wish.force)?;
    }
    if wish.json {
        return print(&format!("{:#}\n", as_json(&done, wish.output.as_deref())));
    }
    tell(&done.notes);
    match &wish.output {
        Some(output) => print(&format!(
            "{}: written; look through it, then: lockgate check -c {0}\n",
            output.display()
        )),
        None => print(&done.toml),
    }
}

fn as_json(done: &Imported, output: Option<&Path>) -> serde_json::Value {
    match output {
        Some(file) => json!({ "file": file, "notes": done.notes }),
        None => json!({ "toml": done.toml, "notes": done.notes }),
    }
}

/// What was not carried over, to standard error: standard output may be the file.
fn tell(notes: &[Note]) {
    // Nobody can be told that nobody can be told.
    let _ = io::stderr().lock().write_all(import::told(notes).as_bytes());
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(force).create(force).create_new(!force);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => {
            Err(Error::of_system(format_args!("cannot write {}", path.display()), &error))
        }
        Ok(()) => Ok(()),
    }
}

fn exists(path: &Path) -> Error {
    let message = format!("{} is there already; --force replaces it", path.display());
    Error::new(Exit::System, message)
}

impl From<import::Error> for Error {
    fn from(error: import::Error) -> Self {
        let exit = match &error {
            import::Error::Unreadable { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::NotPermitted
            }
            import::Error::Unreadable { .. }
            | import::Error::Syntax { .. }
            | import::Error::Nothing { .. } => Exit::Config,
            import::Error::Internal { .. } => Exit::Software,
        };
        Self::new(exit, error)
    }
}
