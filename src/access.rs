//! Who may come in: sets of networks, and the files that they are read from.
//!
//! Pure. A set is sorted ranges that do not touch, so a look-up is a binary search, whatever the
//! networks were and however they overlap.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::from_utf8;

use arc_swap::ArcSwap;

use crate::route::Network;

/// The longest file of networks that is read, in bytes: some million of them.
pub const MAX_FILE_SIZE: u64 = 32 << 20;

/// Mistakes of a file that are told one by one.
const TOLD: usize = 10;

/// Addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Ranges by their first and last numbers, ascending, with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<N> {
    first: Box<[N]>,
    last: Box<[N]>,
}

impl<N: Copy + Ord> Ranges<N> {
    /// `follows` = the second number comes right after the first.
    fn new(mut ranges: Vec<(N, N)>, follows: impl Fn(N, N) -> bool) -> Self {
        ranges.sort_unstable();
        let (mut first, mut last) = (Vec::new(), Vec::<N>::new());
        for (from, to) in ranges {
            match last.last_mut() {
                Some(end) if from <= *end || follows(*end, from) => *end = to.max(*end),
                _ => {
                    first.push(from);
                    last.push(to);
                }
            }
        }
        Self { first: first.into(), last: last.into() }
    }

    #[inline]
    fn contains(&self, number: N) -> bool {
        let after = self.first.partition_point(|&first| first <= number);
        after > 0 && number <= self.last[after - 1]
    }
}

impl Set {
    /// All addresses of these networks.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Network { address, prefix } in networks {
            let beyond = |width: u8| u32::from(width - prefix.min(width));
            match address {
                IpAddr::V4(address) => {
                    let rest = !u32::MAX.checked_shl(beyond(32)).unwrap_or(0);
                    v4.push((address.to_bits() & !rest, address.to_bits() | rest));
                }
                IpAddr::V6(address) => {
                    let rest = !u128::MAX.checked_shl(beyond(128)).unwrap_or(0);
                    v6.push((address.to_bits() & !rest, address.to_bits() | rest));
                }
            }
        }
        Self {
            v4: Ranges::new(v4, |end, next| end.checked_add(1) == Some(next)),
            v6: Ranges::new(v6, |end, next| end.checked_add(1) == Some(next)),
        }
    }

    /// Whether an address is one of them. IPv4 in IPv6 notation counts as IPv4.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.v4.contains(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.contains(v6.to_bits()),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.first.is_empty() && self.v6.first.is_empty()
    }
}

/// Who may come in at a listener: none of those who are denied, and of the others those who are
/// allowed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Only they; `None` = everybody.
    pub allow: Option<Set>,
    /// Not they.
    pub deny: Set,
}

impl Lists {
    /// Whether a client may come in.
    #[inline]
    pub fn admit(&self, client: IpAddr) -> bool {
        !self.deny.contains(client) && self.allow.as_ref().is_none_or(|set| set.contains(client))
    }
}

/// The lists of a listener, which change when their files do.
#[derive(Debug, Default)]
pub struct Access(ArcSwap<Lists>);

impl Access {
    /// With these lists.
    pub fn new(lists: Lists) -> Self {
        Self(ArcSwap::from_pointee(lists))
    }

    /// From now on these hold.
    pub fn replace(&self, lists: Lists) {
        self.0.store(lists.into());
    }

    /// Whether a client may come in.
    #[inline]
    pub fn admit(&self, client: IpAddr) -> bool {
        self.0.load().admit(client)
    }
}

/// What a file of networks says.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The networks.
    pub networks: Vec<Network>,
    /// The first line whose address has bits beyond its prefix, and how many such lines there are:
    /// they are taken for the network that the address is in.
    pub beyond: Option<(usize, usize)>,
}

/// What is wrong with a file of networks.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistakes {
    /// Lines, counted from 1, and what is wrong with each: the first ten.
    pub told: Vec<(usize, String)>,
    /// How many there are.
    pub count: usize,
}

impl Mistakes {
    /// All that are told, as lines of `file`.
    pub fn of(&self, file: impl fmt::Display) -> String {
        let told = self.told.iter().map(|(line, message)| format!("{file}:{line}: {message}"));
        let mut told: Vec<String> = told.collect();
        match self.count - self.told.len() {
            0 => {}
            1 => told.push("and one line more".to_owned()),
            more => told.push(format!("and {more} lines more")),
        }
        told.join("; ")
    }
}

/// Reads a file of networks: an address or a network on each line; what follows `#`, and empty
/// lines, count for nothing.
///
/// # Errors
///
/// All lines that are anything else.
pub fn parse(text: &[u8]) -> Result<Parsed, Mistakes> {
    let mut parsed = Parsed::default();
    let mut mistakes = Mistakes { told: Vec::new(), count: 0 };
    // Editors on Windows begin a file with a byte order mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let written = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if written.is_empty() {
            continue;
        }
        match parse_network(written) {
            Ok((network, is_exact)) => {
                parsed.networks.push(network);
                if !is_exact {
                    let (first, count) = parsed.beyond.unwrap_or((index + 1, 0));
                    parsed.beyond = Some((first, count + 1));
                }
            }
            Err(message) => {
                mistakes.count += 1;
                if mistakes.told.len() < TOLD {
                    mistakes.told.push((index + 1, message));
                }
            }
        }
    }
    if mistakes.count == 0 { Ok(parsed) } else { Err(mistakes) }
}

