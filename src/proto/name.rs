//! Names of hosts, in the one form in which they can be compared.

use std::fmt;

/// Longest name (RFC 1035 section 2.3.4: 255 octets with the length of each label and the root).
pub const LONGEST: usize = 253;

/// Longest label (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// A DNS name in lower case, without a dot at its end.
///
/// Letters, digits, `-`, `_` and single dots between labels: safe in a header, a log and a label
/// of a metric. Internationalised names are in their ASCII form (RFC 5890, A-labels).
#[derive(Clone, Copy)]
pub struct HostName {
    bytes: [u8; LONGEST],
    length: u8,
}

/// Why a text is not the name of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    /// At this byte begins a character that no name has.
    #[error("a character is not allowed in one")]
    Character(usize),
    /// More than [`LONGEST`] characters, with the dot at the end.
    #[error("it is longer than 253 characters")]
    TooLong,
    /// Nothing at all, or nothing before, between or after two dots.
    #[error("a label is empty")]
    EmptyLabel,
    /// A label of more than 63 characters.
    #[error("a label is longer than 63 characters")]
    LongLabel,
    /// A hyphen at the end of a label.
    #[error("a label begins or ends with '-'")]
    Hyphen,
    /// The last label is a number.
    #[error("it ends in a number, as only an IPv4 address does")]
    Numeric,
}

impl HostName {
    /// Reads a name; `None` if it is not one. The rules are those of [`HostName::read`].
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::read(text).ok()
    }

    /// Reads a name. There is no other rule for names: configuration, SNI and `Host` are read here,
    /// and rustls, which reads SNI once more where TLS is terminated, accepts the same.
    ///
    /// One dot at the end is left out, as nginx does it: `example.com.` is the same host. Labels
    /// may hold `_`, which RFC 1123 section 2.1 does not allow and real hosts have (those of
    /// containers, SRV records), but neither begin nor end with `-`. A name whose last label is a
    /// number is not a name but an attempt at an IPv4 address (RFC 1123 section 2.1: the highest
    /// label is alphabetic).
    pub fn read(text: &[u8]) -> Result<Self, NotAName> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if text.len() > LONGEST {
            return Err(NotAName::TooLong);
        }
        if let Some(at) = text.iter().position(|byte| !allowed(byte)) {
            return Err(NotAName::Character(at));
        }
        let text = text.strip_suffix(b".").unwrap_or(text);
        let mut numeric = false;
        for label in text.split(|&byte| byte == b'.') {
            match label {
                [] => return Err(NotAName::EmptyLabel),
                _ if label.len() > LONGEST_LABEL => return Err(NotAName::LongLabel),
                [b'-', ..] | [.., b'-'] => return Err(NotAName::Hyphen),
                _ => numeric = label.iter().all(u8::is_ascii_digit),
            }
        }
        if numeric {
            return Err(NotAName::Numeric);
        }
        let mut name = Self { bytes: [0; LONGEST], length: 0 };
        for (to, from) in name.bytes.iter_mut().zip(text) {
            *to = from.to_ascii_lowercase();
        }
        // At most `LONGEST`, which is less than 256.
        name.length = text.len() as u8;
        Ok(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        // It is ASCII, and so it is UTF-8.
        str::from_utf8(bytes).unwrap_or_default()
    }
}

impl PartialEq for HostName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for HostName {}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<String> {
        HostName::parse(text.as_bytes()).map(|name| name.to_string())
    }

    #[test]
    fn names_have_one_form() {
        for (text, name) in [
            ("example.com", "example.com"),
            ("EXAMPLE.Com", "example.com"),
            ("example.com.", "example.com"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dmarc.a_b.example", "_dmarc.a_b.example"),
            ("r3---sn.example", "r3---sn.example"),
            ("my_db", "my_db"),
            ("_", "_"),
            ("a_._b", "a_._b"),
            ("1.2.3.a", "1.2.3.a"),
            ("0x7f.1a", "0x7f.1a"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(name), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{}", &label[..61]);
        assert_eq!(parsed(&long), Some(long.clone()));
        assert_eq!(parsed(&format!("{long}.")), None, "254 characters");
        assert_eq!(parsed(&format!("{}.", &long[..252])), Some(long[..252].to_owned()));
        assert_eq!(parsed(&format!("{long}a")), None, "254 characters");
        assert_eq!(parsed(&format!("{label}a.example")), None, "a label of 64");
        assert_eq!(parsed(&format!("example.{label}a")), None, "a label of 64");
        assert_eq!(parsed(&"a.".repeat(40_000)), None);
        for text in [
            "",
            ".",
            "..",
            "a..",
            ".a",
            "a..b",
            "-a.example",
            "a-.example",
            "example.-a",
            "example.a-",
            "-",
            "a b",
            "a\0b",
            "a\r\nb",
            "ä.example",
            "*.example",
            "a/b",
            "a:1",
            "[::1]",
            "::1",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "a.1",
            "a.1.",
            "a@b",
            "a%62",
            "a\\b",
            "\"a\"",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }
}
