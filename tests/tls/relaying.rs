//! Bytes, and the ends of them, through TLS: the plain relay's promises hold here as well.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::Signal;
use rustls::version::{TLS12, TLS13};

use super::{NAME, Site};
use crate::harness::behind::{close_notify, converse};
use crate::harness::tls::{TlsStream, begin, greeting_tls, shake_hands, visit_tls};
use crate::harness::{
    Ending, Http, Noise, PATIENCE, Server, connect, ending, eventually, output_of, refused, reset,
    stays_silent,
};

const MIB: usize = 1 << 20;
/// What is not optimised takes its time.
const LONG: usize = if cfg!(debug_assertions) { 20 * MIB } else { 100 * MIB };

/// A client's own address, by which its record is found.
fn name_of(client: &TlsStream) -> SocketAddr {
    client.sock.local_addr().unwrap()
}

#[test]
fn a_long_request_and_a_long_answer() {
    let server = Server::with("server", |mut stream| {
        assert_eq!(Noise::new(1).read_to_end(&mut stream)?, LONG);
        Noise::new(2).write(&mut stream, LONG)
    });
    let site = Site::before(&server);
    for version in [&TLS12, &TLS13] {
        let config = site.authority.client_of(&[version], None);
        let mut client = shake_hands(&config, NAME, site.address).unwrap();
        Noise::new(1).write(&mut client, LONG).unwrap();
        close_notify(&mut client).unwrap();
        assert_eq!(Noise::new(2).read_to_end(&mut client).unwrap(), LONG);

        let record = site.gateway.record_of(name_of(&client));
        assert_eq!(record["reason"], "closed");
        // What the backend sees is counted, and not what TLS makes of it.
        assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&LONG.into(), &LONG.into()));
    }
}

#[test]
fn both_sides_talk_at_once() {
    fn serve(mut stream: TcpStream) -> io::Result<usize> {
        let mut sending = stream.try_clone()?;
        thread::scope(|scope| {
            let sender = scope.spawn(move || {
                Noise::new(1).write(&mut sending, LONG)?;
                sending.shutdown(Shutdown::Write)
            });
            let received = Noise::new(2).read_to_end(&mut stream)?;
            sender.join().unwrap()?;
            Ok(received)
        })
    }
    let (heard, server_heard) = mpsc::channel();
    let server =
        Server::with("server", move |stream| heard.send(serve(stream)?).map_err(io::Error::other));
    let site = Site::before(&server);
    let client = shake_hands(&site.client, NAME, site.address).unwrap();
    assert_eq!(converse(client, (&Noise::new(2), LONG), &Noise::new(1)), LONG);
    assert_eq!(server_heard.recv_timeout(PATIENCE).unwrap(), LONG);
}

#[test]
fn a_client_that_has_finished_still_hears() {
    let server = Server::with("server", |mut stream| {
        // The answer begins only once the client's end is here.
        io::copy(&mut stream, &mut io::sink())?;
        (0..100).try_for_each(|number| writeln!(stream, "{number}"))
    });
    let site = Site::before(&server);
    for (version, fin_too) in [(&TLS12, false), (&TLS13, false), (&TLS12, true), (&TLS13, true)] {
        let config = site.authority.client_of(&[version], None);
        let mut client = shake_hands(&config, NAME, site.address).unwrap();
        client.write_all(b"question").unwrap();
        close_notify(&mut client).unwrap();
        if fin_too {
            client.sock.shutdown(Shutdown::Write).unwrap();
        }
        let mut answer = String::new();
        // Fails unless the end is announced by close_notify.
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.lines().last(), Some("99"));
        assert_eq!(ending(&mut client.sock), Ending::Fin);
        let record = site.gateway.record_of(name_of(&client));
        assert_eq!((&record["reason"], &record["bytes_in"]), (&"closed".into(), &8.into()));
    }
}

#[test]
fn a_server_that_has_finished_still_hears() {
    let (heard, server_heard) = mpsc::channel();
    let server = Server::with("server", move |mut stream| {
        stream.shutdown(Shutdown::Write)?;
        heard.send(Noise::new(1).read_to_end(&mut stream)?).map_err(io::Error::other)
    });
    let site = Site::before(&server);

    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    // The server's end comes first, and by close_notify.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    Noise::new(1).write(&mut client, MIB).unwrap();
    close_notify(&mut client).unwrap();
    assert_eq!(server_heard.recv_timeout(PATIENCE).unwrap(), MIB);
    assert_eq!(ending(&mut client.sock), Ending::Fin);
    assert_eq!(site.gateway.record_of(name_of(&client))["reason"], "closed");
}

