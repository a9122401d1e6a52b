//! Source hash: Maglev's lookup table over the names of the backends.
//!
//! After Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4. The table depends on names and configured weights only, and the hash on the
//! client's address only, so two gateways with the same configuration send a client to the same
//! backend without a word between them. A backend that is down keeps its place in the table; its
//! clients are hashed again, and come back when it does.

use std::net::IpAddr;

/// Entries of a table: a prime well above 100 times the usual number of backends.
pub const ENTRIES: usize = 65_537;

/// How often a client is hashed again before the table is walked.
const REHASHES: u64 = 16;

/// A filled table; empty if no backend has a weight.
#[derive(Debug)]
pub struct Maglev(Box<[u16]>);

impl Maglev {
    /// Fills a table for slots that have these names and weights; a weight of 0 gets no entry.
    pub fn new<'a>(backends: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut backends: Vec<(u16, &str, u32)> = (0..)
            .zip(backends)
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(slot, (name, weight))| (slot, name, weight))
            .collect();
        // By name, for the order of a file must not matter.
        backends.sort_unstable_by_key(|&(_, name, _)| name);
        let Some(heaviest) = backends.iter().map(|&(_, _, weight)| weight).max() else {
            return Self(Box::default());
        };

        let mut preferences: Vec<Preference> =
            backends.iter().map(|&(_, name, _)| Preference::new(name)).collect();
        let mut due = vec![0u64; backends.len()];
        let mut table: Vec<Option<u16>> = vec![None; ENTRIES];
        let mut free = ENTRIES;
        // In round n a backend has a turn if n * weight has reached what it has used; the
        // heaviest has one in every round.
        for round in 1u64.. {
            for (index, &(slot, _, weight)) in backends.iter().enumerate() {
                if round * u64::from(weight) < due[index] {
                    continue;
                }
                due[index] += u64::from(heaviest);
                let entry = loop {
                    let entry = preferences[index].advance();
                    if table[entry].is_none() {
                        break entry;
                    }
                };
                table[entry] = Some(slot);
                free -= 1;
                if free == 0 {
                    return Self(table.into_iter().flatten().collect());
                }
            }
        }
        unreachable!("every round fills an entry")
    }

    /// The first slot for a client of this hash that `accept` takes, of the few that the client
    /// is hashed to. `accept(slot, hash)` gets the hash of the attempt, of which the upper 32 bits
    /// are free to use.
    #[inline]
    pub fn find(&self, client: u64, mut accept: impl FnMut(usize, u64) -> bool) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        (0..REHASHES).find_map(|attempt| {
            let hash = mix(client.wrapping_add(attempt.wrapping_mul(GOLDEN)));
            let slot = usize::from(self.0[entry(hash)]);
            accept(slot, hash).then_some(slot)
        })
    }

    /// The first slot that `accept` takes, from the client's entry on through the whole table:
    /// for when [`Maglev::find`] has found none. Takes up to a tenth of a millisecond.
    #[inline]
    pub fn walk(&self, client: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let (before, after) = self.0.split_at(entry(mix(client)).min(self.0.len()));
        for entries in [after, before] {
            for &slot in entries {
                if accept(usize::from(slot)) {
                    return Some(usize::from(slot));
                }
            }
        }
        None
    }
}

/// The order in which a backend wants the entries of the table.
struct Preference {
    next: usize,
    skip: usize,
}

impl Preference {
    fn new(name: &str) -> Self {
        let hash = fnv1a(name.as_bytes());
        Self {
            next: entry(mix(hash)),
            skip: (mix(hash ^ GOLDEN) % (ENTRIES as u64 - 1)) as usize + 1,
        }
    }

    fn advance(&mut self) -> usize {
        let entry = self.next;
        self.next = (entry + self.skip) % ENTRIES;
        entry
    }
}

/// The hash of a client's address; an IPv4-mapped address counts as the IPv4 address.
pub fn hash_client(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => mix(u64::from(u32::from(v4))),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            mix(bits as u64 ^ mix((bits >> 64) as u64))
        }
    }
}

/// 2^64 divided by the golden ratio: multiples of it are spread evenly.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64. Part of what two gateways must agree on: never change it.
#[inline]
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn entry(hash: u64) -> usize {
    (hash % ENTRIES as u64) as usize
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("backend-{n}")).collect()
    }

    fn table(names: &[String], weight: impl Fn(usize) -> u32) -> Maglev {
        Maglev::new(names.iter().enumerate().map(|(n, name)| (name.as_str(), weight(n))))
    }

    #[test]
    fn entries_follow_the_weights() {
        let names = names(10);
        let maglev = table(&names, |n| if n == 0 { 0 } else { n as u32 });
        let mut counts = [0u32; 10];
        for &slot in &maglev.0 {
            counts[usize::from(slot)] += 1;
        }
        assert_eq!(counts[0], 0);
        for (n, &count) in counts.iter().enumerate().skip(1) {
            let due = ENTRIES as f64 * n as f64 / 45.0;
            assert!((f64::from(count) / due - 1.0).abs() < 0.02, "{n}: {count} of {due}");
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let names = names(7);
        let reversed: Vec<String> = names.iter().rev().cloned().collect();
        let (one, other) = (table(&names, |_| 1), table(&reversed, |_| 1));
        assert!(
            one.0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| names[usize::from(*a)] == reversed[usize::from(*b)])
        );
    }

    /// Numbers that a gateway of another version must agree on.
    #[test]
    fn the_table_is_pinned() {
        let names = names(3);
        let maglev = table(&names, |_| 1);
        let picks: Vec<_> = (1..=8)
            .map(|n| maglev.find(hash_client(IpAddr::from([10, 0, 0, n])), |_, _| true).unwrap())
            .collect();
        assert_eq!(picks, PINNED);
        let v4 = hash_client("10.0.0.1".parse().unwrap());
        assert_eq!(v4, hash_client("::ffff:10.0.0.1".parse().unwrap()));
        assert_ne!(v4, hash_client("::10.0.0.1".parse().unwrap()));
    }
    const PINNED: [usize; 8] = [2, 1, 0, 1, 0, 0, 0, 0];

    #[test]
    fn only_the_clients_of_a_lost_backend_move() {
        let names = names(5);
        let maglev = table(&names, |_| 1);
        let mut moved_to = [0; 5];
        for client in 0..10_000u64 {
            let before = maglev.find(mix(client), |_, _| true).unwrap();
            let after = maglev.find(mix(client), |slot, _| slot != 2).unwrap();
            if before == 2 {
                moved_to[after] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(moved_to[2], 0);
        assert!(moved_to.iter().enumerate().all(|(n, &m)| n == 2 || m > 400), "{moved_to:?}");
    }

    #[test]
    fn adding_a_backend_moves_little_more_than_its_share() {
        let names = names(21);
        let (before, after) = (table(&names[..20], |_| 1), table(&names, |_| 1));
        let moved = before.0.iter().zip(&after.0).filter(|(a, b)| a != b).count();
        assert!(moved < ENTRIES / 21 * 2, "{moved} of {ENTRIES} entries moved");
    }

    #[test]
    fn the_last_one_standing_is_found() {
        let names = names(1_000);
        let maglev = table(&names, |_| 1);
        for client in 0..100 {
            assert_eq!(maglev.walk(mix(client), |slot| slot == 617), Some(617));
            assert_eq!(maglev.walk(mix(client), |_| false), None);
        }
        let empty = table(&names, |_| 0);
        assert_eq!((empty.find(1, |_, _| true), empty.walk(1, |_| true)), (None, None));
    }
}
