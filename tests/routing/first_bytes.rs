//! Clients that are told apart by the first bytes that they send, or by sending none.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ClientConfig;

use super::{Keeper, listener, pool_of, route};
use crate::harness::hello::{asking, captured};
use crate::harness::tls::credulous;
use crate::harness::{
    Ending, Gateway, Noise, Server, connect, connect_from, ending, eventually, greeting, reset,
    unused_address,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n";
const PROXY: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 258 443\r\n";
const PROXY_V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02\x01\x02\x01\xbb";

/// Nobody waits for that in a test: what is decided is decided without it.
const NEVER: &str = "first_bytes_timeout = \"1h\"\nclient_timeout = \"1h\"";

/// Both protocols that have such routes.
const PROTOCOLS: [&str; 2] = ["tcp", "tls_passthrough"];

/// What a client says, and what that is.
fn said() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("tls", captured("openssl-tls13")),
        ("tls", captured("rustls-hybrid")),
        ("tls", captured("python-no-name")),
        ("http", REQUEST.into()),
        ("http", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".into()),
        ("ssh", SSH.into()),
        ("proxy", PROXY.into()),
        ("proxy", PROXY_V2.into()),
        ("other", b"\0\0\0\x08\x04\xd2\x16\x2f".into()),
        ("other", b"EHLO a.example.com\r\n".into()),
        ("other", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80".into()),
        ("other", b"\x15\x03\x01\x00\x02\x02\x28".into()),
    ]
}

/// Keepers of the names of all kinds but silence, and a listener that sends each kind to its own.
fn each_to_its_own(protocol: &str, lines: &str) -> (SocketAddr, Vec<Keeper>, String) {
    let address = unused_address();
    let keepers: Vec<_> = ["tls", "http", "ssh", "proxy", "other"].map(Keeper::new).into();
    let mut config = listener(address, protocol, lines);
    for keeper in &keepers {
        let name = keeper.server.name();
        config += &route(&format!("first_bytes = [\"{name}\"]"), name);
    }
    config.extend(keepers.iter().map(|keeper| pool_of(&keeper.server)));
    (address, keepers, config)
}

fn keeper<'a>(keepers: &'a [Keeper], name: &str) -> &'a Keeper {
    keepers.iter().find(|keeper| keeper.server.name() == name).unwrap()
}

/// Says it all, in pieces of this size, and returns the client's address and who has heard it.
fn say(address: SocketAddr, bytes: &[u8], piece: usize) -> (SocketAddr, String) {
    let mut client = connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    for piece in bytes.chunks(piece) {
        client.write_all(piece).unwrap();
        // For the gateway to see them one by one.
        thread::yield_now();
    }
    client.shutdown(Shutdown::Write).unwrap();
    let mut name = String::new();
    client.read_to_string(&mut name).unwrap();
    (client.local_addr().unwrap(), name.trim_end().to_owned())
}

#[test]
fn each_kind_arrives_unaltered_however_it_came() {
    for protocol in PROTOCOLS {
        let (address, keepers, config) = each_to_its_own(protocol, NEVER);
        let gateway = Gateway::start(config);
        for (kind, mut bytes) in said() {
            for more in [0, 5_000, 300_000] {
                // What follows at once is part of it.
                Noise::new(1).write(&mut bytes, more).unwrap();
                for piece in [usize::MAX, 700, 1] {
                    if piece == 1 && more > 0 {
                        continue;
                    }
                    let (client, name) = say(address, &bytes, piece);
                    assert_eq!(name, kind, "{protocol}, in pieces of {piece}");
                    let heard = keeper(&keepers, kind).heard();
                    assert!(heard == bytes, "{protocol}: {kind} was altered, in pieces of {piece}");
                    let record = gateway.record_of(client);
                    assert_eq!(
                        (&record["pool"], &record["reason"]),
                        (&kind.into(), &"closed".into())
                    );
                    assert_eq!(record["bytes_in"], bytes.len(), "{record}");
                }
            }
        }
    }
}

