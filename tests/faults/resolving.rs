//! A DNS server that fails, denies, falls silent and raves: the last answer is kept.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::harness::dns::{Dns, Mood};
use crate::harness::lab::{GATEWAY, LEFT, Lab, RIGHT};
use crate::harness::{Config, Launch, Server, eventually, visit};

/// The DNS server stands at the right, two servers at the left.
#[test]
fn the_last_answer_is_kept_whatever_the_dns_server_does() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 3);
    let lab = Lab::new();
    lab.left.ip(&format!("addr add {OTHER}/24 dev eth0"));
    let _servers = [("old", LEFT), ("new", OTHER)].map(|(name, ip)| {
        lab.left.run(|| Server::named_at(name, SocketAddr::new(ip.into(), 7000)))
    });
    let dns = lab.right.run(|| Dns::start(SocketAddr::new(RIGHT.into(), 53), LEFT));
    lab.gateway.resolve_with(IpAddr::from(RIGHT));
    let address = SocketAddr::new(GATEWAY.into(), 80);
    let config = Config::new(address).backend_at("app", "app.test:7000", "");
    let gateway = Launch::new(config).under(&lab.gateway.enter()).start();
    let visit = || lab.client.run(|| visit(address).unwrap());
    assert_eq!(visit(), "old");

    let refusals = || gateway.stderr().matches("cannot resolve app.test").count();
    for mood in [Mood::Fails, Mood::Denies, Mood::Silent, Mood::Raves] {
        let (told, asked) = (refusals(), dns.asked());
        dns.set(mood);
        // Twice: the second time there is nothing else to fall back to than the last answer.
        eventually(&format!("it has failed twice: {mood:?}"), || refusals() >= told + 2);
        assert!(dns.asked() > asked, "{mood:?}: nobody asked");
        let backend = gateway.backend("app");
        assert_eq!(backend["resolved"], format!("{LEFT}:7000"), "{mood:?}");
        assert_eq!(backend["effective_weight"], 100.0, "{mood:?}");
        assert_eq!(visit(), "old", "{mood:?}");
        // An answer takes the pause between the questions back to where it began.
        dns.change(LEFT);
        let asked = dns.asked();
        eventually("it is well again", || dns.asked() > asked + 4);
    }
    dns.change(OTHER);
    eventually("a new answer is taken", || visit() == "new");
}
