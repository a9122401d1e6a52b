//! Limits against naive ones, in virtual time and with many threads.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;

use super::table::{BYTES, PLACES, SETS, WAYS};
use super::*;

const SECOND: Nanos = 1_000_000_000;

fn rate(count: u32, seconds: u64, burst: u32) -> Rate {
    Rate::new(count, Duration::from_secs(seconds), burst)
}

fn rules(connections: u32, rate: Option<Rate>) -> Rules {
    Rules {
        connections: NonZeroU32::new(connections),
        rate,
        prefix_v4: 32,
        prefix_v6: 64,
        action: Action::Reset,
    }
}

/// A source that falls into the first set.
fn in_one_set(number: usize) -> u64 {
    ((number + 1) * SETS) as u64
}

fn enters(table: &Arc<Table>, source: u64, now: Nanos, rate: &Rate) -> bool {
    table.enter(source, now, Some(rate), None).is_ok()
}

/// The example of [`Rate`].
#[test]
fn fifty_a_minute_with_a_burst_of_ten() {
    for (step, name) in [(SECOND / 100, "a flood"), (SECOND / 2, "a steady stream")] {
        let (rate, table) = (rate(50, 60, 10), Table::new());
        let mut by_minute = [0; 3];
        // A minute ends with the 60th second, and the next one begins after it.
        for now in (0..=180 * SECOND).step_by(step as usize) {
            let minute = now.saturating_sub(1) / (60 * SECOND);
            by_minute[minute as usize] += u32::from(enters(&table, 7, now, &rate));
        }
        assert_eq!(by_minute, [60, 50, 50], "{name}");
    }
    let table = Table::new();
    let at_once = (0..1_000).filter(|_| enters(&table, 7, SECOND, &rate(50, 60, 10))).count();
    assert_eq!(at_once, 10);
}

#[test]
fn who_keeps_to_the_rate_is_never_refused() {
    let (rate, table) = (rate(50, 60, 1), Table::new());
    assert!((0..1_000).all(|n| enters(&table, 7, n * 1_200_000_000, &rate)));
    // And a nanosecond too early is too early.
    let table = Table::new();
    assert!(enters(&table, 7, 0, &rate));
    assert!(!enters(&table, 7, 1_199_999_999, &rate));
    assert!(enters(&table, 7, 1_200_000_000, &rate));
}

#[test]
fn rates_at_their_limits() {
    let hourly = rate(1, 3_600, 1_000_000);
    let mut until = 0;
    let admitted = std::iter::from_fn(|| hourly.admit(until, 0).inspect(|&after| until = after));
    assert_eq!(admitted.take(1_000_001).count(), 1_000_000);
    let quick = rate(1_000_000, 1, 1);
    assert_eq!(quick.admit(0, 5), Some(1_005));
    // A process that is three hundred years old.
    let old = 300 * 365 * 86_400 * SECOND;
    assert!(hourly.admit(old, old).is_some_and(|until| until > old));
}

#[test]
fn sources_are_networks() {
    let now = Instant::now();
    let limiter = Limiter::new(rules(0, Some(rate(1, 3_600, 1))), now);
    let enters = |limiter: &Limiter, text: &str| limiter.enter(text.parse().unwrap(), now).is_ok();
    assert!(enters(&limiter, "192.0.2.1"));
    assert!(!enters(&limiter, "::ffff:192.0.2.1"), "the same in another notation");
    assert!(enters(&limiter, "192.0.2.2"));
    assert!(enters(&limiter, "2001:db8::1"));
    assert!(!enters(&limiter, "2001:db8::ffff:ffff:ffff:ffff"), "the same /64");
    assert!(enters(&limiter, "2001:db8:0:1::1"));
    // `::` and `0.0.0.0` are not one another.
    assert!(enters(&limiter, "::") && enters(&limiter, "0.0.0.0"));
    let wide = Rules { prefix_v4: 24, prefix_v6: 0, ..limiter.rules };
    let limiter = limiter.with(wide, now);
    assert!(enters(&limiter, "192.0.2.1"), "another thing is a source now");
    assert!(!enters(&limiter, "192.0.2.254") && enters(&limiter, "192.0.3.1"));
    assert!(enters(&limiter, "::1") && !enters(&limiter, "ffff::"));
    let all = Rules { prefix_v4: 0, ..wide };
    let limiter = limiter.with(all, now);
    assert!(enters(&limiter, "1.1.1.1") && !enters(&limiter, "255.255.255.255"));
}

