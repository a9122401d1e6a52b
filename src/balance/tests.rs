mod pictures;

use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::*;

fn group(policy: Policy, seats: &[(u16, u32)]) -> Group {
    let names: Vec<String> = (0..seats.len()).map(|n| format!("b{n}")).collect();
    let seats: Vec<Seat<'_>> = seats
        .iter()
        .zip(&names)
        .map(|(&(weight, limit), name)| Seat { name, weight, limit })
        .collect();
    let blocks = (0..seats.len().div_ceil(Block::CELLS)).map(|_| Block::new()).collect();
    let group = Group::new(policy, &seats, blocks, Arc::default());
    for (slot, seat) in seats.iter().enumerate() {
        group.cell(slot).set_weight(u32::from(seat.weight) * WEIGHT_ONE);
    }
    group
}

fn equal(policy: Policy, count: usize) -> Group {
    group(policy, &vec![(100, 0); count])
}

fn request(entropy: u64) -> Request<'static> {
    Request { client: mix(entropy), entropy, tried: &[] }
}

/// Picks, gives the lease back at once, and counts per slot.
fn counts(group: &Group, picks: u64) -> Vec<u64> {
    let mut counts = vec![0; group.limits.len()];
    for n in 0..picks {
        let slot = group.pick(&request(n)).unwrap();
        group.cell(slot).release();
        counts[slot] += 1;
    }
    counts
}

const POLICIES: [Policy; 4] =
    [Policy::RoundRobin, Policy::LeastConnections, Policy::Random, Policy::SourceHash];

#[test]
fn round_robin_is_exact() {
    assert_eq!(counts(&group(Policy::RoundRobin, &[(5, 0), (1, 0), (1, 0)]), 700), [500, 100, 100]);
}

#[test]
fn round_robin_is_exact_across_threads() {
    let group = group(Policy::RoundRobin, &[(5, 0), (1, 0), (1, 0)]);
    let total = thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(|| counts(&group, 7_000))).collect();
        let mut total = [0; 3];
        for worker in workers {
            for (slot, count) in worker.join().unwrap().into_iter().enumerate() {
                total[slot] += count;
            }
        }
        total
    });
    assert_eq!(total, [40_000, 8_000, 8_000]);
}

#[test]
fn least_connections_is_exact_across_threads() {
    let group = group(Policy::LeastConnections, &[(200, 0), (100, 0)]);
    thread::scope(|scope| {
        for worker in 0..8 {
            let group = &group;
            scope.spawn(move || {
                for n in 0..300 {
                    group.pick(&request(worker * 1_000 + n)).unwrap();
                }
            });
        }
    });
    assert_eq!((group.cell(0).load().active(), group.cell(1).load().active()), (1_600, 800));
}

#[test]
fn equally_loaded_backends_take_turns() {
    assert_eq!(counts(&equal(Policy::LeastConnections, 4), 400), [100; 4]);
    let group = equal(Policy::LeastConnections, 4);
    group.cell(1).set_weight(0);
    assert_eq!(counts(&group, 300), [100, 0, 100, 100], "whoever follows a gap gets no more");
}

#[test]
fn random_follows_the_weights_when_idle_and_the_load_when_not() {
    let idle = counts(&group(Policy::Random, &[(300, 0), (100, 0)]), 40_000);
    assert!((29_000..31_000).contains(&idle[0]), "{idle:?}");
    let group = equal(Policy::Random, 10);
    for n in 0..1_000 {
        group.pick(&request(n)).unwrap();
    }
    let held: Vec<_> = (0..10).map(|slot| group.cell(slot).load().active()).collect();
    assert!(held.iter().all(|active| (95..=105).contains(active)), "{held:?}");
}

#[test]
fn a_client_keeps_its_backend() {
    let group = equal(Policy::SourceHash, 8);
    for client in 0..100 {
        let request = |entropy| Request { client, entropy, tried: &[] };
        let first = group.pick(&request(1)).unwrap();
        assert!((2..20).all(|entropy| group.pick(&request(entropy)).unwrap() == first));
    }
}

