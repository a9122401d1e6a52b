//! TLS on both sides, and what goes with it.

use std::time::Duration;

use super::super::plan::{
    Certificate, Challenges, CipherSuite, ClientAuth, FirstBytes, Plan, PoolTls, Protocol,
    Redirect, Route, ServerTls, Sni, SniPattern, TlsVersion,
};
use super::{MINIMAL, messages, minimal_with, parse, report, seconds};

fn understood(source: &str) -> Plan {
    parse("t.toml", source).unwrap_or_else(|error| panic!("{source}\n{error}"))
}

/// [`MINIMAL`] after a section, which begins on line 1.
fn with_section(header: &str, keys: &str) -> String {
    format!("[{header}]\n{keys}\n{MINIMAL}")
}

/// [`MINIMAL`] with `keys` in its listener, from line 5.
fn listener(keys: &str) -> String {
    MINIMAL.replacen("pool = \"web\"\n", &format!("{keys}\npool = \"web\"\n"), 1)
}

/// [`MINIMAL`] with `keys` in `[listener.tls]`, from line 8.
fn tls(keys: &str) -> String {
    let source = listener("protocol = 'tls'");
    source.replacen("\n\n[[pool", &format!("\n[listener.tls]\n{keys}\n\n[[pool"), 1)
}

/// The same with a certificate on line 8; `keys` begin on line 9.
fn tls_and_certificate(keys: &str) -> String {
    tls(&format!("certificates = [{{ cert = 'c', key = 'k' }}]\n{keys}"))
}

