//! `lockgate release-vip`

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::timeout;

use super::{Error, Exit, Source, print, runtime};
use crate::admin::client;
use crate::config;
use crate::control::node::{Host, Unknown};
use crate::control::{Failure, failover};

/// How long a gateway that runs is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Removes what a killed gateway left behind. Refuses as long as one answers.
pub fn release(source: &Source) -> Result<(), Error> {
    let plan = config::load(&source.config).map_err(Failure::from)?;
    let node = match Host::this().choose(&plan.nodes, source.node.as_deref()) {
        // The addresses are the same for all.
        Err(Unknown::Nobody { .. }) => None,
        chosen => chosen.map_err(Failure::from)?,
    };
    if let Some(path) = &plan.admin.socket
        && runtime()?
            .block_on(async { timeout(PATIENCE, client::get(path, "/healthz")).await })
            .is_ok_and(|answer| answer.is_ok())
    {
        let message = format!(
            "a gateway runs and answers on {}: it gives its addresses away when it is stopped",
            path.display()
        );
        return Err(Error::new(Exit::System, message));
    }
    let settings = failover::settings(&plan, node)?;
    let released = lockgate_vrrp::linux::release_leftovers(&settings).map_err(Failure::from)?;
    let mut text = String::new();
    for leftover in &released {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "released {leftover}");
    }
    if released.is_empty() {
        text.push_str("nothing was left behind\n");
    }
    print(&text)
}
