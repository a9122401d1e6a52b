//! Who may ask what, and what asking may cost.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{done, order, order_over};
use crate::harness::{
    Config, Gateway, Launch, Server, connect, eventually, lockgate, output_of, until,
    unused_address,
};

fn gateway(server: &Server) -> Gateway {
    Gateway::start(Config::new(unused_address()).backend(server, ""))
}

#[test]
fn over_http_everything_is_for_reading_only() {
    let server = Server::named("a");
    let admin = unused_address();
    let config = Config::new(unused_address()).backend(&server, "");
    let gateway = Launch::new(config).http(admin).start();
    let calls = [
        ("POST", "/v1/reload"),
        ("POST", "/v1/diff"),
        ("POST", "/v1/drain"),
        ("DELETE", "/v1/drain"),
        ("POST", "/v1/handover"),
        ("POST", "/v1/pools/app/backends/a"),
        ("PUT", "/v1/status"),
        ("POST", "/nothing"),
    ];
    for (method, path) in calls {
        let body = r#"{"state": "draining"}"#;
        let (status, answer) = order_over(connect(admin).unwrap(), method, path, body);
        assert_eq!(status, 405, "{method} {path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains("reading only"), "{answer}");
    }
    assert_eq!(gateway.backend("a")["state"], "unchecked");
    for path in ["/v1/explain?listener=web", "/v1/pools/app/backends/a", "/v1/status"] {
        assert_eq!(order_over(connect(admin).unwrap(), "GET", path, "").0, 200, "{path}");
    }
}

#[test]
fn who_is_neither_root_nor_the_gateway_s_user_is_refused() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    let directory = gateway.config_path().parent().unwrap().to_owned();
    let allow = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(lockgate()).args(["drain", "app/a", "-c"]).arg(gateway.config_path());
        let output = output_of(&mut command);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // The socket is its owner's alone.
    allow(&directory, 0o755);
    let (code, error) = as_nobody();
    assert_eq!(code, Some(77), "{error}");
    // And if somebody opens it, the kernel says who asks.
    allow(&directory.join("admin.sock"), 0o666);
    let (code, error) = as_nobody();
    assert_eq!(code, Some(77), "{error}");
    assert!(error.contains("uid 65534 may not ask"), "{error}");
    assert_eq!(gateway.backend("a")["state"], "unchecked");
}

#[test]
fn who_did_what_is_logged_and_told() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    done(&gateway, &["weight", "app/a", "3"]);
    let (_, events) = replayed(&gateway, "/v1/events?last=1", "");
    assert_eq!(events[0]["kind"], "operator");
    assert_eq!(events[0]["before"], "enabled, weight 100");
    assert_eq!(events[0]["after"], "enabled, weight 3");
    let who = events[0]["who"].as_str().unwrap();
    let uid = nix::unistd::getuid();
    assert!(who.starts_with(&format!("uid {uid}")) && who.contains(", pid "), "{who}");
    let line = until("it is logged", || {
        gateway.stderr().lines().find(|line| line.contains("\"operator\"")).map(str::to_owned)
    });
    assert!(line.contains(who) && line.contains("enabled, weight 3"), "{line}");
}

/// Reads what is replayed at once. Returns ids and data.
fn replayed(gateway: &Gateway, path: &str, header: &str) -> (Vec<u64>, Vec<Value>) {
    let mut stream = gateway.connect_admin().unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n{header}\r\n").as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut text = String::new();
    // What comes first is what is remembered, and the listening itself comes last.
    while !text.contains(": listening\n\n") {
        let mut buffer = [0; 4096];
        let received = stream.read(&mut buffer).unwrap();
        assert!(received > 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..received]).unwrap());
    }
    let of = |prefix| text.lines().filter_map(move |line| line.strip_prefix(prefix));
    let ids = of("id: ").map(|id| id.parse().unwrap()).collect();
    (ids, of("data: ").map(|data| serde_json::from_str(data).unwrap()).collect())
}

