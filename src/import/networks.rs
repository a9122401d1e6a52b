//! Sets of addresses: what is left of lists of rules when their order is gone.
//!
//! The first rule that matches decides, in HAProxy and nginx; lockgate has one list of who may and
//! one of who may not. Both say the same once each is a set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ranges of addresses, ends included; in order, apart, and never adjacent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    fn of(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 || first - before.1 == 1 => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn complement(&self, most: u128) -> Self {
        let mut ranges = Vec::new();
        let mut next = Some(0);
        for &(first, last) in &self.0 {
            if let Some(next) = next
                && next < first
            {
                ranges.push((next, first - 1));
            }
            next = (last < most).then(|| last + 1);
        }
        if let Some(next) = next {
            ranges.push((next, most));
        }
        Self(ranges)
    }
}

/// A set of addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Networks {
    v4: Ranges,
    v6: Ranges,
}

const MOST_V4: u128 = u32::MAX as u128;
const MOST_V6: u128 = u128::MAX;

impl Networks {
    /// Every address.
    pub(super) fn all() -> Self {
        Self::default().complement()
    }

    /// Reads a network, or an address. Bits beyond the prefix do not matter.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = ip.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        match ip {
            IpAddr::V4(v4) => {
                let length = match prefix {
                    None => 32,
                    // A mask, which HAProxy allows.
                    Some(mask) if mask.contains('.') => {
                        let mask = mask.parse::<Ipv4Addr>().ok()?.to_bits();
                        let length = mask.leading_ones();
                        if mask.checked_shl(length).unwrap_or(0) != 0 {
                            return None;
                        }
                        length
                    }
                    Some(digits) => digits.parse().ok().filter(|&length| length <= 32)?,
                };
                let beyond = MOST_V4 >> length;
                let first = u128::from(v4.to_bits()) & !beyond;
                Some(Self { v4: Ranges(vec![(first, first | beyond)]), ..Self::default() })
            }
            IpAddr::V6(v6) => {
                let length: u32 = match prefix {
                    None => 128,
                    Some(digits) => digits.parse().ok().filter(|&length| length <= 128)?,
                };
                let beyond = MOST_V6.checked_shr(length).unwrap_or(0);
                let first = v6.to_bits() & !beyond;
                Some(Self { v6: Ranges(vec![(first, first | beyond)]), ..Self::default() })
            }
        }
    }

    /// What is in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        let join = |a: &Ranges, b: &Ranges| Ranges::of([&a.0[..], &b.0[..]].concat());
        Self { v4: join(&self.v4, &other.v4), v6: join(&self.v6, &other.v6) }
    }

    /// What is in neither of the complements.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.complement().union(&other.complement()).complement()
    }

    /// What is not in it.
    pub(super) fn complement(&self) -> Self {
        Self { v4: self.v4.complement(MOST_V4), v6: self.v6.complement(MOST_V6) }
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }

    /// Whether everything is in it.
    pub(super) fn is_all(&self) -> bool {
        self.complement().is_empty()
    }

    /// The fewest networks that are the same.
    pub(super) fn to_list(&self) -> Vec<String> {
        let mut list = Vec::new();
        for &(first, last) in &self.v4.0 {
            networks(first, last, 32, &mut |bits, prefix| {
                let ip = Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX));
                list.push(if prefix == 32 { ip.to_string() } else { format!("{ip}/{prefix}") });
            });
        }
        for &(first, last) in &self.v6.0 {
            networks(first, last, 128, &mut |bits, prefix| {
                let ip = Ipv6Addr::from_bits(bits);
                list.push(if prefix == 128 { ip.to_string() } else { format!("{ip}/{prefix}") });
            });
        }
        list
    }
}

/// The networks that `first` to `last` is made of.
fn networks(first: u128, last: u128, width: u32, each: &mut dyn FnMut(u128, u32)) {
    let mut next = first;
    loop {
        // The largest network that begins here and does not go beyond the end.
        let mut bits = next.trailing_zeros().min(width);
        while bits > 0 {
            let size_less_1 = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
            if size_less_1 <= last - next {
                break;
            }
            bits -= 1;
        }
        each(next, width - bits);
        let size_less_1 = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
        match next.checked_add(size_less_1) {
            Some(end) if end < last => next = end + 1,
            _ => return,
        }
    }
}

