//! Active checks of every kind, what live traffic says, and what both do to the traffic.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::harness::{
    Config, Gateway, Http, Launch, Server, connect, eventually, fetch, free_port, until,
    unused_address, visit,
};

/// A configuration whose checks of this type see a change soon.
fn checked(address: SocketAddr, check: &str) -> Config {
    let pace = r#"interval = "200ms", fast_interval = "50ms", timeout = "5s""#;
    Config::new(address).pool(&format!("health = {{ {check}, {pace} }}"))
}

fn state(gateway: &Gateway, backend: &str) -> (String, String) {
    let backend = gateway.backend(backend);
    let text = |key: &str| backend[key].as_str().unwrap().to_owned();
    (text("state"), text("reason"))
}

#[test]
fn tcp_checks_see_whether_somebody_listens() {
    let address = unused_address();
    let mut a = Server::named("a");
    let b = Server::named("b");
    let config = checked(address, r#"type = "tcp""#).backend(&a, "").backend(&b, "");
    let gateway = Gateway::start(config);
    assert_eq!(state(&gateway, "a"), ("up".into(), "first check passed".into()));

    a.kill();
    let reason = gateway.await_state("a", "down")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("connection refused"), "{reason}");
    assert_eq!(gateway.backend("a")["effective_weight"], 0.0);
    let labels = [("pool", "app"), ("backend", "a")];
    assert_eq!(gateway.metric("lockgate_backend_up", &labels), 0.0);
    assert!((0..10).all(|_| visit(address).unwrap() == "b"));

    a.restart();
    gateway.await_state("a", "up");
    assert_eq!(gateway.metric("lockgate_backend_up", &labels), 1.0);
    eventually("a serves again", || visit(address).unwrap() == "a");
}

#[test]
fn http_checks_see_the_status() {
    let address = unused_address();
    let http = Http::new(200);
    let a = http.serve("a");
    let check = "type = 'http', path = '/up?deep=1', host = 'app.example', \
                 expect_status = ['200-299', '404']";
    let gateway = Gateway::start(checked(address, check).backend(&a, ""));

    for (status, verdict) in [(503, "down"), (204, "up"), (300, "down"), (404, "up"), (199, "down")]
    {
        http.set_status(status);
        let backend = gateway.await_state("a", verdict);
        if verdict == "down" && status != 199 {
            let reason = backend["reason"].as_str().unwrap();
            assert!(reason.contains(&status.to_string()), "{reason}");
        }
    }
    for head in http.heads() {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("get /up?deep=1 http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nhost: app.example\r\n"), "{head}");
    }
}

