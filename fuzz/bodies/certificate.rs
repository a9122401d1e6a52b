//! Any bytes as the files that an operator names: certificates, keys, revocation lists, responses.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lockgate::tls::certificate::Certificate;
use lockgate::tls::certificates::Certificates;
use lockgate::tls::clock::Clock;
use lockgate::tls::pem::{FileError, Problem};
use lockgate::tls::server::{ClientAuth, MinVersion, Server, ServerSettings, SetupError};
use lockgate::tls::suites::Suites;
use lockgate::tls::trust::Authorities;

/// A throw-away key, and certificates for it: what comes from elsewhere is put beside these.
const KEY: &[u8] = include_bytes!("../../tests/corpus/certificate/key-pkcs8.der");
const LEAF: &[u8] = include_bytes!("../../tests/corpus/certificate/leaf.der");
const CA: &[u8] = include_bytes!("../../tests/corpus/certificate/ca.der");

/// Times before, within and after the validity of most certificates.
const TIMES: [u64; 4] = [0, 1_000_000_000, 2_000_000_000, 400_000_000_000];

/// A file without a name in any directory, so that none is left behind.
struct Scratch {
    path: PathBuf,
    _open: File,
}

/// The good files.
struct Good {
    key: Scratch,
    leaf: Scratch,
    ca: Scratch,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| Good {
    key: scratch(&armour("PRIVATE KEY", KEY)),
    leaf: scratch(&armour("CERTIFICATE", LEAF)),
    ca: scratch(&armour("CERTIFICATE", CA)),
});

/// They are loaded, or refused with a message on one line; what was loaded is of use.
pub fn any(bytes: &[u8]) {
    let Good { key, leaf, ca } = &*GOOD;
    // As a file, in every place where one can be named.
    let file = scratch(bytes);
    chain(&file, key, bytes);
    chain(&file, &file, bytes);
    chain(leaf, &file, bytes);
    authorities(&file, None);
    authorities(ca, Some(&file));
    // Both in one, which the fuzzer need not find out.
    let both = scratch(&[bytes, b"\n", &armour("PRIVATE KEY", KEY)[..]].concat());
    chain(&both, &both, bytes);
    // And as what is in a file, without the fuzzer having to find out about base64.
    let certificate = armour("CERTIFICATE", bytes);
    let file = scratch(&certificate);
    chain(&file, key, bytes);
    authorities(&file, None);
    let above = scratch(&[armour("CERTIFICATE", LEAF), certificate].concat());
    chain(&above, key, bytes);
    for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
        chain(leaf, &scratch(&armour(label, bytes)), bytes);
    }
    authorities(ca, Some(&scratch(&armour("X509 CRL", bytes))));
}

/// Loads a certificate, and if it is one, uses it; `response` is stapled.
fn chain(file: &Scratch, key: &Scratch, response: &[u8]) {
    let (file, key) = (&*file.path, &*key.path);
    let certificate = match Certificate::read(file, key) {
        Ok(certificate) => certificate,
        Err(error) => {
            refused(&error, &[file, key]);
            assert!(Certificate::load(file, key, UNIX_EPOCH).is_err());
            return;
        }
    };
    assert!(certificate.not_after() <= UNIX_EPOCH + Duration::from_secs(253_402_300_799));
    for now in TIMES.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)) {
        let out_of_date = now < certificate.not_before() || now > certificate.not_after();
        match Certificate::load(file, key, now) {
            Ok(_) => assert!(!out_of_date),
            Err(error) => {
                assert!(matches!(error.problem, Problem::Expired(_) | Problem::NotYetValid(_)));
                assert!(out_of_date);
                refused(&error, &[file]);
            }
        }
        certificate.findings(now).iter().for_each(|finding| drop(finding.to_string()));
    }
    let _ = format!("{certificate:?} {} {}", certificate.kind(), certificate.serial());
    let names = certificate.names().clone();
    let _ = names.to_string();
    let stapled = certificate.clone().stapled(response.to_vec());
    let certificates = Certificates::new(vec![certificate, stapled]).expect("two of them");
    assert!(certificates.find(None, false, UNIX_EPOCH).is_some());
    for name in &names.dns {
        assert!(!name.ends_with('.') && !name.contains(|letter: char| letter.is_ascii_uppercase()));
        let asked = match name.strip_prefix("*.") {
            Some(parent) => format!("any.{parent}"),
            None => name.clone(),
        };
        for asked in [asked.to_ascii_uppercase(), format!("{asked}.")] {
            assert!(
                certificates.find(Some(&asked), true, UNIX_EPOCH).is_some(),
                "{name:?}: {asked:?}"
            );
        }
    }
    listener(certificates, ClientAuth::None).expect("a certificate is all it needs");
}

/// Loads whom to trust, and lets a listener trust them.
fn authorities(ca: &Scratch, crl: Option<&Scratch>) {
    let (ca, crl) = (&*ca.path, crl.map(|crl| &*crl.path));
    match Authorities::read(ca, crl) {
        Ok(authorities) => {
            assert!(authorities.count() > 0);
            let _ = authorities.next_update();
            let leaf = Certificate::read(&GOOD.leaf.path, &GOOD.key.path).expect("a good one");
            let leaf = Certificates::new(vec![leaf]).expect("one");
            // It may yet find a list that it does not support.
            if let Err(error) = listener(leaf, ClientAuth::Required(authorities)) {
                assert!(crl.is_some(), "{error}");
            }
        }
        Err(error) => refused(&error, &[ca, crl.unwrap_or(ca)]),
    }
}

fn listener(certificates: Certificates, auth: ClientAuth) -> Result<Server, SetupError> {
    Server::new(ServerSettings {
        listener: "fuzz".to_owned(),
        certificates,
        min_version: MinVersion::Tls12,
        suites: Suites::recommended(),
        alpn: Vec::new(),
        strict_sni: false,
        client_auth: auth,
        tickets: None,
        require_close_notify: false,
        clock: Clock::new(|| SystemTime::UNIX_EPOCH),
    })
}

/// A message on one line that names one of the files.
fn refused(error: &FileError, files: &[&Path]) {
    assert!(files.contains(&&*error.file), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&error.file.display().to_string()));
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn scratch(bytes: &[u8]) -> Scratch {
    let mut open = tempfile::tempfile().expect("a file");
    open.write_all(bytes).expect("room for it");
    Scratch { path: format!("/proc/self/fd/{}", open.as_raw_fd()).into(), _open: open }
}

/// PEM (RFC 7468).
fn armour(label: &str, der: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n").into_bytes()
}
