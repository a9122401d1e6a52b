//! More clients than there is room for: whoever is inside goes on, whoever is not waits, and when
//! there is room again nobody has to do anything.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Config, Gateway, Launch, Noise, Server, StopAtEnd, connect, eventually, output_of,
    unused_address, visit,
};

fn open_files(gateway: &Gateway) -> usize {
    fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

fn limit_files(gateway: &Gateway, soft: usize) {
    let pid = gateway.pid().to_string();
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid, &format!("--nofile={soft}:")]);
    assert!(output_of(&mut command).status.success());
}

/// Sends blocks through an echo until told to stop, checks each, and counts them.
fn stream_blocks(mut stream: TcpStream, seed: u64, stop: &AtomicBool, blocks: &AtomicUsize) {
    const BLOCK: usize = 100_000;
    let noise = Noise::new(seed);
    while !stop.load(Ordering::SeqCst) {
        noise.write(&mut stream, BLOCK).unwrap();
        assert_eq!(noise.read(&mut stream, BLOCK).unwrap(), BLOCK);
        blocks.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn when_files_run_out_open_connections_go_on_and_new_ones_wait() {
    const INSIDE: usize = 6;
    const NEWCOMERS: usize = 60;
    let (address, echo) = (unused_address(), Server::echo());
    let config = Config::new(address)
        .runtime("workers = 2")
        .pool("health = { type = \"tcp\", interval = \"1h\" }\nqueue_timeout = \"60s\"")
        .backend(&echo, "");
    let gateway = Launch::new(config).under(&["prlimit", "--nofile=4096:4096"]).start();
    let inside: Vec<_> = (0..INSIDE).map(|_| connect(address).unwrap()).collect();
    eventually("all are inside", || {
        gateway.metric("lockgate_backend_connections_active", &[]) == INSIDE as f64
    });
    // Before there is no room for pipes any more.
    let (stop, blocks) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for (seed, stream) in (0..).zip(inside) {
            let (stop, blocks) = (&stop, &blocks);
            scope.spawn(move || stream_blocks(stream, seed, stop, blocks));
        }
        thread::sleep(Duration::from_millis(200));
        // One more: an accepted client then has no file left for its backend.
        limit_files(&gateway, open_files(&gateway) + 1);
        let (began, before) = (Instant::now(), blocks.load(Ordering::SeqCst));
        let newcomers: Vec<_> = (0..NEWCOMERS).map(|_| connect(address).unwrap()).collect();
        thread::sleep(Duration::from_secs(3));
        let told = gateway.stderr().matches("Too many open files").count();
        let seconds = began.elapsed().as_secs() as usize;
        assert!(told >= 1, "nobody was told:\n{}", gateway.stderr());
        // Once a second, by whichever worker.
        assert!(told <= seconds + 2, "{told} lines in {seconds} s");
        let moved = blocks.load(Ordering::SeqCst) - before;
        assert!(moved >= INSIDE, "open connections have moved {moved} blocks");

        limit_files(&gateway, 4096);
        for mut stream in newcomers {
            let mut answer = [0; 5];
            stream.write_all(b"well?").unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"well?");
        }
        stop.store(true, Ordering::SeqCst);
    });
    // It was not the backend's fault.
    assert_eq!(gateway.backend("echo")["state"], "up");
    gateway.await_idle();
    eventually("each has its record", || gateway.records().len() == INSIDE + NEWCOMERS);
    for record in gateway.records() {
        assert_eq!(record["reason"], "closed", "{record}");
    }
}

#[test]
fn at_the_maximum_memory_and_files_stay_where_they_are_and_nobody_is_refused() {
    const ROOM: usize = 50;
    const CLIENTS: usize = 1_000;
    let (address, server) = (unused_address(), Server::named("a"));
    let config = Config::new(address).runtime(&format!("max_connections = {ROOM}"));
    let gateway = Gateway::start(config.backend(&server, ""));
    for _ in 0..200 {
        visit(address).unwrap();
    }
    gateway.await_idle();
    let (files, memory) = (open_files(&gateway), gateway.resident_memory());

    let mut waiting: Vec<_> = (0..CLIENTS).map(|_| connect(address).unwrap()).collect();
    let active = || gateway.metric("lockgate_connections_active", &[]) as usize;
    eventually("it is full", || active() == ROOM);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(active(), ROOM);
    // Two sockets each, and what the admin server opens for the question.
    let more = open_files(&gateway).saturating_sub(files);
    assert!(more <= 2 * ROOM + 8, "{more} more files for {ROOM} connections");
    let grown = gateway.resident_memory().saturating_sub(memory);
    assert!(grown < 8 << 20, "{grown} more bytes with {CLIENTS} clients before the door");

    // Each leaves when it has been served, and makes room for the next, in whichever order.
    for client in &waiting {
        client.set_nonblocking(true).unwrap();
    }
    eventually("all are served", || {
        waiting.retain(|mut client| match client.read(&mut [0; 2]) {
            Ok(count) => {
                assert_eq!(count, 2, "somebody is refused");
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "somebody is refused");
                true
            }
        });
        waiting.is_empty()
    });
    gateway.await_idle();
    let accepted = gateway.metric("lockgate_connections_total", &[("listener", "web")]) as usize;
    assert_eq!(accepted, 200 + CLIENTS);
    eventually("files are as before", || open_files(&gateway) <= files + 2);
}
