//! What clients are told when something is wrong, once and in the words of their version, and what they
//! send too early.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;

use rustls::server::ServerSessionMemoryCache;
use rustls::version::{TLS12, TLS13};

use super::{NAME, Site};
use crate::harness::behind::{offering, serve_tls};
use crate::harness::tls::{begin, finish_handshake, greeting_tls, shake_hands};
use crate::harness::{Server, connect, ending, unused_address};

#[test]
fn a_fatal_alert_is_sent_once() {
    let (let_go, told) = mpsc::channel();
    let server = Server::deaf(told);
    let site = Site::before(&server);
    let config = site.authority.client_of(&[&TLS12], None);
    let mut client = shake_hands(&config, NAME, site.address).unwrap();
    // A record of data that no key opens.
    let mut forged = vec![23, 3, 3, 0, 40];
    forged.extend([7; 40]);
    client.sock.write_all(&forged).unwrap();
    let mut wire = Vec::new();
    // A reset may follow.
    let _ = client.sock.read_to_end(&mut wire);
    let (mut alerts, mut rest) = (0, &wire[..]);
    while let [kind, _, _, high, low, ..] = *rest {
        alerts += usize::from(kind == 21);
        rest = &rest[5 + usize::from(u16::from_be_bytes([high, low]))..];
    }
    assert_eq!(alerts, 1, "{wire:?}");
    drop(let_go);
}

#[test]
fn early_data_is_skipped() {
    let server = Server::named("server");
    let site = Site::before(&server);
    // A server of the same name takes early data: for that, it gives out a ticket.
    let mut config = offering(&site.authority.issue(&[NAME]), &[&TLS13]);
    config.max_early_data_size = 1 << 20;
    config.session_storage = ServerSessionMemoryCache::new(8);
    config.send_tls13_tickets = 8;
    let other = serve_tls("other", unused_address(), config, |mut stream| {
        stream.write_all(b"other\n")?;
        ending(&mut stream.sock);
        Ok(())
    });
    // At once, and in pieces that the gateway may read one by one.
    for (length, piece) in [(100, 100), (12_000, 12_000), (16_000, 16_000), (14_000, 700)] {
        let mut client = site.authority.client_of(&[&TLS13], None);
        client.enable_early_data = true;
        let mut eager = shake_hands(&client, NAME, other.address()).unwrap();
        assert_eq!(greeting_tls(&mut eager).unwrap(), "other");
        let mut connection = begin(&client, NAME);
        let mut early = connection.early_data().expect("a ticket for early data");
        let mut written = 0;
        while written < length {
            written += early.write(&vec![b'e'; piece.min(length - written)]).unwrap();
        }
        let mut wire = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut wire).unwrap();
        }
        let socket = connect(site.address).unwrap();
        socket.set_nodelay(true).unwrap();
        for part in wire.chunks(1_400) {
            (&socket).write_all(part).unwrap();
            thread::yield_now();
        }
        let mut stream = rustls::StreamOwned::new(connection, socket);
        finish_handshake(&mut stream).unwrap_or_else(|error| panic!("{length}: {error}"));
        assert!(!stream.conn.is_early_data_accepted(), "{length}");
        assert_eq!(greeting_tls(&mut stream).unwrap(), "server", "{length}");
    }
}
