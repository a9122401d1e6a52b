//! What a running gateway tells: health, metrics, status, records.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    Config, Ending, Gateway, Launch, Server, connect, ending_at, eventually, fetch, lockgate,
    output_of, until, unused_address, visit,
};

/// Sends `up` bytes to an echo server, gets them back, and closes. Returns the client's address.
fn echo(address: SocketAddr, up: usize) -> SocketAddr {
    let mut client = connect(address).unwrap();
    client.write_all(&vec![b'x'; up]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut down = Vec::new();
    client.read_to_end(&mut down).unwrap();
    assert_eq!(down.len(), up);
    client.local_addr().unwrap()
}

#[test]
fn the_same_answers_on_the_socket_and_over_http() {
    let (address, admin) = (unused_address(), unused_address());
    let server = Server::named("a");
    let gateway = Launch::new(Config::new(address).backend(&server, "")).http(admin).start();
    let over_http = |method, path| fetch(connect(admin).unwrap(), method, path).unwrap();

    for path in ["/healthz", "/readyz"] {
        let expected = (200, "ok\n".to_owned());
        assert_eq!(over_http("GET", path), expected);
        assert_eq!(gateway.request("GET", path).unwrap(), expected);
    }
    for path in ["/metrics", "/v1/status"] {
        assert_eq!(over_http("GET", path).0, 200);
        assert_eq!(gateway.request("GET", path).unwrap().0, 200);
    }
    let status: Value = serde_json::from_str(&over_http("GET", "/v1/status").1).unwrap();
    assert_eq!(status["pools"], {
        let mut pools = gateway.status()["pools"].take();
        pools[0]["backends"][0]["since_seconds"] =
            status["pools"][0]["backends"][0]["since_seconds"].clone();
        pools
    });
    for path in ["/healthz", "/readyz", "/metrics", "/v1/status"] {
        assert_eq!(over_http("POST", path).0, 405, "{path}");
        assert_eq!(gateway.request("POST", path).unwrap().0, 405, "{path}");
    }
    assert_eq!(over_http("GET", "/nothing").0, 404);
}

#[test]
fn who_has_no_backend_is_not_ready_but_healthy() {
    let server = Server::named("a");
    let config = Config::new(unused_address())
        .pool(r#"health = { type = "tcp", port = 9, interval = "100ms", fast_interval = "100ms" }"#)
        .backend(&server, "");
    let gateway = Launch::new(config).start_unready();
    let (status, reasons) = gateway.request("GET", "/readyz").unwrap();
    assert_eq!(status, 503);
    assert_eq!(reasons, "listener web: pool app has no usable backend\n");
    assert_eq!(gateway.request("GET", "/healthz").unwrap().0, 200);
}

#[test]
fn every_metric_is_there_from_the_start() {
    let server = Server::named("a");
    let config =
        Config::new(unused_address()).pool(r#"health = { type = "tcp" }"#).backend(&server, "");
    let gateway = Gateway::start(config);
    let text = gateway.get("/metrics");
    let series: HashSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split(['{', ' ']).next().unwrap())
        .collect();
    let missing: Vec<_> = [
        "lockgate_connections_total",
        "lockgate_connections_active",
        "lockgate_connection_duration_seconds_bucket",
        "lockgate_connection_duration_seconds_sum",
        "lockgate_connection_duration_seconds_count",
        "lockgate_connections_closed_total",
        "lockgate_bytes_total",
        "lockgate_backend_connections_total",
        "lockgate_backend_connections_active",
        "lockgate_backend_bytes_total",
        "lockgate_backend_connect_seconds_bucket",
        "lockgate_backend_connect_failures_total",
        "lockgate_backend_up",
        "lockgate_backend_effective_weight",
        "lockgate_backend_health_checks_total",
        "lockgate_retries_total",
        "lockgate_queue_depth",
        "lockgate_worker_connections_active",
        "lockgate_config_reloads_total",
        "lockgate_config_generation",
        "lockgate_build_info",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "process_threads",
    ]
    .into_iter()
    .filter(|name| !series.contains(name))
    .collect();
    assert!(missing.is_empty(), "missing: {missing:?}\n{text}");

    for name in series.iter().filter(|name| name.starts_with("lockgate_")) {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        for comment in ["HELP", "TYPE"] {
            let line = format!("# {comment} {family} ");
            assert!(text.contains(&line), "{line:?} is missing");
        }
        let is_counter = text.contains(&format!("# TYPE {name} counter"));
        assert_eq!(is_counter, name.ends_with("_total"), "{name}");
    }
}

#[test]
fn counts_are_what_went_through() {
    let address = unused_address();
    let server = Server::echo();
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));
    for _ in 0..5 {
        echo(address, 100_000);
    }
    gateway.await_idle();

    let web = ("listener", "web");
    let backend = [("pool", "app"), ("backend", "echo")];
    let metric = |name: &str, labels: &[(&str, &str)]| gateway.metric(name, labels);
    assert_eq!(metric("lockgate_connections_total", &[web]), 5.0);
    assert_eq!(metric("lockgate_connections_closed_total", &[web, ("reason", "closed")]), 5.0);
    assert_eq!(metric("lockgate_connections_closed_total", &[web]), 5.0);
    assert_eq!(metric("lockgate_backend_connections_total", &backend), 5.0);
    assert_eq!(metric("lockgate_connection_duration_seconds_count", &[web]), 5.0);
    assert_eq!(metric("lockgate_backend_connect_seconds_count", &[("pool", "app")]), 5.0);
    for way in ["in", "out"] {
        let way = ("direction", way);
        assert_eq!(metric("lockgate_bytes_total", &[web, way]), 500_000.0);
        let labels = [backend[0], backend[1], way];
        assert_eq!(metric("lockgate_backend_bytes_total", &labels), 500_000.0);
    }
    let status = gateway.status();
    let listener = &status["listeners"][0];
    assert_eq!((&listener["bytes_in"], &listener["bytes_out"]), (&500_000.into(), &500_000.into()));
    assert_eq!(listener["connections_total"], 5);
}

