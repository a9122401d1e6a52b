//! The first message of a TLS client, for routing by name without decrypting.
//!
//! Everything here travels in the clear. With Encrypted Client Hello (RFC 9849) it is the outer
//! name that is seen, which is the one meant to be. The hello is judged as far as a decision needs
//! it: framing, and the extensions that are read. Whether a server would take it, that server
//! will say.

use std::borrow::Cow;
use std::ops::Range;

use super::name::HostName;

/// Most bytes in which the hello has to be complete, headers of records included. A hello with a
/// post-quantum key share takes about 1,800; the protocol itself would allow 16 MiB.
pub const LIMIT: usize = 64 * 1024;

/// Type of the records of a handshake (RFC 8446 section 5.1).
pub(super) const HANDSHAKE: u8 = 22;

/// Bytes before the content of a record (RFC 8446 section 5.1).
const RECORD_HEADER: usize = 5;

/// Longest content of a record in the clear (RFC 8446 section 5.1).
const LONGEST_RECORD: usize = 1 << 14;

/// Type of the message (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;

/// Bytes before the body of a message (RFC 8446 section 4).
const MESSAGE_HEADER: usize = 4;

/// What has arrived so far.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "looked at once, and never kept")]
pub enum Parsed<'a> {
    /// The beginning of a hello.
    Incomplete,
    /// A hello; bytes may follow it.
    Hello(ClientHello<'a>),
    /// No hello, whatever follows.
    Invalid(Reason),
}

/// Why it is no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Another protocol.
    NotTls,
    /// A hello of SSL 2.0, or of an old client in that form (RFC 6176 forbids it).
    Sslv2,
    /// Longer than [`LIMIT`].
    TooLarge,
    /// TLS, and against its rules.
    Malformed,
}

impl Reason {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::NotTls, Self::Sslv2, Self::TooLarge, Self::Malformed];

    /// The name in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::Sslv2 => "sslv2",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }
}

/// Reads one hello from a buffer that grows.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// The next byte to look at.
    at: usize,
    /// Bytes of the present record from there on.
    left: usize,
    /// Bytes of the message so far.
    body: usize,
    /// The first of them.
    header: [u8; MESSAGE_HEADER],
    /// More than one record has begun.
    scattered: bool,
}

impl Reader {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges what has arrived: all of it, from the first byte of the connection on.
    ///
    /// What was there the last time must still be there. It may be called again after a verdict,
    /// which then stays the same.
    pub fn advance<'a>(&mut self, buffered: &'a [u8]) -> Parsed<'a> {
        let within = buffered.get(..LIMIT).unwrap_or(buffered);
        match self.read(within) {
            Ok(Some(message)) => match ClientHello::parse(message) {
                Some(hello) => Parsed::Hello(hello),
                None => Parsed::Invalid(Reason::Malformed),
            },
            Ok(None) if within.len() == LIMIT => Parsed::Invalid(Reason::TooLarge),
            Ok(None) => Parsed::Incomplete,
            Err(reason) => Parsed::Invalid(reason),
        }
    }

    /// The body of the message, once all of it is there.
    fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, Reason> {
        loop {
            let missing = self.missing();
            if missing == 0 {
                return Ok(self.message(bytes));
            }
            // The same at every byte of a record, so it does not matter where the bytes were cut.
            if self.at + missing > LIMIT {
                return Err(Reason::TooLarge);
            }
            if self.left == 0 {
                let Some(length) = self.record(bytes)? else {
                    return Ok(None);
                };
                self.scattered = self.at > 0;
                self.at += RECORD_HEADER;
                self.left = length;
            } else if self.body < MESSAGE_HEADER {
                let Some(&byte) = bytes.get(self.at) else {
                    return Ok(None);
                };
                if self.body == 0 && byte != CLIENT_HELLO {
                    return Err(Reason::Malformed);
                }
                self.header[self.body] = byte;
                self.consume(1);
            } else {
                let there = bytes.len().saturating_sub(self.at).min(self.left).min(missing);
                if there == 0 {
                    return Ok(None);
                }
                self.consume(there);
            }
        }
    }

    /// Length of the content of the record that begins here, once its header is there.
    fn record(&self, bytes: &[u8]) -> Result<Option<usize>, Reason> {
        let header = bytes.get(self.at..).unwrap_or_default();
        let first = self.at == 0;
        match header {
            // What its version says beyond the first byte means nothing.
            [] | [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
            _ if first => return another_protocol(header),
            // No other record comes between two parts of a message.
            _ => return Err(Reason::Malformed),
        }
        let &[_, _, _, high, low, ..] = header else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Nor an empty one: RFC 8446 section 5.1, RFC 5246 section 6.2.1.
        let is_allowed = (1..=LONGEST_RECORD).contains(&length);
        if is_allowed { Ok(Some(length)) } else { Err(Reason::Malformed) }
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
        self.left -= count;
        self.body += count;
    }

    /// Bytes of the message that are still to come, as far as is known.
    fn missing(&self) -> usize {
        if self.body < MESSAGE_HEADER {
            return MESSAGE_HEADER - self.body;
        }
        let [_, a, b, c] = self.header;
        (MESSAGE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize).saturating_sub(self.body)
    }

    /// The body of the message, which ends at `at`.
    fn message<'a>(&self, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let mut rest = bytes.get(..self.at)?;
        if !self.scattered {
            return Some(Cow::Borrowed(rest.get(RECORD_HEADER + MESSAGE_HEADER..)?));
        }
        let mut message = Vec::with_capacity(self.body);
        while let &[_, _, _, high, low, ref records @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([high, low])).min(records.len());
            let (content, others) = records.split_at(length);
            message.extend_from_slice(content);
            rest = others;
        }
        message.drain(..MESSAGE_HEADER.min(message.len()));
        Some(Cow::Owned(message))
    }
}