/// A network, and whether it is all that was written.
fn parse_network(text: &[u8]) -> Result<(Network, bool), String> {
    let shown = || {
        let text: String = String::from_utf8_lossy(text).chars().take(60).collect();
        text.replace(char::is_control, "\u{fffd}")
    };
    let is_none = || format!("'{}' is not an IP address or network", shown());
    let text = from_utf8(text).map_err(|_| is_none())?;
    let (address, digits) = match text.split_once('/') {
        Some((address, digits)) => (address, Some(digits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| is_none())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match digits {
        None => width,
        Some(digits) => {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.parse().ok().filter(|number| is_number && *number <= width);
            number.ok_or_else(|| format!("'{}' has no prefix of 0 to {width} bits", shown()))?
        }
    };
    // Clients of IPv4 are met as such, however their address was written.
    let (address, prefix) = match (address.to_canonical(), prefix) {
        (IpAddr::V4(v4), 96..) if address.is_ipv6() => (IpAddr::V4(v4), prefix - 96),
        _ => (address, prefix),
    };
    let beyond = |width: u8| u32::from(width - prefix);
    let first = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(beyond(32)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(beyond(128)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    };
    Ok((Network { address: first, prefix }, first == address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn set(text: &str) -> Set {
        Set::new(parse(text.as_bytes()).unwrap().networks)
    }

    #[test]
    fn files_are_read() {
        let text = "\u{feff}# a list\r\n10.0.0.0/8\r\n\r\n  192.0.2.7 # one\n\t2001:db8::/32\n\
                    ::ffff:198.51.100.0/120\n::1";
        let set = set(text);
        for inside in ["10.255.0.1", "192.0.2.7", "2001:db8:ffff::", "198.51.100.255", "::1"] {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in ["11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "198.51.101.0", "::2"] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
        assert!(set.contains(ip("::ffff:10.1.2.3")));
        assert!(parse(b"").unwrap().networks.is_empty());
    }

    #[test]
    fn bits_beyond_the_prefix_are_told_and_meaningless() {
        let parsed = parse(b"10.0.0.0/8\n10.1.2.3/16\n2001:db8::1/32\n").unwrap();
        assert_eq!(parsed.beyond, Some((2, 2)));
        assert!(Set::new(parsed.networks).contains(ip("10.1.255.255")));
    }

    #[test]
    fn every_mistake_has_its_line() {
        let mistakes =
            parse(b"10.0.0.0/8\nten\n10.0.0.0/33\n\xff\n::/129\n1.2.3\n/8\n").unwrap_err();
        let lines: Vec<_> = mistakes.told.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7]);
        let told = mistakes.of("x.txt");
        assert!(told.starts_with("x.txt:2: 'ten' is not an IP address or network; x.txt:3: "));
        let many = parse("x\n".repeat(12).as_bytes()).unwrap_err();
        assert_eq!((many.told.len(), many.count), (10, 12));
        assert!(many.of("x").ends_with("; and 2 lines more"));
    }

    #[test]
    fn who_is_denied_is_not_allowed() {
        let lists = |allow: &str, deny: &str| Lists {
            allow: (!allow.is_empty()).then(|| set(allow)),
            deny: set(deny),
        };
        assert!(lists("", "").admit(ip("10.0.0.1")));
        assert!(!lists("", "10.0.0.0/8").admit(ip("10.0.0.1")));
        assert!(lists("10.0.0.0/8", "").admit(ip("10.0.0.1")));
        assert!(!lists("10.0.0.0/8", "").admit(ip("11.0.0.1")));
        assert!(!lists("10.0.0.0/8", "10.0.0.1").admit(ip("10.0.0.1")));
        assert!(!lists("10.0.0.0/8", "10.0.0.1").admit(ip("::ffff:10.0.0.1")));
        assert!(!lists("10.0.0.0/8", "").admit(ip("::1")));
    }

    #[test]
    fn networks_that_meet_are_one_range() {
        let set =
            set("10.0.0.0/9\n10.128.0.0/9\n10.1.0.0/16\n255.255.255.255\n0.0.0.0/32\n::/0\nff::/8");
        assert_eq!((set.v4.first.len(), set.v6.first.len()), (3, 1));
    }

    fn network() -> impl Strategy<Value = Network> {
        // Close together, so that they overlap and meet.
        let v4 = (0u32..64, 24u8..=32).prop_map(|(bits, prefix)| Network {
            address: Ipv4Addr::from_bits(0xffff_ffc0 | bits).into(),
            prefix,
        });
        let v6 = (any::<u8>(), 0u8..=128).prop_map(|(bits, prefix)| Network {
            address: Ipv6Addr::from_bits(u128::from(bits)).into(),
            prefix,
        });
        prop_oneof![4 => v4, 1 => v6]
    }

    proptest! {
        #[test]
        fn a_set_is_what_its_networks_are(
            networks in proptest::collection::vec(network(), 0..24),
        ) {
            let set = Set::new(networks.iter().copied());
            for bits in 0..=255 {
                let v4 = Ipv4Addr::from_bits(0xffff_ff00 | bits).into();
                let v6 = Ipv6Addr::from_bits(u128::from(bits)).into();
                for address in [v4, v6] {
                    let expected = networks.iter().any(|network| network.contains(address));
                    prop_assert_eq!(set.contains(address), expected, "{}", address);
                }
            }
        }

        #[test]
        fn any_file_is_answered(text in "([0-9a-f:./# \\PC]{0,12}\n){0,4}") {
            if let Err(mistakes) = parse(text.as_bytes()) {
                prop_assert!(mistakes.count > 0 && !mistakes.told.is_empty());
            }
        }
    }
}
