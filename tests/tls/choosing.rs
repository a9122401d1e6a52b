//! What a gateway and a client agree on: certificate, version, cipher suite, protocol.

use std::net::SocketAddr;
use std::process::Output;

use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, SignatureScheme, SupportedProtocolVersion,
};

use super::{NAME, Site, await_failures, handshakes};
use crate::harness::tls::{
    Authority, Files, Kind, Store, credulous, refusal, s_client, shake_hands, visit_tls,
};
use crate::harness::{Config, Gateway, Server, connect, ending, unused_address};

/// A gateway with these certificates, in this order.
fn showing(server: &Server, certificates: &[&Files], tls: &str) -> (Gateway, SocketAddr) {
    let address = unused_address();
    let config = Config::new(address).tls(certificates, tls).backend(server, "");
    (Gateway::start(config), address)
}

/// What a client is shown that believes everybody.
fn shown(name: &str, to: SocketAddr) -> CertificateDer<'static> {
    visit_tls(&credulous(rustls::ALL_VERSIONS, &[]), name, to).unwrap().shown
}

/// The same for one that names nobody.
fn shown_to_the_nameless(to: SocketAddr) -> CertificateDer<'static> {
    let mut config = credulous(rustls::ALL_VERSIONS, &[]);
    config.enable_sni = false;
    visit_tls(&config, NAME, to).unwrap().shown
}

#[test]
fn certificates_by_name() {
    let (server, authority, store) = (Server::named("server"), Authority::new("a"), Store::new());
    let [first, wild, exact, upper] = [
        &["first.example.com", "also.example.com"][..],
        &["*.example.org"],
        &["www.example.org"],
        &["MiXeD.example.NET"],
    ]
    .map(|names| authority.issue(names));
    let files = [("first", &first), ("wild", &wild), ("exact", &exact), ("upper", &upper)]
        .map(|(name, issued)| store.put(name, issued));
    let files: Vec<_> = files.iter().collect();
    let cases = [
        ("first.example.com", &first, true),
        ("also.example.com", &first, true),
        ("any.example.org", &wild, true),
        ("ANY.Example.ORG", &wild, true),
        // Exact before wildcard, whatever their order.
        ("www.example.org", &exact, true),
        ("mixed.example.net", &upper, true),
        // A wildcard is one label: neither two nor none.
        ("two.labels.example.org", &first, false),
        ("example.org", &first, false),
        ("unknown.example.com", &first, false),
        ("org", &first, false),
    ];

    let (_gateway, address) = showing(&server, &files, "");
    for (name, issued, _) in &cases {
        assert!(shown(name, address) == issued.der, "{name}");
    }
    assert!(shown_to_the_nameless(address) == first.der);

    let (gateway, address) = showing(&server, &files, "strict_sni = true");
    let mut refused = 0;
    for (name, issued, known) in &cases {
        if *known {
            assert!(shown(name, address) == issued.der, "{name}");
            continue;
        }
        for versions in [&[&TLS12][..], &[&TLS13]] {
            let alert = refusal(&credulous(versions, &[]), name, address);
            assert_eq!(alert, AlertDescription::UnrecognisedName, "{name}");
            refused += 1;
        }
        await_failures(&gateway, "unknown_sni", refused);
    }
    let mut nameless = credulous(rustls::ALL_VERSIONS, &[]);
    nameless.enable_sni = false;
    let alert = refusal(&nameless, NAME, address);
    assert_eq!(alert, AlertDescription::UnrecognisedName);
    await_failures(&gateway, "unknown_sni", refused + 1);

    let records = gateway.await_records(refused + 1, "tls_failed");
    let named = |name: Option<&str>| {
        records.iter().filter(|record| record["server_name"].as_str() == name).count()
    };
    assert_eq!((named(Some("example.org")), named(None)), (2, 1));
}

#[test]
fn openssl_is_told_that_a_name_is_not_recognized() {
    let server = Server::named("server");
    let site = Site::new(&server, "", "strict_sni = true");
    for arguments in [&["-servername", "other.example.com"][..], &["-noservername"]] {
        let output = s_client(site.address, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("unrecognized name"), "{arguments:?}: {error}");
    }
    site.await_failures("unknown_sni", 2);
}

/// A gateway with a certificate of either kind for the same name, RSA first.
struct Both {
    gateway: Gateway,
    address: SocketAddr,
    ecdsa: CertificateDer<'static>,
    rsa: CertificateDer<'static>,
    _server: Server,
    _store: Store,
}

impl Both {
    fn new(tls: &str) -> Self {
        let (server, authority, store) =
            (Server::named("server"), Authority::new("a"), Store::new());
        let rsa = authority.issue_as(&[NAME], Kind::Rsa, |_| {});
        let ecdsa = authority.issue(&[NAME]);
        let files = [store.put("rsa", &rsa), store.put("ecdsa", &ecdsa)];
        let (gateway, address) = showing(&server, &[&files[0], &files[1]], tls);
        let (ecdsa, rsa) = (ecdsa.der, rsa.der);
        Self { gateway, address, ecdsa, rsa, _server: server, _store: store }
    }
}

