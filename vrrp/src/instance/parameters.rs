//! What the state machine goes by, and what follows from that alone.

use core::time::Duration;

use crate::types::{Interval, Priority, Version};

/// The shortest interval that is learned is our own divided by this: who speaks more often is no reason
/// to be hasty.
const LEARNED_SHARE: u16 = 10;

/// The interval that routers have which are told nothing else, in centiseconds (RFC 9568, section 6.1).
const DEFAULT: u16 = 100;

/// What the machine goes by: the parameters of RFC 9568, section 6.1, and what goes beyond them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Effective priority, not [`Priority::RELEASE`].
    pub priority: Priority,
    /// Time between own adverts. It is of the version that is spoken.
    pub interval: Interval,
    /// Take over from a master of lower priority. The owner does in any case.
    pub preempt: bool,
    /// How long a master of lower priority is left alone, from its first advert on.
    pub preempt_delay: Duration,
    /// It becomes master only when told so by [`super::Input::Lead`]; see
    /// [`super::Instance::is_ready`].
    pub grouped: bool,
}

impl Parameters {
    /// The interval that is learned from a master that sends this one. In version 3 it is the
    /// master's (RFC 9568, section 6.4.2), however long, but at least a tenth of our own. In version 2
    /// it is ours: another is never heard.
    pub fn learned(&self, heard: Interval) -> Interval {
        let own = self.interval;
        match (own.version(), heard.version()) {
            (Version::V3, Version::V3) => {
                let shortest = own.centis() / LEARNED_SHARE;
                Interval::from_centis(heard.centis().max(shortest)).unwrap_or(heard)
            }
            (Version::V2, _) | (_, Version::V2) => own,
        }
    }

    /// The interval of a master that may be there when nobody has been heard yet: ours, or the default
    /// if that is longer. In version 2 ours: another is never heard.
    pub(super) fn first(&self) -> Interval {
        match self.interval.version() {
            Version::V3 => {
                Interval::from_centis(self.interval.centis().max(DEFAULT)).unwrap_or(self.interval)
            }
            Version::V2 => self.interval,
        }
    }

    /// Whether a router with these parameters waits for a master with this priority to fall
    /// silent, rather than to take over from it.
    pub(super) fn follows(&self, priority: Priority) -> bool {
        priority >= self.priority || !(self.preempt || self.priority.is_owner())
    }

    /// How long one who was paused listens. A master is heard within an interval; the half is for
    /// the way, and for a system that has just woken up.
    pub(super) fn listening(interval: Interval) -> Duration {
        interval.duration() * 3 / 2
    }

    /// How long one who has offered the addresses listens for who takes them. A backup takes its turn
    /// within an interval, and is heard then; the rest is for hosts that are busy.
    pub(super) fn offering(interval: Interval) -> Duration {
        interval.duration() + interval.duration().max(Duration::from_millis(300))
    }

    /// How long a backup that was paused waits for a sign of its master: longer than a master
    /// listens, for the host that paused may have been the master's as well.
    pub(super) fn recovering(interval: Interval) -> Duration {
        interval.duration() * 2
    }
}
