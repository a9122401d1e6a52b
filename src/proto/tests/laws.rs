//! What holds for any bytes whatever. The tests here and `fuzz/` ask the same of the parsers.

use crate::proto::client_hello::{self, ClientHello};
use crate::proto::first_bytes::{self, FirstBytes};
use crate::proto::http_head::{self, Head, acme_token, location};
use crate::proto::name::HostName;
use crate::proto::proxy_protocol::{self, Header};

/// Lengths of pieces, by chance but always the same for a seed: often 1.
struct Pieces(u64);

impl Pieces {
    fn next(&mut self) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let longest = 1 << (random % 12);
        1 + (random >> 8) as usize % longest
    }
}

/// Any bytes as the beginning of a connection that should be TLS.
pub fn client_hello(bytes: &[u8], seed: u64) -> client_hello::Parsed<'_> {
    use client_hello::{LIMIT, Parsed, Reader, parse};
    let verdict = parse(bytes);
    if verdict == Parsed::Incomplete {
        assert!(bytes.len() < LIMIT, "it waits beyond its limit");
    }
    // However it is cut, the verdict is the same; and it falls at one byte, for good.
    let (mut reader, mut pieces, mut end) = (Reader::new(), Pieces(seed | 1), 0);
    loop {
        let now = reader.advance(&bytes[..end]);
        if now != Parsed::Incomplete || end == bytes.len() {
            assert_eq!(now, verdict, "cut at {end}");
            assert_eq!(reader.advance(&bytes[..end]), verdict, "asked again");
            break;
        }
        end = bytes.len().min(end + pieces.next());
    }
    if let Parsed::Hello(hello) = &verdict {
        sound_hello(hello);
    }
    verdict
}

fn sound_hello(hello: &ClientHello<'_>) {
    if let Some(name) = hello.server_name() {
        assert_eq!(HostName::parse(name.as_bytes()).expect("a name").as_str(), name);
        assert!(!hello.is_misnamed());
    }
    assert!(hello.protocols().all(|protocol| (1..=255).contains(&protocol.len())));
    assert!(hello.versions().count() >= 1);
    assert!(hello.versions().count() <= 127);
}

/// Any bytes as the first of a connection.
pub fn first_bytes(bytes: &[u8], seed: u64) -> Option<FirstBytes> {
    use first_bytes::{LIMIT, Reader, classify};
    let verdict = classify(bytes);
    if verdict.is_none() {
        assert!(bytes.len() < LIMIT, "it waits beyond its limit");
    }
    assert_ne!(verdict, Some(FirstBytes::Nothing), "only who waits can tell");
    // However they are cut, the verdict is the same; and it falls at one byte, for good.
    let (mut reader, mut pieces, mut end) = (Reader::new(), Pieces(seed | 1), 0);
    loop {
        let now = reader.advance(&bytes[..end]);
        if now.is_some() || end == bytes.len() {
            assert_eq!(now, verdict, "cut at {end}");
            assert_eq!(reader.advance(bytes), verdict, "asked again");
            break;
        }
        end = bytes.len().min(end + pieces.next());
    }
    match verdict {
        Some(FirstBytes::Tls) => {
            let hello = client_hello::parse(&bytes[..6]);
            assert!(!matches!(hello, client_hello::Parsed::Invalid(_)), "{hello:?}");
        }
        Some(FirstBytes::Proxy) => {
            let header = proxy_protocol::parse(&bytes[..bytes.len().min(12)]);
            let is_missing =
                header == proxy_protocol::Parsed::Invalid(proxy_protocol::Reason::Missing);
            assert!(!is_missing, "{header:?}");
        }
        _ => {}
    }
    verdict
}

