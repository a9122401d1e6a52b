//! A TLS connection on a watched socket: its handshake, and then one side of a relay.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::task::Poll;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, Error, HandshakeKind, ProtocolVersion};

use super::client::{Client, PeerName};
use super::inspect;
use super::records::{Records, Stream, sealed};
use super::refusal::{self, Refused};
use super::server::Server;
use super::suites::iana_name;
use crate::event_loop::Watched;
use crate::proto::client_hello::{Parsed, Reader, Reason};
use crate::record::ClientCertificate;
use crate::relay::{Ended, Plain, Received, Side, Then, gather, in_kernel, room};
use crate::socket;
use crate::stats::{Handshake, HandshakeFailure};

/// As a ClientHello has it (RFC 5246, section 7.4.1.2).
const TLS12: u16 = 0x0303;

/// Most bytes that are taken off the wire at a time: a handshake's longest message, in parts.
const WIRE: usize = 72 << 10;

/// Most bytes that are sealed at a time.
const TURN: usize = 32 << 10;

thread_local! {
    static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; WIRE].into());
    static SEALED: RefCell<Box<[u8]>> = RefCell::new(vec![0; sealed(TURN)].into());
}

/// A ClientHello that was received, and not answered yet: answering is what costs.
#[derive(Debug)]
pub struct Hello<'a> {
    socket: &'a Watched<TcpStream>,
    /// All that has come so far.
    bytes: Vec<u8>,
    server_name: Option<String>,
    protocols: Vec<Vec<u8>>,
}

impl<'a> Hello<'a> {
    /// Waits for a ClientHello, of which `bytes` were received already.
    ///
    /// Fails if something else comes. The client has been told, as far as it listens.
    pub async fn receive(
        socket: &'a Watched<TcpStream>,
        mut bytes: Vec<u8>,
    ) -> Result<Self, Refused> {
        let mut reader = Reader::new();
        let heard = gather(socket, &mut bytes, |bytes, ended| match reader.advance(bytes) {
            Parsed::Hello(hello) => Some(Ok((
                hello.server_name().map(str::to_owned),
                hello.protocols().map(<[u8]>::to_vec).collect(),
                hello.versions().all(|version| version < TLS12),
            ))),
            Parsed::Incomplete if ended => Some(Err(None)),
            Parsed::Incomplete => None,
            Parsed::Invalid(reason) => Some(Err(Some(reason))),
        });
        match heard.await? {
            Ok((server_name, _, true)) => {
                // rustls may first find something else that an old client lacks.
                tell(socket, &refusal::PROTOCOL_VERSION);
                let detail = "neither TLS 1.2 nor a later one is offered";
                let refused = Refused::new(HandshakeFailure::NoSharedVersion, detail);
                Err(refused.naming(server_name))
            }
            Ok((server_name, protocols, false)) => {
                Ok(Self { socket, bytes, server_name, protocols })
            }
            Err(None) => Err(closed()),
            Err(Some(reason)) => {
                let (alert, detail) = match reason {
                    Reason::NotTls => (refusal::DECODE_ERROR, "what came is not TLS"),
                    Reason::Sslv2 => (refusal::PROTOCOL_VERSION, "a hello of SSL 2.0"),
                    Reason::TooLarge => (refusal::DECODE_ERROR, "a hello that is too large"),
                    Reason::Malformed => (refusal::DECODE_ERROR, "a malformed hello"),
                };
                tell(socket, &alert);
                Err(Refused::new(HandshakeFailure::Protocol, detail))
            }
        }
    }

    /// The name that it asks for, if any.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The application protocols that it offers.
    pub fn protocols(&self) -> Vec<&[u8]> {
        self.protocols.iter().map(Vec::as_slice).collect()
    }