#[test]
fn bytes_are_counted_while_they_flow() {
    let address = unused_address();
    let server = Server::echo();
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));
    let mut client = connect(address).unwrap();
    client.write_all(&[0; 1000]).unwrap();
    client.read_exact(&mut [0; 1000]).unwrap();
    eventually("the bytes are counted", || gateway.metric("lockgate_bytes_total", &[]) == 2000.0);
    assert_eq!(gateway.metric("lockgate_connections_active", &[("listener", "web")]), 1.0);
    assert_eq!(gateway.metric("lockgate_worker_connections_active", &[]), 1.0);
    assert_eq!(gateway.metric("lockgate_backend_connections_active", &[]), 1.0);
}

#[test]
fn records_as_json() {
    let address = unused_address();
    let server = Server::echo();
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));
    let client = echo(address, 12);

    let record = gateway.record_of(client);
    let expected = [
        ("listener", "web".into()),
        ("client", "127.0.0.1".into()),
        ("client_port", client.port().into()),
        ("server_name", Value::Null),
        ("tls_version", Value::Null),
        ("tls_cipher", Value::Null),
        ("tls_resumed", Value::Null),
        ("alpn", Value::Null),
        ("pool", "app".into()),
        ("backend", "echo".into()),
        ("attempts", 1.into()),
        ("handshake_ms", Value::Null),
        ("bytes_in", 12.into()),
        ("bytes_out", 12.into()),
        ("tls_close_notify", Value::Null),
        ("reason", "closed".into()),
    ];
    for (key, value) in expected {
        assert_eq!(record.get(key), Some(&value), "{key}");
    }
    for key in ["queue_ms", "connect_ms", "duration_ms"] {
        assert!(record[key].as_f64().unwrap() >= 0.0, "{key}");
    }
    assert!(record["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(record.as_object().unwrap().len(), 21, "{record}");

    echo(address, 1);
    let ids: HashSet<String> = until("both records are written", || {
        let records = gateway.records();
        (records.len() == 2).then(|| records.iter().map(|r| r["id"].to_string()).collect())
    });
    assert_eq!(ids.len(), 2, "{ids:?}");
}

#[test]
fn records_as_text() {
    let address = unused_address();
    let server = Server::echo();
    let gateway = Launch::new(Config::new(address).backend(&server, "")).text().start();
    let client = echo(address, 12);
    let line =
        until("the record is written", || gateway.stdout().lines().next().map(str::to_owned));
    let keys: Vec<&str> = line.split(' ').map(|field| field.split_once('=').unwrap().0).collect();
    assert_eq!(
        keys,
        [
            "time",
            "listener",
            "client",
            "client_port",
            "pool",
            "backend",
            "attempts",
            "queue_ms",
            "connect_ms",
            "duration_ms",
            "bytes_in",
            "bytes_out",
            "reason",
            "id"
        ]
    );
    let client = format!(" listener=web client=127.0.0.1 client_port={} pool=app ", client.port());
    assert!(line.contains(&client), "{line}");
    assert!(line.contains(" bytes_in=12 bytes_out=12 reason=closed id="), "{line}");
}

#[test]
fn a_listener_without_a_pool_says_so() {
    let address = unused_address();
    let config = format!("[[listener]]\nname = \"web\"\nbind = [\"{address}\"]\n");
    let gateway = Gateway::start(config);
    assert_eq!(ending_at(address), Ending::Reset);
    let record = &gateway.await_records(1, "no_route")[0];
    assert!(record["pool"].is_null() && record["backend"].is_null(), "{record}");
    assert_eq!(record["attempts"], 0);
}

#[test]
fn an_unreachable_backend_says_so() {
    let address = unused_address();
    let mut server = Server::named("a");
    server.kill();
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));
    assert_eq!(ending_at(address), Ending::Reset);
    let record = &gateway.await_records(1, "connect_failed")[0];
    assert_eq!((&record["backend"], &record["attempts"]), (&"a".into(), &1.into()));
}

