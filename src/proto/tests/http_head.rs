use proptest::prelude::*;

use super::laws;
use crate::proto::http_head::{
    Head, Host, LIMIT, Parsed, Reader, Refusal, acme_token, alone, location, status_for,
};

macro_rules! captured {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../tests/corpus/http_head/", $name)).as_slice())),+]
    };
}

/// What clients have sent.
const CAPTURED: [(&str, &[u8]); 8] = captured![
    "chrome",
    "curl-address6",
    "curl-challenge",
    "curl-get",
    "curl-http10-post",
    "curl-proxy",
    "python-urllib",
    "wget",
];

fn head(text: &str) -> Head<'_> {
    match laws::http_head(text.as_bytes(), 1) {
        Parsed::Head(head) => head,
        other => panic!("{text:?}: {other:?}"),
    }
}

fn refused(bytes: impl AsRef<[u8]>) -> u16 {
    match laws::http_head(bytes.as_ref(), 1) {
        Parsed::Refused(refusal) => refusal.status(),
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(bytes.as_ref())),
    }
}

/// A request for a target, of a host.
fn get(target: &str, host: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn location_of(target: &str, host: &str) -> String {
    location(&head(&get(target, host)), 443).unwrap()
}

#[test]
fn captured_requests_are_redirected() {
    for (client, bytes) in CAPTURED {
        let text = str::from_utf8(bytes).unwrap();
        let to = location(&head(text), 443).unwrap();
        let expected = match client {
            "chrome" => "https://www.example.com/search?q=load%20balancer&lang=en",
            "curl-get" => "https://app.example.com/a/b?c=d",
            "curl-address6" => "https://[2001:db8::1]/",
            "curl-http10-post" => "https://127.0.0.1/form",
            "curl-proxy" => "https://app.example.com/x?y",
            "curl-challenge" => {
                let token = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
                assert_eq!(acme_token(&head(text)), Some(token));
                &format!("https://app.example.com/.well-known/acme-challenge/{token}")
            }
            "python-urllib" => "https://localhost/p%20q?r=%s&t={}|^",
            "wget" => "https://localhost/x;y=1",
            _ => unreachable!("{client}"),
        };
        assert_eq!(to, expected, "{client}");
    }
}

#[test]
fn any_cut_gives_the_same_and_a_beginning_is_incomplete() {
    for (client, bytes) in CAPTURED {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let whole = Reader::new().advance(bytes);
        let mut steadily = Reader::new();
        for cut in 0..end {
            assert_eq!(steadily.advance(&bytes[..cut]), Parsed::Incomplete, "{client} {cut}");
            let mut reader = Reader::new();
            assert_eq!(reader.advance(&bytes[..cut]), Parsed::Incomplete, "{client} {cut}");
            assert_eq!(reader.advance(bytes), whole, "{client} {cut}");
        }
        assert_eq!(steadily.advance(&bytes[..end]), whole, "{client}");
    }
}

#[test]
fn parts_are_found() {
    let text =
        "PROPFIND /a//b/../c;d?e=/?f HTTP/1.1\r\nX: y\r\nhOsT:\t Example.COM.:8080 \r\n\r\nbody";
    let head = head(text);
    assert_eq!(head.method, "PROPFIND");
    assert_eq!((head.path, head.query), ("/a//b/../c;d", "?e=/?f"));
    assert_eq!(head.host.unwrap().to_string(), "example.com");
    assert_eq!(head.minor, 1);
    assert_eq!(location(&head, 8443).unwrap(), "https://example.com:8443/a//b/../c;d?e=/?f");
}

#[test]
fn hosts_are_judged() {
    for (host, expected) in [
        ("example.com", "example.com"),
        ("EXAMPLE.com.:80", "example.com"),
        ("example.com:", "example.com"),
        ("a_b.example:65535", "a_b.example"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("[2001:DB8:0::1]", "[2001:db8::1]"),
        ("[::1]:8080", "[::1]"),
        ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
    ] {
        assert_eq!(location_of("/x", host), format!("https://{expected}/x"));
    }
    for host in [
        "",
        ":",
        ":80",
        "a:b",
        "a:65536",
        "a:+1",
        "a:-1",
        "a:80:80",
        "a:80x",
        "a b",
        "a/b",
        "a@b",
        "a,b",
        "a\\b",
        "a\"b",
        "a'b",
        "a<b",
        "a>b",
        "a%62",
        "a?b",
        "a#b",
        "a;b",
        "(a)",
        "b\u{fc}cher",
        "::1",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]80",
        "[::1%25eth0]",
        "[fe80::1%eth0]",
        "[v1.x]",
        "[]",
        "[example.com]",
        "[[::1]]",
        "127.1",
        "2130706433",
        "01.2.3.4",
        "1.2.3.4.5",
        "a..b",
        ".a",
        "https://a",
        "a\tb",
        "*",
    ] {
        assert_eq!(refused(get("/", host)), 400, "{host:?}");
        assert_eq!(Host::parse(host), None, "{host:?}");
    }
    for byte in (0..=255u8).filter(|byte| !byte.is_ascii_alphanumeric() && !b"-_.:".contains(byte))
    {
        let request = [b"GET / HTTP/1.1\r\nHost: a", &[byte][..], b"b\r\n\r\n"].concat();
        assert_eq!(refused(request), 400, "{byte:#x}");
    }
}

#[test]
fn there_is_one_host() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
    assert_eq!(refused("GET http://a/ HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("GET http://a/ HTTP/1.1\r\nHost: @\r\n\r\n"), 400);
    let old = head("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((old.host, old.minor, location(&old, 443)), (None, 0, None));
    let old = head("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(location(&old, 443).unwrap(), "https://a/");
    assert_eq!(location(&head("GET http://a HTTP/1.0\r\n\r\n"), 443).unwrap(), "https://a/");
}

#[test]
fn targets_in_absolute_form_name_the_host() {
    for (target, expected) in [
        ("http://b.example/x?y", "https://b.example/x?y"),
        ("HTTP://B.example:80/x", "https://b.example/x"),
        ("https://b.example", "https://b.example/"),
        ("http://b.example?y=/", "https://b.example/?y=/"),
        ("http://[::1]:8080//x", "https://[::1]//x"),
        ("//b.example/x", "https://a.example//b.example/x"),
        ("/http://b.example/", "https://a.example/http://b.example/"),
        ("/@b.example", "https://a.example/@b.example"),
    ] {
        assert_eq!(location_of(target, "a.example"), expected, "{target}");
    }
    for target in [
        "*",
        "a.example:443",
        "a",
        "?x",
        "@b",
        ".b",
        "http:/b/",
        "http:b",
        "http://",
        "http:///x",
        "http://u@b/",
        "http://u:p@b/",
        "ftp://b/",
        "javascript://b/",
        "://b/",
        "http://b:x/",
        "http://b\\c/",
        "http://b;c",
    ] {
        assert_eq!(refused(get(target, "a.example")), 400, "{target}");
    }
}

#[test]
fn targets_cannot_leave_a_location() {
    for byte in 0..=255u8 {
        let request = [b"GET /a", &[byte][..], b"b?c HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let verdict = laws::http_head(&request, 1);
        if byte.is_ascii_graphic() && !b"\"#<>\\".contains(&byte) {
            assert!(matches!(verdict, Parsed::Head(_)), "{byte:#x}");
        } else {
            assert_eq!(verdict, Parsed::Refused(Refusal::BadRequest), "{byte:#x}");
        }
    }
}

#[test]
fn first_lines_are_strict() {
    for line in [
        "",
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "GET / x HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / HTTP/1.10",
        "GET / HTTP/01.1",
        "GET / HTTP/+1.1",
        "GET / HTTPS/1.1",
        "GET / HTTP/a.b",
        "GET / HTTP 1.1",
        "CONNECT a:443 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET /\r HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "SSH-2.0-OpenSSH_9.2",
    ] {
        assert_eq!(refused(format!("{line}\r\nHost: a\r\n\r\n")), 400, "{line:?}");
    }
    for version in ["2.0", "0.9", "3.0", "9.9"] {
        assert_eq!(refused(format!("GET / HTTP/{version}\r\n")), 505, "{version}");
    }
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    assert_eq!(head("GET / HTTP/1.9\r\nHost: a\r\n\r\n").minor, 1);
}

#[test]
fn an_empty_line_before_the_request_is_ignored_and_no_second() {
    let request = "GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(head(&format!("\r\n{request}")), head(request));
    assert_eq!(refused(format!("\r\n\r\n{request}")), 400);
    assert_eq!(refused(format!("\n{request}")), 400);
    assert_eq!(refused(format!("\r{request}")), 400);
}

#[test]
fn what_another_server_is_asked_has_nothing_of_the_request_but_what_it_is_for() {
    let long = "POST /a?b HTTP/1.1\r\nHost: A.test:80\r\nContent-Length: 9\r\n\
                Transfer-Encoding: chunked\r\nConnection: keep-alive\r\nUpgrade: h2c\r\n\r\n";
    let expected = "POST /a?b HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    assert_eq!(String::from_utf8(alone(&head(long))).unwrap(), expected);
    let old = String::from_utf8(alone(&head("GET /a HTTP/1.0\r\n\r\n"))).unwrap();
    assert_eq!(old, "GET /a HTTP/1.0\r\nConnection: close\r\n\r\n");
}

#[test]
fn other_protocols_are_told_by_their_first_bytes() {
    for bytes in [&b"\x16"[..], b"\x80", b"\0", b"\rG", b" ", b"\n", b"{", b"A\x03", b"GET /\xff"] {
        assert_eq!(refused(bytes), 400, "{bytes:?}");
    }
}

#[test]
fn header_lines_are_strict() {
    for lines in [
        "Host : a",
        "Host\t: a",
        " Host: a",
        ": a",
        "Host a",
        "Host",
        "X\r\nHost: a",
        "Host: a\r\n folded",
        "X: y\r\n\tfolded\r\nHost: a",
        "Host: a\nX: y",
        "Host: a\rX: y",
        "Host: a\r\r",
        "Host: a\n",
        "X: \0\r\nHost: a",
        "X: \x7f\r\nHost: a",
        "X: \x1b\r\nHost: a",
        "X(: y\r\nHost: a",
        "\u{e9}: y\r\nHost: a",
        "\"X\": y\r\nHost: a",
    ] {
        assert_eq!(refused(format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n")), 400, "{lines:?}");
    }
    for line in
        ["X:", "X: ", "X:\ty\t", "X: b\u{fc}cher", "X: :\"<>{}", "!#$%&'*+-.^_`|~1a: y", "X:y"]
    {
        head(&format!("GET / HTTP/1.1\r\n{line}\r\nHost: a\r\n\r\n"));
    }
    assert_eq!(refused("GET / HTTP/1.1\nHost: a\n\n"), 400, "bare LF");
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\n\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\n\rx"), 400);
}

#[test]
fn there_is_a_limit() {
    let padded = |length: usize| {
        let begin = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{begin}{}\r\n\r\n", "x".repeat(length - begin.len() - 4))
    };
    head(&padded(LIMIT));
    assert_eq!(refused(padded(LIMIT + 1)), 431);
    assert_eq!(refused(&padded(LIMIT + 1)[..LIMIT]), 431);
    let long = padded(LIMIT + 1);
    let beginning = &long.as_bytes()[..LIMIT - 1];
    assert_eq!(laws::http_head(beginning, 1), Parsed::Incomplete);
    assert_eq!(refused(get(&format!("/{}", "x".repeat(LIMIT)), "a")), 414);
    assert_eq!(refused("X".repeat(LIMIT)), 414);
    let longest = get(&format!("/{}", "x".repeat(LIMIT - 27)), "a");
    assert_eq!(longest.len(), LIMIT);
    assert_eq!(head(&longest).path.len(), LIMIT - 26);
    head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a:\r\n".repeat(2_000)));
}

#[test]
fn tokens_of_challenges_are_nothing_else() {
    let of = |method: &str, path: &str| {
        let text = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        acme_token(&head(&text)).map(str::to_owned)
    };
    let at = |token: &str| of("GET", &format!("/.well-known/acme-challenge/{token}"));
    assert_eq!(at("aZ09-_").as_deref(), Some("aZ09-_"));
    assert_eq!(at("x").as_deref(), Some("x"));
    assert_eq!(at(&"x".repeat(128)), Some("x".repeat(128)));
    for token in [
        "",
        ".",
        "..",
        "../x",
        "x/",
        "/x",
        "x/../y",
        "x.y",
        "%2e%2e",
        "x%00",
        "x?",
        "x?y",
        "x;y",
        "x=",
        "x+y",
        "x~",
        "..%2fx",
        "{x}",
        "x&y",
        &"x".repeat(129),
    ] {
        assert_eq!(at(token), None, "{token}");
    }
    assert_eq!(of("GET", "//.well-known/acme-challenge/x"), None);
    assert_eq!(of("GET", "/.Well-Known/acme-challenge/x"), None);
    assert_eq!(of("GET", "/a/../.well-known/acme-challenge/x"), None);
    assert_eq!(of("GET", "http://b/.well-known/acme-challenge/x").as_deref(), Some("x"));
    assert_eq!(of("HEAD", "/.well-known/acme-challenge/x").as_deref(), Some("x"));
    assert_eq!(of("POST", "/.well-known/acme-challenge/x"), None);
}

#[test]
fn redirects_keep_the_method() {
    assert_eq!(["GET", "HEAD", "POST", "get", "X"].map(status_for), [301, 301, 308, 308, 308]);
}

#[test]
fn refusals_have_names_of_their_own() {
    for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(refusal as usize, index);
        assert!(Refusal::ALL[..index].iter().all(|other| other.name() != refusal.name()));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200), seed: u64) {
        laws::http_head(&bytes, seed);
        laws::http_head(&[b"GET / HTTP/1.1\r\nHost: ", &bytes[..], b"\r\n\r\n"].concat(), seed);
        laws::http_head(&[b"GET ", &bytes[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(), seed);
    }

    #[test]
    fn any_text_is_judged(
        target in "[/a.:@?#\\\\\\[\\]%{|}~ -]{0,12}",
        host in "[a-c0-9.:@\\[\\]%_-]{0,12}",
        line in "[a:\r\n\t ]{0,8}",
        seed: u64,
    ) {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{line}\r\n\r\n");
        laws::http_head(text.as_bytes(), seed);
    }

    #[test]
    fn mutated_requests_are_judged(
        (_, bytes) in prop::sample::select(CAPTURED.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        seed: u64,
    ) {
        let mut bytes = bytes.to_vec();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        laws::http_head(&bytes, seed);
    }
}