    /// Answers it, and goes through the rest of the handshake.
    ///
    /// Fails if the two ends do not agree. The client has been told why, as far as it listens.
    pub async fn answer(self, server: &Server) -> Result<ServerSession, Refused> {
        let Self { socket, mut bytes, server_name, .. } = self;
        let connection = match UnbufferedServerConnection::new(server.config()) {
            Ok(connection) => connection,
            Err(error) => return Err(Refused::of(&error).naming(server_name)),
        };
        let mut session = Session::new(connection);
        session.requires_close_notify = server.requires_close_notify();
        if let Err(error) = session.take(&mut bytes) {
            let (refused, alert) = server.refusal(&error, server_name.as_deref());
            match alert {
                Some(alert) => tell(socket, &alert),
                None => tell(socket, session.stream.outgoing()),
            }
            return Err(refused.naming(server_name));
        }
        drop(bytes);
        match session.shake_hands(socket, refusal::alert_to_client).await {
            Ok(()) => Ok(session.naming(server_name)),
            Err(refused) => Err(refused.naming(server_name)),
        }
    }
}

/// A connection to a client.
pub type ServerSession = Session<UnbufferedServerConnection>;

/// A connection to a backend.
pub type ClientSession = Session<UnbufferedClientConnection>;

/// A TLS connection, without its socket.
///
/// Silent, it holds the two keys and little more: bytes that come, and bytes that go, pass through
/// buffers that all connections of a worker share.
pub struct Session<C> {
    stream: Stream<C>,
    /// What the client called the server.
    server_name: Option<String>,
    /// Received with the end of the handshake, and not handed on yet.
    early: Vec<u8>,
    /// Sealed, and not taken by the socket yet.
    unsent: Vec<u8>,
    /// How much of it was.
    sent: usize,
    /// The end of what is sent has been announced, by so many bytes; 0 = it has not.
    farewell: u32,
    /// The peer has gone on since.
    heard_since: bool,
    /// The peer has broken the rules, after what was received of it.
    broken: bool,
    /// The peer has gone without `close_notify`.
    unannounced: bool,
    /// As configured for the peer.
    requires_close_notify: bool,
    /// It was sent FIN alone, because nobody had vouched for the end that was passed on.
    left_unannounced: bool,
    /// The peer has gone with a reset, which lost nothing.
    reset_in_order: bool,
    /// Bytes that were sealed, and what they became.
    sealed: (u64, u64),
}

impl<C> fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("farewell", &self.farewell).finish_non_exhaustive()
    }
}

impl ServerSession {
    /// The certificate that the client has shown, which was verified.
    pub fn client_certificate(&self) -> Option<ClientCertificate> {
        let certificate = self.common().peer_certificates()?.first()?;
        Some(ClientCertificate { common_name: inspect::common_name(certificate) })
    }
}

impl ClientSession {
    /// Goes through the handshake with a backend, as whom it is asked for.
    ///
    /// Fails if the two ends do not agree, or it is not who it has to be.
    pub async fn connect(
        socket: &Watched<TcpStream>,
        client: &Client,
        peer: PeerName,
    ) -> Result<Self, Refused> {
        let connection = UnbufferedClientConnection::new(client.config(), peer.0);
        let mut session = Self::new(connection.map_err(|error| Refused::of(&error))?);
        session.requires_close_notify = client.requires_close_notify();
        // It has something to say before it has heard anything.
        session.take(&mut []).map_err(|error| Refused::of(&error))?;
        session.shake_hands(socket, |_, _| None).await?;
        Ok(session)
    }
}

#[expect(private_bounds, reason = "there are the two kinds above")]
impl<C: Records> Session<C> {
    fn new(connection: C) -> Self {
        Self {
            stream: Stream::new(connection),
            server_name: None,
            early: Vec::new(),
            unsent: Vec::new(),
            sent: 0,
            farewell: 0,
            heard_since: false,
            broken: false,
            unannounced: false,
            requires_close_notify: false,
            left_unannounced: false,
            reset_in_order: false,
            sealed: (0, 0),
        }
    }

    fn naming(self, server_name: Option<String>) -> Self {
        Self { server_name, ..self }
    }

    fn common(&self) -> &CommonState {
        self.stream.common()
    }

