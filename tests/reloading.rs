//! New configurations under load: what they change, and that nobody notices the change itself.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::harness::{
    Config, Gateway, Http, Server, StopAtEnd, connect, connect_from, eventually, fetch, free_port,
    greeting, held, refused, unused_address, visit, visit_from,
};

/// Clients that open connections without pause, each from an address of its own, while `change`
/// does its work. Returns who served how many, and what failed.
fn under_load(
    address: SocketAddr,
    client: impl Fn(IpAddr, SocketAddr) -> io::Result<String> + Sync,
    change: impl FnOnce(),
) -> (BTreeMap<String, u64>, Vec<String>) {
    const CLIENTS: u8 = 8;
    let stop = AtomicBool::new(false);
    let (served, failures) = (Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    let count = |outcome| match outcome {
        Ok(name) => *served.lock().unwrap().entry(name).or_insert(0) += 1,
        Err(error) => failures.lock().unwrap().push(format!("{error}")),
    };
    thread::scope(|scope| {
        for number in 1..=CLIENTS {
            let (stop, count, client) = (&stop, &count, &client);
            scope.spawn(move || {
                let source = IpAddr::from(Ipv4Addr::new(127, 0, 0, number));
                while !stop.load(Ordering::SeqCst) {
                    count(client(source, address));
                }
            });
        }
        let _stop = StopAtEnd(&stop);
        change();
    });
    (served.into_inner().unwrap(), failures.into_inner().unwrap())
}

#[test]
fn thirty_reloads_under_load_cost_no_connection() {
    let (address, other) = (unused_address(), unused_address());
    let [a, b, c] = ["a", "b", "c"].map(Server::named);
    let plain = Config::new(address).backend(&a, "").backend(&b, "weight = 100");
    let config = |step: usize| {
        let mut config = Config::new(address)
            .backend(&a, "")
            .backend(&b, &format!("weight = {}", 50 + 25 * (step % 3)));
        if step % 2 == 1 {
            config = config.backend(&c, "");
        }
        let mut text = config.to_string();
        if step % 5 < 2 {
            text +=
                &format!("[[listener]]\nname = \"other\"\nbind = [\"{other}\"]\npool = \"app\"");
        }
        text
    };
    let gateway = Gateway::start(plain);

    let (served, failures) = under_load(address, visit_from, || {
        for step in 0..30 {
            gateway.reload(config(step));
            match step % 5 < 2 {
                true => drop(visit(other).unwrap()),
                false => eventually("the other listener is closed", || refused(other)),
            }
            if step == 15 {
                assert!(!gateway.try_reload("[[listener]]\nname = 7\n"));
            }
        }
    });
    assert_eq!(failures, Vec::<String>::new());
    gateway.await_idle();

    let reloads = |result| gateway.metric("lockgate_config_reloads_total", &[("result", result)]);
    assert_eq!((reloads("ok"), reloads("failed")), (30.0, 1.0));
    assert_eq!(gateway.status()["generation"], 31);
    assert_eq!(gateway.metric("lockgate_config_generation", &[]), 31.0);
    // `web` and `a` were there all the time: they have counted every connection.
    let total = served.values().sum::<u64>();
    assert!(total > 100, "{served:?}");
    let listener = [("listener", "web")];
    assert_eq!(gateway.metric("lockgate_connections_total", &listener), total as f64);
    assert_eq!(
        gateway.metric(
            "lockgate_connections_closed_total",
            &[("listener", "web"), ("reason", "closed")]
        ),
        total as f64
    );
    let of_a = gateway.backend("a")["connections_total"].as_u64().unwrap();
    assert!(of_a >= served["a"], "{of_a} connections, {served:?}");
    assert_eq!(a.accepted() as u64, of_a);
}

#[test]
fn a_pool_can_be_replaced_under_load() {
    let address = unused_address();
    let wells: Vec<_> = (0..4).map(|_| Http::new(200)).collect();
    let [a, b, c, d] = [0, 1, 2, 3].map(|n: usize| wells[n].serve(["a", "b", "c", "d"][n]));
    let config = |servers: [&Server; 2]| {
        let config = Config::new(address).pool(r#"health = { type = "http" }"#);
        servers.into_iter().fold(config, |config, server| config.backend(server, ""))
    };
    let gateway = Gateway::start(config([&a, &b]));

    let request = |source, address| {
        let (status, name) = fetch(connect_from(source, address)?, "GET", "/")?;
        if status == 200 { Ok(name) } else { Err(io::Error::other(format!("{status}"))) }
    };
    let (served, failures) = under_load(address, request, || {
        for servers in [[&c, &d], [&a, &b]].into_iter().cycle().take(21) {
            gateway.reload(config(servers));
            let before = servers.map(Server::accepted);
            eventually("the new ones serve", || {
                servers.iter().zip(before).all(|(server, before)| server.accepted() > before + 10)
            });
        }
    });
    let mut records = gateway.records();
    records.retain(|record| record["reason"] != "closed");
    assert_eq!((failures, records), (vec![], vec![]));
    assert_eq!(served.len(), 4, "{served:?}");
}

#[test]
fn connections_survive_the_removal_of_their_listener_and_backend() {
    let (address, other) = (unused_address(), unused_address());
    let echo = Server::echo();
    let named = Server::named("named");
    let gateway = Gateway::start(Config::new(address).backend(&echo, ""));
    let mut client = connect(address).unwrap();
    let converse = |client: &mut TcpStream| {
        client.write_all(b"still here").unwrap();
        let mut echo = [0; 10];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"still here");
    };
    converse(&mut client);

    gateway.reload(Config::new(other).backend(&named, "").to_string().replace("web", "new"));
    eventually("the old listener is closed", || refused(address));
    assert_eq!(visit(other).unwrap(), "named");
    converse(&mut client);
    gateway.await_log("1 connection draining");

    let local = client.local_addr().unwrap();
    drop(client);
    let record = gateway.record_of(local);
    assert_eq!((&record["listener"], &record["reason"]), (&"web".into(), &"closed".into()));
    assert_eq!(record["bytes_in"], 20);
}

#[test]
fn a_backend_that_stays_keeps_what_is_known_of_it() {
    let address = unused_address();
    let a = Server::named("a");
    let mut b = Server::named("b");
    b.kill();
    let config = |weight: u32| {
        Config::new(address)
            .pool(r#"health = { type = "tcp", interval = "50ms", fast_interval = "50ms" }"#)
            .backend(&a, &format!("weight = {weight}"))
            .backend(&b, "")
    };
    let gateway = Gateway::start(config(1));
    let _open = [held(address).unwrap(), held(address).unwrap()];
    gateway.await_state("b", "down");
    let passed = || {
        let labels = [("backend", "a"), ("result", "passed")];
        gateway.metric("lockgate_backend_health_checks_total", &labels)
    };
    eventually("some checks have passed", || passed() >= 10.0);

    gateway.reload(config(7));
    let backend = gateway.backend("a");
    assert_eq!(backend["effective_weight"], 7.0);
    assert_eq!(backend["connections"], 2);
    assert_eq!(backend["connections_total"], 2);
    assert_eq!(backend["state"], "up");
    assert!(passed() >= 10.0);
    assert_eq!(gateway.backend("b")["state"], "down");
}

#[test]
fn a_broken_file_changes_nothing() {
    let address = unused_address();
    let [a, b] = ["a", "b"].map(Server::named);
    let gateway = Gateway::start(Config::new(address).backend(&a, ""));
    let broken = Config::new(address).backend(&b, "wieght = 3");

    assert!(!gateway.try_reload(broken));
    assert_eq!(visit(address).unwrap(), "a");
    assert_eq!(gateway.status()["generation"], 1);
    gateway.await_log("wieght");
    gateway.await_log("lockgate.toml:");
}

#[test]
fn an_address_in_use_refuses_the_whole_reload() {
    let (address, free) = (unused_address(), unused_address());
    let [a, b] = ["a", "b"].map(Server::named);
    let gateway = Gateway::start(Config::new(address).backend(&a, ""));
    let status = |gateway: &Gateway| {
        let mut status = gateway.status();
        status["uptime_seconds"].take();
        // It uses what it uses, and the refused reload is told of.
        status["process"].take();
        status["reloads"].take();
        status["pools"][0]["backends"][0]["since_seconds"].take();
        status
    };
    let before = status(&gateway);

    // One that could be opened, and one where a server listens.
    let taken = b.address();
    let more = format!(
        "[[listener]]\nname = \"more\"\nbind = [\"{free}\", \"{taken}\"]\npool = \"app\"\n"
    );
    let config = Config::new(address).backend(&b, "").to_string() + &more;
    assert!(!gateway.try_reload(config));
    gateway.await_log(&format!("cannot listen on {taken}"));
    assert_eq!(status(&gateway), before);
    assert!(refused(free));
    assert_eq!(visit(address).unwrap(), "a");
}

#[test]
fn a_removed_file_changes_nothing() {
    let address = unused_address();
    let a = Server::named("a");
    let gateway = Gateway::start(Config::new(address).backend(&a, ""));
    std::fs::remove_file(gateway.config_path()).unwrap();
    gateway.signal(Signal::SIGHUP);
    eventually("the reload is refused", || {
        gateway.metric("lockgate_config_reloads_total", &[("result", "failed")]) == 1.0
    });
    assert_eq!(visit(address).unwrap(), "a");
}

#[test]
fn new_backends_are_checked_before_they_serve() {
    let address = unused_address();
    let (sick, well) = (Http::new(500), Http::new(200));
    let (a, b) = (well.serve("a"), sick.serve("b"));
    let config = || Config::new(address).pool(r#"health = { type = "http" }"#).backend(&a, "");
    let gateway = Gateway::start(config());
    gateway.reload(config().backend(&b, ""));
    for _ in 0..20 {
        let answer = fetch(connect(address).unwrap(), "GET", "/").unwrap();
        assert_eq!(answer, (200, "a".to_owned()));
    }
    assert_eq!(gateway.backend("b")["state"], "down");
}

#[test]
fn a_listener_can_move_to_another_port_and_back() {
    let address = unused_address();
    let moved = free_port(address.ip());
    let a = Server::named("a");
    let gateway = Gateway::start(Config::new(address).backend(&a, ""));
    for (open, closed) in [(moved, address), (address, moved)] {
        gateway.reload(Config::new(open).backend(&a, ""));
        assert_eq!(visit(open).unwrap(), "a");
        eventually("the port before is closed", || refused(closed));
    }
    assert_eq!(gateway.metric("lockgate_connections_total", &[("listener", "web")]), 2.0);
}

#[test]
fn what_a_reload_adds_serves_those_who_wait_already() {
    let address = unused_address();
    let (a, b) = (Server::named("a"), Server::named("b"));
    let config = Config::new(address).pool(r#"queue_timeout = "1h""#);
    let gateway = Gateway::start(config.clone().backend(&a, "max_connections = 1"));
    let _first = held(address).unwrap();
    let mut waiting = connect(address).unwrap();
    eventually("it waits", || gateway.metric("lockgate_queue_depth", &[("pool", "app")]) == 1.0);
    gateway.reload(config.backend(&a, "max_connections = 1").backend(&b, ""));
    assert_eq!(greeting(&mut waiting).unwrap(), "b");
}

/// A rollback: what was just removed comes back while workers may still be closing it.
#[test]
fn a_listener_can_come_straight_back() {
    let (address, other) = (unused_address(), unused_address());
    let server = Server::named("a");
    let config = |bind| Config::new(bind).backend(&server, "");
    let gateway = Gateway::start(config(address));
    for _ in 0..5 {
        gateway.reload(config(other));
        gateway.reload(config(address));
        assert_eq!(visit(address).unwrap(), "a");
    }
}
