//! The smooth weighted sequence, laid out once: what round robin walks along and what random
//! choice draws from.
//!
//! The order is that of nginx's smooth weighted round robin: at every step each backend gains its
//! weight, the richest is chosen and pays the sum. Weights 5/1/1 give `a a b a c a a`, and after
//! one turn of the wheel every backend has had exactly its weight. The wheel is made from the
//! configured weights when a pool is published. A backend that is down is skipped, not removed:
//! what remains is still each in its proportion, and a flapping backend costs no recalculation.

use std::collections::{BTreeMap, VecDeque};

/// Longest wheel. Weights whose sum stays above this, once divided by their greatest common
/// divisor, are scaled down to it; the error of a share is then below 1/131072.
pub const LONGEST: u64 = 1 << 17;

/// How far [`Wheel::near`] looks. Beyond, it is cheaper to ask each backend for its next place.
const STEPS: u64 = 64;

/// A sequence of slots in which each occurs as often as its weight says.
#[derive(Debug)]
pub struct Wheel {
    turn: Box<[u16]>,
    /// Where each slot occurs: `places[starts[slot]..starts[slot + 1]]`, ascending.
    places: Box<[u32]>,
    starts: Box<[u32]>,
}

impl Wheel {
    /// Lays out slots `0..weights.len()`, at most 65536; a slot of weight 0 does not occur.
    pub fn new(weights: &[u32]) -> Self {
        let turn = smooth(&reduced(weights));
        let mut starts = vec![0u32; weights.len() + 1];
        for &slot in &turn {
            starts[usize::from(slot) + 1] += 1;
        }
        for slot in 0..weights.len() {
            starts[slot + 1] += starts[slot];
        }
        let mut next = starts.clone();
        let mut places = vec![0u32; turn.len()];
        for (place, &slot) in (0u32..).zip(&turn) {
            let next = &mut next[usize::from(slot)];
            places[*next as usize] = place;
            *next += 1;
        }
        Self { turn: turn.into(), places: places.into(), starts: starts.into() }
    }

    /// Entries in one turn; 0 if no slot has a weight.
    #[inline]
    pub fn len(&self) -> u64 {
        self.turn.len() as u64
    }

    /// Whether no slot has a weight.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.turn.is_empty()
    }

    /// The slot at `position`, which may run on over many turns. The wheel must not be empty.
    #[inline]
    pub fn at(&self, position: u64) -> usize {
        usize::from(self.turn[(position % self.len()) as usize])
    }

    /// The first of a few positions from `from` on whose slot `accept` takes.
    ///
    /// `accept(slot, position)` may be asked more than once about the same slot.
    #[inline]
    pub fn near(
        &self,
        from: u64,
        mut accept: impl FnMut(usize, u64) -> bool,
    ) -> Option<(u64, usize)> {
        if self.is_empty() {
            return None;
        }
        let mut place = (from % self.len()) as usize;
        for step in 0..STEPS.min(self.len()) {
            let slot = usize::from(self.turn[place]);
            if accept(slot, from + step) {
                return Some((from + step, slot));
            }
            place += 1;
            if place == self.turn.len() {
                place = 0;
            }
        }
        None
    }

    /// The first position from `from` on, within one turn, where `slot` is; none if it has no
    /// weight.
    #[inline]
    pub fn next_of(&self, slot: usize, from: u64) -> Option<u64> {
        let places = &self.places[self.starts[slot] as usize..self.starts[slot + 1] as usize];
        let &first = places.first()?;
        let here = (from % self.len()) as u32;
        let later = places.partition_point(|&place| place < here);
        let distance = match places.get(later) {
            Some(&place) => u64::from(place - here),
            None => self.len() - u64::from(here - first),
        };
        Some(from + distance)
    }
}

