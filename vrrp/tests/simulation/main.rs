//! Routers on a simulated LAN, in virtual time: thousands of LANs, each with its own history of
//! loss, delay, reordering, partitions, pauses, crashes, stops, reconfigurations and forged
//! adverts, all of which follow from its seed.
//!
//! A seed that fails is printed. `VRRP_SEED=N cargo test -p lockgate-vrrp --test simulation history`
//! runs it alone, and prints what happened. `VRRP_SEEDS=N` is how many are run.
//!
//! # What must hold
//!
//! 1. Within a bounded time after the last disturbance each part of the LAN has exactly one master,
//!    if it has a router that is able; the bound is [`history::Lan::bound`].
//! 2. It is the right one: no router that preempts has a higher priority.
//! 3. From then on nothing changes.
//! 4. A master that was paused does not claim to be one before it has listened.
//! 5. Every client's ARP table ends at the master.
//! 6. Random bytes change nothing. Forged adverts have no effect beyond the bound.
//! 7. A graceful stop hands over within the skew, a silent death within the down interval.
//! 8. The members of a group are master together or not at all, at any time ([`groups`]).
//! 9. The same seed gives the same history.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "the history of a seed that is run alone")]

mod foreign;
mod groups;
mod history;
mod node;
mod random;
mod scenarios;
mod world;

use std::env;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};

use history::Lan;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Runs what a seed decides, of so many seeds, on as many threads as there are processors. Names
/// the first seed that fails.
fn for_each_seed(seeds: u64, run: impl Fn(u64) + Sync + panic::RefUnwindSafe) {
    if let Some(seed) = number("VRRP_SEED") {
        return run(seed);
    }
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let seeds = number("VRRP_SEEDS").unwrap_or(seeds);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.min(failed.load(Ordering::Relaxed)) {
                        break;
                    }
                    if panic::catch_unwind(|| run(seed)).is_err() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert_eq!(failed, u64::MAX, "VRRP_SEED={failed} runs the seed that failed alone");
}

#[test]
fn history() {
    let alone = number("VRRP_SEED").is_some();
    for_each_seed(2_000, |seed| {
        let trace = Lan::new(seed, alone).live();
        if seed.is_multiple_of(50) {
            assert_eq!(Lan::new(seed, false).live(), trace, "the same seed, another history");
        }
    });
}
