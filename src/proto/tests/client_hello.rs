use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::laws;
use crate::proto::client_hello::{LIMIT, Parsed, Reader, Reason, parse};

macro_rules! captured {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../tests/corpus/client_hello/", $name)).as_slice())),+]
    };
}

/// What clients have sent.
const CAPTURED: [(&str, &[u8]); 14] = captured![
    "curl-address",
    "curl-h2",
    "curl-tls12",
    "java",
    "node",
    "openssl-fragments",
    "openssl-no-name",
    "openssl-tls10",
    "openssl-tls11",
    "openssl-tls12",
    "openssl-tls13",
    "python-idna",
    "python-no-name",
    "rustls-hybrid",
];

/// What is seen of a hello: name, protocols, versions.
type Seen = (Option<String>, Vec<String>, Vec<u16>);

fn seen(bytes: &[u8]) -> Seen {
    match parse(bytes) {
        Parsed::Hello(hello) => (
            hello.server_name().map(str::to_owned),
            hello.protocols().map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
            hello.versions().collect(),
        ),
        other => panic!("{other:?}"),
    }
}

/// The first flight of a client.
fn rustls(name: &str, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut flight = Vec::new();
    client.write_tls(&mut flight).unwrap();
    flight
}

fn vector8(content: &[u8]) -> Vec<u8> {
    [&[content.len() as u8], content].concat()
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes(), content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector16(content)].concat()
}

fn named(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&[vec![0], vector16(name)].concat()))
}

/// A message with these extensions; `None`: without even their length.
fn message(version: u16, extensions: Option<&[u8]>) -> Vec<u8> {
    let body = [
        version.to_be_bytes().to_vec(),
        vec![7; 32],
        vector8(&[9; 32]),
        vector16(&[0x13, 0x01, 0x0a, 0x0a]),
        vector8(&[0]),
        extensions.map(vector16).unwrap_or_default(),
    ]
    .concat();
    with_header(&body)
}

fn with_header(body: &[u8]) -> Vec<u8> {
    [&(1 << 24 | body.len() as u32).to_be_bytes(), body].concat()
}

/// The message in records of at most `longest`.
fn records(message: &[u8], longest: usize) -> Vec<u8> {
    message.chunks(longest).flat_map(|part| [vec![22, 3, 1], vector16(part)].concat()).collect()
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message(0x0303, Some(&extensions.concat())), 1 << 14)
}

/// The message of a hello, out of its records.
fn message_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let &[22, 3, _, high, low, ref rest @ ..] = bytes {
        let (content, rest) = rest.split_at(u16::from_be_bytes([high, low]).into());
        message.extend_from_slice(content);
        bytes = rest;
    }
    message
}

