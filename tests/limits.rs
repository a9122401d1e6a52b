//! What happens when there is no more room: connections wait, and nothing spins.

use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::harness::{
    Config, Gateway, Launch, Server, connect, eventually, greeting, held, output_of, stays_silent,
    unused_address,
};

/// Fills the gateway with `room` connections: those that come then wait in the kernel, cost
/// nothing, and are served when others end.
fn fill(gateway: &Gateway, address: SocketAddr, room: usize) {
    let mut open: Vec<_> = (0..room).map(|_| held(address).unwrap().0).collect();
    let mut waiting: Vec<_> = (0..3).map(|_| connect(address).unwrap()).collect();
    assert!(waiting.iter().all(stays_silent));
    let accepted = || gateway.metric("lockgate_connections_total", &[("listener", "web")]);
    assert_eq!(accepted(), room as f64);

    let before = gateway.processor_time();
    thread::sleep(Duration::from_secs(2));
    let used = gateway.processor_time() - before;
    assert!(used < Duration::from_millis(500), "{used:?} of processor time for doing nothing");

    open.drain(..3);
    for client in &mut waiting {
        assert_eq!(greeting(client).unwrap(), "a");
    }
    assert_eq!(accepted(), room as f64 + 3.0);
    drop((open, waiting));
    gateway.await_idle();
}

#[test]
fn the_process_has_a_maximum() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime("max_connections = 10").backend(&server, "");
    let gateway = Gateway::start(config);
    assert_eq!(gateway.metric("lockgate_connections_limit", &[]), 10.0);
    fill(&gateway, address, 10);
}

#[test]
fn a_listener_has_a_maximum() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).listener("max_connections = 10").backend(&server, "");
    fill(&Gateway::start(config), address, 10);
}

#[test]
fn a_maximum_holds_when_all_come_at_once_to_many_workers() {
    let server = Server::named("a");
    for (runtime, listener) in [("max_connections = 10", ""), ("", "max_connections = 10")] {
        let address = unused_address();
        let config = Config::new(address)
            .runtime("workers = 8")
            .runtime(runtime)
            .listener(listener)
            .backend(&server, "");
        let gateway = Gateway::start(config);
        for round in 1..=10 {
            let start = Barrier::new(40);
            let open: Vec<_> = thread::scope(|scope| {
                let client = || {
                    start.wait();
                    connect(address).unwrap()
                };
                let clients: Vec<_> = (0..40).map(|_| scope.spawn(client)).collect();
                clients.into_iter().map(|client| client.join().unwrap()).collect()
            });
            let active = || gateway.metric("lockgate_connections_active", &[]);
            eventually("the gateway is full", || active() >= 10.0);
            assert_eq!(active(), 10.0, "{runtime}{listener}");
            drop(open);
            eventually("all have had their turn", || {
                let total = gateway.metric("lockgate_connections_total", &[]);
                total == f64::from(round) * 40.0
            });
            gateway.await_idle();
        }
    }
}

#[test]
fn the_maximum_is_what_open_files_allow() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime("workers = 1").backend(&server, "");
    let gateway = Launch::new(config).under(&["prlimit", "--nofile=900:900"]).start();
    let room = gateway.status()["max_connections"].as_u64().unwrap();
    assert!((4..350).contains(&room), "{room}");
    fill(&gateway, address, room.try_into().unwrap());
}

#[test]
fn a_small_limit_of_open_files_is_enough_for_a_single_connection() {
    let address = unused_address();
    let server = Server::named("a");
    let config =
        Config::new(address).runtime("workers = 1\nmax_connections = 1").backend(&server, "");
    let gateway = Launch::new(config).under(&["prlimit", "--nofile=700:700"]).start();
    let (first, _) = held(address).unwrap();
    let mut second = connect(address).unwrap();
    assert!(stays_silent(&second));
    drop(first);
    assert_eq!(greeting(&mut second).unwrap(), "a");
    drop(second);
    gateway.await_idle();
}

#[test]
fn when_files_run_out_connections_wait() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime("workers = 1").backend(&server, "");
    let gateway = Gateway::start(config);
    let (mut client, _) = held(address).unwrap();
    // What the gateway does not expect: it looks at the limit when it starts.
    let limit = |soft: u32| {
        let pid = gateway.pid().to_string();
        let mut command = Command::new("prlimit");
        command.args(["--pid", &pid, &format!("--nofile={soft}:")]);
        assert!(output_of(&mut command).status.success());
    };
    limit(5);

    let mut waiting: Vec<_> = (0..5).map(|_| connect(address).unwrap()).collect();
    assert!(waiting.iter().all(stays_silent));
    let before = gateway.processor_time();
    thread::sleep(Duration::from_secs(2));
    let used = gateway.processor_time() - before;
    assert!(used < Duration::from_millis(500), "{used:?} of processor time for doing nothing");
    gateway.await_log("cannot accept for now");
    // A line a second at most.
    assert!(gateway.stderr().matches("cannot accept for now").count() < 20);
    assert!(stays_silent(&client), "the open connection goes on");

    limit(1000);
    for client in &mut waiting {
        assert_eq!(greeting(client).unwrap(), "a");
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(waiting);
    gateway.await_idle();
}

#[test]
fn a_reload_makes_room() {
    let address = unused_address();
    let server = Server::named("a");
    let config = |room: u32| {
        let room = format!("max_connections = {room}");
        Config::new(address).runtime(&room).backend(&server, "")
    };
    let gateway = Gateway::start(config(2));
    let _open = [held(address).unwrap(), held(address).unwrap()];
    let mut waiting = connect(address).unwrap();
    assert!(stays_silent(&waiting));
    gateway.reload(config(3));
    assert_eq!(greeting(&mut waiting).unwrap(), "a");
    eventually("all three are counted", || {
        gateway.metric("lockgate_connections_active", &[]) == 3.0
    });
}
