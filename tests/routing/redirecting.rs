//! `protocol = "redirect"`: HTTP is answered with where to find the same over TLS, and nothing else
//! is answered with anything that came with it.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::listener;
use crate::harness::{
    Ending, Gateway, PATIENCE, connect, ending, output_of, reset, unused_address,
};

/// A gateway that redirects.
pub(super) struct Site {
    pub(super) gateway: Gateway,
    pub(super) address: SocketAddr,
}

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    client: SocketAddr,
    pub(super) status: u16,
    /// As it came, without the empty line at its end.
    head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(super) fn location(&self) -> &str {
        self.header("location").unwrap_or_else(|| panic!("there is no Location in {self:?}"))
    }
}

impl Site {
    fn new() -> Self {
        Self::with("")
    }

    pub(super) fn with(lines: &str) -> Self {
        let address = unused_address();
        Self { gateway: Gateway::start(listener(address, "redirect", lines)), address }
    }

    /// Sends something, says nothing more, and reads what comes to its end, which is in order.
    #[track_caller]
    pub(super) fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        self.try_ask(request.as_ref()).unwrap()
    }

    fn try_ask(&self, request: &[u8]) -> io::Result<Answer> {
        let mut client = connect(self.address)?;
        client.write_all(request)?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            return Err(io::Error::new(ErrorKind::InvalidData, answer));
        };
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let client = client.local_addr()?;
        let status = status.unwrap_or_else(|| panic!("{head}"));
        Ok(Answer { client, status, head: head.to_owned(), body: body.to_owned() })
    }

    /// Asserts that a request is refused, in one answer, which repeats nothing of it.
    #[track_caller]
    fn refuses(&self, request: impl AsRef<[u8]>, status: u16) {
        let request = request.as_ref();
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        let answer = self.ask(request);
        assert_eq!(answer.status, status, "{shown:?}: {answer:?}");
        assert_eq!(answer.header("location"), None, "{shown:?}: {answer:?}");
        assert!(!answer.body.contains("HTTP/1.1"), "{shown:?}: {answer:?}");
        let all = [&answer.head[..], &answer.body].concat();
        assert!(!all.contains("smuggled"), "{shown:?}: {answer:?}");
        let length = answer.header("content-length").map(str::parse);
        assert_eq!(length, Some(Ok(answer.body.len())), "{shown:?}: {answer:?}");
    }
}

