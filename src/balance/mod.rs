//! Which backend a connection gets.
//!
//! Called by [`crate::pool`] on the path of every connection; knows slots, weights and counts, no
//! sockets and no names. A [`Group`] is a set of equal candidates (a pool has one of ordinary and
//! one of backup backends). A pick takes a lease in the same step, without a lock: round robin
//! claims the next place on the [`wheel`] with one compare-and-swap, least connections claims the
//! [`cell`] that it found to be the least loaded. Both are therefore exact over the process,
//! however many workers pick at once.

pub mod cell;
pub mod maglev;
pub mod wheel;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cell::{Block, Cell, Load, WEIGHT_ONE};
use maglev::{GOLDEN, Maglev, mix};
use wheel::Wheel;

/// Most slots that a group can have.
pub const MOST_SLOTS: usize = 1 << 16;

/// How a group chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Smooth weighted round robin.
    RoundRobin,
    /// The least `(active + 1) / weight`; among equals, in turn.
    LeastConnections,
    /// Two draws by weight, of which the less loaded wins.
    Random,
    /// Maglev over the client's address.
    SourceHash,
}

/// What a pick has to know of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// [`maglev::hash_client`] of the client's address.
    pub client: u64,
    /// Any number that differs from pick to pick.
    pub entropy: u64,
    /// Slots that this connection has failed to reach.
    pub tried: &'a [u16],
}

/// Why there was no backend to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Each is down, drained or tried before.
    Down,
    /// At least one would do, but has its maximum of connections.
    Full,
}

/// What is configured for one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat<'a> {
    /// Name, for the hash.
    pub name: &'a str,
    /// Configured weight, 0 to 65535; 0 also stands for a slot that is not in use.
    pub weight: u16,
    /// Connections at once; 0 = no limit.
    pub limit: u32,
}

/// Candidates of which one policy chooses.
#[derive(Debug)]
pub struct Group {
    blocks: Box<[Arc<Block>]>,
    limits: Box<[u32]>,
    /// Weights as configured, in the unit of [`Cell`]: a lower effective weight is a ramp.
    configured: Box<[u32]>,
    cursor: Arc<AtomicU64>,
    chooser: Chooser,
}

#[derive(Debug)]
enum Chooser {
    RoundRobin(Wheel),
    LeastConnections,
    Random(Wheel),
    SourceHash(Maglev),
}

