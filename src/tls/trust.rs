//! Whose certificates are believed.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::{DistinguishedName, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::inspect;
use super::pem::{self, FileError, Problem};
use super::suites::Suites;
use super::verify::{self, Clients};

/// What `openssl ca -gencrl` makes unless it is told otherwise.
const OLD_LIST: &str = "it has version 1, and 2 is needed: `crl_extensions` in openssl.cnf, or \
                        `-crlexts`, has `openssl ca -gencrl` make it";

/// Where distributions keep the roots: Debian, Ubuntu and Arch; Fedora and RHEL; openSUSE; Alpine.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Authorities that are trusted, and what they have revoked.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// Those that vouch for others.
    pub(super) issuers: Arc<RootCertStore>,
    /// All of a file that was named, each of which is trusted as itself too. Of the system's roots,
    /// which are for others to be signed by, none.
    pub(super) exact: Arc<[CertificateDer<'static>]>,
    /// Whom clients are told to have certificates of.
    pub(super) subjects: Arc<[DistinguishedName]>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
    count: usize,
    next_update: Option<SystemTime>,
    fingerprint: [u8; 32],
}

impl Authorities {
    /// The authorities in `ca` (PEM), and the revocation lists in `crl` (PEM, or one as DER).
    ///
    /// With lists, there must be one of every authority that a chain passes, but for its root.
    pub fn read(ca: &Path, crl: Option<&Path>) -> Result<Self, FileError> {
        let (mut all, mut issuers) = (RootCertStore::empty(), RootCertStore::empty());
        let mut fingerprint = Context::new(&SHA256);
        let exact = pem::certificates(ca)?;
        for (certificate, number) in exact.iter().zip(1..) {
            let bad = |reason: String| Problem::BadCertificate { number, reason }.of(ca);
            hash(&mut fingerprint, b"root", certificate);
            all.add(certificate.clone()).map_err(|error| bad(error.to_string()))?;
            let parsed = X509Certificate::from_der(certificate);
            let (_, parsed) = parsed.map_err(|error| bad(error.to_string()))?;
            if verify::may_issue(&parsed) {
                issuers.add(certificate.clone()).map_err(|error| bad(error.to_string()))?;
            }
        }
        let revoked = match crl {
            Some(file) => pem::revocation_lists(file)?,
            None => Vec::new(),
        };
        let mut next_update: Option<SystemTime> = None;
        for list in &revoked {
            hash(&mut fingerprint, b"list", list);
            let bad = |reason: String| Problem::BadRevocationList(reason).of(crl.unwrap_or(ca));
            let parsed = CertificateRevocationList::from_der(list);
            let (_, parsed) = parsed.map_err(|error| bad(error.to_string()))?;
            if parsed.version() != Some(X509Version::V2) {
                return Err(bad(OLD_LIST.to_owned()));
            }
            let Some(next) = parsed.next_update().map(inspect::time) else {
                return Err(bad("it does not say until when it is good (nextUpdate)".to_owned()));
            };
            next_update = [next_update, Some(next)].into_iter().flatten().min();
        }
        let authorities = Self {
            issuers: Arc::new(issuers),
            count: exact.len(),
            exact: exact.into(),
            subjects: all.subjects().into(),
            revoked,
            next_update,
            fingerprint: finish(fingerprint),
        };
        // What else a list may lack shows when it is used: told here, with the file's name.
        if let Some(file) = crl {
            let provider = Suites::recommended().provider();
            Clients::new(authorities.clone(), provider, true)
                .map_err(|error| Problem::BadRevocationList(error.to_string()).of(file))?;
        }
        Ok(authorities)
    }

    /// The roots of this system, or those in the file that `SSL_CERT_FILE` names.
    ///
    /// What cannot be understood among them is left out, as everybody does.
    pub fn system() -> Result<Self, FileError> {
        let named = std::env::var_os("SSL_CERT_FILE").filter(|name| !name.is_empty());
        let file = match &named {
            Some(named) => Path::new(named),
            None => {
                let there = SYSTEM_ROOTS.iter().find(|file| Path::new(file).exists());
                Path::new(there.unwrap_or(&SYSTEM_ROOTS[0]))
            }
        };
        let certificates = pem::certificates(file)?;
        let mut fingerprint = Context::new(&SHA256);
        certificates.iter().for_each(|certificate| hash(&mut fingerprint, b"root", certificate));
        let mut roots = RootCertStore::empty();
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(Problem::NoCertificate.of(file));
        }
        Ok(Self {
            count: roots.len(),
            subjects: roots.subjects().into(),
            issuers: Arc::new(roots),
            exact: Arc::default(),
            revoked: Vec::new(),
            next_update: None,
            fingerprint: finish(fingerprint),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// When the first of the revocation lists will be out of date. From then on, no client that
    /// it speaks of is let in (RFC 5280, section 6.3.3).
    pub fn next_update(&self) -> Option<SystemTime> {
        self.next_update
    }

    /// Differs where who is trusted differs.
    pub(super) fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

fn hash(context: &mut Context, what: &[u8; 4], der: &[u8]) {
    context.update(what);
    context.update(&(der.len() as u64).to_be_bytes());
    context.update(der);
}

fn finish(context: Context) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}
