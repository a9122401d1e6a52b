//! Any bytes as the first of a connection.
#![no_main]

#[allow(dead_code)]
#[path = "../bodies/mod.rs"]
mod bodies;

use libfuzzer_sys::fuzz_target;
#[allow(unused_imports)]
use lockgate::proto;

fuzz_target!(|bytes: &[u8]| bodies::first_bytes::any(bytes));
