//! What is told of TLS: records, metrics, status.

use std::net::SocketAddr;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use super::{NAME, Site, handshakes};
use crate::harness::tls::visit_tls;
use crate::harness::{Config, Launch, Server, unused_address, visit};

#[test]
fn a_record_of_a_connection() {
    let server = Server::named("server");
    let suites = r#"alpn = ["http/1.1"]
        ciphers = ["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]"#;
    let site = Site::new(&server, "", suites);
    let cases: [(&[&SupportedProtocolVersion], &str, &str); 2] = [
        (&[&TLS13], "1.3", "TLS_AES_256_GCM_SHA384"),
        (&[&TLS12], "1.2", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ];
    for (versions, version, suite) in cases {
        let mut config = site.authority.client_of(versions, None);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        for resumed in [false, true] {
            let client = visit_tls(&config, NAME, site.address).unwrap().client;
            let record = site.gateway.record_of(client);
            assert_eq!(record["server_name"], NAME, "{record}");
            assert_eq!(record["tls_version"], version, "{record}");
            assert_eq!(record["tls_cipher"], suite, "{record}");
            assert_eq!(record["tls_resumed"], resumed, "{record}");
            assert_eq!(record["alpn"], "http/1.1", "{record}");
            assert_eq!(record["reason"], "closed", "{record}");
            assert_eq!(record["backend"], "server", "{record}");
            // The greeting's length is what the backend sent, without what TLS adds.
            assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&0.into(), &7.into()));
            let took = record["handshake_ms"].as_f64().unwrap();
            assert!(took > 0.0 && took <= record["duration_ms"].as_f64().unwrap(), "{record}");
        }
    }
    for (version, resumed) in [("1.2", "false"), ("1.2", "true"), ("1.3", "false"), ("1.3", "true")]
    {
        let labels = [("listener", "web"), ("version", version), ("resumed", resumed)];
        assert_eq!(site.gateway.metric("lockgate_tls_handshakes_total", &labels), 1.0);
    }
    let labels = [("listener", "web")];
    let seconds = |part: &str| {
        site.gateway.metric(&format!("lockgate_tls_handshake_seconds_{part}"), &labels)
    };
    assert_eq!(seconds("count"), 4.0);
    assert!(seconds("sum") > 0.0);
    assert_eq!(site.gateway.metric("lockgate_tls_handshake_failures_total", &labels), 0.0);
}

#[test]
fn a_record_without_a_name() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let mut config = site.client.clone();
    config.enable_sni = false;
    let client = visit_tls(&config, NAME, site.address).unwrap().client;
    let record = site.gateway.record_of(client);
    assert!(record["server_name"].is_null() && record["alpn"].is_null(), "{record}");
    assert_eq!(record["tls_version"], "1.3");
}

#[test]
fn a_record_in_text() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let address = unused_address();
    let config = Config::new(address).tls(&[&site.files], "").backend(&server, "");
    let gateway = Launch::new(config).text().start();
    visit_tls(&site.client, NAME, address).unwrap();
    crate::harness::eventually("the record is there", || gateway.stdout().contains("reason="));
    let text = gateway.stdout();
    for said in
        ["server_name=www.example.com ", " tls_version=1.3 ", " tls_cipher=TLS_", "handshake_ms="]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(text.contains(" tls_resumed=false ") && !text.contains("alpn="), "{text}");
}

#[test]
fn a_record_without_tls() {
    let server = Server::named("server");
    let address: SocketAddr = unused_address();
    let gateway = crate::harness::Gateway::start(Config::new(address).backend(&server, ""));
    visit(address).unwrap();
    let record = gateway.await_records(1, "closed").remove(0);
    let keys = ["server_name", "tls_version", "tls_cipher", "tls_resumed", "alpn", "handshake_ms"];
    for key in keys {
        assert_eq!(record.get(key), Some(&Value::Null), "{key}: {record}");
    }
}

#[test]
fn the_status_lists_certificates() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let other = site.authority.issue(&["a.example.net", "*.b.example.net", "10.1.2.3"]);
    let other = site.store.put("other", &other);
    let config = Config::new(site.address).tls(&[&site.files, &other], "").backend(&server, "");
    site.gateway.reload(config);
    // 2099-01-01
    const NOT_AFTER: u64 = 4_070_908_800;
    let status = site.gateway.status();
    let certificates = status["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 2, "{status:#}");
    for (file, names) in [
        (&site.files.cert, &[NAME][..]),
        (&other.cert, &["a.example.net", "*.b.example.net", "10.1.2.3"]),
    ] {
        let file = file.to_str().unwrap();
        let found = certificates.iter().find(|found| found["file"] == file);
        let found = found.unwrap_or_else(|| panic!("{file} is not in {status:#}"));
        assert_eq!(found["names"], serde_json::json!(names));
        assert_eq!(found["not_after"], NOT_AFTER);
        let labels = [("name", names[0]), ("file", file)];
        let metric = site.gateway.metric("lockgate_tls_certificate_not_after_seconds", &labels);
        assert_eq!(metric, NOT_AFTER as f64);
    }
    assert_eq!(status["listeners"][0]["protocol"], "tls");
    assert_eq!(handshakes(&site.gateway), 0.0);
}
