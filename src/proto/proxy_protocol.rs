//! The PROXY protocol, versions 1 and 2: whom a connection is from that comes through a proxy, in a
//! header before its first byte.
//!
//! The specification is HAProxy's, doc/proxy-protocol.txt; its sections are named below. A header is
//! believed only of those who are trusted: that is the caller's to know, as is the buffer. A header
//! says where it ends; what comes after it is the connection's own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::from_utf8;

/// The longest header of version 1, its end included (section 2.1).
pub const LIMIT_V1: usize = 107;

/// The longest header of version 2 that is taken. The specification lets it have 64 KiB; with all
/// its parts and a client's certificate it has some 4 KiB, and HAProxy takes as much as this.
pub const LIMIT_V2: usize = 16 << 10;

/// How a header of version 2 begins (section 2.2).
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, the command, the family, and the length of the rest.
const FIXED: usize = 16;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary, and extensible.
    V2,
}

/// What can be said of bytes that should begin with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// It goes on.
    Incomplete,
    /// A header, of so many bytes.
    Header(Header, usize),
    /// It is none.
    Invalid(Reason),
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its version.
    pub version: Version,
    /// Between whom the connection is; `None` = the sender does not say, or it is its own: then the
    /// addresses of the socket hold good.
    pub ends: Option<Ends>,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Who has opened it.
    pub client: SocketAddr,
    /// Whom it was opened to.
    pub server: SocketAddr,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// They begin with something else.
    Missing,
    /// Against the rules.
    Malformed,
    /// Longer than [`LIMIT_V1`] or [`LIMIT_V2`].
    TooLarge,
    /// The checksum is not that of the header.
    Checksum,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no PROXY header",
            Self::Malformed => "a malformed PROXY header",
            Self::TooLarge => "a PROXY header that is too large",
            Self::Checksum => "a PROXY header with a wrong checksum",
        })
    }
}

/// Reads what a connection begins with. Ask again with all of it when more has come: there is
/// nothing to remember, for a header is short, and its length is among its first bytes.
pub fn parse(bytes: &[u8]) -> Parsed {
    let parsed = match bytes.first() {
        None => Ok(Parsed::Incomplete),
        Some(b'P') => parse_line(bytes),
        Some(_) => parse_binary(bytes),
    };
    parsed.unwrap_or_else(Parsed::Invalid)
}

/// Fails unless the bytes, as far as they go, are those of `expected`. Whether all of it is there.
fn begins(bytes: &[u8], expected: &[u8]) -> Result<bool, Reason> {
    let common = bytes.len().min(expected.len());
    if bytes[..common] != expected[..common] {
        return Err(Reason::Missing);
    }
    Ok(common == expected.len())
}

/// Version 1 (section 2.1): `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`.
fn parse_line(bytes: &[u8]) -> Result<Parsed, Reason> {
    if !begins(bytes, b"PROXY ")? {
        return Ok(Parsed::Incomplete);
    }
    let within = &bytes[..bytes.len().min(LIMIT_V1)];
    // The family is judged before the end is there: who says something else waits for nothing.
    let (family, rest) = match within.get(6) {
        None => return Ok(Parsed::Incomplete),
        Some(b'T') => {
            if !begins(&within[6..], b"TCP").map_err(|_| Reason::Malformed)? {
                return Ok(Parsed::Incomplete);
            }
            let family = match within.get(9) {
                None => return Ok(Parsed::Incomplete),
                Some(b'4' | b'6') => Family::Tcp,
                Some(_) => return Err(Reason::Malformed),
            };
            match within.get(10) {
                None => return Ok(Parsed::Incomplete),
                Some(b' ') => {}
                Some(_) => return Err(Reason::Malformed),
            }
            (family, 11)
        }
        Some(_) => {
            if !begins(&within[6..], b"UNKNOWN").map_err(|_| Reason::Malformed)? {
                return Ok(Parsed::Incomplete);
            }
            (Family::Unknown, 13)
        }
    };
    let allowed = |byte: u8| match family {
        Family::Tcp => byte.is_ascii_hexdigit() || byte == b'.' || byte == b':' || byte == b' ',
        // What follows is to be ignored, up to the end of the line.
        Family::Unknown => byte != b'\n',
    };
    let text = &within[rest..];
    if matches!(family, Family::Unknown) && !matches!(text.first(), None | Some(b' ' | b'\r')) {
        return Err(Reason::Malformed);
    }
    let Some(end) = text.iter().position(|&byte| byte == b'\r' || !allowed(byte)) else {
        return if bytes.len() < LIMIT_V1 { Ok(Parsed::Incomplete) } else { Err(Reason::TooLarge) };
    };
    if text[end] != b'\r' {
        return Err(Reason::Malformed);
    }
    match text.get(end + 1) {
        Some(b'\n') => {}
        Some(_) => return Err(Reason::Malformed),
        None if bytes.len() < LIMIT_V1 => return Ok(Parsed::Incomplete),
        None => return Err(Reason::TooLarge),
    }
    let ends = match family {
        Family::Tcp => Some(ends(&text[..end])?),
        Family::Unknown => None,
    };
    Ok(Parsed::Header(Header { version: Version::V1, ends }, rest + end + 2))
}

