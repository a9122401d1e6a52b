//! Whose certificates are believed.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::inspect;
use super::pem::{self, FileError, Problem};

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
    pub(super) roots: Arc<RootCertStore>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
    next_update: Option<SystemTime>,
    fingerprint: [u8; 32],
}

impl Authorities {
    /// The authorities in `ca` (PEM), and the revocation lists in `crl` (PEM, or one as DER).
    ///
    /// With lists, there must be one of every authority that a chain passes, but for its root.
    pub fn read(ca: &Path, crl: Option<&Path>) -> Result<Self, FileError> {
        let mut roots = RootCertStore::empty();
        let mut fingerprint = Context::new(&SHA256);
        for (certificate, number) in pem::certificates(ca)?.into_iter().zip(1..) {
            hash(&mut fingerprint, b"root", &certificate);
            roots.add(certificate).map_err(|error| {
                Problem::BadCertificate { number, reason: error.to_string() }.of(ca)
            })?;
        }
        let revoked = match crl {
            Some(file) => pem::revocation_lists(file)?,
            None => Vec::new(),
        };
        let mut next_update: Option<SystemTime> = None;
        for list in &revoked {
            hash(&mut fingerprint, b"list", list);
            let parsed = CertificateRevocationList::from_der(list).map_err(|error| {
                Problem::BadRevocationList(error.to_string()).of(crl.unwrap_or(ca))
            })?;
            let next = parsed.1.next_update().map(inspect::time);
            next_update = [next_update, next].into_iter().flatten().min();
        }
        let fingerprint = finish(fingerprint);
        Ok(Self { roots: Arc::new(roots), revoked, next_update, fingerprint })
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
        let fingerprint = finish(fingerprint);
        Ok(Self { roots: Arc::new(roots), revoked: Vec::new(), next_update: None, fingerprint })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.roots.len()
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