#[test]
fn a_lease_is_one_place() {
    let now = Instant::now();
    let limiter = Limiter::new(rules(2, None), now);
    let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let first = limiter.enter(one, now).unwrap().unwrap();
    let second = limiter.enter(one, now).unwrap().unwrap();
    assert_eq!(limiter.enter(one, now).unwrap_err(), Limited::Connections);
    assert!(limiter.enter(other, now).is_ok());
    drop(first);
    let third = limiter.enter(one, now).unwrap().unwrap();
    assert_eq!(limiter.enter(one, now).unwrap_err(), Limited::Connections);
    // Who is served regardless counts as well.
    let beyond = limiter.enter_regardless(one, now).unwrap();
    drop((second, third));
    let again = limiter.enter(one, now).unwrap();
    assert_eq!(limiter.enter(one, now).unwrap_err(), Limited::Connections);
    drop((beyond, again));
    let panicked = thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            let _lease = limiter.enter(one, now);
            std::panic::resume_unwind(Box::new("on the way"));
        });
        panicking.join().is_err()
    });
    assert!(panicked);
    let all: Vec<_> = (0..2).map(|_| limiter.enter(one, now).unwrap()).collect();
    assert_eq!((all.len(), limiter.enter(one, now).is_err()), (2, true));
}

#[test]
fn who_is_refused_for_one_limit_uses_up_nothing_of_the_other() {
    let now = Instant::now();
    let client = "10.0.0.1".parse().unwrap();
    let limiter = Limiter::new(rules(1, Some(rate(1, 3_600, 2))), now);
    let held = limiter.enter(client, now).unwrap();
    for _ in 0..10 {
        assert_eq!(limiter.enter(client, now).unwrap_err(), Limited::Connections);
    }
    drop(held);
    drop(limiter.enter(client, now).unwrap());
    for _ in 0..10 {
        assert_eq!(limiter.enter(client, now).unwrap_err(), Limited::Rate);
    }
    let most = NonZeroU32::new(1);
    let memory = &limiter.memory.table;
    assert!(memory.enter(limiter.hash(client), 0, None, most).is_ok(), "no place is left behind");
}

/// What a reload does not change stays, and what it does is judged by the new rules.
#[test]
fn what_is_used_up_stays_used_up() {
    let (now, client) = (Instant::now(), "10.0.0.1".parse().unwrap());
    let admitted =
        |limiter: &Limiter, now| (0..100).filter(|_| limiter.enter(client, now).is_ok()).count();
    let minutely = rules(0, Some(rate(50, 60, 10)));
    let limiter = Limiter::new(minutely, now);
    assert_eq!(admitted(&limiter, now), 10);
    let limiter = limiter.with(minutely, now);
    assert_eq!(admitted(&limiter, now), 0);
    // Ten of twenty are used up. A longer interval is no longer wait for what came before.
    let limiter = limiter.with(rules(0, Some(rate(20, 3_600, 20))), now);
    assert_eq!(admitted(&limiter, now), 10);
    // All twenty are more than all of this; the next one comes back after an interval.
    let limiter = limiter.with(rules(0, Some(rate(1, 1, 5))), now);
    assert_eq!(admitted(&limiter, now), 0);
    assert_eq!(admitted(&limiter, now + Duration::from_secs(1)), 1);
    assert_eq!(admitted(&limiter, now + Duration::from_secs(6)), 5);
    // Connections at once are counted through all of it.
    let limiter = limiter.with(rules(3, None), now);
    let held = limiter.enter(client, now).unwrap();
    let limiter = limiter.with(rules(1, Some(rate(1, 1, 5))), now);
    assert_eq!(limiter.enter(client, now).unwrap_err(), Limited::Connections);
    drop(held);
    assert!(limiter.enter(client, now + Duration::from_secs(60)).is_ok());
}

#[test]
fn memory_is_what_it_is_said_to_be() {
    assert_eq!(PLACES, 131_072);
    assert!((3 << 20..4 << 20).contains(&BYTES), "{BYTES}");
}

/// A million sources, each of them new, while one tries all the time, and one keeps to the rate.
#[test]
fn a_crowd_neither_hides_the_guilty_nor_harms_others() {
    let (rate, now) = (rate(50, 60, 10), Instant::now());
    let limiter = Limiter::new(rules(0, Some(rate)), now);
    let (guilty, modest) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let mut admitted = (0, 0, 0);
    for n in 0..1_000_000u32 {
        // Twenty thousand a second: 50 seconds.
        let at = now + Duration::from_micros(u64::from(n) * 50);
        let crowd = Ipv6Addr::from((0x2001_0db8 << 96) | u128::from(n) << 64).into();
        admitted.0 += u32::from(limiter.enter(crowd, at).is_ok());
        if n % 10 == 0 {
            admitted.1 += u32::from(limiter.enter(guilty, at).is_ok());
        }
        if n % 24_000 == 0 {
            admitted.2 += u32::from(limiter.enter(modest, at).is_ok());
        }
    }
    // 50 seconds are 41 intervals of 1.2 seconds, and some.
    assert_eq!(admitted, (1_000_000, 10 + 41, 42));
}