#[test]
fn http_checks_ask_for_the_address_unless_told_otherwise() {
    let http = Http::new(200);
    let a = http.serve("a");
    let _gateway = Gateway::start(checked(unused_address(), r#"type = "http""#).backend(&a, ""));
    let head = http.heads()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /healthz http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {}\r\n", a.address())), "{head}");
}

/// A server with a certificate of its own making, which answers HTTP over TLS.
fn over_tls(http: &Arc<Http>, name: &str) -> Server {
    let made = rcgen::generate_simple_self_signed(["app.example".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (http, config, name) = (Arc::clone(http), Arc::new(config), name.to_owned());
    Server::with(&name.clone(), move |stream| {
        let session = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        http.answer(StreamOwned::new(session, stream), &name)
    })
}

#[test]
fn http_checks_over_tls() {
    let http = Http::new(200);
    let a = over_tls(&http, "a");
    let check = r#"type = "http", tls = true, host = "app.example""#;
    let gateway = Gateway::start(checked(unused_address(), check).backend(&a, ""));
    http.set_status(500);
    gateway.await_state("a", "down");
    http.set_status(200);
    gateway.await_state("a", "up");
    assert!(http.heads()[0].to_ascii_lowercase().contains("\r\nhost: app.example\r\n"));
}

#[test]
fn tls_checks_want_a_handshake() {
    let encrypted = over_tls(&Http::new(200), "encrypted");
    let plain = Server::named("plain");
    let config =
        checked(unused_address(), r#"type = "tls""#).backend(&encrypted, "").backend(&plain, "");
    let gateway = Gateway::start(config);
    gateway.await_state("encrypted", "up");
    let reason = gateway.await_state("plain", "down")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("TLS"), "{reason}");
}

#[test]
fn send_expect_checks_want_an_answer() {
    let echo = Server::echo();
    let other = Server::named("other");
    let config =
        checked(unused_address(), r#"type = "send_expect", send = "PING\r\n", expect = "PING""#)
            .backend(&echo, "")
            .backend(&other, "");
    let gateway = Gateway::start(config);
    gateway.await_state("echo", "up");
    let reason = gateway.await_state("other", "down")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("unexpected answer"), "{reason}");
}

#[test]
fn send_expect_checks_may_only_listen() {
    let config = checked(unused_address(), r#"type = "send_expect", expect = "mail\n""#);
    let (mail, other) = (Server::named("mail"), Server::named("other"));
    let gateway = Gateway::start(config.backend(&mail, "").backend(&other, ""));
    gateway.await_state("mail", "up");
    gateway.await_state("other", "down");
}

#[test]
fn a_check_that_gets_no_answer_fails() {
    let (_let_go, told) = mpsc::channel();
    let deaf = Server::deaf(told);
    // Who greets with something else than HTTP is not well either, but does not keep one waiting.
    let named = Server::named("named");
    let config = Config::new(unused_address())
        .pool(
            "health = { type = 'http', timeout = '200ms', interval = '1s', fast_interval = '1s' }",
        )
        .backend(&deaf, "")
        .backend(&named, "");
    let gateway = Launch::new(config).start_unready();
    let reason = gateway.await_state("deaf", "down")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("no answer within 200ms"), "{reason}");
    let reason = gateway.await_state("named", "down")["reason"].as_str().unwrap().to_owned();
    assert!(!reason.contains("no answer"), "{reason}");
}

#[test]
fn checks_go_to_another_port_if_told_so() {
    let http = Http::new(200);
    let a = Server::named("a");
    let side = Server::new("side", free_port(a.ip()), {
        let http = Arc::clone(&http);
        move |stream| http.answer(stream, "")
    });
    let address = unused_address();
    let check = format!("type = \"http\", port = {}", side.address().port());
    let gateway = Gateway::start(checked(address, &check).backend(&a, ""));
    assert_eq!(visit(address).unwrap(), "a");
    http.set_status(500);
    gateway.await_state("a", "down");
}

#[test]
fn it_takes_so_many_checks_to_rise_and_fall() {
    let http = Http::new(200);
    let a = http.serve("a");
    let config = checked(unused_address(), r#"type = "http", rise = 4, fall = 5"#).backend(&a, "");
    let gateway = Gateway::start(config);
    let checks = |result| {
        let labels = [("backend", "a"), ("result", result)];
        gateway.metric("lockgate_backend_health_checks_total", &labels)
    };

    http.set_status(500);
    let reason = gateway.await_state("a", "down")["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "5 checks in a row failed: status 500");
    assert!(checks("failed") >= 5.0);

    let before = checks("passed");
    http.set_status(200);
    let reason = gateway.await_state("a", "up")["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "4 checks in a row passed");
    assert!(checks("passed") >= before + 4.0);
}

#[test]
fn a_server_that_dies_between_two_checks_costs_no_connection() {
    let address = unused_address();
    let [a, mut b, c] = ["a", "b", "c"].map(Server::named);
    let config = Config::new(address)
        // Only the first check comes by itself.
        .pool(r#"health = { type = "tcp", interval = "1h", fast_interval = "1h" }"#)
        .backend(&a, "")
        .backend(&b, "")
        .backend(&c, "");
    let gateway = Gateway::start(config);

    for number in 0..200 {
        if number == 20 {
            b.kill();
        }
        let name = visit(address).unwrap();
        assert!(number < 20 || name != "b");
    }
    assert!(gateway.metric("lockgate_retries_total", &[("pool", "app")]) >= 1.0);
    let labels = [("backend", "b"), ("reason", "refused")];
    assert!(gateway.metric("lockgate_backend_connect_failures_total", &labels) >= 1.0);
    assert_eq!(gateway.backend("b")["effective_weight"], 0.0, "{}", gateway.backend("b"));
    let retried = |record: &serde_json::Value| record["attempts"] == 2;
    eventually("a record tells of the retry", || gateway.records().iter().any(retried));
}

#[test]
fn a_server_that_traffic_cannot_reach_is_left_alone_for_a_while() {
    let address = unused_address();
    let [a, mut b] = ["a", "b"].map(Server::named);
    let config = Config::new(address)
        .pool(r#"passive = { max_fails = 2, window = "1m", eject_for = "1s" }"#)
        .backend(&a, "")
        .backend(&b, "");
    let gateway = Gateway::start(config);
    assert_eq!(state(&gateway, "b").0, "unchecked");

    b.kill();
    let ejected = until("b is ejected", || {
        assert_eq!(visit(address).unwrap(), "a");
        let b = gateway.backend("b");
        (b["state"] == "ejected").then_some(b)
    });
    assert_eq!(ejected["effective_weight"], 0.0);
    assert!(ejected["reason"].as_str().unwrap().contains("2 failed connections"), "{ejected}");

    b.restart();
    gateway.await_state("b", "unchecked");
    assert!((0..4).any(|_| visit(address).unwrap() == "b"));
}

#[test]
fn checks_are_believed_of_a_server_that_traffic_has_ejected() {
    let address = unused_address();
    let [a, mut b] = ["a", "b"].map(Server::named);
    let port = free_port(a.ip()).port();
    let side = |of: &Server| Server::named_at("side", SocketAddr::new(of.ip(), port));
    let (_side_a, mut side_b) = (side(&a), side(&b));
    // Passing checks do not end the ejection before the test has seen it.
    let config = checked(address, &format!("type = \"tcp\", port = {port}, rise = 60000"))
        .pool(r#"passive = { max_fails = 1, window = "1m", eject_for = "1h" }"#)
        .backend(&a, "")
        .backend(&b, "");
    let gateway = Gateway::start(config);
    b.kill();
    until("b is ejected", || {
        assert_eq!(visit(address).unwrap(), "a");
        (state(&gateway, "b").0 == "ejected").then_some(())
    });
    side_b.kill();
    let reason = gateway.await_state("b", "down")["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "3 checks in a row failed: connection refused");
}

#[test]
fn traffic_ejects_no_more_than_allowed_and_never_the_last() {
    let address = unused_address();
    let mut servers = ["a", "b", "c", "d"].map(Server::named);
    let config = Config::new(address)
        .pool("retries = 5")
        .pool(r#"passive = { max_fails = 1, eject_for = "1h", max_ejected = 50 }"#);
    let config = servers.iter().fold(config, |config, server| config.backend(server, ""));
    let gateway = Gateway::start(config);
    servers[..3].iter_mut().for_each(Server::kill);

    assert!((0..40).all(|_| visit(address).unwrap() == "d"));
    let states = ["a", "b", "c", "d"].map(|name| state(&gateway, name).0);
    let ejected = states.iter().filter(|state| *state == "ejected").count();
    assert_eq!(ejected, 2, "{states:?}");
}

#[test]
fn a_sick_server_never_gets_a_connection() {
    let address = unused_address();
    let (sick, well) = (Http::new(503), Http::new(200));
    let (a, b) = (sick.serve("sick"), well.serve("well"));
    let config = checked(address, r#"type = "http""#).backend(&a, "").backend(&b, "");
    let gateway = Launch::new(config).start_unready();

    // As soon as somebody listens.
    let mut first = until("the listener is open", || connect(address).ok());
    first.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("well"), "{answer}");
    for _ in 0..50 {
        let answer = fetch(connect(address).unwrap(), "GET", "/").unwrap();
        assert_eq!(answer, (200, "well".to_owned()));
    }
    assert_eq!(state(&gateway, "sick"), ("down".into(), "first check failed: status 503".into()));
    assert_eq!(gateway.backend("sick")["connections_total"], 0);
}