    /// Whether the peer was told that nothing follows, and has said nothing since.
    fn is_dismissed(&self) -> bool {
        self.farewell > 0 && !self.heard_since
    }

    /// The name that the client asked for.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The application protocol that was agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// What the handshake counts as.
    pub fn handshake(&self) -> Handshake {
        let resumed = self.common().handshake_kind() == Some(HandshakeKind::Resumed);
        match (self.common().protocol_version(), resumed) {
            (Some(ProtocolVersion::TLSv1_2), false) => Handshake::Tls12,
            (Some(ProtocolVersion::TLSv1_2), true) => Handshake::Tls12Resumed,
            (_, false) => Handshake::Tls13,
            (_, true) => Handshake::Tls13Resumed,
        }
    }

    /// The cipher suite by its IANA name.
    pub fn cipher(&self) -> Option<&'static str> {
        self.common().negotiated_cipher_suite().and_then(|suite| iana_name(suite.suite()))
    }

    /// Goes through the handshake, once the first message is there or to be sent. `alert_for` has the
    /// alerts that are told instead of those that rustls has.
    async fn shake_hands(
        &mut self,
        socket: &Watched<TcpStream>,
        alert_for: fn(&Error, Option<ProtocolVersion>) -> Option<[u8; 7]>,
    ) -> Result<(), Refused> {
        poll_fn(|_| {
            loop {
                if !self.flush(socket)? {
                    return Poll::Pending;
                }
                if !self.common().is_handshaking() {
                    return Poll::Ready(Ok(()));
                }
                if !socket.is_readable() {
                    return Poll::Pending;
                }
                match self.fetch(socket) {
                    Ok(Then::Dry | Then::Unknown) => {}
                    Ok(Then::End | Then::Cut) => return Poll::Ready(Err(closed())),
                    Err(Fault::Socket(error)) => return Poll::Ready(Err(error.into())),
                    Err(Fault::Peer(error)) => {
                        match alert_for(&error, self.common().protocol_version()) {
                            Some(alert) => tell(socket, &alert),
                            None => tell(socket, self.stream.outgoing()),
                        }
                        return Poll::Ready(Err(Refused::of(&error)));
                    }
                }
            }
        })
        .await
    }

    /// Takes bytes of a handshake, and what was sent along with its end.
    fn take(&mut self, wire: &mut [u8]) -> Result<(), Error> {
        let early = &mut self.early;
        self.stream.receive(wire, |bytes| early.extend_from_slice(bytes))
    }

    /// Takes what the socket has of a handshake.
    fn fetch(&mut self, socket: &Watched<TcpStream>) -> Result<Then, Fault> {
        let early = &mut self.early;
        read(&mut self.stream, socket, WIRE, |bytes| early.extend_from_slice(bytes))
    }

    /// Sends what is to be sent; false if there is no room for all of it.
    fn flush(&mut self, socket: &Watched<TcpStream>) -> io::Result<bool> {
        let outgoing = self.stream.outgoing();
        if !outgoing.is_empty() {
            self.unsent.append(outgoing);
            *outgoing = Vec::new();
        }
        while self.sent < self.unsent.len() {
            if !socket.is_writable() {
                return Ok(false);
            }
            match room(socket, || socket::send(socket, &self.unsent[self.sent..], false))? {
                0 => return Ok(false),
                sent => self.sent += sent,
            }
        }
        (self.unsent, self.sent) = (Vec::new(), 0);
        Ok(true)
    }
}

fn closed() -> Refused {
    Refused::new(HandshakeFailure::Closed, "the connection ended in the handshake")
}

/// Whose fault it is that nothing more is received.
enum Fault {
    Socket(io::Error),
    Peer(Error),
}

