//! Which backend a connection gets: the policies, weights, backups, limits and queues.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Barrier;
use std::thread;

use crate::harness::{
    Config, Ending, Gateway, Server, connect, ending, ending_at, eventually, greeting, held,
    stays_silent, until, unused_address, visit, visit_from,
};

/// Checks that see a change soon.
const QUICK_CHECKS: &str =
    r#"health = { type = "tcp", interval = "100ms", fast_interval = "50ms", rise = 1, fall = 1 }"#;

fn tally(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    names.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.map(|(name, count)| (name.to_owned(), count)).into()
}

#[test]
fn round_robin_is_exact_and_smooth() {
    let address = unused_address();
    let [a, b, c] = ["a", "b", "c"].map(Server::named);
    let config = Config::new(address)
        .backend(&a, "weight = 5")
        .backend(&b, "weight = 1")
        .backend(&c, "weight = 1");
    let _gateway = Gateway::start(config);

    let names: Vec<String> = (0..700).map(|_| visit(address).unwrap()).collect();
    let longest = names.chunk_by(|one, next| one == next).map(<[_]>::len).max().unwrap();
    assert!(longest <= 4, "{longest} connections in a row went to the same backend");
    assert_eq!(tally(names), counts([("a", 500), ("b", 100), ("c", 100)]));
}

