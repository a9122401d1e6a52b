//! Names that a backend is made of each address of (`addresses = "all"`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use crate::harness::dns::{Dns, Mood};
use crate::harness::lab::{GATEWAY, LEFT, Lab, RIGHT};
use crate::harness::{
    Config, Events, Gateway, Launch, Server, connect, eventually, greeting, held, visit,
};
use crate::operating::{done, run};

const PORT: u16 = 7000;
const TWO: IpAddr = IpAddr::V4(LEFT);
const THREE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 3));
const FOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 4));
const SIX: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 6));
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(GATEWAY), 80);

/// Four servers at the left, each greeting with its address, and a DNS server at the right.
struct Site {
    lab: Lab,
    dns: Dns,
    _servers: Vec<Server>,
}

impl Site {
    fn new(known: &[IpAddr]) -> Self {
        let lab = Lab::new();
        lab.gateway.ip("addr add fd00:2::1/64 dev left nodad");
        for ip in [THREE, FOUR] {
            lab.left.ip(&format!("addr add {ip}/24 dev eth0"));
        }
        lab.left.ip(&format!("addr add {SIX}/64 dev eth0 nodad"));
        let server = |ip: IpAddr| Server::named_at(&ip.to_string(), SocketAddr::new(ip, PORT));
        let servers = lab.left.run(|| [TWO, THREE, FOUR, SIX].map(server)).into();
        let dns = lab.right.run(|| Dns::start(SocketAddr::new(RIGHT.into(), 53), LEFT));
        dns.list(known);
        lab.gateway.resolve_with(IpAddr::from(RIGHT));
        Self { lab, dns, _servers: servers }
    }

    fn start(&self, config: impl ToString) -> Gateway {
        Launch::new(config).under(&self.lab.gateway.enter()).start()
    }

    /// Who serves so many connections, sorted.
    fn serve(&self, connections: usize) -> Vec<String> {
        let mut served: Vec<_> =
            (0..connections).map(|_| self.lab.client.run(|| visit(ADDRESS).unwrap())).collect();
        served.sort();
        served
    }
}

fn config(more: &str) -> Config {
    Config::new(ADDRESS).backend_at("app", "app.test:7000", &format!("addresses = \"all\"\n{more}"))
}

fn checked(more: &str) -> Config {
    config(more).pool("health = { interval = '100ms', fast_interval = '100ms' }")
}

fn pool(gateway: &Gateway) -> Vec<Value> {
    gateway.status()["pools"][0]["backends"].as_array().unwrap().clone()
}

fn names(gateway: &Gateway) -> Vec<String> {
    pool(gateway).iter().map(|backend| backend["name"].as_str().unwrap().to_owned()).collect()
}

fn named(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(|ip| format!("app/{ip}")).collect()
}

#[track_caller]
fn await_names(gateway: &Gateway, addresses: &[IpAddr]) {
    let expected = named(addresses);
    eventually(&format!("the backends are {expected:?}"), || names(gateway) == expected);
}

/// Each has a weight, counts, and a state of its own; addresses that come are served once they are
/// checked, and those that go keep their connections.
#[test]
fn a_backend_is_made_of_each_address_and_follows_dns() {
    let site = Site::new(&[THREE, TWO, SIX]);
    let gateway = site.start(checked("weight = 7\nmax_connections = 50\n"));
    let events = Events::of(&gateway);
    assert_eq!(names(&gateway), named(&[TWO, THREE, SIX]));
    for name in named(&[TWO, THREE, SIX]) {
        gateway.await_state(&name, "up");
    }
    let each = |n| [THREE, TWO, SIX].iter().flat_map(move |ip| vec![ip.to_string(); n]);
    let mut expected: Vec<_> = each(4).collect();
    expected.sort();
    assert_eq!(site.serve(12), expected);
    for backend in pool(&gateway) {
        assert_eq!(backend["address"], "app.test:7000", "{backend}");
        let ip: IpAddr = backend["name"].as_str().unwrap()[4..].parse().unwrap();
        assert_eq!(backend["resolved"], SocketAddr::new(ip, PORT).to_string(), "{backend}");
        assert_eq!((&backend["state"], &backend["weight"]), (&"up".into(), &7.into()), "{backend}");
        assert_eq!(backend["max_connections"], 50, "{backend}");
        assert_eq!(backend["connections_total"], 4, "{backend}");
    }
    let name = format!("app/{TWO}");
    let connections = gateway
        .metric("lockgate_backend_connections_total", &[("pool", "app"), ("backend", &name)]);
    assert_eq!(connections, 4.0);
    let mut open: Vec<_> = (0..3).map(|_| site.lab.client.run(|| held(ADDRESS).unwrap())).collect();
    let generation = gateway.status()["generation"].as_u64().unwrap();

    site.dns.list(&[FOUR, THREE]);
    await_names(&gateway, &[THREE, FOUR]);
    gateway.await_state(&format!("app/{FOUR}"), "up");
    assert_eq!(gateway.backend(&format!("app/{THREE}"))["connections_total"], 5, "it has stayed");
    assert_eq!(gateway.backend(&format!("app/{THREE}"))["connections"], 1);
    assert!(gateway.status()["generation"].as_u64().unwrap() > generation);
    let four = format!("app/{FOUR}");
    events.await_event(&[("kind", "backend"), ("event", "added"), ("backend", &four)]);
    events.await_event(&[("kind", "backend"), ("event", "removed"), ("backend", &name)]);
    gateway.await_log("removed; its connections go on");
    let expected: BTreeSet<_> = [THREE, FOUR].map(|ip| ip.to_string()).into();
    assert_eq!(site.serve(8).into_iter().collect::<BTreeSet<_>>(), expected);
    // Those of addresses that have gone go on.
    let greeted: BTreeSet<_> = open.iter().map(|(_, name)| name.clone()).collect();
    assert_eq!(greeted.len(), 3);
    for (stream, _) in &mut open {
        assert!(crate::harness::stays_silent(stream));
    }
    drop(open);
    for ip in [TWO, SIX] {
        let left = format!("app/{ip}");
        eventually("its record is written", || {
            let records = gateway.records();
            let count = records.iter().filter(|record| record["backend"] == left.as_str()).count();
            count == 5
        });
    }
}

