//! Reading files of certificates, keys and revocation lists.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Far more than any bundle; revocation lists of public authorities have tens of megabytes.
const MAX_FILE_LEN: u64 = 256 << 20;

/// A file that is of no use, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// It is no PEM, or a part of it is broken.
    #[error("broken PEM: {0}")]
    Broken(String),
    /// A certificate in it cannot be understood.
    #[error("certificate {number} in it cannot be understood: {reason}")]
    BadCertificate {
        /// Which one, counted from 1.
        number: usize,
        /// What the parser says.
        reason: String,
    },
    /// A revocation list in it cannot be understood.
    #[error("the revocation list cannot be understood: {0}")]
    BadRevocationList(String),
    /// It is no answer of an OCSP responder that says how a certificate is.
    #[error("no OCSP response in DER, or one that only tells of an error")]
    BadResponse,
    /// It has no certificate.
    #[error("no certificate in it")]
    NoCertificate,
    /// It has no key.
    #[error("no private key in it")]
    NoKey,
    /// It has no revocation list.
    #[error("no revocation list in it")]
    NoRevocationList,
    /// The key needs a passphrase, which a daemon has nobody to ask for.
    #[error("the private key is encrypted; `openssl pkey -in FILE -out FILE` decrypts it")]
    EncryptedKey,
    /// The key is of a kind that is not supported.
    #[error(
        "the private key is of no use: {0} (RSA of 2048 to 8192 bits, P-256, P-384, P-521 and \
         Ed25519 are)"
    )]
    UnusableKey(String),
    /// The key is not that of the certificate.
    #[error("the private key is not that of the certificate in {}", certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate has expired.
    #[error("the certificate expired {}", humantime::format_rfc3339_seconds(*.0))]
    Expired(std::time::SystemTime),
    /// The certificate is not valid yet.
    #[error("the certificate is not valid before {}", humantime::format_rfc3339_seconds(*.0))]
    NotYetValid(std::time::SystemTime),
}

impl Problem {
    /// This problem, as that of `file`.
    pub(super) fn of(self, file: &Path) -> FileError {
        FileError { file: file.to_owned(), problem: self }
    }
}

/// The bytes of `file`.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, FileError> {
    let read = || {
        let open = open(file)?;
        // Enough, so that a key is not left behind in memory that was outgrown.
        let mut bytes = Vec::with_capacity(open.metadata()?.len().min(MAX_FILE_LEN) as usize + 1);
        open.take(MAX_FILE_LEN).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| Problem::Unreadable(error).of(file))
}

/// Opens an ordinary file: a pipe would be waited for, and with it everything else.
fn open(file: &Path) -> io::Result<File> {
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file)?;
    match open.metadata()?.file_type() {
        kind if kind.is_file() => Ok(open),
        kind if kind.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not an ordinary file")),
    }
}

/// All certificates in `file`: at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let certificates: Vec<_> = all(file, &read(file)?)?;
    if certificates.is_empty() {
        return Err(Problem::NoCertificate.of(file));
    }
    Ok(certificates)
}

/// All revocation lists in `file`: PEM, or one as DER.
pub(super) fn revocation_lists(
    file: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    let bytes = read(file)?;
    // What begins with a SEQUENCE of DER is no text.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateRevocationListDer::from(bytes)]);
    }
    let lists: Vec<_> = all(file, &bytes)?;
    if lists.is_empty() {
        return Err(Problem::NoRevocationList.of(file));
    }
    Ok(lists)
}

/// The first private key in `file`: PKCS#8, PKCS#1 or SEC1. Nothing is left of it in memory when
/// the result is dropped.
pub(super) fn private_key(file: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, FileError> {
    let bytes = Zeroizing::new(read(file)?);
    // The first is PKCS#8 (RFC 7468, section 11), the second what OpenSSL did before.
    for encrypted in [&b"-----BEGIN ENCRYPTED PRIVATE KEY-----"[..], b"Proc-Type: 4,ENCRYPTED"] {
        if bytes.windows(encrypted.len()).any(|window| window == encrypted) {
            return Err(Problem::EncryptedKey.of(file));
        }
    }
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(pem::Error::NoItemsFound) => Err(Problem::NoKey.of(file)),
        Err(error) => Err(Problem::Broken(error.to_string()).of(file)),
    }
}

fn all<T: PemObject>(file: &Path, bytes: &[u8]) -> Result<Vec<T>, FileError> {
    T::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::Broken(error.to_string()).of(file))
}
