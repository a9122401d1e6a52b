//! `lockgate explain`: the rule, the pool and the backend that a connection would get.

use serde_json::Value;

use super::{done, order, run};
use crate::harness::tls::{Authority, Store};
use crate::harness::{Config, Gateway, Server, held, unused_address, visit};

fn explained(gateway: &Gateway, query: &str) -> Value {
    let (status, told) = order(gateway, "GET", &format!("/v1/explain?{query}"), "");
    assert_eq!(status, 200, "{told}");
    told
}

fn reason<'a>(told: &'a Value, name: &str) -> &'a str {
    let candidates = told["candidates"].as_array().unwrap();
    let found = candidates.iter().find(|candidate| candidate["name"] == name).unwrap();
    found["reason"].as_str().unwrap()
}

#[test]
fn what_it_says_is_what_comes_and_asking_changes_nothing() {
    for balance in ["weighted_round_robin", "least_connections", "source_hash"] {
        let servers = ["a", "b", "c"].map(Server::named);
        let address = unused_address();
        let mut config = Config::new(address).pool(&format!("balance = '{balance}'"));
        for server in &servers {
            config = config.backend(server, "");
        }
        let gateway = Gateway::start(config);
        let mut clients = Vec::new();
        for _ in 0..9 {
            let told = explained(&gateway, "listener=web&client=127.0.0.1");
            for _ in 0..5 {
                let again = explained(&gateway, "listener=web&client=127.0.0.1");
                assert_eq!(again["backend"], told["backend"], "{balance}");
            }
            let (client, name) = held(address).unwrap();
            assert_eq!(told["backend"], name, "{balance}: {told:#}");
            clients.push(client);
        }
        let connections: u64 = ["a", "b", "c"]
            .map(|name| gateway.backend(name)["connections"].as_u64().unwrap())
            .iter()
            .sum();
        assert_eq!(connections, 9, "asking leaves no lease");
    }
}

#[test]
fn every_backend_that_is_not_picked_says_why() {
    let servers = ["busy", "drained", "off", "light", "spare", "good"].map(Server::named);
    let address = unused_address();
    let dead = unused_address().to_string();
    let config = Config::new(address)
        .pool("health = { type = 'tcp', interval = '100ms', fast_interval = '50ms', fall = 1 }")
        .backend(&servers[0], "max_connections = 1")
        .backend(&servers[1], "")
        .backend(&servers[2], "")
        .backend(&servers[3], "weight = 0")
        .backend(&servers[4], "backup = true")
        .backend(&servers[5], "")
        .backend_at("dead", &dead, "");
    let gateway = Gateway::start(config);
    done(&gateway, &["drain", "app/drained"]);
    done(&gateway, &["disable", "app/off"]);
    let _clients = [held(address).unwrap(), held(address).unwrap()];
    gateway.await_state("dead", "down");
    let told = explained(&gateway, "listener=web");
    assert_eq!((&told["backend"], &told["outcome"]), (&"good".into(), &"connect".into()));
    assert_eq!((&told["pool"], &told["rule"]), (&"app".into(), &"the pool of the listener".into()));
    for (name, expected) in [
        ("busy", "at its maximum of 1 connections"),
        ("drained", "draining by uid "),
        ("off", "disabled by uid "),
        ("light", "its weight is 0"),
        ("spare", "a backup, which is not needed"),
        ("good", "its turn is next"),
        ("dead", "down since "),
    ] {
        let found = reason(&told, name);
        assert!(found.starts_with(expected), "{name}: {found}");
    }
    let out = done(&gateway, &["explain", "--listener", "web", "--client", "10.1.2.3"]);
    assert!(out.contains("backend   good: its turn is next"), "{out}");
    assert!(out.contains("connection refused"), "{out}");

    done(&gateway, &["drain", "app/good"]);
    let told = explained(&gateway, "listener=web");
    assert_eq!(told["outcome"], "queue", "the busy one is up: {told:#}");
    assert!(told["backend"].is_null());
    done(&gateway, &["drain", "app/busy"]);
    let told = explained(&gateway, "listener=web");
    assert_eq!(told["backend"], "spare");
    assert_eq!(reason(&told, "spare"), "no other backend is usable: backups serve");
    assert_eq!(visit(address).unwrap(), "spare");
    done(&gateway, &["disable", "app/spare"]);
    assert_eq!(explained(&gateway, "listener=web")["outcome"], "refuse");
}

