//! What is counted, for metrics and status.

use crate::advert::Rejected;
use crate::router::flaws::Flaw;

/// Packets that were ignored, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectedCounts([u64; Rejected::ALL.len()]);

impl RejectedCounts {
    /// How many were ignored for this reason.
    pub const fn get(&self, reason: Rejected) -> u64 {
        self.0[reason as usize]
    }

    /// All reasons, with how many were ignored for each.
    pub fn iter(&self) -> impl Iterator<Item = (Rejected, u64)> {
        Rejected::ALL.into_iter().map(|reason| (reason, self.get(reason)))
    }

    /// How many were ignored.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Sets how many were ignored for this reason: by another process, which this one follows.
    pub const fn set(&mut self, reason: Rejected, count: u64) {
        self.0[reason as usize] = count;
    }

    pub(super) const fn count(&mut self, reason: Rejected) {
        self.0[reason as usize] += 1;
    }
}

/// What one virtual router has counted since it was configured. Names are those of RFC 8347 where
/// it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Adverts that were sent; one, however many peers it went to.
    pub sent: u64,
    /// Among them, of priority 0.
    pub priority_zero_sent: u64,
    /// Valid adverts that were received.
    pub received: u64,
    /// Among them, of priority 0.
    pub priority_zero_received: u64,
    /// Packets that were ignored.
    pub rejected: RejectedCounts,
    /// Adverts of an interval so short that a longer one was learned.
    pub interval_out_of_bounds: u64,
    /// Valid adverts whose interval is not ours.
    pub interval_mismatch: u64,
    /// Valid adverts whose addresses are not ours.
    pub address_list_mismatch: u64,
    /// Adverts that were heard while master: somebody else believed to be.
    pub contentions: u64,
    /// Transitions to `init`.
    pub to_init: u64,
    /// Transitions to `backup`.
    pub to_backup: u64,
    /// Transitions to `master`.
    pub to_master: u64,
}

impl Counts {
    /// How many adverts had each flaw.
    pub fn flaws(&self) -> impl Iterator<Item = (Flaw, u64)> {
        Flaw::all().map(|flaw| {
            let count = match flaw {
                Flaw::Rejected(rejected) => self.rejected.get(rejected),
                Flaw::Interval => self.interval_mismatch,
                Flaw::AddressList => self.address_list_mismatch,
            };
            (flaw, count)
        })
    }
}
