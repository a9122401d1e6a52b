//! Servers that speak TLS themselves, and what a test does on either end of TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::DerefMut;
use std::sync::Arc;
use std::thread;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{
    ConnectionCommon, ServerConfig, ServerConnection, SideData, StreamOwned,
    SupportedProtocolVersion,
};

use super::tls::Issued;
use super::{Noise, Server};

/// A connection that a server has accepted. Its handshake is not over yet.
pub type ServedStream = StreamOwned<ServerConnection, TcpStream>;

/// What a server of these versions offers that has this certificate.
pub fn offering(issued: &Issued, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.der.clone()], key)
        .unwrap()
}

/// A server that speaks TLS.
pub fn serve_tls(
    name: &str,
    address: SocketAddr,
    config: ServerConfig,
    serve: impl Fn(ServedStream) -> io::Result<()> + Send + Sync + 'static,
) -> Server {
    let config = Arc::new(config);
    Server::new(name, address, move |stream| {
        let conn = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        serve(StreamOwned::new(conn, stream))
    })
}

/// Says that there is nothing more to come, and hears on.
pub fn close_notify<C, S>(stream: &mut StreamOwned<C, TcpStream>) -> io::Result<()>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    stream.conn.send_close_notify();
    stream.flush()
}

/// Sends so many bytes of one stream while it receives another, says that there is nothing more
/// to come, and returns how many there were of the other one before that was closed in order.
pub fn converse<C, S>(
    mut stream: StreamOwned<C, TcpStream>,
    (mine, length): (&Noise, usize),
    theirs: &Noise,
) -> usize
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream.sock.set_nonblocking(true).unwrap();
    let mut sink = Sink { stream: &mut stream, theirs, seen: 0 };
    mine.write(&mut sink, length).unwrap();
    let seen = sink.seen;
    stream.sock.set_nonblocking(false).unwrap();
    close_notify(&mut stream).unwrap();
    let mut rest = Vec::new();
    // Fails unless the end is announced by close_notify.
    stream.read_to_end(&mut rest).unwrap();
    seen + theirs.check(seen, &rest)
}

/// Lets the other direction go on when this one cannot.
struct Sink<'a, C> {
    stream: &'a mut StreamOwned<C, TcpStream>,
    theirs: &'a Noise,
    seen: usize,
}

impl<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData> Sink<'_, C> {
    fn turn(&mut self) {
        let StreamOwned { conn, sock } = &mut *self.stream;
        match conn.read_tls(sock) {
            Ok(_) => drop(conn.process_new_packets().unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        let mut plain = Vec::new();
        match conn.reader().read_to_end(&mut plain) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => {}
        }
        self.seen += self.theirs.check(self.seen, &plain);
        match conn.write_tls(sock) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => {}
        }
    }
}

impl<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData> Write for Sink<'_, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.stream.conn.wants_write() {
            self.turn();
        }
        self.stream.conn.writer().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
