//! What comes to a `tls_passthrough` listener and is no ClientHello, or none with a name: refused,
//! or a default pool's, and counted apart.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::Duration;

use super::{Keeper, listener, pool_of, route};
use crate::harness::hello::{captured, padded, rewrapped};
use crate::harness::{
    Ending, Gateway, PATIENCE, Server, connect, connect_from, ending, eventually, reset,
    unused_address,
};

const PROTOCOL: &str = "tls_passthrough";

const RESULTS: [&str; 7] =
    ["named", "no_sni", "not_tls", "malformed", "too_large", "too_slow", "cut"];

/// What a client says first, what it counts as, and why it is refused where nobody wants it.
struct Case {
    what: &'static str,
    bytes: Vec<u8>,
    /// Nothing follows it.
    ended: bool,
    result: &'static str,
    reason: &'static str,
}

fn case(what: &'static str, bytes: impl Into<Vec<u8>>, result: &'static str) -> Case {
    let reason = if result == "no_sni" { "no_route" } else { "bad_client_hello" };
    Case { what, bytes: bytes.into(), ended: false, result, reason }
}

/// A hello with some of its bytes replaced.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut hello = captured("rustls-hybrid");
    hello[at..at + bytes.len()].copy_from_slice(bytes);
    hello
}

fn cases() -> Vec<Case> {
    let hybrid = || captured("rustls-hybrid");
    let cut = |what, bytes: &[u8]| Case { ended: true, ..case(what, bytes, "cut") };
    vec![
        case("no name, by Python", captured("python-no-name"), "no_sni"),
        case("no name, by OpenSSL", captured("openssl-no-name"), "no_sni"),
        case("an address as a name", captured("curl-address"), "no_sni"),
        case("HTTP", *b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n", "not_tls"),
        case("SSH", *b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "not_tls"),
        case("SSL 2", *b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80", "not_tls"),
        case("one byte", [0], "not_tls"),
        case("an alert", [21, 3, 1, 0, 2, 2, 40], "not_tls"),
        case("a ServerHello", with(5, &[2]), "malformed"),
        case("a session id that is too long", with(43, &[33]), "malformed"),
        case("a record that is too long", with(3, &[0x40, 1]), "malformed"),
        case("an empty record", [22, 3, 1, 0, 0], "malformed"),
        case(
            "another record between two parts",
            [&rewrapped(&hybrid(), 100)[..105], &[23, 3, 3, 0, 1, 0]].concat(),
            "malformed",
        ),
        case("a length beyond the limit", with(6, &[0, 0xff, 0xff]), "too_large"),
        case("16 MiB", with(6, &[0xff, 0xff, 0xff]), "too_large"),
        case("many small records", &padded(20_000, 1)[..64 << 10], "too_large"),
        cut("nothing", &[]),
        cut("a byte", &hybrid()[..1]),
        cut("a header", &hybrid()[..5]),
        cut("all but a byte", &hybrid()[..hybrid().len() - 1]),
        cut("half of many records", &rewrapped(&hybrid(), 7)[..1000]),
    ]
}

/// Asserts that exactly so many hellos were counted as each result.
#[track_caller]
fn counted(gateway: &Gateway, expected: impl Fn(&str) -> usize) {
    for result in RESULTS {
        let labels = [("listener", "web"), ("result", result)];
        let found = gateway.metric("lockgate_client_hellos_total", &labels);
        assert_eq!(found, expected(result) as f64, "{result}");
    }
}

#[test]
fn refused_without_a_default_pool() {
    let app = Server::named("app");
    let address = unused_address();
    let lines = listener(address, PROTOCOL, "");
    let route = route(r#"sni = ["app.example.com"]"#, "app");
    let gateway = Gateway::start([lines, route, pool_of(&app)].concat());
    let cases = cases();
    for case in &cases {
        let what = case.what;
        let mut client = connect(address).unwrap();
        client.write_all(&case.bytes).unwrap();
        if case.ended {
            client.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(ending(&mut client), Ending::Reset, "{what}");
        let record = gateway.record_of(client.local_addr().unwrap());
        assert_eq!(record["reason"], case.reason, "{what}: {record}");
        assert!(record["server_name"].is_null() && record["pool"].is_null(), "{what}: {record}");
        assert_eq!((&record["attempts"], &record["bytes_in"]), (&0.into(), &0.into()), "{what}");
    }
    counted(&gateway, |result| cases.iter().filter(|case| case.result == result).count());
    assert_eq!(app.accepted(), 0);
}

#[test]
fn unaltered_to_the_default_pool() {
    let (app, rest) = (Server::named("app"), Keeper::new("rest"));
    let address = unused_address();
    let config = [
        listener(address, PROTOCOL, "pool = \"rest\""),
        route(r#"sni = ["app.example.com"]"#, "app"),
        pool_of(&app),
        pool_of(&rest.server),
    ];
    let gateway = Gateway::start(config.concat());
    let cases = cases();
    for case in &cases {
        let what = case.what;
        let mut client = connect(address).unwrap();
        client.write_all(&case.bytes).unwrap();
        if !case.ended {
            client.write_all(b"and more").unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ending(&mut client), Ending::Fin, "{what}");
        let more: &[u8] = if case.ended { b"" } else { b"and more" };
        assert!(rest.heard() == [&case.bytes, more].concat(), "{what}: something was altered");
        let record = gateway.record_of(client.local_addr().unwrap());
        assert_eq!((&record["reason"], &record["pool"]), (&"closed".into(), &"rest".into()));
        assert!(record["server_name"].is_null(), "{what}: {record}");
    }
    counted(&gateway, |result| cases.iter().filter(|case| case.result == result).count());
    assert_eq!(app.accepted(), 0);
}

#[test]
fn by_their_address_alone_where_a_route_asks_for_nothing_else() {
    let (app, near) = (Server::named("app"), Keeper::new("near"));
    let address = unused_address();
    let config = [
        listener(address, PROTOCOL, ""),
        route("sni = [\"app.example.com\"]\nclient = [\"127.0.0.0/8\"]", "app"),
        route(r#"client = ["127.0.11.0/24"]"#, "near"),
        pool_of(&app),
        pool_of(&near.server),
    ];
    let gateway = Gateway::start(config.concat());
    let bytes = b"SSH-2.0-OpenSSH_9.2p1\r\n";
    for (from, at_home) in [("127.0.11.7", true), ("127.0.12.7", false)] {
        let mut client = connect_from(from.parse().unwrap(), address).unwrap();
        client.write_all(bytes).unwrap();
        if at_home {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(ending(&mut client), Ending::Fin);
            assert_eq!(near.heard(), bytes);
        } else {
            assert_eq!(ending(&mut client), Ending::Reset);
        }
    }
    gateway.await_records(1, "bad_client_hello");
    counted(&gateway, |result| if result == "not_tls" { 2 } else { 0 });
    assert_eq!(app.accepted(), 0);
}

/// A gateway whose clients have little time, and which sends those that are too slow to `rest`
/// if there is one.
fn hasty(app: &Server, rest: Option<&Server>, time: &str) -> (Gateway, SocketAddr) {
    let address = unused_address();
    let pool = rest.map(|rest| format!("pool = \"{}\"", rest.name())).unwrap_or_default();
    let mut config = listener(address, PROTOCOL, &format!("client_timeout = \"{time}\"\n{pool}"));
    config += &route(r#"sni = ["app.example.com"]"#, app.name());
    config.extend([Some(app), rest].into_iter().flatten().map(pool_of));
    (Gateway::start(config), address)
}

/// The beginnings of a hello after which nothing comes for too long.
fn beginnings() -> [Vec<u8>; 4] {
    let hello = captured("rustls-hybrid");
    [
        vec![],
        hello[..1].to_vec(),
        hello[..hello.len() - 1].to_vec(),
        rewrapped(&hello, 7)[..900].to_vec(),
    ]
}

#[test]
fn slow_ones_are_refused_without_a_default_pool() {
    let app = Server::named("app");
    let (gateway, address) = hasty(&app, None, "500ms");
    for bytes in beginnings() {
        let mut client = connect(address).unwrap();
        client.write_all(&bytes).unwrap();
        assert_eq!(ending(&mut client), Ending::Reset);
        let record = gateway.record_of(client.local_addr().unwrap());
        assert_eq!(record["reason"], "client_timeout", "{record}");
        assert!(record["duration_ms"].as_f64().unwrap() >= 500.0, "{record}");
        assert!(record["pool"].is_null() && record["server_name"].is_null(), "{record}");
    }
    counted(&gateway, |result| if result == "too_slow" { 4 } else { 0 });
    assert_eq!(app.accepted(), 0);
}

#[test]
fn slow_ones_go_unaltered_to_the_default_pool() {
    let (app, rest) = (Server::named("app"), Keeper::new("rest"));
    let (gateway, address) = hasty(&app, Some(&rest.server), "500ms");
    for (count, bytes) in beginnings().into_iter().enumerate() {
        let mut client = connect(address).unwrap();
        client.write_all(&bytes).unwrap();
        eventually("it is found too slow", || {
            let labels = [("listener", "web"), ("result", "too_slow")];
            gateway.metric("lockgate_client_hellos_total", &labels) == (count + 1) as f64
        });
        // Now that it is passed on, it has all the time it wants, and anything to say.
        client.write_all(b"at last").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ending(&mut client), Ending::Fin);
        assert!(rest.heard() == [&bytes[..], b"at last"].concat());
        let record = gateway.record_of(client.local_addr().unwrap());
        assert_eq!((&record["reason"], &record["pool"]), (&"closed".into(), &"rest".into()));
        assert!(record["duration_ms"].as_f64().unwrap() >= 500.0, "{record}");
    }
    counted(&gateway, |result| if result == "too_slow" { 4 } else { 0 });
    assert_eq!(app.accepted(), 0);
}

#[test]
fn a_byte_now_and_then_is_given_no_more_time() {
    let app = Server::named("app");
    let (gateway, address) = hasty(&app, None, "1s");
    let mut client = connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    // Two minutes' worth of them.
    for byte in padded(6000, 1 << 14) {
        if client.write_all(&[byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    ending(&mut client);
    let record = gateway.record_of(client.local_addr().unwrap());
    assert_eq!(record["reason"], "client_timeout", "{record}");
    assert!(record["duration_ms"].as_f64().unwrap() < PATIENCE.as_secs_f64() * 1e3, "{record}");
    counted(&gateway, |result| if result == "too_slow" { 1 } else { 0 });
}

#[test]
fn clients_that_break_off_are_recorded_as_that() {
    let app = Server::named("app");
    let (gateway, address) = hasty(&app, None, "30s");
    for length in [0, 1, 700] {
        let mut client = connect(address).unwrap();
        client.write_all(&captured("rustls-hybrid")[..length]).unwrap();
        let name = client.local_addr().unwrap();
        reset(client);
        assert_eq!(gateway.record_of(name)["reason"], "client_reset");
    }
    counted(&gateway, |_| 0);
    gateway.await_idle();
}

#[test]
fn a_backend_that_nobody_reaches() {
    let mut app = Server::named("app");
    let (gateway, address) = hasty(&app, None, "10s");
    app.kill();
    let mut client = connect(address).unwrap();
    client.write_all(&captured("rustls-hybrid")).unwrap();
    assert_eq!(ending(&mut client), Ending::Reset);
    let record = gateway.record_of(client.local_addr().unwrap());
    assert_eq!(record["reason"], "connect_failed", "{record}");
    assert_eq!(record["server_name"], "app.example.com", "{record}");
    counted(&gateway, |result| if result == "named" { 1 } else { 0 });
}