/// A server that greets, and tells how its connection ended.
fn witness() -> (Server, mpsc::Receiver<Ending>) {
    let (seen, endings) = mpsc::channel();
    let server = Server::with("witness", move |mut stream| {
        stream.write_all(b"witness\n")?;
        seen.send(ending(&mut stream)).map_err(io::Error::other)
    });
    (server, endings)
}

#[test]
fn a_client_that_is_cut_off_has_not_finished() {
    let (server, endings) = witness();
    let site = Site::new(&server, "", "require_close_notify = true");
    for version in [&TLS12, &TLS13] {
        let config = site.authority.client_of(&[version], None);
        let mut client = shake_hands(&config, NAME, site.address).unwrap();
        greeting_tls(&mut client).unwrap();
        client.write_all(b"half of what there is to ").unwrap();
        // FIN, without close_notify before it: anybody on the way can send that.
        client.sock.shutdown(Shutdown::Write).unwrap();
        assert_eq!(endings.recv_timeout(PATIENCE).unwrap(), Ending::Reset);
        assert_eq!(site.gateway.record_of(name_of(&client))["reason"], "client_reset");
        assert_eq!(ending(&mut client.sock), Ending::Reset);
    }
}

#[test]
fn a_client_that_is_cut_off_in_a_tls_record_has_not_finished() {
    let (server, endings) = witness();
    let site = Site::before(&server);
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    greeting_tls(&mut client).unwrap();
    client.conn.writer().write_all(&[b'x'; 5000]).unwrap();
    let mut wire = Vec::new();
    client.conn.write_tls(&mut wire).unwrap();
    client.sock.write_all(&wire[..wire.len() - 1]).unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(endings.recv_timeout(PATIENCE).unwrap(), Ending::Reset);
    let record = site.gateway.record_of(name_of(&client));
    assert_eq!((&record["reason"], &record["bytes_in"]), (&"client_reset".into(), &0.into()));
}

#[test]
fn a_reset_by_the_client_resets_the_server() {
    let (server, endings) = witness();
    let site = Site::before(&server);
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    greeting_tls(&mut client).unwrap();
    let name = name_of(&client);
    let (_, socket) = client.into_parts();
    reset(socket);
    assert_eq!(endings.recv_timeout(PATIENCE).unwrap(), Ending::Reset);
    assert_eq!(site.gateway.record_of(name)["reason"], "client_reset");
}

#[test]
fn a_changed_byte_ends_a_connection_and_never_arrives() {
    let (server, endings) = witness();
    let site = Site::before(&server);
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    greeting_tls(&mut client).unwrap();
    client.conn.writer().write_all(b"some words").unwrap();
    let mut wire = Vec::new();
    client.conn.write_tls(&mut wire).unwrap();
    *wire.last_mut().unwrap() ^= 1;
    client.sock.write_all(&wire).unwrap();
    assert_eq!(endings.recv_timeout(PATIENCE).unwrap(), Ending::Reset);
    let record = site.gateway.record_of(name_of(&client));
    assert_eq!(record["bytes_in"], 0, "{record}");
    assert_ne!(record["reason"], "closed", "{record}");
}

#[test]
fn a_reset_by_the_server_is_no_end_of_an_answer() {
    let server = Server::with("server", |mut stream| {
        stream.read_exact(&mut [0])?;
        reset(stream);
        Ok(())
    });
    let site = Site::before(&server);
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    client.write_all(b"x").unwrap();
    let error = client.read(&mut [0]).expect_err("close_notify would be a lie");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof));
    assert_eq!(site.gateway.record_of(name_of(&client))["reason"], "backend_reset");
}

#[test]
fn a_request_that_comes_with_the_end_of_the_handshake() {
    let server = Server::with("server", |mut stream| {
        let mut request = String::new();
        stream.read_to_string(&mut request)?;
        stream.write_all(request.to_uppercase().as_bytes())
    });
    let site = Site::before(&server);
    for version in [&TLS12, &TLS13] {
        let config = site.authority.client_of(&[version], None);
        let mut conn = begin(&config, NAME);
        let mut socket = connect(site.address).unwrap();
        while conn.is_handshaking() {
            // The client's last words of the handshake wait for what is to go with them.
            if conn.wants_write() && *version == TLS12 || conn.protocol_version().is_none() {
                while conn.wants_write() {
                    conn.write_tls(&mut socket).unwrap();
                }
            }
            conn.read_tls(&mut socket).unwrap();
            conn.process_new_packets().unwrap();
        }
        conn.writer().write_all(b"question").unwrap();
        conn.send_close_notify();
        let mut wire = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut wire).unwrap();
        }
        socket.write_all(&wire).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let mut client = TlsStream::new(conn, socket);
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "QUESTION", "{version:?}");
    }
}

