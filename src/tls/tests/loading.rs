//! Certificates from files, and what is wrong with them.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::tls::certificate::Kind;
use crate::tls::inspect::Finding;
use crate::tls::pem::Problem;

const P256: &SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;

fn problem(cert: &Path, key: &Path) -> Problem {
    Certificate::load(cert, key, now()).unwrap_err().problem
}

fn openssl(authority: &Authority, arguments: &str) {
    let status = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(authority.directory.path())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "openssl {arguments}");
}

#[test]
fn a_certificate_says_whom_it_is_for_and_until_when() {
    let authority = Authority::new();
    let names = ["WWW.Example.com", "*.example.com", "10.0.0.1", "2001:db8::1"];
    let (cert, key) = authority.issue_with("www", &names, P256, |params| {
        params.serial_number = Some(SerialNumber::from(0x1234));
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 12, 31);
    });
    let certificate = Certificate::load(&cert, &key, now()).unwrap();
    assert_eq!(certificate.names().dns, ["www.example.com", "*.example.com"]);
    assert_eq!(
        certificate.names().to_string(),
        "www.example.com, *.example.com, 10.0.0.1, 2001:db8::1"
    );
    assert_eq!(certificate.kind(), Kind::Ecdsa);
    assert_eq!(certificate.serial(), "12:34");
    assert_eq!(certificate.file(), cert);
    let time = |time| humantime::format_rfc3339_seconds(time).to_string();
    assert_eq!(time(certificate.not_before()), "2026-01-01T00:00:00Z");
    assert_eq!(time(certificate.not_after()), "2026-12-31T00:00:00Z");
    assert_eq!(certificate.findings(now()), []);
}

#[test]
fn all_kinds_and_notations_of_keys() {
    let authority = Authority::new();
    for (algorithm, kind) in [
        (P256, Kind::Ecdsa),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Kind::Ecdsa),
        (&rcgen::PKCS_ED25519, Kind::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, Kind::Rsa),
    ] {
        assert_eq!(authority.load(&["www.example.com"], algorithm).kind(), kind);
        let (cert, key) = (authority.path("www.example.com.pem"), authority.path("old.key"));
        let convert = match kind {
            // SEC1, with the curve in a section of its own, as `openssl ecparam -genkey` does.
            Kind::Ecdsa => "ec -in www.example.com.key -out old.key",
            // PKCS#1.
            Kind::Rsa => "rsa -traditional -in www.example.com.key -out old.key",
            Kind::Ed25519 => continue,
        };
        openssl(&authority, convert);
        let text = std::fs::read_to_string(&key).unwrap();
        assert!(text.contains("BEGIN EC PRIVATE") || text.contains("BEGIN RSA PRIVATE"));
        let curve =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        authority.write("old.key", &format!("{curve}{text}"));
        assert_eq!(Certificate::load(&cert, &key, now()).unwrap().kind(), kind);
    }
    // Both in one file, as HAProxy has it.
    let both = ["pem", "key"].map(|end| {
        std::fs::read_to_string(authority.path(&format!("www.example.com.{end}"))).unwrap()
    });
    let both = authority.write("both.pem", &both.concat());
    assert!(Certificate::load(&both, &both, now()).is_ok());
}

