//! TLS: what the proxies show, how the client speaks it, and the sessions that it resumes.
//!
//! A scenario with TLS has a [`Tls`]. The [`Line`] of a client hides from `exchange` and `crowd`
//! whether there is TLS on it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    NamedGroup, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};

/// The name that clients ask for, and certificates are for.
const NAME: &str = "rig.test";

/// The proxy's side of it, and the client's.
pub struct Tls {
    version: &'static SupportedProtocolVersion,
    /// Whether clients resume sessions, once they have one.
    resumes: bool,
    kind: Key,
    /// What proxies show, PEM.
    pub certificate: String,
    pub key: String,
    der: CertificateDer<'static>,
}

/// What clients of a run have in common.
pub type Client = Arc<ClientConfig>;

#[derive(Clone, Copy)]
pub enum Key {
    /// P-256.
    Ecdsa,
    /// 2048 bits.
    Rsa,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

impl Tls {
    /// Makes a certificate.
    pub fn new(version: Version, kind: Key, resumes: bool) -> io::Result<Self> {
        let algorithm = match kind {
            Key::Ecdsa => &PKCS_ECDSA_P256_SHA256,
            Key::Rsa => &PKCS_RSA_SHA256,
        };
        let key = KeyPair::generate_for(algorithm).map_err(io::Error::other)?;
        let certificate = CertificateParams::new(vec![NAME.to_owned()])
            .and_then(|params| params.self_signed(&key))
            .map_err(io::Error::other)?;
        Ok(Self {
            version: match version {
                Version::Tls12 => &TLS12,
                Version::Tls13 => &TLS13,
            },
            resumes,
            kind,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
        })
    }

    /// A client that has no sessions yet.
    ///
    /// It leaves the proxy no choice but AES-128-GCM, and none but X25519 where it can: in TLS 1.2,
    /// a client has to know the curve of the certificate, too. [`Tally`] sees who takes that.
    pub fn client(&self) -> io::Result<Client> {
        let mut kx_groups = vec![kx_group::X25519];
        if self.version == &TLS12 {
            kx_groups.push(kx_group::SECP256R1);
        }
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ],
            kx_groups,
            ..aws_lc_rs::default_provider()
        });
        let pin = Pin { certificate: self.der.clone(), provider: Arc::clone(&provider) };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.version])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pin))
            .with_no_client_auth();
        config.resumption = if self.resumes {
            Resumption::store(Arc::new(Sessions::default()))
        } else {
            Resumption::disabled()
        };
        Ok(Arc::new(config))
    }

    /// Whether handshakes were what they should have been, by so many clients at a time, each of
    /// which had to begin without a session.
    pub fn judge(&self, clients: usize, tally: &Tally) -> io::Result<()> {
        let Tally { full, resumed, other } = *tally;
        let right = if self.resumes { full <= clients as u64 } else { resumed == 0 };
        if right && other == 0 {
            return Ok(());
        }
        let wanted = if self.resumes { "resumed" } else { "full" };
        Err(io::Error::other(format!(
            "handshakes should have been {wanted}, but {full} were full, {resumed} resumed, and \
             {other} had a retry or a group other than X25519"
        )))
    }

    pub fn version(&self) -> &'static str {
        if self.version == &TLS12 { "TLS 1.2" } else { "TLS 1.3" }
    }

    pub fn handshake(&self) -> &'static str {
        match self.kind {
            _ if self.resumes => "resumed",
            Key::Ecdsa => "full handshakes with ECDSA P-256",
            Key::Rsa => "full handshakes with RSA-2048",
        }
    }
}

/// Handshakes, as clients saw them.
#[derive(Default)]
pub struct Tally {
    full: u64,
    resumed: u64,
    other: u64,
}

impl Tally {
    /// Counts the handshake of a line that was used, if there was one.
    pub fn count(&mut self, line: &Line) {
        let Line::Tls(stream) = line else {
            return;
        };
        // A session of TLS 1.2 is resumed without a key exchange.
        let group = stream.conn.negotiated_key_exchange_group();
        let is_good = group.is_none_or(|group| group.name() == NamedGroup::X25519);
        match stream.conn.handshake_kind() {
            Some(HandshakeKind::Full) if is_good => self.full += 1,
            Some(HandshakeKind::Resumed) if is_good => self.resumed += 1,
            Some(_) => self.other += 1,
            None => {}
        }
    }
}

/// A client's connection.
pub enum Line {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    pub fn new(socket: TcpStream, client: Option<&Client>) -> io::Result<Self> {
        let Some(client) = client else {
            return Ok(Self::Plain(socket));
        };
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(client), name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    /// Says goodbye, as TLS demands. The socket is closed by dropping it.
    pub fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.conn.send_close_notify();
            // There is room for it. Where it does not arrive, the end of the connection does.
            let _ = stream.conn.write_tls(&mut stream.sock);
        }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's connection, for bulk data.
pub struct Pipe {
    socket: TcpStream,
    session: ClientConnection,
}

impl Pipe {
    pub fn new(socket: TcpStream, client: &Client) -> io::Result<Self> {
        match Line::new(socket, Some(client))? {
            Line::Tls(stream) => Ok(Self { session: stream.conn, socket: stream.sock }),
            Line::Plain(_) => Err(ErrorKind::InvalidInput.into()),
        }
    }

    /// Goes on with the handshake; true when it is done.
    pub fn shake_hands(&mut self) -> io::Result<bool> {
        if self.session.is_handshaking() {
            match self.session.complete_io(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(!self.session.is_handshaking() && !self.session.wants_write())
    }

    /// Receives and decrypts once, and throws away what there was; tells how much.
    ///
    /// `buffer` is for what comes: left alone, rustls reads 4 KB at a time.
    pub fn swallow(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.socket.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let mut sealed = &buffer[..count];
        let mut swallowed = self.discard()?;
        while !sealed.is_empty() {
            self.session.read_tls(&mut sealed)?;
            self.session.process_new_packets().map_err(io::Error::other)?;
            swallowed += self.discard()?;
        }
        Ok(swallowed)
    }

    fn discard(&mut self) -> io::Result<usize> {
        let mut discarded = 0;
        let mut reader = self.session.reader();
        loop {
            match reader.fill_buf() {
                Ok([]) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(chunk) => {
                    let count = chunk.len();
                    discarded += count;
                    reader.consume(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(discarded),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Trusts one certificate, whoever issued it. That the proxy has its key is verified as ever.
#[derive(Debug)]
struct Pin {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What clients can resume. Unlike the store of rustls, it has as many tickets of TLS 1.3, each for
/// one handshake, as proxies give it: every client finds one.
#[derive(Default)]
struct Sessions {
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
    tls13: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        *self.tls12.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tls12.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.tls12.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.tls13.lock().unwrap_or_else(PoisonError::into_inner).push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tls13.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
