//! What a TLS listener offers to its clients.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256};

use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig};

use super::certificates::{Certificates, Resolver};
use super::clock::Clock;
use super::refusal::{self, Refused};
use super::suites::Suites;
use super::tickets::{LIFETIME_HOURS, LIFETIME_HOURS_WITH_CLIENT_CERTIFICATES, Secret, Tickets};
use super::trust::Authorities;
use super::verify::Clients;
use crate::stats::HandshakeFailure;

/// Bytes of early data that are skipped, each counted as often as rustls looks at it.
const SKIPPED_EARLY_DATA: u32 = 4 << 20;

/// The oldest version that is spoken. There are none before 1.2, which RFC 8996 forbids.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    None,
    /// Those that show one must show a good one.
    Optional(Authorities),
    /// All must show a good one.
    Required(Authorities),
}

/// What is configured of a TLS listener.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The listener's name, for which tickets are good.
    pub listener: String,
    /// What it shows.
    pub certificates: Certificates,
    /// The oldest version that it speaks.
    pub min_version: MinVersion,
    /// Its cipher suites.
    pub suites: Suites,
    /// The protocols above TLS, the favourite first; none = whatever the client has in mind.
    pub alpn: Vec<String>,
    /// Whether to refuse clients that ask for a name that no certificate has, or for none.
    pub strict_sni: bool,
    /// Whether its clients show certificates.
    pub client_auth: ClientAuth,
    /// Where the keys of session tickets come from; none = every handshake in full.
    pub tickets: Option<Secret>,
    /// Whether a client that ends without `close_notify` counts as cut off, where a plain backend
    /// could not tell.
    pub require_close_notify: bool,
    /// The time of day.
    pub clock: Clock,
}

/// Why TLS cannot be set up as configured.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SetupError {
    /// A protocol's name is empty, or longer than 255 bytes (RFC 7301, section 3.1).
    #[error("{0:?} is no name of a protocol: it must have 1 to 255 bytes")]
    BadAlpn(String),
    /// The cryptography refuses.
    #[error("TLS cannot be set up: {0}")]
    Refused(String),
}

impl SetupError {
    pub(super) fn refused(error: impl ToString) -> Self {
        Self::Refused(error.to_string())
    }
}

/// The TLS of a listener, ready for connections.
#[derive(Clone, Debug)]
pub struct Server {
    config: Arc<ArcSwap<ServerConfig>>,
    settings: Arc<ServerSettings>,
}

impl Server {
    /// TLS as configured.
    ///
    /// Certificates, and whom clients are believed to be by, can be replaced later; all other
    /// changes make another `Server`. Its tickets are good on every `Server` with the same secret,
    /// listener and idea of client certificates.
    pub fn new(settings: ServerSettings) -> Result<Self, SetupError> {
        if let Some(bad) = settings.alpn.iter().find(|name| !(1..=255).contains(&name.len())) {
            return Err(SetupError::BadAlpn(bad.clone()));
        }
        let config = config(&settings, &settings.client_auth)?;
        let config = Arc::new(ArcSwap::from_pointee(config));
        Ok(Self { config, settings: Arc::new(settings) })
    }

    /// Believes these from now on, and asks as before. Connections that are there stay.
    pub fn replace_client_auth(&self, client_auth: &ClientAuth) -> Result<(), SetupError> {
        self.config.store(Arc::new(config(&self.settings, client_auth)?));
        Ok(())
    }

    /// What it shows, to be replaced when files change.
    pub fn certificates(&self) -> &Certificates {
        &self.settings.certificates
    }

    /// Whether a client that asks for `name` is shown a certificate.
    pub fn admits(&self, name: Option<&str>) -> bool {
        let ServerSettings { certificates, strict_sni, clock, .. } = &*self.settings;
        certificates.find(name, *strict_sni, clock.now()).is_some()
    }

    /// [`ServerSettings::require_close_notify`]
    pub(super) fn requires_close_notify(&self) -> bool {
        self.settings.require_close_notify
    }

    /// For a connection's handshake.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Why the handshake of a client that asked for `name` ended with `error`, and the alert for it
    /// where rustls has a worse one: it calls a name that no certificate covers `access_denied`,
    /// and versions that are not spoken a `handshake_failure`.
    pub(super) fn refusal(&self, error: &Error, name: Option<&str>) -> (Refused, Option<[u8; 7]>) {
        if matches!(error, Error::General(_)) && !self.admits(name) {
            let refused = Refused::new(HandshakeFailure::UnknownSni, "no certificate for it");
            return (refused, Some(refusal::UNRECOGNIZED_NAME));
        }
        let refused = Refused::of(error);
        let version = refused.failure == HandshakeFailure::NoSharedVersion;
        (refused, version.then_some(refusal::PROTOCOL_VERSION))
    }
}

/// What rustls is told of all this.
fn config(settings: &ServerSettings, client_auth: &ClientAuth) -> Result<ServerConfig, SetupError> {
    let versions = match settings.min_version {
        MinVersion::Tls12 => &[&TLS13, &TLS12][..],
        MinVersion::Tls13 => &[&TLS13][..],
    };
    let provider = settings.suites.provider();
    let clock = Arc::new(settings.clock.clone());
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), clock)
        .with_protocol_versions(versions)
        .map_err(SetupError::refused)?;
    let builder = match verifier(client_auth, &provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Resolver {
        certificates: settings.certificates.clone(),
        strict: settings.strict_sni,
        clock: settings.clock.clone(),
        suites: settings.suites.clone(),
    }));
    config.ignore_client_order = settings.suites.server_decides();
    config.alpn_protocols = settings.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    // Early data can be replayed to us, and by us to a backend (RFC 8446, section 8): none is taken, as
    // rustls has it where tickets are stateless and no sessions are stored. What a client sends all the
    // same is skipped (4.2.10), up to this: rustls counts a record again for every read until the
    // handshake goes on. How many bytes these can be is bounded by `session::WIRE`.
    config.max_early_data_size = SKIPPED_EARLY_DATA;
    // Sessions that the server remembers would be behind a lock, and not on the other gateway.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    if let Some(secret) = settings.tickets.clone() {
        let (policy, hours) = policy(client_auth);
        let clock = settings.clock.clone();
        let tickets = Tickets::new(secret, &settings.listener, &policy, hours, clock);
        config.ticketer = Arc::new(tickets.map_err(SetupError::refused)?);
        // Each costs an encryption and 250 bytes, and clients seldom resume more than once.
        config.send_tls13_tickets = 1;
    }
    Ok(config)
}

fn verifier(
    client_auth: &ClientAuth,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, SetupError> {
    let (authorities, required) = match client_auth {
        ClientAuth::None => return Ok(None),
        ClientAuth::Optional(authorities) => (authorities, false),
        ClientAuth::Required(authorities) => (authorities, true),
    };
    let clients = Clients::new(authorities.clone(), Arc::clone(provider), required)?;
    Ok(Some(Arc::new(clients)))
}

/// What a ticket must agree with, as a resumed session repeats no check of the client, and for
/// how many hours it is good.
fn policy(client_auth: &ClientAuth) -> (Vec<u8>, u64) {
    let (mode, authorities) = match client_auth {
        ClientAuth::None => return (vec![0], LIFETIME_HOURS),
        ClientAuth::Optional(authorities) => (1, authorities),
        ClientAuth::Required(authorities) => (2, authorities),
    };
    let mut context = Context::new(&SHA256);
    context.update(&[mode]);
    context.update(authorities.fingerprint());
    (context.finish().as_ref().to_vec(), LIFETIME_HOURS_WITH_CLIENT_CERTIFICATES)
}