/// Judges a hello that is there at once.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    Reader::new().advance(bytes)
}

/// Judges the first bytes of a connection that are not those of a handshake of TLS.
///
/// RFC 5246 appendix E.2: a length with its highest bit set, the type of the message, and the
/// version, which is 2 in the old protocol and 3.x where the old form leads to a newer one.
fn another_protocol<T>(bytes: &[u8]) -> Result<Option<T>, Reason> {
    match bytes {
        [0x80..=0xff, _, CLIENT_HELLO, 0, 2, ..] | [0x80..=0xff, _, CLIENT_HELLO, 3, ..] => {
            Err(Reason::Sslv2)
        }
        [0x80..=0xff]
        | [0x80..=0xff, _]
        | [0x80..=0xff, _, CLIENT_HELLO]
        | [0x80..=0xff, _, CLIENT_HELLO, 0] => Ok(None),
        _ => Err(Reason::NotTls),
    }
}

/// What a client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    message: Cow<'a, [u8]>,
    name: Name,
    legacy_version: u16,
    /// Where in the message the names of protocols are, each after its length.
    protocols: Range<usize>,
    /// Where in the message the versions are.
    versions: Range<usize>,
}

/// What there is to route by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a name is the ordinary case")]
enum Name {
    Absent,
    Unusable,
    Host(HostName),
}

impl<'a> ClientHello<'a> {
    /// The name of the host that the client wants (RFC 6066 section 3).
    ///
    /// `None` if it sent none, and if what it sent is not the name of a host: an address, which
    /// RFC 6066 does not allow and clients send, or a word with characters that no name has. Such
    /// a hello is not refused, but goes where one without a name goes, as with nginx and HAProxy;
    /// [`Self::is_misnamed`] tells them apart.
    pub fn server_name(&self) -> Option<&str> {
        match &self.name {
            Name::Host(name) => Some(name.as_str()),
            Name::Absent | Name::Unusable => None,
        }
    }

    /// Whether it sent something that is not the name of a host.
    pub fn is_misnamed(&self) -> bool {
        self.name == Name::Unusable
    }

