//! `lockgate reload`, and what a reload would change: `lockgate check --diff`.

use std::io::IsTerminal;
use std::path::Path;

use hyper::Method;

use super::{Error, Exit, Gateway, print, runtime};
use crate::admin::client;
use crate::admin::order::{Candidate, Difference, Reloaded};

/// Has the running gateway read its configuration again, and tells what changed.
pub fn reload(gateway: &Gateway, json: bool) -> Result<(), Error> {
    let socket = gateway.socket_whatever_the_file_says()?;
    let nothing = serde_json::json!({});
    let asked = client::order(&socket, Method::POST, "/v1/reload", &nothing);
    let reloaded: Reloaded = runtime()?.block_on(asked)?;
    if json {
        return print(&format!("{}\n", serde_json::json!(reloaded)));
    }
    print(&format!("{}\n", reloaded.summary))
}

/// Tells what a reload of the file at `path` would change in the running gateway.
pub fn difference(path: &Path, socket: &Path) -> Result<(), Error> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::of_system(format_args!("cannot read {}", path.display()), &error)
    })?;
    let candidate = Candidate { file: path.display().to_string(), text };
    let asked = client::order(socket, Method::POST, "/v1/diff", &candidate);
    let difference: Difference = runtime()?.block_on(asked)?;
    print(&lines(&difference, std::io::stdout().is_terminal()))
}

fn lines(difference: &Difference, color: bool) -> String {
    let mut text = String::new();
    for change in &difference.changes {
        let paint = match (color, change.as_bytes().first()) {
            (true, Some(b'+')) => "\x1b[32m",
            (true, Some(b'-')) => "\x1b[31m",
            (true, _) => "\x1b[33m",
            (false, _) => "",
        };
        let end = if color { "\x1b[0m" } else { "" };
        text.push_str(&format!("{paint}{change}{end}\n"));
    }
    for name in &difference.restart {
        text.push_str(&format!("! {name}: only after a restart\n"));
    }
    text.push_str(&format!("a reload would say: {}\n", difference.summary));
    text
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        let exit = match &error {
            client::Error::Unreachable { .. } => Exit::Unavailable,
            client::Error::NotPermitted { .. } => Exit::NotPermitted,
            client::Error::Refused { status, .. } => match status.as_u16() {
                400 | 404 => Exit::Usage,
                403 => Exit::NotPermitted,
                409 | 503 => Exit::Unavailable,
                422 => Exit::Config,
                507 => Exit::System,
                _ => Exit::Software,
            },
        };
        Self::new(exit, error)
    }
}
