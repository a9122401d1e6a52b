//! The pair: who has the floating address, and that clients find it there (see
//! [`crate::harness::lan`]).

mod reloading;
mod settings;
mod showing;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::signal::Signal;

use crate::harness::lan::{FLOATING, GATEWAYS, Lan, SERVICE, await_vrrp, config, pair, public};
use crate::harness::{
    Config, Frozen, Gateway, connect_from, eventually, greeting, held, until, visit, visit_from,
};

/// Waits until a client can connect to the floating address.
#[track_caller]
fn await_service(lan: &Lan) -> String {
    until("the floating address answers", || lan.client.run(|| visit(SERVICE).ok()))
}

/// Waits until a gateway has the address on its interface, or has it no more.
#[track_caller]
fn await_address(lan: &Lan, gateway: usize, has: bool) {
    eventually(&format!("gw{} has the address: {has}", gateway + 1), || {
        lan.has(gateway, FLOATING) == has
    });
}

#[test]
fn one_of_a_pair_has_the_address_and_both_are_ready() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let config = config().backend(&server, "").to_string() + &pair("");
    let [gw1, gw2] = lan.pair(config);
    assert_eq!(await_service(&lan), "a");
    await_address(&lan, 0, true);
    await_address(&lan, 1, false);
    for gateway in [&gw1, &gw2] {
        assert_eq!(gateway.request("GET", "/readyz").unwrap(), (200, "ok\n".to_owned()));
    }
    assert_eq!(gw1.await_records(1, "closed").len(), 1);
    assert!(gw2.records().is_empty());
}

/// By the address of the client: which server answers.
fn backends(lan: &Lan, clients: &[Ipv4Addr]) -> BTreeMap<Ipv4Addr, String> {
    let ask = |client: &Ipv4Addr| (*client, visit_from((*client).into(), SERVICE).unwrap());
    lan.client.run(|| clients.iter().map(ask).collect())
}

#[test]
fn a_killed_master_is_replaced_and_clients_keep_their_backends() {
    let lan = Lan::new();
    let servers: Vec<_> =
        [("a", 7001), ("b", 7002), ("c", 7003)].map(|(name, port)| lan.server(name, port)).into();
    let config = servers
        .iter()
        .fold(config().pool("balance = \"source_hash\""), |config, server| {
            config.backend(server, "")
        })
        .to_string()
        + &pair("");
    let clients: Vec<_> = (20..40).map(|host| Ipv4Addr::new(10, 7, 0, host)).collect();
    for client in &clients {
        lan.client.ip(&format!("addr add {client}/24 dev eth0"));
    }
    let [gw1, gw2] = lan.pair(config);
    await_service(&lan);
    let before = backends(&lan, &clients);
    assert!(before.values().any(|name| *name != before[&clients[0]]), "{before:?}");

    gw1.signal(Signal::SIGKILL);
    await_vrrp(&gw2, "master");
    await_service(&lan);
    assert_eq!(backends(&lan, &clients), before);
    assert!(!gw2.await_records(clients.len(), "closed").is_empty());
    // Nobody is left to take it away, and yet it goes.
    await_address(&lan, 0, false);
    assert!(lan.has(1, FLOATING));
    assert_eq!(public(&gw2)["master"], GATEWAYS[1].to_string());
}

#[test]
fn a_stopped_master_gives_the_address_away_before_it_drains() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let config = config().runtime("drain_timeout = \"20s\"").backend(&server, "");
    let [mut gw1, gw2] = lan.pair(config.to_string() + &pair(""));
    await_service(&lan);
    // Over an address that stays.
    let own = (GATEWAYS[0], 80).into();
    let open = lan.client.run(|| held(own).unwrap());
    gw1.signal(Signal::SIGTERM);
    await_vrrp(&gw2, "master");
    await_address(&lan, 0, false);
    assert_eq!(await_service(&lan), "a");
    assert!(gw1.is_running(), "it waits for its connection");
    assert_eq!(public(&gw1)["state"], "init");
    assert_eq!(public(&gw1)["cause"], "shutdown");
    drop(open);
    assert!(gw1.wait().success());
}

