//! `lockgate check`

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use super::{Error, Exit, Source, print, runtime};
use crate::config;
use crate::config::plan::{Address, Node, Plan};
use crate::control::node::{Host, Unknown};
use crate::control::{Failure, failover, material, preflight};

/// Reports every error of a configuration and, with `preflight`, of the machine.
pub fn check(source: &Source, preflight: bool) -> Result<(), Error> {
    let plan = config::load(&source.config).map_err(Failure::from)?;
    let node = match Host::this().choose(&plan.nodes, source.node.as_deref()) {
        // The file is checked for all nodes alike: it may be written elsewhere.
        Err(unknown @ Unknown::Nobody { .. }) if !preflight => {
            print(&format!("note: {unknown}\n"))?;
            None
        }
        chosen => chosen.map_err(Failure::from)?,
    };
    read_files(&plan, &source.config)?;
    if preflight {
        try_machine(&plan, node)?;
    }
    print(&format!("{}: ok ({})\n", source.config.display(), extent(&plan)))
}

fn extent(plan: &Plan) -> String {
    let count = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let backends = plan.pools.iter().map(|pool| pool.backends.len()).sum();
    let mut parts = vec![
        count(plan.listeners.len(), "listener"),
        count(plan.pools.len(), "pool"),
        count(backends, "backend"),
    ];
    if !plan.vrrp.is_empty() {
        parts.push(count(plan.vrrp.len(), "VRRP instance"));
    }
    parts.join(", ")
}

/// Reads what TLS needs, and tells all that is wrong with it.
fn read_files(plan: &Plan, config: &Path) -> Result<(), Error> {
    let mut found = material::inspect(plan, SystemTime::now());
    found.faults.extend(failover::programs(plan));
    let mut text = String::new();
    for doubt in plan.doubts().iter().chain(&found.doubts) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "warning: {}", config::with_line(config, doubt));
    }
    print(&text)?;
    let faults = found.faults.iter().map(|fault| config::with_line(config, fault));
    match faults.collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        faults => Err(Error::new(Exit::Config, format_args!("{}", faults.join("\nlockgate: ")))),
    }
}

fn try_machine(plan: &Plan, node: Option<&Node>) -> Result<(), Error> {
    let found = runtime()?.block_on(preflight::inspect(plan, node));
    let mut text = String::new();
    for note in &found.notes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "note: {note}");
    }
    for fault in &found.faults {
        let _ = writeln!(text, "fault: {}", fault.message);
    }
    print(&text)?;
    let named = plan.pools.iter().flat_map(|pool| &pool.backends);
    let names = named.filter(|backend| matches!(backend.address, Address::Name { .. })).count();
    match found.faults.as_slice() {
        [] => print(&format!("this machine: ok ({names} names resolve)\n")),
        [first, ..] => {
            let exit = if first.not_permitted { Exit::NotPermitted } else { Exit::System };
            Err(Error::new(exit, format_args!("{} found on this machine", count(&found.faults))))
        }
    }
}

fn count(faults: &[preflight::Fault]) -> String {
    match faults.len() {
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    }
}
