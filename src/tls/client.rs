//! TLS towards backends: that of health checks, and that of connections.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::Certificate;
use super::clock::Clock;
use super::server::SetupError;
use super::suites::Suites;
use super::trust::Authorities;
use super::verify::{AnyCertificate, Servers};
use crate::proto::name::HostName;

/// How many sessions a client keeps for the next connection: a session takes 1 to 2 KiB.
const SESSIONS: usize = 256;

/// Which backends are believed.
#[derive(Clone, Debug)]
pub enum Trust {
    /// All: encryption against those who only listen.
    Anyone,
    /// Those with a certificate, for the name that is asked for, of one of these; or with one of
    /// these itself, for that name if it has alternative names.
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
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let bad = || BadName(name.to_owned());
        // By itself rustls takes a dot more at the end.
        let host = HostName::parse(name.as_bytes()).ok_or_else(bad)?;
        let parsed = ServerName::try_from(host.as_str()).map_err(|_| bad())?;
        Ok(Self(parsed.to_owned()))
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
    /// Whether a backend that ends without `close_notify` counts as cut off, where a plain client
    /// could not tell.
    pub require_close_notify: bool,
    /// The time of day.
    pub clock: Clock,
}

/// TLS towards a pool, ready for connections.
///
/// It has sessions of its own, to be resumed where backends allow it: they are behind a lock, for
/// which workers would wait if they shared them.
#[derive(Debug)]
pub struct Client {
    /// What this one and all others for the pool do.
    common: Arc<ArcSwap<ClientConfig>>,
    /// The same with own sessions, and what it was made of.
    own: ArcSwap<(Arc<ClientConfig>, Arc<ClientConfig>)>,
    ask: Ask,
    require_close_notify: bool,
}

impl Client {
    /// TLS 1.2 and 1.3 as configured.
    pub fn new(settings: ClientSettings) -> Result<Self, SetupError> {
        let config = config(settings.trust, settings.identity, settings.clock)?;
        let common = Arc::new(ArcSwap::from_pointee(config));
        Ok(Self::of(common, settings.ask, settings.require_close_notify))
    }

    fn of(common: Arc<ArcSwap<ClientConfig>>, ask: Ask, require_close_notify: bool) -> Self {
        let own = ArcSwap::from_pointee(with_own_sessions(common.load_full()));
        Self { common, own, ask, require_close_notify }
    }

    /// Another one for the same pool.
    pub fn apart(&self) -> Self {
        Self::of(Arc::clone(&self.common), self.ask.clone(), self.require_close_notify)
    }

    /// Does as `settings` say from now on, and all others for the pool with it; whom to ask for
    /// stays. Connections that are there stay.
    pub fn replace(&self, settings: ClientSettings) -> Result<(), SetupError> {
        let config = config(settings.trust, settings.identity, settings.clock)?;
        self.common.store(Arc::new(config));
        Ok(())
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

    /// [`ClientSettings::require_close_notify`]
    pub(super) fn requires_close_notify(&self) -> bool {
        self.require_close_notify
    }

    /// For a connection's handshake.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        let common = self.common.load();
        let own = self.own.load();
        if Arc::ptr_eq(&own.0, &common) {
            return Arc::clone(&own.1);
        }
        let renewed = with_own_sessions(Arc::clone(&common));
        let config = Arc::clone(&renewed.1);
        self.own.store(Arc::new(renewed));
        config
    }
}

/// `common`, and the same with sessions of its own.
fn with_own_sessions(common: Arc<ClientConfig>) -> (Arc<ClientConfig>, Arc<ClientConfig>) {
    let mut own = ClientConfig::clone(&common);
    own.resumption = Resumption::in_memory_sessions(SESSIONS);
    (common, Arc::new(own))
}

/// Who judges the certificates of backends.
pub(super) fn verifier(trust: Trust) -> Result<Arc<dyn ServerCertVerifier>, SetupError> {
    let provider = Suites::recommended().provider();
    Ok(match trust {
        Trust::Anyone => Arc::new(AnyCertificate(provider)),
        Trust::Authorities(authorities) => Arc::new(Servers::new(authorities, provider)?),
    })
}

/// What rustls is told of all this.
fn config(
    trust: Trust,
    identity: Option<Certificate>,
    clock: Clock,
) -> Result<ClientConfig, SetupError> {
    let provider = Suites::recommended().provider();
    let verifier = verifier(trust)?;
    let builder = ClientConfig::builder_with_details(provider, Arc::new(clock))
        .with_safe_default_protocol_versions()
        .map_err(SetupError::refused)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            let key = Arc::clone(identity.certified_key());
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    // Nobody connects with this one; room for its sessions would never be used.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Does the handshakes of health checks.
///
/// Towards a pool with TLS, as its connections do. Otherwise it takes any certificate, as the
/// probes of Kubernetes do: a check asks whether a server answers, tells it no secret, and must not
/// fail for a name that only clients use.
#[derive(Clone)]
pub struct Prober(Arc<Client>);

impl Prober {
    /// A prober for TLS 1.2 and 1.3.
    ///
    /// Fails if the cryptography of the build supports neither.
    pub fn new() -> Result<Self, SetupError> {
        let settings = ClientSettings {
            trust: Trust::Anyone,
            ask: Ask::Backend,
            identity: None,
            require_close_notify: false,
            clock: Clock::system(),
        };
        Ok(Self(Arc::new(Client::new(settings)?)))
    }

    /// One that does as the connections to a pool do.
    pub fn of(client: &Client) -> Self {
        Self(Arc::new(client.apart()))
    }

    /// Does a handshake, asking for `host` (SNI), or for no name if it is not a DNS name.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = match (&self.0.ask, ServerName::try_from(host.to_owned())) {
            (Ask::Name(PeerName(fixed)), _) => fixed.clone(),
            // A check has no client.
            (Ask::Backend | Ask::Client, Ok(name)) => name,
            (Ask::Backend | Ask::Client, Err(_)) => ServerName::from(stream.peer_addr()?.ip()),
        };
        TlsConnector::from(self.0.config()).connect(name, stream).await
    }
}