/// Where all are guilty who are there, newcomers share what one source may do.
#[test]
fn a_full_set_forgets_no_guilty_one() {
    let (rate, table) = (rate(1, 60, 2), Table::new());
    for source in 0..WAYS {
        let admitted = (0..5).filter(|_| enters(&table, in_one_set(source), 0, &rate)).count();
        assert_eq!(admitted, 2, "source {source}");
    }
    let newcomers = |now| (100..200).filter(|&n| enters(&table, in_one_set(n), now, &rate)).count();
    assert_eq!(newcomers(1), 2);
    assert!((0..WAYS).all(|source| !enters(&table, in_one_set(source), 2, &rate)));
    // Another set is not concerned.
    assert!(enters(&table, in_one_set(0) + 1, 2, &rate));
    // Of the first 60 seconds one admission has come back to each: so they can be replaced, but who
    // takes the place of somebody who had used up something has that to pay off.
    let now = 61 * SECOND;
    let admitted = (300..400).filter(|&n| enters(&table, in_one_set(n), now, &rate)).count();
    assert_eq!(admitted, WAYS + 1);
    // At last all of it is free.
    let later = 1_000 * SECOND;
    for source in 500..500 + WAYS {
        let admitted = (0..5).filter(|_| enters(&table, in_one_set(source), later, &rate)).count();
        assert_eq!(admitted, 2, "source {source}");
    }
}

#[test]
fn who_holds_connections_is_not_forgotten() {
    let (table, most) = (Table::new(), NonZeroU32::new(2));
    let hold = |source| table.enter(in_one_set(source), 0, None, most);
    let mut held: Vec<_> = (0..WAYS).map(|source| hold(source).unwrap().unwrap()).collect();
    // All others of the set have two places together.
    let shared: Vec<_> = (100..110).filter_map(|source| hold(source).ok().flatten()).collect();
    assert_eq!(shared.len(), 2);
    held.extend((0..WAYS).map(|source| hold(source).unwrap().unwrap()));
    assert!((0..WAYS).all(|source| hold(source).is_err()));
    drop(shared);
    assert!(hold(200).is_ok(), "what was shared comes back");
    held.clear();
    let again: Vec<_> = (300..300 + WAYS).map(|source| hold(source).unwrap()).collect();
    assert_eq!(again.len(), WAYS);
}

/// However many threads there are, what passes is what one would let pass.
#[test]
fn threads_together_admit_no_more_and_no_less() {
    const THREADS: usize = 4;
    const SOURCES: usize = 40;
    for round in 0..20 {
        let (rate, table) = (rate(50, 60, 7), Table::new());
        let admitted: Vec<AtomicUsize> = (0..SOURCES).map(|_| AtomicUsize::new(0)).collect();
        let barrier = Barrier::new(THREADS);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (table, admitted, barrier) = (&table, &admitted, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    // Half of the places of a set, so that nobody shares.
                    for n in 0..SOURCES * 30 {
                        let source = (n + thread * round) % SOURCES;
                        let hash = ((source / 8) + (source % 8 + 1) * SETS) as u64;
                        let entered = table.enter(hash, SECOND, Some(&rate), None).is_ok();
                        admitted[source].fetch_add(usize::from(entered), Ordering::Relaxed);
                    }
                });
            }
        });
        let admitted: Vec<_> = admitted.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        assert_eq!(admitted, [7; SOURCES], "round {round}");
    }
}

