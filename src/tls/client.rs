//! TLS towards backends: that of health checks, and that of connections.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::Certificate;
use super::clock::Clock;
use super::server::SetupError;
use super::suites::Suites;
use super::trust::Authorities;

/// How many sessions a client keeps for the next connection: a session takes 1 to 2 KiB.
const SESSIONS: usize = 256;

/// Which backends are believed.
#[derive(Clone, Debug)]
pub enum Trust {
    /// All: encryption against those who only listen.
    Anyone,
    /// Those with a certificate, for the name that is asked for, of one of these.
    Authorities(Authorities),
}

/// The name that a backend is asked for, and that its certificate must have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerName(pub(super) ServerName<'static>);

/// Neither a DNS name nor an address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is neither a DNS name nor an address")]
pub struct BadName(String);

impl PeerName {
    /// A DNS name, with or without the dot of the root, or an address. Addresses are looked for
    /// in certificates, and not sent (RFC 6066, section 3).
    pub fn parse(name: &str) -> Result<Self, BadName> {
        let dotless = name.strip_suffix('.').unwrap_or(name);
        match ServerName::try_from(dotless) {
            Ok(parsed) => Ok(Self(parsed.to_owned())),
            Err(_) => Err(BadName(name.to_owned())),
        }
    }
}

impl From<IpAddr> for PeerName {
    fn from(address: IpAddr) -> Self {
        Self(ServerName::from(address))
    }
}

/// Which name backends are asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Ask {
    /// The backend's own.
    #[default]
    Backend,
    /// The one that the client asked for; the backend's, if it asked for none.
    Client,
    /// Always this one.
    Name(PeerName),
}

/// What is configured of TLS towards a pool.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Whom to believe.
    pub trust: Trust,
    /// Whom to ask for.
    pub ask: Ask,
    /// What to show to a backend that wants a certificate.
    pub identity: Option<Certificate>,
    /// The time of day.
    pub clock: Clock,
}

/// TLS towards a pool, ready for connections.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    ask: Ask,
}

impl Client {
    /// TLS 1.2 and 1.3 as configured. Sessions are resumed where backends allow it.
    pub fn new(settings: ClientSettings) -> Result<Self, SetupError> {
        let provider = Suites::recommended().provider();
        let verifier: Arc<dyn ServerCertVerifier> = match settings.trust {
            Trust::Anyone => Arc::new(AnyCertificate(Arc::clone(&provider))),
            Trust::Authorities(authorities) => {
                let Authorities { roots, revoked, .. } = authorities;
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                    .with_crls(revoked)
                    .enforce_revocation_expiration()
                    .build()
                    .map_err(SetupError::refused)?
            }
        };
        let builder = ClientConfig::builder_with_details(provider, Arc::new(settings.clock))
            .with_safe_default_protocol_versions()
            .map_err(SetupError::refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match settings.identity {
            Some(identity) => {
                let key = Arc::clone(identity.certified_key());
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { config: Arc::new(config), ask: settings.ask })
    }

    /// The same, with sessions of its own: they are behind a lock, for which workers would wait
    /// if they shared them.
    pub fn apart(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Self { config: Arc::new(config), ask: self.ask.clone() }
    }

    /// Whom to ask for on a connection to `backend`, whose client asked for `asked`.
    pub fn peer(&self, backend: &PeerName, asked: Option<&str>) -> PeerName {
        match &self.ask {
            Ask::Backend => backend.clone(),
            Ask::Client => {
                let asked = asked.and_then(|name| PeerName::parse(name).ok());
                asked.unwrap_or_else(|| backend.clone())
            }
            Ask::Name(name) => name.clone(),
        }
    }

    /// Whether the name that backends are asked for is the client's choice.
    pub fn asks_as_client(&self) -> bool {
        self.ask == Ask::Client
    }

    /// For a connection's handshake.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

/// Does the handshakes of health checks.
///
/// Towards a pool with TLS, as its connections do. Otherwise it takes any certificate, as the
/// probes of Kubernetes do: a check asks whether a server answers, tells it no secret, and must not
/// fail for a name that only clients use.
#[derive(Clone)]
pub struct Prober {
    connector: TlsConnector,
    /// Whom to ask for, whatever the backend is called.
    fixed: Option<PeerName>,
}

impl Prober {
    /// A prober for TLS 1.2 and 1.3.
    ///
    /// Fails if the cryptography of the build supports neither.
    pub fn new() -> Result<Self, SetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(SetupError::refused)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), fixed: None })
    }

    /// One that does as the connections to a pool do.
    pub fn of(client: &Client) -> Self {
        let fixed = match &client.ask {
            Ask::Name(name) => Some(name.clone()),
            // A check has no client.
            Ask::Backend | Ask::Client => None,
        };
        Self { connector: TlsConnector::from(client.apart().config()), fixed }
    }

    /// Does a handshake, asking for `host` (SNI), or for no name if it is not a DNS name.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = match (&self.fixed, ServerName::try_from(host.to_owned())) {
            (Some(PeerName(fixed)), _) => fixed.clone(),
            (None, Ok(name)) => name,
            (None, Err(_)) => ServerName::from(stream.peer_addr()?.ip()),
        };
        self.connector.connect(name, stream).await
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
