//! Clients that are slow, broken, or not of TLS at all.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use rustls::{AlertDescription, HandshakeKind, StreamOwned};

use super::{NAME, Site, handshakes};
use crate::harness::tls::{
    Authority, begin, finish_handshake, greeting_tls, refusal, shake_hands, visit_tls,
};
use crate::harness::{Ending, Server, connect, ending, eventually, reset};

/// A ClientHello as it is on the wire.
fn hello(site: &Site) -> Vec<u8> {
    let mut wire = Vec::new();
    begin(&site.client, NAME).write_tls(&mut wire).unwrap();
    wire
}

/// The client's name, by which its record is found.
fn name_of(client: &TcpStream) -> SocketAddr {
    client.local_addr().unwrap()
}

/// What is told of a handshake that failed.
#[track_caller]
fn failed(site: &Site, client: SocketAddr, reason: &str, kind: &str) {
    let record = site.gateway.record_of(client);
    assert_eq!(record["reason"], reason, "{record}");
    assert!(record["backend"].is_null() && record["attempts"] == 0, "{record}");
    assert!(record["tls_version"].is_null() && record["handshake_ms"].is_null(), "{record}");
    site.await_failures(kind, 1);
}

#[test]
fn a_hello_byte_by_byte() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let mut conn = begin(&site.client, NAME);
    let mut wire = Vec::new();
    conn.write_tls(&mut wire).unwrap();
    let mut socket = connect(site.address).unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in wire {
        socket.write_all(&[byte]).unwrap();
        // For the gateway to see them one by one.
        thread::yield_now();
    }
    let mut client = StreamOwned::new(conn, socket);
    finish_handshake(&mut client).unwrap();
    assert_eq!(greeting_tls(&mut client).unwrap(), "server");
    assert_eq!(client.conn.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn a_hello_in_many_tls_records() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let mut config = site.client.clone();
    config.max_fragment_size = Some(32);
    assert_eq!(visit_tls(&config, NAME, site.address).unwrap().greeting, "server");
}

