//! Headers that are sent to backends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex};

use rustls::{ServerConnection, StreamOwned};

use super::{ANNOUNCED, BODY_V4, SIGNATURE, rest, saying, v1};
use crate::harness::behind::offering;
use crate::harness::tls::{Authority, Store, begin, finish_handshake};
use crate::harness::{Config, Gateway, Server, connect, eventually, unused_address};

fn line(client: SocketAddr, server: SocketAddr) -> String {
    let (from, to) = (client.port(), server.port());
    format!("PROXY TCP4 {} {} {from} {to}\r\n", client.ip(), server.ip())
}

/// What each connection of a server has received with its first read.
type First = Arc<Mutex<Vec<Vec<u8>>>>;

/// A server that notes what it reads first, answers, and reads on.
fn noting(name: &str) -> (Server, First) {
    let first = First::default();
    let noted = Arc::clone(&first);
    let server = Server::with(name, move |mut stream| {
        let mut buffer = vec![0; 64 << 10];
        let received = stream.read(&mut buffer)?;
        noted.lock().unwrap().push(buffer[..received].to_vec());
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    });
    (server, first)
}

/// What follows the addresses: kinds and values.
fn parts(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut parts = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, next) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        parts.push((*kind, value.to_vec()));
        bytes = next;
    }
    parts
}

#[test]
fn backends_are_told_whom_a_connection_is_from() {
    let echo = Server::echo();
    let address = unused_address();
    let pool = |version: &str| {
        let lines = format!("send_proxy = \"{version}\"");
        Config::new(address).runtime("workers = 1").pool(&lines).backend(&echo, "")
    };
    let gateway = Gateway::start(pool("v1"));
    let stream = saying(address, b"hello");
    let own = stream.local_addr().unwrap();
    let expected = format!("{}hello", line(own, address));
    assert_eq!(String::from_utf8(rest(stream).unwrap()).unwrap(), expected);
    // The header is none of the client's bytes.
    assert_eq!(gateway.record_of(own)["bytes_in"], 5);
    // Who says nothing is announced all the same.
    let mut silent = connect(address).unwrap();
    let expected = line(silent.local_addr().unwrap(), address);
    let mut received = vec![0; expected.len()];
    silent.read_exact(&mut received).unwrap();
    assert_eq!(String::from_utf8(received).unwrap(), expected);

    gateway.reload(pool("v2"));
    eventually("the new pool is in use", || {
        rest(saying(address, b"hello")).unwrap().starts_with(SIGNATURE)
    });
    let stream = saying(address, b"hello");
    let SocketAddr::V4(own) = stream.local_addr().unwrap() else { panic!("IPv4") };
    let SocketAddr::V4(to) = address else { panic!("IPv4") };
    let received = rest(stream).unwrap();
    let (header, payload) = received.split_at(16 + 12 + 7);
    assert_eq!(payload, b"hello");
    let addresses = [
        &own.ip().octets()[..],
        &to.ip().octets(),
        &own.port().to_be_bytes(),
        &to.port().to_be_bytes(),
    ];
    assert_eq!(header[..16], [SIGNATURE, &[0x21, 0x11, 0, 19]].concat());
    assert_eq!(header[16..28], addresses.concat());
    assert_eq!(parts(&header[28..])[0].0, 3, "a checksum");
}

/// What one proxy says goes on to the next.
#[test]
fn what_was_announced_is_announced() {
    let echo = Server::echo();
    let address = unused_address();
    let config = Config::new(address)
        .listener("accept_proxy_from = [\"127.0.0.0/8\"]")
        .pool("send_proxy = \"v2\"")
        .runtime("workers = 1")
        .backend(&echo, "");
    let gateway = Gateway::start(&config);
    let received = rest(saying(address, &[&v1()[..], b"hello"].concat())).unwrap();
    assert_eq!(received[16..28], BODY_V4);
    assert!(received.ends_with(b"hello"));
    gateway.reload(config.to_string().replace("\"v2\"", "\"v1\""));
    eventually("the new pool is in use", || rest(saying(address, &v1())).unwrap() == v1());
    // The proxy's own connection has the addresses of its socket.
    let stream = saying(address, b"PROXY UNKNOWN\r\n");
    let expected = line(stream.local_addr().unwrap(), address);
    assert_eq!(rest(stream).unwrap(), expected.as_bytes());
    let six = "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
    assert_eq!(rest(saying(address, six.as_bytes())).unwrap(), six.as_bytes());
}