/// The weights divided by their greatest common divisor and, where their sum is still above
/// [`LONGEST`], scaled down to it; none that was above 0 becomes 0.
fn reduced(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    let weights: Vec<u64> = weights.iter().map(|&w| u64::from(w / divisor)).collect();
    let sum: u64 = weights.iter().sum();
    if sum <= LONGEST {
        return weights;
    }
    weights
        .into_iter()
        .map(|w| if w == 0 { 0 } else { ((w * LONGEST + sum / 2) / sum).max(1) })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One turn of smooth weighted round robin.
///
/// Slots of the same weight take turns among themselves, so only the first of each weight can be
/// the richest: a step costs the number of different weights, not of slots.
fn smooth(weights: &[u64]) -> Vec<u16> {
    let sum: i64 = weights.iter().sum::<u64>() as i64;
    // By weight: the slots in the order of their next turn, and how often each was chosen.
    let mut classes: BTreeMap<i64, VecDeque<(u16, i64)>> = BTreeMap::new();
    for (slot, &weight) in (0u16..=u16::MAX).zip(weights) {
        if weight > 0 {
            classes.entry(weight as i64).or_default().push_back((slot, 0));
        }
    }
    let mut classes: Vec<_> = classes.into_iter().collect();
    (1..=sum)
        .map(|step| {
            let richest = classes
                .iter_mut()
                .max_by_key(|(weight, queue)| {
                    let (slot, chosen) = queue[0];
                    (step * *weight - sum * chosen, std::cmp::Reverse(slot))
                })
                .map(|(_, queue)| queue);
            match richest {
                Some(queue) => {
                    let (slot, chosen) = queue[0];
                    queue.rotate_left(1);
                    if let Some(last) = queue.back_mut() {
                        last.1 = chosen + 1;
                    }
                    slot
                }
                None => unreachable!("a sum above 0 has a weight above 0"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// nginx's algorithm as published, one step at a time.
    fn nginx(weights: &[u32]) -> Vec<u16> {
        let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
        let mut current = vec![0i64; weights.len()];
        (0..sum)
            .map(|_| {
                let mut best = 0;
                for (slot, &weight) in weights.iter().enumerate() {
                    current[slot] += i64::from(weight);
                    if current[slot] > current[best] {
                        best = slot;
                    }
                }
                current[best] -= sum;
                best as u16
            })
            .collect()
    }

    #[test]
    fn the_order_is_smooth() {
        let order = |weights: &[u32]| -> String {
            Wheel::new(weights).turn.iter().map(|&s| char::from(b'a' + s as u8)).collect()
        };
        assert_eq!(order(&[5, 1, 1]), "aabacaa");
        assert_eq!(order(&[500, 100, 100]), "aabacaa");
        assert_eq!(order(&[1, 1, 1]), "abc");
        assert_eq!(order(&[0, 3, 0]), "b");
        assert_eq!(order(&[0, 0]), "");
        assert_eq!(order(&[]), "");
    }

    #[test]
    fn sums_beyond_the_longest_are_scaled() {
        let wheel = Wheel::new(&[65535, 65534, 65533, 1]);
        assert!(wheel.len() <= LONGEST + 4);
        assert!(wheel.turn.contains(&3), "the smallest weight is kept");
    }

    #[test]
    fn a_refused_slot_is_skipped_and_the_rest_keep_their_shares() {
        let wheel = Wheel::new(&[5, 1, 1]);
        let mut counts = [0; 3];
        let mut from = 0;
        for _ in 0..600 {
            let (position, slot) = wheel.near(from, |slot, _| slot != 1).unwrap();
            counts[slot] += 1;
            from = position + 1;
        }
        assert_eq!(counts, [500, 0, 100]);
    }

    #[test]
    fn a_rare_slot_is_found_far_away() {
        let wheel = Wheel::new(&[60000, 1]);
        assert_eq!(wheel.near(0, |slot, _| slot == 1), None);
        let position = wheel.next_of(1, 0).unwrap();
        assert_eq!(wheel.at(position), 1);
        assert_eq!(wheel.next_of(1, position), Some(position));
        assert_eq!(wheel.next_of(1, position + 1), Some(position + wheel.len()));
    }

    proptest! {
        #[test]
        fn it_is_nginx_s(weights in prop::collection::vec(0u32..12, 1..12)) {
            let divisor = weights.iter().fold(0, |a, &b| gcd(a, b)).max(1);
            let reduced: Vec<u32> = weights.iter().map(|w| w / divisor).collect();
            prop_assert_eq!(&*Wheel::new(&weights).turn, &*nginx(&reduced));
        }

        #[test]
        fn both_ways_to_the_next_agree(
            weights in prop::collection::vec(0u32..40, 1..12),
            from in 0u64..1_000,
        ) {
            let wheel = Wheel::new(&weights);
            for slot in 0..weights.len() {
                let mut turn = from..from + wheel.len();
                let slow = turn.find(|&position| wheel.at(position) == slot);
                prop_assert_eq!(wheel.next_of(slot, from), slow);
                let close = slow.filter(|&position| position - from < STEPS);
                let near = wheel.near(from, |other, _| other == slot);
                prop_assert_eq!(near, close.map(|position| (position, slot)));
            }
        }
    }
}
