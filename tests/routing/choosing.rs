//! Which pool a client gets, by the name that it asks for, what it offers and where it comes from.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};

use rustls::{ClientConfig, StreamOwned};
use serde_json::Value;

use super::{listener, pool_of, route};
use crate::harness::hello::asking;
use crate::harness::tls::{Authority, Store, begin, credulous, finish_handshake, greeting_tls};
use crate::harness::{Ending, Gateway, Server, connect_from, ending, greeting, unused_address};

/// Who asks for what from where, and who serves it.
type Case = (Option<&'static str>, &'static [&'static str], &'static str, &'static str);

/// The first that matches wins, and has all of its conditions met. None leads to `rest`.
fn routes() -> String {
    [
        route("sni = [\"admin.example.com\"]\nclient = [\"127.0.9.0/24\", \"::1\"]", "near"),
        route("sni = [\"*.example.com\"]\nalpn = [\"h2\", \"h3\"]", "quick"),
        route(r#"sni = ["admin.example.com", "*.internal.example.com"]"#, "named"),
        route(r#"client = ["127.0.10.128/25"]"#, "net"),
        // Never before the ones above.
        route(r#"sni = ["x.internal.example.com"]"#, "near"),
        route(r#"alpn = ["acme-tls/1"]"#, "quick"),
    ]
    .concat()
}

const CASES: [Case; 20] = [
    (Some("admin.example.com"), &[], "127.0.9.1", "near"),
    (Some("admin.example.com"), &["h2"], "127.0.9.255", "near"),
    (Some("admin.example.com"), &["h2"], "127.0.8.255", "quick"),
    (Some("admin.example.com"), &["http/1.1", "h2"], "127.0.10.0", "quick"),
    (Some("ADMIN.Example.com"), &["http/1.1"], "127.0.10.0", "named"),
    (Some("any.example.com"), &["h3"], "127.0.8.1", "quick"),
    (Some("any.example.com"), &["h"], "127.0.8.1", "rest"),
    (Some("any.example.com"), &["H2", "h22"], "127.0.8.1", "rest"),
    (Some("any.example.com"), &[], "127.0.9.1", "rest"),
    // A star is one label: neither two nor none.
    (Some("x.internal.example.com"), &["h2"], "127.0.8.1", "named"),
    (Some("a.b.internal.example.com"), &["h2"], "127.0.8.1", "rest"),
    (Some("internal.example.com"), &["h2"], "127.0.8.1", "quick"),
    (Some("internal.example.com"), &[], "127.0.8.1", "rest"),
    (Some("example.com"), &["h2"], "127.0.8.1", "rest"),
    (Some("admin.example.com.evil.test"), &["h2"], "127.0.9.1", "rest"),
    (Some("anywhere.test"), &[], "127.0.10.128", "net"),
    (Some("anywhere.test"), &["acme-tls/1"], "127.0.10.127", "quick"),
    (None, &["h2"], "127.0.10.255", "net"),
    (None, &["acme-tls/1"], "127.0.10.1", "quick"),
    (None, &["h2"], "127.0.10.1", "rest"),
];

/// A gateway with [`routes`], between servers that greet.
struct Crossing {
    gateway: Gateway,
    address: SocketAddr,
    servers: Vec<Server>,
    _store: Store,
}

impl Crossing {
    /// With this line for those whom no route matches.
    fn new(protocol: &str, otherwise: &str) -> Self {
        let (address, store) = (unused_address(), Store::new());
        let servers = ["near", "quick", "named", "net", "rest"].map(Server::named);
        let mut config = listener(address, protocol, otherwise);
        if protocol == "tls" {
            let files = store.put("site", &Authority::new("a").issue(&["example.com"]));
            let pair = format!("{{ cert = {:?}, key = {:?} }}", files.cert, files.key);
            // One that every client has something of.
            let protocols = r#"["acme-tls/1", "h22", "h2", "h3", "h", "http/1.1"]"#;
            config += &format!("[listener.tls]\ncertificates = [{pair}]\nalpn = {protocols}\n");
        }
        config += &routes();
        config.extend(servers.iter().map(pool_of));
        let gateway = Gateway::start(config);
        Self { gateway, address, servers: servers.into(), _store: store }
    }

    /// The record of a client that was refused for want of a route.
    #[track_caller]
    fn turned_away(&self, client: SocketAddr, name: Option<&str>) -> Value {
        let record = self.gateway.record_of(client);
        assert_eq!(record["reason"], "no_route", "{record}");
        assert!(record["pool"].is_null() && record["backend"].is_null(), "{record}");
        assert_eq!(record["attempts"], 0, "{record}");
        let name = name.map(str::to_ascii_lowercase);
        assert_eq!(record["server_name"].as_str(), name.as_deref(), "{record}");
        record
    }

    fn of(&self, name: &str) -> &Server {
        self.servers.iter().find(|server| server.name() == name).unwrap()
    }
}

/// A client that offers these protocols.
fn client(name: Option<&str>, protocols: &[&str]) -> ClientConfig {
    let mut config = credulous(rustls::ALL_VERSIONS, &[]);
    config.enable_sni = name.is_some();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

const UNSENT: &str = "unsent.test";

fn source(from: &str) -> IpAddr {
    from.parse().unwrap()
}

#[test]
fn first_match_wins_where_tls_is_passed_on() {
    let crossing = Crossing::new("tls_passthrough", "pool = \"rest\"");
    for case @ (name, protocols, from, expected) in CASES {
        let hello = asking(&client(name, &[]), name.unwrap_or(UNSENT), protocols);
        let mut socket = connect_from(source(from), crossing.address).unwrap();
        socket.write_all(&hello).unwrap();
        assert_eq!(greeting(&mut socket).unwrap(), expected, "{case:?}");
    }
}

#[test]
fn first_match_wins_where_tls_ends() {
    let crossing = Crossing::new("tls", "pool = \"rest\"");
    for case @ (name, protocols, from, expected) in CASES {
        let socket = connect_from(source(from), crossing.address).unwrap();
        let conn = begin(&client(name, protocols), name.unwrap_or(UNSENT));
        let mut stream = StreamOwned::new(conn, socket);
        finish_handshake(&mut stream).unwrap();
        assert_eq!(greeting_tls(&mut stream).unwrap(), expected, "{case:?}");
    }
}

#[test]
fn no_route_where_tls_is_passed_on() {
    let crossing = Crossing::new("tls_passthrough", "");
    for case @ (name, protocols, from, expected) in CASES {
        let hello = asking(&client(name, &[]), name.unwrap_or(UNSENT), protocols);
        let mut socket = connect_from(source(from), crossing.address).unwrap();
        socket.write_all(&hello).unwrap();
        if expected == "rest" {
            assert_eq!(ending(&mut socket), Ending::Reset, "{case:?}");
            crossing.turned_away(socket.local_addr().unwrap(), name);
        } else {
            assert_eq!(greeting(&mut socket).unwrap(), expected, "{case:?}");
        }
    }
    let labels = [("listener", "web"), ("reason", "no_route")];
    assert_eq!(crossing.gateway.metric("lockgate_connections_closed_total", &labels), 8.0);
    assert_eq!(crossing.of("rest").accepted(), 0);
}

#[test]
fn no_route_where_tls_ends() {
    let crossing = Crossing::new("tls", "");
    let unrouted = [(Some("any.example.com"), "127.0.9.1"), (None, "127.0.10.1")];
    for (name, from) in unrouted {
        let socket = connect_from(source(from), crossing.address).unwrap();
        let address = socket.local_addr().unwrap();
        let mut stream =
            StreamOwned::new(begin(&client(name, &["h"]), name.unwrap_or(UNSENT)), socket);
        let read = finish_handshake(&mut stream).and_then(|()| greeting_tls(&mut stream));
        // An end in order would be an empty answer.
        let error = read.expect_err("there is nobody to greet");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        crossing.turned_away(address, name);
    }
    let labels = [("listener", "web"), ("reason", "no_route")];
    assert_eq!(crossing.gateway.metric("lockgate_connections_closed_total", &labels), 2.0);
    let handshakes = [("listener", "web")];
    assert_eq!(crossing.gateway.metric("lockgate_tls_handshakes_total", &handshakes), 2.0);
    assert!(crossing.servers.iter().all(|server| server.accepted() == 0));
    // The others have their routes.
    let from = source("127.0.10.200");
    let socket = connect_from(from, crossing.address).unwrap();
    let mut stream = StreamOwned::new(begin(&client(None, &[]), UNSENT), socket);
    finish_handshake(&mut stream).unwrap();
    assert_eq!(greeting_tls(&mut stream).unwrap(), "net");
}

#[test]
fn a_reload_changes_routes_for_those_who_come() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let address = unused_address();
    let config = |pool: &str| {
        let lines = listener(address, "tls_passthrough", "");
        let route = route(r#"sni = ["www.example.com"]"#, pool);
        [lines, route, pool_of(&one), pool_of(&two)].concat()
    };
    let gateway = Gateway::start(config("one"));
    let name = "www.example.com";
    let hello = asking(&client(Some(name), &[]), name, &[]);
    let visit = || {
        let mut socket = connect_from(source("127.0.0.1"), address).unwrap();
        socket.write_all(&hello).unwrap();
        let name = greeting(&mut socket).unwrap();
        (socket, name)
    };
    let (mut before, name) = visit();
    assert_eq!(name, "one");
    gateway.reload(config("two"));
    assert_eq!(visit().1, "two");
    // Who was there stays where it is.
    before.write_all(b"still here").unwrap();
    before.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut before), Ending::Fin);
    let record = gateway.record_of(before.local_addr().unwrap());
    assert_eq!((&record["pool"], &record["reason"]), (&"one".into(), &"closed".into()));
}