#[test]
fn the_header_and_the_first_bytes_leave_together() {
    let (server, first) = noting("a");
    let address = unused_address();
    let config = Config::new(address)
        .listener("accept_proxy_from = [\"127.0.0.0/8\"]")
        .pool("send_proxy = \"v1\"")
        .backend(&server, "");
    let _gateway = Gateway::start(config);
    let said = [&v1()[..], &[b'x'; 1_000]].concat();
    let held: Vec<_> = (0..20).map(|_| saying(address, &said)).collect();
    eventually("all are served", || first.lock().unwrap().len() == held.len());
    assert!(first.lock().unwrap().iter().all(|first| *first == said));
}

#[test]
fn another_backend_gets_the_header_again() {
    let echo = Server::echo();
    let (mut gone, address) = (Server::named("gone"), unused_address());
    gone.kill();
    let config = Config::new(address)
        .pool("send_proxy = \"v1\"")
        .backend(&gone, "weight = 60000")
        .backend(&echo, "weight = 1");
    let gateway = Gateway::start(config);
    for _ in 0..5 {
        let stream = saying(address, b"hello");
        let own = stream.local_addr().unwrap();
        let expected = format!("{}hello", line(own, address));
        assert_eq!(String::from_utf8(rest(stream).unwrap()).unwrap(), expected);
        assert_eq!(gateway.record_of(own)["reason"], "closed");
    }
    assert!(gateway.metric("lockgate_retries_total", &[("pool", "app")]) >= 1.0);
}

/// A lot of data after the header, both ways.
#[test]
fn what_follows_the_header_is_whole() {
    let echo = Server::echo();
    let address = unused_address();
    let config = Config::new(address).pool("send_proxy = \"v2\"").backend(&echo, "");
    let _gateway = Gateway::start(config);
    let payload: Vec<u8> =
        (0..4u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stream = connect(address).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sent = payload.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    assert!(received[16 + 12 + 7..] == payload, "{} bytes", received.len());
}

#[test]
fn backends_are_told_what_is_known_of_tls() {
    let (server, first) = noting("a");
    let (authority, store, name) = (Authority::new("authority"), Store::new(), "site.test");
    let files = store.put("site", &authority.issue(&[name]));
    let ca = store.file("ca.pem", authority.pem());
    let address = unused_address();
    let tls = format!("alpn = [\"h2\"]\nclient_auth = \"optional\"\nclient_ca = {ca:?}");
    let config = Config::new(address).tls(&[&files], &tls).pool("send_proxy = \"v2\"");
    let _gateway = Gateway::start(config.backend(&server, ""));

    let someone = authority.issue_as(&["someone"], crate::harness::tls::Kind::Ecdsa, |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "Someone Else");
    });
    let anonymous = authority.client();
    let identified = authority.client_of(rustls::ALL_VERSIONS, Some(&someone));
    let old = authority.client_of(&[&rustls::version::TLS12], Some(&someone));
    for (client, flags, verify, version, names) in [
        (&anonymous, 1, 1, "TLSv1.3", None),
        (&identified, 7, 0, "TLSv1.3", Some("Someone Else")),
        // Once more: the session goes on.
        (&identified, 5, 0, "TLSv1.3", Some("Someone Else")),
        (&old, 7, 0, "TLSv1.2", Some("Someone Else")),
        (&old, 5, 0, "TLSv1.2", Some("Someone Else")),
    ] {
        let mut config = client.clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut stream = StreamOwned::new(begin(&config, name), connect(address).unwrap());
        finish_handshake(&mut stream).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        // With the answer comes the ticket, if there was none.
        stream.read_exact(&mut [0; 10]).unwrap();
        let first = first.lock().unwrap().pop().unwrap();
        let length = 16 + usize::from(u16::from_be_bytes([first[14], first[15]]));
        let told = parts(&first[28..length]);
        let kinds: Vec<_> = told.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [1, 2, 0x20, 3]);
        assert_eq!((&*told[0].1, &*told[1].1), (&b"h2"[..], name.as_bytes()));
        let ssl = &told[2].1;
        assert_eq!(ssl[..5], [flags, 0, 0, 0, verify], "{version}");
        let mut expected = vec![(0x21, version.as_bytes().to_vec())];
        expected.extend(names.map(|name| (0x22, name.as_bytes().to_vec())));
        assert_eq!(parts(&ssl[5..]), expected);
    }
}

