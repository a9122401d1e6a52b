//! Workers with real sockets, and a connection that panics in the middle of its handshake.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::log::Reader;
use crate::relay::Limits;
use crate::route::Routes;
use crate::snapshot::Protocol;
use crate::stats::{Handshake, PerWorker};
use crate::tls::certificate::Certificate;
use crate::tls::certificates::Certificates;
use crate::tls::clock::Clock;
use crate::tls::server::{ClientAuth, MinVersion, Server, ServerSettings};
use crate::tls::suites::Suites;
use crate::tls::tickets::Secret;

const PATIENCE: Duration = Duration::from_secs(20);

/// TLS whose clock panics while `armed`: it is asked for the time when a ticket is made, which is
/// deep within a handshake. And a client that trusts it.
fn server(armed: &Arc<AtomicBool>) -> (Server, ClientConfig) {
    let made = rcgen::generate_simple_self_signed(["panic.example".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let certificate = Certificate::read(&cert, &key).unwrap();
    let armed = Arc::clone(armed);
    let clock = Clock::new(move || {
        assert!(!armed.load(Ordering::SeqCst), "this panic belongs to the test");
        SystemTime::now()
    });
    let server = Server::new(ServerSettings {
        listener: "tls".to_owned(),
        certificates: Certificates::new(vec![certificate]).unwrap(),
        min_version: MinVersion::Tls13,
        suites: Suites::recommended(),
        alpn: Vec::new(),
        strict_sni: false,
        client_auth: ClientAuth::None,
        tickets: Some(Secret::random().unwrap()),
        require_close_notify: false,
        clock,
    });
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server.unwrap(), client)
}

fn listener(name: &str, socket: &TcpListener, protocol: Protocol) -> Arc<Listener> {
    let limits = Limits { idle: PATIENCE, half_close: PATIENCE, user_timeout: None };
    Arc::new(Listener {
        name: name.into(),
        bind: vec![socket.local_addr().unwrap()],
        protocol,
        routes: Routes::new([]),
        pool: None,
        guard: None,
        max_connections: 0,
        client_timeout: PATIENCE,
        first_bytes_timeout: None,
        limits,
        meters: Arc::new(ListenerMeters {
            stats: PerWorker::new(1),
            active: AtomicU32::new(0),
            duration_seconds: metrics::Histogram::noop(),
        }),
    })
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Shakes hands, and says how the connection ends: nobody is there to be served by.
fn visit(client: &ClientConfig, to: SocketAddr) -> ErrorKind {
    let name = ServerName::try_from("panic.example").unwrap();
    let conn = ClientConnection::new(Arc::new(client.clone()), name).unwrap();
    let mut stream = rustls::StreamOwned::new(conn, connect(to));
    match stream.read(&mut [0; 16]) {
        Ok(count) => panic!("{count} bytes of nobody"),
        Err(error) => error.kind(),
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_panic_costs_the_connection_that_it_is_in_and_no_other() {
    let armed = Arc::new(AtomicBool::new(false));
    let output = Output::start(Reader::Plain).unwrap();
    let mut workers = Workers::start(1, false, &output, Format::Json, 0).unwrap();
    let crew = Arc::clone(&workers.crew);
    let [one, other] = [(); 2].map(|()| socket::listen(([127, 0, 0, 1], 0).into(), 1).unwrap());
    // The clock is asked when the listener is made as well.
    let (server, client) = server(&armed);
    let handshake_seconds = metrics::Histogram::noop();
    let tls = listener("tls", &one[0], Protocol::Tls { server, handshake_seconds });
    let redirect = listener("redirect", &other[0], Protocol::Redirect(None));
    let [to_tls, to_redirect] = [tls.bind[0], redirect.bind[0]];
    let snapshot = Arc::new(Snapshot {
        generation: 1,
        max_connections: 100,
        access_log: false,
        listeners: vec![Arc::clone(&tls), redirect],
    });
    let shared = |sockets: Vec<TcpListener>| sockets.into_iter().map(Arc::new).collect();
    crew.publish(&snapshot, &[(to_tls, shared(one)), (to_redirect, shared(other))].into());
    let made = &tls.meters.stats.of(0).handshakes;
    let handshakes = || (0..Handshake::ALL.len()).map(|kind| made.of(kind).get()).sum::<u64>();
    let open = || tls.meters.active.load(Ordering::SeqCst);

    let mut survivor = connect(to_redirect);
    survivor.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    visit(&client, to_tls);
    eventually("a handshake without a panic", || handshakes() == 1);

    armed.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        visit(&client, to_tls);
    }
    eventually("their places are free", || open() == 0 && crew.connections() == 1);
    assert_eq!(handshakes(), 1);
    armed.store(false, Ordering::SeqCst);

    // The same worker, the same listener, and the connection that was open meanwhile.
    visit(&client, to_tls);
    eventually("a handshake after the panics", || handshakes() == 2);
    survivor.write_all(b"Host: panic.example\r\n\r\n").unwrap();
    let mut answer = String::new();
    survivor.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    let beat = crew.heartbeats().next();
    eventually("the worker shows that it lives", || crew.heartbeats().next() != beat);
    eventually("nobody is left", || crew.connections() == 0);
    workers.stop();
}
