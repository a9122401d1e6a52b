//! Which certificates of peers are believed, and whether a peer has the key of what it shows.
//!
//! What a chain is worth is webpki's to say. It knows only certificates of version 3, and takes
//! none of an authority as a server's own; what one `openssl req -x509` makes is both an authority
//! and a server, and what old tools sign has version 1. These are judged here: a certificate that
//! is itself among those that are trusted, byte for byte, and one of version 1 that one of those
//! has signed. That the peer has the key is verified in every case.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::inspect;
use super::server::SetupError;
use super::trust::Authorities;

/// Believes any certificate: encryption against those who only listen.
#[derive(Debug)]
pub(super) struct AnyCertificate(pub(super) Arc<CryptoProvider>);

/// Believes servers of these authorities.
#[derive(Debug)]
pub(super) struct Servers {
    judge: Judge,
    chains: Option<Arc<WebPkiServerVerifier>>,
}

/// Believes clients of these authorities.
#[derive(Debug)]
pub(super) struct Clients {
    judge: Judge,
    chains: Option<Arc<dyn ClientCertVerifier>>,
    required: bool,
}

/// What a certificate is shown as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    Server,
    Client,
}

/// Judges what webpki does not.
#[derive(Debug)]
struct Judge {
    authorities: Authorities,
    provider: Arc<CryptoProvider>,
}

