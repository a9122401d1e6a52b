//! What is counted goes on where it was.

use std::collections::BTreeMap;

use crate::harness::{Config, Gateway, Server, eventually, held, unused_address, visit};

/// All counters, by series. Those of the process itself begin anew with it.
fn counters(gateway: &Gateway) -> BTreeMap<String, f64> {
    let text = gateway.get("/metrics");
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let series = series.filter_map(|line| line.rsplit_once(' '));
    let is_counter = |name: &str| {
        let name = name.split('{').next().unwrap();
        name.starts_with("lockgate_")
            && ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end))
    };
    series
        .filter(|(name, _)| is_counter(name))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn no_counter_goes_back() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address)
        .runtime("drain_timeout = \"1h\"")
        .pool("health = { type = \"tcp\", interval = \"100ms\" }")
        .backend(&server, "")
        .backend_at("b", "127.0.0.1:1", "");
    let mut gateway = Gateway::start(config);
    let mut before = counters(&gateway);
    assert!(before.len() > 20, "{before:?}");
    for round in 1..=4_u32 {
        (0..5).for_each(|_| drop(visit(address).unwrap()));
        if round == 2 {
            assert!(!gateway.try_reload("[runtime]\nwokers = 1\n"));
            gateway.write_config(
                Config::new(address)
                    .runtime("drain_timeout = \"1h\"")
                    .pool("health = { type = \"tcp\", interval = \"100ms\" }")
                    .backend(&server, "")
                    .backend_at("b", "127.0.0.1:1", ""),
            );
        }
        gateway.upgrade();
        let after = counters(&gateway);
        for (series, count) in &before {
            let now = after.get(series).copied();
            assert!(now >= Some(*count), "round {round}: {series} was {count}, and is {now:?}");
        }
        before = after;
        assert_eq!(
            gateway.metric("lockgate_connections_total", &[("listener", "web")]),
            f64::from(5 * round)
        );
        let reloads =
            |result| gateway.metric("lockgate_config_reloads_total", &[("result", result)]);
        assert_eq!((reloads("ok"), reloads("failed")), (0.0, f64::from(round / 2).min(1.0)));
    }
    let listener = gateway.status()["listeners"][0].clone();
    assert_eq!(listener["connections_total"], 20);
    assert_eq!(gateway.backend("a")["connections_total"], 20);
}

/// What the old process counts while it drains is added while it does, also by way of a process in
/// between that drains as well.
#[test]
fn what_happens_while_a_process_drains_is_counted_by_the_last_one() {
    let address = unused_address();
    let server = Server::echo();
    let config = Config::new(address).runtime("drain_timeout = \"1h\"").backend(&server, "");
    let mut gateway = Gateway::start(config);
    let connect = || {
        let mut client = crate::harness::connect(address).unwrap();
        super::converse(&mut client);
        client
    };
    let mut clients = vec![connect()];
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(gateway.upgrade());
        clients.push(connect());
    }
    let bytes = || gateway.metric("lockgate_bytes_total", &[("direction", "in")]);
    clients.iter_mut().for_each(super::converse);
    clients.drain(..).for_each(drop);
    processes.into_iter().for_each(Gateway::await_end_of);
    eventually("every byte is counted", || bytes() == 80.0);
    assert_eq!(gateway.metric("lockgate_connections_total", &[]), 4.0);
    let closed = gateway.metric("lockgate_connections_closed_total", &[("reason", "closed")]);
    assert_eq!(closed, 4.0);
    assert_eq!(gateway.backend("echo")["bytes_in"], 80);
}

#[test]
fn the_status_tells_of_the_process_before() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime("drain_timeout = \"1h\"").backend(&server, "");
    let mut gateway = Gateway::start(config);
    let open = [held(address).unwrap(), held(address).unwrap()];
    let before = gateway.upgrade();
    eventually("its connections are known", || {
        let previous = gateway.status()["previous"].clone();
        previous.as_array().unwrap().len() == 1
            && previous[0]["pid"] == before
            && previous[0]["connections"] == 2
    });
    assert_eq!(gateway.status()["connections"], 0);
    drop(open);
    eventually("it is forgotten", || gateway.status()["previous"].as_array().unwrap().is_empty());
}
