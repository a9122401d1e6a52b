//! Counts by name: what one process tells the next of what it has counted.
//!
//! A name is what [`Named::each`] says; the next process adds what it knows the name of, and leaves
//! the rest, so that either may be older than the other.

use std::collections::BTreeMap;

use super::{
    BackendStats, ConnectFailure, Count, Handshake, HandshakeFailure, Hello, ListenerStats,
    PerWorker, PoolStats, Reason,
};

use crate::limit::Limited;

/// Counts by name.
pub type Tally = BTreeMap<String, u64>;

/// Counts that have names.
pub trait Named {
    /// Tells all of them.
    fn each(&self, tell: &mut dyn FnMut(&str, &Count));
}

impl Named for ListenerStats {
    fn each(&self, tell: &mut dyn FnMut(&str, &Count)) {
        let Self {
            opened,
            closed,
            bytes_in,
            bytes_out,
            hellos,
            handshakes,
            handshake_failures,
            limited,
        } = self;
        tell("opened", opened);
        tell("bytes_in", bytes_in);
        tell("bytes_out", bytes_out);
        for reason in Reason::ALL {
            tell(&format!("closed {}", reason.name()), closed.of(reason as usize));
        }
        for hello in Hello::ALL {
            tell(&format!("hello {}", hello.name()), hellos.of(hello as usize));
        }
        for handshake in Handshake::ALL {
            let how = if handshake.is_resumed() { " resumed" } else { "" };
            let name = format!("handshake {}{how}", handshake.version());
            tell(&name, handshakes.of(handshake as usize));
        }
        for failure in HandshakeFailure::ALL {
            let name = format!("handshake failure {}", failure.name());
            tell(&name, handshake_failures.of(failure as usize));
        }
        for limit in Limited::ALL {
            tell(&format!("limited {}", limit.name()), limited.of(limit as usize));
        }
    }
}

impl Named for BackendStats {
    fn each(&self, tell: &mut dyn FnMut(&str, &Count)) {
        let Self { connections, connect_nanoseconds, connect_failures, bytes_in, bytes_out } = self;
        tell("connections", connections);
        tell("connect_nanoseconds", connect_nanoseconds);
        tell("bytes_in", bytes_in);
        tell("bytes_out", bytes_out);
        for failure in ConnectFailure::ALL {
            let name = format!("connect failure {}", failure.name());
            tell(&name, connect_failures.of(failure as usize));
        }
    }
}

impl Named for PoolStats {
    fn each(&self, tell: &mut dyn FnMut(&str, &Count)) {
        let Self { retries } = self;
        tell("retries", retries);
    }
}

impl<T: Named> PerWorker<T> {
    /// The sums over all workers and the processes before this one; nothing of what is 0.
    pub fn tally(&self) -> Tally {
        let mut sums = Tally::new();
        for padded in &self.0 {
            padded.0.each(&mut |name, count| match count.get() {
                0 => {}
                count => *sums.entry(name.to_owned()).or_default() += count,
            });
        }
        sums
    }

    /// Adds what another process has counted. For the control plane alone.
    pub fn add(&self, tally: &Tally) {
        self.inherited().each(&mut |name, count| {
            if let Some(more) = tally.get(name) {
                count.add(*more);
            }
        });
    }
}

/// What a tally has grown by since an earlier one.
pub fn growth(now: &Tally, before: Option<&Tally>) -> Tally {
    let before = |name| before.and_then(|before| before.get(name)).copied().unwrap_or(0);
    let more = now.iter().map(|(name, count)| (name, count.saturating_sub(before(name))));
    more.filter(|(_, more)| *more > 0).map(|(name, more)| (name.clone(), more)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_has_counted_is_added_in_the_next_as_far_as_it_is_known_there() {
        let old = PerWorker::<ListenerStats>::new(2);
        old.of(0).opened.add(3);
        old.of(1).opened.add(4);
        old.of(1).closed.of(Reason::Drained as usize).add(2);
        let mut tally = old.tally();
        assert_eq!(tally.len(), 2, "{tally:?}");
        tally.insert("of a later version".to_owned(), 9);

        let new = PerWorker::<ListenerStats>::new(1);
        new.of(0).opened.add(1);
        new.add(&tally);
        assert_eq!(new.sum(|s| &s.opened), 8);
        assert_eq!(new.sum(|s| s.closed.of(Reason::Drained as usize)), 2);

        old.of(0).opened.add(5);
        let grown = growth(&old.tally(), Some(&tally));
        assert_eq!(grown, Tally::from([("opened".to_owned(), 5)]));
        new.add(&grown);
        assert_eq!(new.sum(|s| &s.opened), 13);
    }

    #[test]
    fn no_two_counts_have_the_same_name() {
        let (mut names, mut count) = (Tally::new(), 0);
        ListenerStats::default().each(&mut |name, _| {
            names.insert(name.to_owned(), 0);
            count += 1;
        });
        assert_eq!(names.len(), count);
    }
}
