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

impl HostName {
    /// Reads a name; `None` if it is not one.
    ///
    /// One dot at the end is left out, as nginx does it: `example.com.` is the same host. Labels
    /// may hold `_`, and `-` at either end, which RFC 1123 section 2.1 does not allow and real
    /// hosts have. A name whose last label is a number is not a name but an attempt at an IPv4
    /// address (RFC 1123 section 2.1: the highest label is alphabetic).
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        let mut name = Self { bytes: [0; LONGEST], length: u8::try_from(text.len()).ok()? };
        let (mut label, mut numeric) = (0, true);
        for (to, &from) in name.bytes.get_mut(..text.len())?.iter_mut().zip(text) {
            match from {
                b'.' if (1..=LONGEST_LABEL).contains(&label) => (label, numeric) = (0, true),
                b'0'..=b'9' => label += 1,
                b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' => (label, numeric) = (label + 1, false),
                _ => return None,
            }
            *to = from.to_ascii_lowercase();
        }
        ((1..=LONGEST_LABEL).contains(&label) && !numeric).then_some(name)
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
            ("-a-.example", "-a-.example"),
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
        assert_eq!(parsed(&format!("{long}.")), Some(long.clone()));
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
