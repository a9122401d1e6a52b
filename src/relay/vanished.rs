//! Whether a peer is still there: what was sent to it stays unacknowledged for too long.
//!
//! `TCP_USER_TIMEOUT` asks the same, but its clock also runs while a peer has closed its window and
//! answers every probe (`tcp_probe_timer` in the kernel's net/ipv4/tcp_timer.c): one that is there, and
//! reads nothing for longer, would be cut. So it is the relay that asks, and only while something is
//! unacknowledged.

use std::time::Duration;

use crate::socket::Acknowledged;

/// Looks within the time that a peer has: it is found gone by so much of it later at most.
const LOOKS: u32 = 4;

/// Unanswered probes of a closed window that say that nobody is there. A single one may be on its way.
const PROBES: u8 = 2;

/// Looks in a row at which one peer had something to acknowledge, and has been silent since the first
/// of them. It is part of every connection, and says in four bytes what a time says in sixteen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unacknowledged(u32);

impl Unacknowledged {
    /// A look at the peer, not earlier than `pace` after the last, and now `passed` after it: whether
    /// it is gone. That is when `patience` has passed without a sign of it, although it had to give
    /// one.
    ///
    /// `unsent` are the bytes that it has not acknowledged; of a peer that has some, `acknowledged` is
    /// what the kernel knows.
    pub(super) fn is_gone(
        &mut self,
        unsent: u32,
        acknowledged: impl FnOnce() -> Option<Acknowledged>,
        patience: Duration,
        (pace, passed): (Duration, Duration),
    ) -> bool {
        let known = if unsent == 0 { None } else { acknowledged() };
        let Some(peer) = known else {
            self.0 = 0;
            return false;
        };
        let heard = peer.silence < passed;
        self.0 = if heard || self.0 == 0 { 1 } else { self.0.saturating_add(1) };
        if pace.saturating_mul(self.0 - 1) < patience {
            return false;
        }
        match peer.in_flight {
            // With a closed window these are probes. How many were not answered nobody says.
            true => peer.window != Some(0),
            false => peer.probes >= PROBES,
        }
    }

    /// Whether to look again.
    pub(super) fn is_pending(self) -> bool {
        self.0 > 0
    }
}

/// How long from look to look at peers that have so long; `None` = they have all the time that the
/// system gives them.
pub(super) fn pace(client: Option<Duration>, backend: Option<Duration>) -> Option<Duration> {
    // Rounded up, so that so many looks are not a moment too few.
    let pace = |patience: Duration| patience / LOOKS + Duration::from_nanos(1);
    client.into_iter().chain(backend).min().map(pace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn peer(silence: u64, in_flight: bool, probes: u8, window: u32) -> Option<Acknowledged> {
        let silence = Duration::from_secs(silence);
        Some(Acknowledged { silence, in_flight, probes, window: Some(window) })
    }

    const PACE: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(8));

    /// The second at which a peer is found gone, of five minutes in which it is looked at every eight
    /// seconds. It has something to acknowledge from the first second, and `kernel` says what is known
    /// of it at each.
    fn gone(kernel: impl Fn(u64) -> Option<Acknowledged>) -> Option<u64> {
        let mut unacknowledged = Unacknowledged::default();
        (0..300)
            .step_by(8)
            .find(|&second| unacknowledged.is_gone(1_000, || kernel(second), PATIENCE, PACE))
    }

    #[test]
    fn a_peer_that_acknowledges_nothing_is_gone() {
        assert_eq!(gone(|second| peer(second, true, 0, 65_535)), Some(32));
        // It was silent for long before anything was sent: that counts for nothing.
        assert_eq!(gone(|second| peer(600 + second, true, 0, 65_535)), Some(32));
        // It vanishes in the middle.
        assert_eq!(gone(|second| peer(second.saturating_sub(100), true, 0, 65_535)), Some(136));
    }

    #[test]
    fn a_peer_that_is_slow_is_not() {
        assert_eq!(gone(|_| peer(0, true, 0, 65_535)), None);
        // A closed window, and probes that are answered: the time between them grows to two minutes.
        assert_eq!(gone(|second| peer(second % 120, false, 0, 0)), None);
        assert_eq!(gone(|second| peer(second % 120, false, 1, 0)), None);
        assert_eq!(gone(|second| peer(second % 120, true, 0, 0)), None);
        assert_eq!(gone(|second| peer(second, false, 2, 0)), Some(32), "nobody answers");
        assert_eq!(gone(|_| None), None, "nothing is known of it");
    }

    #[test]
    fn what_is_acknowledged_is_forgotten() {
        let mut unacknowledged = Unacknowledged::default();
        for _ in 0..4 {
            assert!(!unacknowledged.is_gone(1, || peer(90, true, 0, 9), PATIENCE, PACE));
            assert!(unacknowledged.is_pending());
        }
        assert!(!unacknowledged.is_gone(0, || unreachable!("is not asked"), PATIENCE, PACE));
        assert!(!unacknowledged.is_pending());
        for look in 0..5 {
            let gone = unacknowledged.is_gone(1, || peer(90, true, 0, 9), PATIENCE, PACE);
            assert_eq!(gone, look == 4, "the time begins anew");
        }
    }

    #[test]
    fn it_is_looked_for_the_one_who_has_the_least_time() {
        let (short, long) = (Some(Duration::from_secs(4)), Some(Duration::from_secs(40)));
        assert_eq!(pace(None, None), None);
        for (client, backend) in [(short, long), (long, short), (short, None), (None, short)] {
            let pace = pace(client, backend).unwrap();
            assert!(pace * LOOKS >= Duration::from_secs(4) && pace < Duration::from_millis(1_001));
        }
        let mut patient = Unacknowledged::default();
        let pace = (Duration::from_secs(1), Duration::from_secs(1));
        let looks = (0..99).take_while(|_| {
            !patient.is_gone(1, || peer(90, true, 0, 9), Duration::from_secs(40), pace)
        });
        assert_eq!(looks.count(), 40);
    }
}
