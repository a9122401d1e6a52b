//! Records of all sizes, however they are cut on the way; new keys; and what comes along with the
//! end of a handshake.

use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use super::{BEHIND, NAME, Site};
use crate::harness::behind::{ServedStream, close_notify, converse, offering, serve_tls};
use crate::harness::tls::{Authority, TlsStream, begin, greeting_tls, shake_hands};
use crate::harness::{Noise, PATIENCE, Server, connect, unused_address};

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];
/// Longest content of a record (RFC 8446, section 5.1).
const RECORD: usize = 1 << 14;

/// Sends back what it gets, and its end.
fn echo(mut stream: ServedStream) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer)? {
            0 => return close_notify(&mut stream),
            bytes => stream.write_all(&buffer[..bytes])?,
        }
    }
}

/// What a client has to send for these bytes, each chunk in a record of its own.
fn sealed<'a>(client: &mut TlsStream, chunks: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in chunks {
        client.conn.writer().write_all(chunk).unwrap();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut wire).unwrap();
        }
    }
    wire
}

/// So many bytes of noise.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    Noise::new(1).write(&mut bytes, length).unwrap();
    bytes
}

/// Asserts that these bytes come back.
#[track_caller]
fn comes_back(client: &mut TlsStream, bytes: &[u8], what: &str) {
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(back == bytes, "{what}: other bytes came back");
}