/// Any bytes as the beginning of a connection that should be HTTP.
pub fn http_head(bytes: &[u8], seed: u64) -> http_head::Parsed<'_> {
    use http_head::{LIMIT, Parsed, Reader};
    let verdict = Reader::new().advance(bytes);
    if verdict == Parsed::Incomplete {
        assert!(bytes.len() < LIMIT, "it waits beyond its limit");
    }
    let (mut reader, mut pieces, mut end) = (Reader::new(), Pieces(seed | 1), 0);
    loop {
        let now = reader.advance(&bytes[..end]);
        if now != Parsed::Incomplete || end == bytes.len() {
            assert_eq!(now, verdict, "cut at {end}");
            assert_eq!(reader.advance(&bytes[..end]), verdict, "asked again");
            break;
        }
        end = bytes.len().min(end + pieces.next());
    }
    if let Parsed::Head(head) = &verdict {
        sound_head(head);
    }
    verdict
}

fn sound_head(head: &Head<'_>) {
    assert!(!head.method.is_empty());
    assert!(head.path.is_empty() || head.path.starts_with('/'));
    assert!(head.query.is_empty() || head.query.starts_with('?'));
    assert!(head.host.is_some() || head.minor == 0);
    if let Some(token) = acme_token(head) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        assert!((1..=128).contains(&token.len()) && token.chars().all(allowed));
        assert!(head.path.ends_with(token));
    }
    for port in [443, 8443] {
        let Some(url) = location(head, port) else {
            assert!(head.host.is_none());
            continue;
        };
        assert!(url.len() <= LIMIT_OF_LOCATION);
        assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"#<>\\".contains(&byte)));
        let rest = url.strip_prefix("https://").expect("https");
        let (authority, path) = rest.split_at(rest.find('/').expect("a path"));
        assert!(authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b)));
        assert_eq!(http_head::Host::parse(authority), head.host);
        assert_eq!(authority.ends_with(":8443"), port == 8443);
        assert!(path.ends_with(&format!("{}{}", head.path, head.query)));
    }
}

/// It has the host and the target of the request, and `https://` and a port.
const LIMIT_OF_LOCATION: usize = http_head::LIMIT + 32;

/// Any bytes as the beginning of a connection that should have a PROXY header.
pub fn proxy_header(bytes: &[u8]) -> proxy_protocol::Parsed {
    use proxy_protocol::{LIMIT_V1, LIMIT_V2, Parsed, Version, parse};
    let verdict = parse(bytes);
    if verdict == Parsed::Incomplete {
        let limit = if bytes.starts_with(b"P") { LIMIT_V1 } else { LIMIT_V2 };
        assert!(bytes.len() < limit, "it waits beyond its limit");
    }
    // However it is cut, the verdict is the same; and it falls at one byte, for good.
    let settled =
        (0..=bytes.len().min(300)).find(|&end| parse(&bytes[..end]) != Parsed::Incomplete);
    if let Some(settled) = settled {
        for end in settled..=bytes.len().min(300) {
            assert_eq!(parse(&bytes[..end]), verdict, "cut at {end}, settled at {settled}");
        }
    }
    if let Parsed::Header(header, length) = verdict {
        assert!(length <= bytes.len());
        assert_eq!(parse(&bytes[..length]), verdict, "by itself");
        assert_eq!(parse(&bytes[..length - 1]), Parsed::Incomplete, "a byte less");
        let limit = if header.version == Version::V1 { LIMIT_V1 } else { LIMIT_V2 };
        assert!(length <= limit);
        sound_header(&header);
    }
    verdict
}

/// What was read can be written, and read again.
fn sound_header(header: &Header) {
    use proxy_protocol::{Ends, Parsed, Version, header as write, parse};
    let Some(ends) = header.ends else { return };
    let canonical = |address: std::net::SocketAddr| {
        std::net::SocketAddr::new(address.ip().to_canonical(), address.port())
    };
    for version in [Version::V1, Version::V2] {
        let bytes = write(version, ends, None);
        let Parsed::Header(Header { ends: Some(Ends { client, server }), .. }, length) =
            parse(&bytes)
        else {
            panic!("{ends:?} cannot be written");
        };
        assert_eq!(length, bytes.len());
        assert_eq!(canonical(client), canonical(ends.client));
        assert_eq!(canonical(server), canonical(ends.server));
    }
}
