//! New configurations of a pair: who has the address does not change with them, unless they say so.

use serde_json::Value;

use super::await_service;
use crate::harness::lan::{FLOATING, GATEWAYS, Lan, await_vrrp, config, pair, public};
use crate::harness::{Events, Gateway, eventually};

/// What must not change when nothing about the instance does.
fn history(gateway: &Gateway) -> [Value; 3] {
    let public = public(gateway);
    ["state", "transitions", "cause"].map(|field| public[field].clone())
}

#[test]
fn an_instance_that_stays_as_it_is_does_not_blink() {
    let lan = Lan::new();
    let (a, b) = (lan.server("a", 7001), lan.server("b", 7002));
    let text = |server| config().backend(server, "").to_string() + &pair("");
    let [gw1, gw2] = lan.pair(text(&a));
    await_service(&lan);
    let events = [Events::of(&gw1), Events::of(&gw2)];
    let before = [history(&gw1), history(&gw2)];
    for step in 0..6 {
        for gateway in [&gw1, &gw2] {
            gateway.reload(text(if step % 2 == 0 { &b } else { &a }));
        }
        assert_eq!(await_service(&lan), if step % 2 == 0 { "b" } else { "a" });
    }
    // Not even with another number, as long as it is the higher one.
    gw1.reload(text(&a).replace("priority = 150", "priority = 140"));
    assert_eq!(public(&gw1)["priority"], 140);
    assert_eq!([history(&gw1), history(&gw2)], before);
    for events in events {
        let kinds: Vec<_> = events.all().iter().map(|event| event["kind"].clone()).collect();
        assert!(!kinds.contains(&"vrrp".into()), "{kinds:?}");
    }
}

#[test]
fn a_broken_file_changes_nothing_about_the_address() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().backend(&server, "").to_string() + &pair("");
    let [gw1, gw2] = lan.pair(&text);
    let before = [history(&gw1), history(&gw2)];
    for broken in [
        text.replace("vrid = 51", "vrid = 0"),
        text.replace("[node.gw1]", "[node.gw3]").replace(&GATEWAYS[0].to_string(), "10.7.0.13"),
        text.clone() + "notify = \"/nonexistent\"\n",
    ] {
        assert!(!gw1.try_reload(broken));
    }
    assert_eq!([history(&gw1), history(&gw2)], before);
    assert_eq!(await_service(&lan), "a");
    gw1.await_log("none of the nodes gw3, gw2");
    gw1.await_log("notify: /nonexistent: No such file");
}

#[test]
fn an_address_that_is_added_on_one_gateway_first_never_makes_two_masters() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().backend(&server, "").to_string();
    let [gw1, gw2] = lan.pair(text.clone() + &pair(""));
    let before = [history(&gw1), history(&gw2)];
    let second = "10.7.0.101".parse().unwrap();
    let more = format!("addresses = [\"{FLOATING}/24\", \"{second}/24\"]");
    // On the backup first, and then on the master; away again the other way round.
    for (lines, order) in [(&*more, [1, 0]), ("", [0, 1])] {
        for index in order {
            [&gw1, &gw2][index].reload(text.clone() + &pair(lines));
            assert_eq!([history(&gw1), history(&gw2)], before);
        }
        eventually("the second address comes and goes", || lan.has(0, second) != lines.is_empty());
        assert!(lan.has(0, FLOATING) && !lan.has(1, FLOATING) && !lan.has(1, second));
    }
    assert_eq!(await_service(&lan), "a");
}

#[test]
fn instances_come_and_go() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let alone = config().backend(&server, "").to_string();
    let text = alone.clone() + &pair("");
    let [gw1, gw2] = lan.pair(&text);
    gw1.reload(&alone);
    await_vrrp(&gw2, "master");
    assert_eq!(gw1.status()["vrrp"], Value::Array(Vec::new()));
    assert!(!lan.has(0, FLOATING));
    assert_eq!(await_service(&lan), "a");
    gw1.reload(&text);
    await_vrrp(&gw1, "master");
    await_vrrp(&gw2, "backup");
    gw1.await_log("+2 nodes, +1 VRRP instance");
}

#[test]
fn a_higher_priority_takes_effect_at_once() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().backend(&server, "").to_string() + &pair("");
    let [gw1, gw2] = lan.pair(&text);
    gw2.reload(text.replace("priority = 100", "priority = 200"));
    await_vrrp(&gw2, "master");
    await_vrrp(&gw1, "backup");
    assert_eq!(await_service(&lan), "a");
}
