//! The head of an HTTP/1 request, for listeners that answer it themselves: with a redirect to
//! https, or with the response to a challenge of ACME.
//!
//! Stricter than a server for everybody has to be. Whoever asks to be sent elsewhere is a browser,
//! a tool or a certificate authority; what none of them writes is refused, so that nothing in a
//! request can reach a header of the answer but a host and a path that are known to be such.
//!
//! Bodies are not read: the connection has to be closed after the answer.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::name::HostName;

/// Most bytes in which the head has to be complete, the empty line at its end included: what nginx
/// takes (`large_client_header_buffers`), for cookies are many.
pub const LIMIT: usize = 32 * 1024;

/// Bytes of empty lines before a request that are ignored: one is (RFC 9112 section 2.2), for some
/// clients end the body before it with one.
const LEADING: usize = 2;

/// RFC 8555 section 8.3.
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// Longest token of a challenge. RFC 8555 section 8.3 has them at 22 characters or more, and
/// authorities use 43.
const LONGEST_TOKEN: usize = 128;

/// What has arrived so far.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "looked at once, and never kept")]
pub enum Parsed<'a> {
    /// The beginning of a head.
    Incomplete,
    /// A head; a body may follow it.
    Head(Head<'a>),
    /// No head that is answered, whatever follows.
    Refused(Refusal),
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Against the rules of HTTP/1.1, or another protocol.
    BadRequest,
    /// The first line alone is longer than [`LIMIT`].
    UriTooLong,
    /// Longer than [`LIMIT`].
    HeadTooLarge,
    /// A version of HTTP that is not 1.x.
    Version,
}

impl Refusal {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 4] =
        [Self::BadRequest, Self::UriTooLong, Self::HeadTooLarge, Self::Version];

    /// The name in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UriTooLong => "uri_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::Version => "http_version",
        }
    }

    /// The status to answer with (RFC 9110 section 15, RFC 6585 section 5).
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::UriTooLong => 414,
            Self::HeadTooLarge => 431,
            Self::Version => 505,
        }
    }
}

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method: a token, whether it means anything or not.
    pub method: &'a str,
    /// The path: begins with `/`, unless it is empty (RFC 9112 section 3.2.2).
    pub path: &'a str,
    /// What follows the path, from its `?` on; empty if nothing does.
    pub query: &'a str,
    /// The host that is asked for, by the target or by `Host`; `None` only in HTTP/1.0.
    pub host: Option<Host>,
    /// The minor version: 0, or 1 for all later ones (RFC 9110 section 2.5).
    pub minor: u8,
}

/// A host, without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a name is the ordinary case")]
pub enum Host {
    /// A name.
    Name(HostName),
    /// An address.
    V4(Ipv4Addr),
    /// An address, which stands in brackets.
    V6(Ipv6Addr),
}

impl Host {
    /// Reads a host and, if there is one, its port (RFC 3986 section 3.2.2, without the form that
    /// is there for the future, and with names of DNS only).
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(text) => {
                let (address, port) = text.split_once(']')?;
                (Self::V6(address.parse().ok()?), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let address = host.parse().ok().map(Self::V4);
                (address.or_else(|| HostName::parse(host.as_bytes()).map(Self::Name))?, port)
            }
        };
        // A colon with nothing after it is allowed; `+1`, which `parse` would take, is not.
        let digits = port.strip_prefix(':').unwrap_or(port);
        let is_port = digits.is_empty()
            || digits.len() < port.len()
                && digits.bytes().all(|byte| byte.is_ascii_digit())
                && digits.parse::<u16>().is_ok();
        is_port.then_some(host)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// Reads one head from a buffer that grows.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// The next byte to look at.
    at: usize,
    /// Where its line begins.
    line: usize,
    request: Option<Request>,
    /// `Host`, once it was there.
    host: Option<Host>,
}

/// The first line.
#[derive(Clone, Debug)]
struct Request {
    method: Range<usize>,
    path: Range<usize>,
    query: Range<usize>,
    /// The host of a target in absolute form.
    host: Option<Host>,
    minor: u8,
}

