//! Pools that change the priority of VRRP instances: what is to be said of each, and when.
//!
//! A pool without a usable backend counts at once. One that has a usable backend again counts as
//! well only after it has had one for a while: addresses that go to and fro with a flapping
//! backend would be worse than either gateway. Pure: time is an argument.

use std::time::{Duration, Instant};

/// How long a pool must have been usable again.
const RECOVERED: Duration = Duration::from_secs(3);

/// What is said of one pool to one instance.
#[derive(Debug)]
pub struct Tracked {
    /// Name of the instance.
    pub instance: String,
    /// Name of the pool.
    pub pool: String,
    /// Its index.
    pub index: usize,
    /// What the priority changes by while it has no usable backend.
    pub weight: i16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has been said yet.
    Unknown,
    Usable,
    Unusable,
    /// It is usable, and will be believed at this time.
    Recovering(Instant),
}

impl Tracked {
    /// A pool of which nothing has been said yet.
    pub fn new(instance: &str, pool: &str, index: usize, weight: i16) -> Self {
        let (instance, pool) = (instance.to_owned(), pool.to_owned());
        Self { instance, pool, index, weight, state: State::Unknown }
    }

    /// Takes over what is known by one that was before it.
    pub fn follows(&mut self, before: &Self) {
        self.state = match (before.state, self.weight == before.weight) {
            (state, true) => state,
            // It has to be said again.
            (State::Recovering(_) | State::Unusable, false) => State::Unknown,
            (state, false) => state,
        };
    }

    /// Whether it is about the same pool and instance.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.instance, &self.pool) == (&other.instance, &other.pool)
    }

    /// What was said last; `None` = nothing yet.
    pub fn said(&self) -> Option<i16> {
        match self.state {
            State::Unknown => None,
            State::Usable => Some(0),
            State::Unusable | State::Recovering(_) => Some(self.weight),
        }
    }

    /// The weight that is to be said from now on; `None` if nothing changes.
    pub fn update(&mut self, is_usable: bool, now: Instant) -> Option<i16> {
        let (state, said) = match (self.state, is_usable) {
            (State::Unknown | State::Usable, true) => (State::Usable, None),
            (State::Unusable, true) => (State::Recovering(now + RECOVERED), None),
            (State::Recovering(due), true) if now >= due => (State::Usable, Some(0)),
            (State::Recovering(due), true) => (State::Recovering(due), None),
            (State::Unknown | State::Usable, false) => (State::Unusable, Some(self.weight)),
            (State::Unusable | State::Recovering(_), false) => (State::Unusable, None),
        };
        self.state = state;
        said
    }

    /// When it has to be updated although nothing happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Recovering(due) => Some(due),
            State::Unknown | State::Usable | State::Unusable => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_at_once_and_is_believed_later() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut tracked = Tracked::new("public", "web", 0, -60);
        assert_eq!(tracked.update(true, at(0)), None);
        assert_eq!(tracked.update(false, at(100)), Some(-60));
        assert_eq!(tracked.update(false, at(200)), None);
        assert_eq!(tracked.update(true, at(300)), None);
        assert_eq!(tracked.poll_timeout(), Some(at(3_300)));
        // It flaps: from the beginning.
        assert_eq!(tracked.update(false, at(3_000)), None);
        assert_eq!(tracked.poll_timeout(), None);
        assert_eq!(tracked.update(true, at(4_000)), None);
        assert_eq!(tracked.update(true, at(6_999)), None);
        assert_eq!(tracked.update(true, at(7_000)), Some(0));
        assert_eq!((tracked.update(true, at(7_001)), tracked.poll_timeout()), (None, None));
        assert_eq!(tracked.said(), Some(0));
    }

    #[test]
    fn who_begins_without_a_backend_says_so() {
        let mut tracked = Tracked::new("public", "web", 0, -60);
        assert_eq!(tracked.update(false, Instant::now()), Some(-60));
    }

    #[test]
    fn a_reload_is_no_news_but_another_weight_is() {
        let now = Instant::now();
        let mut before = Tracked::new("public", "web", 0, -60);
        before.update(false, now);
        let mut same = Tracked::new("public", "web", 3, -60);
        assert!(same.is_same(&before));
        same.follows(&before);
        assert_eq!(same.update(false, now), None);
        let mut heavier = Tracked::new("public", "web", 0, -80);
        heavier.follows(&before);
        assert_eq!(heavier.update(false, now), Some(-80));
    }
}
