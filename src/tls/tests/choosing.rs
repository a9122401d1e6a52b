//! Which certificate, cipher suite, group and protocol a client gets.

use rustls::AlertDescription::{
    HandshakeFailure, NoApplicationProtocol, ProtocolVersion, UnrecognisedName,
};
use rustls::Error::AlertReceived;
use rustls::version::{TLS12, TLS13};

use super::*;
use crate::config::{self, plan};
use crate::tls::certificate::Kind;
use crate::tls::server::SetupError;

fn shown(certificate: &Certificate) -> CertificateDer<'static> {
    certificate.certified_key().cert[0].clone()
}

#[test]
fn exact_name_then_wildcard_then_the_first() {
    let authority = Authority::new();
    let first = authority.ecdsa(&["first.example.com", "other.example.org"]);
    let exact = authority.ecdsa(&["www.example.com"]);
    let wildcard = authority.ecdsa(&["*.example.com"]);
    let both = [shown(&first), shown(&exact), shown(&wildcard)];
    let server = Server::new(settings(vec![first, exact, wildcard])).unwrap();
    let certificates = server.certificates();
    for (name, expected) in [
        ("www.example.com", 1),
        ("WWW.Example.COM", 1),
        ("www.example.com.", 1),
        ("first.example.com", 0),
        ("other.example.org", 0),
        ("api.example.com", 2),
        ("a.b.example.com", 0),
        ("example.com", 0),
        (".example.com", 0),
        ("nobody.example.net", 0),
        ("", 0),
        (".", 0),
    ] {
        let found = certificates.find(Some(name), false, now()).unwrap();
        assert_eq!(shown(&found), both[expected], "{name}");
    }
    assert_eq!(shown(&certificates.find(None, false, now()).unwrap()), both[0]);

    let client = TestClient::of(&authority).config();
    for (name, expected) in [("www.example.com", 1), ("api.example.com", 2)] {
        assert_eq!(handshake(&client, &server, name).unwrap().certificate, both[expected]);
    }
    // The default has no such name, which the client notices.
    let failed = handshake(&client, &server, "nobody.example.net").unwrap_err();
    assert!(matches!(failed.client, Some(Error::InvalidCertificate(_))), "{failed:?}");
}

#[test]
fn strict_names_are_refused_with_their_alert() {
    let authority = Authority::new();
    let certificate = authority.ecdsa(&["www.example.com"]);
    let server =
        Server::new(ServerSettings { strict_sni: true, ..settings(vec![certificate]) }).unwrap();
    for version in [&TLS12, &TLS13] {
        let client = TestClient::of(&authority).version(version).config();
        assert!(handshake(&client, &server, "www.example.com").is_ok());
        let failed = handshake(&client, &server, "api.example.com").unwrap_err();
        assert_eq!(failed.client, Some(AlertReceived(UnrecognisedName)));
        let failed = handshake_without_name(&client, &server).unwrap_err();
        assert_eq!(failed.client, Some(AlertReceived(UnrecognisedName)));
    }
    assert!(server.admits(Some("www.example.com")) && !server.admits(None));
}

#[test]
fn other_failures_keep_their_alert() {
    let authority = Authority::new();
    let settings = ServerSettings {
        strict_sni: true,
        min_version: MinVersion::Tls13,
        ..settings(vec![authority.ecdsa(&["www.example.com"])])
    };
    let server = Server::new(settings).unwrap();
    let client = TestClient::of(&authority).version(&TLS12).config();
    let failed = handshake(&client, &server, "api.example.com").unwrap_err();
    assert_eq!(failed.client, Some(AlertReceived(ProtocolVersion)));
}

#[test]
fn rsa_and_ecdsa_side_by_side() {
    let authority = Authority::new();
    let (rsa, ecdsa) = (authority.rsa(&["www.example.com"]), authority.ecdsa(&["www.example.com"]));
    assert_eq!((rsa.kind(), ecdsa.kind()), (Kind::Rsa, Kind::Ecdsa));
    let expected = [shown(&rsa), shown(&ecdsa)];
    let server = Server::new(settings(vec![rsa, ecdsa])).unwrap();

    // TLS 1.2 tells by its suites.
    for (suite, index) in [("ECDHE-RSA-AES128-GCM-SHA256", 0), ("ECDHE-ECDSA-AES128-GCM-SHA256", 1)]
    {
        let client = TestClient::of(&authority).version(&TLS12).suites(&[suite]).config();
        let agreed = handshake(&client, &server, "www.example.com").unwrap();
        assert_eq!(agreed.certificate, expected[index], "{suite}");
        let agreed = handshake_without_name(&client, &server).unwrap();
        assert_eq!(agreed.certificate, expected[index], "{suite}");
    }
    // TLS 1.3 tells by signature schemes, of which this client has all.
    let client = TestClient::of(&authority).version(&TLS13).config();
    assert_eq!(handshake(&client, &server, "www.example.com").unwrap().certificate, expected[1]);
}