impl Reader {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges what has arrived: all of it, from the first byte of the request on.
    ///
    /// What was there the last time must still be there. It may be called again after a verdict,
    /// which then stays the same.
    pub fn advance<'a>(&mut self, buffered: &'a [u8]) -> Parsed<'a> {
        let within = buffered.get(..LIMIT).unwrap_or(buffered);
        match self.read(within) {
            Ok(Some(head)) => Parsed::Head(head),
            Ok(None) if within.len() < LIMIT => Parsed::Incomplete,
            Ok(None) if self.request.is_none() => Parsed::Refused(Refusal::UriTooLong),
            Ok(None) => Parsed::Refused(Refusal::HeadTooLarge),
            Err(refusal) => Parsed::Refused(refusal),
        }
    }

    fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Head<'a>>, Refusal> {
        while let Some(&byte) = bytes.get(self.at) {
            let line = bytes.get(self.line..self.at).unwrap_or_default();
            // Nearly all of a head: what may stand anywhere but where a line begins or ends.
            if line.last().is_some_and(|&last| last != b'\r') {
                let rest = bytes.get(self.at..).unwrap_or_default();
                let end = rest.iter().position(|byte| !matches!(byte, b' '..=b'~'));
                let ordinary = end.unwrap_or(rest.len());
                if ordinary > 0 {
                    self.at += ordinary;
                    continue;
                }
            }
            match (byte, line) {
                // RFC 9112 section 2.2: lines end in both, and neither is anywhere else.
                (b'\n', [line @ .., b'\r']) if !line.is_empty() => {
                    self.end_line(line)?;
                    self.line = self.at + 1;
                }
                (b'\n', [b'\r']) if self.request.is_none() => self.line = self.at + 1,
                (b'\n', [b'\r']) => return self.finish(bytes),
                (b'\n', _) | (_, [.., b'\r']) => return Err(Refusal::BadRequest),
                // The end of the head, or an empty line before it.
                (b'\r', []) if self.request.is_some() || self.line < LEADING => {}
                // A line that goes on with the one before (RFC 9112 section 5.2).
                (b'\r' | b' ' | b'\t', []) => return Err(Refusal::BadRequest),
                (b'\r' | b'\t' | b' '..=b'~' | 0x80.., _) if self.request.is_some() => {}
                // The first line begins with a method: what does not is another protocol.
                (_, []) if is_token(byte) => {}
                (b'\r', [_, ..]) => {}
                _ => return Err(Refusal::BadRequest),
            }
            self.at += 1;
        }
        Ok(None)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if self.request.is_none() {
            let text = str::from_utf8(line).map_err(|_| Refusal::BadRequest)?;
            self.request = Some(Request::parse(text, self.line)?);
            return Ok(());
        }
        // RFC 9112 section 5.1: no space between name and colon.
        let colon = line.iter().position(|&byte| byte == b':').ok_or(Refusal::BadRequest)?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(Refusal::BadRequest);
        }
        if name.eq_ignore_ascii_case(b"host") {
            // RFC 9112 section 3.2: more than one, or one that is not valid, is 400.
            let value = str::from_utf8(value).map_err(|_| Refusal::BadRequest)?;
            let value = value.strip_prefix(':').unwrap_or(value).trim_matches([' ', '\t']);
            let host = Host::parse(value).ok_or(Refusal::BadRequest)?;
            if self.host.replace(host).is_some() {
                return Err(Refusal::BadRequest);
            }
        }
        Ok(())
    }

    /// The head, all of whose lines are there.
    fn finish<'a>(&self, bytes: &'a [u8]) -> Result<Option<Head<'a>>, Refusal> {
        let Some(request) = &self.request else {
            return Err(Refusal::BadRequest);
        };
        // RFC 9112 section 3.2: `Host` has to be there even where the target names the host, which
        // is then the one that counts (section 3.2.2).
        if self.host.is_none() && request.minor > 0 {
            return Err(Refusal::BadRequest);
        }
        let text = |range: &Range<usize>| {
            let bytes = bytes.get(range.clone()).unwrap_or_default();
            str::from_utf8(bytes).map_err(|_| Refusal::BadRequest)
        };
        Ok(Some(Head {
            method: text(&request.method)?,
            path: text(&request.path)?,
            query: text(&request.query)?,
            host: request.host.or(self.host),
            minor: request.minor,
        }))
    }
}