/// What a line is about.
#[derive(Clone, Copy)]
enum Family {
    /// `TCP4` or `TCP6`. The addresses say themselves which they are: nginx names the family of its
    /// client's, and writes each as it is, so one may be of the other.
    Tcp,
    Unknown,
}

/// Two addresses and two ports, with one space between.
fn ends(text: &[u8]) -> Result<Ends, Reason> {
    let mut words = from_utf8(text).map_err(|_| Reason::Malformed)?.split(' ');
    let mut word = || words.next().ok_or(Reason::Malformed);
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| Reason::Malformed);
    let (client, server) = (address(word()?)?, address(word()?)?);
    let (from, to) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(Reason::Malformed);
    }
    Ok(Ends { client: SocketAddr::new(client, from), server: SocketAddr::new(server, to) })
}

/// A number from 0 to 65535 without leading zeros.
fn port(text: &str) -> Result<u16, Reason> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || (text.starts_with('0') && text.len() > 1) {
        return Err(Reason::Malformed);
    }
    text.parse().map_err(|_| Reason::Malformed)
}

/// Version 2 (section 2.2).
fn parse_binary(bytes: &[u8]) -> Result<Parsed, Reason> {
    if !begins(bytes, SIGNATURE)? {
        return Ok(Parsed::Incomplete);
    }
    let Some(&command) = bytes.get(12) else {
        return Ok(Parsed::Incomplete);
    };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Reason::Malformed),
    };
    let Some(&family) = bytes.get(13) else {
        return Ok(Parsed::Incomplete);
    };
    // A connection over another transport than this one (UDP) is taken, as HAProxy and nginx do, and
    // its addresses are not: they are none of a connection's. So are the paths of unix sockets.
    let (addresses, is_known) = match family {
        0x00 => (0, false),
        0x11 => (12, true),
        0x12 => (12, false),
        0x21 => (36, true),
        0x22 => (36, false),
        0x31 | 0x32 => (216, false),
        // Of the sender's own connection all of this is to be ignored.
        _ if is_local => (0, false),
        _ => return Err(Reason::Malformed),
    };
    let Some(&[high, low]) = bytes.get(14..FIXED) else {
        return Ok(Parsed::Incomplete);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LIMIT_V2 {
        return Err(Reason::TooLarge);
    }
    if !is_local && length < FIXED + addresses {
        return Err(Reason::Malformed);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Parsed::Incomplete);
    };
    let body = &header[FIXED..];
    match checksum(header, (FIXED + addresses).min(length)) {
        Ok(()) => {}
        // Where the addresses are to be ignored, nobody can tell where they end.
        Err(Reason::Malformed) if is_local || family == 0 => {}
        Err(reason) => return Err(reason),
    }
    let ends = match (family, is_known && !is_local) {
        (0x11, true) => Some(binary_ends(body, |b: [u8; 4]| Ipv4Addr::from(b).into())?),
        (_, true) => Some(binary_ends(body, |b: [u8; 16]| Ipv6Addr::from(b).into())?),
        (_, false) => None,
    };
    Ok(Parsed::Header(Header { version: Version::V2, ends }, length))
}

fn binary_ends<const N: usize>(
    bytes: &[u8],
    address: impl Fn([u8; N]) -> IpAddr,
) -> Result<Ends, Reason> {
    let (client, rest) = bytes.split_first_chunk().ok_or(Reason::Malformed)?;
    let (server, rest) = rest.split_first_chunk().ok_or(Reason::Malformed)?;
    let &[a, b, c, d, ..] = rest else {
        return Err(Reason::Malformed);
    };
    Ok(Ends {
        client: SocketAddr::new(address(*client), u16::from_be_bytes([a, b])),
        server: SocketAddr::new(address(*server), u16::from_be_bytes([c, d])),
    })
}