#[test]
fn down_full_and_tried_backends_are_left_out() {
    for policy in POLICIES {
        let group = group(policy, &[(1, 0), (1, 1), (1, 0), (0, 0)]);
        group.cell(0).set_weight(0);
        let tried = [2];
        let request = |entropy| Request { client: entropy, entropy, tried: &tried };
        assert_eq!(group.pick(&request(1)), Ok(1), "{policy:?}");
        assert_eq!(group.pick(&request(2)), Err(Unavailable::Full), "{policy:?}");
        group.cell(1).set_weight(0);
        assert_eq!(group.pick(&request(3)), Err(Unavailable::Down), "{policy:?}");
    }
    for policy in POLICIES {
        assert_eq!(group(policy, &[]).pick(&request(0)), Err(Unavailable::Down));
    }
}

#[test]
fn a_ramping_backend_gets_its_share() {
    for policy in [Policy::RoundRobin, Policy::Random, Policy::SourceHash] {
        let group = equal(policy, 4);
        group.cell(2).set_weight(25 * WEIGHT_ONE);
        let counts = counts(&group, 13_000);
        assert!((900..1_100).contains(&counts[2]), "{policy:?}: {counts:?}");
    }
    for policy in POLICIES {
        let group = equal(policy, 1);
        group.cell(0).set_weight(1);
        assert_eq!(counts(&group, 10), [10], "{policy:?}: nobody else is there");
    }
}

/// A thousand, of which only these slots have a weight; the others count with 100 in the shares.
fn sparse(policy: Policy, up: &[(usize, u16)]) -> Group {
    let mut seats = vec![(100, 0); 1_000];
    for &(slot, weight) in up {
        seats[slot].0 = weight;
    }
    let group = group(policy, &seats);
    for slot in (0..1_000).filter(|slot| up.iter().all(|(up, _)| up != slot)) {
        group.cell(slot).set_weight(0);
    }
    group
}

#[test]
fn the_last_few_of_many_keep_their_shares() {
    // Neighbours on the wheel: the next from a random place would nearly always be the first.
    let up = [(500, 100), (501, 300), (502, 100)];
    for (policy, tolerance) in [(Policy::RoundRobin, 0), (Policy::Random, 250)] {
        let group = sparse(policy, &up);
        let counts = counts(&group, 10_000);
        for (slot, due) in [(500, 2_000u64), (501, 6_000), (502, 2_000)] {
            assert!(counts[slot].abs_diff(due) <= tolerance, "{policy:?}: {:?}", &counts[500..503]);
        }
        group.cell(500).set_weight(50 * WEIGHT_ONE);
        let counts = self::counts(&group, 9_000);
        if policy == Policy::Random {
            assert!(
                counts[500].abs_diff(1_000) < 200,
                "half of its weight: {:?}",
                &counts[500..503]
            );
        }
    }
}

#[test]
fn the_less_loaded_of_the_last_two_is_drawn() {
    let group = sparse(Policy::Random, &[(0, 100), (999, 100)]);
    for n in 0..1_000 {
        group.pick(&request(n)).unwrap();
    }
    let held = [0, 999].map(|slot| group.cell(slot).load().active());
    assert!(held.iter().all(|active| (490..=510).contains(active)), "{held:?}");
}

/// Half of a thousand backends flap in another thread while this one picks: the steady half must
/// stay within one of each other.
#[test]
fn shares_stay_exact_while_half_the_pool_flaps() {
    let group = equal(Policy::RoundRobin, 1_000);
    let done = AtomicBool::new(false);
    let counts = thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !done.load(Ordering::Relaxed) {
                let slot = (mix(round) % 500) as usize * 2;
                group.cell(slot).set_weight(if round.is_multiple_of(2) {
                    0
                } else {
                    100 * WEIGHT_ONE
                });
                round += 1;
            }
        });
        let counts = counts(&group, 300_000);
        done.store(true, Ordering::Relaxed);
        counts
    });
    let steady: Vec<u64> = counts.into_iter().skip(1).step_by(2).collect();
    let (least, most) = (steady.iter().min().unwrap(), steady.iter().max().unwrap());
    assert!(most - least <= 1, "{least} to {most}");
}

