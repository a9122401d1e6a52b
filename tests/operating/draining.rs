//! Backends that are drained, disabled, enabled, and weighed.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{done, order, run};
use crate::harness::{
    Config, Ending, Events, Gateway, Server, StopAtEnd, ending, eventually, held, until,
    unused_address, visit,
};

/// A gateway before two servers: its address, itself, and the servers.
fn two() -> (SocketAddr, Gateway, [Server; 2]) {
    let address = unused_address();
    let servers = ["a", "b"].map(Server::named);
    let config = Config::new(address).backend(&servers[0], "").backend(&servers[1], "");
    (address, Gateway::start(config), servers)
}

fn who_serves(address: SocketAddr, visits: usize) -> [usize; 2] {
    let names: Vec<_> = (0..visits).map(|_| visit(address).unwrap()).collect();
    ["a", "b"].map(|name| names.iter().filter(|served| *served == name).count())
}

#[test]
fn drain_wait_returns_when_the_last_connection_has_ended() {
    let (address, gateway, _servers) = two();
    let clients: Vec<_> = (0..4).map(|_| held(address).unwrap()).collect();
    let events = Events::of(&gateway);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&gateway, &["drain", "app/a", "--wait"]));
        let draining = gateway.await_state("a", "draining");
        assert_eq!(draining["connections"], 2);
        assert_eq!(draining["effective_weight"], 0.0);
        assert!(draining["oldest_seconds"].is_number(), "{draining}");
        assert!(draining["set"]["by"].as_str().unwrap().starts_with("uid "), "{draining}");
        assert_eq!(who_serves(address, 6), [0, 6]);
        let mut of_a: Vec<_> = clients.into_iter().filter(|(_, name)| name == "a").collect();
        drop(of_a.pop());
        eventually("one is left", || gateway.backend("a")["connections"] == 1);
        thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished(), "it waits for the last one");
        drop(of_a.pop());
        let (code, out, err) = waiting.join().unwrap();
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("app/a: enabled -> draining; 2 connections left"), "{out}");
        assert!(out.contains("no connection is left"), "{out}");
        assert!(err.contains("left, oldest "), "{err}");
    });
    events.await_event(&[
        ("kind", "operator"),
        ("what", "app/a"),
        ("before", "enabled, weight 100"),
        ("after", "draining, weight 100"),
    ]);
    events.await_event(&[("kind", "backend"), ("event", "drained"), ("backend", "a")]);
    gateway.await_log("drained: no connection is left");
}

#[test]
fn a_drain_timeout_cuts_what_is_left_by_a_reset_and_nobody_else() {
    let (address, gateway, _servers) = two();
    let clients: Vec<_> = (0..6).map(|_| held(address).unwrap()).collect();
    let began = Instant::now();
    let out = done(&gateway, &["drain", "app/b", "--timeout", "1s"]);
    assert!(out.contains("3 connections left, cut by a reset after 1s"), "{out}");
    for (mut client, name) in clients {
        if name == "b" {
            assert_eq!(ending(&mut client), Ending::Reset);
            assert!(began.elapsed() >= Duration::from_secs(1), "cut too early");
        } else {
            client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let untouched = client.read(&mut [0]).unwrap_err().kind();
            assert_eq!(untouched, ErrorKind::WouldBlock);
        }
    }
    let cut = until("the records of those that were cut", || {
        let records = gateway.records();
        let cut = records.iter().filter(|record| record["reason"] == "drained").count();
        (cut == 3).then_some(cut)
    });
    assert_eq!(cut, 3);
    eventually("nothing is left", || gateway.backend("b")["connections"] == 0);
}

