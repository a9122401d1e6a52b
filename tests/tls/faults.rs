//! Clients that break off, that are refused while they talk, and that are too old.

use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustls::AlertDescription;
use rustls::version::{TLS12, TLS13};

use super::{NAME, Site, handshakes};
use crate::harness::behind::close_notify;
use crate::harness::hello::{asking, captured};
use crate::harness::tls::{Authority, alert_of, shake_hands, visit_tls};
use crate::harness::{
    Config, Gateway, Noise, PATIENCE, Server, connect, reset, stays_silent, unused_address,
};

/// More than all buffers between two ends take.
const LENGTH: usize = 256 << 20;

/// Has a client connect and not read, until the gateway is full, and then break; expects that the
/// server, which tells how its writing ended, hears of it.
fn a_deaf_client_breaks(site: &Site, ended: &mpsc::Receiver<io::Result<()>>) {
    for finished in [false, true] {
        let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
        client.write_all(b"question").unwrap();
        if finished {
            // Nothing that it says is waited for any more.
            close_notify(&mut client).unwrap();
        }
        assert!(!stays_silent(&client.sock), "the answer begins");
        let bytes = || site.gateway.metric("lockgate_bytes_total", &[("direction", "out")]);
        let mut before = -1.0;
        while bytes() != before {
            before = bytes();
            thread::sleep(Duration::from_millis(100));
        }
        let name = client.sock.local_addr().unwrap();
        let (_, socket) = client.into_parts();
        reset(socket);
        let written = ended.recv_timeout(PATIENCE).expect("the server hears of it");
        written.expect_err("all was taken from the server for a client that does not read");
        let record = site.gateway.record_of(name);
        assert_eq!(record["reason"], "client_reset", "{record}");
        site.gateway.await_idle();
    }
}

#[test]
fn a_client_that_does_not_read_and_breaks() {
    let (seen, ended) = mpsc::channel();
    let server = Server::with("server", move |mut stream| {
        seen.send(Noise::new(1).write(&mut stream, LENGTH)).map_err(io::Error::other)
    });
    a_deaf_client_breaks(&Site::before(&server), &ended);
}

#[test]
fn a_client_that_does_not_read_and_breaks_before_a_server_with_tls() {
    let (seen, ended) = mpsc::channel();
    let (site, _server) = Site::before_one(rustls::ALL_VERSIONS, move |mut stream| {
        seen.send(Noise::new(1).write(&mut stream, LENGTH)).map_err(io::Error::other)
    });
    a_deaf_client_breaks(&site, &ended);
}

/// A fatal alert in the clear.
fn alert(description: AlertDescription) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description.into()]
}

/// Sends these bytes, and expects exactly this alert and then an end in order.
#[track_caller]
fn refused(site: &Site, bytes: &[u8], expected: AlertDescription) {
    let mut client = connect(site.address).unwrap();
    client.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, alert(expected), "{expected:?}");
    let name = client.local_addr().unwrap();
    drop(client);
    let record = site.gateway.record_of(name);
    assert_eq!(record["reason"], "tls_failed", "{record}");
    assert!(record["backend"].is_null() && record["tls_version"].is_null(), "{record}");
}

#[test]
fn an_alert_is_heard_by_a_client_that_goes_on_talking() {
    const ROUNDS: usize = 10;
    let server = Server::named("server");
    let site = Site::new(&server, "", "strict_sni = true");
    let request = b"POST / HTTP/1.1\r\nHost: www.example.com\r\n\r\n".to_vec();
    let stranger = asking(&site.client, "unknown.example.com", &[]);
    for (mut bytes, expected, reason) in [
        (request, AlertDescription::DecodeError, "protocol"),
        (stranger, AlertDescription::UnrecognisedName, "unknown_sni"),
        (captured("openssl-tls11"), AlertDescription::ProtocolVersion, "no_shared_version"),
    ] {
        // What nobody reads would turn the close into a reset, which overtakes the alert.
        Noise::new(1).write(&mut bytes, 60_000).unwrap();
        for _ in 0..ROUNDS {
            refused(&site, &bytes, expected);
        }
        site.await_failures(reason, ROUNDS);
    }
    assert_eq!((server.accepted(), handshakes(&site.gateway)), (0, 0.0));
}

#[test]
fn an_alert_is_heard_by_a_client_that_believed_itself_welcome() {
    const ROUNDS: usize = 10;
    let (server, staff) = (Server::named("server"), Authority::new("staff"));
    let site = Site::before(&server);
    let ca = site.store.file("staff.pem", staff.pem());
    let lines = format!("client_auth = \"required\"\nclient_ca = {ca:?}");
    let address = unused_address();
    let gateway =
        Gateway::start(Config::new(address).tls(&[&site.files], &lines).backend(&server, ""));
    let stranger = Authority::new("strangers").issue(&["mallory"]);
    // Of TLS 1.3, its handshake is over before the gateway has seen its certificate.
    let config = site.authority.client_of(&[&TLS13], Some(&stranger));
    for _ in 0..ROUNDS {
        let mut client = shake_hands(&config, NAME, address).unwrap();
        // What cannot be sent any more does not matter here.
        let _ = Noise::new(1).write(&mut client, 50_000);
        let error = client.read(&mut [0]).expect_err("it is refused");
        assert_eq!(alert_of(&error), Some(AlertDescription::UnknownCA), "{error:?}");
    }
    super::await_failures(&gateway, "bad_certificate", ROUNDS);
    assert_eq!(server.accepted(), 0);
    visit_tls(&site.authority.client_of(&[&TLS13], Some(&staff.issue(&["alice"]))), NAME, address)
        .unwrap();
}

/// What OpenSSL has sent, but with one version in place of each of its own.
fn speaking(version: [u8; 2]) -> Vec<u8> {
    let mut hello = captured("openssl-tls13");
    // An extension of nine bytes: a list of eight, which begins with TLS 1.3.
    let extension = [0, 43, 0, 9, 8, 3, 4];
    let place = hello.windows(extension.len()).position(|bytes| bytes == extension).unwrap();
    hello[place + 5..place + 13].copy_from_slice(&version.repeat(4));
    hello
}

#[test]
fn versions_that_are_too_old() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let mut ssl3 = captured("openssl-tls10");
    // The version that the message itself names.
    assert_eq!(ssl3[9..11], [3, 1]);
    ssl3[10] = 0;
    let hellos = [
        captured("openssl-tls10"),
        captured("openssl-tls11"),
        ssl3,
        // Those that say so where TLS 1.3 says it.
        speaking([3, 2]),
        speaking([3, 1]),
        // One of the future, without any that is known.
        speaking([3, 5]),
    ];
    for (count, hello) in hellos.iter().enumerate() {
        refused(&site, hello, AlertDescription::ProtocolVersion);
        site.await_failures("no_shared_version", count + 1);
    }
    site.gateway.await_log("TLS handshake failed");
    assert_eq!((server.accepted(), handshakes(&site.gateway)), (0, 0.0));
    for versions in [&[&TLS12][..], &[&TLS13]] {
        visit_tls(&site.authority.client_of(versions, None), NAME, site.address).unwrap();
    }
}

#[test]
fn plain_http_is_told_that_it_is_none() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let requests = [
        "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 3\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // Nobody waits for the rest of it.
        "G",
    ];
    for (count, request) in requests.iter().enumerate() {
        refused(&site, request.as_bytes(), AlertDescription::DecodeError);
        site.await_failures("protocol", count + 1);
    }
    assert_eq!(server.accepted(), 0);
    visit_tls(&site.client, NAME, site.address).unwrap();
}