impl Servers {
    /// Believes servers of `authorities`.
    pub(super) fn new(
        authorities: Authorities,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, SetupError> {
        let chains = if authorities.issuers.is_empty() {
            None
        } else {
            let issuers = Arc::clone(&authorities.issuers);
            let builder =
                WebPkiServerVerifier::builder_with_provider(issuers, Arc::clone(&provider))
                    .with_crls(authorities.revoked.iter().cloned())
                    .enforce_revocation_expiration();
            Some(builder.build().map_err(SetupError::refused)?)
        };
        Ok(Self { judge: Judge { authorities, provider }, chains })
    }
}

impl Clients {
    /// Believes clients of `authorities`; those that show nothing are let in if not `required`.
    pub(super) fn new(
        authorities: Authorities,
        provider: Arc<CryptoProvider>,
        required: bool,
    ) -> Result<Self, SetupError> {
        let chains = if authorities.issuers.is_empty() {
            None
        } else {
            // A list out of date, or none for an authority of the chain, lets nobody in: as with
            // OpenSSL, and as RFC 5280, section 6.3.3 has it.
            let issuers = Arc::clone(&authorities.issuers);
            let builder =
                WebPkiClientVerifier::builder_with_provider(issuers, Arc::clone(&provider))
                    .with_crls(authorities.revoked.iter().cloned())
                    .enforce_revocation_expiration();
            Some(builder.build().map_err(SetupError::refused)?)
        };
        Ok(Self { judge: Judge { authorities, provider }, chains, required })
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judge = &self.judge;
        if let Some(parsed) = judge.pinned(own) {
            judge.examine(&parsed, Purpose::Server, now)?;
            judge.not_revoked(&parsed, None, now)?;
            // Who pins a certificate without names has said which server it is.
            if has_names(&parsed) {
                verify_server_name(&ParsedCertificate::try_from(own)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        if let Some(parsed) = version_1(own) {
            judge.issued(own, &parsed, Purpose::Server, now)?;
            judge.common_name(&parsed, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chains) = &self.chains else { return Err(unknown_issuer()) };
        let nameless = match chains.verify_server_cert(own, above, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => parse(own).filter(|parsed| !has_names(parsed)),
            outcome => return outcome,
        };
        // As OpenSSL and nginx do for a certificate without any alternative name. With revocation
        // lists this would have to look at them again: there are none for servers.
        let parsed = nameless
            .filter(|_| judge.authorities.revoked.is_empty())
            .ok_or(Error::InvalidCertificate(CertificateError::NotValidForName))?;
        let algorithms = judge.provider.signature_verification_algorithms.all;
        let own = ParsedCertificate::try_from(own)?;
        let issuers = &judge.authorities.issuers;
        verify_server_cert_signed_by_trust_anchor(&own, issuers, above, now, algorithms)?;
        judge.common_name(&parsed, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(&self.judge.provider, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(&self.judge.provider, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.judge.authorities.subjects
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let judge = &self.judge;
        if let Some(parsed) = judge.pinned(own) {
            judge.examine(&parsed, Purpose::Client, now)?;
            judge.not_revoked(&parsed, None, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        if let Some(parsed) = version_1(own) {
            judge.issued(own, &parsed, Purpose::Client, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        match &self.chains {
            Some(chains) => chains.verify_client_cert(own, above, now),
            None => Err(unknown_issuer()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(&self.judge.provider, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(&self.judge.provider, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.provider.signature_verification_algorithms.supported_schemes()
    }
}

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
        tls12_signature(&self.0, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(&self.0, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Judge {
    /// `own`, if it is itself among what is trusted.
    fn pinned<'a>(&self, own: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
        let pinned = self.authorities.exact.iter().any(|exact| exact.as_ref() == own.as_ref());
        pinned.then(|| parse(own)).flatten()
    }

    /// Whether `own`, of version 1, was signed by one that is trusted.
    fn issued(
        &self,
        own: &CertificateDer<'_>,
        parsed: &X509Certificate<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), Error> {
        let issuer = parsed.issuer().as_raw();
        let issuers = self.authorities.exact.iter().filter_map(|exact| parse(exact));
        let mut issuers = issuers
            .filter(|exact| exact.subject().as_raw() == issuer && may_issue(exact))
            .filter(|exact| is_signed(own, exact.public_key().raw, &self.provider));
        let issuer = issuers.next().ok_or_else(unknown_issuer)?;
        self.examine(parsed, purpose, now)?;
        self.not_revoked(parsed, Some(&issuer), now)
    }

    /// Whether it is in date, and for this purpose.
    fn examine(
        &self,
        own: &X509Certificate<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), Error> {
        let now = at(now);
        if now < inspect::time(own.validity().not_before) {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > inspect::time(own.validity().not_after) {
            return Err(CertificateError::Expired.into());
        }
        let allowed = match own.extended_key_usage() {
            Ok(None) => true,
            Ok(Some(usage)) => {
                let usage = usage.value;
                usage.any
                    || match purpose {
                        Purpose::Server => usage.server_auth,
                        Purpose::Client => usage.client_auth,
                    }
            }
            Err(_) => return Err(CertificateError::BadEncoding.into()),
        };
        if allowed { Ok(()) } else { Err(CertificateError::InvalidPurpose.into()) }
    }

    /// Whether the revocation lists, if there are any, leave it. There must be one of its `issuer`,
    /// unless it is trusted itself.
    fn not_revoked(
        &self,
        own: &X509Certificate<'_>,
        issuer: Option<&X509Certificate<'_>>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut known = self.authorities.revoked.is_empty() || issuer.is_none();
        for list in &self.authorities.revoked {
            let Ok((_, parsed)) = CertificateRevocationList::from_der(list) else { continue };
            if parsed.issuer().as_raw() != own.issuer().as_raw() {
                continue;
            }
            if let Some(issuer) = issuer
                && !is_signed(list, issuer.public_key().raw, &self.provider)
            {
                continue;
            }
            if parsed.next_update().is_some_and(|next| inspect::time(next) <= at(now)) {
                return Err(CertificateError::ExpiredRevocationList.into());
            }
            let serial = own.raw_serial();
            if parsed.iter_revoked_certificates().any(|entry| entry.raw_serial() == serial) {
                return Err(CertificateError::Revoked.into());
            }
            known = true;
        }
        if known { Ok(()) } else { Err(CertificateError::UnknownRevocationStatus.into()) }
    }

    /// Whether a certificate without alternative names is for `name` by its common name. Name
    /// constraints speak of alternative names only, so where there are any this is not asked.
    fn common_name(&self, own: &X509Certificate<'_>, name: &ServerName<'_>) -> Result<(), Error> {
        let constrained =
            |anchor: &rustls::pki_types::TrustAnchor<'_>| anchor.name_constraints.is_some();
        let mut common = own.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        if !self.authorities.issuers.roots.iter().any(constrained)
            && common.any(|common| covers(common, name))
        {
            return Ok(());
        }
        Err(CertificateError::NotValidForName.into())
    }
}

/// Whether a common name is `name`, perhaps with `*` for the first label.
fn covers(common: &str, name: &ServerName<'_>) -> bool {
    match name {
        ServerName::DnsName(name) => {
            let name = name.as_ref();
            let wildcard = || {
                let (parent, (_, rest)) = (common.strip_prefix("*.")?, name.split_once('.')?);
                Some(parent.contains('.') && parent.eq_ignore_ascii_case(rest))
            };
            common.eq_ignore_ascii_case(name) || wildcard() == Some(true)
        }
        ServerName::IpAddress(address) => common.parse() == Ok(std::net::IpAddr::from(*address)),
        _ => false,
    }
}

fn unknown_issuer() -> Error {
    CertificateError::UnknownIssuer.into()
}

fn at(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|parsed| parsed.1)
}

fn version_1<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    parse(der).filter(|parsed| parsed.version() == X509Version::V1)
}

/// Whether it has alternative names that name a host. One that cannot be read counts as such.
fn has_names(certificate: &X509Certificate<'_>) -> bool {
    let host = |name: &GeneralName<'_>| {
        matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_))
    };
    match certificate.subject_alternative_name() {
        Ok(None) => false,
        Ok(Some(names)) => names.value.general_names.iter().any(host),
        Err(_) => true,
    }
}

/// Whether a certificate that is trusted vouches for others too: one that says that it is no
/// authority stands only for itself.
pub(super) fn may_issue(certificate: &X509Certificate<'_>) -> bool {
    let authority = match certificate.basic_constraints() {
        Ok(constraints) => constraints.is_none_or(|constraints| constraints.value.ca),
        Err(_) => false,
    };
    let signs = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    authority && signs
}

/// Whether `signed`, a certificate or a revocation list, was signed with the key `spki`.
fn is_signed(signed: &[u8], spki: &[u8], provider: &CryptoProvider) -> bool {
    let verified = || {
        let (body, _) = element(signed)?;
        let (_, after) = element(body.content)?;
        let tbs = &body.content[..body.content.len() - after.len()];
        let (algorithm, rest) = element(after)?;
        let (signature, _) = element(rest)?;
        // The first byte of a BIT STRING is how many bits are unused: none.
        let signature = signature.content.strip_prefix(&[0])?;
        let (key_algorithm, key) = key(spki)?;
        let algorithms = provider.signature_verification_algorithms.all;
        Some(algorithms.iter().any(|known| {
            known.signature_alg_id().as_ref() == algorithm.content
                && known.public_key_alg_id().as_ref() == key_algorithm
                && known.verify_signature(key, tbs, signature).is_ok()
        }))
    };
    verified() == Some(true)
}

/// The algorithm (without its tag and length) and the bits of a SubjectPublicKeyInfo.
fn key(spki: &[u8]) -> Option<(&[u8], &[u8])> {
    let (spki, _) = element(spki)?;
    let (algorithm, rest) = element(spki.content)?;
    let (bits, _) = element(rest)?;
    Some((algorithm.content, bits.content.strip_prefix(&[0])?))
}

struct Element<'a> {
    content: &'a [u8],
}

/// The first element of DER, and what follows it.
fn element(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |len, &byte| (len << 8) | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((Element { content }, rest))
}

/// Whether the peer has the key of `certificate`, in TLS 1.2. webpki is asked where it understands
/// the certificate; otherwise the key is taken out of it.
fn tls12_signature(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    if ParsedCertificate::try_from(certificate).is_ok() {
        return verify_tls12_signature(message, certificate, signed, algorithms);
    }
    let parsed = parse(certificate).ok_or(CertificateError::BadEncoding)?;
    tls12_signature_with_raw_key(message, parsed.public_key().raw, signed, algorithms)
}

fn tls12_signature_with_raw_key(
    message: &[u8],
    spki: &[u8],
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let mut of_scheme = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    let (_, of_scheme) =
        of_scheme.next().ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let (key_algorithm, key) = key(spki).ok_or(CertificateError::BadEncoding)?;
    let verified = of_scheme.iter().any(|known| {
        known.public_key_alg_id().as_ref() == key_algorithm
            && known.verify_signature(key, message, signed.signature()).is_ok()
    });
    if verified {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

/// The same in TLS 1.3.
fn tls13_signature(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    if ParsedCertificate::try_from(certificate).is_ok() {
        return verify_tls13_signature(message, certificate, signed, algorithms);
    }
    let parsed = parse(certificate).ok_or(CertificateError::BadEncoding)?;
    let spki = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &spki, signed, algorithms)
}