#[test]
fn a_master_that_is_cut_off_is_replaced_and_returns() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let [gw1, gw2] = lan.pair(config().backend(&server, "").to_string() + &pair(""));
    await_service(&lan);
    lan.plug(0, "down");
    await_vrrp(&gw2, "master");
    assert_eq!(await_service(&lan), "a");
    lan.plug(0, "up");
    await_vrrp(&gw1, "master");
    await_vrrp(&gw2, "backup");
    await_address(&lan, 1, false);
    assert_eq!(await_service(&lan), "a");
}

#[test]
fn a_gateway_that_comes_back_without_preempt_leaves_the_address_where_it_is() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().backend(&server, "").to_string() + &pair("preempt = false");
    let [gw1, gw2] = lan.pair(&text);
    drop(gw1);
    await_vrrp(&gw2, "master");
    let again = lan.start(0, &text);
    await_vrrp(&again, "backup");
    eventually("it hears the other one", || public(&again)["master"] == GATEWAYS[1].to_string());
    assert_eq!(public(&again)["state"], "backup");
    assert_eq!(public(&gw2)["state"], "master");
}

#[test]
fn a_gateway_with_a_stuck_worker_gives_the_address_away_until_it_is_well() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let config = config().runtime("workers = 2").backend(&server, "");
    let [gw1, gw2] = lan.pair(config.to_string() + &pair(""));
    await_service(&lan);

    let frozen = Frozen::thread(gw1.pid(), "worker-1");
    await_vrrp(&gw2, "master");
    await_address(&lan, 0, false);
    assert_eq!(await_service(&lan), "a");
    let stuck = await_vrrp(&gw1, "init");
    assert_eq!(stuck["cause"], "service_down");
    assert!(stuck["reason"].as_str().unwrap().contains("worker 1 is stuck"), "{stuck}");

    drop(frozen);
    await_vrrp(&gw1, "master");
    await_vrrp(&gw2, "backup");
    assert_eq!(public(&gw1)["reason"], serde_json::Value::Null);
}

/// As a virtual machine is that somebody takes a snapshot of.
#[test]
fn a_paused_master_yields_to_the_one_that_took_over_until_it_may_preempt() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().backend(&server, "").to_string() + &pair("preempt = false");
    let [gw1, gw2] = lan.pair(text);
    await_service(&lan);
    gw1.signal(Signal::SIGSTOP);
    await_vrrp(&gw2, "master");
    await_address(&lan, 0, false);
    assert_eq!(await_service(&lan), "a");
    gw1.signal(Signal::SIGCONT);
    await_vrrp(&gw1, "backup");
    let causes = |gateway: &Gateway| public(gateway)["cause"].clone();
    // The workers were as paused as everything else: that is nobody's fault.
    assert_ne!(causes(&gw1), "service_down");
    assert!(!lan.has(0, FLOATING) && lan.has(1, FLOATING));
    assert_eq!(await_service(&lan), "a");
}

#[test]
fn a_pool_without_a_backend_costs_priority_and_its_return_gives_it_back() {
    let lan = Lan::new();
    let mut one = lan.server("one", 7001);
    let other = lan.server("other", 7002);
    let tracked = pair("track_pools = [{ pool = \"app\", weight = -60 }]");
    let health = r#"health = { type = "tcp", interval = "100ms", fast_interval = "50ms", rise = 1, fall = 1 }"#;
    let text = |server| config().pool(health).backend(server, "").to_string() + &tracked;
    let (gw1, gw2) = (lan.start(0, text(&one)), lan.start(1, text(&other)));
    await_vrrp(&gw1, "master");
    assert_eq!(await_service(&lan), "one");

    one.kill();
    let lowered = await_vrrp(&gw1, "backup");
    assert_eq!((&lowered["priority"], &lowered["effective_priority"]), (&150.into(), &90.into()));
    assert!(lowered["reason"].as_str().unwrap().contains("pool app"), "{lowered}");
    assert_eq!(gw1.metric("lockgate_vrrp_priority", &[("instance", "public")]), 90.0);
    await_vrrp(&gw2, "master");
    assert_eq!(await_service(&lan), "other");
    gw1.await_log("a tracked pool changes the priority");

    lan.server.run(|| one.restart());
    let restored = await_vrrp(&gw1, "master");
    assert_eq!(restored["effective_priority"], 150);
    until("the first server answers", || {
        lan.client.run(|| visit(SERVICE).ok()).filter(|name| name == "one")
    });
}