/// A request for a target, of a host.
pub(super) fn get(target: &str, host: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[test]
fn host_and_path_are_kept() {
    let site = Site::new();
    for (target, host, location) in [
        ("/", "example.com", "https://example.com/"),
        ("/a/b.html?c=d&e=%20f", "www.example.com", "https://www.example.com/a/b.html?c=d&e=%20f"),
        ("/", "WWW.Example.COM", "https://www.example.com/"),
        ("/", "example.com.", "https://example.com/"),
        // The port of HTTP is not that of HTTPS.
        ("/a", "example.com:80", "https://example.com/a"),
        ("/a", "example.com:8080", "https://example.com/a"),
        ("/a", "example.com:", "https://example.com/a"),
        ("/a", "192.0.2.1:8080", "https://192.0.2.1/a"),
        ("/a", "[2001:DB8::1]:8080", "https://[2001:db8::1]/a"),
        ("/a", "[::1]", "https://[::1]/a"),
        ("/?", "example.com", "https://example.com/?"),
        // What means the same on the other side is theirs to tell.
        ("//evil.example.net/..", "example.com", "https://example.com//evil.example.net/.."),
        ("/%0d%0aSet-Cookie:x", "example.com", "https://example.com/%0d%0aSet-Cookie:x"),
        // The target says where, and not Host (RFC 9112, section 3.2.2).
        ("http://www.example.com:81/x?y", "example.net", "https://www.example.com/x?y"),
        ("http://www.example.com", "example.com", "https://www.example.com/"),
    ] {
        let answer = site.ask(get(target, host));
        assert_eq!((answer.status, answer.location()), (301, location), "{target} {host}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[test]
fn methods_decide_the_status() {
    let site = Site::new();
    for (method, status) in [
        ("GET", 301),
        ("HEAD", 301),
        ("POST", 308),
        ("PUT", 308),
        ("PATCH", 308),
        ("DELETE", 308),
        ("OPTIONS", 308),
        // Methods are told apart by case (RFC 9110, section 9.1).
        ("get", 308),
        ("PROPFIND", 308),
    ] {
        let answer = site.ask(format!("{method} /a?b HTTP/1.1\r\nHost: example.com\r\n\r\n"));
        assert_eq!(answer.status, status, "{method}");
        assert_eq!(answer.location(), "https://example.com/a?b", "{method}");
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        // What a HEAD request gets ends with its head (RFC 9112, section 6.3).
        let body = if method == "HEAD" { 0 } else { length };
        assert_eq!((answer.body.len(), length > 0), (body, true), "{method}: {answer:?}");
    }
}

#[test]
fn what_real_clients_have_sent() {
    let site = Site::new();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/http_head");
    for (client, status, location) in [
        ("chrome", 301, "https://www.example.com/search?q=load%20balancer&lang=en"),
        ("curl-get", 301, "https://app.example.com/a/b?c=d"),
        ("curl-address6", 301, "https://[2001:db8::1]/"),
        ("curl-http10-post", 308, "https://127.0.0.1/form"),
        ("curl-proxy", 301, "https://app.example.com/x?y"),
    ] {
        let answer = site.ask(fs::read(corpus.join(client)).unwrap());
        assert_eq!((answer.status, answer.location()), (status, location), "{client}");
    }
}

#[test]
fn curl_is_sent_on() {
    let site = Site::new();
    let SocketAddr::V4(address) = site.address else { unreachable!("tests are on IPv4") };
    for (arguments, expected) in [
        (&[][..], "301 https://www.example.com/a?b=c"),
        (&["--head"], "301 https://www.example.com/a?b=c"),
        (&["--http1.0"], "301 https://www.example.com/a?b=c"),
        (&["--data", "x=y"], "308 https://www.example.com/a?b=c"),
        (&["--http2"], "301 https://www.example.com/a?b=c"),
    ] {
        let port = address.port();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "--max-time", "20", "-o", "/dev/null"]);
        curl.args(["-w", "%{http_code} %{redirect_url}"]).args(arguments);
        curl.args(["--resolve", &format!("www.example.com:{port}:{}", address.ip())]);
        let output = output_of(curl.arg(format!("http://www.example.com:{port}/a?b=c")));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}: {error}");
    }
}

#[test]
fn a_head_however_it_came() {
    let site = Site::new();
    let request = get("/a?b", "www.example.com");
    for longest in [1, 3, request.len()] {
        let mut client = connect(site.address).unwrap();
        client.set_nodelay(true).unwrap();
        for part in request.as_bytes().chunks(longest) {
            client.write_all(part).unwrap();
            thread::yield_now();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\r\nLocation: https://www.example.com/a?b\r\n"), "{answer}");
        let record = site.gateway.record_of(client.local_addr().unwrap());
        assert_eq!(record["reason"], "closed", "{record}");
        assert_eq!(record["bytes_in"], request.len(), "{record}");
        assert_eq!(record["bytes_out"], answer.len(), "{record}");
        assert!(record["pool"].is_null() && record["backend"].is_null(), "{record}");
    }
    // A client that has finished is answered.
    let mut client = connect(site.address).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
}

#[test]
fn an_answer_survives_a_body_that_nobody_reads() {
    let site = Site::new();
    let length = 60_000;
    let head = format!("POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    for _ in 0..10 {
        let answer = site.ask([head.as_bytes(), &vec![b'x'; length]].concat());
        assert_eq!((answer.status, answer.location()), (308, "https://a/form"));
    }
}

#[test]
fn one_request_has_one_answer() {
    let site = Site::new();
    let one = get("/one", "a");
    let two = get("/smuggled", "b");
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked";
    for (request, location) in [
        (format!("{one}{two}"), "https://a/one"),
        (format!("{chunked}\r\n\r\n0\r\n\r\n{two}"), "https://a/"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{two}"), "https://a/"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n{two}"), "https://a/"),
    ] {
        let answer = site.ask(request);
        assert_eq!(answer.location(), location, "{answer:?}");
        assert!(!answer.body.contains("HTTP/1.1") && !answer.body.contains("smuggled"));
    }
}

#[test]
fn cookies_are_many_and_an_empty_line_may_come_before() {
    let site = Site::new();
    let cookies = format!("Cookie: {}\r\n", "name=value; ".repeat(1000));
    for request in [
        format!("GET /a HTTP/1.1\r\nHost: a\r\n{cookies}\r\n"),
        format!("GET /a HTTP/1.1\r\nHost: a\r\n{}\r\n", cookies.repeat(2)),
        format!("\r\n{}", get("/a", "a")),
    ] {
        let answer = site.ask(request);
        assert_eq!((answer.status, answer.location()), (301, "https://a/a"));
    }
}

#[test]
fn what_is_too_large() {
    const LIMIT: usize = 32 << 10;
    let site = Site::new();
    let padded = |length: usize| {
        let begin = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{begin}{}\r\n\r\n", "x".repeat(length - begin.len() - 4))
    };
    assert_eq!(site.ask(padded(LIMIT)).status, 301);
    site.refuses(padded(LIMIT + 1), 431);
    // Nobody waits for its end.
    site.refuses(&padded(LIMIT + 1)[..LIMIT], 431);
    site.refuses(padded(40_000), 431);
    site.refuses(format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "a: b\r\n".repeat(8000)), 431);
    site.refuses(get(&format!("/{}", "x".repeat(LIMIT)), "a"), 414);
}

#[test]
fn what_is_no_request() {
    let site = Site::new();
    for request in [
        "\r\n\r\n",
        "hello\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "GET /\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\\evil HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        site.refuses(request, 400);
    }
    site.refuses("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505);
    site.refuses("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    // A ClientHello: somebody has mistaken the port.
    site.refuses(crate::harness::hello::captured("openssl-tls13"), 400);
    site.refuses(b"\x80\x2e\x01\x00\x02", 400);
}

#[test]
fn what_names_no_host_or_more_than_one() {
    let site = Site::new();
    for lines in [
        "",
        "X: y\r\n",
        "Host:\r\n",
        "Host: \r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: smuggled\r\n",
        "Host: a, smuggled\r\n",
        "Host: a smuggled\r\n",
        "Host: a/smuggled\r\n",
        "Host: a@smuggled\r\n",
        "Host: a#smuggled\r\n",
        "Host: a?smuggled\r\n",
        "Host: a\\smuggled\r\n",
        "Host: a:smuggled\r\n",
        "Host: a:99999\r\n",
        "Host: a:+80\r\n",
        "Host: a:80:80\r\n",
        "Host: -\"><script>smuggled\r\n",
        "Host: a%0d%0asmuggled\r\n",
        "Host: b\u{fc}cher.example\r\n",
        "Host: 192.0.2.300\r\n",
        "Host: 0x7f.1\r\n",
        "Host: [::1\r\n",
        "Host: [::1%25lo]\r\n",
        "Host: [v1.a]\r\n",
        "Host: ::1\r\n",
        "Host: a..b\r\n",
    ] {
        site.refuses(format!("GET / HTTP/1.1\r\n{lines}\r\n"), 400);
    }
    // The host of the target does not stand in for it (RFC 9112, section 3.2).
    site.refuses("GET http://a/ HTTP/1.1\r\n\r\n", 400);
    // HTTP/1.0 may go without, but there is nowhere to send it.
    site.refuses("GET / HTTP/1.0\r\n\r\n", 400);
    assert_eq!(site.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n").location(), "https://a/");
}

#[test]
fn what_servers_read_in_different_ways() {
    let site = Site::new();
    for lines in [
        // Lines that are folded (RFC 9112, section 5.2).
        "Host: a\r\n smuggled: x\r\n",
        "X: y\r\n\tHost: smuggled\r\nHost: a\r\n",
        " Host: smuggled\r\nHost: a\r\n",
        // Lines that end in one of the two, or in something else.
        "Host: a\nX: smuggled\r\n",
        "X: y\nHost: smuggled\r\nHost: a\r\n",
        "Host: a\rX: smuggled\r\n",
        "Host: a\r\r\n",
        "Host: a\x0bX: smuggled\r\n",
        // Bytes that end a string elsewhere, or are none of a header.
        "Host: a\0smuggled\r\n",
        "X: \0\r\nHost: a\r\n",
        "X\0: y\r\nHost: a\r\n",
        "X: \x7f\r\nHost: a\r\n",
        // Names that some trim, and lines that are none.
        "Host : smuggled\r\nHost: a\r\n",
        "Host\t: a\r\n",
        "Host\r\n",
        ": smuggled\r\nHost: a\r\n",
        "smuggled\r\nHost: a\r\n",
        "\u{ff28}ost: smuggled\r\nHost: a\r\n",
    ] {
        site.refuses(format!("GET / HTTP/1.1\r\n{lines}\r\n"), 400);
    }
    for request in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a#smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        site.refuses(request, 400);
    }
}

#[test]
fn slow_ones_are_told_so() {
    let site = Site::with(r#"client_timeout = "500ms""#);
    for beginning in ["", "G", "GET / HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r"] {
        let answer = site.ask(beginning);
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        let record = site.gateway.record_of(answer.client);
        assert_eq!(record["reason"], "client_timeout", "{record}");
        assert!(record["duration_ms"].as_f64().unwrap() >= 500.0, "{record}");
    }
    let labels = [("listener", "web"), ("reason", "client_timeout")];
    assert_eq!(site.gateway.metric("lockgate_connections_closed_total", &labels), 4.0);
}

#[test]
fn a_byte_now_and_then_is_given_no_more_time() {
    let site = Site::with(r#"client_timeout = "1s""#);
    let mut client = connect(site.address).unwrap();
    client.set_nodelay(true).unwrap();
    let name = client.local_addr().unwrap();
    // Two minutes' worth of them.
    for byte in format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(6000)).bytes() {
        if client.write_all(&[byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    ending(&mut client);
    let record = site.gateway.record_of(name);
    assert_eq!(record["reason"], "client_timeout", "{record}");
    assert!(record["duration_ms"].as_f64().unwrap() < PATIENCE.as_secs_f64() * 1e3, "{record}");
}

#[test]
fn clients_that_leave_before_they_have_asked() {
    let site = Site::new();
    for beginning in ["", "G", "GET / HTTP/1.1\r\nHost: a\r\n\r"] {
        let mut client = connect(site.address).unwrap();
        client.write_all(beginning.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty(), "an answer to {beginning:?}");
        let record = site.gateway.record_of(client.local_addr().unwrap());
        assert_eq!(record["reason"], "client_reset", "{record}");

        let mut client = connect(site.address).unwrap();
        client.write_all(beginning.as_bytes()).unwrap();
        let name = client.local_addr().unwrap();
        reset(client);
        assert_eq!(site.gateway.record_of(name)["reason"], "client_reset");
    }
    assert_eq!(site.ask(get("/", "a")).status, 301);
    let mut client = connect(site.address).unwrap();
    client.write_all(get("/", "a").as_bytes()).unwrap();
    assert_eq!(ending(&mut client), Ending::Fin);
}