impl Group {
    /// A group over the first `seats.len()` cells of `blocks`.
    ///
    /// `cursor` is where round robin goes on; pass the one of the group's previous generation to
    /// keep its turn.
    ///
    /// # Panics
    ///
    /// If there are more seats than cells, or more than [`MOST_SLOTS`].
    pub fn new(
        policy: Policy,
        seats: &[Seat<'_>],
        blocks: Box<[Arc<Block>]>,
        cursor: Arc<AtomicU64>,
    ) -> Self {
        assert!(seats.len() <= blocks.len() * Block::CELLS && seats.len() <= MOST_SLOTS);
        let weights: Vec<u32> = seats.iter().map(|seat| u32::from(seat.weight)).collect();
        let chooser = match policy {
            Policy::RoundRobin => Chooser::RoundRobin(Wheel::new(&weights)),
            Policy::LeastConnections => Chooser::LeastConnections,
            Policy::Random => Chooser::Random(Wheel::new(&weights)),
            Policy::SourceHash => Chooser::SourceHash(Maglev::new(
                seats.iter().map(|seat| (seat.name, u32::from(seat.weight))),
            )),
        };
        Self {
            blocks,
            limits: seats.iter().map(|seat| seat.limit).collect(),
            configured: weights.iter().map(|weight| weight * WEIGHT_ONE).collect(),
            cursor,
            chooser,
        }
    }

    /// Chooses a slot and takes a lease on its cell, which the caller must release.
    pub fn pick(&self, request: &Request<'_>) -> Result<usize, Unavailable> {
        self.choose(request, &Grasp)
    }

    /// The slot that [`Group::pick`] would choose at this moment. Nothing changes by asking.
    pub fn peek(&self, request: &Request<'_>) -> Result<usize, Unavailable> {
        self.choose(request, &Glance)
    }

    fn choose(&self, request: &Request<'_>, hand: &impl Hand) -> Result<usize, Unavailable> {
        match &self.chooser {
            Chooser::RoundRobin(wheel) => self.in_turn(wheel, request, hand),
            Chooser::LeastConnections => self.least_loaded(request, hand),
            Chooser::Random(wheel) => self.better_of_two(wheel, request, hand),
            Chooser::SourceHash(maglev) => self.by_hash(maglev, request, hand),
        }
    }

    /// Whether any slot is up that is not among `tried`, full or not.
    pub fn has_candidate(&self, tried: &[u16]) -> bool {
        self.any_with_weight(|slot, load| self.is_up(slot, load, tried))
    }

    /// Whether `ask` says yes to any slot that has a weight, which it is asked about in order.
    ///
    /// For when nearly all are down: those are passed over several at a time.
    #[inline]
    fn any_with_weight(&self, mut ask: impl FnMut(usize, Load) -> bool) -> bool {
        let mut slot = 0;
        for block in &self.blocks {
            for cells in block.cells().as_chunks::<8>().0 {
                if cells.iter().fold(Load::NOTHING, |all, cell| all | cell.load()).weight() != 0 {
                    for (slot, cell) in (slot..self.limits.len()).zip(cells) {
                        let load = cell.load();
                        if load.weight() != 0 && ask(slot, load) {
                            return true;
                        }
                    }
                }
                slot += cells.len();
            }
        }
        false
    }

    #[inline]
    fn is_up(&self, slot: usize, load: Load, tried: &[u16]) -> bool {
        // A slot that is not configured may belong to a generation that still has it.
        load.weight() != 0
            && self.configured[slot] != 0
            && !tried.iter().any(|&tried| usize::from(tried) == slot)
    }

    #[inline]
    fn cell(&self, slot: usize) -> &Cell {
        self.blocks[slot / Block::CELLS].cell(slot % Block::CELLS)
    }

    fn in_turn(
        &self,
        wheel: &Wheel,
        request: &Request<'_>,
        hand: &impl Hand,
    ) -> Result<usize, Unavailable> {
        let mut from = self.cursor.load(Ordering::Relaxed);
        loop {
            let mut look = Look::new(self, request);
            let found = wheel
                .near(from, |slot, position| look.accepts(slot, position.wrapping_mul(GOLDEN)))
                .or_else(|| self.next_of_all(wheel, from, &mut look));
            let Some((position, slot)) = found else {
                return Err(look.refusal());
            };
            match hand.advance(&self.cursor, from, position + 1) {
                Ok(()) if hand.lease(self.cell(slot), self.limits[slot]) => return Ok(slot),
                Ok(()) => from = position + 1,
                Err(now) => from = now,
            }
        }
    }

    /// The place of the usable slot that is next on the wheel, or, if all are ramping and it is the
    /// turn of none, the next of any. The work is one look per slot, however long the wheel.
    #[cold]
    fn next_of_all(&self, wheel: &Wheel, from: u64, look: &mut Look<'_>) -> Option<(u64, usize)> {
        let (mut next, mut next_ramping) = (None, None);
        self.any_with_weight(|slot, load| {
            if look.usable(slot, load)
                && let Some(position) = wheel.next_of(slot, from)
            {
                let before = |other: Option<(u64, usize)>| other.is_none_or(|(p, _)| position < p);
                if before(next_ramping) {
                    next_ramping = Some((position, slot));
                }
                if before(next) && look.has_turn(slot, load, position.wrapping_mul(GOLDEN)) {
                    next = Some((position, slot));
                }
            }
            false
        });
        next.or(next_ramping)
    }

    fn least_loaded(&self, request: &Request<'_>, hand: &impl Hand) -> Result<usize, Unavailable> {
        loop {
            // Beginning after the last choice makes equals take turns.
            let first = self.cursor.load(Ordering::Relaxed) as usize;
            let first = if first < self.limits.len() { first } else { 0 };
            let mut look = Look::new(self, request);
            let best = Best::new(0, Load::NOTHING);
            let best = self.scan(first..self.limits.len(), &mut look, best);
            let best = self.scan(0..first, &mut look, best);
            if best.load == Load::NOTHING {
                return Err(look.refusal());
            }
            if hand.lease_exact(self.cell(best.slot), best.load) {
                hand.leave(&self.cursor, best.slot as u64 + 1);
                return Ok(best.slot);
            }
        }
    }

    /// The least loaded of `best` and the usable slots of `range`.
    fn scan(&self, range: Range<usize>, look: &mut Look<'_>, mut best: Best) -> Best {
        let mut slot = range.start;
        while slot < range.end {
            let first = slot % Block::CELLS;
            let count = (Block::CELLS - first).min(range.end - slot);
            let cells = &self.blocks[slot / Block::CELLS].cells()[first..first + count];
            // Nearly all are no better: a comparison is half the work if that is all there is to
            // the loop, which then is unrolled.
            let (chunks, rest) = cells.as_chunks::<8>();
            for chunk in chunks {
                if chunk.iter().any(|cell| best.is_above(cell.load())) {
                    best.or_one_of(slot, chunk, look);
                }
                slot += chunk.len();
            }
            best.or_one_of(slot, rest, look);
            slot += rest.len();
        }
        best
    }

    fn better_of_two(
        &self,
        wheel: &Wheel,
        request: &Request<'_>,
        hand: &impl Hand,
    ) -> Result<usize, Unavailable> {
        let mut entropy = request.entropy;
        loop {
            let mut random = || {
                entropy = entropy.wrapping_add(GOLDEN);
                mix(entropy)
            };
            let draws = [(); 2].map(|()| self.draw(wheel, random(), request));
            let [first, second] = match draws {
                [Some(first), Some(second)] => [first, second],
                _ => self.draw_two_of_all(random(), request)?,
            };
            let (one, other) = (self.cell(first).load(), self.cell(second).load());
            // Without the "+ 1" that least connections has: between idle backends the first draw
            // stands, so that the shares stay those of the weights.
            let busier = u64::from(one.active()) * u64::from(other.weight())
                > u64::from(other.active()) * u64::from(one.weight());
            let slot = if busier { second } else { first };
            if hand.lease(self.cell(slot), self.limits[slot]) {
                return Ok(slot);
            }
        }
    }

    /// A usable slot, by weight; nothing after some misses.
    fn draw(&self, wheel: &Wheel, entropy: u64, request: &Request<'_>) -> Option<usize> {
        const DRAWS: u64 = 32;
        if wheel.is_empty() {
            return None;
        }
        let mut look = Look::new(self, request);
        (0..DRAWS).find_map(|draw| {
            let position = mix(entropy ^ draw);
            let slot = wheel.at(position >> 8);
            look.accepts(slot, position << 32).then_some(slot)
        })
    }

    /// Two draws, by weight, of all usable slots, in one walk: for when [`Group::draw`] misses.
    #[cold]
    fn draw_two_of_all(
        &self,
        mut entropy: u64,
        request: &Request<'_>,
    ) -> Result<[usize; 2], Unavailable> {
        let mut look = Look::new(self, request);
        let mut drawn = [0; 2];
        let mut sum = 0;
        self.any_with_weight(|slot, load| {
            if look.usable(slot, load) {
                let weight = u64::from(load.weight().min(self.configured[slot]));
                sum += weight;
                // Who comes later takes the draw with the chance weight / sum; what is left to
                // those before is in proportion to their weights, too.
                for drawn in &mut drawn {
                    entropy = entropy.wrapping_add(GOLDEN);
                    if (u128::from(mix(entropy)) * u128::from(sum)) >> 64 < u128::from(weight) {
                        *drawn = slot;
                    }
                }
            }
            false
        });
        if sum == 0 { Err(look.refusal()) } else { Ok(drawn) }
    }

    fn by_hash(
        &self,
        maglev: &Maglev,
        request: &Request<'_>,
        hand: &impl Hand,
    ) -> Result<usize, Unavailable> {
        loop {
            let mut look = Look::new(self, request);
            let found =
                maglev.find(request.client, |slot, hash| look.accepts(slot, hash)).or_else(|| {
                    // The walk is long: not for nothing.
                    let any = self.any_with_weight(|slot, load| look.usable(slot, load));
                    any.then(|| {
                        maglev
                            .walk(request.client, |slot| look.usable(slot, self.cell(slot).load()))
                    })?
                });
            let Some(slot) = found else {
                return Err(look.refusal());
            };
            if hand.lease(self.cell(slot), self.limits[slot]) {
                return Ok(slot);
            }
        }
    }
}

/// What a choice does about what it has chosen.
trait Hand {
    /// Moves round robin's turn from `from` on to `to`; else says where it is.
    fn advance(&self, cursor: &AtomicU64, from: u64, to: u64) -> Result<(), u64>;
    /// Notes where the next choice is to begin.
    fn leave(&self, cursor: &AtomicU64, next: u64);
    /// [`Cell::lease`].
    fn lease(&self, cell: &Cell, limit: u32) -> bool;
    /// [`Cell::lease_exact`].
    fn lease_exact(&self, cell: &Cell, seen: Load) -> bool;
}

/// Takes it.
struct Grasp;

impl Hand for Grasp {
    #[inline]
    fn advance(&self, cursor: &AtomicU64, from: u64, to: u64) -> Result<(), u64> {
        let (done, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        cursor.compare_exchange_weak(from, to, done, failed).map(|_| ())
    }

    #[inline]
    fn leave(&self, cursor: &AtomicU64, next: u64) {
        cursor.store(next, Ordering::Relaxed);
    }

    #[inline]
    fn lease(&self, cell: &Cell, limit: u32) -> bool {
        cell.lease(limit)
    }

    #[inline]
    fn lease_exact(&self, cell: &Cell, seen: Load) -> bool {
        cell.lease_exact(seen)
    }
}

/// Only says what it would take.
struct Glance;

impl Hand for Glance {
    fn advance(&self, _: &AtomicU64, _: u64, _: u64) -> Result<(), u64> {
        Ok(())
    }