#[test]
fn keys_that_change_under_way() {
    let server = Server::echo();
    let site = Site::before(&server);
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    for _ in 0..10 {
        client.write_all(b"before").unwrap();
        // Asks the gateway to change its own as well (RFC 8446, section 4.6.3).
        client.conn.refresh_traffic_keys().unwrap();
        client.write_all(b"after").unwrap();
        let mut echo = [0; 11];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"beforeafter");
    }
}

#[test]
fn no_backend_that_answers() {
    let mut server = Server::named("server");
    let site = Site::before(&server);
    server.kill();
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    let name = name_of(&client);
    let error = client.read(&mut [0]).expect_err("close_notify would be an empty answer");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof));
    let record = site.gateway.record_of(name);
    assert_eq!(record["reason"], "connect_failed", "{record}");
    assert_eq!(record["server_name"], NAME, "{record}");
    assert!(record["handshake_ms"].is_number(), "{record}");
}

#[test]
fn a_gateway_that_stops_lets_connections_finish() {
    let server = Server::echo();
    let mut site = Site::before(&server);
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    let name = name_of(&client);
    client.write_all(b"before").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    site.gateway.signal(Signal::SIGTERM);
    eventually("it listens no more", || refused(site.address));
    Noise::new(1).write(&mut client, MIB / 16).unwrap();
    assert_eq!(Noise::new(1).read(&mut client, MIB / 16).unwrap(), MIB / 16);
    close_notify(&mut client).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(site.gateway.wait().code(), Some(0));
    assert_eq!(site.gateway.record_of(name)["reason"], "closed");
}

#[test]
fn the_server_may_speak_first() {
    let server = Server::named("server");
    let site = Site::before(&server);
    assert_eq!(visit_tls(&site.client, NAME, site.address).unwrap().greeting, "server");
}

#[test]
fn silence_ends_a_connection() {
    let server = Server::named("server");
    let site = Site::new(&server, r#"idle_timeout = "500ms""#, "");
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    greeting_tls(&mut client).unwrap();
    ending(&mut client.sock);
    assert_eq!(site.gateway.record_of(name_of(&client))["reason"], "idle_timeout");
}

#[test]
fn a_client_that_does_not_read_holds_up_the_server() {
    const LENGTH: usize = 64 * MIB;
    let server = Server::with("server", |mut stream| Noise::new(1).write(&mut stream, LENGTH));
    let site = Site::before(&server);
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    assert!(!stays_silent(&client.sock), "the answer begins");
    // What is on the way fits into the buffers of two sockets, and grows no more.
    let bytes = || site.gateway.metric("lockgate_bytes_total", &[("direction", "out")]);
    let mut before = -1.0;
    while bytes() != before {
        before = bytes();
        thread::sleep(std::time::Duration::from_millis(300));
    }
    assert!(before < LENGTH as f64, "{before} bytes were taken for a client that does not read");
    assert_eq!(Noise::new(1).read_to_end(&mut client).unwrap(), LENGTH);
}

#[test]
fn real_clients() {
    let web = Http::new(200);
    let server = web.serve("behind");
    let site = Site::before(&server);
    let ca = site.store.file("ca.pem", site.authority.pem());
    let (ip, port) = (site.address.ip(), site.address.port());

    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "--max-time", "20", "--cacert"]).arg(&ca);
        curl.args(["--resolve", &format!("{NAME}:{port}:{ip}")]).args(version);
        let output = output_of(curl.arg(format!("https://{NAME}:{port}/")));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        assert_eq!(output.stdout, b"behind", "{error}");
    }

    // With an end in order: unwrap() waits for the gateway's close_notify.
    let script = format!(
        r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
with socket.create_connection(("{ip}", {port}), 20) as tcp:
    tls = context.wrap_socket(tcp, server_hostname="{NAME}", suppress_ragged_eofs=False)
    tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while part := tls.recv(4096):
        answer += part
    assert answer.endswith(b"\r\n\r\nbehind"), answer
    print(tls.version())
    tls.unwrap()
"#
    );
    let output = output_of(Command::new("python3").args(["-c", &script]).arg(&ca));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "TLSv1.3");

    // One that leaves its ticket unread resets the connection, and is recorded as it left.
    eventually("all have left", || site.gateway.records().len() == 3);
    for record in site.gateway.records() {
        assert_eq!(record["server_name"], NAME);
    }
}