/// What fails changes nothing: not of the name, nor of one family of it.
#[test]
fn the_last_addresses_are_kept_whatever_the_dns_server_does() {
    let site = Site::new(&[TWO, SIX]);
    let gateway = site.start(checked(""));
    assert_eq!(names(&gateway), named(&[TWO, SIX]));
    let generation = gateway.status()["generation"].clone();
    let moods = [Mood::Fails, Mood::Denies, Mood::Silent, Mood::ListsHalf];
    for mood in moods {
        site.dns.set(mood);
        // Each of the two families twice, and tries within that.
        let asked = site.dns.asked();
        eventually("it is asked in vain", || site.dns.asked() >= asked + 6);
        assert_eq!(names(&gateway), named(&[TWO, SIX]), "{mood:?}");
        site.dns.list(&[TWO, SIX]);
        let asked = site.dns.asked();
        eventually("it is asked again", || site.dns.asked() >= asked + 4);
    }
    // No address at all is an answer, and is not taken for one.
    site.dns.list(&[]);
    gateway.await_log("no such name, or it has no address");
    let asked = site.dns.asked();
    eventually("it is asked in vain", || site.dns.asked() >= asked + 4);
    assert_eq!(names(&gateway), named(&[TWO, SIX]));
    assert_eq!(gateway.status()["generation"], generation, "nothing was published");
    assert_eq!(site.serve(2), [TWO, SIX].map(|ip| ip.to_string()));
    // One family alone may go.
    site.dns.list(&[SIX]);
    await_names(&gateway, &[SIX]);
    assert_eq!(site.serve(1), [SIX.to_string()]);
}

/// A name moves from one set of servers to another, and one of those never answers a check: nobody
/// is refused meanwhile.
#[test]
fn a_name_that_moves_leaves_nobody_without_a_server() {
    let site = Site::new(&[TWO]);
    site.lab.left.ip("addr add 10.2.0.99/24 dev eth0");
    let gateway = site.start(checked(""));
    // Nobody listens there.
    let dead = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 99));
    site.dns.list(&[THREE, dead]);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while names(&gateway) != named(&[THREE, dead]) {
        assert!(std::time::Instant::now() < until, "{:?}", names(&gateway));
        site.serve(1);
    }
    assert_eq!(site.serve(2), [THREE, THREE].map(|ip| ip.to_string()));
    assert_eq!(gateway.backend(&format!("app/{dead}"))["state"], "down");
}

#[test]
fn a_name_that_means_nothing_yet_is_shown_and_comes_to_serve() {
    let site = Site::new(&[]);
    let gateway = Launch::new(config("")).under(&site.lab.gateway.enter()).start_unready();
    eventually("it has looked", || gateway.backend("app")["state"] == "down");
    assert_eq!(names(&gateway), ["app"]);
    let backend = gateway.backend("app");
    assert_eq!((&backend["state"], &backend["effective_weight"]), (&"down".into(), &0.0.into()));
    let reason = backend["reason"].as_str().unwrap();
    assert_eq!(reason, "cannot resolve app.test: no such name, or it has no address");
    assert!(backend["resolved"].is_null());
    let (code, _, err) = run(&gateway, &["drain", "app/app"]);
    assert_ne!(code, 0);
    assert!(err.contains("backend 'app' has no address yet"), "{err}");
    site.dns.list(&[TWO, THREE]);
    await_names(&gateway, &[TWO, THREE]);
    eventually("it serves", || gateway.request("GET", "/readyz").unwrap().0 == 200);
    assert_eq!(site.serve(4), [TWO, TWO, THREE, THREE].map(|ip| ip.to_string()));
}