    fn leave(&self, _: &AtomicU64, _: u64) {}

    fn lease(&self, cell: &Cell, limit: u32) -> bool {
        cell.load().takes(limit)
    }

    fn lease_exact(&self, _: &Cell, _: Load) -> bool {
        true
    }
}

/// The least loaded slot so far, and what it held.
struct Best {
    slot: usize,
    load: Load,
    /// `active + 1` and the weight of `load`, as [`Load::less_loaded_than`] needs them.
    next_active: u64,
    weight: u64,
}

impl Best {
    #[inline]
    fn new(slot: usize, load: Load) -> Self {
        let (next_active, weight) = (u64::from(load.active()) + 1, u64::from(load.weight()));
        Self { slot, load, next_active, weight }
    }

    /// [`Load::less_loaded_than`].
    #[inline]
    fn is_above(&self, load: Load) -> bool {
        (u64::from(load.active()) + 1) * self.weight < self.next_active * u64::from(load.weight())
    }

    /// Becomes the least loaded of itself and the usable ones of `cells`, which are those from
    /// `slot` on.
    #[inline]
    fn or_one_of(&mut self, slot: usize, cells: &[Cell], look: &mut Look<'_>) {
        for (slot, cell) in (slot..).zip(cells) {
            let load = cell.load();
            if self.is_above(load) && look.usable(slot, load) {
                *self = Self::new(slot, load);
            }
        }
    }
}

/// One pick's view of the candidates; remembers whether any was refused only for being full.
struct Look<'a> {
    group: &'a Group,
    tried: &'a [u16],
    full: bool,
}

impl<'a> Look<'a> {
    fn new(group: &'a Group, request: &Request<'a>) -> Self {
        Self { group, tried: request.tried, full: false }
    }

    #[inline]
    fn usable(&mut self, slot: usize, load: Load) -> bool {
        if !self.group.is_up(slot, load, self.tried) {
            return false;
        }
        let limit = self.group.limits[slot];
        if limit != 0 && load.active() >= limit {
            self.full = true;
            return false;
        }
        true
    }

    /// Whether the slot is usable and, while its weight is below the configured one, whether
    /// `chance` (its upper 32 bits, spread evenly) falls within that share.
    #[inline]
    fn accepts(&mut self, slot: usize, chance: u64) -> bool {
        let load = self.group.cell(slot).load();
        self.usable(slot, load) && self.has_turn(slot, load, chance)
    }

    /// Whether a slot with this load has its full weight or `chance` is within its share.
    #[inline]
    fn has_turn(&self, slot: usize, load: Load, chance: u64) -> bool {
        let configured = self.group.configured[slot];
        load.weight() >= configured
            || (chance >> 32) * u64::from(configured) < u64::from(load.weight()) << 32
    }

    fn refusal(&self) -> Unavailable {
        if self.full { Unavailable::Full } else { Unavailable::Down }
    }
}

#[cfg(test)]
mod tests;
