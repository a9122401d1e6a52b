//! Streams that end as most peers end them: with FIN, and without close_notify. All that was sent
//! arrives, and the end goes on as what it was.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustls::version::TLS13;

use super::{BEHIND, NAME, Site};
use crate::harness::behind::{offering, serve_tls};
use crate::harness::tls::{Authority, Store, shake_hands};
use crate::harness::{
    Config, Ending, Gateway, Noise, Server, connect, ending, output_of, unused_address,
};

/// More than a narrow client's buffers hold, and little enough for the kernel to hold it.
const LENGTH: usize = 1_500_000;
const SIP: usize = 12_288;
/// Longer than what is left of a connection was once waited for.
const PAUSE: Duration = Duration::from_secs(7);

/// Answers at once, and leaves with FIN alone.
fn abrupt(authority: &Authority) -> Server {
    let config = offering(&authority.issue(&[BEHIND]), &[&TLS13]);
    serve_tls("behind", unused_address(), config, |mut stream| {
        stream.read_exact(&mut [0; 8])?;
        Noise::new(1).write(&mut stream, LENGTH)?;
        stream.sock.shutdown(Shutdown::Write)?;
        ending(&mut stream.sock);
        Ok(())
    })
}

/// Reads a little, pauses, and reads on: how much there was, and how it ended.
fn read_slowly(stream: &mut impl Read) -> (usize, Option<ErrorKind>) {
    let (noise, mut seen) = (Noise::new(1), 0);
    let mut buffer = vec![0; SIP];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (seen, None),
            Ok(bytes) => {
                let first = seen == 0;
                seen += noise.check(seen, &buffer[..bytes]);
                if first {
                    thread::sleep(PAUSE);
                }
            }
            Err(error) => return (seen, Some(error.kind())),
        }
    }
}

#[test]
fn a_slow_client_gets_all_that_an_abrupt_backend_sent() {
    let authority = Authority::new("authority");
    let server = abrupt(&authority);
    let site = Site::before_tls(authority, &[&server], "", &format!("sni = \"{BEHIND}\""));
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    client.write_all(b"question").unwrap();
    assert_eq!(read_slowly(&mut client), (LENGTH, Some(ErrorKind::UnexpectedEof)));
    let name = client.sock.local_addr().unwrap();
    drop(client);
    let record = site.gateway.record_of(name);
    assert_eq!((&record["reason"], &record["bytes_out"]), (&"closed".into(), &LENGTH.into()));
    assert_eq!(record["tls_close_notify"], false, "{record}");
}

/// A gateway that takes plain connections to a server behind TLS.
fn plain_before(authority: &Authority, server: &Server, tls: &str) -> (Gateway, SocketAddr, Store) {
    let (address, store) = (unused_address(), Store::new());
    let ca = store.file("ca.pem", authority.pem());
    let config = Config::new(address).backend(server, "");
    let tls = format!("[pool.app.tls]\nca = {ca:?}\nsni = \"{BEHIND}\"\n{tls}\n");
    (Gateway::start(format!("{config}{tls}")), address, store)
}

#[test]
fn a_plain_client_sees_fin_or_a_reset_as_configured() {
    let authority = Authority::new("authority");
    let server = abrupt(&authority);
    for (required, error, reason) in
        [(false, None, "closed"), (true, Some(ErrorKind::ConnectionReset), "backend_reset")]
    {
        let tls = format!("require_close_notify = {required}");
        let (gateway, address, _store) = plain_before(&authority, &server, &tls);
        let mut client = connect(address).unwrap();
        client.write_all(b"question").unwrap();
        assert_eq!(read_slowly(&mut client), (LENGTH, error), "required: {required}");
        let name = client.local_addr().unwrap();
        drop(client);
        let record = gateway.record_of(name);
        assert_eq!(record["reason"], reason, "{record}");
        assert_eq!(record["bytes_out"], LENGTH, "{record}");
        assert_eq!(record["tls_close_notify"], false, "{record}");
    }
}

