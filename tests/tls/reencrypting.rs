//! From TLS to TLS: whom the gateway believes, and whose fault it is when it does not.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use serde_json::Value;

use super::{BEHIND, NAME, Site};
use crate::harness::behind::{ServedStream, close_notify, offering, serve_tls};
use crate::harness::tls::{
    Authority, Issued, Kind, credulous, greeting_tls, shake_hands, visit_tls,
};
use crate::harness::{Server, eventually, unused_address};

/// A name that no server has a certificate for.
const UNKNOWN: &str = "unknown.example.com";
/// More than the failures that eject a backend.
const ROUNDS: usize = 5;

/// Greets with its name, and hears the client out.
fn greet(name: &str) -> impl Fn(ServedStream) -> io::Result<()> + Send + Sync + 'static {
    let line = format!("{name}\n");
    move |mut stream| {
        stream.write_all(line.as_bytes())?;
        io::copy(&mut stream, &mut io::sink())?;
        close_notify(&mut stream)
    }
}

/// A server that has this certificate.
fn showing(name: &str, issued: &Issued) -> Server {
    serve_tls(name, unused_address(), offering(issued, rustls::ALL_VERSIONS), greet(name))
}

/// What is wrong with a certificate for a name, and how to get it.
type Wrong = (&'static str, fn(&Authority, &str) -> Issued);

/// Those that are wrong whatever the name.
const WRONG: [Wrong; 3] = [
    ("expired", |authority, name| authority.issue_expired(&[name])),
    // The same name does not make it the same authority.
    ("of a stranger", |_, name| Authority::new("authority").issue(&[name])),
    ("for clients alone", |authority, name| {
        authority.issue_as(&[name], Kind::Ecdsa, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }),
];

/// Expects that the gateway finds nobody for this client. Returns its record.
#[track_caller]
fn turned_away(config: &ClientConfig, name: &str, site: &Site) -> Value {
    let mut client = shake_hands(config, name, site.address).unwrap();
    let from = client.sock.local_addr().unwrap();
    let error = greeting_tls(&mut client).expect_err("nobody greets");
    // An end in order would be an empty answer.
    let broken = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof);
    assert!(broken, "{error}");
    let record = site.gateway.record_of(from);
    assert_eq!(record["reason"], "connect_failed", "{record}");
    assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&0.into(), &0.into()), "{record}");
    record
}

/// Connections to a backend that failed for its TLS.
fn failures(site: &Site, backend: &str) -> f64 {
    let labels = [("pool", "app"), ("backend", backend), ("reason", "tls")];
    site.gateway.metric("lockgate_backend_connect_failures_total", &labels)
}

#[test]
fn a_server_with_the_wrong_certificate() {
    let another: Wrong = ("for another name", |authority, _| authority.issue(&[NAME]));
    for (what, issue) in WRONG.into_iter().chain([another]) {
        let authority = Authority::new("authority");
        let server = showing("behind", &issue(&authority, BEHIND));
        let site = Site::before_tls(authority, &[&server], "", &format!("sni = \"{BEHIND}\""));
        turned_away(&site.client, NAME, &site);
        site.gateway.await_log("TLS handshake with a backend failed");
        site.gateway.await_log("bad_certificate");
        assert_eq!(failures(&site, "behind"), 1.0, "{what}");
    }
}

#[test]
fn a_server_without_tls() {
    let server = Server::named("plain");
    let authority = Authority::new("authority");
    let site = Site::before_tls(authority, &[&server], "", &format!("sni = \"{BEHIND}\""));
    turned_away(&site.client, NAME, &site);
    assert_eq!(failures(&site, "plain"), 1.0);
}

#[test]
fn any_certificate_will_do_without_verification() {
    for (_, issue) in WRONG {
        let authority = Authority::new("authority");
        let server = showing("behind", &issue(&authority, UNKNOWN));
        let site = Site::before_tls(authority, &[&server], "", "verify = false");
        assert_eq!(visit_tls(&site.client, NAME, site.address).unwrap().greeting, "behind");
    }
}

