//! Floating addresses that are given away on purpose (see [`crate::harness::lan`]).

use std::thread;
use std::time::Duration;

use super::{done, order, run};
use crate::harness::lan::{FLOATING, Lan, SERVICE, await_vrrp, config, pair, public};
use crate::harness::{Config, Events, Gateway, Server, eventually, until, unused_address, visit};

/// Longer than any gateway would wait to take an address back: three intervals are 300 ms.
const LATER: Duration = Duration::from_millis(1_500);

fn text(server: &Server, lines: &str) -> String {
    config().backend(server, "").to_string() + &pair(lines)
}

#[track_caller]
fn await_service(lan: &Lan) {
    let served = until("the floating address answers", || lan.client.run(|| visit(SERVICE).ok()));
    assert_eq!(served, "a");
}

#[test]
fn handover_gives_the_address_to_the_peer_until_it_is_taken_back() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let [gw1, gw2] = lan.pair(text(&server, ""));
    await_service(&lan);
    let events = Events::of(&gw1);
    let out = done(&gw1, &["handover"]);
    assert!(out.contains("public: backup here"), "{out}");
    // It has waited until the peer had the address.
    assert_eq!(public(&gw2)["state"], "master");
    assert_eq!(public(&gw1)["cause"], "handed_over");
    await_service(&lan);
    thread::sleep(LATER);
    let left = public(&gw1);
    assert_eq!((&left["state"], &left["effective_priority"]), (&"backup".into(), &1.into()));
    assert!(left["reason"].as_str().unwrap().contains("handover"), "{left}");
    assert!(!lan.has(0, FLOATING) && lan.has(1, FLOATING));
    events.await_event(&[("kind", "operator"), ("what", "handover"), ("after", "handed over")]);
    assert!(done(&gw1, &["handover"]).contains("no floating address is here"));

    assert!(done(&gw1, &["handover", "--back"]).contains("with its own priority again"));
    await_vrrp(&gw1, "master");
    await_vrrp(&gw2, "backup");
    await_service(&lan);
    assert!(done(&gw1, &["handover", "--back"]).contains("nothing was handed over"));
}

#[test]
fn a_handover_ends_when_the_peer_goes_away() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = text(&server, "");
    let [gw1, gw2] = lan.pair(&text);
    done(&gw1, &["handover"]);
    drop(gw2);
    await_vrrp(&gw1, "master");
    await_service(&lan);
    eventually("it has its own priority", || public(&gw1)["effective_priority"] == 150);
    let gw2 = lan.start(1, &text);
    await_vrrp(&gw2, "backup");
    thread::sleep(LATER);
    assert_eq!(public(&gw1)["state"], "master", "the handover is over");
}

#[test]
fn a_peer_that_does_not_preempt_takes_what_is_offered() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let [gw1, gw2] = lan.pair(text(&server, "preempt = false"));
    done(&gw1, &["handover"]);
    await_vrrp(&gw2, "master");
    await_vrrp(&gw1, "backup");
    await_service(&lan);
    // And back, from the other side.
    done(&gw2, &["handover"]);
    await_vrrp(&gw1, "master");
    await_vrrp(&gw2, "backup");
    await_service(&lan);
}

#[test]
fn without_a_peer_the_address_stays_where_it_is() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = text(&server, "");
    let gw1 = lan.start(0, &text);
    await_vrrp(&gw1, "master");
    let transitions = public(&gw1)["transitions"].clone();
    let (code, out, err) = run(&gw1, &["handover"]);
    assert_eq!(code, 69, "{out}{err}");
    assert!(err.contains("no peer has taken the addresses of public: they stay here"), "{err}");
    let kept = public(&gw1);
    assert_eq!((&kept["state"], &kept["effective_priority"]), (&"master".into(), &150.into()));
    assert_eq!(kept["transitions"], transitions, "it never ceased to be master");
    await_service(&lan);

    let out = done(&gw1, &["handover", "--force"]);
    assert!(out.contains("nobody has taken the addresses of public"), "{out}");
    assert_eq!(public(&gw1)["state"], "master");
    await_service(&lan);
    let gw2 = lan.start(1, &text);
    await_vrrp(&gw2, "master");
    await_vrrp(&gw1, "backup");
    await_service(&lan);
}

#[test]
fn a_drained_node_gives_way_until_it_is_enabled() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let [gw1, gw2] = lan.pair(text(&server, "preempt = false"));
    let out = done(&gw1, &["drain", "--node"]);
    assert!(out.contains("floating addresses go to a peer"), "{out}");
    await_vrrp(&gw2, "master");
    await_vrrp(&gw1, "backup");
    await_service(&lan);
    assert_eq!(gw1.request("GET", "/readyz").unwrap().0, 503);
    assert!(public(&gw1)["reason"].as_str().unwrap().contains("drain"));
    done(&gw1, &["enable", "--node"]);
    eventually("it has its own priority", || public(&gw1)["effective_priority"] == 150);
    assert_eq!(gw1.request("GET", "/readyz").unwrap().0, 200);
}

#[test]
fn without_floating_addresses_there_is_nothing_to_hand_over() {
    let server = Server::named("a");
    let gateway = Gateway::start(Config::new(unused_address()).backend(&server, ""));
    let (code, _, err) = run(&gateway, &["handover"]);
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("there are no floating addresses"), "{err}");
    assert_eq!(order(&gateway, "POST", "/v1/handover", "{\"backwards\": true}").0, 400);
}