/// Takes what the socket has, at most as much as together with what is there already makes `most`
/// bytes.
fn read<C: Records>(
    stream: &mut Stream<C>,
    socket: &Watched<TcpStream>,
    most: usize,
    deliver: impl FnMut(&[u8]),
) -> Result<Then, Fault> {
    if !socket.is_readable() {
        return Ok(Then::Dry);
    }
    INCOMING.with_borrow_mut(|wire| {
        let partial = stream.partial().len();
        let Some(free) = wire.get_mut(partial..most).filter(|free| !free.is_empty()) else {
            return Err(Fault::Peer(Error::General("a message that is too large".into())));
        };
        let received = Plain(socket).receive(free).map_err(Fault::Socket)?;
        if received.bytes == 0 {
            return Ok(received.then);
        }
        wire[..partial].copy_from_slice(stream.partial());
        stream.receive(&mut wire[..partial + received.bytes], deliver).map_err(Fault::Peer)?;
        // The end of the socket is not the end of the stream: the next read tells which it was.
        Ok(if received.then == Then::End { Then::Unknown } else { received.then })
    })
}

/// Sends what is left to say, if there is room for it: the connection is over either way.
fn tell(socket: &Watched<TcpStream>, bytes: &[u8]) {
    if let Err(error) = socket::send(socket, bytes, false) {
        tracing::debug!(%error, "an alert could not be sent");
    }
}

/// A session with its socket: one side of a relay.
#[derive(Debug)]
pub struct Tls<'a, C> {
    /// What the session was made on.
    pub socket: &'a Watched<TcpStream>,
    /// After its handshake.
    pub session: &'a mut Session<C>,
}

#[expect(private_bounds, reason = "there are two kinds of sessions")]
impl<C: Records> Tls<'_, C> {
    /// Whether a socket that failed belongs to a peer that has left after all was said. To close a
    /// socket with our `close_notify` unread in it sends a reset, and many read no further than the
    /// last byte that they need. It has what was sent if it has acknowledged
    /// that, but for what a receiver may delay the acknowledgement of.
    fn left_in_order(&mut self, error: &io::Error) -> bool {
        let session = &mut *self.session;
        let in_order = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::NotConnected)
            && session.is_dismissed()
            && session.stream.partial().is_empty()
            && session.sent == session.unsent.len()
            && in_kernel(self.socket, true)
                <= u64::from(session.farewell) + socket::delayed(self.socket);
        session.reset_in_order |= in_order;
        session.unannounced |= in_order;
        in_order
    }

    /// What came with the end of the handshake.
    fn receive_early(&mut self, buffer: &mut [u8]) -> Received {
        let early = &mut self.session.early;
        let bytes = early.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&early[..bytes]);
        early.drain(..bytes);
        if early.is_empty() {
            *early = Vec::new();
        }
        Received { bytes, then: Then::Unknown }
    }
}

