use std::net::SocketAddr;

use proptest::prelude::*;

use super::laws;
use crate::proto::proxy_protocol::{
    Certificate, Ends, Header, LIMIT_V1, LIMIT_V2, Parsed, Reason, Tls, Version, header, local,
    parse,
};

macro_rules! captured {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../tests/corpus/proxy_header/", $name)).as_slice())),+]
    };
}

/// What HAProxy 2.6 and curl 7.88 have sent, each with the first bytes of the connection itself.
const CAPTURED: [(&str, &[u8]); 6] = captured![
    "curl-v4",
    "haproxy-v1-v4",
    "haproxy-v1-v6",
    "haproxy-v2-local",
    "haproxy-v2-tls",
    "haproxy-v2-v6",
];

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ends(client: &str, server: &str) -> Ends {
    Ends { client: address(client), server: address(server) }
}

fn line(ends: Option<Ends>, length: usize) -> Parsed {
    Parsed::Header(Header { version: Version::V1, ends }, length)
}

fn binary(ends: Option<Ends>, length: usize) -> Parsed {
    Parsed::Header(Header { version: Version::V2, ends }, length)
}

/// A header of version 2, of these parts.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat()
}

/// 192.0.2.1:258 to 198.51.100.2:443.
const BODY_V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 1, 2, 1, 187];

fn ends_v4() -> Option<Ends> {
    Some(ends("192.0.2.1:258", "198.51.100.2:443"))
}

#[test]
fn lines() {
    let longest = "PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"
        .replace("ffff:f...f:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    for (text, expected) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 258 443\r\n", ends_v4()),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some(ends("255.255.255.255:65535", "255.255.255.255:65535")),
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some(ends("0.0.0.0:0", "0.0.0.0:0"))),
        (
            "PROXY TCP6 2001:DB8::1 ::ffff:192.0.2.1 1 2\r\n",
            Some(ends("[2001:db8::1]:1", "[::ffff:192.0.2.1]:2")),
        ),
        // As nginx writes them, where its client's address is of another family than its own.
        ("PROXY TCP6 192.0.2.1 198.51.100.2 258 443\r\n", ends_v4()),
        (
            "PROXY TCP4 192.0.2.1 2001:db8::2 258 443\r\n",
            Some(ends("192.0.2.1:258", "[2001:db8::2]:443")),
        ),
        (
            "PROXY TCP6 2001:db8::1 192.0.2.1 258 443\r\n",
            Some(ends("[2001:db8::1]:258", "192.0.2.1:443")),
        ),
        ("PROXY TCP4 ::ffff:192.0.2.1 ::1 1 2\r\n", Some(ends("[::ffff:192.0.2.1]:1", "[::1]:2"))),
        (&*longest, Some(ends(all, all))),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN \r\n", None),
        (&format!("PROXY UNKNOWN{}", &longest[10..]), None),
        ("PROXY UNKNOWN anything \u{0} at all\r\n", None),
    ] {
        assert!(text.len() <= LIMIT_V1);
        assert_eq!(laws::proxy_header(text.as_bytes()), line(expected, text.len()), "{text:?}");
        // What follows is the connection's, whatever it is.
        let more = [text.as_bytes(), b"PROXY TCP4 \r\n\r\n"].concat();
        assert_eq!(laws::proxy_header(&more), line(expected, text.len()), "{text:?}");
    }
}

#[test]
fn what_is_no_line() {
    for text in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 258 443\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 258 443\r\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 258\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 258 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 258 443 1\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 258 443\r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.2 258 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 258 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 258 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.2 258 443\r\n",
        "PROXY TCP4 ::1 ::g 258 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100 258 443\r\n",
        "PROXY TCP6 ::1%1 ::1 258 443\r\n",
        "PROXY TCP6 fe80::1::1 ::1 258 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 0258 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 00 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +258 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 258 -1\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 \r\n",
        "PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY tcp4 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP44 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN \n",
        "PROXY UNKNOWN \rX\n",
        "PROXY \r\n",
        "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
    ] {
        let parsed = laws::proxy_header(text.as_bytes());
        assert_eq!(parsed, Parsed::Invalid(Reason::Malformed), "{text:?}");
    }
    for text in [
        "GET / HTTP/1.1\r\n\r\n",
        "proxy TCP4 ",
        "PROXYTCP4",
        "POST / HTTP/1.1\r\n",
        "\x16\x03\x01",
    ] {
        let parsed = laws::proxy_header(text.as_bytes());
        assert_eq!(parsed, Parsed::Invalid(Reason::Missing), "{text:?}");
    }
    for start in ["PROXY UNKNOWN ", "PROXY TCP4 1.1.1.1 "] {
        let without_end = format!("{start}{}", "1".repeat(200));
        let parsed = laws::proxy_header(without_end.as_bytes());
        assert_eq!(parsed, Parsed::Invalid(Reason::TooLarge));
        assert_eq!(parse(&without_end.as_bytes()[..LIMIT_V1 - 1]), Parsed::Incomplete);
    }
    let long = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    assert_eq!(laws::proxy_header(long(107).as_bytes()), line(None, 107));
    let parsed = laws::proxy_header(long(108).as_bytes());
    assert_eq!(parsed, Parsed::Invalid(Reason::TooLarge));
}

