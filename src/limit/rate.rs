//! How many in which time: the generic cell rate algorithm (ITU-T I.371, annex A), on one number.
//!
//! What a source has used up is kept as the time at which it will all have come back: an admission
//! adds the interval between two of them, time takes it off again. A source whose time has passed
//! has all of its allowance, and may use it at once.

use std::time::Duration;

/// Nanoseconds on a clock of the caller's.
pub type Nanos = u64;

/// The longest time that an allowance may take to come back, as [`Rate::new`] keeps it: a sum of it
/// and of any time that a process lives to see (a century) fits into [`Nanos`].
const LONGEST: Nanos = 1 << 62;

/// So many at once, and then one each interval.
///
/// 50 a minute with a burst of 10: who has been silent gets 10 at once, then one every 1.2 seconds,
/// which makes 60 in the first minute, and 50 in every further one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What an admission uses up.
    interval: Nanos,
    /// What may be used up, less one interval, before a further admission.
    tolerance: Nanos,
}

impl Rate {
    /// `count` in each `period`, and `burst` of them at once. Either is 1 at least; an interval is a
    /// nanosecond at least.
    pub fn new(count: u32, period: Duration, burst: u32) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(LONGEST);
        let interval = (period / u64::from(count.max(1))).clamp(1, LONGEST);
        let tolerance = interval.saturating_mul(u64::from(burst.max(1) - 1));
        Self { interval, tolerance: tolerance.min(LONGEST - interval.min(LONGEST)) }
    }

    /// Whether a source may come in at `now` that has used up its allowance until `until`. If so,
    /// until when it has then.
    #[inline]
    pub fn admit(&self, until: Nanos, now: Nanos) -> Option<Nanos> {
        (until <= now.saturating_add(self.tolerance)).then(|| until.max(now) + self.interval)
    }

    /// What a source has used up by another rate, in terms of this one: as many admissions, and no
    /// more than all.
    pub fn convert(&self, until: Nanos, now: Nanos, before: &Self) -> Nanos {
        let used = until.saturating_sub(now).div_ceil(before.interval);
        let all = self.tolerance + self.interval;
        now.saturating_add(used.saturating_mul(self.interval).min(all))
    }
}