#[test]
fn enable_undoes_a_drain_and_its_timeout_and_a_second_drain_changes_nothing() {
    let (address, gateway, _servers) = two();
    let (mut client, _) = held(address).unwrap();
    let path = "/v1/pools/app/backends/a";
    let drain = r#"{"state": "draining", "timeout": "2s"}"#;
    assert_eq!(order(&gateway, "POST", path, drain).0, 200);
    let (status, again) = order(&gateway, "POST", path, r#"{"state": "draining"}"#);
    assert_eq!((status, &again["changed"]), (200, &false.into()));
    let out = done(&gateway, &["drain", "app/a"]);
    assert!(out.contains("app/a: draining already"), "{out}");
    assert!(done(&gateway, &["enable", "app/a"]).contains("draining -> enabled"));
    assert!(gateway.backend("a")["set"].is_null());
    thread::sleep(Duration::from_millis(2_500));
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(client.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
    assert_eq!(who_serves(address, 6), [3, 3]);
}

#[test]
fn weights_change_shares_exactly() {
    let (address, gateway, _servers) = two();
    assert!(done(&gateway, &["weight", "app/a", "300"]).contains("weight 100 -> 300"));
    assert_eq!(gateway.backend("a")["weight"], 300);
    eventually("workers go by it", || who_serves(address, 4) == [3, 1]);
    assert_eq!(who_serves(address, 40), [30, 10]);
    done(&gateway, &["weight", "app/a", "0"]);
    eventually("workers go by it", || who_serves(address, 1) == [0, 1]);
    assert_eq!(who_serves(address, 10), [0, 10]);
    done(&gateway, &["weight", "app/a", "file"]);
    assert!(gateway.backend("a")["set"].is_null());
    eventually("workers go by it", || who_serves(address, 2) == [1, 1]);
    assert_eq!(who_serves(address, 40), [20, 20]);
    let (status, both) = order(
        &gateway,
        "POST",
        "/v1/pools/app/backends/b",
        r#"{"state": "disabled", "weight": 5}"#,
    );
    assert_eq!(status, 200);
    assert_eq!(both["after"], serde_json::json!({"state": "disabled", "weight": 5}));
}

#[test]
fn a_backend_that_is_disabled_under_load_costs_no_request() {
    let (address, gateway, _servers) = two();
    let stop = AtomicBool::new(false);
    let visits = AtomicUsize::new(0);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        visit(address).expect("no visit fails");
                        visits.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for round in 0..6 {
            let enough = visits.load(Ordering::SeqCst) + 50;
            eventually("clients are served", || visits.load(Ordering::SeqCst) >= enough);
            let name = ["app/a", "app/b"][round / 2 % 2];
            let command = ["disable", "enable"][round % 2];
            done(&gateway, &[command, name]);
        }
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().unwrap();
        }
    });
    let retries = gateway.metric("lockgate_retries_total", &[]);
    assert_eq!(retries, 0.0);
}

#[test]
fn what_is_unknown_or_wrong_is_told_with_what_was_meant() {
    let (_, gateway, _servers) = two();
    for (arguments, code, expected) in [
        (&["drain", "ap/a"][..], 64, "there is no pool 'ap'; did you mean 'app'?"),
        (&["drain", "app/x"], 64, "pool 'app' has no backend 'x' (there are: a, b)"),
        (&["drain", "app"], 64, "write POOL/BACKEND"),
        (&["drain"], 64, "required"),
        (&["drain", "--node", "app/a"], 64, "cannot be used with"),
        (&["drain", "app/a", "--timeout", "soon"], 64, "timeout: "),
        (&["weight", "app/a", "many"], 64, "write a number from 0 to 65535"),
        (&["weight", "app/a", "70000"], 64, "write a number from 0 to 65535"),
    ] {
        let (found, out, err) = run(&gateway, arguments);
        assert_eq!(found, code, "{arguments:?}: {out}{err}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
    assert_eq!(gateway.backend("a")["state"], "unchecked");
}

#[test]
fn a_node_that_is_drained_is_not_ready_but_serves() {
    let (address, gateway, _servers) = two();
    assert!(done(&gateway, &["drain", "--node"]).contains("node: draining"));
    let (status, reasons) = gateway.request("GET", "/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(reasons.contains("the node is drained by uid "), "{reasons}");
    assert_eq!(gateway.request("GET", "/healthz").unwrap().0, 200);
    assert!(gateway.status()["drain"]["who"].as_str().unwrap().starts_with("uid "));
    assert!(visit(address).is_ok());
    assert!(done(&gateway, &["drain", "--node"]).contains("draining already"));
    assert!(done(&gateway, &["enable", "--node"]).contains("node: enabled"));
    assert_eq!(gateway.request("GET", "/readyz").unwrap().0, 200);
    assert!(gateway.status()["drain"].is_null());
}

#[test]
fn who_drains_the_last_backend_is_told() {
    let (_, gateway, _servers) = two();
    done(&gateway, &["drain", "app/a"]);
    let (_, told) = order(&gateway, "POST", "/v1/pools/app/backends/b", r#"{"state":"draining"}"#);
    let notes = told["notes"].to_string();
    assert!(notes.contains("pool app has no usable backend now"), "{told}");
    assert_eq!(gateway.request("GET", "/readyz").unwrap().0, 503);
}
