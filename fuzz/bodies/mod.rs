//! What is asked of the code for any bytes whatever: the same by the targets of cargo-fuzz
//! (`fuzz_targets`) and by a plain test (`tests/fuzzing.rs`), so that the two cannot drift apart.
//!
//! Each has a function `any` that panics if something does not hold. Whoever includes this file
//! names `lockgate::proto` as its own `proto`.

#![allow(clippy::missing_panics_doc, reason = "that is what they are for")]

pub mod certificate;
pub mod client_hello;
pub mod config;
pub mod first_bytes;
pub mod http_head;
pub mod proxy_header;

#[path = "../../src/proto/tests/laws.rs"]
pub mod laws;
#[path = "../../vrrp/tests/laws/mod.rs"]
pub mod vrrp;

/// Some number that depends on all the bytes (FNV-1a).
fn seed(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