#[test]
fn rsa_and_ecdsa_by_what_the_client_takes() {
    let both = Both::new("");
    let rsa = [SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
    let ecdsa = [SignatureScheme::ECDSA_NISTP256_SHA256];
    let all = [rsa[0], rsa[1], ecdsa[0]];
    for versions in [&[&TLS12][..], &[&TLS13]] {
        for (schemes, expected) in
            [(&rsa[..], &both.rsa), (&ecdsa, &both.ecdsa), (&all, &both.ecdsa)]
        {
            for name in [NAME, "unknown.example.net"] {
                let config = credulous(versions, schemes);
                let visit = visit_tls(&config, name, both.address).unwrap();
                assert!(visit.shown == *expected, "{versions:?} {schemes:?} {name}");
            }
        }
    }
    // Of TLS 1.2, suites decide as well.
    for (suite, key) in
        [("ECDHE-RSA-AES128-GCM-SHA256", "RSA"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDSA")]
    {
        let output = s_client(both.address, &["-tls1_2", "-servername", NAME, "-cipher", suite]);
        assert_eq!(cipher(&output), suite, "{key}");
    }
    // A client that takes neither.
    let config = credulous(&[&TLS13], &[SignatureScheme::ED25519]);
    assert_eq!(refusal(&config, NAME, both.address), AlertDescription::HandshakeFailure);
    await_failures(&both.gateway, "no_shared_cipher", 1);
}

#[test]
fn the_order_of_suites_decides_between_rsa_and_ecdsa() {
    const RSA: &str = "ECDHE-RSA-AES128-GCM-SHA256";
    const ECDSA: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";
    for (order, shown) in
        [(&[RSA, ECDSA][..], RSA), (&[ECDSA, RSA], ECDSA), (&[RSA], RSA), (&[ECDSA], ECDSA)]
    {
        let both = Both::new(&format!("ciphers = {order:?}"));
        let output = s_client(both.address, &["-tls1_2", "-servername", NAME]);
        assert_eq!(cipher(&output), shown, "{order:?}");
        // It says nothing of TLS 1.3, where suites do not.
        let visit = visit_tls(&credulous(&[&TLS13], &[]), NAME, both.address).unwrap();
        assert!(visit.shown == both.ecdsa, "{order:?}");
    }
}

/// The suite that `openssl s_client` has got.
fn cipher(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("New, "));
    let line = line.unwrap_or_else(|| panic!("{output:?}"));
    line.rsplit(' ').next().unwrap().to_owned()
}

const ECDSA_SUITES: [&str; 3] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
];
const RSA_SUITES: [&str; 3] =
    ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"];

/// What a client of TLS 1.2 gets that takes everything.
fn tls12_choice(to: SocketAddr) -> String {
    let all = ["-tls1_2", "-servername", NAME, "-cipher", "ALL:@SECLEVEL=0"];
    cipher(&s_client(to, &all))
}

#[test]
fn suites_in_the_configured_order() {
    let (server, authority, store) = (Server::named("server"), Authority::new("a"), Store::new());
    for (kind, suites) in [(Kind::Rsa, RSA_SUITES), (Kind::Ecdsa, ECDSA_SUITES)] {
        let files = store.put("site", &authority.issue_as(&[NAME], kind, |_| {}));
        for first in 0..3 {
            let mut order = suites;
            order.rotate_left(first);
            let (_gateway, address) = showing(&server, &[&files], &format!("ciphers = {order:?}"));
            assert_eq!(tls12_choice(address), order[0], "{kind:?}");
            // The next one for a client without the first.
            let next = ["-tls1_2", "-cipher", &format!("ALL:!{}:@SECLEVEL=0", order[0])];
            assert_eq!(cipher(&s_client(address, &next)), order[1], "{kind:?}");
        }
    }
}

#[test]
fn suites_of_tls_1_3_in_the_configured_order() {
    let suites =
        ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"];
    let server = Server::named("server");
    for first in 0..3 {
        let mut order = suites;
        order.rotate_left(first);
        let site = Site::new(&server, "", &format!("ciphers = {order:?}"));
        let output = s_client(site.address, &["-ciphersuites", &suites.join(":")]);
        assert_eq!(cipher(&output), order[0]);
    }
}

#[test]
fn no_other_suites_than_the_configured_ones() {
    let server = Server::named("server");
    let suites =
        r#"ciphers = ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"]"#;
    let site = Site::new(&server, "", suites);
    assert_eq!(tls12_choice(site.address), "ECDHE-ECDSA-AES256-GCM-SHA384");
    let output = s_client(site.address, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("handshake failure"), "{error}");
    let output = s_client(site.address, &["-ciphersuites", "TLS_AES_128_GCM_SHA256", "-tls1_3"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("handshake failure"), "{error}");
    site.await_failures("no_shared_cipher", 2);
}

#[test]
fn nothing_that_is_weak() {
    let both = Both::new("");
    // No forward secrecy, no CBC, no RC4, no anonymity.
    for suites in ["kRSA", "DHE", "ECDHE:!AESGCM:!CHACHA20", "aNULL", "eNULL"] {
        let all = ["-tls1_2", "-cipher", &format!("{suites}:@SECLEVEL=0")];
        let output = s_client(both.address, &all);
        let error = String::from_utf8_lossy(&output.stderr);
        let refused = error.contains("handshake failure") || error.contains("no cipher match");
        assert!(refused, "{suites}: {error}");
    }
    assert_eq!(handshakes(&both.gateway), 0.0);
}

#[test]
fn versions() {
    let server = Server::named("server");
    let site = Site::before(&server);
    for old in ["-tls1", "-tls1_1"] {
        let output = s_client(site.address, &[old, "-cipher", "ALL:@SECLEVEL=0"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("SSL alert number"), "{old}: {error}");
    }
    assert_eq!((handshakes(&site.gateway), server.accepted()), (0.0, 0));
    let visit = |site: &Site, version: &'static SupportedProtocolVersion| {
        visit_tls(&site.authority.client_of(&[version], None), NAME, site.address)
    };
    visit(&site, &TLS12).unwrap();
    visit(&site, &TLS13).unwrap();

    let site = Site::new(&server, "", r#"min_version = "1.3""#);
    visit(&site, &TLS13).unwrap();
    let config = site.authority.client_of(&[&TLS12], None);
    let alert = refusal(&config, NAME, site.address);
    assert_eq!(alert, AlertDescription::ProtocolVersion);
    site.await_failures("no_shared_version", 1);
}

#[test]
fn the_best_version_that_both_have() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let mut client = shake_hands(&site.client, NAME, site.address).unwrap();
    assert_eq!(client.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let name = client.sock.local_addr().unwrap();
    client.conn.send_close_notify();
    std::io::Write::flush(&mut client).unwrap();
    ending(&mut client.sock);
    assert_eq!(site.gateway.record_of(name)["tls_version"], "1.3");
}

fn offering(config: &ClientConfig, protocols: &[&str]) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

#[test]
fn protocols() {
    let server = Server::named("server");
    let site = Site::new(&server, "", r#"alpn = ["h2", "http/1.1"]"#);
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        // The gateway's order.
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["spdy/3", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let config = offering(&site.client, offered);
        let client = shake_hands(&config, NAME, site.address).unwrap();
        assert_eq!(client.conn.alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
        let name = client.sock.local_addr().unwrap();
        drop(client);
        let record = site.gateway.record_of(name);
        assert_eq!(record["alpn"].as_str(), chosen, "{record}");
    }
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let config = offering(&site.authority.client_of(versions, None), &["imap", "h3"]);
        let alert = refusal(&config, NAME, site.address);
        assert_eq!(alert, AlertDescription::NoApplicationProtocol);
    }
    site.await_failures("no_shared_protocol", 2);

    // Where none is configured, none is spoken of.
    let site = Site::before(&server);
    let config = offering(&site.client, &["h2"]);
    let client = shake_hands(&config, NAME, site.address).unwrap();
    assert_eq!(client.conn.alpn_protocol(), None);
}

#[test]
fn a_reload_changes_the_terms_for_those_who_come() {
    let server = Server::echo();
    let site = Site::before(&server);
    let mut before = shake_hands(&site.client, NAME, site.address).unwrap();
    let config = Config::new(site.address)
        .tls(&[&site.files], "min_version = \"1.3\"\nalpn = [\"h2\"]")
        .backend(&server, "");
    site.gateway.reload(config);

    let config = site.authority.client_of(&[&TLS12], None);
    assert_eq!(refusal(&config, NAME, site.address), AlertDescription::ProtocolVersion);
    let after = shake_hands(&offering(&site.client, &["h2"]), NAME, site.address).unwrap();
    assert_eq!(after.conn.alpn_protocol(), Some(&b"h2"[..]));
    let suite = after.conn.negotiated_cipher_suite().unwrap().suite();
    assert!(matches!(
        suite,
        CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    ));

    std::io::Write::write_all(&mut before, b"still").unwrap();
    let mut echo = [0; 5];
    std::io::Read::read_exact(&mut before, &mut echo).unwrap();
    assert_eq!(&echo, b"still");

    // From TLS to plain TCP and back, on the same address.
    site.gateway.reload(Config::new(site.address).backend(&server, ""));
    let mut plain = connect(site.address).unwrap();
    std::io::Write::write_all(&mut plain, b"plain").unwrap();
    std::io::Read::read_exact(&mut plain, &mut echo).unwrap();
    assert_eq!(&echo, b"plain");
    site.gateway.reload(Config::new(site.address).tls(&[&site.files], "").backend(&server, ""));
    shake_hands(&site.client, NAME, site.address).unwrap();
}
