//! Any sequence of connections that come and go, at any times.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/limit/mod.rs"]
mod limit;

#[path = "../../src/limit/laws.rs"]
mod laws;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| laws::sequence(bytes));
