//! Whether the workers serve: what decides that this gateway may have the floating addresses.
//!
//! The VRRP driver asks before each advert, from a thread of its own that must never wait; so all
//! there is to it are atomics, which only that thread writes. Time is what the driver has seen
//! pass: of a pause of the whole process (SIGSTOP, a snapshot of the machine) it counts little, as
//! the workers had no chance either.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A worker that is silent for longer is stuck. Workers show ten times a second that they live.
const STUCK: Duration = Duration::from_secs(1);

/// How long all of them must have been heard after that, so that addresses do not go to and fro
/// with a worker that is stuck every other second.
const SOUND: Duration = Duration::from_secs(3);

/// The most that is counted between two questions. Less than half of [`STUCK`]: after a pause the
/// workers have the time of at least another question to be heard.
const LONGEST: Duration = Duration::from_millis(450);

/// A worker that is heard at least that often is not silent.
const LIVELY: Duration = Duration::from_millis(500);

/// The verdict on the workers.
#[derive(Debug)]
pub struct Pulse {
    /// When the last question was asked, in nanoseconds; 0 = never.
    asked: AtomicU64,
    workers: Box<[Heard]>,
    is_stuck: AtomicBool,
    /// Nanoseconds for which all have been heard.
    sound: AtomicU64,
}

/// What has been heard of a worker.
#[derive(Debug, Default)]
struct Heard {
    beat: AtomicU64,
    /// Nanoseconds since it was another.
    silence: AtomicU64,
}

/// A worker that does not serve, or did not until a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Which one.
    pub worker: usize,
    /// For how long it has been silent.
    pub silence: Duration,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, silence } = self;
        if *silence > LIVELY {
            write!(f, "worker {worker} is stuck, silent for {:.1} s", silence.as_secs_f64())
        } else {
            write!(f, "a worker was stuck until a moment ago")
        }
    }
}

impl Pulse {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            asked: AtomicU64::new(0),
            workers: (0..workers).map(|_| Heard::default()).collect(),
            is_stuck: AtomicBool::new(false),
            sound: AtomicU64::new(0),
        }
    }

    /// Whether the workers serve `now`, a time on any clock, by their `beats`: numbers of which
    /// each grows as long as its worker lives.
    pub fn check(&self, now: Duration, beats: impl Iterator<Item = u64>) -> Result<(), Stuck> {
        let load = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let asked = self.asked.swap(now, Ordering::Relaxed);
        let passed = match asked {
            0 => 0,
            asked => now.saturating_sub(asked).min(LONGEST.as_nanos() as u64),
        };
        let mut longest = Stuck { worker: 0, silence: Duration::ZERO };
        for (worker, (heard, beat)) in self.workers.iter().zip(beats).enumerate() {
            let before = heard.beat.swap(beat, Ordering::Relaxed);
            let silence = if before == beat { load(&heard.silence) + passed } else { 0 };
            heard.silence.store(silence, Ordering::Relaxed);
            let silence = Duration::from_nanos(silence);
            if silence > longest.silence {
                longest = Stuck { worker, silence };
            }
        }
        if longest.silence > STUCK {
            self.is_stuck.store(true, Ordering::Relaxed);
            self.sound.store(0, Ordering::Relaxed);
            return Err(longest);
        }
        if !self.is_stuck.load(Ordering::Relaxed) {
            return Ok(());
        }
        let sound = if longest.silence > LIVELY { 0 } else { load(&self.sound) + passed };
        self.sound.store(sound, Ordering::Relaxed);
        if Duration::from_nanos(sound) < SOUND {
            return Err(longest);
        }
        self.is_stuck.store(false, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers, and a driver that asks.
    struct World {
        pulse: Pulse,
        now: Duration,
        beats: [u64; 2],
    }

    impl World {
        fn new() -> Self {
            Self { pulse: Pulse::new(2), now: Duration::from_secs(1), beats: [1, 1] }
        }

        /// Lets `time` pass, with a question at the end of each `step`; workers beat ten times a
        /// second if they are `alive`. The last verdict, and for how long it has been the same.
        fn pass(&mut self, time: Duration, step: Duration, alive: [bool; 2]) -> (bool, Duration) {
            let (end, mut verdict, mut since) = (self.now + time, None, self.now);
            while self.now < end {
                self.now += step;
                for (beat, alive) in self.beats.iter_mut().zip(alive) {
                    if alive {
                        *beat = (self.now.as_millis() / 100) as u64 + 2;
                    }
                }
                let found = self.pulse.check(self.now, self.beats.into_iter()).is_ok();
                if verdict != Some(found) {
                    (verdict, since) = (Some(found), self.now - step);
                }
            }
            (verdict.unwrap(), self.now - since)
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_stuck_worker_is_found_whatever_the_interval() {
        for step in [10, 100, 300] {
            let mut world = World::new();
            assert!(world.pass(ms(5_000), ms(step), [true, true]).0, "{step}");
            let (sound, since) = world.pass(ms(3_000), ms(step), [true, false]);
            assert!(!sound, "{step}");
            let took = ms(3_000).saturating_sub(since);
            assert!((ms(900)..ms(1_700)).contains(&took), "{step}: {took:?}");
        }
        // Asked once a second, it takes three questions.
        let mut world = World::new();
        assert!(world.pass(ms(3_000), ms(1_000), [true, true]).0);
        assert!(!world.pass(ms(3_000), ms(1_000), [false, true]).0);
    }

    #[test]
    fn it_has_to_be_heard_for_a_while_before_it_is_believed() {
        let mut world = World::new();
        world.pass(ms(1_000), ms(100), [true, true]);
        assert!(!world.pass(ms(2_000), ms(100), [false, false]).0);
        assert!(!world.pass(ms(2_000), ms(100), [true, true]).0);
        // Silent again, if only for less than it takes to be stuck: from the beginning.
        assert!(!world.pass(ms(800), ms(100), [true, false]).0);
        assert!(!world.pass(ms(2_500), ms(100), [true, true]).0);
        let (sound, since) = world.pass(ms(1_000), ms(100), [true, true]);
        assert!(sound && since >= ms(300), "{since:?}");
    }

    #[test]
    fn a_pause_of_the_whole_process_is_nobodys_fault() {
        for step in [10, 100, 1_000] {
            let mut world = World::new();
            world.pass(ms(2_000), ms(step), [true, true]);
            for pause in [1_000, 6_000, 86_400_000] {
                world.now += ms(pause);
                // The driver comes first, the workers only some time later.
                assert!(world.pass(ms(step.min(400)), ms(step.min(400)), [false, false]).0);
                assert!(world.pass(ms(3_000), ms(step), [true, true]).0, "{step} {pause}");
            }
        }
    }

    #[test]
    fn it_says_which() {
        let mut world = World::new();
        world.pass(ms(1_000), ms(100), [true, true]);
        world.pass(ms(2_000), ms(100), [true, false]);
        let told = world.pulse.check(world.now, world.beats.into_iter()).unwrap_err();
        assert_eq!(told.worker, 1);
        assert!(told.to_string().starts_with("worker 1 is stuck, silent for "), "{told}");
        world.pass(ms(1_000), ms(100), [true, true]);
        let told = world.pulse.check(world.now, world.beats.into_iter()).unwrap_err();
        assert_eq!(told.to_string(), "a worker was stuck until a moment ago");
    }
}