#[test]
fn the_header_comes_before_the_tls_of_a_backend() {
    let (authority, store) = (Authority::new("authority"), Store::new());
    let config = Arc::new(offering(&authority.issue(&["behind.test"]), rustls::ALL_VERSIONS));
    let server = Server::with("behind", move |mut stream| {
        let mut header = Vec::new();
        let mut byte = [0];
        while !header.ends_with(b"\r\n") {
            stream.read_exact(&mut byte)?;
            header.push(byte[0]);
        }
        let conn = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(conn, stream);
        tls.write_all(&header)?;
        let mut buffer = [0; 5];
        tls.read_exact(&mut buffer)?;
        tls.write_all(&buffer)?;
        tls.conn.send_close_notify();
        tls.flush()
    });
    let (mut gone, address) = (Server::named("gone"), unused_address());
    gone.kill();
    let ca = store.file("ca.pem", authority.pem());
    let config = Config::new(address)
        .listener("accept_proxy_from = [\"127.0.0.0/8\"]")
        .pool("send_proxy = \"v1\"")
        .backend(&gone, "weight = 60000")
        .backend(&server, "weight = 1");
    let _gateway =
        Gateway::start(format!("{config}[pool.app.tls]\nca = {ca:?}\nsni = \"behind.test\"\n"));
    for _ in 0..3 {
        let mut stream = saying(address, &[&v1()[..], b"hello"].concat());
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [&v1()[..], b"hello"].concat(), "{ANNOUNCED}");
    }
}

/// Of a check nobody is the client but the gateway itself.
#[test]
fn checks_are_the_gateway_s_own_connections() {
    let local = [SIGNATURE, &[0x20, 0x00, 0, 7, 3, 0, 4]].concat();
    for (health, follows) in [
        ("type = \"tcp\"", &b""[..]),
        ("type = \"http\"\npath = \"/up\"", b"GET /up HTTP/1.1\r\n"),
        ("type = \"send_expect\"\nsend = \"PING\"\nexpect = \"HTTP\"", b"PING"),
        ("type = \"tls\"", b"\x16\x03\x01"),
    ] {
        for version in ["v1", "v2"] {
            let seen = First::default();
            let noted = Arc::clone(&seen);
            let server = Server::with("a", move |mut stream| {
                let mut received = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    received.extend_from_slice(&buffer[..count]);
                    noted.lock().unwrap().push(received.clone());
                    if received.ends_with(b"\r\n\r\n") || received.ends_with(b"PING") {
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
                    }
                }
                Ok(())
            });
            let address = unused_address();
            let config = Config::new(address)
                .pool(&format!("send_proxy = \"{version}\""))
                .backend(&server, "");
            let config = format!("{config}\n[pool.app.health]\ninterval = \"100ms\"\n{health}\n");
            // With a check over TLS nobody is ready.
            let _gateway = crate::harness::Launch::new(config).start_unready();
            eventually(&format!("{version} before {health}"), || {
                seen.lock().unwrap().iter().any(|received| match version {
                    "v1" => received
                        .strip_prefix(b"PROXY UNKNOWN\r\n")
                        .is_some_and(|rest| rest.starts_with(follows)),
                    _ => {
                        received.starts_with(&local)
                            && received
                                .get(local.len() + 4..)
                                .is_some_and(|r| r.starts_with(follows))
                    }
                })
            });
        }
    }
}