impl Request {
    /// Reads the first line (RFC 9112 section 3), which begins at `at` in the buffer.
    fn parse(line: &str, at: usize) -> Result<Self, Refusal> {
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Refusal::BadRequest);
        };
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(Refusal::BadRequest);
        }
        let minor = match version.as_bytes() {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'] => minor - b'0',
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(Refusal::Version);
            }
            _ => return Err(Refusal::BadRequest),
        };
        if !target.bytes().all(is_of_target) {
            return Err(Refusal::BadRequest);
        }
        let (host, local) = if target.starts_with('/') {
            (None, target)
        } else {
            let (host, local) = absolute(target).ok_or(Refusal::BadRequest)?;
            (Some(host), local)
        };
        let end = at + method.len() + 1 + target.len();
        let start = end - local.len();
        let path = start + local.find('?').unwrap_or(local.len());
        Ok(Self {
            method: at..at + method.len(),
            path: start..path,
            query: path..end,
            host,
            minor: minor.min(1),
        })
    }
}

/// Divides a target in absolute form (RFC 9112 section 3.2.2) into its host and what follows that.
/// Whoever names a user is refused (RFC 9110 section 4.2.4), since a host has no `@` in it.
fn absolute(target: &str) -> Option<(Host, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Some((Host::parse(authority)?, local))
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether it may stand in a target, and so in a `Location`: more than RFC 3986 allows, for
/// browsers send braces and bars; nothing that ends a quotation or a tag, and no `\`, which some
/// take for `/`. A fragment is not sent (RFC 9110 section 7.1).
fn is_of_target(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"#<>\\".contains(&byte)
}

/// Where the same is to be had over TLS; `None` if the client does not say on which host.
pub fn location(head: &Head<'_>, https_port: u16) -> Option<String> {
    let host = head.host?;
    let slash = if head.path.is_empty() { "/" } else { "" };
    let mut url = String::with_capacity(300 + head.path.len() + head.query.len());
    // Writing to a string cannot fail.
    let _ = write!(url, "https://{host}");
    if https_port != 443 {
        let _ = write!(url, ":{https_port}");
    }
    url.extend([slash, head.path, head.query]);
    Some(url)
}

/// The same request, for a server that is to answer this one and no other: its method, path, query
/// and host, and that the connection is closed after it. No other field of it is repeated, so that it
/// has no body, and nothing that two servers could understand differently.
pub fn alone(head: &Head<'_>) -> Vec<u8> {
    let Head { method, path, query, host, minor } = head;
    let host = host.map(|host| format!("Host: {host}\r\n")).unwrap_or_default();
    format!("{method} {path}{query} HTTP/1.{minor}\r\n{host}Connection: close\r\n\r\n").into_bytes()
}

/// Whether it asks for something where challenges are (RFC 8555 section 8.3).
pub fn is_challenge(head: &Head<'_>) -> bool {
    head.path.starts_with(CHALLENGES)
}

/// The token of the challenge that is asked for (RFC 8555 section 8.3): 1 to 128 characters of
/// base64url, and so no way to another directory.
pub fn acme_token<'a>(head: &Head<'a>) -> Option<&'a str> {
    let token = head.path.strip_prefix(CHALLENGES)?;
    let is_token = (1..=LONGEST_TOKEN).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let is_get = matches!(head.method, "GET" | "HEAD") && head.query.is_empty();
    (is_token && is_get).then_some(token)
}

/// The status of a redirect for good (RFC 9110 section 15.4): 308 keeps the method, which 301 only
/// does for those that have no body.
pub fn status_for(method: &str) -> u16 {
    if matches!(method, "GET" | "HEAD") { 301 } else { 308 }
}