#[test]
fn a_client_that_stalls() {
    let server = Server::named("server");
    for length in [0, 1, 100] {
        let site = Site::new(&server, r#"client_timeout = "500ms""#, "");
        let mut client = connect(site.address).unwrap();
        client.write_all(&hello(&site)[..length]).unwrap();
        ending(&mut client);
        failed_by_time(&site, name_of(&client));
    }
    // One that gets its answer, and says nothing to that.
    let site = Site::new(&server, r#"client_timeout = "500ms""#, "");
    let mut client = connect(site.address).unwrap();
    client.write_all(&hello(&site)).unwrap();
    client.read_exact(&mut [0; 100]).unwrap();
    ending(&mut client);
    failed_by_time(&site, name_of(&client));
    assert_eq!(server.accepted(), 0);
}

fn failed_by_time(site: &Site, client: SocketAddr) {
    let record = site.gateway.record_of(client);
    assert_eq!(record["reason"], "client_timeout", "{record}");
    assert!(record["duration_ms"].as_f64().unwrap() >= 500.0, "{record}");
    site.await_failures("timeout", 1);
    let labels = [("listener", "web"), ("reason", "client_timeout")];
    assert_eq!(site.gateway.metric("lockgate_connections_closed_total", &labels), 1.0);
}

#[test]
fn a_client_that_drips_is_not_given_more_time() {
    let server = Server::named("server");
    let site = Site::new(&server, r#"client_timeout = "1s""#, "");
    let mut client = connect(site.address).unwrap();
    client.set_nodelay(true).unwrap();
    for byte in &hello(&site)[..200] {
        if client.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
    ending(&mut client);
    let record = site.gateway.record_of(name_of(&client));
    assert_eq!(record["reason"], "client_timeout", "{record}");
}

#[test]
fn other_protocols_on_the_port() {
    let server = Server::named("server");
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        // SSL 2: the hello of a client that stopped being one a long time ago.
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80",
        // A record of handshake that is longer than any.
        b"\x16\x03\x01\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00\x00",
        // Not a ClientHello, but a ServerHello.
        b"\x16\x03\x01\x00\x06\x02\x00\x00\x02\x03\x03",
    ];
    for bytes in garbage {
        let site = Site::before(&server);
        let mut client = connect(site.address).unwrap();
        client.write_all(bytes).unwrap();
        // What it says to that is an alert, or nothing.
        let mut answer = Vec::new();
        if client.read_to_end(&mut answer).is_ok() {
            assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
        }
        failed(&site, name_of(&client), "tls_failed", "protocol");
        site.gateway.await_log("TLS handshake failed");
    }
    assert_eq!(server.accepted(), 0);
}

#[test]
fn clients_that_leave() {
    let server = Server::named("server");
    for length in [0, 1, 100] {
        let site = Site::before(&server);
        let mut client = connect(site.address).unwrap();
        client.write_all(&hello(&site)[..length]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        ending(&mut client);
        failed(&site, name_of(&client), "tls_failed", "closed");

        let mut client = connect(site.address).unwrap();
        client.write_all(&hello(&site)[..length]).unwrap();
        let name = name_of(&client);
        reset(client);
        assert_eq!(site.gateway.record_of(name)["reason"], "tls_failed");
        site.await_failures("closed", 2);
    }
    // After the gateway's answer.
    let site = Site::before(&server);
    let mut client = connect(site.address).unwrap();
    client.write_all(&hello(&site)).unwrap();
    client.read_exact(&mut [0; 100]).unwrap();
    let name = name_of(&client);
    reset(client);
    failed(&site, name, "tls_failed", "closed");
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_client_that_does_not_trust_the_gateway() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let stranger = Authority::new("another");
    shake_hands(&stranger.client(), NAME, site.address).expect_err("not trusted");
    site.await_failures("alert", 1);
    let record = site.gateway.await_records(1, "tls_failed").remove(0);
    assert_eq!(record["server_name"], NAME, "{record}");
    site.gateway.await_log("TLS handshake failed");
}

#[test]
fn a_gateway_goes_on_after_all_that() {
    let server = Server::named("server");
    let site = Site::before(&server);
    for round in 0..200 {
        let mut client = connect(site.address).unwrap();
        let hello = hello(&site);
        match round % 4 {
            0 => client.write_all(&hello[..round % hello.len()]).unwrap(),
            1 => client.write_all(b"\x16\x03\x01\x00\x05hello").unwrap(),
            2 => reset(client),
            _ => client.write_all(&hello).unwrap(),
        }
    }
    for _ in 0..20 {
        visit_tls(&site.client, NAME, site.address).unwrap();
    }
    eventually("all failures are counted", || {
        let labels = [("listener", "web")];
        site.gateway.metric("lockgate_tls_handshake_failures_total", &labels) == 200.0
    });
    assert_eq!(handshakes(&site.gateway), 20.0);
    site.gateway.await_idle();
}

#[test]
fn no_renegotiation() {
    // TLS 1.2 alone has it; a gateway that took part would work for whoever asks (RFC 5746).
    // A server that says nothing: openssl takes no data while it waits for an answer.
    let server = Server::with("server", |mut stream| stream.read(&mut [0]).map(drop));
    let site = Site::before(&server);
    let mut openssl = std::process::Command::new("openssl");
    openssl
        .args(["s_client", "-tls1_2", "-connect", &site.address.to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = openssl.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"R\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
    assert_eq!(handshakes(&site.gateway), 1.0);
}

#[test]
fn an_ending_after_a_refusal_is_in_order() {
    // A reset would overtake the alert.
    let server = Server::named("server");
    let site = Site::new(&server, "", "strict_sni = true");
    for _ in 0..20 {
        let alert = refusal(&site.client, "other.example.com", site.address);
        assert_eq!(alert, AlertDescription::UnrecognisedName);
    }
    let mut client = connect(site.address).unwrap();
    let mut wire = Vec::new();
    begin(&site.client, "other.example.com").write_tls(&mut wire).unwrap();
    client.write_all(&wire).unwrap();
    assert_eq!(ending(&mut client), Ending::Fin);
}