#[test]
fn a_plain_backend_sees_fin_or_a_reset_as_configured() {
    for (required, in_order) in [(false, true), (true, false)] {
        let (tell, heard) = mpsc::channel();
        let server = Server::with("server", move |mut stream| {
            let mut all = Vec::new();
            let read = stream.read_to_end(&mut all);
            tell.send((all.len(), read.is_ok())).map_err(io::Error::other)
        });
        let site = Site::new(&server, "", &format!("require_close_notify = {required}"));
        let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
        client.write_all(b"question").unwrap();
        client.sock.shutdown(Shutdown::Write).unwrap();
        let ended = ending(&mut client.sock);
        assert_eq!(heard.recv().unwrap(), (8, in_order), "required: {required}");
        assert_eq!(ended == Ending::Fin, in_order, "required: {required}");
        let record = site.gateway.record_of(client.sock.local_addr().unwrap());
        assert_eq!(record["reason"], if in_order { "closed" } else { "client_reset" }, "{record}");
        assert_eq!(record["tls_close_notify"], false, "{record}");
    }
}

/// An HTTP server of Python's, of either version of the protocol, and with or without TLS.
const SERVE: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = sys.argv[1]
    def do_GET(self):
        body = b"x" * int(self.path[1:])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// Clients of Python's that ask, read the answer and close; then some that keep the connection.
const ASK: &str = r#"
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
for size in (0, 5, 1000, 20000, 300000):
    for times in (1, 3):
        connection = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[1]), context=context, timeout=20)
        for _ in range(times):
            connection.request("GET", f"/{size}")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200 and len(body) == size, (answer.status, len(body))
        connection.close()
print("fine")
"#;

#[test]
fn plain_exchanges_of_http_end_in_order() {
    for (version, encrypted) in
        [("HTTP/1.0", false), ("HTTP/1.1", false), ("HTTP/1.0", true), ("HTTP/1.1", true)]
    {
        let what = format!("{version}, TLS to the backend: {encrypted}");
        let (authority, store) = (Authority::new("authority"), Store::new());
        let (address, backend) = (unused_address(), unused_address());
        let (site, behind) = (
            store.put("site", &authority.issue(&[NAME])),
            store.put("behind", &authority.issue(&[BEHIND])),
        );
        let ca = store.file("ca.pem", authority.pem());
        let mut python = Command::new("python3");
        python.args(["-c", SERVE, version, &backend.port().to_string()]);
        if encrypted {
            python.args([&behind.cert, &behind.key]);
        }
        // On the same port, of the address that it listens on.
        let mut python = Running(python.spawn().unwrap());
        let backend = SocketAddr::from(([127, 0, 0, 1], backend.port()));
        crate::harness::eventually("the server listens", || TcpStream::connect(backend).is_ok());
        let config = Config::new(address).tls(&[&site], "");
        let backend = format!("[[pool.app.backend]]\naddress = \"{backend}\"\n");
        let tls = match encrypted {
            true => format!("[pool.app.tls]\nca = {ca:?}\nsni = \"{BEHIND}\"\n"),
            false => String::new(),
        };
        let gateway = Gateway::start(format!("{config}{backend}{tls}"));
        let ask = ASK.replace("127.0.0.1", &address.ip().to_string());
        let port = address.port().to_string();
        let output = output_of(Command::new("python3").args(["-c", &ask, &port]).arg(&ca));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {error}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "fine", "{what}");
        // http.client opens another connection when a server of HTTP/1.0 has closed the first.
        let count = if version == "HTTP/1.0" { 20 } else { 10 };
        crate::harness::eventually("all have ended", || gateway.records().len() == count);
        for record in gateway.records() {
            assert_eq!(record["reason"], "closed", "{what}: {record}");
            assert_eq!(record["tls_close_notify"], false, "{what}: {record}");
        }
        python.0.kill().unwrap();
    }
}

/// A process that does not outlive the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