#[test]
fn the_status_command() {
    let address = unused_address();
    let server = Server::named("a");
    let gateway = Gateway::start(Config::new(address).backend(&server, "weight = 7"));
    visit(address).unwrap();
    gateway.await_idle();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(lockgate());
        let output = output_of(command.args(arguments).arg("-c").arg(gateway.config_path()));
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };

    let screen = run(&["status"]);
    for text in
        ["web", &address.to_string(), "pool app", &server.address().to_string(), "unchecked"]
    {
        assert!(screen.contains(text), "{text} is not in:\n{screen}");
    }
    let status: Value = serde_json::from_str(&run(&["status", "--json"])).unwrap();
    for key in ["version", "uptime_seconds", "generation", "node", "listeners", "pools"] {
        assert!(status.get(key).is_some(), "{key} is not in {status:#}");
    }
    let backend = &status["pools"][0]["backends"][0];
    assert_eq!(backend["name"], "a");
    assert_eq!(backend["weight"], 7);
    assert_eq!(backend["effective_weight"], 7.0);
    assert_eq!(backend["connections_total"], 1);
}

#[test]
fn a_reader_of_records_who_stops_reading_stops_nobody() {
    let address = unused_address();
    let server = Server::named("a");
    let mut gateway =
        Launch::new(Config::new(address).backend(&server, "")).records_unread().start();
    // Their records are more than a pipe holds.
    for _ in 0..1_000 {
        assert_eq!(visit(address).unwrap(), "a");
    }
    gateway.await_idle();
    assert_eq!(gateway.metric("lockgate_connections_total", &[("listener", "web")]), 1_000.0);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_gateway_whose_reader_is_gone_goes_on() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).backend(&server, "");
    let mut gateway = Launch::new(config).records_unread().start();
    gateway.close_stdout();
    for _ in 0..200 {
        assert_eq!(visit(address).unwrap(), "a");
    }
    gateway.await_idle();
    assert!(gateway.is_running());
}