fn invalid(bytes: &[u8]) -> Reason {
    match laws::client_hello(bytes, 1) {
        Parsed::Invalid(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// What Chrome sends, but for the randomness.
fn like_chrome(name: &str) -> Vec<u8> {
    let share = [vec![0x2a, 0x2a, 0, 1, 0, 0x11, 0xec], vector16(&[5; 1216])].concat();
    hello(&[
        extension(0x1a1a, &[]),
        extension(0xfe0d, &[0; 218]),
        extension(51, &vector16(&[share, vec![0, 0x1d], vector16(&[6; 32])].concat())),
        extension(16, &vector16(b"\x02h2\x08http/1.1")),
        extension(43, &vector8(&[0x3a, 0x3a, 3, 4, 3, 3])),
        extension(23, &[]),
        extension(35, &[]),
        named(name.as_bytes()),
        extension(0xff01, &[0]),
        extension(0x44cd, b"\x00\x03\x02h2"),
        extension(0x7a7a, &[0]),
        extension(21, &[0; 100]),
    ])
}

#[test]
fn captured_hellos_are_read() {
    let name = || Some("app.example.com".to_owned());
    let both = || vec!["h2".to_owned(), "http/1.1".to_owned()];
    let new = || vec![0x0304, 0x0303];
    let all = || vec![0x0304, 0x0303, 0x0302, 0x0301];
    for (client, bytes) in CAPTURED {
        let expected: Seen = match client {
            "curl-address" => (None, both(), all()),
            "curl-h2" => (name(), both(), all()),
            "curl-tls12" => (name(), vec!["http/1.1".to_owned()], vec![0x0303]),
            "java" => (name(), vec![], new()),
            "node" => (name(), vec!["h2".to_owned()], new()),
            "openssl-fragments" => {
                (name(), (0..60).map(|n| format!("protocol-number-{n}")).collect(), all())
            }
            "openssl-no-name" => (None, vec![], all()),
            "openssl-tls10" => (None, vec![], vec![0x0301]),
            "openssl-tls11" => (name(), vec![], vec![0x0302]),
            "openssl-tls12" => (name(), vec![], vec![0x0303]),
            "openssl-tls13" => (name(), both(), all()),
            "python-idna" => {
                (Some("xn--bcher-kva.example".to_owned()), vec!["http/1.1".to_owned()], new())
            }
            "python-no-name" => (None, vec![], new()),
            "rustls-hybrid" => (name(), both(), new()),
            _ => unreachable!("{client}"),
        };
        assert_eq!(seen(bytes), expected, "{client}");
    }
}

#[test]
fn rustls_is_read_with_and_without_its_hybrid_key_share() {
    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    let bytes = rustls("App.Example.com", &both, &["h2", "http/1.1"]);
    assert!(bytes.len() > 1_400, "{}", bytes.len());
    let (name, protocols, versions) = seen(&bytes);
    assert_eq!(name.as_deref(), Some("app.example.com"));
    assert_eq!(protocols, ["h2", "http/1.1"]);
    assert_eq!(versions, [0x0304, 0x0303]);
    let old = rustls("example.com", &[&rustls::version::TLS12], &[]);
    assert_eq!(seen(&old).0.as_deref(), Some("example.com"));
    let address = rustls("192.0.2.1", &both, &[]);
    assert_eq!(seen(&address).0, None);
}

#[test]
fn chrome_is_read() {
    let (name, protocols, versions) = seen(&like_chrome("WWW.example.com"));
    assert_eq!(name.as_deref(), Some("www.example.com"));
    assert_eq!(protocols, ["h2", "http/1.1"]);
    assert_eq!(versions, [0x3a3a, 0x0304, 0x0303], "GREASE is shown as it is");
}

/// All hellos there are, as messages.
fn messages() -> Vec<Vec<u8>> {
    let made = like_chrome("app.example.com");
    let fresh = rustls("app.example.com", rustls::ALL_VERSIONS, &["h2"]);
    let all = CAPTURED.iter().map(|(_, bytes)| *bytes).chain([&made[..], &fresh[..]]);
    all.map(message_of).collect()
}

#[test]
fn any_size_of_record_gives_the_same() {
    for message in messages() {
        let large = records(&message, 1 << 14);
        let expected = parse(&large);
        assert!(matches!(expected, Parsed::Hello(_)));
        let bound = message.len();
        for longest in (1..40).chain((40..bound).step_by(23)).chain([bound - 1, bound]) {
            let bytes = records(&message, longest);
            assert_eq!(parse(&bytes), expected, "records of {longest}");
        }
    }
}

#[test]
fn any_cut_gives_the_same_and_a_beginning_is_incomplete() {
    for message in messages() {
        for longest in [1, 2, 3, 5, 100, 1 << 14] {
            let bytes = records(&message, longest);
            let whole = parse(&bytes);
            let mut steadily = Reader::new();
            for cut in 0..bytes.len() {
                assert_eq!(steadily.advance(&bytes[..cut]), Parsed::Incomplete);
                // One reader each for a cut would be quadratic with the smallest records.
                if longest > 5 || cut % 97 == 0 {
                    let mut reader = Reader::new();
                    assert_eq!(reader.advance(&bytes[..cut]), Parsed::Incomplete);
                    assert_eq!(reader.advance(&bytes), whole);
                }
            }
            assert_eq!(steadily.advance(&bytes), whole);
            let followed = [&bytes[..], b"\x17\x03\x03\x00\x01x"].concat();
            assert_eq!(parse(&followed), whole, "early data may follow");
        }
    }
}

#[test]
fn names_are_judged() {
    let of = |name: &[u8]| match laws::client_hello(&hello(&[named(name)]), 3) {
        Parsed::Hello(hello) => (hello.server_name().map(str::to_owned), hello.is_misnamed()),
        other => panic!("{other:?}"),
    };
    let is = |name: &str| (Some(name.to_owned()), false);
    assert_eq!(of(b"Example.COM"), is("example.com"));
    assert_eq!(of(b"example.com."), is("example.com"));
    assert_eq!(of(b"a_b.example"), is("a_b.example"));
    for unusable in [
        &b"192.0.2.1"[..],
        b"2001:db8::1",
        b"[::1]",
        b"a\0.example",
        b"a b",
        b"*.example",
        b".",
        b"b\xc3\xbccher.example",
        b"example.com\r\nx: y",
        &[b'a'; 300],
    ] {
        assert_eq!(of(unusable), (None, true), "{unusable:?}");
    }
    let without = hello(&[]);
    assert!(matches!(parse(&without), Parsed::Hello(hello) if !hello.is_misnamed()));
}

#[test]
fn hellos_without_extensions_are_old_ones() {
    for version in [0x0300, 0x0301, 0x0302, 0x0303] {
        let bytes = records(&message(version, None), 1 << 14);
        assert_eq!(seen(&bytes), (None, vec![], vec![version]));
        assert_eq!(seen(&records(&message(version, Some(&[])), 9)), (None, vec![], vec![version]));
    }
    assert_eq!(invalid(&records(&message(0x0200, None), 1 << 14)), Reason::Malformed);
    // With the list of versions, it does not matter. rustls takes it so, too.
    let listed = message(0x0203, Some(&extension(43, &vector8(&[3, 4]))));
    assert_eq!(seen(&records(&listed, 1 << 14)).2, [0x0304]);
}

#[test]
fn other_protocols_are_told_by_their_first_bytes() {
    for (bytes, reason) in [
        (&b"G"[..], Reason::NotTls),
        (b"SSH-2.0-OpenSSH_9.2", Reason::NotTls),
        (b"\x00", Reason::NotTls),
        (b"\x15\x03\x01\x00\x02\x02\x28", Reason::NotTls),
        (b"\x17", Reason::NotTls),
        // DTLS 1.2.
        (b"\x16\xfe", Reason::NotTls),
        (b"\x16\x02", Reason::NotTls),
        // SSL 2.0, and the same form for TLS 1.0.
        (b"\x80\x2e\x01\x00\x02", Reason::Sslv2),
        (b"\x80\x43\x01\x03", Reason::Sslv2),
        (b"\x80\x43\x04", Reason::NotTls),
        (b"\x80\x43\x01\x00\x03", Reason::NotTls),
        (b"\xff\xff\xff", Reason::NotTls),
        // Not a hello, but the end of one, and one of a server.
        (b"\x16\x03\x01\x00\x04\x02", Reason::Malformed),
        (b"\x16\x03\x01\x00\x04\x00", Reason::Malformed),
    ] {
        assert_eq!(invalid(bytes), reason, "{bytes:02x?}");
        let before = &bytes[..bytes.len() - 1];
        if bytes.len() < 6 {
            assert_eq!(parse(before), Parsed::Incomplete, "{before:02x?}");
        }
    }
}

#[test]
fn bad_records_are_malformed() {
    let message = message(0x0303, Some(&named(b"example.com")));
    let good = records(&message, 20);
    let second = 5 + 20;
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(parse(&changed(2, 99)), parse(&good), "the minor version means nothing");
    assert_eq!(parse(&changed(second + 2, 99)), parse(&good));
    for kind in [20, 21, 23, 24] {
        assert_eq!(invalid(&changed(second, kind)), Reason::Malformed, "interleaved {kind}");
    }
    assert_eq!(invalid(&changed(second + 1, 2)), Reason::Malformed);
    let empty = [&good[..second], b"\x16\x03\x01\x00\x00", &good[second..]].concat();
    assert_eq!(invalid(&empty), Reason::Malformed, "an empty record in between");
    assert_eq!(invalid(b"\x16\x03\x01\x00\x00"), Reason::Malformed, "or as the first");
    assert_eq!(invalid(b"\x16\x03\x01\x40\x01"), Reason::Malformed, "16,385 bytes");
    assert_eq!(parse(b"\x16\x03\x01\x40\x00"), Parsed::Incomplete, "16,384 bytes");
}

#[test]
fn bad_messages_are_malformed() {
    let alpn = |list: &[u8]| hello(&[extension(16, list)]);
    let versions = |list: &[u8]| hello(&[extension(43, list)]);
    let sni = |list: &[u8]| hello(&[extension(0, list)]);
    let twice = |part: Vec<u8>| hello(&[part.clone(), extension(5, &[1]), part]);
    let mut cases = vec![
        ("a name twice", twice(named(b"example.com"))),
        ("an unknown extension twice", twice(extension(0xabcd, &[]))),
        ("GREASE twice", twice(extension(0x1a1a, &[]))),
        ("no list of names", sni(&[])),
        ("an empty list of names", sni(&[0, 0])),
        ("an empty name", sni(&[0, 3, 0, 0, 0])),
        ("another kind of name", sni(&[0, 4, 1, 0, 1, b'a'])),
        ("two names", sni(&[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b'])),
        ("more than the list of names", sni(&[0, 4, 0, 0, 1, b'a', 0])),
        ("less than the list of names", sni(&[0, 5, 0, 0, 1, b'a'])),
        ("no protocols", alpn(&[0, 0])),
        ("an empty protocol", alpn(&[0, 4, 2, b'h', b'2', 0])),
        ("a protocol cut off", alpn(&[0, 3, 3, b'h', b'2'])),
        ("more than the protocols", alpn(&[0, 3, 2, b'h', b'2', 0])),
        ("no versions", versions(&[0])),
        ("half a version", versions(&[3, 3, 4, 3])),
        ("more than the versions", versions(&[2, 3, 4, 3])),
    ];
    let whole = message(0x0303, Some(&named(b"example.com")));
    let body = &whole[4..];
    for cut in [0, 1, 33, 34, 60, 67, 72, 76, body.len() - 1] {
        cases.push(("cut off, as its length says", records(&with_header(&body[..cut]), 1 << 14)));
    }
    cases.push(("more than its parts", records(&with_header(&[body, &[0]].concat()), 1 << 14)));
    let with = |at: usize, byte: u8| {
        let mut body = body.to_vec();
        body[at] = byte;
        records(&with_header(&body), 1 << 14)
    };
    cases.push(("a session of 33 bytes", with(34, 33)));
    cases.push(("no suites", with(68, 0)));
    cases.push(("half a suite", with(68, 3)));
    cases.push(("no compression", with(73, 0)));
    for (what, bytes) in cases {
        assert_eq!(invalid(&bytes), Reason::Malformed, "{what}");
    }
}

#[test]
fn there_is_a_limit() {
    // A length beyond it is refused as soon as it is known.
    assert_eq!(invalid(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"), Reason::TooLarge);
    let padded = |length: usize| {
        // 4 + 2 + 32 + 33 + 6 + 2 + 2 bytes come before the extensions, and 4 before each content.
        let rest = length - 81;
        let (one, two) = (rest / 2, rest - rest / 2);
        let extensions = [extension(21, &vec![0; one - 4]), extension(65, &vec![0; two - 4])];
        let message = message(0x0303, Some(&extensions.concat()));
        assert_eq!(message.len(), length);
        message
    };
    for (longest, count) in [(1 << 14, 4), (13_108, 5)] {
        let exact = LIMIT - count * 5;
        let bytes = records(&padded(exact), longest);
        assert_eq!(bytes.len(), LIMIT);
        assert!(matches!(laws::client_hello(&bytes, 5), Parsed::Hello(_)));
        let bytes = records(&padded(exact + 1), longest);
        assert_eq!(invalid(&bytes), Reason::TooLarge);
        assert_eq!(parse(&bytes[..13_200]), Parsed::Incomplete);
    }
    // In records of one byte, six times as much arrives.
    assert!(matches!(parse(&records(&padded(LIMIT / 6), 1)), Parsed::Hello(_)));
    assert_eq!(invalid(&records(&padded(LIMIT / 6 + 1), 1)), Reason::TooLarge);
}

#[test]
fn many_extensions_cost_no_more_than_their_bytes() {
    let many: Vec<_> = (0..16_000u16).map(|n| extension(n + 100, &[])).collect();
    assert!(matches!(
        parse(&records(&message(0x0303, Some(&many.concat())), 1 << 14)),
        Parsed::Hello(_)
    ));
    let once_more = [many, vec![extension(100, &[])]].concat().concat();
    assert_eq!(invalid(&records(&message(0x0303, Some(&once_more)), 1 << 14)), Reason::Malformed);
}

#[test]
fn reasons_have_names_of_their_own() {
    for (index, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
        assert!(Reason::ALL[..index].iter().all(|other| other.name() != reason.name()));
    }
}

/// What rustls reads as a server; `None` if it refuses it or wants more.
fn rustls_reads(mut bytes: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let alpn = hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect());
            return Some((hello.server_name().map(str::to_owned), alpn.unwrap_or_default()));
        }
    }
    None
}

#[test]
fn rustls_reads_the_same_from_what_was_captured() {
    let mut read = 0;
    for (client, bytes) in CAPTURED {
        if let Some((name, alpn)) = rustls_reads(bytes) {
            let (ours, protocols, _) = seen(bytes);
            assert_eq!(ours, name.map(|name| name.to_lowercase()), "{client}");
            assert_eq!(protocols.len(), alpn.len(), "{client}");
            read += 1;
        }
    }
    assert!(read >= 11, "{read}");
}

fn mutations() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4u8);
    let corpus: Vec<_> = messages().iter().map(|message| records(message, 1 << 14)).collect();
    (prop::sample::select(corpus), prop::collection::vec(change, 0..4)).prop_map(
        |(mut bytes, changes)| {
            for (index, byte, how) in changes {
                let at = index.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes[at] = bytes[at].wrapping_add(1),
                    2 => bytes[at] = bytes[at].wrapping_sub(1),
                    _ => bytes[at] ^= 1 << (byte % 8),
                }
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200), seed: u64) {
        laws::client_hello(&bytes, seed);
        laws::client_hello(&[&[22, 3, 1], &vector16(&bytes)[..]].concat(), seed);
        laws::client_hello(&records(&with_header(&bytes), 1 << 14), seed);
    }

    #[test]
    fn any_extensions_are_judged(
        list in prop::collection::vec((0u16..60, prop::collection::vec(0u8..9, 0..12)), 0..8),
        longest in 1usize..300,
        seed: u64,
    ) {
        let list: Vec<_> = list.iter().map(|(kind, content)| extension(*kind, content)).collect();
        laws::client_hello(&records(&message(0x0303, Some(&list.concat())), longest), seed);
    }

    #[test]
    fn rustls_reads_the_same_from_what_both_accept(bytes in mutations(), seed: u64) {
        let verdict = laws::client_hello(&bytes, seed);
        // Neither takes all that the other does: rustls lets any bytes follow the name, and is
        // stricter with what is not looked at here.
        if let (Parsed::Hello(hello), Some((name, alpn))) = (verdict, rustls_reads(&bytes)) {
            if let Some(name) = name {
                prop_assert_eq!(hello.server_name(), Some(&*name.to_lowercase()));
            }
            let protocols: Vec<_> = hello.protocols().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(protocols, alpn);
        }
    }
}

/// A configuration with `name` in each place where it has the name of a host.
fn configured(name: &str) -> [(&'static str, Result<(), String>); 6] {
    use crate::config::{accepts, parse};
    let whole = |section: &str, address: &str| {
        let listener = "[[listener]]\nname = \"l\"\nbind = \"0.0.0.0:80\"\npool = \"p\"\n";
        let backend = format!("[[pool.p.backend]]\nname = \"b\"\naddress = \"{address}:80\"\n");
        let source = format!("{listener}{section}\n{backend}");
        parse("t.toml", &source).map(drop).map_err(|error| error.to_string())
    };
    let health = format!("[pool.p.health]\ntype = \"http\"\nhost = \"{name}\"");
    let tls = format!("[pool.p.tls]\nsni = \"{name}\"");
    [
        ("address", accepts::backend(&format!("{name}:80")).map(drop)),
        ("sni of a route", accepts::sni(name).map(drop)),
        ("sni of a route, below it", accepts::sni(&format!("*.{name}")).map(drop)),
        ("address in a file", whole("", name)),
        ("health.host", whole(&health, "10.0.0.1")),
        ("tls.sni", whole(&tls, "10.0.0.1")),
    ]
}

/// The least that rustls reads as a hello, with a name.
fn asking(name: &str) -> Vec<u8> {
    hello(&[
        named(name.as_bytes()),
        extension(10, &vector16(&[0, 0x1d])),
        extension(13, &vector16(&[4, 3, 8, 4])),
        extension(43, &vector8(&[3, 4])),
        extension(51, &vector16(&[vec![0, 0x1d], vector16(&[6; 32])].concat())),
    ])
}

#[test]
fn names_are_the_same_wherever_they_are() {
    use crate::proto::http_head::Host;
    use crate::proto::name::HostName;
    use crate::tls::client::PeerName;
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", &label[..61]);
    let good = [
        "example.com",
        "Example.COM.",
        "localhost",
        "my_db",
        "_",
        "_sip._tcp.a_b_.example",
        "a_.b",
        "r3---sn.example",
        "xn--bcher-kva.example",
        "3com.com",
        "10.0.0.1.nip.io",
        "1.2.3.a",
        &label,
        &longest,
    ];
    let (long_label, too_long) = (format!("{label}a.example"), format!("{longest}."));
    let bad = [
        ".",
        "a..b",
        ".a",
        "a..",
        "-a.example",
        "a-.example",
        "example.-a",
        "example.a-",
        "a b",
        "a%b",
        "bücher.example",
        "a.1",
        "127.1",
        "2130706433",
        &long_label,
        &too_long,
    ];
    let judged = good.map(|name| (name, true)).into_iter().chain(bad.map(|name| (name, false)));
    for (name, fine) in judged {
        for (place, verdict) in configured(name) {
            assert_eq!(verdict.is_ok(), fine, "{place}: {name:?}: {verdict:?}");
        }
        assert_eq!(Host::parse(name).is_some(), fine, "Host, {name:?}");
        assert_eq!(PeerName::parse(name).is_ok(), fine, "towards backends, {name:?}");
        let asked = HostName::parse(name.as_bytes()).map(|name| name.to_string());
        assert_eq!(asked.is_some(), fine, "{name:?}");
        let bytes = asking(name);
        // Passed through and terminated: the second is read by rustls as well.
        assert_eq!(seen(&bytes).0, asked, "SNI, {name:?}");
        let terminated = rustls_reads(&bytes).and_then(|(name, _)| name);
        let terminated = terminated.and_then(|name| HostName::parse(name.as_bytes()));
        assert_eq!(terminated.map(|name| name.to_string()), asked, "rustls, {name:?}");
    }
    // An address is a host, but never the name of one.
    for address in ["10.0.0.1", "::1"] {
        assert!(crate::config::accepts::sni(address).is_err(), "{address}");
        assert_eq!(seen(&asking(address)).0, None);
        assert_eq!(rustls_reads(&asking(address)).and_then(|(name, _)| name), None);
    }
}