/// Places that change hands all the time, among more sources than there are places: nobody has more
/// connections than allowed, and none is lost.
#[test]
fn threads_never_hold_more_than_there_may_be() {
    const SOURCES: usize = 3 * WAYS;
    let (table, most) = (Table::new(), NonZeroU32::new(3));
    let held: Vec<AtomicU32> = (0..SOURCES).map(|_| AtomicU32::new(0)).collect();
    let worst = AtomicU32::new(0);
    let fast = rate(1_000_000, 1, 1_000);
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let (table, held, worst, fast) = (&table, &held, &worst, &fast);
            scope.spawn(move || {
                let mut random = thread + 1;
                let mut leases: Vec<(usize, Lease)> = Vec::new();
                for n in 0..60_000u64 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    if random.is_multiple_of(3) || leases.len() > 12 {
                        if !leases.is_empty() {
                            let at = (random >> 32) as usize % leases.len();
                            let (source, lease) = leases.swap_remove(at);
                            // First the count, then the place: so the count is never too high.
                            held[source].fetch_sub(1, Ordering::SeqCst);
                            drop(lease);
                        }
                        continue;
                    }
                    let source = (random >> 40) as usize % SOURCES;
                    let limit = random.is_multiple_of(2).then_some(fast);
                    let entered = table.enter(in_one_set(source), n * 1_000, limit, most);
                    if let Ok(Some(lease)) = entered {
                        let now = held[source].fetch_add(1, Ordering::SeqCst) + 1;
                        worst.fetch_max(now, Ordering::SeqCst);
                        leases.push((source, lease));
                    }
                }
                for (source, lease) in leases {
                    held[source].fetch_sub(1, Ordering::SeqCst);
                    drop(lease);
                }
            });
        }
    });
    // A source may have some of its own, and some of those that are shared, from before it had a
    // place: never more than both.
    let worst = worst.load(Ordering::SeqCst);
    assert!((3..=6).contains(&worst), "{worst}");
    // All places are free again: everybody who comes now, one after the other, finds one.
    for source in 0..SOURCES {
        let later = 10_000 * SECOND;
        let leases: Vec<_> = (0..5)
            .filter_map(|_| table.enter(in_one_set(source), later, None, most).ok().flatten())
            .collect();
        assert_eq!(leases.len(), 3, "source {source}");
    }
}

/// A bucket that is filled by and by, in the simplest of arithmetic.
struct Bucket {
    /// In parts of a period: so nothing is rounded.
    level: u128,
    last: Nanos,
}

impl Bucket {
    fn admit(&mut self, now: Nanos, count: u32, period: Nanos, burst: u32) -> bool {
        let full = u128::from(burst) * u128::from(period);
        let passed = u128::from(now - self.last) * u128::from(count);
        self.level = (self.level + passed).min(full);
        self.last = now;
        let enough = self.level >= u128::from(period);
        if enough {
            self.level -= u128::from(period);
        }
        enough
    }
}

/// What the fuzzer has found worth keeping.
#[test]
fn kept_sequences() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/limiter");
    let files: Vec<_> =
        std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.iter().for_each(|file| laws::sequence(&std::fs::read(file).unwrap()));
}

proptest! {
    #[test]
    fn any_sequence(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        laws::sequence(&bytes);
    }

    #[test]
    fn it_is_a_bucket(
        // Divisors of a second, so that the interval is not rounded.
        count in prop::sample::select(vec![1u32, 2, 5, 8, 50, 64, 100, 1_000, 40_000]),
        seconds in prop::sample::select(vec![1u64, 60, 3_600]),
        burst in 1u32..20,
        gaps in prop::collection::vec((0u64..4, 0u64..3_000_000_000), 0..200),
    ) {
        let rate = rate(count, seconds, burst);
        let period = seconds * SECOND;
        let table = Table::new();
        let mut bucket =
            Bucket { level: u128::from(burst) * u128::from(period), last: 0 };
        let mut now = 0;
        for (scale, gap) in gaps {
            now += [0, gap / 100_000, gap / 1_000 * seconds, gap * seconds / 7][scale as usize];
            let expected = bucket.admit(now, count, period, burst);
            prop_assert_eq!(enters(&table, 3, now, &rate), expected, "at {}", now);
        }
    }

    /// Sources that come and go, against a map that forgets nothing.
    #[test]
    fn a_table_with_room_is_a_map(
        steps in prop::collection::vec((0usize..8, 0u8..3, 0u64..2_000_000_000), 0..200),
    ) {
        let (rate, most) = (rate(3, 1, 2), NonZeroU32::new(2));
        let table = Table::new();
        let mut untils: HashMap<usize, Nanos> = HashMap::new();
        let mut leases: Vec<(usize, Lease)> = Vec::new();
        let mut now = 0;
        for (source, what, gap) in steps {
            now += gap / 8;
            if what == 0 {
                if let Some(at) = leases.iter().position(|(own, _)| *own == source) {
                    leases.swap_remove(at);
                }
                continue;
            }
            let held = leases.iter().filter(|(own, _)| *own == source).count();
            let until = untils.entry(source).or_default();
            let expected = match rate.admit(*until, now) {
                _ if held >= 2 => Err(Limited::Connections),
                None => Err(Limited::Rate),
                Some(after) => {
                    *until = after;
                    Ok(())
                }
            };
            let entered = table.enter(in_one_set(source), now, Some(&rate), most);
            prop_assert_eq!(entered.as_ref().map(|_| ()).map_err(|limited| *limited), expected);
            if let Ok(Some(lease)) = entered {
                leases.push((source, lease));
            }
        }
    }
}