#[test]
fn a_wildcard_serves_whom_the_exact_certificate_does_not_suit() {
    let authority = Authority::new();
    let (exact, wildcard) =
        (authority.ecdsa(&["www.example.com"]), authority.rsa(&["*.example.com"]));
    let expected = shown(&wildcard);
    let server = Server::new(settings(vec![exact, wildcard])).unwrap();
    let rsa = ["ECDHE-RSA-AES128-GCM-SHA256"];
    let client = TestClient::of(&authority).version(&TLS12).suites(&rsa).config();
    assert_eq!(handshake(&client, &server, "www.example.com").unwrap().certificate, expected);
    let alone = Server::new(settings(vec![authority.ecdsa(&["www.example.com"])])).unwrap();
    let failed = handshake(&client, &alone, "www.example.com").unwrap_err();
    assert_eq!(failed.client, Some(AlertReceived(HandshakeFailure)));
}

#[test]
fn the_first_stays_the_default_beside_others_of_its_name() {
    let authority = Authority::new();
    let first = authority.ecdsa(&["b.example.com", "www.example.com"]);
    let second = authority.ecdsa(&["www.example.com", "b.example.com"]);
    let (first_shown, second_shown) = (shown(&first), shown(&second));
    let certificates = Certificates::new(vec![first.clone(), second.clone()]).unwrap();
    assert_eq!(shown(&certificates.find(None, false, now()).unwrap()), first_shown);
    certificates.replace(vec![second, first]).unwrap();
    assert_eq!(shown(&certificates.find(None, false, now()).unwrap()), second_shown);
    assert!(Certificates::new(Vec::new()).is_err());
    assert!(certificates.replace(Vec::new()).is_err());
    assert_eq!(certificates.all().len(), 2);
}

#[test]
fn replaced_certificates_serve_the_next_connection() {
    let authority = Authority::new();
    let server = Server::new(settings(vec![authority.ecdsa(&["www.example.com"])])).unwrap();
    let client = TestClient::of(&authority).config();
    let old = handshake(&client, &server, "www.example.com").unwrap().certificate;
    let renewed = authority.ecdsa(&["www.example.com"]).stapled(b"OCSP".to_vec());
    server.certificates().replace(vec![renewed.clone()]).unwrap();
    let new = handshake(&client, &server, "www.example.com").unwrap().certificate;
    assert_ne!(new, old);
    assert_eq!(new, shown(&renewed));
    assert_eq!(renewed.certified_key().ocsp.as_deref(), Some(&b"OCSP"[..]));
    assert_eq!(renewed.stapled(Vec::new()).certified_key().ocsp, None);
}

#[test]
fn protocols_match_or_the_client_is_refused() {
    let authority = Authority::new();
    let base = settings(vec![authority.ecdsa(&["www.example.com"])]);
    let alpn = vec!["h2".to_owned(), "http/1.1".to_owned()];
    let server = Server::new(ServerSettings { alpn, ..base.clone() }).unwrap();
    let agreed = |client: TestClient| {
        handshake(&client.config(), &server, "www.example.com").map(|agreed| agreed.alpn)
    };
    let client = || TestClient::of(&authority);
    assert_eq!(agreed(client().alpn(&["http/1.1", "h2"])).unwrap().unwrap(), b"h2");
    assert_eq!(agreed(client().alpn(&["http/1.1"])).unwrap().unwrap(), b"http/1.1");
    assert_eq!(agreed(client()).unwrap(), None);
    let failed = agreed(client().alpn(&["imap"])).unwrap_err();
    assert_eq!(failed.client, Some(AlertReceived(NoApplicationProtocol)));

    let silent = Server::new(base.clone()).unwrap();
    let client = client().alpn(&["imap"]).config();
    assert_eq!(handshake(&client, &silent, "www.example.com").unwrap().alpn, None);

    for bad in [String::new(), "x".repeat(256)] {
        let refused = Server::new(ServerSettings { alpn: vec![bad.clone()], ..base.clone() });
        assert_eq!(refused.unwrap_err(), SetupError::BadAlpn(bad));
    }
}

#[test]
fn each_suite_of_tls12_in_the_order_given() {
    let authority = Authority::new();
    let names = ["www.example.com"];
    let certificates = vec![authority.rsa(&names), authority.ecdsa(&names)];
    let all: Vec<_> = Suites::known_names()
        .map(|(_, openssl)| openssl)
        .filter(|name| name.starts_with("ECDHE"))
        .collect();
    assert_eq!(all.len(), 6);
    let iana: Vec<_> = Suites::known_names().collect();
    let iana = |openssl| iana.iter().find(|(_, other)| *other == openssl).unwrap().0;
    for first in 0..6 {
        let mut order = all.clone();
        order.rotate_left(first);
        let suites = Suites::from_names(&order).unwrap();
        let settings = ServerSettings { suites, ..settings(certificates.clone()) };
        let server = Server::new(settings).unwrap();
        // A client that takes what the server likes best of the certificate's kind, whatever its
        // own order.
        let kind = if order[0].contains("ECDSA") { "ECDSA" } else { "RSA" };
        let mut of_kind: Vec<_> =
            order.iter().copied().filter(|name| name.contains(kind)).collect();
        let favourite = of_kind[0];
        of_kind.reverse();
        let client = TestClient::of(&authority).version(&TLS12).suites(&of_kind).config();
        let agreed = handshake(&client, &server, "www.example.com").unwrap();
        assert_eq!(agreed.suite, iana(favourite));
    }
}

