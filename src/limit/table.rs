//! What the sources of a listener have done: a table of fixed size that all workers share.
//!
//! A source falls into one of [`SETS`] sets, by a hash that nobody outside can foresee, and has one
//! of its [`WAYS`] places for as long as there is something to say of it: connections, or an
//! allowance that has not come back yet. Who is there already is judged by one compare-and-swap, or
//! two where both things are limited. Only a newcomer takes the lock of its set, for a moment, so
//! that it gets one place and not two.
//!
//! # When there is no room
//!
//! A newcomer gets, in this order:
//!
//! 1. a place of which there is nothing to say any more;
//! 2. that of the source which has used up least, and could come in at once, with what that one has
//!    used up: so nobody gains by having it;
//! 3. no place of its own. It shares one with all others of its set that found none, and all of them
//!    together have the allowance of one source.
//!
//! So the guilty (who would be refused now, or who hold connections) are never forgotten, however
//! many others come; nobody gets more than a source may have by hiding in a crowd; and memory stays
//! what it is. What a crowd can do is to make newcomers share: with [`PLACES`] sources that are all
//! guilty at the same time. Who has a place is not touched by it.

use std::hint::spin_loop;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::yield_now;

use super::Limited;
use super::rate::{Nanos, Rate};

/// Sets, a power of two.
pub const SETS: usize = 8_192;

/// Places of a set. With a third of all places taken, one newcomer in a hundred million finds none.
pub const WAYS: usize = 16;

/// Sources that have places of their own.
pub const PLACES: usize = SETS * WAYS;

/// Memory that a table takes.
pub const BYTES: usize = SETS * size_of::<Set>();

/// The most connections that are counted of a source.
pub const MOST: u32 = u32::MAX;

/// Where those are counted that found no place.
const SHARED: usize = WAYS;

/// How often a newcomer looks again because the owner of a place has come back meanwhile.
const TRIES: usize = 4;

/// The table.
#[derive(Debug)]
pub struct Table(Box<[Set]>);

/// The sources that fall together.
///
/// A place changes hands in this order: its tag is taken away, then its two words are compared and
/// swapped, then it gets its new tag. Its owner reads the words, then the tag, and swaps the words
/// last. So whoever swaps first wins, and the other one finds out, for neither word returns to what
/// it was: `held` counts the hands that the place goes through, and `until` only rises.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Set {
    /// Whose each place is; 0 = nobody's.
    tags: [AtomicU64; WAYS],
    /// Until when the allowance is used up, see [`Rate`].
    until: [AtomicU64; WAYS + 1],
    /// Connections, in the lower half; in the upper one how often the place has changed hands.
    held: [AtomicU64; WAYS + 1],
    /// 1 = somebody is looking for a place.
    lock: AtomicU32,
}

/// The place of a connection among those of its source; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    table: Arc<Table>,
    set: u32,
    place: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let set = &self.table.0[self.set as usize];
        set.held[self.place as usize].fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a source may do.
#[derive(Clone, Copy)]
struct Allowance<'a> {
    now: Nanos,
    rate: Option<&'a Rate>,
    most: Option<NonZeroU32>,
}

impl Table {
    /// An empty one, which leases will refer to.
    pub fn new() -> Arc<Self> {
        Arc::new(Self((0..SETS).map(|_| Set::default()).collect()))
    }

    /// A connection comes in of the source whose hash this is, which may have so many at once, and
    /// new ones at this rate. Its lease, if those at once are limited.
    ///
    /// Fails if it is beyond a limit; then it leaves no trace.
    pub fn enter(
        self: &Arc<Self>,
        source: u64,
        now: Nanos,
        rate: Option<&Rate>,
        most: Option<NonZeroU32>,
    ) -> Result<Option<Lease>, Limited> {
        let index = source as usize % SETS;
        let (set, tag) = (&self.0[index], source.max(1));
        let allowance = Allowance { now, rate, most };
        let known = set.find(tag).and_then(|place| set.enter(place, Some(tag), allowance));
        let place = match known {
            Some(entered) => entered?,
            None => set.settle(tag, allowance)?,
        };
        let lease = |_| Lease { table: Arc::clone(self), set: index as u32, place: place as u32 };
        Ok(most.map(lease))
    }

    /// From now on sources are judged by another rate.
    pub fn convert(&self, rate: &Rate, now: Nanos, before: &Rate) {
        for until in self.0.iter().flat_map(|set| &set.until) {
            let convert = |until| (until > now).then(|| rate.convert(until, now, before));
            // An error = there is nothing to convert.
            let _ = until.fetch_update(Ordering::AcqRel, Ordering::Acquire, convert);
        }
    }
}

