//! Certificates that are trusted as themselves, and those of version 1.

use rcgen::{ExtendedKeyUsagePurpose, SigningKey};
use rustls::version::{TLS12, TLS13};

use super::*;
use crate::tls::client::{Ask, Client, ClientSettings, PeerName, Trust};

/// One element of DER: its tag, and all of it.
fn elements(mut der: &[u8]) -> Vec<(u8, &[u8], &[u8])> {
    let mut elements = Vec::new();
    while !der.is_empty() {
        let (header, len) = match der[1] {
            short @ 0..=0x7f => (2, usize::from(short)),
            0x81 => (3, usize::from(der[2])),
            0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
            _ => unreachable!("nothing is as long"),
        };
        let (element, rest) = der.split_at(header + len);
        elements.push((element[0], element, &element[header..]));
        der = rest;
    }
    elements
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap().to_be_bytes();
    let mut der = match content.len() {
        0..=0x7f => vec![tag, len[1]],
        0x80..=0xff => vec![tag, 0x81, len[1]],
        _ => vec![tag, 0x82, len[0], len[1]],
    };
    der.extend(content);
    der
}

/// The same certificate as tools of old write it: no version, no extensions.
fn version_1(der: &[u8], signer: &KeyPair) -> Vec<u8> {
    let parts = elements(elements(der)[0].2);
    let fields = elements(parts[0].2).into_iter().filter(|(tag, ..)| ![0xa0, 0xa3].contains(tag));
    let tbs = wrap(0x30, &fields.flat_map(|(_, all, _)| all.to_vec()).collect::<Vec<_>>());
    let mut signature = vec![0];
    signature.extend(signer.sign(&tbs).unwrap());
    wrap(0x30, &[&tbs[..], parts[1].1, &wrap(0x03, &signature)].concat())
}

