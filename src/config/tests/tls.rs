//! TLS on both sides, and what goes with it.

use super::super::plan::{Certificate, Plan, PoolTls, Sni};
use super::super::{Error, Report};
use super::{MINIMAL, messages, parse, parse_behind};

/// What is read of `source`, whether the rest of the program acts on it or not.
pub(super) fn understand(source: &str) -> Result<Plan, Error> {
    parse_behind(|_, _| {}, "t.toml", source)
}

fn understood(source: &str) -> Plan {
    understand(source).unwrap_or_else(|error| panic!("{source}\n{error}"))
}

fn report(source: &str) -> Report {
    match understand(source) {
        Err(Error::Invalid(report)) => report,
        other => panic!("{source}\nis no report: {other:?}"),
    }
}

/// Each error as `LINE:COLUMN MESSAGE`.
fn mistakes(source: &str) -> Vec<String> {
    let report = report(source);
    let shown = report.errors().iter().map(|e| format!("{}:{} {}", e.line, e.column, e.message));
    shown.collect()
}

/// [`MINIMAL`] after a section, which begins on line 1.
fn with_section(header: &str, keys: &str) -> String {
    format!("[{header}]\n{keys}\n{MINIMAL}")
}

#[test]
fn what_is_not_built_is_refused_and_no_more_is_said_about_it() {
    for (source, expected) in [
        (with_section("pair", "secret_file = 5"), "1:2 'pair' is not supported yet"),
        (format!("pair = 1\n{MINIMAL}"), "1:1 'pair' is not supported yet"),
        (with_section("pool.web.tls", "sin = ''"), "1:11 'tls' is not supported yet"),
        (with_section("pool.web", "tls = 1"), "2:1 'tls' is not supported yet"),
    ] {
        assert_eq!(messages(&source), [expected], "{source}");
    }
    parse("t.toml", MINIMAL).unwrap();
}

#[test]
fn a_pair() {
    for (keys, file) in [
        ("", None),
        ("secret_file = ''", None),
        ("secret_file = 'etc/secret'", Some("etc/secret".into())),
    ] {
        assert_eq!(understood(&with_section("pair", keys)).pair.secret_file, file);
    }
}

#[test]
fn tls_to_backends() {
    let tls = |keys: &str| {
        let plan = understood(&with_section("pool.web.tls", keys));
        plan.pools.into_iter().next().unwrap().tls.unwrap()
    };
    let defaults = PoolTls { ca: None, verify: true, sni: Sni::Backend, client_certificate: None };
    assert_eq!(tls(""), defaults);
    assert_eq!(tls("ca = ''\nsni = ''\nclient_cert = ''\nclient_key = ''"), defaults);
    assert_eq!(
        tls("ca = '/ca.pem'\nsni = 'WWW.Example.'\nclient_cert = 'c.pem'\nclient_key = 'k.pem'"),
        PoolTls {
            ca: Some("/ca.pem".into()),
            verify: true,
            sni: Sni::Name("www.example".to_owned()),
            client_certificate: Some(Certificate { cert: "c.pem".into(), key: "k.pem".into() }),
        }
    );
    let lenient = tls("verify = false\nsni = 'client'");
    assert_eq!((lenient.verify, lenient.sni), (false, Sni::Client));
}

#[test]
fn mistakes_in_pairs_and_pools() {
    let long = format!("secret_file = '{}'", "a".repeat(4096));
    for (header, keys, expected) in [
        ("pair", "secret = ''", "2:1 unknown key 'secret' in [pair]"),
        ("pair", "secret_file = 1", "2:15 secret_file: expected text in quotes, found a number"),
        (
            "pair",
            "secret_file = \"a\\u0000\"",
            "2:15 secret_file: a path cannot hold a NUL character",
        ),
        ("pair", &long, "2:15 secret_file: a path has at most 4095 bytes"),
        ("pool.web", "tls = true", "2:7 tls: expected [pool.NAME.tls], found true or false"),
        ("pool.web.tls", "client_crt = ''", "2:1 unknown key 'client_crt' in [pool.NAME.tls]"),
        ("pool.web.tls", "verify = 'no'", "2:10 verify: expected true or false, found text"),
        (
            "pool.web.tls",
            "sni = '10.0.0.1'",
            "2:7 sni: '10.0.0.1' is an IP address, which TLS never sends as a name",
        ),
        (
            "pool.web.tls",
            "sni = '*.example.com'",
            "2:7 sni: '*.example.com' is not a host name: '*' is not allowed in one",
        ),
        ("pool.web.tls", "client_cert = 'a'", "1:1 'client_cert' needs the key 'client_key'"),
        ("pool.web.tls", "client_key = 'a'", "1:1 'client_key' needs the key 'client_cert'"),
        (
            "pool.web.tls",
            "client_cert = ''\nclient_key = 'a'",
            "2:15 client_cert: must not be empty: 'client_key' is set",
        ),
        (
            "pool.web.tls",
            "client_cert = 1\nclient_key = 'a'",
            "2:15 client_cert: expected text in quotes, found a number",
        ),
    ] {
        let source = with_section(header, keys);
        assert_eq!(mistakes(&source), [expected], "{source}");
    }
}