#[test]
fn files_that_are_of_no_use() {
    let authority = Authority::new();
    let (cert, key) = authority.issue_with("www", &["www.example.com"], P256, |_| {});
    let (other, other_key) = authority.issue_with("other", &["www.example.com"], P256, |_| {});
    let missing = authority.path("missing");
    assert!(matches!(problem(&missing, &key), Problem::Unreadable(_)));
    assert!(matches!(problem(&cert, &missing), Problem::Unreadable(_)));
    assert!(matches!(problem(&key, &key), Problem::NoCertificate));
    assert!(matches!(problem(&cert, &cert), Problem::NoKey));
    assert!(matches!(problem(&cert, &other_key), Problem::Mismatch { .. }));
    assert!(matches!(problem(&other, &key), Problem::Mismatch { .. }));

    let text = std::fs::read_to_string(&cert).unwrap();
    let cut = authority.write("cut.pem", &text[..text.len() / 2]);
    assert!(matches!(problem(&cut, &key), Problem::Broken(_)));
    let body = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bad = authority.write("bad.pem", &(text + body));
    assert!(matches!(problem(&bad, &key), Problem::BadCertificate { number: 2, .. }));

    let bad_key = body.replace("CERTIFICATE", "PRIVATE KEY");
    let bad_key = authority.write("bad.key", &bad_key);
    assert!(matches!(problem(&cert, &bad_key), Problem::UnusableKey(_)));
    let error = Certificate::load(&cert, &other_key, now()).unwrap_err();
    let expected = format!(
        "{}: the private key is not that of the certificate in {}",
        other_key.display(),
        cert.display()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn encrypted_keys_of_both_ages() {
    let authority = Authority::new();
    let (cert, key) = authority.issue_with("www", &["www.example.com"], P256, |_| {});
    openssl(&authority, "pkcs8 -topk8 -in www.key -out new.key -passout pass:secret");
    openssl(&authority, "ec -aes128 -in www.key -out old.key -passout pass:secret");
    for file in ["new.key", "old.key"] {
        let problem = problem(&cert, &authority.path(file));
        assert!(matches!(problem, Problem::EncryptedKey), "{file}: {problem}");
    }
    assert!(Certificate::load(&cert, &key, now()).is_ok());
}

#[test]
fn weak_keys_are_refused() {
    let authority = Authority::new();
    for (name, kind) in [("weak", "rsa:1024"), ("odd", "ec -pkeyopt ec_paramgen_curve:secp224r1")] {
        let subject = "-x509 -days 1 -subj /CN=weak -addext subjectAltName=DNS:weak.example.com";
        openssl(
            &authority,
            &format!("req -newkey {kind} -nodes -keyout {name}.key -out {name}.pem {subject}"),
        );
        let (cert, key) =
            (authority.path(&format!("{name}.pem")), authority.path(&format!("{name}.key")));
        let error = Certificate::read(&cert, &key).unwrap_err();
        assert!(matches!(error.problem, Problem::UnusableKey(_)), "{error}");
        assert!(error.to_string().contains("RSA of 2048 to 8192 bits"), "{error}");
    }
}

#[test]
fn dates_are_an_error_for_those_who_load_and_a_finding_for_those_who_look() {
    let authority = Authority::new();
    let issue = |from, to| {
        authority.issue_with("www", &["www.example.com"], P256, |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    };
    let (cert, key) = issue(2025, 2026);
    let expired = problem(&cert, &key);
    assert_eq!(expired.to_string(), "the certificate expired 2026-01-01T00:00:00Z");
    let read = Certificate::read(&cert, &key).unwrap();
    assert!(matches!(read.findings(now())[..], [Finding::Expired(_)]));

    let (cert, key) = issue(2027, 2028);
    assert!(matches!(problem(&cert, &key), Problem::NotYetValid(_)));
    let read = Certificate::read(&cert, &key).unwrap();
    assert!(matches!(read.findings(now())[..], [Finding::NotYetValid(_)]));
    assert!(Certificate::load(&cert, &key, now() + Duration::from_secs(400 * 86_400)).is_ok());
}

#[test]
fn doubts() {
    let authority = Authority::new();
    let findings = |names: &[&str], change: fn(&mut CertificateParams)| {
        let (cert, key) = authority.issue_with("www", names, P256, change);
        Certificate::load(&cert, &key, now()).unwrap().findings(now())
    };
    assert_eq!(findings(&[], |_| {}), [Finding::NoNames]);
    let bad = Finding::BadWildcard("w*.example.com".to_owned());
    assert_eq!(findings(&["w*.example.com", "*.example.com"], |_| {}), [bad]);
    let authority_too = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    assert_eq!(findings(&["www.example.com"], authority_too), [Finding::IsAuthority]);
    let for_clients = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    assert_eq!(findings(&["www.example.com"], for_clients), [Finding::NotForServers]);
}

#[test]
fn chains_begin_below_and_go_up() {
    let authority = Authority::new();
    let (cert, key) = authority.issue_with("www", &["www.example.com"], P256, |_| {});
    let text = std::fs::read_to_string(&cert).unwrap();
    let load = |chain: &str| {
        let chain = authority.write("chain.pem", chain);
        Certificate::load(&chain, &key, now()).unwrap().findings(now())
    };
    assert_eq!(load(&(text.clone() + &authority.ca.pem())), []);
    let stranger = Authority::named("Another Root");
    assert_eq!(load(&(text.clone() + &stranger.ca.pem())), [Finding::ChainOrder(2)]);

    let old_key = KeyPair::generate().unwrap();
    let mut old = params("Test Root", &[]);
    old.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    old.not_after = date_time_ymd(2026, 1, 1);
    let old = old.self_signed(&old_key).unwrap().pem();
    assert!(matches!(load(&(text + &old))[..], [Finding::ChainExpired { number: 2, .. }]));
}

#[test]
fn the_wrong_way_round_is_a_key_that_does_not_match() {
    let authority = Authority::new();
    let (cert, key) = authority.issue_with("www", &["www.example.com"], P256, |_| {});
    let text = authority.ca.pem() + &std::fs::read_to_string(&cert).unwrap();
    let reversed = authority.write("reversed.pem", &text);
    assert!(matches!(problem(&reversed, &key), Problem::Mismatch { .. }));
}

#[test]
fn weak_signatures_and_weak_keys_above() {
    let authority = Authority::new();
    let (cert, key) = authority.issue_with("www", &["www.example.com"], P256, |_| {});
    authority.write("ca.key", &authority.issuer.key().serialize_pem());
    openssl(&authority, "req -new -key www.key -subj /CN=www -out www.csr");
    let sign = "-CA ca.pem -CAkey ca.key -set_serial 1 -days 1 -sha1 -out sha1.pem";
    openssl(&authority, &format!("x509 -req -in www.csr {sign}"));
    let read = Certificate::read(&authority.path("sha1.pem"), &key).unwrap();
    let weak = Finding::WeakSignature { number: 1, algorithm: "SHA-1" };
    assert_eq!(read.findings(read.not_before()), [Finding::NoNames, weak]);

    let weak = "req -x509 -newkey rsa:1024 -nodes -days 1 -subj /CN=weak -keyout w.key -out w.pem";
    openssl(&authority, weak);
    let chain = [cert, authority.path("w.pem")].map(|file| std::fs::read_to_string(file).unwrap());
    let read = Certificate::read(&authority.write("chain.pem", &chain.concat()), &key).unwrap();
    let weak = Finding::WeakKey { number: 2, bits: 1024 };
    assert_eq!(read.findings(read.not_before()), [Finding::ChainOrder(2), weak]);
}