/// A good server beside a wrong one, of which the gateway asks what `sni` says.
#[track_caller]
fn the_good_one_serves(sni: &str, name: &str) {
    for (what, issue) in WRONG {
        let authority = Authority::new("authority");
        let wrong = showing("wrong", &issue(&authority, name));
        let good = showing("good", &authority.issue(&[name]));
        let tls = format!("sni = \"{sni}\"");
        let site = Site::before_tls(authority, &[&wrong, &good], "", &tls);
        // Until it has failed often enough.
        eventually("it is ejected", || {
            let visit = visit_tls(&site.client, NAME, site.address).expect(what);
            assert_eq!(visit.greeting, "good", "{what}");
            site.gateway.backend("wrong")["state"] == "ejected"
        });
        assert_ne!(site.gateway.backend("good")["state"], "ejected", "{what}");
    }
}

#[test]
fn another_server_stands_in_for_one_with_the_wrong_certificate() {
    the_good_one_serves(BEHIND, BEHIND);
}

#[test]
fn another_server_stands_in_when_clients_choose_the_name() {
    // It is not for the name that these are of no use.
    the_good_one_serves("client", NAME);
}

#[test]
fn a_client_that_asks_for_what_no_server_has_is_refused_and_nobody_else() {
    let authority = Authority::new("authority");
    let issued = authority.issue(&[NAME]);
    let servers = [showing("one", &issued), showing("two", &issued)];
    let servers: Vec<_> = servers.iter().collect();
    let site = Site::before_tls(authority, &servers, "", r#"sni = "client""#);
    // The gateway shows its first certificate, whatever the name.
    let anybody = credulous(rustls::ALL_VERSIONS, &[]);
    for round in 1..=ROUNDS {
        // One for each server.
        for _ in &servers {
            let record = turned_away(&anybody, UNKNOWN, &site);
            // No other would do better.
            assert_eq!((&record["attempts"], &record["server_name"]), (&1.into(), &UNKNOWN.into()));
        }
        assert_eq!((failures(&site, "one"), failures(&site, "two")), (round as f64, round as f64));
        visit_tls(&site.client, NAME, site.address).unwrap();
    }
    for name in ["one", "two"] {
        let backend = site.gateway.backend(name);
        assert_ne!(backend["state"], "ejected", "{backend}");
        let labels = [("pool", "app"), ("backend", name)];
        assert_eq!(site.gateway.metric("lockgate_backend_up", &labels), 1.0);
    }
}

/// What a server offers that refuses clients who ask for any name but this one.
fn strict(issued: &Issued, name: &str) -> ServerConfig {
    let mut config = offering(issued, rustls::ALL_VERSIONS);
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let key = CertifiedKey::new(vec![issued.der.clone()], any_supported_type(&key).unwrap());
    let mut resolver = ResolvesServerCertUsingSni::new();
    resolver.add(name, key).unwrap();
    config.cert_resolver = Arc::new(resolver);
    config
}

#[test]
fn a_client_whose_name_a_server_refuses_is_refused_and_nobody_else() {
    let authority = Authority::new("authority");
    let issued = authority.issue(&[NAME]);
    let servers = ["one", "two"]
        .map(|name| serve_tls(name, unused_address(), strict(&issued, NAME), greet(name)));
    let servers: Vec<_> = servers.iter().collect();
    let site = Site::before_tls(authority, &servers, "", r#"sni = "client""#);
    let anybody = credulous(rustls::ALL_VERSIONS, &[]);
    for _ in 0..ROUNDS {
        // One for each server.
        turned_away(&anybody, UNKNOWN, &site);
        turned_away(&anybody, UNKNOWN, &site);
        visit_tls(&site.client, NAME, site.address).unwrap();
    }
    for name in ["one", "two"] {
        let backend = site.gateway.backend(name);
        assert_ne!(backend["state"], "ejected", "{backend}");
    }
}

#[test]
fn a_client_without_a_name_gets_the_server_by_its_own() {
    for sni in ["", "client"] {
        let (authority, address) = (Authority::new("authority"), unused_address());
        // The host of its address.
        let issued = authority.issue(&[&address.ip().to_string()]);
        let config = offering(&issued, rustls::ALL_VERSIONS);
        let server = serve_tls("behind", address, config, greet("behind"));
        let site = Site::before_tls(authority, &[&server], "", &format!("sni = \"{sni}\""));
        let mut nameless = site.client.clone();
        nameless.enable_sni = false;
        assert_eq!(visit_tls(&nameless, NAME, site.address).unwrap().greeting, "behind");
        // With a name, it is that one which counts, or not.
        match sni {
            "" => drop(visit_tls(&site.client, NAME, site.address).unwrap()),
            _ => drop(turned_away(&site.client, NAME, &site)),
        }
    }
}