#[test]
fn round_robin_is_exact_over_many_workers_and_clients() {
    let address = unused_address();
    let [a, b, c] = ["a", "b", "c"].map(Server::named);
    let config = Config::new(address)
        .runtime("workers = 8")
        .backend(&a, "weight = 5")
        .backend(&b, "weight = 1")
        .backend(&c, "weight = 1");
    let _gateway = Gateway::start(config);

    let names = thread::scope(|scope| {
        let visits = || (0..70).map(|_| visit(address).unwrap()).collect::<Vec<_>>();
        let clients: Vec<_> = (0..10).map(|_| scope.spawn(visits)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(tally(names), counts([("a", 500), ("b", 100), ("c", 100)]));
}

/// 90 connections that stay open, over the weights 2 and 1.
fn least_connections(workers: usize, at_once: bool) {
    let address = unused_address();
    let [a, b] = ["a", "b"].map(Server::named);
    let config = Config::new(address)
        .runtime(&format!("workers = {workers}"))
        .pool(r#"balance = "least_connections""#)
        .backend(&a, "weight = 2")
        .backend(&b, "weight = 1");
    let _gateway = Gateway::start(config);

    let open: Vec<_> = if at_once {
        let start = Barrier::new(90);
        thread::scope(|scope| {
            let client = || {
                start.wait();
                held(address).unwrap()
            };
            let clients: Vec<_> = (0..90).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        })
    } else {
        (0..90).map(|_| held(address).unwrap()).collect()
    };
    let names = open.iter().map(|(_, name)| name.clone());
    assert_eq!(tally(names), counts([("a", 60), ("b", 30)]));
}

#[test]
fn least_connections_is_exact_one_by_one() {
    least_connections(2, false);
    least_connections(8, false);
}

#[test]
fn least_connections_is_exact_all_at_once() {
    least_connections(2, true);
    least_connections(8, true);
}

#[test]
fn random_follows_the_weights_of_idle_backends() {
    let address = unused_address();
    let [a, b] = ["a", "b"].map(Server::named);
    let config = Config::new(address)
        .pool(r#"balance = "random""#)
        .backend(&a, "weight = 3")
        .backend(&b, "weight = 1");
    let _gateway = Gateway::start(config);

    let shares = tally((0..400).map(|_| visit(address).unwrap()));
    // 100 expected; five standard deviations are 43.
    assert!((57..=143).contains(&shares["b"]), "{shares:?}");
}

#[test]
fn random_prefers_the_less_loaded_of_two() {
    let address = unused_address();
    let [a, mut b] = ["a", "b"].map(Server::named);
    b.kill();
    let config = Config::new(address)
        .pool(r#"balance = "random""#)
        .pool(QUICK_CHECKS)
        .backend(&a, "")
        .backend(&b, "");
    let gateway = Gateway::start(config);
    gateway.await_state("b", "down");
    let hold = || (0..400).map(|_| held(address).unwrap()).collect::<Vec<_>>();
    let _load_of_a = hold();
    b.restart();
    gateway.await_state("b", "up");

    let open = hold();
    let shares = tally(open.iter().map(|(_, name)| name.clone()));
    // Only two draws of a choose a: 300 connections are expected at b, and 200 if load did not
    // count. Five standard deviations lie between either and this.
    assert!(shares["b"] > 250, "{shares:?}");
}

#[test]
fn source_hash_knows_a_client_again_at_both_gateways_of_a_pair() {
    let (here, there) = (unused_address(), unused_address());
    let servers = ["a", "b", "c", "d"].map(Server::named);
    let config = |bind: SocketAddr| Config::new(bind).pool(r#"balance = "source_hash""#);
    let in_order = servers.iter().fold(config(here), |config, s| config.backend(s, ""));
    let reversed = servers.iter().rev().fold(config(there), |config, s| config.backend(s, ""));
    let _pair = (Gateway::start(in_order), Gateway::start(reversed));

    let mut names = Vec::new();
    for client in 1..=60 {
        let client = IpAddr::from(Ipv4Addr::new(127, 0, 0, client));
        let first = visit_from(client, here).unwrap();
        for address in [here, here, there] {
            assert_eq!(visit_from(client, address).unwrap(), first, "client {client}");
        }
        names.push(first);
    }
    let shares = tally(names);
    assert_eq!(shares.len(), 4, "every backend has clients: {shares:?}");
}

#[test]
fn a_backup_serves_only_while_all_others_are_down() {
    let address = unused_address();
    let [mut a, mut b, spare] = ["a", "b", "spare"].map(Server::named);
    let config = Config::new(address)
        .pool(QUICK_CHECKS)
        .backend(&a, "")
        .backend(&b, "")
        .backend(&spare, "backup = true");
    let gateway = Gateway::start(config);
    let visits = |n| tally((0..n).map(|_| visit(address).unwrap()));

    assert_eq!(visits(20), counts([("a", 10), ("b", 10)]));
    a.kill();
    gateway.await_state("a", "down");
    assert_eq!(visits(20), counts([("b", 20)]));
    b.kill();
    gateway.await_state("b", "down");
    assert_eq!(visits(20), counts([("spare", 20)]));
    a.restart();
    gateway.await_state("a", "up");
    assert_eq!(visits(20), counts([("a", 20)]));
}

#[test]
fn a_backend_without_weight_gets_nothing() {
    let address = unused_address();
    for balance in ["weighted_round_robin", "least_connections", "random", "source_hash"] {
        let [a, idle] = ["a", "idle"].map(Server::named);
        let config = Config::new(address)
            .pool(&format!("balance = \"{balance}\""))
            .backend(&idle, "weight = 0")
            .backend(&a, "");
        let _gateway = Gateway::start(config);
        for client in 1..=20 {
            let client = IpAddr::from(Ipv4Addr::new(127, 0, 0, client));
            assert_eq!(visit_from(client, address).unwrap(), "a", "{balance}");
        }
        assert_eq!(idle.accepted(), 0, "{balance}");
    }
}

#[test]
fn who_waits_for_a_full_backend_is_served_in_order() {
    let address = unused_address();
    let a = Server::named("a");
    let config =
        Config::new(address).pool(r#"queue_timeout = "1m""#).backend(&a, "max_connections = 1");
    let gateway = Gateway::start(config);
    let await_depth = |depth: u32| {
        eventually("the queue has its depth", || {
            gateway.metric("lockgate_queue_depth", &[("pool", "app")]) == f64::from(depth)
        });
    };

    let (mut served, _) = held(address).unwrap();
    let mut waiting = Vec::new();
    for depth in 1..=4 {
        waiting.push(connect(address).unwrap());
        // Known to be in the queue before the next one comes.
        await_depth(depth);
    }
    while !waiting.is_empty() {
        assert!(waiting.iter().all(stays_silent));
        assert_eq!(gateway.backend("a")["connections"], 1);
        drop(served);
        served = waiting.remove(0);
        assert_eq!(greeting(&mut served).unwrap(), "a");
        await_depth(waiting.len().try_into().unwrap());
    }
    let last = served.local_addr().unwrap();
    drop(served);
    assert!(gateway.record_of(last)["queue_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn who_waits_too_long_is_reset() {
    let address = unused_address();
    let a = Server::named("a");
    let config =
        Config::new(address).pool(r#"queue_timeout = "300ms""#).backend(&a, "max_connections = 1");
    let gateway = Gateway::start(config);
    let _served = held(address).unwrap();

    let mut late = connect(address).unwrap();
    assert_eq!(ending(&mut late), Ending::Reset);
    let record = gateway.record_of(late.local_addr().unwrap());
    assert_eq!(record["reason"], "queue_timeout");
    assert!(record["queue_ms"].as_f64().unwrap() >= 300.0, "{record}");
    assert_eq!(gateway.metric("lockgate_queue_depth", &[("pool", "app")]), 0.0);
}

#[test]
fn without_a_queue_a_full_backend_refuses_at_once() {
    let address = unused_address();
    let a = Server::named("a");
    let config =
        Config::new(address).pool(r#"queue_timeout = "0s""#).backend(&a, "max_connections = 1");
    let gateway = Gateway::start(config);
    let (served, _) = held(address).unwrap();

    assert_eq!(ending_at(address), Ending::Reset);
    let record = &gateway.await_records(1, "queue_timeout")[0];
    assert_eq!(record["queue_ms"], 0.0);

    drop(served);
    gateway.await_idle();
    assert_eq!(visit(address).unwrap(), "a");
}

/// Two with a maximum of one and a backup with a maximum of one, and who gets the clients that
/// come one by one and stay.
fn four_at_once(lines: &str) -> (Gateway, Vec<Option<(std::net::TcpStream, String)>>) {
    let address = unused_address();
    let servers = ["a", "b", "spare"].map(Server::named);
    let config = Config::new(address)
        .pool("queue_timeout = '0s'")
        .pool(lines)
        .backend(&servers[0], "max_connections = 1")
        .backend(&servers[1], "max_connections = 1")
        .backend(&servers[2], "max_connections = 1\nbackup = true");
    let gateway = Gateway::start(config);
    let clients = (0..4).map(|_| held(address).ok()).collect();
    // The servers have answered; they are needed no longer.
    (gateway, clients)
}

#[test]
fn full_backends_overflow_to_backups_where_they_are_told_to() {
    for balance in ["weighted_round_robin", "least_connections", "random", "source_hash"] {
        let names = |lines: &str| {
            let (gateway, clients) = four_at_once(&format!("balance = '{balance}'\n{lines}"));
            gateway.await_records(1, "queue_timeout");
            let mut names: Vec<_> =
                clients.iter().flatten().map(|(_, name)| name.clone()).collect();
            names[..2].sort();
            names
        };
        assert_eq!(names("backup_overflow = true"), ["a", "b", "spare"], "{balance}");
        assert_eq!(names("backup_overflow = false"), ["a", "b"], "{balance}");
    }
}

#[test]
fn a_client_that_waits_is_served_by_whichever_is_free_first() {
    let address = unused_address();
    let [a, spare] = ["a", "spare"].map(Server::named);
    let config = Config::new(address)
        .pool("queue_timeout = '1m'\nbackup_overflow = true")
        .backend(&a, "max_connections = 1")
        .backend(&spare, "max_connections = 1\nbackup = true");
    let gateway = Gateway::start(config);
    let (of_a, name) = held(address).unwrap();
    assert_eq!(name, "a");
    let (of_spare, name) = held(address).unwrap();
    assert_eq!(name, "spare");
    let mut waiting = connect(address).unwrap();
    eventually("it waits", || gateway.metric("lockgate_queue_depth", &[("pool", "app")]) == 1.0);
    assert!(stays_silent(&waiting));
    drop(of_spare);
    assert_eq!(greeting(&mut waiting).unwrap(), "spare");
    drop(of_a);
    eventually("a is free", || gateway.backend("a")["connections"] == 0);
    assert_eq!(held(address).unwrap().1, "a", "backups take nothing while others have room");
}

#[test]
fn a_backend_that_comes_up_starts_slowly() {
    let address = unused_address();
    let [a, mut b] = ["a", "b"].map(Server::named);
    b.kill();
    let config = Config::new(address)
        .pool(QUICK_CHECKS)
        .pool(r#"slow_start = "4s""#)
        .backend(&a, "weight = 100")
        .backend(&b, "weight = 100");
    let gateway = Gateway::start(config);
    assert_eq!(gateway.await_state("a", "up")["effective_weight"], 100.0);
    gateway.await_state("b", "down");

    b.restart();
    let weight = |backend: &serde_json::Value| backend["effective_weight"].as_f64().unwrap();
    let first = weight(&gateway.await_state("b", "starting"));
    assert!(first > 0.0 && first < 100.0, "{first}");
    let later = until("the weight grows", || {
        let backend = gateway.backend("b");
        (weight(&backend) > first).then_some(backend)
    });
    assert_eq!(later["weight"], 100);
    assert_eq!(weight(&gateway.await_state("b", "up")), 100.0);
    assert_eq!(tally((0..20).map(|_| visit(address).unwrap())), counts([("a", 10), ("b", 10)]));
}

#[test]
fn when_all_are_down_clients_are_reset() {
    let address = unused_address();
    let mut a = Server::named("a");
    let config = Config::new(address).pool(QUICK_CHECKS).backend(&a, "");
    let gateway = Gateway::start(config);
    a.kill();
    gateway.await_state("a", "down");

    assert_eq!(ending_at(address), Ending::Reset);
    let record = &gateway.await_records(1, "no_backend")[0];
    assert!(record["backend"].is_null(), "{record}");
    assert_eq!(gateway.request("GET", "/readyz").unwrap().0, 503);
}

#[test]
fn when_all_are_down_they_can_be_tried_all_the_same() {
    let address = unused_address();
    let servers = ["a", "b"].map(Server::named);
    // Well for clients, but for checks that ask elsewhere.
    let config = Config::new(address)
        .pool(r#"all_down = "try_all""#)
        .pool(r#"health = { type = "tcp", port = 9, interval = "100ms", fast_interval = "50ms" }"#);
    let config = servers.iter().fold(config, |config, server| config.backend(server, ""));
    let gateway = Gateway::start(config);
    gateway.await_state("a", "down");
    gateway.await_state("b", "down");
    assert_eq!(tally((0..20).map(|_| visit(address).unwrap())), counts([("a", 10), ("b", 10)]));
}
