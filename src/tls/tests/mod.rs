//! Handshakes in memory, between rustls as it comes and what this folder makes of it.

mod choosing;
mod clients;
mod loading;
mod old;
mod resuming;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup, RootCertStore,
    ServerConnection, SupportedProtocolVersion,
};
use tempfile::TempDir;

use super::certificate::Certificate;
use super::certificates::Certificates;
use super::clock::Clock;
use super::server::{ClientAuth, MinVersion, Server, ServerSettings};
use super::suites::{Suites, iana_name};
use super::trust::Authorities;

/// 2026-06-01.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

/// A certificate authority with a directory for what it issues.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: rcgen::Certificate,
}

impl Authority {
    fn new() -> Self {
        Self::named("Test Root")
    }

    fn named(name: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let authority = Self { directory, issuer: Issuer::new(params, key), ca };
        authority.write("ca.pem", &authority.ca.pem());
        authority
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes NAME.pem and NAME.key, changed by `change`.
    fn issue_with(
        &self,
        file: &str,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = params(file, names);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            self.write(&format!("{file}.pem"), &certificate.pem()),
            self.write(&format!("{file}.key"), &key.serialize_pem()),
        )
    }

    fn load(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Certificate {
        let (cert, key) = self.issue_with(names[0], names, algorithm, |_| {});
        Certificate::load(&cert, &key, now()).unwrap()
    }

    fn ecdsa(&self, names: &[&str]) -> Certificate {
        self.load(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    fn rsa(&self, names: &[&str]) -> Certificate {
        self.load(names, &rcgen::PKCS_RSA_SHA256)
    }

    /// Writes crl.pem, which revokes `serials`, and is good until the year `until`.
    fn revoke(&self, serials: &[u64], until: i32) -> PathBuf {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(until, 1, 2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("crl.pem", &list.signed_by(&self.issuer).unwrap().pem().unwrap())
    }

    fn authorities(&self) -> Authorities {
        Authorities::read(&self.path("ca.pem"), None).unwrap()
    }
}

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Settings as they are by default, with these certificates.
fn settings(certificates: Vec<Certificate>) -> ServerSettings {
    ServerSettings {
        listener: "https".to_owned(),
        certificates: Certificates::new(certificates).unwrap(),
        min_version: MinVersion::Tls12,
        suites: Suites::recommended(),
        alpn: Vec::new(),
        strict_sni: false,
        client_auth: ClientAuth::None,
        tickets: None,
        require_close_notify: false,
        clock: Clock::new(now),
    }
}

/// A client of the tests.
struct TestClient {
    authority: RootCertStore,
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: Suites,
    alpn: Vec<&'static str>,
    identity: Option<(PathBuf, PathBuf)>,
}

impl TestClient {
    fn of(authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.ca.der().clone()).unwrap();
        Self {
            authority: roots,
            versions: rustls::ALL_VERSIONS.to_vec(),
            suites: Suites::recommended(),
            alpn: Vec::new(),
            identity: None,
        }
    }

    fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    fn suites(mut self, names: &[&str]) -> Self {
        self.suites = Suites::from_names(names).unwrap();
        self
    }

    fn alpn(mut self, names: &[&'static str]) -> Self {
        self.alpn = names.to_vec();
        self
    }

    fn identity(mut self, files: (PathBuf, PathBuf)) -> Self {
        self.identity = Some(files);
        self
    }

    fn config(self) -> Arc<ClientConfig> {
        // rustls offers the suites of all versions, whichever it speaks; others do not.
        let mut provider = CryptoProvider::clone(&self.suites.provider());
        provider.cipher_suites.retain(|suite| self.versions.contains(&suite.version()));
        let provider = Arc::new(provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(self.authority),
            Arc::clone(&provider),
        );
        let builder = ClientConfig::builder_with_details(provider, Arc::new(Clock::new(now)))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_webpki_verifier(verifier.build().unwrap());
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_file(cert).unwrap();
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                let provider = aws_lc_rs::default_provider();
                let key = provider.key_provider.load_private_key(key).unwrap();
                let key = CertifiedKey::new(vec![cert], key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// What two ends of a good handshake agree on.
#[derive(Debug)]
struct Agreed {
    certificate: CertificateDer<'static>,
    suite: &'static str,
    group: Option<NamedGroup>,
    alpn: Option<Vec<u8>>,
    resumed: bool,
    client_certificates: usize,
}

/// What the ends of a bad one say.
#[derive(Debug)]
struct Failed {
    /// At the client: the alert that it got, or what it found wrong itself.
    client: Option<Error>,
    server: Option<Error>,
}

fn handshake(
    client: &Arc<ClientConfig>,
    server: &Server,
    name: &'static str,
) -> Result<Agreed, Box<Failed>> {
    let name = ServerName::try_from(name).unwrap();
    let client = ClientConnection::new(Arc::clone(client), name).unwrap();
    handshake_of(client, server)
}

fn handshake_of(mut client: ClientConnection, server: &Server) -> Result<Agreed, Box<Failed>> {
    let mut at_server = ServerConnection::new(server.config()).unwrap();
    let mut failed = Box::new(Failed { client: None, server: None });
    while client.wants_write() || at_server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut read = &bytes[..];
        let mut answer = Vec::new();
        while failed.server.is_none() && !read.is_empty() {
            at_server.read_tls(&mut read).unwrap();
            failed.server = at_server.process_new_packets().err();
        }
        while at_server.wants_write() {
            at_server.write_tls(&mut answer).unwrap();
        }
        // As a session does.
        if let Some(error) = &failed.server
            && let (_, Some(alert)) = server.refusal(error, at_server.server_name())
        {
            answer = alert.to_vec();
        }
        let mut read = &answer[..];
        while failed.client.is_none() && !read.is_empty() {
            client.read_tls(&mut read).unwrap();
            failed.client = client.process_new_packets().err();
        }
    }
    if failed.client.is_some() || failed.server.is_some() {
        return Err(failed);
    }
    assert!(!client.is_handshaking() && !at_server.is_handshaking());
    Ok(Agreed {
        certificate: client.peer_certificates().unwrap()[0].clone().into_owned(),
        suite: iana_name(client.negotiated_cipher_suite().unwrap().suite()).unwrap(),
        group: client.negotiated_key_exchange_group().map(|group| group.name()),
        alpn: at_server.alpn_protocol().map(<[u8]>::to_vec),
        resumed: at_server.handshake_kind() == Some(HandshakeKind::Resumed),
        client_certificates: at_server.peer_certificates().map_or(0, <[_]>::len),
    })
}

/// The handshake of a client that shows no name.
fn handshake_without_name(
    client: &Arc<ClientConfig>,
    server: &Server,
) -> Result<Agreed, Box<Failed>> {
    let mut config = ClientConfig::clone(client);
    config.enable_sni = false;
    handshake(&Arc::new(config), server, "www.example.com")
}