fn pem(der: &[u8]) -> String {
    use std::io::Write;
    let mut openssl = std::process::Command::new("openssl")
        .args(["x509", "-inform", "DER"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(der).unwrap();
    String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap()
}

/// What a server or a client has: a certificate and its key.
struct Made {
    directory: TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Made {
    fn of(pem: &str, key: &KeyPair) -> Self {
        let directory = TempDir::new().unwrap();
        let (cert, file) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        std::fs::write(&cert, pem).unwrap();
        std::fs::write(&file, key.serialize_pem()).unwrap();
        Self { directory, cert, key: file }
    }

    fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params("app-1", names);
        change(&mut params);
        Self::of(&params.self_signed(&key).unwrap().pem(), &key)
    }

    fn self_signed_of_version_1(algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params("app-1", &[]).self_signed(&key).unwrap();
        Self::of(&pem(&version_1(certificate.der(), &key)), &key)
    }

    /// With the common name app-1.example.com, by `authority`.
    fn issued_of_version_1(authority: &Authority) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut params = params("app-1.example.com", &[]);
        params.serial_number = Some(SerialNumber::from(7));
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        Self::of(&pem(&version_1(certificate.der(), authority.issuer.key())), &key)
    }

    fn trust(&self) -> Trust {
        Trust::Authorities(Authorities::read(&self.cert, None).unwrap())
    }

    fn server(&self) -> Server {
        Server::new(settings(vec![Certificate::read(&self.cert, &self.key).unwrap()])).unwrap()
    }

    fn identity(&self) -> (PathBuf, PathBuf) {
        (self.cert.clone(), self.key.clone())
    }
}

fn is_authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

/// Whether the gateway talks to `server`, in both versions.
fn believes(trust: &Trust, server: &Server, name: &str) -> bool {
    let settings = ClientSettings {
        require_close_notify: false,
        trust: trust.clone(),
        ask: Ask::Backend,
        identity: None,
        clock: Clock::new(now),
    };
    let client = Client::new(settings).unwrap();
    let believed = [&TLS12, &TLS13].map(|version| {
        let mut config = ClientConfig::builder_with_provider(Suites::recommended().provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let settings = ClientSettings {
            require_close_notify: false,
            trust: trust.clone(),
            ask: Ask::Backend,
            identity: None,
            clock: Clock::new(now),
        };
        let verifier = crate::tls::client::verifier(settings.trust).unwrap();
        config.dangerous().set_certificate_verifier(verifier);
        config.time_provider = Arc::new(settings.clock);
        let name = PeerName::parse(name).unwrap().0;
        handshake_of(ClientConnection::new(Arc::new(config), name).unwrap(), server).is_ok()
    });
    let name = PeerName::parse(name).unwrap().0;
    let as_it_is = handshake_of(ClientConnection::new(client.config(), name).unwrap(), server);
    assert_eq!(believed, [as_it_is.is_ok(); 2]);
    as_it_is.is_ok()
}

#[test]
fn a_certificate_that_is_trusted_itself() {
    let no_ca = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
    let made = [
        Made::self_signed(&[], is_authority),
        Made::self_signed(&[], no_ca),
        Made::self_signed(&[], |_| {}),
        Made::self_signed_of_version_1(&rcgen::PKCS_RSA_SHA256),
        Made::self_signed_of_version_1(&rcgen::PKCS_ECDSA_P256_SHA256),
    ];
    for (number, made) in made.iter().enumerate() {
        let server = made.server();
        assert!(believes(&made.trust(), &server, "10.0.0.1"), "{number}");
        assert!(believes(&made.trust(), &server, "app-2.example.com"), "{number}");
        assert!(believes(&Trust::Anyone, &server, "10.0.0.1"), "{number}");
        let stranger = Made::self_signed(&[], is_authority);
        assert!(!believes(&stranger.trust(), &server, "app-1"), "{number}");
    }
    // Names that it has are what it is good for.
    for change in [is_authority, no_ca] {
        let named = Made::self_signed(&["app-1.example.com"], change);
        assert!(believes(&named.trust(), &named.server(), "app-1.example.com"));
        assert!(!believes(&named.trust(), &named.server(), "app-2.example.com"));
        assert!(!believes(&named.trust(), &named.server(), "10.0.0.1"));
    }
    for bad in [
        Made::self_signed(&[], |params| params.not_after = date_time_ymd(2026, 5, 31)),
        Made::self_signed(&[], |params| params.not_before = date_time_ymd(2026, 6, 2)),
        Made::self_signed(&[], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }),
    ] {
        assert!(!believes(&bad.trust(), &bad.server(), "app-1"));
        assert!(believes(&Trust::Anyone, &bad.server(), "app-1"));
    }
}

#[test]
fn a_certificate_that_is_no_authority_vouches_for_nobody() {
    let key = KeyPair::generate().unwrap();
    let mut own = params("app-1", &[]);
    own.is_ca = IsCa::ExplicitNoCa;
    let pinned = Made::of(&own.self_signed(&key).unwrap().pem(), &key);
    let issuer = Issuer::new(own, key);
    let other = KeyPair::generate().unwrap();
    let forged = params("app-2", &["app-2.example.com"]).signed_by(&other, &issuer).unwrap();
    let old = pem(&version_1(forged.der(), issuer.key()));
    for forged in [forged.pem(), old] {
        let forged = Made::of(&forged, &other);
        assert!(!believes(&pinned.trust(), &forged.server(), "app-2.example.com"));
        assert!(!believes(&pinned.trust(), &forged.server(), "app-2"));
    }
}

#[test]
fn version_1_signed_by_an_authority() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let made = Made::issued_of_version_1(&authority);
    let trust = Trust::Authorities(authority.authorities());
    assert!(believes(&trust, &made.server(), "app-1.example.com"));
    assert!(!believes(&trust, &made.server(), "app-2.example.com"));
    // Of the same name, with another key.
    let trust = Trust::Authorities(stranger.authorities());
    assert!(!believes(&trust, &made.server(), "app-1.example.com"));
}

#[test]
fn common_names_count_where_there_are_no_others() {
    let authority = Authority::new();
    let trust = Trust::Authorities(authority.authorities());
    let server = |common: &str, names: &[&str]| {
        let (cert, key) = authority.issue_with("own", names, &rcgen::PKCS_RSA_SHA256, |params| {
            params.distinguished_name.push(DnType::CommonName, common);
        });
        Server::new(settings(vec![Certificate::load(&cert, &key, now()).unwrap()])).unwrap()
    };
    for (common, name, good) in [
        ("App-1.example.com", "app-1.example.com", true),
        ("*.example.com", "app-1.example.com", true),
        ("*.example.com", "a.app-1.example.com", false),
        ("*.com", "example.com", false),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
        ("app-1", "app-2", false),
    ] {
        assert_eq!(believes(&trust, &server(common, &[]), name), good, "{common} {name}");
    }
    assert!(!believes(&trust, &server("app-1", &["app-2"]), "app-1"));
}

