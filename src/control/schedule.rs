//! When each backend is checked next.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// Times by backend, the next one at hand.
#[derive(Debug, Default)]
pub struct Schedule {
    order: BTreeSet<(Instant, u64)>,
    times: HashMap<u64, Instant>,
}

impl Schedule {
    /// Checks `backend` at `time`, and not when it was going to be.
    pub fn set(&mut self, backend: u64, time: Instant) {
        self.remove(backend);
        self.times.insert(backend, time);
        self.order.insert((time, backend));
    }

    /// Checks `backend` no more.
    pub fn remove(&mut self, backend: u64) {
        if let Some(time) = self.times.remove(&backend) {
            self.order.remove(&(time, backend));
        }
    }

    /// When `backend` is checked next.
    pub fn get(&self, backend: u64) -> Option<Instant> {
        self.times.get(&backend).copied()
    }

    /// When the next check of all is.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|&(time, _)| time)
    }

    /// Takes a backend whose time has come.
    pub fn pop(&mut self, now: Instant) -> Option<u64> {
        let &(time, backend) = self.order.first()?;
        if time > now {
            return None;
        }
        self.remove(backend);
        Some(backend)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_next_comes_first_and_each_once() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut schedule = Schedule::default();
        schedule.set(1, later);
        schedule.set(2, now);
        schedule.set(3, later);
        schedule.set(3, now);
        schedule.remove(9);
        assert_eq!((schedule.next(), schedule.get(1)), (Some(now), Some(later)));
        assert_eq!(schedule.pop(now), Some(2));
        assert_eq!(schedule.pop(now), Some(3));
        assert_eq!(schedule.pop(now), None);
        assert_eq!(schedule.pop(later), Some(1));
        assert_eq!(schedule.pop(later), None);
    }
}