#[test]
fn events_are_replayed_from_where_a_listener_left_off() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    for weight in 1..=5 {
        let body = format!("{{\"weight\": {weight}}}");
        assert_eq!(order(&gateway, "POST", "/v1/pools/app/backends/a", &body).0, 200);
    }
    let (all, _) = replayed(&gateway, "/v1/events?last=1000", "");
    assert!(all.len() >= 5 && all.is_sorted(), "{all:?}");
    let count = *all.last().unwrap();
    assert!(replayed(&gateway, "/v1/events", "").0.is_empty());
    assert_eq!(replayed(&gateway, "/v1/events?last=2", "").0, [count - 1, count]);
    let since = format!("/v1/events?since={}", count - 3);
    assert_eq!(replayed(&gateway, &since, "").0, [count - 2, count - 1, count]);
    let header = format!("Last-Event-ID: {}\r\n", count - 1);
    assert_eq!(replayed(&gateway, "/v1/events", &header).0, [count]);
    assert_eq!(order(&gateway, "GET", "/v1/events?last=many", "").0, 400);
}

#[test]
fn bodies_of_garbage_are_refused_in_json_and_change_nothing() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    let path = "/v1/pools/app/backends/a";
    let large = format!("{{\"state\": \"{}\"}}", "x".repeat(100_000));
    for (body, expected) in [
        ("", 400),
        ("{}", 400),
        ("nonsense", 400),
        ("[]", 400),
        ("{\"state\": \"asleep\"}", 400),
        ("{\"state\": 1}", 400),
        ("{\"weight\": -1}", 400),
        ("{\"weight\": 65536}", 400),
        ("{\"weight\": 1.5}", 400),
        ("{\"weight\": \"1\"}", 400),
        ("{\"wieght\": 1}", 400),
        ("{\"state\": \"enabled\", \"timeout\": \"1s\"}", 400),
        ("{\"weight\": 1, \"timeout\": \"1s\"}", 400),
        ("{\"state\": \"draining\", \"timeout\": \"1\"}", 400),
        ("\u{0}\u{1}", 400),
        (large.as_str(), 413),
    ] {
        let (status, answer) = order(&gateway, "POST", path, body);
        let shown = &body[..body.len().min(60)];
        assert_eq!(status, expected, "{shown}: {answer}");
        assert!(answer["error"].is_string(), "{shown}: {answer}");
    }
    for (method, path, expected) in [
        ("POST", "/v1/pools/nope/backends/a", 404),
        ("POST", "/v1/pools/app/backends/%ff", 400),
        ("GET", "/v1/pools/app/backends/nope", 404),
        ("PUT", "/v1/reload", 405),
        ("GET", "/v1/reload", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/explain", 400),
    ] {
        let (status, answer) = order(&gateway, method, path, "{\"weight\": 1}");
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert!(answer["error"].is_string(), "{method} {path}: {answer}");
    }
    let backend = gateway.backend("a");
    assert_eq!((&backend["state"], &backend["weight"]), (&"unchecked".into(), &100.into()));
}

/// Fifty say half a request, fifty announce a body that never comes, and ten want an answer that they
/// never read.
#[test]
fn slow_clients_hold_nobody_up_and_lose_their_places() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    let slow = |text: &str| {
        let mut stream = gateway.connect_admin().unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let mut slow_ones = Vec::new();
    for _ in 0..50 {
        slow_ones.push(slow("GET /v1/status HTTP/1.1\r\nHost: "));
        slow_ones.push(slow(
            "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"half\"",
        ));
    }
    for _ in 0..10 {
        slow_ones.push(slow(&"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50)));
    }
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(gateway.request("GET", "/v1/status").unwrap().0, 200);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    // More than there are places: those of the slow ones are given to others in time.
    for _ in 0..100 {
        slow_ones.push(slow("GET /v1/status HTTP/1.1\r\n"));
    }
    assert_eq!(gateway.request("GET", "/v1/status").unwrap().0, 200);
    let ended = |stream: &mut std::os::unix::net::UnixStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    };
    eventually("half a request is not waited for", || ended(&mut slow_ones[0]));
    eventually("half a body is not waited for", || ended(&mut slow_ones[1]));
}

#[test]
fn a_head_without_end_is_cut_short() {
    let server = Server::named("a");
    let gateway = gateway(&server);
    let mut stream = gateway.connect_admin().unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let line = format!("X-Fill: {}\r\n", "y".repeat(1_000));
    let sent = (0..1_000).take_while(|_| stream.write_all(line.as_bytes()).is_ok()).count();
    assert!(sent < 1_000, "a megabyte of headers was taken");
    assert_eq!(gateway.request("GET", "/healthz").unwrap().0, 200);
}
