//! Backends that are given by name: resolved at the start and whenever an answer has expired.

mod each;
mod unreachable;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::harness::dns::Dns;
use crate::harness::lab::{GATEWAY, LEFT, Lab, RIGHT};
use crate::harness::{
    Config, Gateway, Launch, Server, eventually, free_port, unused_address, visit,
};

#[test]
fn localhost_is_resolved() {
    let server = Server::named_at("here", free_port(Ipv4Addr::LOCALHOST.into()));
    let address = unused_address();
    let name = format!("localhost:{}", server.address().port());
    let gateway = Gateway::start(Config::new(address).backend_at("here", &name, ""));
    assert_eq!(visit(address).unwrap(), "here");
    let backend = gateway.backend("here");
    assert_eq!(backend["address"], name);
    assert_eq!(backend["resolved"], server.address().to_string());
}

/// The first address of the name refuses connections: the second serves, whether checks find it or
/// the connections themselves.
#[test]
fn each_address_of_a_name_is_tried() {
    let server = Server::named_at("six", free_port(Ipv6Addr::LOCALHOST.into()));
    let name = format!("localhost:{}", server.address().port());
    for health in ["", "health = { interval = '100ms', fast_interval = '100ms' }"] {
        let address = unused_address();
        let config = Config::new(address).pool(health).backend_at("six", &name, "");
        let gateway = Gateway::start(config);
        for _ in 0..5 {
            assert_eq!(visit(address).unwrap(), "six", "{health}");
        }
        let backend = gateway.backend("six");
        assert_eq!(backend["resolved"], server.address().to_string(), "{health}");
        assert_eq!(backend["effective_weight"], 100.0, "{health}");
    }
}

#[test]
fn a_name_that_means_nothing_does_not_hinder_the_start() {
    let server = Server::named("known");
    let address = unused_address();
    let config =
        Config::new(address).backend_at("unknown", "nobody.invalid:80", "").backend(&server, "");
    let began = Instant::now();
    let gateway = Gateway::start(config);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!((0..10).all(|_| visit(address).unwrap() == "known"));
    assert_eq!(gateway.backend("unknown")["effective_weight"], 0.0);
    assert!(gateway.backend("unknown")["resolved"].is_null());
}

/// The DNS server stands at the right, two servers at the left.
#[test]
fn a_change_in_dns_moves_the_traffic_and_a_dead_server_does_not() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 3);
    let lab = Lab::new();
    lab.left.ip(&format!("addr add {OTHER}/24 dev eth0"));
    let _servers = [("old", LEFT), ("new", OTHER)].map(|(name, ip)| {
        lab.left.run(|| Server::named_at(name, SocketAddr::new(ip.into(), 7000)))
    });
    let mut dns = lab.right.run(|| Dns::start(SocketAddr::new(RIGHT.into(), 53), LEFT));
    lab.gateway.resolve_with(IpAddr::from(RIGHT));
    let address = SocketAddr::new(GATEWAY.into(), 80);
    let config = Config::new(address).backend_at("app", "app.test:7000", "");
    let gateway = Launch::new(config).under(&lab.gateway.enter()).start();
    let visit = || lab.client.run(|| visit(address).unwrap());

    assert_eq!(visit(), "old");
    let changed = Instant::now();
    dns.change(OTHER);
    eventually("the traffic moves", || visit() == "new");
    assert!(changed.elapsed() < Dns::TTL * 5, "{:?}", changed.elapsed());
    assert_eq!(gateway.backend("app")["resolved"], format!("{OTHER}:7000"));

    dns.kill();
    gateway.await_log("cannot resolve app.test");
    assert_eq!(visit(), "new");
    assert_eq!(gateway.backend("app")["effective_weight"], 100.0);
}