impl<C: Records> Side for Tls<'_, C> {
    const PLAIN: bool = false;

    fn socket(&self) -> &Watched<TcpStream> {
        self.socket
    }

    fn is_readable(&self) -> bool {
        let session = &self.session;
        let known = !session.early.is_empty() || session.stream.has_ended() || session.broken;
        known || self.socket.is_readable()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        if !self.session.early.is_empty() {
            return Ok(self.receive_early(buffer));
        }
        if self.session.broken {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut bytes = 0;
        let mut then = Then::End;
        if !self.session.stream.has_ended() {
            // What is sealed is longer than what is in it.
            let most = buffer.len();
            let fetched = read(&mut self.session.stream, self.socket, most, |plain| {
                buffer[bytes..bytes + plain.len()].copy_from_slice(plain);
                bytes += plain.len();
            });
            then = match fetched {
                Ok(then) => then,
                Err(Fault::Socket(error)) => {
                    return match self.left_in_order(&error) {
                        true => Ok(Received { bytes, then: Then::End }),
                        false => Err(error),
                    };
                }
                // OpenSSL answers FIN alone by an alert, and closes: that is its end.
                Err(Fault::Peer(Error::AlertReceived(_))) if self.session.left_unannounced => {
                    self.session.unannounced = true;
                    return Ok(Received { bytes, then: Then::Cut });
                }
                Err(Fault::Peer(error)) => {
                    tracing::debug!(%error, "a peer breaks the rules of TLS");
                    // After what is sealed already, and once. It is over in any case.
                    if let Err(error) = self.flush() {
                        tracing::debug!(%error, "an alert could not be sent");
                    }
                    self.session.broken = true;
                    Then::Unknown
                }
            };
            self.session.heard_since |= self.session.farewell > 0 && bytes > 0;
            if then == Then::End {
                self.session.unannounced = true;
                if !self.session.stream.partial().is_empty() {
                    // A record is not whole: it was cut for certain.
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                // It may have been cut (RFC 8446, 6.1). One that was told that nothing follows, and
                // has said nothing since, has not: many leave so.
                if !self.session.is_dismissed() {
                    then = Then::Cut;
                }
            }
        }
        if self.session.stream.has_ended() {
            then = Then::End;
        }
        Ok(Received { bytes, then })
    }

    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        // One buffer at a time: what a slow receiver has not taken is all that is held for it.
        if !self.flush()? || !self.socket.is_writable() {
            return Ok(0);
        }
        let taken = bytes.len().min(TURN);
        SEALED.with_borrow_mut(|wire| {
            let sealed = self.session.stream.seal(&bytes[..taken], wire);
            let sealed = &wire[..sealed.map_err(io::Error::other)?];
            self.session.sealed.0 += taken as u64;
            self.session.sealed.1 += sealed.len() as u64;
            let sent = room(self.socket, || socket::send(self.socket, sealed, more))?;
            self.session.unsent.extend_from_slice(&sealed[sent..]);
            Ok(taken)
        })
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.session.flush(self.socket)
    }

    fn finish(&mut self, last: bool, how: Ended) -> io::Result<bool> {
        // Nobody vouches to us for an end that was not announced, so we do not either.
        self.session.left_unannounced |= how == Ended::Unannounced;
        if how == Ended::Announced && self.session.farewell == 0 {
            let announcement = self.session.stream.close().map_err(io::Error::other)?;
            self.session.farewell = announcement as u32;
        }
        if !self.flush()? {
            return Ok(false);
        }
        if !last {
            // It may have read the announcement and left before this.
            match self.socket.get_ref().shutdown(Shutdown::Write) {
                Err(error) if !self.left_in_order(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(true)
    }

    fn has_failed(&self) -> bool {
        self.socket.has_failed() && !self.session.reset_in_order
    }

    fn requires_announced_end(&self) -> bool {
        self.session.requires_close_notify
    }

    fn end_was_announced(&self) -> Option<bool> {
        if self.session.stream.has_ended() {
            return Some(true);
        }
        self.session.unannounced.then_some(false)
    }

    fn unacknowledged(&self, finished: bool) -> u64 {
        let waiting = (self.session.unsent.len() - self.session.sent) as u64;
        let wire = in_kernel(self.socket, finished) + waiting;
        let (plain, sealed) = self.session.sealed;
        content(wire.saturating_sub(self.session.farewell.into()), plain, sealed)
    }
}

/// Bytes within the last `wire` of `sealed` bytes that carry `plain`, if records are alike. Rounded up:
/// what has not come to its end cannot be opened.
fn content(wire: u64, plain: u64, sealed: u64) -> u64 {
    if sealed == 0 {
        return 0;
    }
    let share = (u128::from(wire) * u128::from(plain)).div_ceil(sealed.into());
    u64::try_from(share).unwrap_or(u64::MAX).min(plain)
}

#[cfg(test)]
mod tests {
    use super::content;

    #[test]
    fn content_is_a_share_of_what_was_sealed() {
        assert_eq!(content(0, 1_000, 1_022), 0);
        assert_eq!(content(1, 1_000, 1_022), 1);
        assert_eq!(content(1_022, 1_000, 1_022), 1_000);
        assert_eq!(content(511, 1_000, 1_022), 500);
        // More than was sealed, or nothing at all: of the handshake.
        assert_eq!(content(5_000, 1_000, 1_022), 1_000);
        assert_eq!(content(300, 0, 0), 0);
        assert_eq!(content(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }
}