/// Rules of which the first that matches decides.
#[derive(Clone, Debug)]
pub(super) struct Access {
    undecided: Networks,
    refused: Networks,
    /// Who is let in by name, refused by an earlier rule or not.
    named: Networks,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            undecided: Networks::all(),
            refused: Networks::default(),
            named: Networks::default(),
        }
    }
}

impl Access {
    /// Adds a rule.
    pub(super) fn rule(&mut self, of: &Networks, is_let_in: bool) {
        if is_let_in {
            self.named = self.named.union(of);
        } else {
            self.refused = self.refused.union(&self.undecided.intersection(of));
        }
        self.undecided = self.undecided.intersection(&of.complement());
    }

    /// Adds rules that are asked as well.
    pub(super) fn also(&mut self, other: &Self) {
        self.refused = self.refused.union(&other.refused);
        self.named = self.named.union(&other.named);
    }

    /// Whether it refuses nobody.
    pub(super) fn is_open(&self) -> bool {
        self.refused.is_empty()
    }

    /// Who may come and who may not, `allow` and `deny`: the shortest way to write it. Whoever is
    /// in both may not.
    pub(super) fn lists(&self) -> (Vec<String>, Vec<String>) {
        if self.refused.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let welcome = self.refused.complement();
        let mut ways = vec![(Vec::new(), self.refused.to_list())];
        if !welcome.is_empty() {
            ways.push((welcome.to_list(), Vec::new()));
        }
        // As it was written: those that are named, but for some.
        if !self.named.is_empty() && welcome.intersection(&self.named.complement()).is_empty() {
            let but = self.named.intersection(&self.refused);
            ways.push((self.named.to_list(), but.to_list()));
        }
        let shortest = ways.into_iter().min_by_key(|(allow, deny)| allow.len() + deny.len());
        shortest.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[&str]) -> Networks {
        list.iter().fold(Networks::default(), |all, text| {
            all.union(&Networks::parse(text).expect("a network"))
        })
    }

    #[test]
    fn a_set_is_written_with_the_fewest_networks() {
        for (list, shown) in [
            (&["10.0.0.0/9", "10.128.0.0/9"][..], &["10.0.0.0/8"][..]),
            (&["10.1.2.3/8", "10.4.4.4"], &["10.0.0.0/8"]),
            (&["0.0.0.0/0"], &["0.0.0.0/0"]),
            (&["::/0", "1.2.3.4"], &["1.2.3.4", "::/0"]),
            (&["192.168.0.0/255.255.0.0"], &["192.168.0.0/16"]),
            (&["2001:db8::1"], &["2001:db8::1"]),
        ] {
            assert_eq!(set(list).to_list(), shown);
        }
        for text in ["", "10.0.0/8", "10.0.0.0/33", "::/129", "host", "1.2.3.4/255.0.255.0"] {
            assert_eq!(Networks::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_complement_of_a_complement_is_the_set() {
        for list in [&["10.0.0.0/8"][..], &["0.0.0.0/0"], &["::/0"], &[], &["::1", "1.2.3.4"]] {
            let set = set(list);
            assert_eq!(set.complement().complement(), set);
            assert!(set.union(&set.complement()).is_all());
            assert!(set.intersection(&set.complement()).is_empty());
        }
        let rest = set(&["0.0.0.0/1", "::/0"]).complement();
        assert_eq!(rest.to_list(), ["128.0.0.0/1"]);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let own = |list: &[&str]| -> Vec<String> { list.iter().map(|s| (*s).to_owned()).collect() };
        let mut access = Access::default();
        access.rule(&set(&["10.1.0.0/16"]), false);
        access.rule(&set(&["10.0.0.0/8"]), true);
        access.rule(&Networks::all(), false);
        assert_eq!(access.lists(), (own(&["10.0.0.0/8"]), own(&["10.1.0.0/16"])));

        let mut access = Access::default();
        access.rule(&set(&["192.0.2.66"]), false);
        assert_eq!(access.lists(), (vec![], vec!["192.0.2.66".to_owned()]));

        let mut nobody = Access::default();
        nobody.rule(&Networks::all(), false);
        let everybody = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        assert_eq!(nobody.lists(), (vec![], everybody));
    }
}
