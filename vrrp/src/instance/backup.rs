//! What a backup knows, and what it waits for.

use core::net::IpAddr;

use super::{Cause, Parameters};
use crate::types::{Interval, Moment, Priority};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backup {
    /// The wait began then.
    pub(super) since: Moment,
    pub(super) wait: Wait,
    /// The interval of the master; `None` as long as nobody has been followed.
    pub(super) learned: Option<Interval>,
    /// The master that was heard last.
    pub(super) master: Option<IpAddr>,
    /// A master of lower priority is left alone until then.
    pub(super) tolerant_until: Option<Moment>,
    /// The last advert was of lower priority, and did not count.
    pub(super) preempting: bool,
    /// The wait is over, for this cause; the group is not.
    pub(super) ready: Option<Cause>,
}

/// What a backup waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Anybody to be heard, who may speak less often than we do: see [`Parameters::first`].
    First,
    /// The master to have been silent for long enough: `Active_Down_Interval`.
    Silence,
    /// Those of higher priority to go first, since the master has stepped down: `Skew_Time`.
    Turn,
    /// A master to be heard, after a pause.
    Sign,
}

impl Backup {
    pub(super) const fn new(now: Moment, wait: Wait) -> Self {
        Self {
            since: now,
            wait,
            learned: None,
            master: None,
            tolerant_until: None,
            preempting: false,
            ready: None,
        }
    }

    /// `Active_Adver_Interval`.
    pub(super) fn interval(&self, own: &Parameters) -> Interval {
        match (self.learned, self.wait) {
            (Some(learned), _) => learned,
            (None, Wait::First) => own.first(),
            (None, Wait::Silence | Wait::Turn | Wait::Sign) => own.interval,
        }
    }

    /// When the wait is over.
    pub(super) fn deadline(&self, own: &Parameters) -> Moment {
        let interval = self.interval(own);
        let wait = match self.wait {
            Wait::First | Wait::Silence => interval.down(own.priority),
            Wait::Turn => interval.skew(own.priority),
            Wait::Sign => Parameters::recovering(interval),
        };
        self.since + wait
    }

    /// Whether a timer that comes `now` shows that this host stood still. It may have missed more
    /// than the little that shows, so what makes it wait is an eighth of an interval; what makes
    /// it wait again has to be a whole one, or a busy host would wait for ever.
    pub(super) fn was_paused(&self, own: &Parameters, now: Moment) -> bool {
        let interval = self.interval(own).duration();
        let late = match self.wait {
            Wait::Silence => interval / 8,
            Wait::First | Wait::Turn | Wait::Sign => interval,
        };
        now > self.deadline(own) + late
    }

    /// The master, which sends at this interval, steps down.
    pub(super) fn released(&mut self, own: &Parameters, interval: Interval, now: Moment) {
        let deadline = self.deadline(own);
        if self.wait == Wait::First {
            self.learned = Some(own.learned(interval));
        }
        let interval = self.interval(own);
        let is_sooner = deadline < now + interval.skew(own.priority);
        let was_paused = now > deadline + interval.duration();
        // Never later than it was, or one who repeats it could keep us waiting for ever.
        if self.ready.is_none() && (!is_sooner || was_paused) {
            (self.since, self.wait) = (now, Wait::Turn);
        }
    }

    /// There is a master.
    pub(super) fn heard(
        &mut self,
        own: &Parameters,
        from: IpAddr,
        priority: Priority,
        interval: Interval,
        now: Moment,
    ) {
        self.master = Some(from);
        let follows = if own.follows(priority) {
            self.tolerant_until = None;
            true
        } else if own.priority.is_owner() {
            false
        } else {
            now < *self.tolerant_until.get_or_insert(now + own.preempt_delay)
        };
        self.preempting = !follows;
        if !follows && self.wait == Wait::First {
            // Whoever is there has been heard, and is no reason to wait for longer.
            (self.since, self.wait) = (now, Wait::Silence);
        }
        if follows {
            self.ready = None;
            self.learned = Some(own.learned(interval));
            (self.since, self.wait) = (now, Wait::Silence);
        }
    }
}
