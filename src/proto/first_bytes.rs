//! Which protocol a client speaks, as far as its first bytes tell, for routing without knowing more
//! of it.
//!
//! A kind is settled by what no other protocol begins with: the header of a TLS record with a
//! ClientHello in it, `SSH-`, the signature of a PROXY header. HTTP takes its whole request line,
//! because a method alone says little: RTSP, SIP and Redis begin with words like it.

use std::fmt;

use super::client_hello;
use super::http_head::is_token;

/// Most bytes in which a request line has to be complete, for it to be one of HTTP. Servers rarely
/// take more: nginx 8 KiB, HAProxy 16 KiB.
pub const LIMIT: usize = 16 * 1024;

/// What a client said first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FirstBytes {
    /// The beginning of a TLS handshake: a record with a ClientHello. A hello of SSL 2.0, or in its
    /// form, is not one.
    Tls,
    /// The request line of HTTP/1, or the preface of HTTP/2 (RFC 9113 section 3.4).
    Http,
    /// The identification of SSH (RFC 4253 section 4.2).
    Ssh,
    /// The signature of a PROXY header, version 1 or 2.
    Proxy,
    /// Anything else.
    Other,
    /// Nothing: it waits for the server to speak, or has ended.
    Nothing,
}

impl FirstBytes {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Tls, Self::Http, Self::Ssh, Self::Proxy, Self::Other, Self::Nothing];

    /// The name in configurations and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Proxy => "proxy",
            Self::Other => "other",
            Self::Nothing => "none",
        }
    }

    /// What a client said that has ended, or has been given all the time there is, when a
    /// [`Reader`] could not settle what `bytes` are: they were nothing, or are the beginning of
    /// what did not follow.
    pub fn unsettled(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::Nothing } else { Self::Other }
    }
}

impl fmt::Display for FirstBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the bytes so far relate to what a protocol begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Yes,
    /// So far, but it takes more.
    Perhaps,
    No,
}

/// Reads the first bytes of a connection from a buffer that grows.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    request: RequestLine,
}

impl Reader {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges what has arrived: all of it, from the first byte of the connection on. `None` = it
    /// takes more bytes to tell.
    ///
    /// What was there the last time must still be there.
    pub fn advance(&mut self, buffered: &[u8]) -> Option<FirstBytes> {
        let fits = [
            (FirstBytes::Tls, tls(buffered)),
            (FirstBytes::Ssh, begins(buffered, b"SSH-")),
            (FirstBytes::Proxy, begins(buffered, b"PROXY ")),
            (FirstBytes::Proxy, begins(buffered, super::proxy_protocol::SIGNATURE)),
            (FirstBytes::Http, begins(buffered, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
            (FirstBytes::Http, self.request.advance(buffered)),
        ];
        let settled = fits.iter().find(|(_, fit)| *fit == Fit::Yes).map(|(kind, _)| *kind);
        let is_open = fits.iter().any(|(_, fit)| *fit == Fit::Perhaps);
        settled.or_else(|| (!is_open).then_some(FirstBytes::Other))
    }
}

/// Judges bytes that are there at once.
pub fn classify(bytes: &[u8]) -> Option<FirstBytes> {
    Reader::new().advance(bytes)
}

fn begins(bytes: &[u8], signature: &[u8]) -> Fit {
    if bytes.starts_with(signature) {
        Fit::Yes
    } else if signature.starts_with(bytes) {
        Fit::Perhaps
    } else {
        Fit::No
    }
}

fn tls(bytes: &[u8]) -> Fit {
    /// The header of a record, and the type of the message in it.
    const DECISIVE: usize = 6;
    let decisive = bytes.get(..DECISIVE).unwrap_or(bytes);
    match client_hello::parse(decisive) {
        client_hello::Parsed::Invalid(_) => Fit::No,
        _ if decisive.len() == DECISIVE => Fit::Yes,
        _ => match bytes {
            // The form of SSL 2.0, as far as can be told.
            [first, ..] if *first != client_hello::HANDSHAKE => Fit::No,
            _ => Fit::Perhaps,
        },
    }
}

/// The request line of HTTP/1 (RFC 9112 section 3), read byte by byte.
#[derive(Clone, Debug, Default)]
struct RequestLine {
    /// The next byte to look at.
    at: usize,
    part: Part,
}

/// What is due next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// Empty lines before it, which servers ignore (RFC 9112 section 2.2).
    #[default]
    Leading,
    Method,
    Target,
    /// So many bytes of it have been seen.
    Version(usize),
    Cr,
    Lf,
    Over(bool),
}

/// What follows the target; a digit stands for any.
const VERSION: &[u8; 8] = b"HTTP/1.1";

impl RequestLine {
    fn advance(&mut self, buffered: &[u8]) -> Fit {
        let within = buffered.get(..LIMIT).unwrap_or(buffered);
        while let Some(&byte) = within.get(self.at)
            && !matches!(self.part, Part::Over(_))
        {
            self.part = self.next(byte, within);
            self.at += 1;
        }
        match self.part {
            Part::Over(true) => Fit::Yes,
            Part::Over(false) => Fit::No,
            _ if within.len() == LIMIT => Fit::No,
            _ => Fit::Perhaps,
        }
    }

    fn next(&self, byte: u8, bytes: &[u8]) -> Part {
        let follows_space = self.at.checked_sub(1).and_then(|at| bytes.get(at)) == Some(&b' ');
        match self.part {
            Part::Leading if byte == b'\r' || byte == b'\n' => Part::Leading,
            Part::Leading | Part::Method if is_token(byte) => Part::Method,
            Part::Method if byte == b' ' => Part::Target,
            // Servers take more than one space for one (RFC 9112 section 3).
            Part::Target if byte == b' ' && follows_space => Part::Target,
            Part::Target if byte == b' ' => Part::Version(0),
            Part::Target if byte.is_ascii_graphic() => Part::Target,
            Part::Version(0) if byte == b' ' => Part::Version(0),
            Part::Version(seen) if is_of_version(seen, byte) => match seen + 1 {
                seen if seen == VERSION.len() => Part::Cr,
                seen => Part::Version(seen),
            },
            Part::Cr if byte == b'\r' => Part::Lf,
            Part::Cr | Part::Lf if byte == b'\n' => Part::Over(true),
            _ => Part::Over(false),
        }
    }
}

/// Whether a byte may come after so many of [`VERSION`].
fn is_of_version(seen: usize, byte: u8) -> bool {
    VERSION
        .get(seen)
        .is_some_and(|due| *due == byte || due.is_ascii_digit() && byte.is_ascii_digit())
}