#[test]
fn binary_headers() {
    let body_v6 = [&[0xfe; 16][..], &[0xfd; 16], &[0, 80, 1, 187]].concat();
    let v6 = Ends {
        client: SocketAddr::new([0xfe_u8; 16].into(), 80),
        server: SocketAddr::new([0xfd_u8; 16].into(), 443),
    };
    let unix = [b'/'; 216];
    let noop = tlv(0x04, &[0; 300]);
    for (command, family, body, expected) in [
        (0x21, 0x11, &BODY_V4[..], ends_v4()),
        (0x21, 0x21, &body_v6, Some(v6)),
        // Addresses of datagrams, and paths, are none of a connection's.
        (0x21, 0x12, &BODY_V4, None),
        (0x21, 0x22, &body_v6, None),
        (0x21, 0x31, &unix, None),
        (0x21, 0x32, &unix, None),
        (0x21, 0x00, &[], None),
        (0x21, 0x00, &[1, 2, 3], None),
        (0x20, 0x00, &[], None),
        (0x20, 0x00, &[0xff; 7], None),
        (0x20, 0x11, &BODY_V4, None),
        // Of LOCAL the family is to be ignored, and what it has for addresses.
        (0x20, 0x11, &[], None),
        (0x20, 0xff, &[1], None),
    ] {
        for parts in [&[][..], &noop, &tlv(0xee, b"")] {
            let bytes = v2(command, family, &[body, parts].concat());
            let length = bytes.len();
            assert_eq!(laws::proxy_header(&bytes), binary(expected, length), "{bytes:02x?}");
            let more = [&bytes[..], SIGNATURE, b"\x16\x03\x01"].concat();
            assert_eq!(laws::proxy_header(&more), binary(expected, length), "{bytes:02x?}");
        }
    }
}

#[test]
fn what_is_no_binary_header() {
    let bad = |bytes: &[u8]| match laws::proxy_header(bytes) {
        Parsed::Invalid(reason) => reason,
        other => panic!("{bytes:02x?}: {other:?}"),
    };
    for command in (0..=255).filter(|command| ![0x20, 0x21].contains(command)) {
        assert_eq!(bad(&v2(command, 0x11, &BODY_V4)), Reason::Malformed, "{command:02x}");
    }
    let known = [0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32];
    for family in (0..=255).filter(|family| !known.contains(family)) {
        assert_eq!(bad(&v2(0x21, family, &[0; 300])), Reason::Malformed, "{family:02x}");
    }
    // Too short for its addresses.
    for (family, length) in [(0x11, 11), (0x12, 0), (0x21, 35), (0x22, 12), (0x31, 215)] {
        assert_eq!(bad(&v2(0x21, family, &vec![0; length])), Reason::Malformed, "{family:02x}");
    }
    // Parts that go beyond the end, or do not reach it.
    for parts in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0, 0, 4], &[4, 0xff, 0xff, 1]] {
        let bytes = v2(0x21, 0x11, &[&BODY_V4, parts].concat());
        assert_eq!(bad(&bytes), Reason::Malformed, "{parts:02x?}");
    }
    assert_eq!(bad(&[&SIGNATURE[..11], b"X"].concat()), Reason::Missing);
    assert_eq!(bad(b"\r\n\r\n\0\r\nQUIT\r"), Reason::Missing);
}

#[test]
fn what_is_too_large_is_known_by_its_length() {
    let head = |length: usize| {
        let length = u16::try_from(length - 16).unwrap().to_be_bytes();
        [SIGNATURE, &[0x21, 0x00], &length].concat()
    };
    assert_eq!(parse(&head(LIMIT_V2)), Parsed::Incomplete);
    assert_eq!(parse(&head(LIMIT_V2 + 1)), Parsed::Invalid(Reason::TooLarge));
    assert_eq!(parse(&head(16 + 65_535)), Parsed::Invalid(Reason::TooLarge));
    let longest = [head(LIMIT_V2), vec![0; LIMIT_V2 - 16]].concat();
    assert_eq!(laws::proxy_header(&longest), binary(None, LIMIT_V2));
}

