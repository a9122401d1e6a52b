//! The end of a gateway: graceful, and less so.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::harness::{
    Config, Ending, Gateway, Launch, PATIENCE, Server, connect, ending, eventually, held, refused,
    stays_silent, unused_address,
};

#[test]
fn open_connections_finish_and_new_ones_are_refused() {
    let address = unused_address();
    let echo = Server::echo();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let config = Config::new(address).runtime(r#"drain_timeout = "1h""#).backend(&echo, "");
        let mut gateway = Gateway::start(config);
        let mut client = connect(address).unwrap();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();

        gateway.signal(signal);
        eventually("nobody new is let in", || refused(address));
        assert_eq!(gateway.request("GET", "/healthz").unwrap().0, 200);
        let (status, reasons) = gateway.request("GET", "/readyz").unwrap();
        assert_eq!((status, reasons.as_str()), (503, "stopping\n"));
        assert_eq!(gateway.status()["state"], "draining");

        client.write_all(b"y").unwrap();
        let mut echo = [0];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"y");
        assert!(gateway.is_running());
        let local = client.local_addr().unwrap();
        drop(client);
        assert_eq!(gateway.wait().code(), Some(0));
        assert_eq!(gateway.record_of(local)["reason"], "closed");
    }
}

#[test]
fn an_idle_gateway_stops_at_once() {
    let server = Server::named("a");
    let config = Config::new(unused_address()).runtime(r#"drain_timeout = "1h""#);
    let mut gateway = Gateway::start(config.backend(&server, ""));
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn who_takes_too_long_is_cut_off() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime(r#"drain_timeout = "300ms""#).backend(&server, "");
    let mut gateway = Gateway::start(config);
    let mut open = [held(address).unwrap(), held(address).unwrap()];

    gateway.signal(Signal::SIGTERM);
    for (client, _) in &mut open {
        assert_eq!(ending(client), Ending::Reset);
    }
    assert_eq!(gateway.wait().code(), Some(0));
    let records = gateway.records();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["reason"] == "drained"), "{records:?}");
    assert!(records.iter().all(|record| record["bytes_out"] == 2), "{records:?}");
    eventually("the server knows", || server.open() == 0);
}

#[test]
fn a_second_signal_stops_at_once() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime(r#"drain_timeout = "1h""#).backend(&server, "");
    let mut gateway = Gateway::start(config);
    let (mut client, _) = held(address).unwrap();

    gateway.signal(Signal::SIGTERM);
    eventually("nobody new is let in", || refused(address));
    assert!(stays_silent(&client));
    let began = Instant::now();
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(ending(&mut client), Ending::Reset);
    assert_eq!(gateway.record_of(client.local_addr().unwrap())["reason"], "drained");
}

#[test]
fn who_waits_in_the_queue_is_let_go_at_the_end() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address)
        .runtime(r#"drain_timeout = "300ms""#)
        .pool(r#"queue_timeout = "1h""#)
        .backend(&server, "max_connections = 1");
    let mut gateway = Gateway::start(config);
    let _open = held(address).unwrap();
    let mut waiting = connect(address).unwrap();
    eventually("it waits", || gateway.metric("lockgate_queue_depth", &[]) == 1.0);

    gateway.signal(Signal::SIGTERM);
    assert_eq!(ending(&mut waiting), Ending::Reset);
    assert_eq!(gateway.wait().code(), Some(0));
    assert_eq!(gateway.records().len(), 2);
}

#[test]
fn a_killed_gateway_can_be_started_again() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).backend(&server, "");
    // The socket is left behind by a process that could not clean up.
    let gateway = Gateway::start(config).start_again();
    assert_eq!(gateway.status()["generation"], 1);
}

/// A signal that comes while the first checks are still out finds somebody to receive it.
#[test]
fn a_stop_during_the_start_is_a_graceful_one() {
    let (let_go, waits) = mpsc::channel();
    let server = Server::deaf(waits);
    let config = Config::new(unused_address())
        .pool("health = { type = \"http\", timeout = \"1m\" }")
        .backend(&server, "");
    let mut gateway = Launch::new(config).start_unready();
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(!gateway.config_path().with_file_name("admin.sock").exists());
    drop(let_go);
}