#[test]
fn a_tracked_interface_that_goes_down_takes_the_address_along() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    for gateway in &lan.gateways {
        gateway.ip("link add uplink type veth peer name beyond");
        gateway.ip("link set beyond up");
        gateway.ip("link set uplink up");
    }
    let text = config().backend(&server, "").to_string() + &pair("track_interfaces = [\"uplink\"]");
    let [gw1, gw2] = lan.pair(text);
    lan.gateways[0].ip("link set uplink down");
    await_vrrp(&gw2, "master");
    let faulty = await_vrrp(&gw1, "init");
    assert_eq!(faulty["cause"], "tracked_interface_down");
    lan.gateways[0].ip("link set uplink up");
    await_vrrp(&gw1, "master");
}

#[test]
fn connections_of_before_do_not_disturb_those_of_after() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let [gw1, gw2] = lan.pair(config().backend(&server, "").to_string() + &pair(""));
    await_service(&lan);
    let mut open = lan.client.run(|| {
        let client = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 2));
        let mut stream = connect_from(client, SERVICE).unwrap();
        assert_eq!(greeting(&mut stream).unwrap(), "a");
        stream
    });
    gw1.signal(Signal::SIGKILL);
    await_vrrp(&gw2, "master");
    for _ in 0..10 {
        assert_eq!(await_service(&lan), "a");
    }
    // What was open on the dead gateway is told so when it next says something.
    let told = open.write_all(b"x").and_then(|()| open.read(&mut [0; 1]));
    match told {
        Ok(0) => {}
        Err(error) if error.kind() != ErrorKind::WouldBlock => {}
        other => panic!("it hears nothing of the end: {other:?}"),
    }
}

/// Where multicast does not pass: the same file names the peers of both.
#[test]
fn peers_that_are_named_find_each_other() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let [gw1, gw2] = GATEWAYS;
    for lines in [r#"unicast_peers = ["node"]"#, &format!("unicast_peers = [\"{gw1}\", \"{gw2}\"]")]
    {
        let text = config().backend(&server, "").to_string() + &pair(lines);
        let [gw1, gw2] = lan.pair(text);
        eventually("the backup hears the master", || {
            public(&gw2)["master"] == GATEWAYS[0].to_string()
        });
        gw1.signal(Signal::SIGTERM);
        await_vrrp(&gw2, "master");
        assert_eq!(await_service(&lan), "a");
    }
}

#[test]
fn an_address_of_ipv6_moves_as_well() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let floating: IpAddr = "fd07::100".parse().unwrap();
    let service = (floating, 80).into();
    for (end, host) in [(&lan.client, 2), (&lan.gateways[0], 11), (&lan.gateways[1], 12)] {
        end.ip(&format!("addr add fd07::{host}/64 dev eth0 nodad"));
    }
    let text = Config::new((Ipv6Addr::UNSPECIFIED, 80).into()).backend(&server, "").to_string()
        + &pair("addresses = [\"fe80::51/64\", \"fd07::100/64\"]");
    let [gw1, gw2] = lan.pair(text);
    let visit = || lan.client.run(|| visit(service).ok());
    assert_eq!(until("the address answers", visit), "a");
    assert!(lan.has(0, floating) && !lan.has(1, floating));
    gw1.signal(Signal::SIGKILL);
    await_vrrp(&gw2, "master");
    assert_eq!(until("the address answers", visit), "a");
    eventually("it is gone from the killed one", || !lan.has(0, floating));
}