#[test]
fn every_truncation_waits_for_the_rest() {
    let tls = Tls {
        version: Some("1.3"),
        alpn: Some(b"h2"),
        server_name: Some("example.test"),
        certificate: Some(Certificate { common_name: Some("someone"), resumed: false }),
    };
    let ends = ends("[2001:db8::1]:1", "[2001:db8::2]:2");
    for bytes in [
        header(Version::V1, ends, None),
        header(Version::V2, ends, Some(&tls)),
        local(Version::V1),
        local(Version::V2),
    ] {
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Parsed::Incomplete, "{end} of {bytes:02x?}");
        }
        assert!(matches!(laws::proxy_header(&bytes), Parsed::Header(_, n) if n == bytes.len()));
    }
}

#[test]
fn checksums_are_verified_where_there_are_any() {
    // Of HAProxy's own, over the addresses of the specification's example.
    let sealed = header(Version::V2, ends("192.0.2.1:258", "198.51.100.2:443"), None);
    assert_eq!(laws::proxy_header(&sealed), binary(ends_v4(), sealed.len()));
    for at in 16..sealed.len() {
        let mut broken = sealed.clone();
        broken[at] ^= 0x40;
        // A length that was changed is found out about first.
        let reason = match laws::proxy_header(&broken) {
            Parsed::Invalid(reason) => reason,
            // The checksum has become something else, and is not looked at.
            Parsed::Header(..) if at == sealed.len() - 7 => continue,
            other => panic!("{at}: {other:?}"),
        };
        let expected = match at {
            29 | 30 => Reason::Malformed,
            _ => Reason::Checksum,
        };
        assert_eq!(reason, expected, "byte {at}");
    }
    let with = |parts: &[u8]| laws::proxy_header(&v2(0x21, 0x11, &[&BODY_V4, parts].concat()));
    assert_eq!(with(&tlv(3, &[0; 4])), Parsed::Invalid(Reason::Checksum));
    assert_eq!(with(&tlv(3, &[0; 3])), Parsed::Invalid(Reason::Malformed));
    assert_eq!(with(&tlv(3, &[0; 5])), Parsed::Invalid(Reason::Malformed));
    let of_a_check = |family, parts: &[u8]| laws::proxy_header(&v2(0x20, family, parts));
    assert_eq!(of_a_check(0, &tlv(3, &[0; 4])), Parsed::Invalid(Reason::Checksum));
    assert!(matches!(of_a_check(0, &[3, 0]), Parsed::Header(..)));
    let sealed = local(Version::V2);
    assert_eq!(laws::proxy_header(&sealed), binary(None, sealed.len()));
    // Two of them cannot both be right.
    let twice = [tlv(3, &[0; 4]), tlv(3, &[0; 4])].concat();
    assert!(matches!(with(&twice), Parsed::Invalid(_)));
}

