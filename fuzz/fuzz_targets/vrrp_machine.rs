//! Any bytes as the history of a host with two virtual routers.
#![no_main]

#[allow(dead_code)]
#[path = "../../vrrp/tests/laws/mod.rs"]
mod laws;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| laws::history(bytes));
