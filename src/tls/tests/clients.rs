//! Clients that show certificates, and ourselves as a client.

use std::net::IpAddr;

use rustls::AlertDescription::{
    CertificateExpired, CertificateRequired, CertificateRevoked, UnknownCA,
};
use rustls::Error::AlertReceived;

use super::*;
use crate::tls::client::{Ask, Client, ClientSettings, PeerName, Trust};

fn identity(authority: &Authority, serial: u64) -> (PathBuf, PathBuf) {
    let file = format!("client-{serial}");
    authority.issue_with(&file, &[], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.serial_number = Some(SerialNumber::from(serial));
    })
}

#[test]
fn required_and_optional_client_certificates() {
    let (authority, stranger) = (Authority::new(), Authority::named("Another Root"));
    let base = settings(vec![authority.ecdsa(&["www.example.com"])]);
    let server = |client_auth| Server::new(ServerSettings { client_auth, ..base.clone() }).unwrap();
    let required = server(ClientAuth::Required(authority.authorities()));
    let optional = server(ClientAuth::Optional(authority.authorities()));
    let shake = |client: TestClient, server| {
        handshake(&client.config(), server, "www.example.com")
            .map(|agreed| agreed.client_certificates)
    };
    let client = || TestClient::of(&authority);

    let good = identity(&authority, 1);
    assert_eq!(shake(client().identity(good.clone()), &required).unwrap(), 1);
    assert_eq!(shake(client().identity(good), &optional).unwrap(), 1);
    assert_eq!(shake(client(), &optional).unwrap(), 0);
    let failed = shake(client(), &required).unwrap_err();
    assert_eq!(failed.client, Some(AlertReceived(CertificateRequired)));
    for server in [&required, &optional] {
        let failed = shake(client().identity(identity(&stranger, 1)), server).unwrap_err();
        assert_eq!(failed.client, Some(AlertReceived(UnknownCA)), "{failed:?}");
    }
    let old = authority.issue_with("old", &[], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_after = date_time_ymd(2026, 1, 1);
    });
    let failed = shake(client().identity(old), &required).unwrap_err();
    assert_eq!(failed.client, Some(AlertReceived(CertificateExpired)));
}

#[test]
fn revoked_clients_and_lists_out_of_date() {
    let authority = Authority::new();
    let base = settings(vec![authority.ecdsa(&["www.example.com"])]);
    let server = |list: &PathBuf| {
        let authorities = Authorities::read(&authority.path("ca.pem"), Some(list)).unwrap();
        let client_auth = ClientAuth::Required(authorities);
        Server::new(ServerSettings { client_auth, ..base.clone() }).unwrap()
    };
    let client =
        |serial| TestClient::of(&authority).identity(identity(&authority, serial)).config();

    let list = authority.revoke(&[7], 2027);
    let current = server(&list);
    assert!(handshake(&client(8), &current, "www.example.com").is_ok());
    let failed = handshake(&client(7), &current, "www.example.com").unwrap_err();
    assert_eq!(failed.client, Some(AlertReceived(CertificateRevoked)));
    let authorities = Authorities::read(&authority.path("ca.pem"), Some(&list)).unwrap();
    assert!(authorities.next_update().is_some_and(|next| next > now()));
    assert_eq!(authorities.count(), 1);

    let stale = server(&authority.revoke(&[], 2026));
    assert!(handshake(&client(8), &stale, "www.example.com").is_err());

    // The same list as DER.
    let pem = std::fs::read(authority.revoke(&[7], 2027)).unwrap();
    let der = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(&pem).unwrap();
    std::fs::write(authority.path("crl.der"), &der).unwrap();
    let failed = handshake(&client(7), &server(&authority.path("crl.der")), "www.example.com");
    assert_eq!(failed.unwrap_err().client, Some(AlertReceived(CertificateRevoked)));
}

#[test]
fn files_of_authorities_that_are_of_no_use() {
    let authority = Authority::new();
    let ca = authority.path("ca.pem");
    let empty = authority.write("empty.pem", "");
    let garbage = authority.write("garbage.crl", "0\u{1}garbage");
    let message = |ca: &PathBuf, crl: Option<&PathBuf>| {
        let error = Authorities::read(ca, crl.map(PathBuf::as_path)).unwrap_err().to_string();
        error.replace(&format!("{}/", authority.directory.path().display()), "")
    };
    assert_eq!(message(&empty, None), "empty.pem: no certificate in it");
    assert_eq!(message(&ca, Some(&empty)), "empty.pem: no revocation list in it");
    let broken = message(&ca, Some(&garbage));
    assert!(broken.starts_with("garbage.crl: the revocation list cannot be"), "{broken}");
    assert!(message(&authority.path("none"), None).starts_with("none: No such file"));
}