/// By the specification's section 2.2, byte by byte; RFC 3720 has the algorithm of the checksum.
#[test]
fn what_is_sent_is_as_specified() {
    let v4 = ends("192.0.2.1:258", "198.51.100.2:443");
    assert_eq!(header(Version::V1, v4, None), b"PROXY TCP4 192.0.2.1 198.51.100.2 258 443\r\n");
    let v6 = ends("[2001:db8::1]:1", "[2001:db8::2]:2");
    assert_eq!(header(Version::V1, v6, None), b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n");
    let mixed = ends("192.0.2.1:1", "[2001:db8::2]:2");
    let line = header(Version::V1, mixed, None);
    assert_eq!(line, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n");
    let mapped = ends("[::ffff:192.0.2.1]:1", "198.51.100.2:2");
    let line = header(Version::V1, mapped, None);
    assert_eq!(line, b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n");
    assert_eq!(local(Version::V1), b"PROXY UNKNOWN\r\n");

    let bytes = header(Version::V2, v4, None);
    let (rest, sum) = bytes.split_at(bytes.len() - 4);
    assert_eq!(rest, [SIGNATURE, &[0x21, 0x11, 0, 19], &BODY_V4, &[3, 0, 4]].concat());
    assert_eq!(sum, crc32c_bitwise(&[rest, &[0; 4]].concat()).to_be_bytes());
    let bytes = local(Version::V2);
    let (rest, sum) = bytes.split_at(bytes.len() - 4);
    assert_eq!(rest, [SIGNATURE, &[0x20, 0x00, 0, 7, 3, 0, 4]].concat());
    assert_eq!(sum, crc32c_bitwise(&[rest, &[0; 4]].concat()).to_be_bytes());
    assert_eq!(crc32c_bitwise(b"123456789"), 0xe306_9283);
}

fn crc32c_bitwise(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[test]
fn what_is_known_of_tls_is_sent_along() {
    let v4 = ends("192.0.2.1:258", "198.51.100.2:443");
    let parts = |tls: &Tls<'_>| header(Version::V2, v4, Some(tls))[28..].to_vec();
    let mut tls = Tls {
        version: Some("1.3"),
        alpn: Some(b"h2"),
        server_name: Some("example.test"),
        certificate: None,
    };
    let alpn_and_name = [tlv(1, b"h2"), tlv(2, b"example.test")].concat();
    let version = tlv(0x21, b"TLSv1.3");
    let ssl = |flags: u8, verify: u8, parts: &[u8]| {
        tlv(0x20, &[&[flags, 0, 0, 0, verify], parts].concat())
    };
    assert!(parts(&tls).starts_with(&[&alpn_and_name[..], &ssl(1, 1, &version)].concat()));
    let named = [&version[..], &tlv(0x22, "Jürgen".as_bytes())].concat();
    for (resumed, flags) in [(false, 7), (true, 5)] {
        tls.certificate = Some(Certificate { common_name: Some("Jürgen"), resumed });
        assert!(parts(&tls).starts_with(&[&alpn_and_name[..], &ssl(flags, 0, &named)].concat()));
    }
    // Rather none than half a name.
    let long = "x".repeat(513);
    tls.certificate = Some(Certificate { common_name: Some(&long), resumed: false });
    assert!(parts(&tls).starts_with(&[&alpn_and_name[..], &ssl(7, 0, &version)].concat()));
    // TLS that does not end here.
    let passed = Tls { version: None, alpn: None, server_name: Some("a"), certificate: None };
    let parts = parts(&passed);
    assert!(parts.starts_with(&tlv(2, b"a")) && parts[4] == 3 && parts.len() == 4 + 7);
    assert_eq!(header(Version::V1, v4, Some(&tls)), header(Version::V1, v4, None));
}

#[test]
fn what_others_have_sent_is_understood() {
    for (name, bytes) in CAPTURED {
        let Parsed::Header(header, length) = laws::proxy_header(bytes) else {
            panic!("{name}: {:?}", parse(bytes));
        };
        assert_eq!(header.ends.is_none(), name.ends_with("local"), "{name}");
        assert_eq!(header.version == Version::V1, !name.contains("v2"), "{name}");
        if let Some(Ends { client, server }) = header.ends {
            assert!(client.ip().is_loopback() && server.ip().is_loopback(), "{name}");
            assert_eq!(client.is_ipv6(), name.ends_with("v6"), "{name}");
        }
        let rest = &bytes[length..];
        assert!(rest.is_empty() || rest.starts_with(b"GET / "), "{name}: {rest:02x?}");
    }
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<(u32, u16)>().prop_map(|(ip, port)| (std::net::Ipv4Addr::from(ip), port).into()),
        any::<(u128, u16)>().prop_map(|(ip, port)| (std::net::Ipv6Addr::from(ip), port).into()),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        laws::proxy_header(&bytes);
        laws::proxy_header(&[SIGNATURE, &bytes].concat());
        laws::proxy_header(&[SIGNATURE, &[0x21, 0x11, 0, 40], &bytes].concat());
        laws::proxy_header(&[b"PROXY TCP4 ", &bytes[..]].concat());
    }

    #[test]
    fn any_line_is_answered(text in "PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f:.]{1,9}){0,5} ?\r?\n?") {
        laws::proxy_header(text.as_bytes());
    }

    #[test]
    fn what_is_written_is_read(
        client in any_address(),
        server in any_address(),
        name in proptest::option::of("[a-z.]{0,253}"),
        alpn in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..256)),
        common_name in proptest::option::of("\\PC{0,64}"),
        resumed in any::<bool>(),
    ) {
        let tls = Tls {
            version: Some("1.2"),
            alpn: alpn.as_deref(),
            server_name: name.as_deref(),
            certificate: Some(Certificate { common_name: common_name.as_deref(), resumed }),
        };
        for bytes in [
            header(Version::V1, Ends { client, server }, None),
            header(Version::V2, Ends { client, server }, Some(&tls)),
        ] {
            let Parsed::Header(read, length) = laws::proxy_header(&bytes) else {
                panic!("{bytes:02x?}");
            };
            prop_assert_eq!(length, bytes.len());
            let ends = read.ends.unwrap();
            prop_assert_eq!(ends.client.ip().to_canonical(), client.ip().to_canonical());
            prop_assert_eq!(ends.server.ip().to_canonical(), server.ip().to_canonical());
            prop_assert_eq!((ends.client.port(), ends.server.port()), (client.port(), server.port()));
        }
    }
}
