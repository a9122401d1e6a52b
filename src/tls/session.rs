//! A TLS connection on a watched socket: its handshake, and then one side of a relay.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::task::Poll;

use rustls::server::{Accepted, Acceptor, ServerConnection};
use rustls::{
    CertificateError, ClientConnection, Connection, Error, HandshakeKind, PeerIncompatible,
    ProtocolVersion,
};

use super::client::{Client, PeerName};
use super::server::Server;
use super::suites::iana_name;
use crate::event_loop::Watched;
use crate::relay::{Plain, Received, Side, Then, room};
use crate::stats::{Handshake, HandshakeFailure};

/// A TLS connection, without its socket.
pub struct Session {
    connection: Box<Connection>,
    /// The end of what is sent has been announced.
    closing: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("closing", &self.closing).finish_non_exhaustive()
    }
}

/// What an error of rustls counts as.
fn failure(error: &Error) -> HandshakeFailure {
    match error {
        Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        ) => HandshakeFailure::NoSharedCipher,
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => HandshakeFailure::NoSharedVersion,
        Error::NoApplicationProtocol => HandshakeFailure::NoSharedProtocol,
        Error::NoCertificatesPresented
        | Error::InvalidCertificate(_)
        | Error::InvalidCertRevocationList(_) => HandshakeFailure::BadCertificate,
        Error::AlertReceived(_) => HandshakeFailure::Alert,
        _ => HandshakeFailure::Protocol,
    }
}

/// A handshake that failed, and what can be told of it.
#[derive(Debug)]
pub struct Refused {
    /// The kind.
    pub failure: HandshakeFailure,
    /// In words.
    pub detail: String,
    /// The name that the client asked for.
    pub server_name: Option<String>,
}

impl Refused {
    fn new(failure: HandshakeFailure, detail: impl fmt::Display) -> Self {
        Self { failure, detail: detail.to_string(), server_name: None }
    }

    /// For a backend whose host is no name that a certificate can have.
    pub fn nameless() -> Self {
        Self::new(HandshakeFailure::BadCertificate, "no certificate can be for this host's name")
    }

    /// For a handshake that took too long.
    pub fn timeout() -> Self {
        Self::new(HandshakeFailure::Timeout, "the handshake took too long")
    }

    fn of(error: &Error) -> Self {
        let detail = match error {
            // The certificate's own words say more than "invalid".
            Error::InvalidCertificate(CertificateError::Other(other)) => other.to_string(),
            error => error.to_string(),
        };
        Self::new(failure(error), detail)
    }

    fn naming(self, server_name: Option<&str>) -> Self {
        Self { server_name: server_name.map(str::to_owned), ..self }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::new(HandshakeFailure::Closed, error)
    }
}

/// A ClientHello that was received, and not answered yet: answering is what costs.
pub struct Hello<'a> {
    socket: &'a Watched<TcpStream>,
    accepted: Accepted,
}

impl fmt::Debug for Hello<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").finish_non_exhaustive()
    }
}

