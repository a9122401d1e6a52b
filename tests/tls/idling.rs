//! What a connection costs on which nothing happens.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use super::{NAME, handshakes};
use crate::harness::tls::{Authority, Store, shake_hands};
use crate::harness::{Config, Gateway, eventually, unused_address};

/// Memory of the process that is nobody else's, in bytes.
fn own_memory(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn two_thousand_idle_connections() {
    const BEFORE: usize = 200;
    const IDLE: usize = 2_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // The kernel completes the handshakes of TCP, and nobody accepts.
    let behind = unused_address();
    let backend = Socket::new(Domain::for_address(behind), Type::STREAM, None).unwrap();
    backend.bind(&behind.into()).unwrap();
    backend.listen(4096).unwrap();

    let (address, authority, store) = (unused_address(), Authority::new("authority"), Store::new());
    let files = store.put("site", &authority.issue(&[NAME]));
    let config =
        Config::new(address).tls(&[&files], "").backend_at("deaf", &behind.to_string(), "");
    let gateway = Gateway::start(config);
    let client = authority.client();

    let mut clients = Vec::with_capacity(BEFORE + IDLE);
    let mut hold = |count: usize| {
        while clients.len() < count {
            clients.push(shake_hands(&client, NAME, address).unwrap());
        }
        eventually("all are connected", || {
            let connected = gateway.metric("lockgate_backend_connections_active", &[]);
            handshakes(&gateway) == count as f64 && connected == count as f64
        });
        own_memory(&gateway)
    };
    let before = hold(BEFORE);
    let after = hold(BEFORE + IDLE);
    let each = after.saturating_sub(before) / IDLE as u64;
    println!("an idle connection takes {each} bytes");
    assert!(each < 20 << 10, "an idle connection takes {each} bytes");
    drop(clients);
    gateway.await_idle();
}
