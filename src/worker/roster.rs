//! Which connections of this worker are at which backend.
//!
//! A connection joins when it begins to connect to a backend, and leaves when it ends. The control plane asks
//! through it how old the oldest ones are, and has those of a backend cut. It costs a connection
//! twenty-four bytes and two stores; nothing looks at it while connections run but their own entry.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::event_loop::Task;

/// For each backend, by id, that has connections here: when the oldest of them was accepted.
pub type Census = HashMap<u64, Instant>;

/// The connections of a worker.
#[derive(Debug)]
pub struct Roster {
    began: Instant,
    entries: RefCell<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    places: Vec<Entry>,
    vacant: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    backend: u64,
    /// Seconds after [`Roster::began`].
    since: u32,
    /// `None` where the place is vacant.
    task: Option<Task>,
    cut: Option<Cut>,
}

/// Why the connections of a backend are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The operator's patience with a drain is over.
    Drained,
    /// Its checks say that it is down.
    BackendDown,
}

impl Roster {
    /// Nobody is here yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, entries: RefCell::default() }
    }

    /// A connection that was accepted at `since`, and that `task` serves, goes to a backend.
    pub fn join(&self, backend: u64, since: Instant, task: Task) -> Seat<'_> {
        let since = since.saturating_duration_since(self.began).as_secs();
        let since = u32::try_from(since).unwrap_or(u32::MAX);
        let entry = Entry { backend, since, task: Some(task), cut: None };
        let mut entries = self.entries.borrow_mut();
        let place = match entries.vacant.pop() {
            Some(place) => {
                entries.places[place as usize] = entry;
                place
            }
            None => {
                entries.places.push(entry);
                u32::try_from(entries.places.len() - 1).expect("fewer connections than descriptors")
            }
        };
        Seat { roster: self, place }
    }

    /// Has the connections of a backend end. Returns what serves them, to be woken.
    pub(super) fn cut(&self, backend: u64, why: Cut) -> Vec<Task> {
        let mut entries = self.entries.borrow_mut();
        let of_backend = entries.places.iter_mut().filter(|entry| entry.backend == backend);
        of_backend
            .filter_map(|entry| {
                entry.cut.get_or_insert(why);
                entry.task
            })
            .collect()
    }

    /// When the oldest connection of each backend was accepted.
    pub(super) fn census(&self) -> Census {
        let mut oldest: HashMap<u64, u32> = HashMap::new();
        for entry in self.entries.borrow().places.iter().filter(|entry| entry.task.is_some()) {
            let since = oldest.entry(entry.backend).or_insert(entry.since);
            *since = entry.since.min(*since);
        }
        let at = |since: u32| self.began + Duration::from_secs(since.into());
        oldest.into_iter().map(|(backend, since)| (backend, at(since))).collect()
    }
}

/// A connection's place in the roster; given up when dropped.
#[derive(Debug)]
pub struct Seat<'a> {
    roster: &'a Roster,
    place: u32,
}

impl Seat<'_> {
    /// Why the connection is to end now, by a reset; `None` = it is not.
    #[inline]
    pub fn cut(&self) -> Option<Cut> {
        self.roster.entries.borrow().places[self.place as usize].cut
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut entries = self.roster.entries.borrow_mut();
        let entry = &mut entries.places[self.place as usize];
        (entry.task, entry.cut) = (None, None);
        // No backend has this id: they are counted from 0.
        entry.backend = u64::MAX;
        entries.vacant.push(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_each_backend_is_known_and_only_its_own_are_cut() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let events = crate::event_loop::EventLoop::new().unwrap();
        let task = events.current();
        let roster = Roster::new(began);
        let old = roster.join(1, at(5), task);
        let young = roster.join(1, at(9), task);
        let other = roster.join(2, at(7), task);
        assert_eq!(roster.census(), Census::from([(1, at(5)), (2, at(7))]));
        drop(old);
        assert_eq!(roster.census(), Census::from([(1, at(9)), (2, at(7))]));
        assert_eq!(roster.cut(1, Cut::BackendDown).len(), 1);
        roster.cut(1, Cut::Drained);
        assert_eq!((young.cut(), other.cut()), (Some(Cut::BackendDown), None));
        drop(young);
        let again = roster.join(1, at(11), task);
        assert_eq!(again.cut(), None, "the place of one that was cut is a new one's");
        assert_eq!(roster.entries.borrow().places.len(), 3, "places are used again");
    }
}