fn client(trust: Trust, ask: Ask, identity: Option<Certificate>) -> Client {
    Client::new(ClientSettings {
        trust,
        ask,
        identity,
        require_close_notify: false,
        clock: Clock::new(now),
    })
    .unwrap()
}

fn connect(client: &Client, peer: PeerName, server: &Server) -> Result<Agreed, Box<Failed>> {
    handshake_of(ClientConnection::new(client.config(), peer.0).unwrap(), server)
}

#[test]
fn backends_are_verified_by_name_or_address_or_not_at_all() {
    let authority = Authority::new();
    let names = ["backend.example.com", "10.0.0.1"];
    let server = Server::new(settings(vec![authority.ecdsa(&names)])).unwrap();
    let strict = client(Trust::Authorities(authority.authorities()), Ask::Backend, None);
    let careless = client(Trust::Anyone, Ask::Backend, None);
    let stranger = Authority::named("Another Root").authorities();
    let stranger = client(Trust::Authorities(stranger), Ask::Backend, None);
    for (name, good) in [
        ("backend.example.com", true),
        ("backend.example.com.", true),
        ("other.example.com", false),
        ("10.0.0.1", true),
        ("10.0.0.2", false),
    ] {
        let peer = || PeerName::parse(name).unwrap();
        assert_eq!(connect(&strict, peer(), &server).is_ok(), good, "{name}");
        assert!(connect(&careless, peer(), &server).is_ok());
        assert!(connect(&stranger, peer(), &server).is_err());
    }
    assert!(PeerName::parse("no name").is_err() && PeerName::parse("").is_err());
}

#[test]
fn backends_are_asked_for_the_name_that_is_configured() {
    let backend = PeerName::parse("backend.example.com").unwrap();
    let asked = PeerName::parse("www.example.com").unwrap();
    let fixed = PeerName::from("10.0.0.1".parse::<IpAddr>().unwrap());
    let client = |ask| client(Trust::Anyone, ask, None);
    let peer = |ask, name| client(ask).peer(&backend, name);
    assert_eq!(peer(Ask::Backend, Some("www.example.com")), backend);
    assert_eq!(peer(Ask::Client, Some("www.example.com")), asked);
    assert_eq!(peer(Ask::Client, Some("no name")), backend);
    assert_eq!(peer(Ask::Client, None), backend);
    assert_eq!(peer(Ask::Name(fixed.clone()), Some("www.example.com")), fixed);
}

#[test]
fn we_show_a_certificate_and_resume() {
    let authority = Authority::new();
    let (cert, key) = identity(&authority, 1);
    let identity = Certificate::load(&cert, &key, now()).unwrap();
    let server = Server::new(ServerSettings {
        client_auth: ClientAuth::Required(authority.authorities()),
        tickets: Some(crate::tls::tickets::Secret::random().unwrap()),
        ..settings(vec![authority.ecdsa(&["backend.example.com"])])
    })
    .unwrap();
    let peer = PeerName::parse("backend.example.com").unwrap();
    let trust = Trust::Authorities(authority.authorities());
    let client = client(trust, Ask::Backend, Some(identity));
    let connect = |client: &Client| connect(client, peer.clone(), &server).unwrap();
    assert_eq!(connect(&client).client_certificates, 1);
    assert!(connect(&client).resumed);
    let apart = client.apart();
    assert!(!connect(&apart).resumed, "sessions of its own");
    assert!(connect(&apart).resumed);
    assert!(connect(&client).resumed);
}

#[test]
fn what_is_believed_is_replaced_for_all_who_share_it() {
    let authority = Authority::new();
    let server = settings(vec![authority.ecdsa(&["backend.example.com"])]);
    let server = Server::new(server).unwrap();
    let peer = PeerName::parse("backend.example.com").unwrap();
    let trust = |authority: &Authority| Trust::Authorities(authority.authorities());
    let stranger = Authority::named("Another Root");
    let client = client(trust(&stranger), Ask::Backend, None);
    let apart = client.apart();
    for client in [&client, &apart] {
        assert!(connect(client, peer.clone(), &server).is_err());
    }
    let clock = Clock::new(now);
    let trust = trust(&authority);
    apart
        .replace(ClientSettings {
            trust,
            ask: Ask::Backend,
            identity: None,
            require_close_notify: false,
            clock,
        })
        .unwrap();
    for client in [&client, &apart, &client.apart()] {
        connect(client, peer.clone(), &server).unwrap();
    }
}

#[test]
fn the_system_has_roots() {
    // Where it has none, the error names a file.
    match Authorities::system() {
        Ok(roots) => assert!(roots.count() > 10),
        Err(error) => assert!(error.to_string().contains("/etc/ssl/"), "{error}"),
    }
}
