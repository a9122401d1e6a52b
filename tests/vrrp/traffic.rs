//! Connections through the floating address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::pair::Pair;
use crate::harness::routers::{Mode, lockgate};
use crate::harness::{connect_from, greeting, until, visit_from};

/// How many addresses the client has.
const CLIENTS: u8 = 12;

/// Which backend each of the client's addresses is sent to.
fn mapping(lan: &Pair, service: SocketAddr) -> BTreeMap<IpAddr, String> {
    let sources = (0..CLIENTS).map(|number| IpAddr::from(Ipv4Addr::new(10, 9, 0, 200 + number)));
    lan.client
        .run(|| sources.map(|source| (source, visit_from(source, service).unwrap())).collect())
}

#[test]
fn new_connections_reach_the_same_backends_after_a_failover() {
    let lan = Pair::new();
    for number in 0..CLIENTS {
        lan.client.ip(&format!("addr add 10.9.0.{}/24 dev eth0", 200 + number));
    }
    let servers = lan.backends();
    let floating = Mode::V3.floating();
    let service = SocketAddr::new(floating, 80);
    let start = |gateway| lockgate(&lan, gateway, Mode::V3, "", &servers);
    let [mut first, second] = [0, 1].map(start);
    lan.await_owner(floating, 0);
    let before = mapping(&lan, service);
    let different: BTreeSet<_> = before.values().collect();
    assert!(different.len() > 1, "one backend for everybody proves nothing: {before:?}");

    // By an end in order.
    let source = *before.keys().next().unwrap();
    first.signal(Signal::SIGTERM);
    lan.await_owner(floating, 1);
    assert_eq!(mapping(&lan, service), before);
    assert!(first.wait().success());

    // Back, and by a sudden one.
    let first = start(0);
    lan.await_owner(floating, 0);
    assert_eq!(mapping(&lan, service), before);
    first.signal(Signal::SIGKILL);
    // One that the dying gateway's kernel has still accepted stays silent: the reset may come when
    // the address that it would be from is gone.
    let name = until("a connection gets through", || {
        lan.client.run(|| {
            let mut stream = connect_from(source, service).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
            greeting(&mut stream).ok()
        })
    });
    assert_eq!(Some(&name), before.get(&source));
    assert_eq!(mapping(&lan, service), before);
    assert!(
        second.metric("lockgate_connections_total", &[("listener", "web")]) > f64::from(CLIENTS)
    );
}