/// [`MINIMAL`] with a route of `keys`, from line 8.
fn routes(keys: &str) -> String {
    let source = listener("protocol = 'tls_passthrough'");
    source.replacen("\n\n[[pool", &format!("\n[[listener.route]]\n{keys}\n\n[[pool"), 1)
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
    let defaults = PoolTls {
        ca: None,
        verify: true,
        sni: Sni::Backend,
        client_certificate: None,
        require_close_notify: false,
    };
    assert_eq!(tls(""), defaults);
    assert_eq!(tls("ca = ''\nsni = ''\nclient_cert = ''\nclient_key = ''"), defaults);
    assert_eq!(
        tls("ca = '/ca.pem'\nsni = 'WWW.Example.'\nclient_cert = 'c.pem'\nclient_key = 'k.pem'\n\
             require_close_notify = true"),
        PoolTls {
            ca: Some("/ca.pem".into()),
            verify: true,
            sni: Sni::Name("www.example".to_owned()),
            client_certificate: Some(Certificate { cert: "c.pem".into(), key: "k.pem".into() }),
            require_close_notify: true,
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
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

fn server_tls(source: &str) -> ServerTls {
    match &understood(source).listeners[0].protocol {
        Protocol::Tls(tls) => (**tls).clone(),
        other => panic!("{source}\nis {other:?}"),
    }
}

fn certificate(cert: &str, key: &str) -> Certificate {
    Certificate { cert: cert.into(), key: key.into() }
}

#[test]
fn tls_of_clients() {
    let defaults = ServerTls {
        certificates: vec![certificate("c", "k")],
        strict_sni: false,
        min_version: TlsVersion::Tls12,
        ciphers: Vec::new(),
        alpn: Vec::new(),
        client_auth: None,
        ocsp: None,
        tickets: true,
        require_close_notify: false,
    };
    assert_eq!(server_tls(&tls_and_certificate("")), defaults);
    let written = "strict_sni = false\nmin_version = '1.2'\nciphers = []\nalpn = []\n\
                   client_auth = 'none'\nclient_ca = ''\nclient_crl = ''\nocsp = ''\ntickets = true\n\
                   require_close_notify = false";
    assert_eq!(server_tls(&tls_and_certificate(written)), defaults);

    let everything = r#"
certificates = [
  { cert = "/etc/a.pem", key = "/etc/a.key" },
  { cert = "b.pem", key = "/etc/a.key" },
]
strict_sni = true
min_version = "1.3"
ciphers = ["ECDHE-RSA-AES128-GCM-SHA256", "TLS_AES_256_GCM_SHA384"]
alpn = ["h2", "http/1.1"]
client_auth = "required"
client_ca = "ca.pem"
client_crl = "crl.pem"
ocsp = "ocsp.der"
tickets = false
require_close_notify = true
"#;
    let expected = ServerTls {
        certificates: vec![
            certificate("/etc/a.pem", "/etc/a.key"),
            certificate("b.pem", "/etc/a.key"),
        ],
        strict_sni: true,
        min_version: TlsVersion::Tls13,
        ciphers: vec![CipherSuite::EcdheRsaAes128GcmSha256, CipherSuite::Aes256GcmSha384],
        alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
        client_auth: Some(ClientAuth {
            required: true,
            ca: "ca.pem".into(),
            crl: Some("crl.pem".into()),
        }),
        ocsp: Some("ocsp.der".into()),
        tickets: false,
        require_close_notify: true,
    };
    assert_eq!(server_tls(&tls(everything)), expected);

    let optional = "client_auth = 'optional'\nclient_ca = 'ca'\nalpn = 'h2'";
    let optional = server_tls(&tls_and_certificate(optional));
    let auth = ClientAuth { required: false, ca: "ca".into(), crl: None };
    assert_eq!(optional.client_auth, Some(auth));
    assert_eq!(optional.alpn, ["h2"], "one or a list of them");

    let tables = "[[listener.tls.certificates]]\ncert = 'c'\nkey = 'k'";
    assert_eq!(server_tls(&tls(tables)), defaults);
    let longest = format!("alpn = '{}'", "a".repeat(255));
    assert_eq!(server_tls(&tls_and_certificate(&longest)).alpn[0].len(), 255);
    let one_is_enough = "min_version = '1.2'\nciphers = 'TLS_AES_128_GCM_SHA256'";
    assert_eq!(server_tls(&tls_and_certificate(one_is_enough)).ciphers.len(), 1);
}

#[test]
fn protocols() {
    let protocol = |keys: &str| understood(&listener(keys)).listeners.remove(0).protocol;
    assert_eq!(protocol("protocol = 'tcp'"), Protocol::Tcp);
    assert_eq!(protocol("protocol = 'tls_passthrough'"), Protocol::TlsPassthrough);
    assert_eq!(protocol("protocol = 'tls_passthrough'").name(), "tls_passthrough");

    let redirect = |keys: &str| {
        let source = listener(&format!("protocol = 'redirect'\n{keys}"));
        let plan = understood(&source.replacen("pool = \"web\"\n", "", 1));
        assert_eq!(plan.listeners[0].pool, None);
        plan.listeners.into_iter().next().unwrap().protocol
    };
    for (keys, challenges) in [
        ("", None),
        ("acme_dir = ''\nacme_pool = ''", None),
        ("acme_dir = '/srv/acme'", Some(Challenges::Directory("/srv/acme".into()))),
        ("acme_pool = 'web'\nacme_dir = ''", Some(Challenges::Pool(0))),
    ] {
        assert_eq!(redirect(keys), Protocol::Redirect(Redirect { challenges }), "{keys}");
    }

    let plan = understood(&listener("client_timeout = '3s'"));
    assert_eq!(plan.listeners[0].client_timeout, seconds(3));
}

#[test]
fn mistakes_in_listener_tls() {
    let long = format!("alpn = '{}'", "a".repeat(256));
    let many = format!("alpn = [{}]", (0..65).map(|i| format!("'{i}',")).collect::<String>());
    for (keys, expected) in [
        ("strict_snl = true", "9:1 unknown key 'strict_snl' in [listener.tls]"),
        ("tickets = 'no'", "9:11 tickets: expected true or false, found text"),
        ("ocsp = \"\\u0000\"", "9:8 ocsp: a path cannot hold a NUL character"),
        ("min_version = '1.1'", "9:15 min_version: unknown value '1.1'"),
        ("min_version = 1.2", "9:15 min_version: expected text in quotes, found a fraction"),
        ("alpn = ['h2', '']", "9:15 alpn: the name of a protocol must not be empty"),
        (&long, "9:8 alpn: the name of a protocol has at most 255 bytes, not 256"),
        (&many, "9:8 alpn: 65 are more than 64"),
        ("alpn = ['h2',\n'h2']", "10:1 alpn: 'h2' is already listed on line 9"),
        ("alpn = [2]", "9:9 alpn: expected text in quotes, found a number"),
        ("ciphers = 5", "9:11 ciphers: expected text in quotes, found a number"),
        (
            "ciphers = ['TLS_AES_128_GCM_SHA265']",
            "9:12 ciphers: 'TLS_AES_128_GCM_SHA265' is no cipher suite that is supported",
        ),
        (
            "ciphers = [\n'ECDHE-RSA-AES128-GCM-SHA256',\n\
             'TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256',\n]",
            "11:1 ciphers: 'TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256' is already listed on line 10",
        ),
        (
            "min_version = '1.3'\nciphers = 'ECDHE-RSA-AES128-GCM-SHA256'",
            "10:11 ciphers: none of them is of TLS 1.3, the min_version on line 9",
        ),
        // What a mistake left out is no mistake of the rest.
        (
            "min_version = '1.3'\nciphers = ['ECDHE-RSA-AES128-GCM-SHA256', 'TLS_AES_1']",
            "10:43 ciphers: 'TLS_AES_1' is no cipher suite that is supported",
        ),
        (
            "min_version = '1.4'\nciphers = 'ECDHE-RSA-AES128-GCM-SHA256'",
            "9:15 min_version: unknown value '1.4'",
        ),
        ("client_auth = 'require'", "9:15 client_auth: unknown value 'require'"),
        ("client_auth = 'require'\nclient_ca = 'c'", "9:15 client_auth: unknown value 'require'"),
        ("client_auth = 'required'", "7:1 client_auth \"required\" needs the key 'client_ca'"),
        (
            "client_auth = 'optional'\nclient_crl = 'c'",
            "7:1 client_auth \"optional\" needs the key 'client_ca'",
        ),
        (
            "client_auth = 'required'\nclient_ca = ''",
            "10:13 client_ca: must not be empty: client_auth is \"required\"",
        ),
        (
            "client_auth = 'required'\nclient_ca = 1",
            "10:13 client_ca: expected text in quotes, found a number",
        ),
        ("client_ca = 'c'", "9:13 client_ca: of no use: client_auth is \"none\""),
        (
            "client_auth = 'none'\nclient_crl = 'c'",
            "10:14 client_crl: of no use: client_auth is \"none\"",
        ),
    ] {
        let source = tls_and_certificate(keys);
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

#[test]
fn mistakes_in_certificates() {
    let many = (0..10_001).map(|i| format!("{{ cert = '{i}', key = 'k' }},")).collect::<String>();
    let many = format!("certificates = [{many}]");
    for (keys, expected) in [
        ("", "7:1 this listener has no certificates"),
        ("certificates = []", "8:16 certificates: must not be empty"),
        (
            "certificates = 'c.pem'",
            "8:16 certificates: expected { cert = FILE, key = FILE }, found text",
        ),
        (
            "certificates = ['c.pem']",
            "8:17 certificates: expected { cert = FILE, key = FILE }, found text",
        ),
        (
            "certificates = { cert = 'c', key = 'k' }",
            "8:16 certificates: there can be several of these",
        ),
        ("certificates = [{ cert = 'c' }]", "8:17 this certificate has no 'key'"),
        ("certificates = [{ key = 'c' }]", "8:17 this certificate has no 'cert'"),
        ("certificates = [{ cert = '', key = 'k' }]", "8:26 cert: a path is missing"),
        (
            "certificates = [{ cert = 'c', key = 'k', ky = '' }]",
            "8:42 unknown key 'ky' in { cert = FILE, key = FILE }",
        ),
        (
            "certificates = [\n{ cert = 'c', key = 'k' },\n{ cert = 'c', key = 'l' }]",
            "10:10 cert: 'c' is already listed on line 9",
        ),
        (&many, "8:16 certificates: 10001 are more than 10000"),
    ] {
        let source = tls(keys);
        assert_eq!(messages(&source), [expected], "{source}");
    }
    let without = listener("protocol = 'tls'");
    assert_eq!(messages(&without), ["2:1 this listener has no certificates"]);
    // A section that cannot be read may have had some.
    let broken = listener("protocol = 'tls'\ntls = 5");
    assert_eq!(messages(&broken), ["6:7 tls: expected [listener.tls], found a number"]);
    let broken = tls("certificates = [").replace("[listener.tls]", "[listener.tls");
    assert!(messages(&broken).iter().all(|message| message.contains("unclosed")));
}

#[test]
fn mistakes_of_protocols() {
    for (keys, expected) in [
        ("protocol = 'tsl'", "5:12 protocol: unknown value 'tsl'"),
        ("protocol = 5", "5:12 protocol: expected text in quotes, found a number"),
        ("protocol = 'udp'", "5:12 protocol: 'udp' is not supported yet"),
        ("client_timeout = '0s'", "5:18 client_timeout: must be longer than zero"),
        (
            "protocol = 'redirect'",
            "6:1 'pool' is a key of protocol \"tcp\", \"tls\", \"tls_passthrough\", \
             not of \"redirect\"",
        ),
        ("tls = {}", "5:1 'tls' is a key of protocol \"tls\", not of \"tcp\""),
        (
            "protocol = 'tls_passthrough'\ntls = {}",
            "6:1 'tls' is a key of protocol \"tls\", not of \"tls_passthrough\"",
        ),
        (
            "protocol = 'tls'\nfirst_bytes_timeout = '1s'\ntls = { certificates = [{ cert = 'c', key = 'k' }] }",
            "6:1 'first_bytes_timeout' is a key of protocol \"tcp\", \"tls_passthrough\", not of \"tls\"",
        ),
        ("first_bytes_timeout = '0s'", "5:23 first_bytes_timeout: must be longer than zero"),
        (
            "route = [{ pool = 'web', sni = 'a' }]",
            "5:26 sni: with protocol \"tcp\" no ClientHello is read",
        ),
        ("acme_dir = ''", "5:1 'acme_dir' is a key of protocol \"redirect\", not of \"tcp\""),
        (
            "protocol = 'tls_passthrough'\nacme_pool = 'x'",
            "6:1 'acme_pool' is a key of protocol \"redirect\", not of \"tls_passthrough\"",
        ),
    ] {
        let source = listener(keys);
        assert_eq!(messages(&source), [expected], "{source}");
    }
    for (keys, expected) in [
        ("tls = {}", "6:1 'tls' is a key of protocol \"tls\", not of \"redirect\""),
        (
            "route = { sin = '' }",
            "6:1 'route' is a key of protocol \"tcp\", \"tls\", \"tls_passthrough\", \
             not of \"redirect\"",
        ),
        ("acme_pool = 'wbe'", "6:13 acme_pool: no pool is named 'wbe'"),
        (
            "acme_dir = 'd'\nacme_pool = 'web'",
            "7:13 acme_pool: challenges are answered from the acme_dir on line 6",
        ),
        ("acme_dir = \"\\u0000\"", "6:12 acme_dir: a path cannot hold a NUL character"),
    ] {
        let source = listener(&format!("protocol = 'redirect'\n{keys}"));
        let source = source.replacen("pool = \"web\"\n", "", 1);
        assert_eq!(messages(&source), [expected], "{source}");
    }
    // Of a mistyped protocol, only mistakes that are its whatever it is.
    let source = listener("protocol = 'tsl'\nacme_dir = 'd'\ntls = { tickets = 1 }");
    let expected = [
        "5:12 protocol: unknown value 'tsl'",
        "7:7 this listener has no certificates",
        "7:19 tickets: expected true or false, found a number",
    ];
    assert_eq!(messages(&source), expected);
}

#[test]
fn help_with_tls() {
    let certificates = "write certificates = [{ cert = \"fullchain.pem\", key = \"privkey.pem\" }]";
    let in_section = format!("{certificates} in [listener.tls]");
    for (source, note, help) in [
        (listener("protocol = 'tls'"), None, Some(in_section.as_str())),
        (tls("certificates = []"), None, Some(certificates)),
        (
            tls("certificates = { cert = 'c', key = 'k' }"),
            None,
            Some("write certificates = [{ cert = FILE, key = FILE }]"),
        ),
        (tls_and_certificate("min_version = 1.3"), None, Some("write \"1.3\"")),
        (tls_and_certificate("min_version = 'TLSv1.3'"), None, Some("did you mean '1.3'?")),
        (
            tls_and_certificate("ciphers = 'ECDHE-RSA-AES128-GCM-SHA265'"),
            None,
            Some("did you mean 'ECDHE-RSA-AES128-GCM-SHA256'?"),
        ),
        (
            tls_and_certificate("min_version = '1.3'\nciphers = 'ECDHE-RSA-CHACHA20-POLY1305'"),
            None,
            Some("add one whose name begins with TLS_AES_ or TLS_CHACHA20_"),
        ),
        (
            tls_and_certificate("client_ca = 'c'"),
            None,
            Some("write client_auth = \"optional\" or \"required\""),
        ),
        (tls_and_certificate("client_auth = 'require'"), None, Some("did you mean 'required'?")),
        (
            tls_and_certificate("ca = 'c'"),
            Some("'ca' is a key of [pool.NAME.tls], [pool.NAME.health]"),
            None,
        ),
        (listener("protocol = 'tsl'"), None, Some("did you mean 'tls'?")),
        (
            listener("protocol = 'https'"),
            None,
            Some("one of tcp, tls, tls_passthrough, redirect, udp"),
        ),
        (
            listener("tls = {}"),
            Some("without a 'protocol', the protocol is \"tcp\""),
            Some("write protocol = \"tls\" to decrypt here"),
        ),
        (
            listener("protocol = 'tls_passthrough'\ntls = {}"),
            None,
            Some("the backends decrypt; write protocol = \"tls\" to do it here"),
        ),
        (
            listener("protocol = 'tcp'\nroute = [{ alpn = 'h2', pool = 'web' }]"),
            None,
            Some("write protocol = \"tls_passthrough\" to route without decrypting"),
        ),
        (
            listener("alpn = []"),
            Some("'alpn' is a key of [listener.tls], [[listener.route]]"),
            None,
        ),
        (routes(""), None, Some("write pool = \"NAME\", the name of a [pool.NAME]")),
        (routes("pool = 'wbe'"), None, Some("did you mean 'web'?")),
        (routes("first_bytes = 'htpp'\npool = 'web'"), None, Some("did you mean 'http'?")),
        (
            routes("first_bytes = 'smtp2000'\npool = 'web'"),
            None,
            Some("one of tls, http, ssh, proxy, other, none"),
        ),
        (
            routes("first_bytes = 'ssh'\nsni = '*'\npool = 'web'"),
            None,
            Some("add \"tls\" to its 'first_bytes'"),
        ),
        (
            routes("pool = 'web'\n[[listener.route]]\npool = 'web'"),
            None,
            Some("give that one a 'first_bytes', 'sni', 'alpn' or 'client', or put it last"),
        ),
        (
            listener("protocol = 'redirect'"),
            None,
            Some("a redirect answers by itself; only challenges can go to an acme_pool"),
        ),
        (
            listener("protocol = 'tcp'\nacme_dir = 'd'"),
            None,
            Some("challenges come to port 80: add a listener with protocol = \"redirect\""),
        ),
        (
            minimal_with("listener", "certificates = []"),
            Some("'certificates' is a key of [listener.tls]"),
            None,
        ),
        (
            with_section("pool.web.tls", "sni = 'a b'"),
            None,
            Some("write a host name, \"client\" for the client's, \"\" for the backend's"),
        ),
    ] {
        let report = report(&source);
        let [error] = report.errors() else { panic!("{source}\n{report}") };
        assert_eq!((error.note.as_deref(), error.help.as_deref()), (note, help), "{source}");
    }
}

#[test]
fn routes_of_a_listener() {
    let source = routes(
        r#"sni = ["Admin.Example.com", "*.internal.Example.com."]
alpn = []
client = ["10.0.0.0/8", "::1"]
pool = "web"
[[listener.route]]
alpn = "h2"
pool = "web"
[[listener.route]]
pool = "web""#,
    );
    let nothing = Route {
        sni: Vec::new(),
        alpn: Vec::new(),
        client: Vec::new(),
        first_bytes: Vec::new(),
        pool: 0,
    };
    let plan = understood(&source);
    let [first, second, third] = &plan.listeners[0].routes[..] else { panic!("{plan:?}") };
    let sni = [
        SniPattern::Exact("admin.example.com".to_owned()),
        SniPattern::Wildcard("internal.example.com".to_owned()),
    ];
    assert_eq!(first.sni, sni);
    let client: Vec<_> = first.client.iter().map(ToString::to_string).collect();
    assert_eq!(client, ["10.0.0.0/8", "::1/128"]);
    assert_eq!(*second, Route { alpn: vec!["h2".to_owned()], ..nothing.clone() });
    assert_eq!(*third, nothing, "what is left");

    let decrypted = tls_and_certificate("[[listener.route]]\nsni = 'a'\npool = 'web'");
    assert_eq!(understood(&decrypted).listeners[0].routes.len(), 1);
    assert_eq!(understood(&listener("protocol = 'tls_passthrough'")).listeners[0].routes, []);
}

#[test]
fn mistakes_in_routes() {
    let all = "pool = 'web'\n[[listener.route]]\n";
    for (keys, expected) in [
        ("", "7:1 this route has no 'pool'"),
        ("pool = 5", "8:8 pool: expected text in quotes, found a number"),
        ("pool = 'wbe'", "8:8 pool: no pool is named 'wbe'"),
        ("pool = 'web'\nname = ''", "9:1 unknown key 'name' in [[listener.route]]"),
        ("pool = 'web'\nsni = ['a', 5]", "9:13 sni: expected text in quotes, found a number"),
        ("pool = 'web'\nsni = ''", "9:7 sni: a name is missing"),
        (
            "pool = 'web'\nsni = 'a.*.b'",
            "9:7 sni: 'a.*.b' has a '*' that is not its whole first label",
        ),
        (
            "pool = 'web'\nsni = ['a.b', '*.b', 'A.b.']",
            "9:22 sni: 'a.b' is already listed on line 9",
        ),
        ("pool = 'web'\nalpn = ''", "9:8 alpn: the name of a protocol must not be empty"),
        (
            "pool = 'web'\nclient = '10.0.0.1/8'",
            "9:10 client: '10.0.0.1/8' has bits beyond its prefix",
        ),
        (
            "pool = 'web'\nclient = ['::1', '::1/128']",
            "9:18 client: '::1/128' is already listed on line 9",
        ),
        (
            &format!("{all}pool = 'web'"),
            "9:1 this route is never reached: every client matches the one on line 7",
        ),
        // What a mistake left out was a condition all the same.
        (
            &format!("sni = '**'\n{all}pool = 'web'"),
            "8:7 sni: '**' has a '*' that is not its whole first label",
        ),
        (
            &format!("first_bytes = 'https'\n{all}pool = 'web'"),
            "8:15 first_bytes: unknown value 'https'",
        ),
        (
            "pool = 'web'\nfirst_bytes = ['ssh', 'ssh']",
            "9:23 first_bytes: 'ssh' is already listed on line 9",
        ),
        (
            "pool = 'web'\nfirst_bytes = ['ssh', 'http']\nalpn = 'h2'",
            "7:1 this route never matches: only TLS has an 'sni' or 'alpn'",
        ),
    ] {
        let source = routes(keys);
        assert_eq!(messages(&source), [expected], "{source}");
    }
    let single = routes("pool = 'web'").replace("[[listener.route]]", "[listener.route]");
    assert_eq!(messages(&single), ["7:1 route: there can be several of these"]);
    let source = listener("protocol = 'tls_passthrough'\nroute = 'web'");
    assert_eq!(messages(&source), ["6:9 route: expected [[listener.route]], found text"]);
    let many = "{ sni = 'a', pool = 'web' },".repeat(10_001);
    let source = listener(&format!("protocol = 'tls_passthrough'\nroute = [{many}]"));
    assert_eq!(messages(&source), ["6:9 route: 10001 are more than 10000"]);
}

/// Routes of these keys, each in its line.
fn in_lines(all: &[&str]) -> String {
    let lines: Vec<_> = all.iter().map(|keys| format!("{{ {keys}, pool = 'web' }}")).collect();
    listener(&format!("protocol = 'tls_passthrough'\nroute = [\n{}\n]", lines.join(",\n")))
}

#[test]
fn routes_that_no_client_gets_to() {
    const KINDS: &str = "first_bytes = ['tls', 'http', 'ssh', 'proxy', 'other', 'none']";
    for (before, after, expected) in [
        (
            &["first_bytes = ['tls', 'ssh']"][..],
            "first_bytes = 'ssh'",
            Some((7, "all its clients match the one")),
        ),
        (&["first_bytes = 'tls'"], "sni = 'a.test'", Some((7, "all its clients match the one"))),
        (&["first_bytes = 'tls'"], "alpn = 'h2'", Some((7, "all its clients match the one"))),
        (
            &["sni = '*'"],
            "sni = '**.test', client = '::1'",
            Some((7, "all its clients match the one")),
        ),
        (&[KINDS], "client = '10.0.0.0/8'", Some((7, "every client matches the one"))),
        (
            &["first_bytes = ['tls', 'none']", "first_bytes = ['ssh', 'http']"],
            "first_bytes = ['none', 'http']",
            Some((8, "all its clients match others before, up to the one")),
        ),
        (&["first_bytes = 'ssh'"], "first_bytes = ['ssh', 'none']", None),
        (&["first_bytes = 'ssh', client = '::1'"], "first_bytes = 'ssh'", None),
        (&["first_bytes = 'tls', sni = '*'"], "first_bytes = 'tls'", None),
        (&["first_bytes = 'tls', alpn = 'h2'"], "first_bytes = 'tls'", None),
        (&["sni = '**.test'"], "sni = 'a.test'", None),
        (&["sni = '*'"], "first_bytes = 'tls', alpn = 'h2'", None),
    ] {
        let all: Vec<&str> = before.iter().copied().chain([after]).collect();
        let source = in_lines(&all);
        let found = parse("t.toml", &source).map_or_else(|_| messages(&source), |_| Vec::new());
        let expected = expected.map(|(line, what)| {
            format!("{}:1 this route is never reached: {what} on line {line}", 7 + before.len())
        });
        assert_eq!(found, Vec::from_iter(expected), "{all:?}");
    }
}

#[test]
fn routes_by_the_first_bytes() {
    let source = routes("first_bytes = ['ssh', 'none']\npool = 'web'");
    let plan = understood(&source);
    let [route] = &plan.listeners[0].routes[..] else { panic!("{plan:?}") };
    assert_eq!(route.first_bytes, [FirstBytes::Ssh, FirstBytes::Nothing]);
    assert_eq!(plan.listeners[0].first_bytes_timeout, Duration::from_secs(1));
    let source =
        listener("first_bytes_timeout = '3s'\nroute = [{ first_bytes = 'http', pool = 'web' }]");
    let plan = understood(&source);
    assert_eq!(plan.listeners[0].routes[0].first_bytes, [FirstBytes::Http]);
    assert_eq!(plan.listeners[0].first_bytes_timeout, Duration::from_secs(3));
    let tls = tls_and_certificate("[[listener.route]]\nfirst_bytes = 'tls'\npool = 'web'");
    let [message] = &messages(&tls)[..] else { panic!("{tls}") };
    let expected = "first_bytes: with protocol \"tls\" a client says nothing but TLS";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn many_mistakes_at_once() {
    let source = r#"[[listener]]
name = "https"
bind = "10.0.1.100:443"
protocol = "tls"
acme_dir = "/srv/acme"

[listener.tls]
certificates = [
  { cert = "a.pem", key = "a.key" },
  { cert = "a.pem", key = "b.key" },
]
min_version = "1.3"
ciphers = ["ECDHE-RSA-AES128-SHA256"]
client_auth = "require"

[[listener.route]]
sni = ["**"]
client = "10.0.0.1/8"

[[listener.route]]
pool = "wbe"

[pool.web.tls]
client_cert = "c.pem"

[[pool.web.backend]]
address = "10.0.2.10:443"
"#;
    let rendered = report(source).to_string();
    assert_eq!(rendered, include_str!("tls_mistakes.txt").trim_end(), "\n{rendered}\n");
}