#[test]
fn a_client_that_waits_gets_the_server_that_speaks_first() {
    for protocol in PROTOCOLS {
        let (mail, web) = (Server::named("mail"), Server::named("web"));
        let address = unused_address();
        let config = [
            listener(address, protocol, "first_bytes_timeout = \"200ms\""),
            route(r#"first_bytes = ["http", "tls"]"#, "web"),
            route(r#"first_bytes = ["none"]"#, "mail"),
            pool_of(&mail),
            pool_of(&web),
        ];
        let gateway = Gateway::start(config.concat());
        let mut client = connect(address).unwrap();
        assert_eq!(greeting(&mut client).unwrap(), "mail");
        let record = || gateway.record_of(client.local_addr().unwrap());
        client.shutdown(Shutdown::Write).unwrap();
        assert!(record()["duration_ms"].as_f64().unwrap() >= 200.0, "{}", record());
        // One that speaks does not have to wait.
        let mut client = connect(address).unwrap();
        client.write_all(REQUEST).unwrap();
        assert_eq!(greeting(&mut client).unwrap(), "web");
        // One that says something else has no place here.
        let mut client = connect(address).unwrap();
        client.write_all(SSH).unwrap();
        assert_eq!(ending(&mut client), Ending::Reset);
        let record = gateway.record_of(client.local_addr().unwrap());
        assert_eq!(record["reason"], "no_route", "{protocol}: {record}");
        assert_eq!(record["attempts"], 0, "{protocol}: {record}");
    }
}

#[test]
fn a_client_that_has_ended_is_not_waited_for() {
    for protocol in PROTOCOLS {
        let (silent, rest) = (Keeper::new("silent"), Keeper::new("rest"));
        let address = unused_address();
        let config = [
            listener(address, protocol, &format!("{NEVER}\npool = \"rest\"")),
            route(r#"first_bytes = ["none"]"#, "silent"),
            pool_of(&silent.server),
            pool_of(&rest.server),
        ];
        let gateway = Gateway::start(config.concat());
        assert_eq!(say(address, b"", 1).1, "silent");
        assert_eq!(silent.heard(), b"");
        // The beginning of something is something.
        for begun in [&b"\x16\x03\x01"[..], b"GE", b"SSH", b"PROXY", b"\r\n\r\n"] {
            assert_eq!(say(address, begun, 1).1, "rest", "{protocol}: {begun:?}");
            assert_eq!(rest.heard(), begun);
        }
        // One that breaks off is gone.
        let client = connect(address).unwrap();
        let name = client.local_addr().unwrap();
        reset(client);
        assert_eq!(gateway.record_of(name)["reason"], "client_reset");
    }
}

#[test]
fn what_does_not_go_on_in_time_is_something_else() {
    for protocol in PROTOCOLS {
        let (address, keepers, config) =
            each_to_its_own(protocol, "first_bytes_timeout = \"300ms\"\nclient_timeout = \"30s\"");
        let gateway = Gateway::start(config);
        for (begun, rest) in [
            (&b"\x16\x03\x01\x02"[..], &b"\x00\x01\x00\x01\xfc\x03\x03"[..]),
            (b"GET / HT", b"TP/1.1\r\n\r\n"),
            (b"SSH", b"-2.0-x\r\n"),
            (b"PRO", b"XY UNKNOWN\r\n"),
        ] {
            let mut client = connect(address).unwrap();
            client.write_all(begun).unwrap();
            eventually("it is served", || {
                let active = keeper(&keepers, "other").server.open();
                active > 0
            });
            // Now that it is passed on, it has all the time it wants.
            client.write_all(rest).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(ending(&mut client), Ending::Fin, "{protocol}");
            assert_eq!(keeper(&keepers, "other").heard(), [begun, rest].concat());
            let record = gateway.record_of(client.local_addr().unwrap());
            assert_eq!(record["pool"], "other", "{protocol}: {record}");
        }
    }
}

#[test]
fn a_hello_has_more_time_once_it_has_begun() {
    let (address, keepers, config) = each_to_its_own(
        "tls_passthrough",
        "first_bytes_timeout = \"100ms\"\nclient_timeout = \"30s\"",
    );
    let gateway = Gateway::start(config);
    let hello = captured("openssl-tls13");
    let mut client = connect(address).unwrap();
    client.write_all(&hello[..6]).unwrap();
    thread::sleep(std::time::Duration::from_millis(300));
    client.write_all(&hello[6..]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut client), Ending::Fin);
    assert!(keeper(&keepers, "tls").heard() == hello);
    let record = gateway.record_of(client.local_addr().unwrap());
    assert!(record["server_name"].is_string(), "{record}");
}

#[test]
fn all_conditions_of_a_route_have_to_hold() {
    const NAMES: [&str; 6] = ["named", "deep", "any", "near", "plain", "rest"];
    let servers = NAMES.map(Server::named);
    let address = unused_address();
    let mut config = [
        listener(address, "tls_passthrough", &format!("{NEVER}\npool = \"rest\"")),
        route("first_bytes = [\"ssh\", \"http\"]\nclient = [\"127.0.9.0/24\"]", "near"),
        route(r#"first_bytes = ["ssh"]"#, "plain"),
        route("first_bytes = [\"tls\"]\nsni = [\"a.example.com\"]", "named"),
        route("sni = [\"**.example.com\"]\nalpn = [\"h2\"]", "deep"),
        route("sni = [\"*\"]\nclient = [\"127.0.9.0/24\"]", "any"),
        route("first_bytes = [\"tls\"]\nclient = [\"127.0.9.0/24\"]", "near"),
    ]
    .concat();
    config.extend(servers.iter().map(pool_of));
    let gateway = Gateway::start(config);
    let tls: ClientConfig = credulous(rustls::ALL_VERSIONS, &[]);
    let hello = |name: &str, protocols: &[&str]| asking(&tls, name, protocols);
    for (bytes, from, expected) in [
        (SSH.to_vec(), "127.0.9.1", "near"),
        (SSH.to_vec(), "127.0.8.1", "plain"),
        (REQUEST.to_vec(), "127.0.9.1", "near"),
        (REQUEST.to_vec(), "127.0.8.1", "rest"),
        (PROXY.to_vec(), "127.0.9.1", "rest"),
        (hello("a.example.com", &[]), "127.0.8.1", "named"),
        (hello("A.Example.com", &["h2"]), "127.0.9.1", "named"),
        (hello("b.example.com", &["h2"]), "127.0.8.1", "deep"),
        (hello("x.b.a.example.com", &["h2"]), "127.0.9.1", "deep"),
        (hello("x.b.a.example.com", &["http/1.1"]), "127.0.9.1", "any"),
        (hello("example.com", &["h2"]), "127.0.8.1", "rest"),
        (hello("anotherexample.com", &["h2"]), "127.0.8.1", "rest"),
        (hello("elsewhere.test", &[]), "127.0.9.1", "any"),
        (captured("openssl-no-name"), "127.0.9.1", "near"),
        (captured("curl-address"), "127.0.9.1", "near"),
        (captured("openssl-no-name"), "127.0.8.1", "rest"),
    ] {
        let mut client = connect_from(from.parse().unwrap(), address).unwrap();
        client.write_all(&bytes).unwrap();
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(greeting(&mut client).unwrap(), expected, "{shown:?} from {from}");
    }
    gateway.await_idle();
}

#[test]
fn routes_by_address_alone_wait_for_nothing() {
    let (near, rest) = (Server::named("near"), Server::named("rest"));
    let address = unused_address();
    let config = [
        listener(address, "tcp", &format!("{NEVER}\npool = \"rest\"")),
        route(r#"client = ["127.0.9.0/24"]"#, "near"),
        pool_of(&near),
        pool_of(&rest),
    ];
    let _gateway = Gateway::start(config.concat());
    for (from, expected) in [("127.0.9.1", "near"), ("127.0.8.1", "rest")] {
        let mut client = connect_from(from.parse().unwrap(), address).unwrap();
        assert_eq!(greeting(&mut client).unwrap(), expected);
    }
}

#[test]
fn headers_before_are_no_first_bytes_and_headers_behind_come_first() {
    for protocol in PROTOCOLS {
        for version in ["v1", "v2"] {
            let lines = format!("{NEVER}\naccept_proxy_from = [\"127.0.0.0/8\"]");
            let (address, keepers, mut config) = each_to_its_own(protocol, &lines);
            for keeper in &keepers {
                let (name, lines) = (keeper.server.name(), format!("send_proxy = \"{version}\""));
                config = config.replace(
                    &format!("[[pool.{name}."),
                    &format!("[pool.{name}]\n{lines}\n[[pool.{name}."),
                );
            }
            let _gateway = Gateway::start(config);
            for (kind, bytes) in said() {
                for (header, piece) in [(PROXY, usize::MAX), (PROXY_V2, usize::MAX), (PROXY, 1)] {
                    let (_, name) = say(address, &[header, &bytes].concat(), piece);
                    assert_eq!(name, kind, "{protocol} after a header");
                    let heard = keeper(&keepers, kind).heard();
                    let length = match version {
                        "v1" => PROXY.len(),
                        _ => 16 + usize::from(u16::from_be_bytes([heard[14], heard[15]])),
                    };
                    let (sent, rest) = heard.split_at(length);
                    match version {
                        "v1" => assert_eq!(sent, PROXY),
                        // The addresses; what is known of a client beside follows them.
                        _ => assert_eq!(
                            (&sent[..14], &sent[16..28]),
                            (&PROXY_V2[..14], &PROXY_V2[16..])
                        ),
                    }
                    assert!(rest == bytes, "{protocol}, {version}: {kind} was altered");
                }
            }
        }
    }
}

fn active(gateway: &Gateway) -> f64 {
    gateway.metric("lockgate_connections_active", &[("listener", "web")])
}

#[test]
fn a_client_is_routed_by_what_it_came_in_with() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    let address = unused_address();
    let config = |pool: &str, kind: &str| {
        [
            listener(address, "tcp", NEVER),
            route(&format!("first_bytes = [\"{kind}\"]"), pool),
            pool_of(&old),
            pool_of(&new),
        ]
        .concat()
    };
    let gateway = Gateway::start(config("old", "ssh"));
    let mut waiting = connect(address).unwrap();
    eventually("it waits", || active(&gateway) == 1.0);
    gateway.reload(config("new", "http"));
    waiting.write_all(SSH).unwrap();
    assert_eq!(greeting(&mut waiting).unwrap(), "old");
    let mut client = connect(address).unwrap();
    client.write_all(REQUEST).unwrap();
    assert_eq!(greeting(&mut client).unwrap(), "new");
}

#[test]
fn thousands_that_say_nothing_keep_nobody_waiting() {
    const CROWD: usize = 2_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let (address, keepers, config) = each_to_its_own("tcp", NEVER);
    let gateway = Gateway::start(format!("[runtime]\nworkers = 1\n{config}"));
    let crowd: Vec<TcpStream> = (0..CROWD).map(|_| connect(address).unwrap()).collect();
    eventually("all wait", || active(&gateway) == CROWD as f64);
    for (kind, bytes) in said() {
        assert_eq!(say(address, &bytes, usize::MAX).1, kind);
        assert!(keeper(&keepers, kind).heard() == bytes);
    }
    // Each of them is heard when it speaks.
    for mut client in crowd {
        client.write_all(SSH).unwrap();
        drop(client);
    }
    for _ in 0..CROWD {
        assert_eq!(keeper(&keepers, "ssh").heard(), SSH);
    }
    gateway.await_idle();
}

#[test]
fn explain_says_where_the_first_bytes_lead() {
    let (ssh, web) = (Server::named("ssh"), Server::named("web"));
    let address = unused_address();
    let config = [
        listener(address, "tcp", "pool = \"web\""),
        route(r#"first_bytes = ["ssh", "none"]"#, "ssh"),
        pool_of(&ssh),
        pool_of(&web),
    ];
    let gateway = Gateway::start(config.concat());
    let ask = |more: &str| {
        let body = gateway.get(&format!("/v1/explain?listener=web{more}"));
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    let told = ask("&first_bytes=none");
    assert_eq!((&told["pool"], &told["first_bytes"]), (&"ssh".into(), &"none".into()), "{told}");
    assert_eq!(told["rule"], "route 1 (first_bytes = ssh, none)", "{told}");
    let told = ask("&first_bytes=http");
    assert_eq!(
        (&told["pool"], &told["route"]),
        (&"web".into(), &serde_json::Value::Null),
        "{told}"
    );
    let told = ask("");
    assert_eq!(told["pool"], "web", "{told}");
    assert!(told["notes"][0].as_str().unwrap().contains("--first-bytes"), "{told}");
    for (wrong, said) in [
        ("shh", "did you mean 'ssh'?"),
        ("x", "one of tls, http"),
        ("ssh&sni=a.test", "only 'tls' has"),
    ] {
        let path = format!("/v1/explain?listener=web&first_bytes={wrong}");
        let (status, body) = gateway.request("GET", &path).unwrap();
        assert_eq!(status, 400, "{body}");
        assert!(body.contains(said), "{body}");
    }
}
