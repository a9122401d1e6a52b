//! The load of silence: connections that did one exchange and stay, and the memory they hold.

use std::time::Duration;
use std::{io, thread};

use crate::crowd;
use crate::exchange::{Exchange, Then};
use crate::measure::Memory;
use crate::site::Site;

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
    let first = Exchange { bytes, clients: 32, then: Then::Reconnect, beside: 0 };
    first.run(site, warm_up, 1)?;
    settle(site)?;
    let before = Memory::of(site.pid())?;
    let (mut callers, failures) = crowd::gather(site, 0, connections, bytes)?;
    settle(site)?;
    let with = Memory::of(site.pid())?;
    // A connection that the proxy dropped meanwhile holds no memory, and must not look cheap.
    Ok((before, with, failures.max(crowd::gone(&mut callers))))
}

/// Lets the proxy and the backends finish what they are at.
fn settle(site: &mut Site) -> io::Result<()> {
    let mut ready = Vec::new();
    for _ in 0..30 {
        thread::sleep(SETTLE / 30);
        site.turn(&mut ready)?;
    }
    Ok(())
}
