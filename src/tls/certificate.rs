//! One certificate with its key, and what there is to say about it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;

use super::inspect::{Finding, Inspected, Names, inspect};
use super::pem::{self, FileError, Problem};

/// What kind of key a certificate has. Of several for the same name, the first that the client
/// takes is used, in this order: ECDSA signs ten times as fast as RSA.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// ECDSA over P-256, P-384 or P-521.
    Ecdsa,
    /// Ed25519, which browsers do not take.
    Ed25519,
    /// RSA.
    Rsa,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ecdsa => "ecdsa",
            Self::Ed25519 => "ed25519",
            Self::Rsa => "rsa",
        })
    }
}

/// A certificate, its chain and its key, ready for use.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    kind: Kind,
    inspected: Inspected,
    file: PathBuf,
}

impl Certificate {
    /// Reads the chain in `file` (PEM, the server's own certificate first) and the key in
    /// `key_file` (PEM, which may be the same file). Fails if the certificate is not valid `now`.
    pub fn load(file: &Path, key_file: &Path, now: SystemTime) -> Result<Self, FileError> {
        let certificate = Self::read(file, key_file)?;
        match certificate.validity(now) {
            None => Ok(certificate),
            Some(problem) => Err(problem.of(file)),
        }
    }

    /// As [`Certificate::load`], but whatever its dates: [`Certificate::findings`] tells.
    pub fn read(file: &Path, key_file: &Path) -> Result<Self, FileError> {
        let chain = pem::certificates(file)?;
        let inspected = inspect(file, &chain)?;
        let key = pem::private_key(key_file)?;
        let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| {
            let reason = match error {
                rustls::Error::General(reason) => reason,
                other => other.to_string(),
            };
            Problem::UnusableKey(reason).of(key_file)
        })?;
        if key.public_key().is_some_and(|public| *public != *inspected.public_key) {
            return Err(Problem::Mismatch { certificate: file.to_owned() }.of(key_file));
        }
        // Not `CertifiedKey::from_der`, which refuses certificates with critical extensions that
        // are meant for others, such as that of ACME's TLS-ALPN-01 (RFC 8737, section 3).
        let key = CertifiedKey::new(chain, key);
        let kind = match key.key.algorithm() {
            SignatureAlgorithm::ECDSA => Kind::Ecdsa,
            SignatureAlgorithm::ED25519 => Kind::Ed25519,
            SignatureAlgorithm::RSA => Kind::Rsa,
            other => return Err(Problem::UnusableKey(format!("{other:?}")).of(key_file)),
        };
        Ok(Self { key: Arc::new(key), kind, inspected, file: file.to_owned() })
    }

    /// This certificate with an answer of its authority to staple to it (RFC 6066, section 8):
    /// the DER of an OCSP response, or empty for none.
    pub fn stapled(mut self, response: Vec<u8>) -> Self {
        let ocsp = (!response.is_empty()).then_some(response);
        self.key = Arc::new(CertifiedKey { ocsp, ..CertifiedKey::clone(&self.key) });
        self
    }

    /// The same, with the OCSP response in `file` (DER, RFC 6960) stapled to it, if that is about this
    /// certificate. An empty file is none.
    pub fn stapled_from(self, file: &Path) -> Result<Self, FileError> {
        let response = pem::read(file)?;
        if response.is_empty() {
            return Ok(self);
        }
        if !is_successful(&response) {
            return Err(Problem::BadResponse.of(file));
        }
        // It names the certificate by its number.
        let digits = self.inspected.serial.split(':').map(|digits| u8::from_str_radix(digits, 16));
        let serial: Vec<u8> = digits.flatten().collect();
        let about_this =
            !serial.is_empty() && response.windows(serial.len()).any(|window| *window == *serial);
        Ok(if about_this { self.stapled(response) } else { self })
    }

    /// What kind of key it has.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whom it is for.
    pub fn names(&self) -> &Names {
        &self.inspected.names
    }

    /// When it began to be valid.
    pub fn not_before(&self) -> SystemTime {
        self.inspected.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.inspected.not_after
    }

    /// Its number, in hexadecimal with colons, as `openssl x509 -text` shows it.
    pub fn serial(&self) -> &str {
        &self.inspected.serial
    }

    /// Where it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All that is doubtful about it `now`, the worst first.
    pub fn findings(&self, now: SystemTime) -> Vec<Finding> {
        let dates = match self.validity(now) {
            Some(Problem::Expired(at)) => Some(Finding::Expired(at)),
            Some(Problem::NotYetValid(at)) => Some(Finding::NotYetValid(at)),
            _ => None,
        };
        let chain = self.inspected.chain_expired(now);
        dates.into_iter().chain(chain).chain(self.inspected.doubts.iter().cloned()).collect()
    }

    /// Whether it has begun to be valid, and has not expired.
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.validity(now).is_none()
    }

    fn validity(&self, now: SystemTime) -> Option<Problem> {
        if now > self.inspected.not_after {
            Some(Problem::Expired(self.inspected.not_after))
        } else if now < self.inspected.not_before {
            Some(Problem::NotYetValid(self.inspected.not_before))
        } else {
            None
        }
    }

    pub(super) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// Whether it begins as an `OCSPResponse` with the status `successful` does (RFC 6960, 4.2.1).
fn is_successful(response: &[u8]) -> bool {
    let body = match response {
        [0x30, short, body @ ..] if *short < 0x80 => body,
        [0x30, 0x81, _, body @ ..] | [0x30, 0x82, _, _, body @ ..] => body,
        [0x30, 0x83, _, _, _, body @ ..] => body,
        _ => return false,
    };
    body.starts_with(&[0x0a, 1, 0])
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("kind", &self.kind)
            .field("names", &self.inspected.names)
            .field("serial", &self.inspected.serial)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
