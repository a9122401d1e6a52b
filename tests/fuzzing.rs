//! What `fuzz/` asks of the code, asked here for a moment and always in the same way: of each input
//! of the corpus, and of a fixed number of mutations of them, whose seed is the round's number.
//!
//! It needs no nightly compiler, so it runs with all other tests. What it finds can be had again by
//! the number that the failure tells; cargo-fuzz, which is led by coverage, finds more: see
//! fuzz/README.md.

#![allow(clippy::print_stderr, reason = "what a failed test has to say")]

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use lockgate::proto;

/// A stream of numbers that its seed determines (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// The files under these paths of the project, in the order of their names.
fn corpus(paths: &[&str]) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for path in paths {
        let path = root.join(path);
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the project's own directory");
            let paths = entries.map(|entry| entry.expect("an entry").path());
            files.extend(paths.filter(|path| path.is_file()));
        } else {
            files.push(path);
        }
    }
    files.sort();
    assert!(!files.is_empty(), "{paths:?} have no files");
    files.iter().map(|file| fs::read(file).expect("readable")).collect()
}

/// Asks `body` of each input, and then of `rounds` mutations, none of them longer than `longest`.
fn ask(body: fn(&[u8]), inputs: &[Vec<u8>], pieces: &[&[u8]], longest: usize, rounds: u64) {
    for (number, input) in inputs.iter().enumerate() {
        attempt(body, input, &format!("input {number} of the corpus"));
    }
    for round in 0..rounds {
        let mut chance = Chance(round);
        let mut bytes = inputs[chance.below(inputs.len())].clone();
        for _ in 0..=chance.below(5) {
            mutate(&mut bytes, inputs, pieces, &mut chance);
        }
        bytes.truncate(longest);
        attempt(body, &bytes, &format!("round {round}"));
    }
}

fn attempt(body: fn(&[u8]), bytes: &[u8], which: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(bytes))) {
        let shown: String = bytes.iter().take(4096).map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{which}, {} bytes in hexadecimal: {shown}", bytes.len());
        resume_unwind(panic);
    }
}

/// One change, of the kinds that libFuzzer makes as well.
fn mutate(bytes: &mut Vec<u8>, inputs: &[Vec<u8>], pieces: &[&[u8]], chance: &mut Chance) {
    let at = chance.below(bytes.len() + 1);
    let upto = bytes.len().min(at + 1 + chance.below(16));
    match chance.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
        1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)],
        2 => drop(bytes.drain(at..upto)),
        3 => {
            let again = bytes[at..upto].to_vec();
            drop(bytes.splice(at..at, again));
        }
        4 => {
            let noise: Vec<u8> = (0..chance.below(8)).map(|_| chance.next() as u8).collect();
            drop(bytes.splice(at..at, noise));
        }
        5 if !pieces.is_empty() => {
            let piece = pieces[chance.below(pieces.len())];
            drop(bytes.splice(at..upto, piece.iter().copied()));
        }
        6 => {
            let other = &inputs[chance.below(inputs.len())];
            let from = chance.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => bytes.truncate(at),
    }
}

#[test]
fn any_client_hello() {
    let pieces: [&[u8]; 4] = [&[22, 3, 1], &[0, 0], &[0xff, 0xff], &[0, 16, 0, 0]];
    ask(
        bodies::client_hello::any,
        &corpus(&["tests/corpus/client_hello"]),
        &pieces,
        70_000,
        40_000,
    );
}

#[test]
fn any_first_bytes() {
    let pieces: [&[u8]; 7] = [
        b"\r\n",
        b" HTTP/1.1",
        b"SSH-",
        b"PROXY ",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[22, 3, 1, 0, 200, 1],
    ];
    let files =
        ["tests/corpus/client_hello", "tests/corpus/http_head", "tests/corpus/proxy_header"];
    ask(bodies::first_bytes::any, &corpus(&files), &pieces, 17_000, 20_000);
}

#[test]
fn any_http_head() {
    let pieces: [&[u8]; 8] = [
        b"\r\n",
        b"\r\n\r\n",
        b"Host: ",
        b" HTTP/1.1",
        b"/.well-known/acme-challenge/",
        b"%2e%2e",
        b"[::1]",
        b"\n ",
    ];
    ask(bodies::http_head::any, &corpus(&["tests/corpus/http_head"]), &pieces, 9_000, 100_000);
}

#[test]
fn any_proxy_header() {
    let pieces: [&[u8]; 6] =
        [b"PROXY ", b"TCP4 ", b"UNKNOWN", b"\r\n", b"\r\n\r\n\0\r\nQUIT\n", &[0x21, 0x11, 0, 12]];
    let corpus = corpus(&["tests/corpus/proxy_header"]);
    ask(bodies::proxy_header::any, &corpus, &pieces, 17_000, 20_000);
}

#[test]
fn any_certificate() {
    let pieces: [&[u8]; 4] = [
        b"-----BEGIN CERTIFICATE-----",
        b"-----END CERTIFICATE-----\n",
        &[0x30, 0x82],
        &[0x30, 0x80],
    ];
    ask(bodies::certificate::any, &corpus(&["tests/corpus/certificate"]), &pieces, 4_000, 2_000);
}

#[test]
fn any_config() {
    let files = ["tests/corpus/config", "config/lockgate.toml", "config/examples"];
    let pieces: [&[u8]; 16] = [
        b"[",
        b"]",
        b"[[",
        b"{",
        b"\"",
        b"'''",
        b"=",
        b",",
        b"#",
        b"\n",
        b"\"\\u001b[2J\"",
        b"\xff",
        b"[[listener]]\n",
        b"[pool.a.health]\n",
        b"99999999999999999999",
        b"\"5s\"",
    ];
    ask(bodies::config::any, &corpus(&files), &pieces, 16_000, 4_000);
}

#[test]
fn any_vrrp_advert() {
    let packet: Vec<u8> = [0, 0x31, 51, 100, 1, 0, 10, 0, 0, 10, 0, 0, 100].into();
    ask(bodies::vrrp::packet, &[packet, vec![1; 40]], &[], 200, 200_000);
}

#[test]
fn any_vrrp_history() {
    let history: Vec<u8> = [0, 0, 100, 0, 100, 1, 0x11, 0x91].into();
    let longer: Vec<u8> = history.iter().copied().chain(0..=255).collect();
    ask(bodies::vrrp::history, &[history, longer], &[], 1_000, 20_000);
}