    /// The protocols that the client speaks, the favourite first (RFC 7301 section 3.1): any bytes,
    /// never empty, and perhaps one that means nothing (RFC 8701, GREASE).
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut list = Cursor { bytes: &self.message, range: self.protocols.clone() };
        std::iter::from_fn(move || list.vector8().map(|name| name.bytes()))
    }

    /// The versions that the client speaks, as numbers of the protocol: 0x0304 is TLS 1.3. Those
    /// of the extension, GREASE included, if there is one (RFC 8446 section 4.2.1); otherwise the
    /// only one that the message names, which stands for the older ones too.
    pub fn versions(&self) -> impl Iterator<Item = u16> {
        let mut list = Cursor { bytes: &self.message, range: self.versions.clone() };
        let only = list.range.is_empty().then_some(self.legacy_version);
        only.into_iter().chain(std::iter::from_fn(move || list.u16()))
    }

    /// The version that the message itself names; 0x0303 in TLS 1.3 (RFC 8446 section 4.1.2).
    pub fn legacy_version(&self) -> u16 {
        self.legacy_version
    }

    /// Reads the body of the message (RFC 8446 section 4.1.2); `None` if it is malformed.
    fn parse(message: Cow<'a, [u8]>) -> Option<Self> {
        let mut rest = Cursor { range: 0..message.len(), bytes: &message };
        let legacy_version = rest.u16()?;
        let _random = rest.take(32)?;
        let _session = rest.vector8().filter(|session| session.len() <= 32)?;
        let _suites =
            rest.vector16().filter(|suites| suites.len() >= 2 && suites.len() % 2 == 0)?;
        let _compressions = rest.vector8().filter(|methods| !methods.is_empty())?;
        let extensions = Extensions::parse(rest)?;
        // RFC 8446 section 4.2.1: what the message says of itself counts only without the list.
        if extensions.versions.is_empty() && legacy_version < 0x0300 {
            return None;
        }
        Some(Self {
            name: extensions.name,
            legacy_version,
            protocols: extensions.protocols,
            versions: extensions.versions,
            message,
        })
    }
}

/// Those extensions that are read.
struct Extensions {
    name: Name,
    protocols: Range<usize>,
    versions: Range<usize>,
}

impl Extensions {
    const SERVER_NAME: u16 = 0;
    const PROTOCOLS: u16 = 16;
    const VERSIONS: u16 = 43;

    /// Reads what follows the compression methods: nothing at all, before TLS 1.3.
    fn parse(mut rest: Cursor<'_>) -> Option<Self> {
        let mut found = Self { name: Name::Absent, protocols: 0..0, versions: 0..0 };
        if rest.is_empty() {
            return Some(found);
        }
        let mut list = rest.vector16().filter(|_| rest.is_empty())?;
        // One bit for each type: a hello has room for thousands of extensions.
        let mut seen = [0u64; 1 << 10];
        while !list.is_empty() {
            let (kind, content) = (list.u16()?, list.vector16()?);
            let (word, bit) = (&mut seen[usize::from(kind >> 6)], 1 << (kind & 63));
            // RFC 8446 section 4.2: not more than one of each type.
            if *word & bit != 0 {
                return None;
            }
            *word |= bit;
            match kind {
                Self::SERVER_NAME => found.name = server_name(content)?,
                Self::PROTOCOLS => found.protocols = protocols(content)?,
                Self::VERSIONS => found.versions = versions(content)?,
                _ => {}
            }
        }
        Some(found)
    }
}

/// RFC 6066 section 3: a list that never had but one kind of name, and of that kind just one.
fn server_name(mut content: Cursor<'_>) -> Option<Name> {
    const HOST_NAME: u8 = 0;
    let mut list = content.vector16().filter(|_| content.is_empty())?;
    list.u8().filter(|&kind| kind == HOST_NAME)?;
    let name = list.vector16().filter(|name| !name.is_empty() && list.is_empty())?;
    Some(HostName::parse(name.bytes()).map_or(Name::Unusable, Name::Host))
}

/// RFC 7301 section 3.1: a list with a name at least, none of them empty.
fn protocols(mut content: Cursor<'_>) -> Option<Range<usize>> {
    let mut list = content.vector16().filter(|list| content.is_empty() && !list.is_empty())?;
    let range = list.range.clone();
    while !list.is_empty() {
        list.vector8().filter(|name| !name.is_empty())?;
    }
    Some(range)
}

/// RFC 8446 section 4.2.1: a list with a version at least.
fn versions(mut content: Cursor<'_>) -> Option<Range<usize>> {
    let list = content.vector8().filter(|_| content.is_empty())?;
    (!list.is_empty() && list.len() % 2 == 0).then_some(list.range)
}

/// A part of a message that is still to be read.
struct Cursor<'a> {
    /// The whole message.
    bytes: &'a [u8],
    range: Range<usize>,
}

impl<'a> Cursor<'a> {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// All that is left.
    fn bytes(&self) -> &'a [u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }

    fn take(&mut self, count: usize) -> Option<Self> {
        let middle = self.range.start + count;
        if count > self.len() {
            return None;
        }
        let taken = Self { bytes: self.bytes, range: self.range.start..middle };
        self.range.start = middle;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.bytes().first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.bytes().try_into().ok().map(u16::from_be_bytes)
    }

    /// What follows its own length in one byte (RFC 8446 section 3.4).
    fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// What follows its own length in two bytes.
    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into())
    }
}
