//! Sessions that are resumed, and those that must not be.

use rustls::version::{TLS12, TLS13};

use super::*;
use crate::tls::tickets::Secret;

fn secret(byte: u8) -> Secret {
    let bytes: Vec<_> = (0..32).map(|index| index ^ byte).collect();
    Secret::from_bytes(&bytes).unwrap()
}

/// Whether a session that began at `first` is resumed at `second`, by TLS 1.2 and by 1.3.
fn resumed(client: impl Fn() -> TestClient, first: &Server, second: &Server) -> [bool; 2] {
    [&TLS12, &TLS13].map(|version| {
        let client = client().version(version).config();
        assert!(!handshake(&client, first, "www.example.com").unwrap().resumed);
        handshake(&client, second, "www.example.com").unwrap().resumed
    })
}

#[test]
fn on_the_other_gateway_with_the_same_secret() {
    let authority = Authority::new();
    let base = settings(vec![authority.ecdsa(&["www.example.com"])]);
    let server = |listener: &str, byte| {
        let (listener, tickets) = (listener.to_owned(), Some(secret(byte)));
        Server::new(ServerSettings { listener, tickets, ..base.clone() }).unwrap()
    };
    let client = || TestClient::of(&authority);
    let first = server("https", 1);
    assert_eq!(resumed(client, &first, &first), [true; 2]);
    assert_eq!(resumed(client, &first, &server("https", 1)), [true; 2]);
    assert_eq!(resumed(client, &first, &server("https", 2)), [false; 2]);
    assert_eq!(resumed(client, &first, &server("admin", 1)), [false; 2]);
    let without = Server::new(base.clone()).unwrap();
    assert_eq!(resumed(client, &without, &without), [false; 2]);
    assert_eq!(resumed(client, &first, &without), [false; 2]);
}

#[test]
fn a_ticket_for_one_name_is_no_good_for_another() {
    let authority = Authority::new();
    let names = ["www.example.com", "api.example.com"];
    let tickets = Some(secret(1));
    let settings = ServerSettings { tickets, ..settings(vec![authority.ecdsa(&names)]) };
    let server = Server::new(settings).unwrap();
    let client = TestClient::of(&authority).config();
    assert!(!handshake(&client, &server, names[0]).unwrap().resumed);
    assert!(!handshake(&client, &server, names[1]).unwrap().resumed);
    assert!(handshake(&client, &server, names[0]).unwrap().resumed);
}

#[test]
fn strict_names_hold_for_resumed_sessions() {
    let authority = Authority::new();
    let certificate = || authority.ecdsa(&["www.example.com"]);
    let base = ServerSettings { tickets: Some(secret(1)), ..settings(vec![certificate()]) };
    let first = Server::new(base.clone()).unwrap();
    let certificates = Certificates::new(vec![authority.ecdsa(&["api.example.com"])]).unwrap();
    let strict = ServerSettings { strict_sni: true, certificates, ..base };
    let strict = Server::new(strict).unwrap();
    let client = TestClient::of(&authority).config();
    assert!(!handshake(&client, &first, "www.example.com").unwrap().resumed);
    assert!(handshake(&client, &strict, "www.example.com").is_err());
}

#[test]
fn with_client_certificates_only_under_the_same_authorities() {
    let (authority, other) = (Authority::new(), Authority::named("Other Root"));
    let identity = authority.issue_with("client", &[], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.serial_number = Some(SerialNumber::from(7));
    });
    let client = || TestClient::of(&authority).identity(identity.clone());
    let base = ServerSettings {
        tickets: Some(secret(1)),
        ..settings(vec![authority.ecdsa(&["www.example.com"])])
    };
    let server = |client_auth| Server::new(ServerSettings { client_auth, ..base.clone() }).unwrap();
    let required = || server(ClientAuth::Required(authority.authorities()));

    let open = server(ClientAuth::None);
    assert_eq!(resumed(client, &required(), &required()), [true; 2]);
    assert_eq!(resumed(client, &open, &required()), [false; 2]);
    let optional = server(ClientAuth::Optional(authority.authorities()));
    assert_eq!(resumed(client, &optional, &required()), [false; 2]);

    // A list that revokes the certificate makes an end of the sessions that began with it.
    for version in [&TLS12, &TLS13] {
        let client = client().version(version).config();
        let agreed = handshake(&client, &required(), "www.example.com").unwrap();
        assert_eq!(agreed.client_certificates, 1);
        let resumed = handshake(&client, &required(), "www.example.com").unwrap();
        assert_eq!((resumed.resumed, resumed.client_certificates), (true, 1));
        let list = authority.revoke(&[7], 2027);
        let authorities = Authorities::read(&authority.path("ca.pem"), Some(&list)).unwrap();
        let revoked = server(ClientAuth::Required(authorities));
        assert!(handshake(&client, &revoked, "www.example.com").is_err());
        let distrusted = server(ClientAuth::Required(other.authorities()));
        assert!(handshake(&client, &distrusted, "www.example.com").is_err());
    }
}