/// Walks the further parts of a header (section 2.2.1), which begin at `from`, and verifies the
/// checksum, if that is one of them.
fn checksum(header: &[u8], from: usize) -> Result<(), Reason> {
    let mut rest = &header[from..];
    let mut verified = false;
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = after.split_at_checked(length).ok_or(Reason::Malformed)?;
        if *kind == CRC32C {
            let told: [u8; 4] = value.try_into().map_err(|_| Reason::Malformed)?;
            // One cannot hold good of a header that has another.
            if std::mem::replace(&mut verified, true) {
                return Err(Reason::Malformed);
            }
            let at = header.len() - after.len();
            let sum = crc32c(&[&header[..at], &[0; 4], &header[at + 4..]]);
            if sum != u32::from_be_bytes(told) {
                return Err(Reason::Checksum);
            }
        }
        rest = next;
    }
    if rest.is_empty() { Ok(()) } else { Err(Reason::Malformed) }
}

// The kinds of further parts that are sent or looked at (section 2.2).
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;

/// The longest common name of a client that is passed on: RFC 5280, appendix A.1, has 64 characters,
/// and what is far beyond that is rather left out than cut.
const LONGEST_CN: usize = 512;

/// What is told of the TLS that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    /// `1.2` or `1.3`; `None` = it does not end here, and only the name is known.
    pub version: Option<&'a str>,
    /// The protocol that was agreed on.
    pub alpn: Option<&'a [u8]>,
    /// The name that the client has asked for.
    pub server_name: Option<&'a str>,
    /// The client's certificate, which was verified.
    pub certificate: Option<Certificate<'a>>,
}

/// What is told of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// Its common name.
    pub common_name: Option<&'a str>,
    /// It was shown on an earlier connection of the session, and not on this one.
    pub resumed: bool,
}

/// The header of a connection between `ends`. What there is to tell of TLS goes into version 2 only.
pub fn header(version: Version, ends: Ends, tls: Option<&Tls<'_>>) -> Vec<u8> {
    let Ends { client, server } = ends;
    let (from, to) = (client.port(), server.port());
    let (client, server) = of_one_family(client.ip(), server.ip());
    if version == Version::V1 {
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        return format!("PROXY {family} {client} {server} {from} {to}\r\n").into_bytes();
    }
    let mut bytes = begin(0x21, if client.is_ipv4() { 0x11 } else { 0x21 });
    for address in [client, server] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    if let Some(tls) = tls {
        tell(&mut bytes, tls);
    }
    seal(bytes)
}

/// The header of a connection that is the sender's own, a check for instance (section 2.2, LOCAL).
pub fn local(version: Version) -> Vec<u8> {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        Version::V2 => seal(begin(0x20, 0x00)),
    }
}

fn begin(command: u8, family: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend(SIGNATURE);
    bytes.extend([command, family, 0, 0]);
    bytes
}

/// IPv4 if both are, else both in the notation of IPv6.
fn of_one_family(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    let v6 = |address| match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    };
    let (one, other) = (one.to_canonical(), other.to_canonical());
    if one.is_ipv4() == other.is_ipv4() { (one, other) } else { (v6(one), v6(other)) }
}

fn tell(bytes: &mut Vec<u8>, tls: &Tls<'_>) {
    if let Some(alpn) = tls.alpn {
        part(bytes, ALPN, alpn);
    }
    if let Some(name) = tls.server_name {
        part(bytes, AUTHORITY, name.as_bytes());
    }
    let Some(version) = tls.version else {
        return;
    };
    // Section 2.2.6: over TLS; a certificate on this connection; one in this session.
    let flags = match tls.certificate {
        None => 0x01,
        Some(Certificate { resumed: true, .. }) => 0x05,
        Some(Certificate { resumed: false, .. }) => 0x07,
    };
    // 0 = a certificate was shown, and verified.
    let verify = u32::from(tls.certificate.is_none());
    let mut ssl = vec![flags];
    ssl.extend(verify.to_be_bytes());
    part(&mut ssl, SSL_VERSION, format!("TLSv{version}").as_bytes());
    let name = tls.certificate.and_then(|certificate| certificate.common_name);
    if let Some(name) = name.filter(|name| name.len() <= LONGEST_CN) {
        part(&mut ssl, SSL_CN, name.as_bytes());
    }
    part(bytes, SSL, &ssl);
}

/// Adds a part. None is longer than a name, a protocol or [`LONGEST_CN`].
fn part(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    bytes.push(kind);
    bytes.extend(length.to_be_bytes());
    bytes.extend(&value[..usize::from(length)]);
}

/// Adds the checksum, and says how long it all is.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    part(&mut bytes, CRC32C, &[0; 4]);
    let length = u16::try_from(bytes.len() - FIXED).unwrap_or(u16::MAX);
    bytes[14..FIXED].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c(&[&bytes]);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// CRC32c (RFC 3720, appendix B.4) of parts that follow one another.
fn crc32c(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(u32::MAX, |sum, &byte| TABLE[(sum as u8 ^ byte) as usize] ^ sum >> 8)
}
