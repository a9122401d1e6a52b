//! Backends that are paused, cut off, or reset everything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use nix::sys::signal::Signal;

use super::open_files;
use crate::harness::lab::{GATEWAY, LEFT, Lab, RIGHT};
use crate::harness::{
    Config, Gateway, Launch, Noise, Server, connect, eventually, output_of, reset, until,
    unused_address,
};

/// Sends bytes through an echo and checks what comes back.
fn echoed(stream: &mut TcpStream, seed: u64, length: usize) {
    let noise = Noise::new(seed);
    let (mut sending, mut receiving) = (stream.try_clone().unwrap(), stream);
    thread::scope(|scope| {
        scope.spawn(|| noise.write(&mut sending, length).unwrap());
        assert_eq!(noise.read(&mut receiving, length).unwrap(), length);
    });
}

/// Who serves a connection is told by the port that it shows: echoes tell nothing else.
fn backend_of(gateway: &Gateway, stream: &TcpStream) -> String {
    let client = stream.local_addr().unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    gateway.record_of(client)["backend"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_paused_backend_keeps_its_connections_and_gets_no_others() {
    // A process that can be stopped: another gateway, before an echo.
    let (echo, behind, address) = (Server::echo(), unused_address(), unused_address());
    let paused = Gateway::start(Config::new(behind).backend(&echo, ""));
    let other = Server::echo();
    let check = "type = \"send_expect\", send = \"PING\", expect = \"PING\"";
    let pace = "interval = \"200ms\", fast_interval = \"100ms\", timeout = \"500ms\"";
    let config = Config::new(address)
        .pool(&format!("health = {{ {check}, {pace} }}"))
        .backend_at("paused", &behind.to_string(), "")
        .backend_at("other", &other.address().to_string(), "backup = true");
    let gateway = Gateway::start(config);
    let mut kept = connect(address).unwrap();
    echoed(&mut kept, 1, 100_000);

    paused.signal(Signal::SIGSTOP);
    let reason = gateway.await_state("paused", "down")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("no answer within 500ms"), "{reason}");
    for seed in 0..10 {
        let mut visitor = connect(address).unwrap();
        echoed(&mut visitor, seed, 10_000);
        assert_eq!(backend_of(&gateway, &visitor), "other");
    }
    kept.write_all(b"still there?").unwrap();

    paused.signal(Signal::SIGCONT);
    let mut answer = [0; 12];
    kept.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still there?");
    echoed(&mut kept, 2, 5_000_000);
    gateway.await_state("paused", "up");
    assert_eq!(backend_of(&gateway, &kept), "paused");
    gateway.await_idle();
}

#[test]
fn a_backend_that_is_cut_off_costs_time_and_no_connection() {
    let lab = Lab::new();
    let echoes = [&lab.left, &lab.right].map(|side| {
        let ip = if side.name() == lab.left.name() { LEFT } else { RIGHT };
        side.run(|| {
            Server::new("echo", SocketAddr::new(ip.into(), 7000), |mut stream| {
                let mut out = stream.try_clone()?;
                std::io::copy(&mut stream, &mut out)?;
                stream.shutdown(Shutdown::Write)
            })
        })
    });
    let address = SocketAddr::new(GATEWAY.into(), 80);
    let config = Config::new(address)
        .pool("connect_timeout = \"500ms\"\nretries = 1")
        .pool("health = { type = \"tcp\", interval = \"300ms\", timeout = \"500ms\" }")
        .backend_at("left", &format!("{LEFT}:7000"), "weight = 1000")
        .backend_at("right", &format!("{RIGHT}:7000"), "weight = 1");
    let gateway = Launch::new(config).under(&lab.gateway.enter()).start();
    let filter = |line: &str| {
        lab.left.run(|| {
            let words = line.split_whitespace();
            let output = output_of(std::process::Command::new("/usr/sbin/nft").args(words));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        });
    };
    let come = || lab.client.run(|| connect(address).unwrap());
    let mut kept = come();
    echoed(&mut kept, 1, 100_000);

    filter("add table inet cut");
    filter("add chain inet cut in { type filter hook input priority 0 ; policy drop ; }");
    // Nobody knows yet: the first to come is sent there, and on to the other.
    let mut first = come();
    echoed(&mut first, 2, 100_000);
    assert_eq!(backend_of(&gateway, &first), "right");
    let reason = gateway.await_state("left", "down")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("no answer") || reason.contains("timeout"), "{reason}");
    for seed in 3..8 {
        let mut visitor = come();
        echoed(&mut visitor, seed, 10_000);
        assert_eq!(backend_of(&gateway, &visitor), "right");
    }
    kept.write_all(b"into the void").unwrap();

    filter("delete table inet cut");
    let mut answer = [0; 13];
    kept.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"into the void");
    echoed(&mut kept, 9, 1_000_000);
    gateway.await_state("left", "up");
    assert_eq!(backend_of(&gateway, &kept), "left");
    drop(echoes);
}

#[test]
fn a_backend_that_resets_everything_is_a_reset_for_its_clients_and_nothing_else() {
    let address = unused_address();
    let resetting = Server::with("resetting", |stream| {
        reset(stream);
        Ok(())
    });
    let gateway = Gateway::start(Config::new(address).backend(&resetting, ""));
    let visit = |count: usize| {
        for _ in 0..count {
            // It may come so soon that connecting itself fails of it.
            if let Ok(mut stream) = connect(address) {
                let mut all = Vec::new();
                let ended = stream.read_to_end(&mut all);
                assert!(ended.is_err() && all.is_empty(), "{ended:?} {all:?}");
            }
        }
        gateway.await_idle();
    };
    visit(200);
    let (files, memory) = (open_files(&gateway), gateway.resident_memory());
    visit(2_000);
    eventually("files are as before", || open_files(&gateway) <= files);
    let more = gateway.resident_memory().saturating_sub(memory);
    assert!(more < 4 << 20, "{more} bytes more after 2000 resets");
    // A reset may overtake the end of the handshake: then there never was a connection.
    let ended = until("all have left their records", || {
        let mut records = gateway.records();
        records.retain(|record| record["backend"] == "resetting");
        (records.len() >= 2_000).then_some(records)
    });
    let is_its_fault = |reason: &str| ["backend_reset", "connect_failed"].contains(&reason);
    assert!(ended.iter().all(|record| is_its_fault(record["reason"].as_str().unwrap())));
}