impl Set {
    #[inline]
    fn find(&self, tag: u64) -> Option<usize> {
        self.tags.iter().position(|own| own.load(Ordering::Acquire) == tag)
    }

    /// Comes in at a place, as long as it is that of `tag`; `None` = it is not any more.
    #[inline]
    fn enter(
        &self,
        place: usize,
        tag: Option<u64>,
        allowance: Allowance<'_>,
    ) -> Option<Result<usize, Limited>> {
        let Allowance { now, rate, most } = allowance;
        let (until, held) = (&self.until[place], &self.held[place]);
        loop {
            let before = (until.load(Ordering::Acquire), held.load(Ordering::Acquire));
            if tag.is_some_and(|tag| self.tags[place].load(Ordering::Acquire) != tag) {
                return None;
            }
            if most.is_some_and(|most| connections(before.1) >= most.get()) {
                return Some(Err(Limited::Connections));
            }
            // Asked before anything is taken: who is refused leaves no trace.
            let after = match rate.map(|rate| rate.admit(before.0, now)) {
                Some(None) => return Some(Err(Limited::Rate)),
                Some(Some(after)) => Some(after),
                None => None,
            };
            if most.is_some() && !swap(held, before.1, before.1 + 1) {
                continue;
            }
            let Some(after) = after else {
                return Some(Ok(place));
            };
            if swap(until, before.0, after) {
                return Some(Ok(place));
            }
            // Somebody else of the same source was quicker.
            if most.is_some() {
                held.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Finds a place for a source that has none, and comes in there.
    #[cold]
    fn settle(&self, tag: u64, allowance: Allowance<'_>) -> Result<usize, Limited> {
        let _lock = Lock::take(&self.lock);
        // Another worker may have found one meanwhile. From here on nobody does.
        if let Some(place) = self.find(tag)
            && let Some(entered) = self.enter(place, Some(tag), allowance)
        {
            return entered;
        }
        for _ in 0..TRIES {
            let Some(place) = self.least(allowance) else { break };
            if self.claim(place, tag, allowance) {
                return Ok(place);
            }
        }
        // It is nobody's, so it does not change hands.
        self.enter(SHARED, None, allowance).unwrap_or(Ok(SHARED))
    }

    /// The place that is to be given up first, if any is.
    fn least(&self, Allowance { now, rate, .. }: Allowance<'_>) -> Option<usize> {
        let mut least = None;
        for place in 0..WAYS {
            let until = self.until[place].load(Ordering::Acquire);
            if connections(self.held[place].load(Ordering::Acquire)) > 0 {
                continue;
            }
            let Some(rate) = rate.filter(|_| until > now) else {
                return Some(place);
            };
            let is_guilty = rate.admit(until, now).is_none();
            if !is_guilty && least.is_none_or(|(_, least)| until < least) {
                least = Some((place, until));
            }
        }
        least.map(|(place, _)| place)
    }

    /// Gives a place to `tag`, which comes in there as the first of its source. False if its owner
    /// has come back meanwhile.
    fn claim(&self, place: usize, tag: u64, allowance: Allowance<'_>) -> bool {
        let Allowance { now, rate, most } = allowance;
        let (until, held) = (&self.until[place], &self.held[place]);
        let owner = self.tags[place].swap(0, Ordering::AcqRel);
        let before = (until.load(Ordering::Acquire), held.load(Ordering::Acquire));
        let taken = u64::from(most.is_some());
        let next = ((before.1 >> 32) + 1) << 32 | taken;
        let is_ours = connections(before.1) == 0 && swap(held, before.1, next);
        let has_come_in = match rate.map(|rate| rate.admit(before.0, now)) {
            _ if !is_ours => false,
            Some(after) => after.is_some_and(|after| swap(until, before.0, after)),
            None => true,
        };
        if has_come_in {
            self.tags[place].store(tag, Ordering::Release);
            return true;
        }
        if is_ours {
            held.fetch_sub(taken, Ordering::AcqRel);
        }
        self.tags[place].store(owner, Ordering::Release);
        false
    }
}

fn connections(held: u64) -> u32 {
    held as u32
}

fn swap(word: &AtomicU64, from: u64, to: u64) -> bool {
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// The lock of a set. What is done under it takes a fraction of a microsecond, and cannot panic.
struct Lock<'a>(&'a AtomicU32);

impl<'a> Lock<'a> {
    fn take(lock: &'a AtomicU32) -> Self {
        let mut waited = 0u32;
        while lock.swap(1, Ordering::Acquire) != 0 {
            waited += 1;
            // Who has it may have lost its processor.
            if waited.is_multiple_of(64) { yield_now() } else { spin_loop() }
        }
        Self(lock)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}
