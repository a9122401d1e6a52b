//! The load of silence: connections that did one exchange and stay, and the memory they hold.

use std::time::Duration;
use std::{io, thread};

use crate::exchange::{Caller, Exchange, Then};
use crate::measure::Memory;
use crate::site::Site;

/// Connections that are being opened at a time.
const IN_FLIGHT: usize = 32;

/// How long a proxy gets to give back what it needs no more.
const SETTLE: Duration = Duration::from_millis(300);

/// The proxy's memory before and with idle connections, and how many of these failed.
pub fn run(
    site: &mut Site,
    connections: usize,
    bytes: usize,
    warm_up: u64,
) -> io::Result<(Memory, Memory, u64)> {
    // Buffers, pools and code that the first connections bring in are no cost of the idle ones.
    let first = Exchange { bytes, clients: IN_FLIGHT, then: Then::Reconnect };
    first.run(site, warm_up, 1)?;
    let mut ready = Vec::new();
    settle(site, &mut ready)?;
    let before = Memory::of(site.pid())?;

    let mut callers: Vec<Caller> = Vec::with_capacity(connections);
    let mut replied = vec![false; connections];
    let mut finished = 0;
    let mut failures = 0;
    while finished < connections {
        while callers.len() < connections && callers.len() - finished < IN_FLIGHT {
            let client = callers.len();
            callers.push(Caller::connect(site, client, bytes, client as u64)?);
        }
        site.turn(&mut ready)?;
        for &client in &ready {
            if replied[client] {
                continue;
            }
            match callers[client].proceed() {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_) => failures += 1,
            }
            replied[client] = true;
            finished += 1;
        }
    }
    settle(site, &mut ready)?;
    let with = Memory::of(site.pid())?;

    // A connection that the proxy dropped meanwhile holds no memory, and must not look cheap.
    let gone = callers.iter_mut().map(Caller::is_quiet).filter(|quiet| !quiet).count();
    Ok((before, with, failures.max(gone) as u64))
}

/// Lets the proxy and the backends finish what they are at.
fn settle(site: &mut Site, ready: &mut Vec<usize>) -> io::Result<()> {
    for _ in 0..30 {
        thread::sleep(SETTLE / 30);
        site.turn(ready)?;
    }
    Ok(())
}