#[test]
fn the_order_given_rules_tls13_too_and_the_default_leaves_it_to_the_client() {
    let authority = Authority::new();
    let base = settings(vec![authority.ecdsa(&["www.example.com"])]);
    let chacha_first = ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"];
    let aes_first = ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"];
    let client = |names: &[&str]| TestClient::of(&authority).suites(names).config();

    let server = Server::new(base.clone()).unwrap();
    for order in [chacha_first, aes_first] {
        let agreed = handshake(&client(&order), &server, "www.example.com").unwrap();
        assert_eq!(agreed.suite, order[0]);
    }
    let suites = Suites::from_names(&aes_first).unwrap();
    let server = Server::new(ServerSettings { suites, ..base }).unwrap();
    let agreed = handshake(&client(&chacha_first), &server, "www.example.com").unwrap();
    assert_eq!(agreed.suite, aes_first[0]);
}

#[test]
fn post_quantum_key_exchange_is_agreed_on() {
    let authority = Authority::new();
    let server = Server::new(settings(vec![authority.ecdsa(&["www.example.com"])])).unwrap();
    let client = TestClient::of(&authority).config();
    let agreed = handshake(&client, &server, "www.example.com").unwrap();
    assert_eq!(agreed.group, Some(NamedGroup::X25519MLKEM768));
    let client = TestClient::of(&authority).version(&TLS12).config();
    let agreed = handshake(&client, &server, "www.example.com").unwrap();
    assert_eq!(agreed.group, Some(NamedGroup::X25519));
}

/// A configuration knows the suites by lists of its own.
#[test]
fn a_configuration_names_the_suites_that_there_are() {
    let parse = |names: &[&str]| {
        let source = format!(
            "[[listener]]\nname = 'a'\nbind = '10.0.0.1:443'\nprotocol = 'tls'\n\
             tls = {{ certificates = [{{ cert = 'c', key = 'k' }}], ciphers = {names:?} }}\n"
        );
        let plan = config::parse("t.toml", &source).map_err(|error| error.to_string())?;
        match &plan.listeners[0].protocol {
            plan::Protocol::Tls(tls) => Ok(tls.ciphers.clone()),
            other => Err(format!("{other:?}")),
        }
    };
    let (iana, openssl): (Vec<_>, Vec<_>) = Suites::known_names().unzip();
    let suites = parse(&iana).unwrap();
    assert_eq!(parse(&openssl).unwrap(), suites);
    assert_eq!(suites.iter().map(|suite| suite.name()).collect::<Vec<_>>(), iana);
    for suite in suites {
        let is_of_13 = suite.version() == plan::TlsVersion::Tls13;
        let ours = Suites::from_names(&[suite.name()]).unwrap();
        assert_eq!(ours.provider().cipher_suites[0].version() == &TLS13, is_of_13, "{suite}");
    }
    // Nor does it know more of them.
    let more = [&iana[..], &iana[..1]].concat();
    let expected = format!("ciphers: {} are more than {}", more.len(), iana.len());
    assert!(parse(&more).unwrap_err().contains(&expected));
}

#[test]
fn a_certificate_that_is_valid_is_preferred_to_one_that_is_not() {
    let authority = Authority::new();
    let until = |year: i32, file: &str, name: &str| {
        let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
        let (cert, key) = authority.issue_with(file, &[name], algorithm, |params| {
            params.not_after = date_time_ymd(year, 1, 1);
        });
        Certificate::load(&cert, &key, now()).unwrap()
    };
    let first = until(2031, "first", "www.example.com");
    let wildcard = until(2033, "wildcard", "*.example.com");
    let second = until(2035, "second", "www.example.com");
    let all = [shown(&first), shown(&wildcard), shown(&second)];
    let years = |years: u64| now() + Duration::from_secs(years * 366 * 24 * 3600);

    let set = Certificates::new(vec![first.clone(), wildcard.clone(), second]).unwrap();
    for name in [Some("www.example.com"), None] {
        for (at, expected) in [(0, 0), (6, 2), (20, 0)] {
            let found = set.find(name, false, years(at)).unwrap();
            assert_eq!(shown(&found), all[expected], "{name:?} in {at} years");
        }
    }
    let set = Certificates::new(vec![first.clone(), wildcard.clone()]).unwrap();
    for (at, expected) in [(0, 0), (6, 1), (20, 0)] {
        let found = set.find(Some("www.example.com"), true, years(at)).unwrap();
        assert_eq!(shown(&found), all[expected], "in {at} years");
    }
    // Handshakes look at the time, too: nothing has to be replaced.
    let later =
        ServerSettings { clock: Clock::new(move || years(6)), ..settings(vec![first, wildcard]) };
    let server = Server::new(later).unwrap();
    let client = TestClient::of(&authority).config();
    assert_eq!(handshake(&client, &server, "www.example.com").unwrap().certificate, all[1]);
}
