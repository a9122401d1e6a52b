//! `protocol = "tls_passthrough"`: what a client says arrives as it was said, however it came.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use rustls::{ClientConfig, NamedGroup, StreamOwned};

use super::{Keeper, listener, pool_of, route};
use crate::harness::behind::{close_notify, offering, serve_tls};
use crate::harness::hello::{captured, padded, rewrapped};
use crate::harness::tls::{Authority, begin, finish_handshake, s_client};
use crate::harness::{Gateway, Noise, Server, connect, unused_address};

const PROTOCOL: &str = "tls_passthrough";

/// Those who ask for `app.example.com` go to the first server, all others to the second.
fn between(app: &Server, other: &Server) -> (Gateway, SocketAddr) {
    let address = unused_address();
    // A busy machine takes its time with a thousand segments.
    let lines = format!("pool = \"{}\"\nclient_timeout = \"1m\"", other.name());
    let config = [
        listener(address, PROTOCOL, &lines),
        route(r#"sni = ["app.example.com"]"#, app.name()),
        pool_of(app),
        pool_of(other),
    ];
    (Gateway::start(config.concat()), address)
}

/// How bytes are handed to the network.
#[derive(Clone, Copy, Debug)]
enum Segments {
    /// All at once.
    One,
    /// One for each byte.
    Bytes,
}

fn send(socket: &mut TcpStream, bytes: &[u8], segments: Segments) {
    match segments {
        Segments::One => socket.write_all(bytes).unwrap(),
        Segments::Bytes => {
            socket.set_nodelay(true).unwrap();
            for byte in bytes {
                socket.write_all(&[*byte]).unwrap();
                // For the gateway to see them one by one.
                thread::yield_now();
            }
        }
    }
}

/// A hello as it was sent, and in records of other sizes.
fn wrappings(hello: &[u8]) -> [Vec<u8>; 4] {
    [hello.to_vec(), rewrapped(hello, 7), rewrapped(hello, 1), rewrapped(hello, 500)]
}

/// Sends all of it, and returns the client's own address with the name of who has heard it.
fn tell(address: SocketAddr, bytes: &[u8], segments: Segments) -> (SocketAddr, String) {
    let mut client = connect(address).unwrap();
    send(&mut client, bytes, segments);
    client.shutdown(Shutdown::Write).unwrap();
    let mut name = String::new();
    client.read_to_string(&mut name).unwrap();
    (client.local_addr().unwrap(), name)
}

/// Sends it, and looks at what has arrived, and where.
#[track_caller]
fn arrives(
    (gateway, address): (&Gateway, SocketAddr),
    keeper: &Keeper,
    bytes: &[u8],
    segments: Segments,
    server_name: Option<&str>,
) {
    let (client, name) = tell(address, bytes, segments);
    let server = keeper.server.name();
    assert_eq!(name.trim_end(), server);
    // Not assert_eq: nobody wants to see the bytes.
    assert!(keeper.heard() == bytes, "what arrives is not what was sent, in {segments:?}");
    let record = gateway.record_of(client);
    assert_eq!(record["reason"], "closed", "{record}");
    assert_eq!((&record["pool"], &record["backend"]), (&server.into(), &server.into()));
    assert_eq!(record["server_name"].as_str(), server_name, "{record}");
    assert_eq!(record["bytes_in"], bytes.len(), "{record}");
    assert_eq!(record["bytes_out"], name.len(), "{record}");
    assert!(record["tls_version"].is_null(), "nothing is decrypted: {record}");
}

#[test]
fn a_hello_arrives_as_it_was_sent_however_it_came() {
    let (app, other) = (Keeper::new("app"), Keeper::new("other"));
    let (gateway, address) = between(&app.server, &other.server);
    let hybrid = captured("rustls-hybrid");
    // X25519MLKEM768, and a share of it.
    assert!(hybrid.windows(2).any(|group| group == [0x11, 0xec]) && hybrid.len() > 1216);
    for wrapped in wrappings(&hybrid) {
        for segments in [Segments::One, Segments::Bytes] {
            let at = (&gateway, address);
            arrives(at, &app, &wrapped, segments, Some("app.example.com"));
        }
    }
    assert_eq!(other.server.accepted(), 0);
}

#[test]
fn hellos_of_all_kinds_of_clients_arrive() {
    let (app, other) = (Keeper::new("app"), Keeper::new("other"));
    let (gateway, address) = between(&app.server, &other.server);
    let at = (&gateway, address);
    let name = Some("app.example.com");
    let here = ["curl-h2", "curl-tls12", "java", "node", "openssl-fragments", "openssl-tls13"];
    for client in here {
        arrives(at, &app, &captured(client), Segments::One, name);
        arrives(at, &app, &rewrapped(&captured(client), 7), Segments::Bytes, name);
    }
    let others = [
        ("python-idna", Some("xn--bcher-kva.example")),
        ("python-no-name", None),
        ("openssl-no-name", None),
        ("curl-address", None),
    ];
    for (client, name) in others {
        arrives(at, &other, &captured(client), Segments::One, name);
        arrives(at, &other, &rewrapped(&captured(client), 7), Segments::Bytes, name);
    }
    let count = |result| {
        let labels = [("listener", "web"), ("result", result)];
        gateway.metric("lockgate_client_hellos_total", &labels)
    };
    assert_eq!((count("named"), count("no_sni")), (14.0, 6.0));
}

#[test]
fn what_follows_a_hello_at_once_arrives() {
    let (app, other) = (Keeper::new("app"), Keeper::new("other"));
    let (gateway, address) = between(&app.server, &other.server);
    for length in [1, 5000, 300_000] {
        let mut bytes = captured("rustls-hybrid");
        Noise::new(1).write(&mut bytes, length).unwrap();
        let name = Some("app.example.com");
        arrives((&gateway, address), &app, &bytes, Segments::One, name);
    }
}

#[test]
fn the_longest_hello_arrives() {
    const LIMIT: usize = 64 << 10;
    let (app, other) = (Keeper::new("app"), Keeper::new("other"));
    let (gateway, address) = between(&app.server, &other.server);
    // Four records, with a header of five bytes each.
    let longest = padded(LIMIT - 4 * 5, 1 << 14);
    assert_eq!(longest.len(), LIMIT);
    arrives((&gateway, address), &other, &longest, Segments::One, None);
    // Six bytes for each of one.
    let scattered = padded(LIMIT / 6, 1);
    arrives((&gateway, address), &other, &scattered, Segments::One, None);
    let labels = [("listener", "web"), ("result", "no_sni")];
    assert_eq!(gateway.metric("lockgate_client_hellos_total", &labels), 2.0);
}

/// Shakes hands with who is behind the gateway, with a hello wrapped by `wrap`.
fn shake_hands(
    config: &ClientConfig,
    name: &str,
    address: SocketAddr,
    segments: Segments,
    wrap: impl Fn(&[u8]) -> Vec<u8>,
) -> StreamOwned<rustls::ClientConnection, TcpStream> {
    let mut conn = begin(config, name);
    let mut hello = Vec::new();
    conn.write_tls(&mut hello).unwrap();
    let mut socket = connect(address).unwrap();
    send(&mut socket, &wrap(&hello), segments);
    let mut client = StreamOwned::new(conn, socket);
    finish_handshake(&mut client).unwrap();
    client
}

/// Two servers that speak TLS, each with a certificate for its own name, which send back in
/// capitals what they get.
fn shouting(authority: &Authority) -> [Server; 2] {
    ["app", "other"].map(|name| {
        let issued = authority.issue(&[&format!("{name}.example.com")]);
        let config = offering(&issued, rustls::ALL_VERSIONS);
        serve_tls(name, unused_address(), config, |mut stream| {
            let mut words = String::new();
            stream.read_to_string(&mut words)?;
            stream.write_all(words.to_uppercase().as_bytes())?;
            close_notify(&mut stream)
        })
    })
}

#[test]
fn a_handshake_goes_through_however_its_hello_came() {
    let authority = Authority::new("authority");
    let [app, other] = shouting(&authority);
    let (gateway, address) = between(&app, &other);
    let config = authority.client();
    for segments in [Segments::One, Segments::Bytes] {
        for longest in [1 << 14, 7] {
            for name in ["app.example.com", "other.example.com"] {
                let wrap = |hello: &[u8]| rewrapped(hello, longest);
                // The client verifies with whom it speaks, and what was said to whom.
                let mut client = shake_hands(&config, name, address, segments, wrap);
                let group = client.conn.negotiated_key_exchange_group().unwrap().name();
                assert_eq!(group, NamedGroup::X25519MLKEM768);
                client.write_all(b"question").unwrap();
                close_notify(&mut client).unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, "QUESTION");
                let from = client.sock.local_addr().unwrap();
                drop(client);
                let record = gateway.record_of(from);
                assert_eq!(record["server_name"], name, "{record}");
            }
        }
    }
    assert_eq!((app.accepted(), other.accepted()), (4, 4));
}

#[test]
fn openssl_goes_through() {
    let authority = Authority::new("authority");
    let [app, other] = shouting(&authority);
    let (_gateway, address) = between(&app, &other);
    let store = crate::harness::tls::Store::new();
    let ca = store.file("ca.pem", authority.pem());
    for version in ["-tls1_2", "-tls1_3"] {
        for name in ["app.example.com", "other.example.com"] {
            let known = ["-verify_return_error", "-CAfile", ca.to_str().unwrap()];
            let asked = [version, "-servername", name, "-verify_hostname", name];
            let output = s_client(address, &[&known[..], &asked].concat());
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        }
    }
    assert_eq!((app.accepted(), other.accepted()), (2, 2));
}
