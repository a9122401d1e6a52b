//! Many connections: opened a few at a time, each after one exchange.

use std::io;

use crate::exchange::Caller;
use crate::site::Site;

/// Connections that are being opened at a time: fewer than fit into any proxy's backlog.
const IN_FLIGHT: usize = 32;

/// Opens so many connections, numbered from `first`. Also returns how many of them failed.
pub fn gather(
    site: &mut Site,
    first: usize,
    connections: usize,
    bytes: usize,
) -> io::Result<(Vec<Caller>, u64)> {
    let mut callers: Vec<Caller> = Vec::with_capacity(connections);
    let mut replied = vec![false; connections];
    let mut finished = 0;
    let mut failures = 0;
    let mut ready = Vec::new();
    while finished < connections {
        while callers.len() < connections && callers.len() - finished < IN_FLIGHT {
            let client = first + callers.len();
            callers.push(Caller::connect(site, client, bytes, client as u64)?);
        }
        site.turn(&mut ready)?;
        for client in &ready {
            let Some(index) = client.checked_sub(first).filter(|&index| index < callers.len())
            else {
                continue;
            };
            if replied[index] {
                continue;
            }
            match callers[index].proceed() {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_) => failures += 1,
            }
            replied[index] = true;
            finished += 1;
        }
    }
    Ok((callers, failures))
}

/// How many connections are not open, or have something to read.
pub fn gone(callers: &mut [Caller]) -> u64 {
    callers.iter_mut().map(Caller::is_quiet).filter(|quiet| !quiet).count() as u64
}