/// Operators name each by its own name; what they set outlives reloads, upgrades, restarts, and an
/// address that is gone for a while.
#[test]
fn each_is_operated_by_its_name_and_keeps_what_is_set() {
    let site = Site::new(&[TWO, THREE, SIX]);
    let mut gateway = site.start(checked(""));
    let (two, six) = (format!("app/{TWO}"), format!("app/{SIX}"));
    done(&gateway, &["drain", &format!("app/{two}")]);
    done(&gateway, &["weight", &format!("app/{six}"), "50"]);
    let is_as_set = |gateway: &Gateway| {
        let (drained, weighed) = (gateway.backend(&two), gateway.backend(&six));
        assert_eq!(drained["state"], "draining", "{drained}");
        assert_eq!((&weighed["state"], &weighed["weight"]), (&"up".into(), &50.into()));
        assert_eq!(site.serve(3).iter().filter(|name| **name == THREE.to_string()).count(), 2);
    };
    is_as_set(&gateway);
    let path = format!("/v1/pools/app/backends/app%2F{TWO}");
    let shown: Value = serde_json::from_str(&gateway.get(&path)).unwrap();
    assert_eq!(shown["name"], two.as_str());
    let (code, _, err) = run(&gateway, &["drain", "app/app"]);
    assert_ne!(code, 0);
    assert!(err.contains("is one for each address: there are app/10.2.0.2, "), "{err}");

    // It still has its connections counted after a reload.
    let counted = gateway.backend(&format!("app/{THREE}"))["connections_total"].clone();
    gateway.reload(checked("").pool("retries = 1"));
    assert_eq!(gateway.backend(&format!("app/{THREE}"))["connections_total"], counted);
    is_as_set(&gateway);
    site.dns.list(&[THREE, SIX]);
    await_names(&gateway, &[THREE, SIX]);
    site.dns.list(&[TWO, THREE, SIX]);
    await_names(&gateway, &[TWO, THREE, SIX]);
    is_as_set(&gateway);

    // Whoever takes over knows the addresses, even if the DNS server is gone by then.
    let counted = gateway.backend(&format!("app/{THREE}"))["connections_total"].clone();
    let generation = gateway.status()["generation"].as_u64().unwrap();
    site.dns.set(Mood::Fails);
    gateway.upgrade();
    assert_eq!(names(&gateway), named(&[TWO, THREE, SIX]));
    assert_eq!(gateway.status()["generation"], generation + 1);
    assert_eq!(gateway.backend(&format!("app/{THREE}"))["connections_total"], counted);
    is_as_set(&gateway);

    site.dns.list(&[TWO, THREE, SIX]);
    let gateway = gateway.start_again();
    is_as_set(&gateway);
    assert_eq!(gateway.status()["generation"], 1);
    done(&gateway, &["enable", &format!("app/{two}")]);
    gateway.await_state(&two, "up");
    // As one backend it is another.
    gateway.reload(Config::new(ADDRESS).backend_at("app", "app.test:7000", ""));
    assert_eq!(names(&gateway), ["app"]);
    gateway.await_log("what was set for it is forgotten");
    gateway.reload(config(""));
    await_names(&gateway, &[TWO, THREE, SIX]);
}

/// A client keeps its server while others come and go, at both gateways of a pair: the hash knows
/// names, and nothing of when they came.
#[test]
fn source_hash_depends_on_addresses_and_not_on_their_history() {
    let site = Site::new(&[TWO, THREE]);
    let config = || config("").pool("balance = 'source_hash'");
    let gateway = site.start(config());
    let explained = |gateway: &Gateway| {
        let clients = (0..64).map(|n| {
            let path = format!("/v1/explain?listener=web&client=192.0.2.{n}");
            let told: Value = serde_json::from_str(&gateway.get(&path)).unwrap();
            told["backend"].as_str().unwrap().to_owned()
        });
        clients.collect::<Vec<_>>()
    };
    let before = explained(&gateway);
    site.dns.list(&[TWO, THREE, FOUR]);
    await_names(&gateway, &[TWO, THREE, FOUR]);
    let with_four = explained(&gateway);
    let four = format!("app/{FOUR}");
    let moved = |(before, after): (&String, &String)| before != after && *after != four;
    assert!(with_four.contains(&four));
    let moved = before.iter().zip(&with_four).filter(|both| moved(*both)).count();
    assert!(moved <= 8, "{moved} of 64 clients moved to where they need not");
    site.dns.list(&[THREE, TWO]);
    await_names(&gateway, &[TWO, THREE]);
    assert_eq!(explained(&gateway), before);
    site.dns.list(&[FOUR, THREE, TWO]);
    let gateway = gateway.start_again();
    assert_eq!(explained(&gateway), with_four, "another process says the same");
    let mut client = site.lab.client.run(|| connect(ADDRESS).unwrap());
    assert!(greeting(&mut client).unwrap().contains("10.2.0."));
}
