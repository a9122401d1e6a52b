//! `lockgate drain`, `enable`, `disable`, `weight`, `handover`: live changes.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use hyper::Method;

use super::{Error, Exit, Gateway, print, runtime};
use crate::admin::client;
use crate::admin::order::{
    BackendChange, BackendChanged, HandedOver, Handover, NodeChanged, Upgraded, Wish,
};
use crate::admin::status::Backend;

/// How often a draining backend is asked for what is left.
const LOOK: Duration = Duration::from_millis(200);

/// How often that is printed where it cannot replace what was printed before.
const LINE: Duration = Duration::from_secs(10);

/// A backend as it is named on the command line.
#[derive(Clone, Debug)]
pub struct Target {
    pool: String,
    backend: String,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((pool, backend)) if !pool.is_empty() && !backend.is_empty() => {
                Ok(Self { pool: pool.to_owned(), backend: backend.to_owned() })
            }
            _ => Err("write POOL/BACKEND, as in 'app/app-1'".to_owned()),
        }
    }
}

impl Target {
    fn path(&self) -> String {
        let (pool, backend) = (client::escape(&self.pool), client::escape(&self.backend));
        format!("/v1/pools/{pool}/backends/{backend}")
    }
}

/// Changes a backend, tells what that came to, and waits for it to run empty if `wait`.
pub fn backend(
    gateway: &Gateway,
    target: &Target,
    change: &BackendChange,
    wait: bool,
    json: bool,
) -> Result<(), Error> {
    let socket = gateway.socket()?;
    let runtime = runtime()?;
    let path = target.path();
    let asked = client::order(&socket, Method::POST, &path, change);
    let changed: BackendChanged = runtime.block_on(asked)?;
    if json && !wait {
        return print_json(&changed);
    }
    if !json {
        print(&sentence(&changed))?;
    }
    if wait {
        runtime.block_on(wait_until_empty(&socket, target, json))?;
    }
    if json { print_json(&changed) } else { Ok(()) }
}

/// Drains the node as a whole, or ends that.
pub fn node(gateway: &Gateway, drain: bool, json: bool) -> Result<(), Error> {
    let socket = gateway.socket()?;
    let method = if drain { Method::POST } else { Method::DELETE };
    let nothing = serde_json::json!({});
    let asked = client::order(&socket, method, "/v1/drain", &nothing);
    let changed: NodeChanged = runtime()?.block_on(asked)?;
    if json {
        return print_json(&changed);
    }
    let mut text = match (&changed.drain, changed.changed) {
        (Some(_), true) => "node: draining; /readyz says so\n".to_owned(),
        (Some(drain), false) => format!("node: draining already, by {}\n", drain.who),
        (None, true) => "node: enabled\n".to_owned(),
        (None, false) => "node: enabled already\n".to_owned(),
    };
    notes(&mut text, &changed.notes);
    print(&text)
}

/// Gives the floating addresses to the peer.
pub fn handover(gateway: &Gateway, wanted: Handover, json: bool) -> Result<(), Error> {
    let socket = gateway.socket()?;
    let asked = client::order(&socket, Method::POST, "/v1/handover", &wanted);
    let done: HandedOver = runtime()?.block_on(asked)?;
    if json {
        return print_json(&done);
    }
    let mut text = String::new();
    for instance in &done.instances {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {} here, master is {}  ({})",
            instance.name,
            instance.state,
            instance.master.as_deref().unwrap_or("not known yet"),
            instance.addresses.join(" ")
        );
    }
    notes(&mut text, &done.notes);
    print(&text)
}

/// Has the binary on disk take over.
pub fn upgrade(gateway: &Gateway, json: bool) -> Result<(), Error> {
    let socket = gateway.socket()?;
    let nothing = serde_json::json!({});
    let asked = client::order(&socket, Method::POST, "/v1/upgrade", &nothing);
    let done: Upgraded = runtime()?.block_on(asked)?;
    if json {
        return print_json(&done);
    }
    let Upgraded { pid, previous } = done;
    print(&format!("process {pid} has taken over; {previous} drains\n"))
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(Exit::Software, format_args!("cannot print: {error}")))?;
    print(&format!("{text}\n"))
}

fn notes(text: &mut String, notes: &[String]) {
    for note in notes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {note}");
    }
}

fn sentence(changed: &BackendChanged) -> String {
    let BackendChanged { pool, backend, before, after, connections, .. } = changed;
    let mut parts = Vec::new();
    if before.state != after.state {
        parts.push(format!("{} -> {}", before.state.name(), after.state.name()));
    }
    if before.weight != after.weight {
        parts.push(format!("weight {} -> {}", before.weight, after.weight));
    }
    if !changed.changed {
        parts.push(format!("{} already, weight {}", after.state.name(), after.weight));
    }
    let mut text = format!("{pool}/{backend}: {}", parts.join(", "));
    if after.state != Wish::Enabled {
        text.push_str(&format!("; {} left", count(*connections)));
        if let Some(seconds) = changed.timeout_seconds {
            let timeout = humantime::format_duration(Duration::from_secs_f64(seconds));
            text.push_str(&format!(", cut by a reset after {timeout}"));
        }
    }
    text.push('\n');
    notes(&mut text, &changed.notes);
    text
}

fn count(connections: u32) -> String {
    match connections {
        1 => "1 connection".to_owned(),
        n => format!("{n} connections"),
    }
}

/// Waits for the last connection to end, and tells on the way how many are left.
async fn wait_until_empty(socket: &Path, target: &Target, quiet: bool) -> Result<(), Error> {
    let terminal = std::io::stderr().is_terminal();
    let mut told: Option<tokio::time::Instant> = None;
    // The gateway is told of where its progress goes: standard output is for the result.
    let say = |text: String| {
        let mut out = std::io::stderr();
        // A reader that went away has seen enough.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    loop {
        let answer = client::get(socket, &target.path()).await?;
        let backend: Backend = serde_json::from_slice(&answer).map_err(|error| {
            Error::new(Exit::Software, format_args!("unexpected answer: {error}"))
        })?;
        if !matches!(backend.state.as_str(), "draining" | "disabled") {
            let state = backend.state;
            let what = format_args!("{}/{} is {state} again", target.pool, target.backend);
            return Err(Error::new(Exit::Unavailable, what));
        }
        if backend.connections == 0 {
            if !quiet {
                let clear = if terminal { "\r\x1b[K" } else { "" };
                say(clear.to_owned());
                print(&format!("{}/{}: no connection is left\n", target.pool, target.backend))?;
            }
            return Ok(());
        }
        let line = progress(&backend);
        if terminal && !quiet {
            say(format!("\r\x1b[K{line}"));
        } else if !quiet && told.is_none_or(|told| told.elapsed() >= LINE) {
            told = Some(tokio::time::Instant::now());
            say(format!("{line}\n"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `3 left, oldest 3m 12s`
fn progress(backend: &Backend) -> String {
    match backend.oldest_seconds {
        None => format!("{} left", backend.connections),
        Some(seconds) => {
            format!("{} left, oldest {}", backend.connections, super::text::span(seconds))
        }
    }
}
