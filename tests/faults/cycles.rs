//! Clients that connect and close ten thousand times leave memory and open files where they were.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

use super::open_files;
use crate::harness::hello::captured;
use crate::harness::tls::{Authority, Store, visit_tls};
use crate::harness::{
    Config, Gateway, Launch, Server, connect, ending_at, eventually, reset, unused_address, visit,
};

const CYCLES: usize = 10_000;
/// They are done by so many clients at a time.
const CLIENTS: usize = 8;
/// Done before anything is measured: what is kept for later is no leak.
const BEFORE: usize = 4_000;
/// Bytes that may be more afterwards: what the allocator keeps, records on their way. A leak of 700
/// bytes by connection would be more.
const ROOM: u64 = 6 << 20;

fn repeat(count: usize, cycle: &(impl Fn(usize) + Sync)) {
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || (client..count).step_by(CLIENTS).for_each(cycle));
        }
    });
}

/// Waits until no connection is open. Some of these gateways have no backend.
fn await_idle(gateway: &Gateway) {
    eventually("all have ended", || gateway.metric("lockgate_connections_active", &[]) == 0.0);
}

/// Has clients go through this cycle, which is given its number.
fn leaves_nothing(gateway: &Gateway, cycle: impl Fn(usize) + Sync) {
    repeat(BEFORE, &cycle);
    await_idle(gateway);
    let (files, memory) = (open_files(gateway), gateway.resident_memory());
    let accepted = || gateway.metric("lockgate_connections_total", &[]) as usize;
    let before = accepted();
    repeat(CYCLES, &cycle);
    eventually("all are accepted", || accepted() >= before + CYCLES);
    await_idle(gateway);
    eventually("files are as before", || open_files(gateway) <= files);
    let after = gateway.resident_memory();
    eprintln!("from {} KiB to {} KiB, {files} files", memory >> 10, after >> 10);
    assert!(after < memory + ROOM, "from {memory} to {after} bytes");
}

#[test]
fn in_the_clear() {
    let (server, address) = (Server::named("a"), unused_address());
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));
    leaves_nothing(&gateway, |number| match number % 3 {
        0 => assert_eq!(visit(address).unwrap(), "a"),
        1 => drop(connect(address).unwrap()),
        _ => reset(connect(address).unwrap()),
    });
}

#[test]
fn with_tls() {
    let (server, address) = (Server::named("a"), unused_address());
    let (authority, store) = (Authority::new("authority"), Store::new());
    let files = store.put("site", &authority.issue(&["www.example.com"]));
    let gateway = Gateway::start(Config::new(address).tls(&[&files], "").backend(&server, ""));
    let client = authority.client();
    let hello = captured("openssl-tls13");
    leaves_nothing(&gateway, |number| match number % 8 {
        0 => assert_eq!(visit_tls(&client, "www.example.com", address).unwrap().greeting, "a"),
        1 => drop(connect(address).unwrap()),
        2 => reset(connect(address).unwrap()),
        // A hello, or a part of one, and what it is answered with is not read.
        part => {
            let length = hello.len() * (part - 2) / 5;
            connect(address).unwrap().write_all(&hello[..length]).unwrap();
        }
    });
}

#[test]
fn passed_through() {
    let (server, address) = (Server::named("a"), unused_address());
    let config = Config::new(address).listener("protocol = \"tls_passthrough\"");
    let gateway = Gateway::start(config.backend(&server, ""));
    let hello = captured("openssl-tls13");
    leaves_nothing(&gateway, |number| {
        let mut stream = connect(address).unwrap();
        stream.write_all(&hello[..hello.len() * (number % 4) / 3]).unwrap();
        if number % 4 == 3 {
            stream.read_exact(&mut [0; 2]).unwrap();
        }
        if number % 2 == 0 {
            reset(stream);
        }
    });
}

#[test]
fn sent_elsewhere() {
    let address = unused_address();
    let gateway = Launch::new(redirect(address)).start();
    leaves_nothing(&gateway, |number| {
        let mut stream = connect(address).unwrap();
        let request = b"GET /a HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
        stream.write_all(&request[..request.len() * (number % 4) / 3]).unwrap();
        if number % 4 == 3 {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
        }
    });
}

fn redirect(address: SocketAddr) -> String {
    format!("[[listener]]\nname = \"web\"\nbind = \"{address}\"\nprotocol = \"redirect\"\n")
}

#[test]
fn refused() {
    let address = unused_address();
    // A listener without a pool.
    let config = format!("[[listener]]\nname = \"web\"\nbind = \"{address}\"\n");
    let gateway = Launch::new(config).start();
    leaves_nothing(&gateway, |_| {
        ending_at(address);
    });
    gateway.await_records(BEFORE + CYCLES, "no_route");
}