proptest! {
    /// Whatever is up, near or far: round robin takes the next of it on the wheel, and least
    /// connections the first of the least loaded from where it was.
    #[test]
    fn the_next_and_the_least_are_found(
        slots in prop::collection::vec((0u16..4, prop::bool::weighted(0.1), 0u32..3), 1..300),
        from in 0u64..1_000,
    ) {
        let seats: Vec<_> = slots.iter().map(|&(weight, ..)| (weight, 0)).collect();
        for policy in [Policy::RoundRobin, Policy::LeastConnections] {
            let group = group(policy, &seats);
            for (slot, &(_, up, active)) in slots.iter().enumerate() {
                (0..active).for_each(|_| _ = group.cell(slot).lease(0));
                if !up {
                    group.cell(slot).set_weight(0);
                }
            }
            group.cursor.store(from, Ordering::Relaxed);
            let loads: Vec<_> = (0..slots.len()).map(|slot| group.cell(slot).load()).collect();
            let expected = if let Chooser::RoundRobin(wheel) = &group.chooser {
                (from..from + wheel.len())
                    .map(|position| wheel.at(position))
                    .find(|&slot| loads[slot].weight() > 0)
            } else {
                let first = if (from as usize) < slots.len() { from as usize } else { 0 };
                let in_order = (first..slots.len()).chain(0..first);
                in_order.clone().find(|&slot| {
                    loads[slot].weight() > 0
                        && in_order.clone().all(|other| !loads[other].less_loaded_than(loads[slot]))
                })
            };
            prop_assert_eq!(group.pick(&request(0)).ok(), expected);
        }
    }

    /// Whatever the weights, limits and history: a lease never goes to a backend of weight 0 or
    /// above its limit, and a pick fails only if there was no other.
    #[test]
    fn picks_are_sound(
        seats in prop::collection::vec((0u16..5, 0u32..4), 1..80),
        policy in prop::sample::select(POLICIES.to_vec()),
        steps in prop::collection::vec((any::<u64>(), 0u16..80, 0u32..3), 1..100),
    ) {
        let group = group(policy, &seats);
        let mut held = vec![0u32; seats.len()];
        for (entropy, slot, action) in steps {
            let slot = usize::from(slot) % seats.len();
            match action {
                0 => group.cell(slot).set_weight(
                    u32::from(seats[slot].0) * (entropy % u64::from(WEIGHT_ONE + 1)) as u32,
                ),
                1 if held[slot] > 0 => {
                    group.cell(slot).release();
                    held[slot] -= 1;
                }
                _ => {}
            }
            let tried = [slot as u16];
            let open = |candidate: usize| {
                let limit = seats[candidate].1;
                candidate != slot
                    && group.cell(candidate).load().weight() > 0
                    && (limit == 0 || held[candidate] < limit)
            };
            let request = Request { client: entropy, entropy, tried: &tried };
            // Looking is choosing, and changes nothing, however often.
            let glances = [(); 3].map(|()| group.peek(&request));
            let picked = group.pick(&request);
            prop_assert_eq!(glances, [picked; 3]);
            match picked {
                Ok(chosen) => {
                    prop_assert!(open(chosen));
                    held[chosen] += 1;
                }
                Err(_) => prop_assert!(!(0..seats.len()).any(open)),
            }
        }
        for (slot, &held) in held.iter().enumerate() {
            prop_assert_eq!(group.cell(slot).load().active(), held);
        }
    }
}
