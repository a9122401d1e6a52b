//! When something is to be done about an address that is held: added, renewed, put back,
//! announced. Pure: the keeper says what happened and when, and does what is due.

use std::time::Duration;

use super::LIFETIME;
use crate::types::Moment;

/// Time between two renewals.
const RENEWAL: Duration = Duration::from_millis(LIFETIME.as_secs() * 1_000 / 4);

/// Time to the second announcement, the third, and so on: neighbours that were busy, and switches
/// that still learned, hear the later ones.
const DISTANCES: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// An address that is removed so often within [`CALM`] is being fought over.
const TOLERATED: u32 = 3;

/// After so long without a removal, nobody fights any more.
const CALM: Duration = Duration::from_secs(10);

/// The first pause in a fight; each is twice as long as the one before, up to 64 times this.
const PAUSE: Duration = Duration::from_millis(50);

/// The course of one address.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// It is to be added then; `None` = it is there.
    add_at: Option<Moment>,
    renew_at: Moment,
    announce_at: Option<Moment>,
    /// Announcements since it was taken.
    announced: u8,
    /// Removals by something else, and when the last was.
    removals: u32,
    removed_at: Moment,
}

impl Held {
    /// One that is to be added at once.
    pub const fn new(now: Moment) -> Self {
        Self {
            add_at: Some(now),
            renew_at: now,
            announce_at: None,
            announced: 0,
            removals: 0,
            removed_at: now,
        }
    }

    /// It is to be added, and announced, from the beginning.
    pub const fn retake(&mut self, now: Moment) {
        self.add_at = Some(now);
        self.announce_at = None;
        self.announced = 0;
    }

    /// Something removed it.
    pub fn removed(&mut self, now: Moment) {
        if self.add_at.is_some() {
            return;
        }
        if now - self.removed_at > CALM {
            self.removals = 0;
        }
        self.removals = self.removals.saturating_add(1);
        self.removed_at = now;
        self.add_at = Some(now + self.pause());
    }

    /// It could not be added.
    pub fn failed(&mut self, now: Moment) {
        self.removals = self.removals.saturating_add(1).max(TOLERATED + 1);
        self.removed_at = now;
        self.add_at = Some(now + self.pause());
    }

    fn pause(&self) -> Duration {
        match self.removals.checked_sub(TOLERATED + 1) {
            None => Duration::ZERO,
            Some(excess) => PAUSE * (1 << excess.min(6)),
        }
    }

    /// It was added, and is to be announced at once.
    pub fn added(&mut self, now: Moment) {
        self.add_at = None;
        self.renew_at = now + RENEWAL;
        self.announced = 0;
        self.announce_at = Some(now);
    }

    /// It was renewed.
    pub fn renewed(&mut self, now: Moment) {
        self.renew_at = now + RENEWAL;
    }

    /// It was announced; so often in all, and later so far apart.
    pub fn announced(&mut self, repeat: u8, refresh: Duration, now: Moment) {
        let distance = DISTANCES[usize::from(self.announced).min(DISTANCES.len() - 1)];
        self.announced = self.announced.saturating_add(1);
        self.announce_at = if self.announced < repeat {
            Some(now + distance)
        } else {
            (!refresh.is_zero()).then(|| now + refresh)
        };
    }

    /// There was no room for it on the wire.
    pub fn announce_later(&mut self, at: Moment) {
        self.announce_at = Some(at);
    }

    /// Whether it was there and is to be put back.
    pub const fn is_lost(&self) -> bool {
        self.add_at.is_some() && self.removals > 0
    }

    /// Whether to add it now.
    pub fn is_add_due(&self, now: Moment) -> bool {
        self.add_at.is_some_and(|at| at <= now)
    }

    /// Whether to renew it now.
    pub fn is_renewal_due(&self, now: Moment) -> bool {
        self.add_at.is_none() && self.renew_at <= now
    }

    /// Whether to announce it now.
    pub fn is_announcement_due(&self, now: Moment) -> bool {
        self.add_at.is_none() && self.announce_at.is_some_and(|at| at <= now)
    }

    /// When there is something to do.
    pub fn due(&self) -> Moment {
        let other = self.announce_at.map_or(self.renew_at, |at| at.min(self.renew_at));
        self.add_at.unwrap_or(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_millis(millis))
    }

    #[test]
    fn an_address_is_renewed_well_before_it_ends() {
        let mut held = Held::new(at(0));
        assert!(held.is_add_due(at(0)));
        held.added(at(1));
        assert!(!held.is_renewal_due(at(500)) && held.is_renewal_due(at(501)));
        assert!(RENEWAL * 3 < LIFETIME);
    }

    #[test]
    fn announcements_thin_out_and_go_on() {
        let mut held = Held::new(at(0));
        held.added(at(0));
        let mut times = Vec::new();
        for millis in 0..200_000 {
            if held.is_announcement_due(at(millis)) {
                times.push(millis);
                held.announced(5, Duration::from_secs(60), at(millis));
            }
        }
        assert_eq!(times, [0, 20, 120, 620, 2_620, 62_620, 122_620, 182_620]);
        held.added(at(0));
        held.announced(1, Duration::ZERO, at(0));
        assert!(!held.is_announcement_due(at(1_000_000)));
    }

    #[test]
    fn removals_are_undone_at_once_but_no_fight_is_endless() {
        let mut held = Held::new(at(0));
        held.added(at(0));
        let mut pauses = Vec::new();
        let mut now = 0;
        for _ in 0..11 {
            held.removed(at(now));
            let due = (0..).find(|wait| held.is_add_due(at(now + wait))).unwrap();
            pauses.push(due);
            now += due;
            held.added(at(now));
        }
        assert_eq!(pauses, [0, 0, 0, 50, 100, 200, 400, 800, 1_600, 3_200, 3_200]);
        held.removed(at(now + 10_001));
        assert!(held.is_add_due(at(now + 10_001)));
    }
}