#[test]
fn a_certificate_without_its_key_is_nobodys() {
    let own = Made::self_signed_of_version_1(&rcgen::PKCS_RSA_SHA256);
    let thief = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let provider = Suites::recommended().provider();
    let chain = vec![CertificateDer::from_pem_file(&own.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(thief.serialize_pem().as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let stolen = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    for version in [&TLS12, &TLS13] {
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(stolen.clone());
        for trust in [own.trust(), Trust::Anyone] {
            let (ask, identity, clock) = (Ask::Backend, None, Clock::new(now));
            let client =
                ClientSettings { trust, ask, identity, require_close_notify: false, clock };
            let client = Client::new(client).unwrap().config();
            let name = PeerName::parse("app-1").unwrap().0;
            let mut client = ClientConnection::new(client, name).unwrap();
            let mut server = ServerConnection::new(Arc::new(server.clone())).unwrap();
            let mut failed = None;
            while failed.is_none() && client.is_handshaking() {
                let mut bytes = Vec::new();
                client.write_tls(&mut bytes).unwrap();
                server.read_tls(&mut &bytes[..]).unwrap();
                server.process_new_packets().unwrap();
                let mut bytes = Vec::new();
                while server.wants_write() {
                    server.write_tls(&mut bytes).unwrap();
                }
                client.read_tls(&mut &bytes[..]).unwrap();
                failed = client.process_new_packets().err();
            }
            assert!(matches!(failed, Some(Error::InvalidCertificate(_))), "{failed:?}");
        }
    }
}

#[test]
fn clients_with_such_certificates() {
    let authority = Authority::new();
    let own = [
        Made::self_signed(&[], is_authority),
        Made::self_signed(&[], |_| {}),
        Made::self_signed_of_version_1(&rcgen::PKCS_RSA_SHA256),
    ];
    let issued = Made::issued_of_version_1(&authority);
    let server = |ca: &PathBuf, crl: Option<&PathBuf>, required| {
        let authorities = Authorities::read(ca, crl.map(PathBuf::as_path)).unwrap();
        let client_auth = match required {
            true => ClientAuth::Required(authorities),
            false => ClientAuth::Optional(authorities),
        };
        let certificates = vec![authority.ecdsa(&["www.example.com"])];
        Server::new(ServerSettings { client_auth, ..settings(certificates) }).unwrap()
    };
    let shake = |made: &Made, server: &Server| {
        [&TLS12, &TLS13].map(|version| {
            let client = TestClient::of(&authority).version(version).identity(made.identity());
            handshake(&client.config(), server, "www.example.com")
                .is_ok_and(|agreed| agreed.client_certificates == 1)
        })
    };
    let ca = authority.path("ca.pem");
    for required in [true, false] {
        for made in &own {
            assert_eq!(shake(made, &server(&made.cert, None, required)), [true; 2]);
            assert_eq!(shake(made, &server(&ca, None, required)), [false; 2]);
        }
        assert_eq!(shake(&issued, &server(&ca, None, required)), [true; 2]);
        assert_eq!(shake(&issued, &server(&own[0].cert, None, required)), [false; 2]);
    }
    // Its serial number is 7.
    for (serials, until, good) in [(&[8][..], 2027, true), (&[7], 2027, false), (&[], 2026, false)]
    {
        let list = authority.revoke(serials, until);
        assert_eq!(shake(&issued, &server(&ca, Some(&list), true)), [good; 2]);
        // Trusted itself, and revoked all the same.
        let both = [&ca, &issued.cert].map(|file| std::fs::read_to_string(file).unwrap()).concat();
        let both = authority.write("both.pem", &both);
        assert_eq!(shake(&issued, &server(&both, Some(&list), true)), [good; 2]);
    }
    assert!(issued.directory.path().exists());
}

#[test]
fn old_revocation_lists_are_refused_by_name() {
    let authority = Authority::new();
    let pem = std::fs::read(authority.revoke(&[7], 2027)).unwrap();
    let list = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(&pem).unwrap();
    let parts = elements(elements(&list)[0].2);
    // Without the version, the entries' extensions being none, and the list's.
    let fields = elements(parts[0].2).into_iter().filter(|(tag, ..)| ![0x02, 0xa0].contains(tag));
    let fields = fields.flat_map(|(_, all, _)| all.to_vec()).collect::<Vec<_>>();
    let old = wrap(0x30, &[&wrap(0x30, &fields), parts[1].1, parts[2].1].concat());
    let file = authority.path("old.crl");
    std::fs::write(&file, old).unwrap();
    let error = Authorities::read(&authority.path("ca.pem"), Some(&file)).unwrap_err().to_string();
    assert!(error.contains("old.crl: ") && error.contains("version 1"), "{error}");
}
