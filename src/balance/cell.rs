//! The word that a backend is chosen by: effective weight and active connections, in one atomic.
//!
//! Every reason to send a backend less, or nothing, is folded into the weight by the control
//! plane, its only writer; leases count the connections. Since both are one word, a pick compares
//! and takes what it has seen in a single compare-and-swap: two workers that see the same least
//! loaded backend cannot both take it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Effective weights are fixed-point: this stands for a configured weight of 1, so that a backend
/// of weight 1 can ramp up in steps.
pub const WEIGHT_ONE: u32 = 256;

const ACTIVE_MASK: u64 = u32::MAX as u64;
const WEIGHT_SHIFT: u32 = 32;

/// What a [`Cell`] held at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load(u64);

impl Load {
    /// No weight and no connections: everything that has a weight is less loaded than this.
    pub const NOTHING: Self = Self(0);

    /// Effective weight in units of 1/[`WEIGHT_ONE`]; 0 = no new connections.
    #[inline]
    pub fn weight(self) -> u32 {
        (self.0 >> WEIGHT_SHIFT) as u32
    }

    /// Connections that hold a lease.
    #[inline]
    pub fn active(self) -> u32 {
        (self.0 & ACTIVE_MASK) as u32
    }

    /// Whether it takes a further connection, if it may have `limit` (0 = no limit).
    #[inline]
    pub fn takes(self, limit: u32) -> bool {
        self.weight() != 0 && (limit == 0 || self.active() < limit)
    }

    /// Whether a further connection here would weigh less than a further one on `other`.
    ///
    /// Compares `(active + 1) / weight` exactly, by cross-multiplication: the left factor has at
    /// most 33 bits and a weight at most 24, so the products fit.
    #[inline]
    pub fn less_loaded_than(self, other: Self) -> bool {
        (u64::from(self.active()) + 1) * u64::from(other.weight())
            < (u64::from(other.active()) + 1) * u64::from(self.weight())
    }
}

impl std::ops::BitOr for Load {
    type Output = Self;

    /// Has a weight if either has one; how much of it, and the connections, mean nothing.
    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Effective weight and active connections of one backend.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// What the cell holds now.
    #[inline]
    pub fn load(&self) -> Load {
        Load(self.0.load(Ordering::Relaxed))
    }

    /// Sets the effective weight. For the control plane alone: with a second writer the
    /// difference that is added below would be wrong.
    pub fn set_weight(&self, weight: u32) {
        let change = weight.wrapping_sub(self.load().weight());
        self.0.fetch_add(u64::from(change) << WEIGHT_SHIFT, Ordering::SeqCst);
    }

    /// Takes a lease if the cell still holds `seen`.
    #[inline]
    pub fn lease_exact(&self, seen: Load) -> bool {
        self.0.compare_exchange(seen.0, seen.0 + 1, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Takes a lease unless the weight is 0 or `limit` leases are out (0 = no limit).
    pub fn lease(&self, limit: u32) -> bool {
        let mut seen = self.load();
        while seen.takes(limit) {
            match self.0.compare_exchange_weak(
                seen.0,
                seen.0 + 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = Load(now),
            }
        }
        false
    }

    /// Gives a lease back.
    #[inline]
    pub fn release(&self) {
        // SeqCst pairs with the queue's depth: whoever gives a lease back and then sees an empty
        // queue is certain that a connection which queues later sees the free place.
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Cells side by side, so that a scan of a thousand backends reads 8 KiB in order.
///
/// Blocks are shared between the generations of a pool: a backend keeps its cell, and the leases
/// on it, for as long as it stays configured.
#[derive(Debug)]
#[repr(align(64))]
pub struct Block([Cell; Self::CELLS]);

impl Block {
    /// Cells in a block.
    pub const CELLS: usize = 64;

    /// A block of backends that take nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(std::array::from_fn(|_| Cell::default())))
    }

    /// The cell at `index`, below [`Block::CELLS`].
    #[inline]
    pub fn cell(&self, index: usize) -> &Cell {
        &self.0[index]
    }

    /// All cells in order.
    #[inline]
    pub fn cells(&self) -> &[Cell; Self::CELLS] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_and_leases_do_not_disturb_each_other() {
        let cell = Cell::default();
        cell.set_weight(u32::MAX);
        assert!(cell.lease(0));
        cell.set_weight(7);
        assert!(cell.lease(0));
        assert_eq!((cell.load().weight(), cell.load().active()), (7, 2));
        cell.set_weight(0);
        assert!(!cell.lease(0), "a weight of 0 takes nothing");
        cell.release();
        cell.release();
        assert_eq!((cell.load().weight(), cell.load().active()), (0, 0));
    }

    #[test]
    fn a_limit_is_exact() {
        let cell = Cell::default();
        cell.set_weight(1);
        assert!(cell.lease(2) && cell.lease(2));
        assert!(!cell.lease(2));
        cell.release();
        assert!(cell.lease(2));
    }

    #[test]
    fn an_exact_lease_fails_when_the_cell_has_moved() {
        let cell = Cell::default();
        cell.set_weight(3);
        let seen = cell.load();
        assert!(cell.lease(0));
        assert!(!cell.lease_exact(seen));
        assert!(cell.lease_exact(cell.load()));
    }

    #[test]
    fn loads_compare_by_cross_multiplication() {
        let load = |weight: u64, active: u64| Load(weight << 32 | active);
        assert!(load(2, 0).less_loaded_than(load(1, 0)));
        assert!(!load(2, 1).less_loaded_than(load(1, 0)), "2/2 is not less than 1/1");
        assert!(
            load(65535 * 256, u64::from(u32::MAX)).less_loaded_than(load(1, u64::from(u32::MAX)))
        );
    }
}
