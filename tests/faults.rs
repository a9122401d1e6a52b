//! What breaks around a gateway, and what it makes of that: backends, the answers to checks, names,
//! files, the clock, and clients that come and go ten thousand times.

mod backends;
mod checks;
mod clock;
mod cycles;
mod files;
mod resolving;

use std::fs;

use crate::harness::Gateway;

/// Open files of the process.
fn open_files(gateway: &Gateway) -> usize {
    fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}
