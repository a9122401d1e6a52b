//! When tasks want to be looked at: a ring of four seconds in steps of four milliseconds.
//!
//! Pure: time is a number of milliseconds that the caller counts. What is due later than the ring
//! reaches is looked at when the ring has gone round, and put in again; so entries of tasks that
//! wait for an hour, or have ended, cost next to nothing and need never be taken out.

/// Milliseconds of a step.
const STEP: u64 = 4;

/// Steps of the ring.
const STEPS: usize = 1024;

/// Tasks by the time at which they are due.
#[derive(Debug)]
pub(super) struct Wheel {
    buckets: Box<[Vec<u32>]>,
    /// A bit for each bucket that is not empty.
    occupied: [u64; STEPS / 64],
    /// The step that comes next; earlier ones are over.
    next: u64,
}

impl Wheel {
    /// An empty wheel, at time 0.
    pub(super) fn new() -> Self {
        let buckets = (0..STEPS).map(|_| Vec::new()).collect();
        Self { buckets, occupied: [0; STEPS / 64], next: 0 }
    }

    /// Puts a task in, and says in which millisecond it will be due: at `at`, rounded up to a step,
    /// or earlier if that is further off than the ring reaches.
    pub(super) fn insert(&mut self, at: u64, task: u32) -> u64 {
        let step = at.div_ceil(STEP).clamp(self.next, self.next + STEPS as u64 - 1);
        let bucket = bucket(step);
        self.buckets[bucket].push(task);
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        step * STEP
    }

    /// Takes out all that is due at `now`, or was.
    pub(super) fn expire(&mut self, now: u64, due: &mut Vec<u32>) {
        let end = now / STEP + 1;
        while let Some(step) = self.earliest().filter(|&step| step < end) {
            let bucket = bucket(step);
            due.append(&mut self.buckets[bucket]);
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            self.next = step + 1;
        }
        self.next = self.next.max(end);
    }

    /// The millisecond at which something is due next.
    pub(super) fn due(&self) -> Option<u64> {
        self.earliest().map(|step| step * STEP)
    }

    fn earliest(&self) -> Option<u64> {
        let first = bucket(self.next);
        let words = self.occupied.len();
        // The word of the first bucket comes twice: its high bits first, its low bits last.
        (0..=words).find_map(|turn| {
            let word = (first / 64 + turn) % words;
            let mask = match turn {
                0 => u64::MAX << (first % 64),
                _ if turn == words => !(u64::MAX << (first % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            (bits != 0).then(|| {
                let found = word * 64 + bits.trailing_zeros() as usize;
                self.next + ((found + STEPS - first) % STEPS) as u64
            })
        })
    }
}

fn bucket(step: u64) -> usize {
    (step % STEPS as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expired(wheel: &mut Wheel, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn tasks_are_due_at_their_time_and_not_before() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.due(), None);
        assert_eq!(wheel.insert(9, 1), 12);
        assert_eq!(wheel.insert(8, 2), 8);
        assert_eq!(wheel.due(), Some(8));
        assert!(expired(&mut wheel, 7).is_empty());
        assert_eq!(expired(&mut wheel, 11), [2]);
        assert_eq!(expired(&mut wheel, 500), [1]);
        assert_eq!(wheel.due(), None);
        // What should have been earlier is due at once.
        assert_eq!(wheel.insert(3, 3), 504);
        assert_eq!(expired(&mut wheel, 504), [3]);
    }

    #[test]
    fn what_is_far_off_is_due_when_the_ring_has_gone_round() {
        let mut wheel = Wheel::new();
        let due = wheel.insert(3_600_000, 1);
        assert_eq!(due, STEP * (STEPS as u64 - 1));
        assert!(expired(&mut wheel, due - 1).is_empty());
        assert_eq!(expired(&mut wheel, due), [1]);
    }

    proptest! {
        #[test]
        fn none_is_early_and_none_is_missed(
            steps in prop::collection::vec((0_u64..20_000, 0_u64..6000), 1..200),
        ) {
            let mut wheel = Wheel::new();
            let mut now = 0;
            let mut waiting: Vec<(u64, u32)> = Vec::new();
            for (task, (after, pause)) in (0..).zip(steps) {
                let due = wheel.insert(now + after, task);
                prop_assert!(due + STEP > now);
                prop_assert!(due < now + after + STEP || due <= now + STEP);
                waiting.push((due, task));
                let first = waiting.iter().map(|&(due, _)| due).min();
                prop_assert_eq!(wheel.due(), first);
                now += pause;
                let mut late: Vec<u32> =
                    waiting.iter().filter(|&&(due, _)| due <= now).map(|&(_, task)| task).collect();
                waiting.retain(|&(due, _)| due > now);
                late.sort_unstable();
                prop_assert_eq!(expired(&mut wheel, now), late);
            }
        }
    }
}
