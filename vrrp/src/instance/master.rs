//! What a master has said, and when it speaks next.

use core::time::Duration;

use crate::types::{Interval, Moment};

/// A master that has been silent for more than so many intervals was not running: its backups take
/// over a skew later.
const MISSED: u32 = 3;

/// Between two own adverts lies at least this share of an interval, whoever asks for an answer.
const ANSWER_SHARE: u32 = 8;

/// Announcements that contention asks for are this far apart at least, and an interval at least.
const ANNOUNCEMENT_SPACING: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Master {
    /// The next advert is due then.
    pub(super) next: Moment,
    /// The last advert was sent then.
    pub(super) sent: Moment,
    /// The addresses were last announced then.
    pub(super) announced: Moment,
    /// Somebody else has claimed them since.
    pub(super) contended: bool,
}

impl Master {
    /// One that has just advertised and announced.
    pub(super) fn new(now: Moment, interval: Interval) -> Self {
        let next = now + interval.duration();
        Self { next, sent: now, announced: now, contended: false }
    }

    pub(super) fn good_until(&self, interval: Interval) -> Moment {
        self.sent + interval.duration() * MISSED
    }

    /// An advert is sent because it is due: the next one is an interval after that, not after
    /// now. If that has passed as well it is not made up for.
    pub(super) fn advertise(&mut self, now: Moment, interval: Interval) {
        let next = self.next + interval.duration();
        self.restart(now, interval);
        if next > now {
            self.next = next;
        }
    }

    /// An advert is sent, and the timer begins anew.
    pub(super) fn restart(&mut self, now: Moment, interval: Interval) {
        (self.sent, self.next) = (now, now + interval.duration());
    }

    /// Whether to send an advert at once, since another router is to hear one. Else one is due
    /// soon: whoever asks more often than that is no router.
    pub(super) fn answer(&mut self, now: Moment, interval: Interval) -> bool {
        let earliest = self.sent + interval.duration() / ANSWER_SHARE;
        if now < earliest {
            self.next = self.next.min(earliest);
            return false;
        }
        self.restart(now, interval);
        true
    }

    /// Whether to announce now what was contended. Announcements too frequent are put off, never
    /// left out: the last one that clients hear has to be ours.
    pub(super) fn announce(&mut self, now: Moment, interval: Interval) -> bool {
        let spacing = interval.duration().max(ANNOUNCEMENT_SPACING);
        if !self.contended || now < self.announced + spacing {
            return false;
        }
        (self.announced, self.contended) = (now, false);
        true
    }
}
