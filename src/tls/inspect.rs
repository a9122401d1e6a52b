//! What certificates say of themselves.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use super::pem::{FileError, Problem};

/// RSA keys below that are within reach (NIST SP 800-57 part 1, section 5.6.1).
const MIN_RSA_BITS: usize = 2048;

/// Whom a certificate is for: its alternative names. The common name is not one of them (RFC 9525,
/// section 2): clients ignore it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Names {
    /// DNS names in lower case, perhaps with `*` for the first label.
    pub dns: Vec<String>,
    /// Addresses.
    pub ip: Vec<IpAddr>,
}

impl Names {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ip.is_empty()
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.ip.iter().map(IpAddr::to_string);
        let all: Vec<_> = self.dns.iter().cloned().chain(ip).collect();
        f.write_str(&all.join(", "))
    }
}

/// What is doubtful about a certificate that could be loaded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Finding {
    /// It has expired.
    #[error("expired {}", humantime::format_rfc3339_seconds(*.0))]
    Expired(SystemTime),
    /// It is not valid yet.
    #[error("not valid before {}", humantime::format_rfc3339_seconds(*.0))]
    NotYetValid(SystemTime),
    /// It has no alternative name: clients will refuse it whatever they ask for.
    #[error(
        "it has no alternative names (SAN), so no client will accept it; the common name does not \
         count"
    )]
    NoNames,
    /// A name with a `*` elsewhere than as the whole of its first label, before two others.
    #[error(
        "clients do not take its name {0:?}: a wildcard is the whole first label, before two others"
    )]
    BadWildcard(String),
    /// A certificate of the chain with an RSA key of less than 2048 bits.
    #[error("the key of certificate {number} in the file is weak ({bits} bits)")]
    WeakKey {
        /// Which one, counted from 1, the server's own.
        number: usize,
        /// How long it is.
        bits: usize,
    },
    /// Signed with SHA-1 or MD5.
    #[error("certificate {number} in the file is signed with {algorithm}, which clients refuse")]
    WeakSignature {
        /// Which one, counted from 1.
        number: usize,
        /// With what.
        algorithm: &'static str,
    },
    /// A certificate that does not vouch for the one before.
    #[error(
        "certificate {0} in the file is not the issuer of the one before it: the chain begins with \
         the server's own and goes up"
    )]
    ChainOrder(usize),
    /// An intermediate certificate has expired.
    #[error(
        "certificate {number} in the file expired {}",
        humantime::format_rfc3339_seconds(*.not_after)
    )]
    ChainExpired {
        /// Which one, counted from 1.
        number: usize,
        /// When.
        not_after: SystemTime,
    },
    /// It is a certificate of an authority, not of a server.
    #[error("it is that of an authority (CA:TRUE), which some clients refuse")]
    IsAuthority,
    /// Its extended key usage does not allow what it is meant for.
    #[error("its extended key usage does not include server authentication")]
    NotForServers,
}

/// What a chain says of itself.
#[derive(Clone)]
pub(super) struct Inspected {
    pub(super) names: Names,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) serial: String,
    /// The public key (SubjectPublicKeyInfo).
    pub(super) public_key: Vec<u8>,
    pub(super) doubts: Vec<Finding>,
    /// When the certificates above the server's own expire.
    above: Vec<SystemTime>,
}

impl Inspected {
    /// The certificates above the server's own that have expired.
    pub(super) fn chain_expired(&self, now: SystemTime) -> impl Iterator<Item = Finding> {
        let above = self.above.iter().zip(2..).filter(move |(not_after, _)| now > **not_after);
        above.map(|(&not_after, number)| Finding::ChainExpired { number, not_after })
    }
}

/// Reads `chain`, which comes from `file`.
pub(super) fn inspect(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Inspected, FileError> {
    let mut parsed = Vec::with_capacity(chain.len());
    for (der, number) in chain.iter().zip(1..) {
        let bad = |reason: String| Problem::BadCertificate { number, reason }.of(file);
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => parsed.push(certificate),
            Ok(_) => return Err(bad("there are bytes after its end".to_owned())),
            Err(error) => return Err(bad(error.to_string())),
        }
    }
    let Some((own, above)) = parsed.split_first() else {
        return Err(Problem::NoCertificate.of(file));
    };
    let names = names(own);
    let mut doubts = Vec::new();
    about_own(own, &names, &mut doubts);
    about_chain(&parsed, &mut doubts);
    Ok(Inspected {
        names,
        not_before: time(own.validity().not_before),
        not_after: time(own.validity().not_after),
        serial: own.raw_serial_as_string(),
        public_key: own.public_key().raw.to_vec(),
        doubts,
        above: above.iter().map(|above| time(above.validity().not_after)).collect(),
    })
}

fn about_own(own: &X509Certificate<'_>, names: &Names, doubts: &mut Vec<Finding>) {
    if names.is_empty() {
        doubts.push(Finding::NoNames);
    }
    let bad_wildcard = |name: &&String| match name.strip_prefix("*.") {
        Some(parent) => parent.contains('*') || !parent.contains('.'),
        None => name.contains('*'),
    };
    doubts.extend(names.dns.iter().filter(bad_wildcard).cloned().map(Finding::BadWildcard));
    if own.is_ca() {
        doubts.push(Finding::IsAuthority);
    }
    if let Ok(Some(usage)) = own.extended_key_usage()
        && !(usage.value.server_auth || usage.value.any)
    {
        doubts.push(Finding::NotForServers);
    }
}

fn about_chain(chain: &[X509Certificate<'_>], doubts: &mut Vec<Finding>) {
    for (pair, number) in chain.windows(2).zip(2..) {
        if let [below, above] = pair
            && below.issuer().as_raw() != above.subject().as_raw()
        {
            doubts.push(Finding::ChainOrder(number));
        }
    }
    for (certificate, number) in chain.iter().zip(1..) {
        if let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed()
            && key.key_size() < MIN_RSA_BITS
        {
            doubts.push(Finding::WeakKey { number, bits: key.key_size() });
        }
        // Nobody verifies the signature of a root.
        let root = certificate.issuer().as_raw() == certificate.subject().as_raw();
        if let Some(algorithm) = weak_signature(certificate).filter(|_| !root) {
            doubts.push(Finding::WeakSignature { number, algorithm });
        }
    }
}

fn weak_signature(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        // sha1WithRSAEncryption (RFC 8017), its twin of the OIW, ecdsa-with-SHA1 (RFC 3279).
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" | "1.2.840.10045.4.1" => Some("SHA-1"),
        // md5WithRSAEncryption.
        "1.2.840.113549.1.1.4" => Some("MD5"),
        _ => None,
    }
}

fn names(certificate: &X509Certificate<'_>) -> Names {
    let mut names = Names::default();
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return names };
    for name in &alternatives.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                names.dns.push(name.trim_end_matches('.').to_ascii_lowercase());
            }
            GeneralName::IPAddress(bytes) => names.ip.extend(address(bytes)),
            _ => {}
        }
    }
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// A date of a certificate, within what can be shown: from 1970 to 9999, which stands for "never"
/// (RFC 5280, section 4.1.2.5).
pub(super) fn time(time: ASN1Time) -> SystemTime {
    const END_OF_9999: u64 = 253_402_300_799;
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0).min(END_OF_9999);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The first common name of a certificate's subject, if there is one that is text.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<Box<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    name.map(Into::into)
}