/// Both a server without TLS and one with it.
fn sites(versions: &[&'static SupportedProtocolVersion]) -> [(Site, Server); 2] {
    let plain = Server::echo();
    [(Site::before(&plain), plain), Site::before_one(versions, echo)]
}

#[test]
fn records_of_a_single_byte() {
    for versions in VERSIONS {
        for (site, server) in sites(versions) {
            let what = format!("{versions:?} before {}", server.name());
            let config = site.authority.client_of(versions, None);
            let mut client = shake_hands(&config, NAME, site.address).unwrap();
            let bytes = noise(5000);
            let wire = sealed(&mut client, bytes.chunks(1));
            assert!(wire.len() > 20 * bytes.len(), "each has its header and its tag");
            // All at once, and in pieces that end anywhere within a record.
            for longest in [wire.len(), 1000] {
                let wire = match longest {
                    1000 => sealed(&mut client, bytes.chunks(1)),
                    _ => wire.clone(),
                };
                for piece in wire.chunks(longest) {
                    client.sock.write_all(piece).unwrap();
                }
                comes_back(&mut client, &bytes, &what);
            }
        }
    }
}

/// Sends a full record in pieces that end at these places.
fn send_in_pieces(client: &mut TlsStream, wire: &[u8], places: &[usize]) {
    let mut from = 0;
    for &place in places.iter().chain([&wire.len()]) {
        client.sock.write_all(&wire[from..place]).unwrap();
        from = place;
        // For the gateway to see them one by one.
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_full_record_cut_at_any_place() {
    for versions in VERSIONS {
        for (site, server) in sites(versions) {
            let config = site.authority.client_of(versions, None);
            let mut client = shake_hands(&config, NAME, site.address).unwrap();
            client.sock.set_nodelay(true).unwrap();
            let bytes = noise(RECORD);
            let length = sealed(&mut client, [&bytes[..]].into_iter()).len();
            // That one is lost; a new connection has its numbers right.
            let mut client = shake_hands(&config, NAME, site.address).unwrap();
            client.sock.set_nodelay(true).unwrap();
            assert!(length > RECORD + 5 && length < RECORD + 64);
            let beginnings = (1..=14).chain([100, 2047, 2048, 2049, 4096, RECORD / 2]);
            let ends = (1..=20).map(|left| length - left).chain([RECORD - 1, RECORD, RECORD + 1]);
            for place in beginnings.chain(ends) {
                let wire = sealed(&mut client, [&bytes[..]].into_iter());
                assert_eq!(wire.len(), length);
                send_in_pieces(&mut client, &wire, &[place]);
                let what = format!("{versions:?} before {}, cut at {place}", server.name());
                comes_back(&mut client, &bytes, &what);
            }
            // The end of one with the beginning of the next.
            let two = [&bytes[..], &bytes].concat();
            for place in [1, 4, 5, 6, length / 2, length - 17, length - 16, length - 1] {
                let wire = sealed(&mut client, two.chunks(RECORD));
                send_in_pieces(&mut client, &wire, &[place, length + 1, length + place]);
                let what = format!("{versions:?} before {}, two cut at {place}", server.name());
                comes_back(&mut client, &two, &what);
            }
        }
    }
}

#[test]
fn keys_that_change_under_way() {
    // On each side of the gateway, by each end, with as much behind as before.
    let (site, _server) = Site::before_one(&[&TLS13], |mut stream| {
        let mut buffer = vec![0; 3 * RECORD];
        for _ in 0..10 {
            stream.read_exact(&mut buffer)?;
            stream.conn.refresh_traffic_keys().map_err(io::Error::other)?;
            stream.write_all(&buffer[..RECORD])?;
            stream.conn.refresh_traffic_keys().map_err(io::Error::other)?;
            stream.write_all(&buffer[RECORD..])?;
        }
        Ok(())
    });
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    let bytes = noise(3 * RECORD);
    for round in 0..10 {
        client.write_all(&bytes[..RECORD + 1]).unwrap();
        client.conn.refresh_traffic_keys().unwrap();
        client.write_all(&bytes[RECORD + 1..]).unwrap();
        comes_back(&mut client, &bytes, &format!("round {round}"));
    }
}

#[test]
fn a_server_that_speaks_with_the_end_of_its_handshake() {
    for versions in VERSIONS {
        let authority = Authority::new("authority");
        let mut config = offering(&authority.issue(&[BEHIND]), versions);
        // Of TLS 1.3, before it has heard the gateway's end of it.
        config.send_half_rtt_data = true;
        let server = serve_tls("behind", unused_address(), config, |mut stream| {
            // Kept until it may be sent.
            stream.conn.writer().write_all(b"welcome\n")?;
            while stream.conn.is_handshaking() {
                stream.conn.read_tls(&mut stream.sock)?;
                stream.conn.process_new_packets().map_err(io::Error::other)?;
                let mut wire = Vec::new();
                while stream.conn.wants_write() {
                    stream.conn.write_tls(&mut wire)?;
                }
                stream.sock.write_all(&wire)?;
            }
            echo(stream)
        });
        let tls = format!("sni = \"{BEHIND}\"");
        let site = Site::before_tls(authority, &[&server], "", &tls);
        let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
        assert_eq!(greeting_tls(&mut client).unwrap(), "welcome", "{versions:?}");
        client.write_all(b"thanks").unwrap();
        comes_back(&mut client, b"thanks", "after the welcome");
    }
}

#[test]
fn a_client_that_speaks_with_the_end_of_its_handshake() {
    // More than the gateway reads at a time, most of it behind the client's last words.
    const LENGTH: usize = 200_000;
    for versions in VERSIONS {
        let (site, _server) = Site::before_one(versions, echo);
        let config = site.authority.client_of(versions, None);
        let mut conn = begin(&config, NAME);
        conn.set_buffer_limit(None);
        // Kept until it may be sent.
        let bytes = noise(LENGTH);
        conn.writer().write_all(&bytes).unwrap();
        let mut socket = connect(site.address).unwrap();
        let mut wire = Vec::new();
        loop {
            while conn.wants_write() {
                conn.write_tls(&mut wire).unwrap();
            }
            socket.write_all(&wire).unwrap();
            if !conn.is_handshaking() {
                break;
            }
            assert!(wire.len() < LENGTH, "nothing is sent too early");
            wire.clear();
            conn.read_tls(&mut socket).unwrap();
            conn.process_new_packets().unwrap();
        }
        assert!(wire.len() > LENGTH, "all of it goes with the last words");
        comes_back(&mut TlsStream::new(conn, socket), &bytes, &format!("{versions:?}"));
    }
}

/// Forty megabytes each way at once, through two connections of these versions.
fn both_ways(
    outside: &'static SupportedProtocolVersion,
    inside: &'static SupportedProtocolVersion,
) {
    const LENGTH: usize = 40 << 20;
    let (tell, heard) = mpsc::channel();
    let (site, _server) = Site::before_one(&[inside], move |stream| {
        let heard = converse(stream, (&Noise::new(1), LENGTH), &Noise::new(2));
        tell.send(heard).map_err(io::Error::other)
    });
    let config = site.authority.client_of(&[outside], None);
    let client = shake_hands(&config, NAME, site.address).unwrap();
    let name = client.sock.local_addr().unwrap();
    assert_eq!(converse(client, (&Noise::new(2), LENGTH), &Noise::new(1)), LENGTH);
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), LENGTH);
    let record = site.gateway.record_of(name);
    assert_eq!(record["reason"], "closed", "{record}");
    assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&LENGTH.into(), &LENGTH.into()));
}

#[test]
fn forty_megabytes_both_ways_at_once() {
    both_ways(&TLS13, &TLS13);
}

#[test]
fn forty_megabytes_both_ways_at_once_from_one_version_to_another() {
    both_ways(&TLS12, &TLS13);
    both_ways(&TLS13, &TLS12);
}