#[test]
fn a_backup_that_takes_the_overflow_says_so() {
    let servers = ["busy", "spare"].map(Server::named);
    let address = unused_address();
    let config = Config::new(address)
        .pool("backup_overflow = true")
        .backend(&servers[0], "max_connections = 1")
        .backend(&servers[1], "max_connections = 1\nbackup = true");
    let gateway = Gateway::start(config);
    let why_spare = || reason(&explained(&gateway, "listener=web"), "spare").to_owned();
    assert_eq!(why_spare(), "a backup, which is not needed");
    let _first = held(address).unwrap();
    let told = explained(&gateway, "listener=web");
    assert_eq!(told["backend"], "spare");
    let why = "every other backend is at its maximum: backups take the overflow";
    assert_eq!(reason(&told, "spare"), why);
    assert_eq!(reason(&told, "busy"), "at its maximum of 1 connections");
    let _second = held(address).unwrap();
    let told = explained(&gateway, "listener=web");
    assert_eq!(told["outcome"], "queue");
    assert_eq!(reason(&told, "spare"), "at its maximum of 1 connections");
}

#[test]
fn routes_are_found_by_name_protocol_and_network() {
    let server = Server::named("a");
    let (authority, store) = (Authority::new("ca"), Store::new());
    let files = store.put("a", &authority.issue(&["a.test"]));
    let routes = "\n[[listener.route]]\nsni = ['one.test', '*.wild.test']\npool = 'one'\n\
                  [[listener.route]]\nalpn = ['h2']\nclient = ['10.0.0.0/8']\npool = 'two'\n";
    let more = format!(
        "[[pool.one.backend]]\naddress = '{0}'\n[[pool.two.backend]]\naddress = '{0}'\n",
        server.address()
    );
    let config = Config::new(unused_address()).tls(&[&files], routes).backend(&server, "");
    let gateway = Gateway::start(format!("{config}{more}"));
    for (query, pool, route, rule) in [
        ("sni=one.test", "one", 1, "route 1 (sni = one.test, *.wild.test)"),
        ("sni=X.Wild.Test.", "one", 1, "route 1 (sni = one.test, *.wild.test)"),
        ("alpn=http/1.1,h2&client=10.9.9.9", "two", 2, "route 2 (alpn = h2; client = 10.0.0.0/8)"),
        (
            "alpn=h2&client=11.9.9.9",
            "app",
            0,
            "none of the 2 routes matches: the pool of the listener",
        ),
        ("sni=other.test", "app", 0, "none of the 2 routes matches: the pool of the listener"),
    ] {
        let told = explained(&gateway, &format!("listener=web&{query}"));
        assert_eq!(told["pool"], pool, "{query}: {told:#}");
        assert_eq!(told["route"].as_u64().unwrap_or(0), route, "{query}");
        assert_eq!(told["rule"], rule, "{query}");
    }
    for (query, expected, status) in [
        ("listener=wob", "did you mean 'web'?", 404),
        ("listener=web&client=nobody", "no IP address", 400),
        ("listener=web&sni=not%20a%20name", "no name that a client can ask for", 400),
        ("listener=web&port=1", "unknown field", 400),
    ] {
        let (found, told) = order(&gateway, "GET", &format!("/v1/explain?{query}"), "");
        assert_eq!(found, status, "{query}: {told}");
        assert!(told["error"].as_str().unwrap().contains(expected), "{query}: {told}");
    }
}

#[test]
fn without_a_gateway_the_file_says_what_it_can() {
    let server = Server::named("a");
    let mut gateway = Gateway::start(Config::new(unused_address()).backend(&server, ""));
    let live = done(&gateway, &["explain", "--listener", "web", "--json"]);
    let live: Value = serde_json::from_str(&live).unwrap();
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    gateway.wait();
    let told = done(&gateway, &["explain", "--listener", "web", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&live["live"], &told["live"]), (&true.into(), &false.into()));
    assert_eq!((&told["pool"], &told["rule"]), (&live["pool"], &live["rule"]));
    assert_eq!(told["outcome"], "unknown");
    assert!(told["notes"][0].as_str().unwrap().contains("no gateway answers"), "{told}");
    assert_eq!(run(&gateway, &["explain", "--listener", "wen"]).0, 64);
}

#[test]
fn who_is_kept_out_is_told_so() {
    let server = Server::named("a");
    let config = Config::new(unused_address())
        .listener("deny = ['192.0.2.0/24']\naccept_proxy_from = ['198.51.100.7']")
        .listener("limit = { rate = '50/m' }")
        .backend(&server, "");
    let gateway = Gateway::start(config);
    let told = explained(&gateway, "listener=web&client=192.0.2.9");
    assert_eq!((&told["outcome"], &told["backend"]), (&"refuse".into(), &Value::Null), "{told:#}");
    assert!(told["why"].as_str().unwrap().contains("deny"), "{told:#}");
    let told = explained(&gateway, "listener=web&client=198.51.100.7");
    assert_eq!(told["backend"], "a");
    let notes = told["notes"].to_string();
    assert!(notes.contains("PROXY header") && notes.contains("limits each source"), "{notes}");
    // Who asks of nobody in particular is not told about a client.
    assert_eq!(explained(&gateway, "listener=web")["outcome"], "connect");
}