impl<'a> Hello<'a> {
    /// Waits for a ClientHello.
    ///
    /// Fails if something else comes. The client has been told, as far as it listens.
    pub async fn receive(socket: &'a Watched<TcpStream>) -> Result<Self, Refused> {
        let mut acceptor = Acceptor::default();
        let accepted = poll_fn(|_| {
            loop {
                match acceptor.accept() {
                    Ok(Some(accepted)) => return Poll::Ready(Ok(accepted)),
                    Ok(None) => {}
                    Err((error, mut alert)) => {
                        tell(socket, |to| alert.write(to));
                        return Poll::Ready(Err(Refused::of(&error)));
                    }
                }
                match acceptor.read_tls(&mut Wire(socket)) {
                    Ok(0) => return Poll::Ready(Err(closed())),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
        });
        Ok(Self { socket, accepted: accepted.await? })
    }

    /// The name that it asks for, if any.
    pub fn server_name(&self) -> Option<String> {
        let name = self.accepted.client_hello().server_name().map(str::to_owned)?;
        Some(name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase())
    }

    /// The application protocols that it offers.
    pub fn protocols(&self) -> Vec<Vec<u8>> {
        let hello = self.accepted.client_hello();
        hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect()
    }

    /// Answers it, and goes through the rest of the handshake.
    ///
    /// Fails if the two ends do not agree. The client has been told why, as far as it listens.
    pub async fn answer(self, server: &Server) -> Result<Session, Refused> {
        let Self { socket, accepted } = self;
        let name = accepted.client_hello().server_name().map(str::to_owned);
        let refused = |(error, mut alert): (Error, rustls::server::AcceptedAlert)| {
            let refused = match server.refusal(&error, name.as_deref()) {
                Some(alert) => {
                    tell(socket, |to| to.write(&alert));
                    Refused::new(HandshakeFailure::UnknownSni, "no certificate for it")
                }
                None => {
                    tell(socket, |to| alert.write(to));
                    Refused::of(&error)
                }
            };
            refused.naming(name.as_deref())
        };
        let connection = accepted.into_connection(server.config()).map_err(refused)?;
        let mut session = Session { connection: Box::new(connection.into()), closing: false };
        session.shake_hands(socket).await.map_err(|refused| refused.naming(name.as_deref()))?;
        Ok(session)
    }
}

impl Session {
    /// Goes through the handshake with a backend, as whom it is asked for.
    ///
    /// Fails if the two ends do not agree, or it is not who it has to be.
    pub async fn connect(
        socket: &Watched<TcpStream>,
        client: &Client,
        peer: PeerName,
    ) -> Result<Self, Refused> {
        let connection =
            ClientConnection::new(client.config(), peer.0).map_err(|error| Refused::of(&error))?;
        let mut session = Self { connection: Box::new(connection.into()), closing: false };
        session.shake_hands(socket).await?;
        Ok(session)
    }

    /// The server's side of it.
    fn server(&self) -> Option<&ServerConnection> {
        match &*self.connection {
            Connection::Server(server) => Some(server),
            Connection::Client(_) => None,
        }
    }

    /// The name that the client asked for.
    pub fn server_name(&self) -> Option<&str> {
        self.server()?.server_name()
    }

    /// The application protocol that was agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// What the handshake counts as.
    pub fn handshake(&self) -> Handshake {
        let resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        match (self.connection.protocol_version(), resumed) {
            (Some(ProtocolVersion::TLSv1_2), false) => Handshake::Tls12,
            (Some(ProtocolVersion::TLSv1_2), true) => Handshake::Tls12Resumed,
            (_, false) => Handshake::Tls13,
            (_, true) => Handshake::Tls13Resumed,
        }
    }

    /// The cipher suite by its IANA name.
    pub fn cipher(&self) -> Option<&'static str> {
        self.connection.negotiated_cipher_suite().and_then(|suite| iana_name(suite.suite()))
    }

    /// Goes through the handshake, once the first message is there or to be sent.
    async fn shake_hands(&mut self, socket: &Watched<TcpStream>) -> Result<(), Refused> {
        poll_fn(|_| {
            loop {
                // What a ClientHello was read with may hold more.
                if let Err(error) = self.connection.process_new_packets() {
                    tell(socket, |to| self.connection.write_tls(to));
                    return Poll::Ready(Err(Refused::of(&error)));
                }
                if !self.write(socket)? {
                    return Poll::Pending;
                }
                if !self.connection.is_handshaking() {
                    return Poll::Ready(Ok(()));
                }
                match self.connection.read_tls(&mut Wire(socket)) {
                    Ok(0) => return Poll::Ready(Err(closed())),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
        })
        .await
    }

    /// Sends what is to be sent; false if there is no room for all of it.
    fn write(&mut self, socket: &Watched<TcpStream>) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Wire(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn closed() -> Refused {
    Refused::new(HandshakeFailure::Closed, "the connection ended in the handshake")
}

/// Sends what is left to say, if there is room for it: the connection is over either way.
fn tell<'a>(
    socket: &'a Watched<TcpStream>,
    write: impl FnOnce(&mut Wire<'a>) -> io::Result<usize>,
) {
    if let Err(error) = write(&mut Wire(socket)) {
        tracing::debug!(%error, "an alert could not be sent");
    }
}

/// A session with its socket: one side of a relay.
#[derive(Debug)]
pub struct Tls<'a> {
    /// What the session was made on.
    pub socket: &'a Watched<TcpStream>,
    /// After its handshake.
    pub session: &'a mut Session,
}

impl Side for Tls<'_> {
    const PLAIN: bool = false;

    fn socket(&self) -> &Watched<TcpStream> {
        self.socket
    }

    fn is_readable(&self) -> bool {
        // A receive has always taken all that was decrypted, or says that it knows of more.
        self.socket.is_readable() || !self.session.connection.wants_read()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match self.session.connection.reader().read(buffer) {
                Ok(0) => return Ok(Received { bytes: 0, then: Then::End }),
                Ok(bytes) => return Ok(Received { bytes, then: Then::Unknown }),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It was told that nothing follows, and had nothing more to say: many leave like that.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && self.session.closing => {
                    return Ok(Received { bytes: 0, then: Then::End });
                }
                // The socket ended before the stream did: it may have been cut (RFC 8446, 6.1).
                Err(error) => return Err(error),
            }
            match self.session.connection.read_tls(&mut Wire(self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Received { bytes: 0, then: Then::Dry });
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if let Err(error) = self.session.connection.process_new_packets() {
                tell(self.socket, |to| self.session.connection.write_tls(to));
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }

    fn send(&mut self, bytes: &[u8], _more: bool) -> io::Result<usize> {
        // One buffer at a time: what a slow receiver has not taken is all that is held for it.
        if !self.flush()? {
            return Ok(0);
        }
        let taken = self.session.connection.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.session.write(self.socket)
    }

    fn finish(&mut self, last: bool) -> io::Result<bool> {
        if !self.session.closing {
            self.session.closing = true;
            self.session.connection.send_close_notify();
        }
        if !self.flush()? {
            return Ok(false);
        }
        if !last {
            self.socket.get_ref().shutdown(Shutdown::Write)?;
        }
        Ok(true)
    }
}

/// A watched socket as rustls reads and writes it: straight into and out of its own buffers.
struct Wire<'a>(&'a Watched<TcpStream>);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.0.is_readable() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let received = Plain(self.0).receive(buffer)?;
        match received.then {
            Then::Dry if received.bytes == 0 => Err(ErrorKind::WouldBlock.into()),
            Then::Unknown if received.bytes == 0 => Err(ErrorKind::Interrupted.into()),
            Then::Dry | Then::Unknown | Then::End => Ok(received.bytes),
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.0.is_writable() {
            return Err(ErrorKind::WouldBlock.into());
        }
        match room(self.0, || self.0.get_ref().write_vectored(bytes))? {
            0 => Err(ErrorKind::WouldBlock.into()),
            written => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
