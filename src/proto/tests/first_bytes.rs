use proptest::prelude::*;

use super::laws;
use crate::proto::first_bytes::{FirstBytes, LIMIT, Reader, classify};
use FirstBytes::{Http, Other, Proxy, Ssh, Tls};

/// The first bytes of a connection, and how many of them it takes to tell what they are.
const SETTLED: [(&[u8], FirstBytes, usize); 44] = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Tls, 6),
    (b"\x16\x03\x03\x00\x01\x01", Tls, 6),
    (b"\x16\x03\x00\x40\x00\x01", Tls, 6),
    // A ServerHello, an empty record, one that is too long, versions that never were.
    (b"\x16\x03\x03\x00\x7a\x02", Other, 6),
    (b"\x16\x03\x03\x00\x00\x01", Other, 5),
    (b"\x16\x03\x03\x40\x01\x01", Other, 5),
    (b"\x16\x04\x03\x00\x7a\x01", Other, 2),
    (b"\x16\xfe\xfd\x00\x00\x00", Other, 2),
    // An alert, data.
    (b"\x15\x03\x01\x00\x02\x02\x28", Other, 1),
    (b"\x17\x03\x03\x00\x10", Other, 1),
    // SSL 2.0, and an old client in its form.
    (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", Other, 1),
    (b"\x80\x4d\x01\x03\x01\x00\x24", Other, 1),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Http, 16),
    (b"GET / HTTP/1.0\n\n", Http, 15),
    (b"POST /a?b=%20 HTTP/1.1\r\n", Http, 24),
    (b"M-SEARCH * HTTP/1.1\r\n", Http, 21),
    (b"CONNECT a.test:443 HTTP/1.1\r\n", Http, 29),
    (b"get  http://a.test/  HTTP/1.1\r\n", Http, 31),
    (b"\r\nGET / HTTP/1.1\r\n", Http, 18),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04", Http, 16),
    (b"PROPFIND / HTTP/1.1\r\n", Http, 21),
    (b"PROXY-ME / HTTP/1.1\r\n", Http, 21),
    (b"SSH / HTTP/1.1\r\n", Http, 16),
    // What looks like it, at first.
    (b"GET key\r\n", Other, 8),
    (b"GET / HTTP/1.1 \r\n", Other, 15),
    (b"GET / HTTP/1.x\r\n", Other, 14),
    (b"GET / HTTP/1.1\rX", Other, 16),
    (b"GET a b HTTP/1.1\r\n", Other, 7),
    (b"GET /\xc3\xa9 HTTP/1.1\r\n", Other, 6),
    (b"GET\t/ HTTP/1.1\r\n", Other, 4),
    (b" GET / HTTP/1.1\r\n", Other, 1),
    (b"OPTIONS * RTSP/1.0\r\n", Other, 11),
    (b"OPTIONS sip:a@b.test SIP/2.0\r\n", Other, 22),
    (b"EHLO a.test\r\n", Other, 12),
    (b"*1\r\n$4\r\nPING\r\n", Other, 3),
    (b"SSH-2.0-OpenSSH_9.2p1\r\n", Ssh, 4),
    (b"SSH-1.99-x\r\n", Ssh, 4),
    (b"ssh-2.0-x\r\n", Other, 10),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", Proxy, 6),
    (b"PROXY UNKNOWN\r\n", Proxy, 6),
    (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", Proxy, 12),
    (b"\r\n\r\n\0\r\nQUIT\r", Other, 12),
    (b"\0\0\0\x08\x04\xd2\x16\x2f", Other, 1),
    (b"\xff", Other, 1),
];

#[test]
fn protocols_are_told_at_the_first_byte_that_settles_it() {
    for (bytes, kind, settled) in SETTLED {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        for end in 0..=bytes.len() {
            let expected = (end >= settled).then_some(kind);
            assert_eq!(classify(&bytes[..end]), expected, "{shown:?}, the first {end}");
        }
        // In any two pieces, and byte by byte.
        for cut in 0..=bytes.len() {
            let mut reader = Reader::new();
            let first = reader.advance(&bytes[..cut]);
            assert_eq!(
                first.or_else(|| reader.advance(bytes)),
                Some(kind),
                "{shown:?} cut at {cut}"
            );
        }
        let mut reader = Reader::new();
        let each = (1..=bytes.len()).find_map(|end| reader.advance(&bytes[..end]));
        assert_eq!(each, Some(kind), "{shown:?}, byte by byte");
    }
}

#[test]
fn what_does_not_go_on_is_nothing_or_something_else() {
    assert_eq!(classify(b""), None);
    assert_eq!(FirstBytes::unsettled(b""), FirstBytes::Nothing);
    for begun in [&b"\x16"[..], b"\x16\x03\x01\x02\x00", b"GET /", b"SSH", b"PROXY", b"\r\n\r\n\0"]
    {
        assert_eq!(classify(begun), None);
        assert_eq!(FirstBytes::unsettled(begun), Other);
    }
}

#[test]
fn hellos_of_real_clients_are_tls() {
    let hellos = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/client_hello");
    let mut count = 0;
    for entry in std::fs::read_dir(hellos).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if bytes.starts_with(&[22, 3]) {
            assert_eq!(classify(&bytes), Some(Tls));
            count += 1;
        }
    }
    assert!(count > 5);
}

#[test]
fn a_request_line_has_its_limit() {
    let line = |length: usize| {
        let target = "a".repeat(length - b"GET / HTTP/1.1\r\n".len());
        format!("GET /{target} HTTP/1.1\r\n").into_bytes()
    };
    assert_eq!(classify(&line(LIMIT)), Some(Http));
    assert_eq!(classify(&line(LIMIT)[..LIMIT - 1]), None);
    assert_eq!(classify(&line(LIMIT + 1)), Some(Other));
    assert_eq!(classify(&line(LIMIT + 1)[..LIMIT]), Some(Other));
}

#[test]
fn names_are_those_of_the_discriminants() {
    for (index, kind) in FirstBytes::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index);
    }
    let names: Vec<_> = FirstBytes::ALL.map(FirstBytes::name).into();
    assert_eq!(names, ["tls", "http", "ssh", "proxy", "other", "none"]);
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40), seed: u64) {
        laws::first_bytes(&bytes, seed);
    }

    #[test]
    fn bytes_after_a_beginning(
        case in 0..SETTLED.len(),
        cut in 0..40usize,
        rest in prop::collection::vec(any::<u8>(), 0..40),
        seed: u64,
    ) {
        let (bytes, kind, settled) = SETTLED[case];
        let bytes = [&bytes[..cut.min(bytes.len())], &rest].concat();
        let verdict = laws::first_bytes(&bytes, seed);
        if cut >= settled {
            prop_assert_eq!(verdict, Some(kind));
        }
    }

    #[test]
    fn letters_of_requests(bytes in "[A-Z/ HTP1.0\r\n]{0,40}", seed: u64) {
        laws::first_bytes(bytes.as_bytes(), seed);
    }
}
