//! The PROXY protocol: headers that are believed, and those that are sent.

mod others;
mod sending;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use rustls::StreamOwned;

use crate::harness::hello::captured;
use crate::harness::tls::{Authority, Store, begin, finish_handshake, greeting_tls};
use crate::harness::{
    Config, Ending, Gateway, Server, connect, ending, eventually, fetch, greeting, unused_address,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whom headers announce, unless they say otherwise.
const ANNOUNCED: &str = "192.0.2.1";

/// A header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

/// The addresses of [`ANNOUNCED`] and port 258, to 198.51.100.2:443.
const BODY_V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 1, 2, 1, 187];

fn v1() -> Vec<u8> {
    format!("PROXY TCP4 {ANNOUNCED} 198.51.100.2 258 443\r\n").into_bytes()
}

/// A gateway that believes everybody, before a server.
fn believing(server: &Server, listener: &str) -> (Gateway, SocketAddr) {
    let address = unused_address();
    let listener = format!("accept_proxy_from = [\"127.0.0.0/8\"]\n{listener}");
    (Gateway::start(Config::new(address).listener(&listener).backend(server, "")), address)
}

/// Connects and says this at once.
fn saying(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// What an echo returns until it closes.
fn rest(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    stream.shutdown(Shutdown::Write)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn the_announced_client_is_the_client() {
    let echo = Server::echo();
    let (gateway, address) = believing(&echo, "");
    let body_v6 = [&[0xfd; 16][..], &[0xfe; 16], &[1, 3, 1, 187]].concat();
    let v6 = "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd";
    let noop = [&BODY_V4[..], &[4, 0, 3, 9, 9, 9, 0xea, 0, 0]].concat();
    for (header, client, port) in [
        (v1(), ANNOUNCED, Some(258)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 259 443\r\n".to_vec(), "2001:db8::1", Some(259)),
        (v2(0x21, 0x11, &BODY_V4), ANNOUNCED, Some(258)),
        (v2(0x21, 0x11, &noop), ANNOUNCED, Some(258)),
        (v2(0x21, 0x21, &body_v6), v6, Some(259)),
        // Where it is not said, or of no use, the socket's address counts.
        (b"PROXY UNKNOWN\r\n".to_vec(), "", None),
        (b"PROXY UNKNOWN ::1 ::2 1 2\r\n".to_vec(), "", None),
        (v2(0x20, 0x00, &[]), "", None),
        (v2(0x20, 0x11, &BODY_V4), "", None),
        (v2(0x21, 0x00, &[]), "", None),
        (v2(0x21, 0x12, &BODY_V4), "", None),
        (v2(0x21, 0x31, &[0; 216]), "", None),
    ] {
        // What follows in the same segment, even a second header, is the connection's own.
        let said = [&header[..], b"\x16\x03\x01PROXY TCP4 ", &header].concat();
        let stream = saying(address, &said);
        let own = stream.local_addr().unwrap();
        let (client, port) = match port {
            Some(port) => (client.to_owned(), port),
            None => (own.ip().to_string(), own.port()),
        };
        assert_eq!(rest(stream).unwrap(), said[header.len()..], "{header:02x?}");
        eventually(&format!("a record of {client}:{port}"), || {
            gateway.records().iter().any(|record| {
                record["client"] == *client
                    && record["client_port"] == port
                    && record["bytes_in"] == said.len() - header.len()
                    && record["reason"] == "closed"
            })
        });
    }
}

#[test]
fn a_header_may_come_in_any_pieces() {
    let echo = Server::echo();
    let (gateway, address) = believing(&echo, "");
    let headers = [v1(), v2(0x21, 0x11, &BODY_V4)];
    thread::scope(|scope| {
        for header in &headers {
            for end in 1..=header.len() {
                scope.spawn(move || {
                    let mut stream = saying(address, &header[..end]);
                    thread::sleep(Duration::from_millis(30));
                    stream.write_all(&header[end..]).unwrap();
                    stream.write_all(b"payload").unwrap();
                    assert_eq!(rest(stream).unwrap(), b"payload", "cut at {end}");
                });
            }
            scope.spawn(|| {
                let mut stream = saying(address, b"");
                for byte in header.iter().chain(b"payload") {
                    stream.write_all(&[*byte]).unwrap();
                    thread::sleep(Duration::from_millis(2));
                }
                assert_eq!(rest(stream).unwrap(), b"payload", "byte by byte");
            });
        }
    });
    let count = headers.iter().map(|header| header.len() + 1).sum();
    let records = gateway.await_records(count, "closed");
    assert!(records.iter().all(|record| record["client"] == ANNOUNCED));
}

#[test]
fn a_large_payload_right_after_the_header_is_whole() {
    let echo = Server::echo();
    let (_gateway, address) = believing(&echo, "");
    let payload: Vec<u8> =
        (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let stream = saying(address, &v2(0x21, 0x11, &BODY_V4));
    let mut sender = stream.try_clone().unwrap();
    let sent = payload.clone();
    let sending = thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    let mut stream = stream;
    stream.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    assert!(received == payload, "{} bytes", received.len());
}

#[test]
fn what_is_no_header_is_refused() {
    let echo = Server::echo();
    let (gateway, address) = believing(&echo, "");
    let unsealed = [&BODY_V4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
    let bad = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        captured("curl-h2"),
        b"PROXY TCP4 192.0.2.256 198.51.100.2 258 443\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 258 443\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
        v2(0x22, 0x11, &BODY_V4),
        v2(0x11, 0x11, &BODY_V4),
        v2(0x21, 0x13, &BODY_V4),
        v2(0x21, 0x11, &BODY_V4[..11]),
        v2(0x21, 0x21, &BODY_V4),
        v2(0x21, 0x11, &unsealed),
        v2(0x21, 0x11, &[&BODY_V4[..], &[4, 0, 9]].concat()),
        v2(0x21, 0x00, &vec![0; 40_000]),
    ];
    for bytes in &bad {
        let mut stream = connect(address).unwrap();
        // The refusal may come before all of it is sent.
        let _ = stream.write_all(bytes);
        assert_eq!(ending(&mut stream), Ending::Reset, "{:02x?}", &bytes[..bytes.len().min(60)]);
    }
    let records = gateway.await_records(bad.len(), "bad_proxy_header");
    assert!(records.iter().all(|record| record["backend"].is_null()));
    let labels = [("listener", "web"), ("reason", "bad_proxy_header")];
    assert_eq!(gateway.metric("lockgate_connections_closed_total", &labels), bad.len() as f64);
    assert_eq!(echo.accepted(), 0);
    gateway.await_log("no PROXY header");
    gateway.await_log("wrong checksum");
}

#[test]
fn half_a_header_is_none() {
    let echo = Server::echo();
    let (gateway, address) = believing(&echo, "");
    let headers = [v1(), v2(0x21, 0x11, &BODY_V4)];
    let mut count = 0;
    for header in &headers {
        for end in 0..header.len() {
            let mut stream = saying(address, &header[..end]);
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(ending(&mut stream), Ending::Reset, "{end} bytes of {header:02x?}");
            count += 1;
        }
    }
    assert_eq!(gateway.await_records(count, "bad_proxy_header").len(), count);
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn of_others_a_header_is_what_they_say_and_nothing_else() {
    let echo = Server::echo();
    let address = unused_address();
    let listener = "accept_proxy_from = [\"10.0.0.0/8\", \"::1\"]";
    let gateway = Gateway::start(Config::new(address).listener(listener).backend(&echo, ""));
    for header in [v1(), v2(0x21, 0x11, &BODY_V4)] {
        let stream = saying(address, &header);
        let own = stream.local_addr().unwrap();
        assert_eq!(rest(stream).unwrap(), header);
        assert_eq!(gateway.record_of(own)["reason"], "closed");
    }
    // And they need none.
    let stream = saying(address, b"hello");
    assert_eq!(rest(stream).unwrap(), b"hello");
}

/// However it is done: the gateway waits no longer than it is told to, and not for nothing.
#[test]
fn a_slow_header_is_not_waited_for() {
    let echo = Server::echo();
    let (gateway, address) = believing(&echo, "client_timeout = \"1s\"");
    let mut idle = connect(address).unwrap();
    let mut half = saying(address, &v1()[..20]);
    let mut slow = connect(address).unwrap();
    let trickle = slow.try_clone().unwrap();
    let trickling = thread::spawn(move || {
        let mut trickle = trickle;
        // A header takes far longer like this.
        for byte in v2(0x21, 0x11, &BODY_V4) {
            if trickle.write_all(&[byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
    });
    for stream in [&mut idle, &mut half] {
        assert_eq!(ending(stream), Ending::Reset);
    }
    // Who is told of a reset, the one that reads or the one that writes, is chance.
    ending(&mut slow);
    trickling.join().unwrap();
    let records = gateway.await_records(3, "client_timeout");
    assert!(records.iter().all(|record| record["duration_ms"].as_f64().unwrap() >= 990.0));
    assert_eq!(echo.accepted(), 0);
    gateway.await_idle();
}

#[test]
fn a_client_that_breaks_off_is_gone() {
    let echo = Server::echo();
    let (gateway, address) = believing(&echo, "");
    let stream = saying(address, &v1()[..20]);
    crate::harness::reset(stream);
    gateway.await_records(1, "client_reset");
    gateway.await_idle();
}

/// Headers before TLS, in the same segment as the hello; and routes by whom they announce.
#[test]
fn routes_go_by_the_announced_client() {
    let (near, far) = (Server::named("near"), Server::named("far"));
    let (authority, store, name) = (Authority::new("authority"), Store::new(), "site.test");
    let files = store.put("site", &authority.issue(&[name]));
    let (tls, passed) = (unused_address(), unused_address());
    let believe = "accept_proxy_from = [\"127.0.0.0/8\"]";
    let route = "[[listener.route]]\nclient = [\"192.0.2.0/24\"]\npool = \"near\"";
    let config = Config::new(tls).listener(believe).tls(&[&files], route).backend(&far, "");
    let config = format!(
        "{config}\n[[pool.near.backend]]\nname = \"near\"\naddress = \"{}\"\n\
         [[listener]]\nname = \"passed\"\nbind = \"{passed}\"\nprotocol = \"tls_passthrough\"\n\
         pool = \"app\"\n{believe}\n{route}\n",
        near.address()
    );
    let gateway = Gateway::start(config);
    let announcing = |ip: &str| format!("PROXY TCP4 {ip} 198.51.100.2 258 443\r\n").into_bytes();

    for (ip, expected) in [(ANNOUNCED, "near"), ("203.0.113.1", "far")] {
        // The hello is in the segment of the header, for the most part.
        let mut conn = begin(&authority.client(), name);
        let mut first = announcing(ip);
        conn.write_tls(&mut first).unwrap();
        let cut = first.len() - 100;
        let mut socket = saying(tls, &first[..cut]);
        thread::sleep(Duration::from_millis(20));
        socket.write_all(&first[cut..]).unwrap();
        let mut stream = StreamOwned::new(conn, socket);
        finish_handshake(&mut stream).unwrap();
        assert_eq!(greeting_tls(&mut stream).unwrap(), expected);

        let hello = captured("curl-h2");
        let mut stream = saying(passed, &[announcing(ip), hello].concat());
        assert_eq!(greeting(&mut stream).unwrap(), expected);
    }
    drop(gateway);
}

#[test]
fn a_redirect_is_for_the_announced_client() {
    let address = unused_address();
    let echo = Server::echo();
    let config = format!(
        "[[listener]]\nname = \"web\"\nbind = \"{address}\"\nprotocol = \"redirect\"\n\
         accept_proxy_from = [\"127.0.0.0/8\"]\n[[pool.app.backend]]\naddress = \"{}\"\n",
        echo.address()
    );
    let gateway = Gateway::start(config);
    for header in [v1(), v2(0x21, 0x11, &BODY_V4)] {
        let (status, _) = fetch(saying(address, &header), "GET", "/a").unwrap();
        assert_eq!(status, 301);
        // In one segment.
        let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
        let mut stream = saying(address, &[&header[..], request].concat());
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    }
    let records = gateway.await_records(4, "closed");
    assert!(records.iter().all(|record| record["client"] == ANNOUNCED));
}

/// Clients of a proxy are spread by their own addresses, not by the proxy's.
#[test]
fn source_hash_goes_by_the_announced_client() {
    let servers: Vec<_> = ["a", "b", "c"].map(Server::named).into_iter().collect();
    let address = unused_address();
    let config = Config::new(address)
        .listener("accept_proxy_from = [\"127.0.0.0/8\"]")
        .pool("balance = \"source_hash\"");
    let config = servers.iter().fold(config, |config, server| config.backend(server, ""));
    let _gateway = Gateway::start(config);
    let mut met = std::collections::BTreeSet::new();
    for n in 0..40 {
        let ip = IpAddr::from(Ipv4Addr::new(192, 0, 2, n));
        let header = format!("PROXY TCP4 {ip} 198.51.100.2 258 443\r\n");
        let who = || greeting(&mut saying(address, header.as_bytes())).unwrap();
        let first = who();
        assert_eq!(who(), first);
        met.insert(first);
    }
    assert_eq!(met.len(), 3);
}
