//! Certificates that tests make, and clients that speak TLS.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, RsaKeySize, SerialNumber, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    RootCertStore, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};

use super::{connect, output_of};

/// A connection of a client.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// An authority of the test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key.
pub struct Issued {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
    /// As it is on the wire.
    pub der: CertificateDer<'static>,
    /// Unique in this process.
    pub serial: u64,
}

/// What kind of key a certificate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// P-256.
    Ecdsa,
    /// 2048 bits.
    Rsa,
}

fn next_serial() -> u64 {
    static SERIALS: AtomicU64 = AtomicU64::new(0x1001);
    SERIALS.fetch_add(1, Ordering::Relaxed)
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Its own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_as(names, Kind::Ecdsa, |_| {})
    }

    /// One that has been of no use for years.
    pub fn issue_expired(&self, names: &[&str]) -> Issued {
        self.issue_as(names, Kind::Ecdsa, |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        })
    }

    /// Any.
    pub fn issue_as(
        &self,
        names: &[&str],
        kind: Kind,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<_> = names.iter().copied().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let serial = next_serial();
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2099, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = match kind {
            Kind::Ecdsa => KeyPair::generate().unwrap(),
            Kind::Rsa => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
            }
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            serial,
        }
    }

    /// A revocation list, as PEM.
    pub fn revoke(&self, revoked: &[&Issued]) -> String {
        let entry = |issued: &&Issued| RevokedCertParams {
            serial_number: SerialNumber::from(issued.serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(next_serial()),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A client that trusts it alone, and takes whatever a server offers.
    pub fn client(&self) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS, None)
    }

    /// The same of these versions, with or without a certificate of its own.
    pub fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Issued>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A client of these versions that believes any server whose signature has one of these schemes;
/// all, if there are none.
pub fn credulous(
    versions: &[&'static SupportedProtocolVersion],
    schemes: &[SignatureScheme],
) -> ClientConfig {
    let provider = provider();
    let schemes = match schemes {
        [] => provider.signature_verification_algorithms.supported_schemes(),
        some => some.to_vec(),
    };
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous { provider, schemes, stapled: None }))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Credulous {
    provider: Arc<CryptoProvider>,
    schemes: Vec<SignatureScheme>,
    stapled: Option<mpsc::Sender<Vec<u8>>>,
}

/// A client that tells which OCSP response came with each certificate.
pub fn asking_for_ocsp() -> (ClientConfig, mpsc::Receiver<Vec<u8>>) {
    let (stapled, responses) = mpsc::channel();
    let provider = provider();
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let verifier = Credulous { provider, schemes, stapled: Some(stapled) };
    let mut config = credulous(rustls::ALL_VERSIONS, &[]);
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    config.resumption = Resumption::disabled();
    (config, responses)
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(stapled) = &self.stapled {
            // Who does not listen does not mind.
            let _ = stapled.send(ocsp.to_vec());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// A connection on which nothing has been sent yet.
pub fn begin(config: &ClientConfig, name: &str) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::new(config.clone()), name).unwrap()
}

/// Connects, and goes through the handshake.
///
/// Of TLS 1.3, a client knows only by what it reads then that it is welcome.
pub fn shake_hands(config: &ClientConfig, name: &str, to: SocketAddr) -> io::Result<TlsStream> {
    let mut stream = StreamOwned::new(begin(config, name), connect(to)?);
    finish_handshake(&mut stream)?;
    Ok(stream)
}

/// Goes through what is left of the handshake.
pub fn finish_handshake(stream: &mut TlsStream) -> io::Result<()> {
    while stream.conn.is_handshaking() {
        // Rather the alert than the end of the socket that it came with.
        if let (0, 0) = stream.conn.complete_io(&mut stream.sock)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Connects, learns who serves the connection, and closes it in order. Returns the certificate
/// that the gateway has shown, and whether the session was resumed.
///
/// A session that is resumed has that of the first handshake.
pub fn visit_tls(config: &ClientConfig, name: &str, to: SocketAddr) -> io::Result<Visit> {
    let mut stream = shake_hands(config, name, to)?;
    let client = stream.sock.local_addr()?;
    let greeting = greeting_tls(&mut stream)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    match stream.read(&mut [0])? {
        0 => {}
        _ => return Err(io::Error::other("bytes after the greeting")),
    }
    let shown = stream.conn.peer_certificates().unwrap()[0].clone().into_owned();
    let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok(Visit { client, greeting, shown, resumed })
}

/// What there is to tell of a visit.
#[derive(Debug)]
pub struct Visit {
    /// Where it came from.
    pub client: SocketAddr,
    /// Who greeted.
    pub greeting: String,
    /// The certificate that was shown.
    pub shown: CertificateDer<'static>,
    /// Whether the session was resumed.
    pub resumed: bool,
}

/// Reads the line with which a [`super::Server::named`] greets.
pub fn greeting_tls(stream: &mut TlsStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            byte => line.push(byte),
        }
    }
}

/// The alert by which the gateway has refused something.
pub fn alert_of(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Why a client's whole visit fails.
///
/// # Panics
///
/// If it does not, or not by an alert.
#[track_caller]
pub fn refusal(config: &ClientConfig, name: &str, to: SocketAddr) -> AlertDescription {
    let error = visit_tls(config, name, to).expect_err("this client is served");
    alert_of(&error).unwrap_or_else(|| panic!("not refused by an alert: {error:?}"))
}

/// A directory with the files of certificates; gone with the test.
pub struct Store(tempfile::TempDir);

/// The two files of a certificate.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Files {
    /// Those of this name in a directory.
    pub fn in_directory(directory: &Path, name: &str) -> Self {
        Self {
            cert: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        }
    }

    /// Writes both in place.
    pub fn write(&self, issued: &Issued) {
        fs::write(&self.cert, &issued.certificate).unwrap();
        fs::write(&self.key, &issued.key).unwrap();
        fs::set_permissions(&self.key, Permissions::from_mode(0o600)).unwrap();
    }
}

impl Store {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::TempDir::with_prefix("lockgate-").unwrap())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts a certificate into two files.
    pub fn put(&self, name: &str, issued: &Issued) -> Files {
        let files = Files::in_directory(self.path(), name);
        files.write(issued);
        files
    }

    /// Puts anything into a file.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// What `openssl s_client` says when it is given nothing to send.
pub fn s_client(to: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &to.to_string()]).args(arguments);
    output_of(&mut command)
}
