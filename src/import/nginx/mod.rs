//! nginx.conf: `lex` reads it, `scope` finds what holds in a block, `stream` and `http` say what
//! that means to lockgate.

use std::path::Path;

use super::ledger::Ledger;
use super::model::Model;
use super::{Error, Files, pattern};
use scope::Scope;

mod hosts;
mod http;
mod known;
mod lex;
mod listen;
mod map;
mod named;
mod scope;
mod stream;
mod upstream;

/// Adds what this file says.
pub(super) fn import(
    path: &Path,
    files: &dyn Files,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Result<(), Error> {
    let nodes = lex::read(path, files, ledger)?;
    // Certificates are named relative to it.
    let whole = files.absolute(path);
    let base = whole.with_file_name("");
    let scope = Scope { blocks: vec![&nodes], base: &base };
    for node in &nodes {
        match node.name() {
            "stream" => stream::stream(node, &scope, model, ledger),
            "http" => http::http(node, &scope, model, ledger),
            // Whoever imports a file of conf.d or sites-enabled means the http block around it.
            "server" | "upstream" => {}
            "worker_processes" => match node.word(1).parse() {
                Ok(number @ 1..=1024) => {
                    model.workers = Some(number);
                    ledger.carried(node.id);
                }
                _ => ledger.needless(node.id, "a worker for each core is the default"),
            },
            "worker_shutdown_timeout" => {
                let time = pattern::duration(node.word(1), std::time::Duration::from_secs(1));
                model.drain_timeout = time;
                ledger.carried(node.id);
            }
            "events" => ledger.structure(node.id),
            _ => {}
        }
    }
    if nodes.iter().any(|node| node.name() == "server") {
        http::servers(&nodes, &scope, model, ledger);
    }
    for node in &nodes {
        known::account(node, ledger);
    }
    Ok(())
}
