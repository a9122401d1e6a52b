//! Histories that are written down: what happens to two or more routers in a network that is well,
//! with latencies and priorities that a seed decides.

use std::time::Duration;

use lockgate_vrrp::advert::Checksum;
use lockgate_vrrp::types::{Interval, Priority};

use crate::foreign::State;
use crate::history::{foreign, settings};
use crate::node::{Kind, Node, Pause, Role};
use crate::random::Random;
use crate::world::{Client, Event, Weather, World, address};
use crate::{for_each_seed, number};

/// Routers of ours with these priorities at one interval, the first of which has become master.
fn lan(seed: u64, priorities: &[u8], preempt: bool) -> (World, Duration) {
    let mut random = Random::new(seed);
    let interval = Interval::from_centis(random.pick(&[1, 10, 100])).unwrap();
    let nodes = priorities.iter().enumerate().map(|(node, &priority)| {
        let mut settings = settings(seed.is_multiple_of(3), node, priorities.len(), false);
        (settings.interval, settings.priority) = (interval, Priority::new(priority));
        settings.preempt = preempt;
        Node::ours(settings, address(seed.is_multiple_of(3), node))
    });
    let nodes = nodes.collect();
    let interval = interval.duration();
    let latency = interval / random.pick(&[1_000, 100, 20]);
    let weather = Weather { loss: 0, twice: 0, latency, jitter: interval / 100 };
    let mut world = World::new(random, nodes, weather);
    world.log = number("VRRP_SEED").map(|_| Vec::new());
    for behind in 0..priorities.len() {
        world.clients.push(Client { behind, owner: None, asks_every: interval * 7 });
    }
    world.start(0);
    // It waits for a master that speaks once a second.
    world.run(interval * 5 + Duration::from_secs(4));
    for node in 1..priorities.len() {
        world.start(node);
    }
    let more = interval.mul_f64(8.0 + world.random.below(100) as f64 / 100.0);
    world.run(more);
    assert_eq!(world.masters(0), [0]);
    (world, interval)
}

/// How long it takes until another router than the first is master.
fn takeover(world: &mut World, limit: Duration) -> Duration {
    let begin = world.now;
    while world.masters(0).iter().all(|&master| master == 0) {
        assert!(world.now - begin <= limit, "nobody took over within {limit:?}");
        world.run(limit / 1_000);
    }
    world.now - begin
}

fn margin(world: &World, limit: Duration) -> Duration {
    world.weather.latency + world.weather.jitter + limit / 500
}

#[test]
fn a_graceful_stop_hands_over_within_the_skew() {
    for_each_seed(500, |seed| {
        let second = 2 + (seed % 252) as u8;
        let (mut world, interval) = lan(seed, &[254, second, 1], true);
        let skew = interval * (256 - u32::from(second)) / 256;
        // Not right after an advert, which the last one could overtake on its way.
        let due = world.nodes[0].timeout().unwrap();
        world.run((due - world.now) + interval / 2);
        let effects = world.nodes[0].stop(world.now);
        world.apply(0, effects);
        let limit = skew + margin(&world, skew);
        // The third may be first, if its packets are faster than it has to wait for longer.
        takeover(&mut world, limit);
        world.run(interval * 10);
        assert_eq!(world.masters(0), [1]);
    });
}

#[test]
fn a_silent_death_is_noticed_within_the_down_interval() {
    for_each_seed(500, |seed| {
        let second = 2 + (seed % 252) as u8;
        let (mut world, interval) = lan(seed, &[254, second, 1], true);
        let down = interval * 3 + interval * (256 - u32::from(second)) / 256;
        world.nodes[0].crash();
        let limit = down + margin(&world, down);
        takeover(&mut world, limit);
        world.run(interval * 10);
        assert_eq!(world.masters(0), [1]);
    });
}

/// In the same place keepalived leaves clients without the address in nine of ten cases: the one
/// that was paused yields without a word, and the other never announces again.
#[test]
fn after_a_pause_no_client_is_left_behind() {
    for_each_seed(500, |seed| {
        let (mut world, interval) = lan(seed, &[200, 100], true);
        for client in 0..2 {
            world.schedule(interval * 4, Event::Ask(client));
        }
        let alone = seed.is_multiple_of(2);
        if alone {
            // A cut while it is paused: it hears nothing of its successor until it is mended.
            world.segments[0] = 1;
            world.clients[1].behind = 0;
        }
        world.pause(0, Pause::Process, interval * 20);
        world.run(interval * 10);
        assert_eq!(world.masters(0), [1]);
        if alone {
            world.segments[0] = 0;
        }
        world.run(interval * 10 + Duration::from_millis(1));
        // It has what was sent to it meanwhile, and yields in the moment that it wakes up.
        assert_eq!(world.nodes[0].role(), Role::Backup);
        world.run(world.weather.latency * 2 + interval * 3 / 2);
        assert_eq!(world.masters(0), [1]);
        // Preempting is another matter, and comes later.
        world.run(interval * 10 + Duration::from_millis(2_100));
        assert_eq!(world.masters(0), [0]);
        assert!(world.clients.iter().all(|client| client.owner == Some(0)));
    });
}

#[test]
fn the_loser_of_a_heal_says_so_and_the_winner_announces() {
    for_each_seed(500, |seed| {
        let (mut world, interval) = lan(seed, &[200, 100, 50], true);
        for client in 0..3 {
            world.schedule(interval, Event::Ask(client));
        }
        world.segments = vec![0, 1, 1];
        world.run(interval * 10 + Duration::from_millis(2_500));
        assert_eq!((world.masters(0), world.masters(1)), (vec![0], vec![1]));
        assert_eq!(world.clients[2].owner, Some(1));
        world.segments.fill(0);
        // No client asks from now on: what it knows it has been told.
        world.clients.iter_mut().for_each(|client| client.asks_every = Duration::from_secs(9_999));
        world.run(interval * 9 + Duration::from_millis(150));
        assert_eq!(world.masters(0), [0]);
        assert!(world.clients.iter().all(|client| client.owner == Some(0)), "seed {seed}");
    });
}

/// Of a machine that sleeps nobody keeps the packets: it must not take its own deafness for the
/// silence of the master.
#[test]
fn a_backup_that_slept_does_not_disturb_the_master() {
    for_each_seed(500, |seed| {
        let (mut world, interval) = lan(seed, &[100, 200], false);
        let kind = if seed.is_multiple_of(2) { Pause::Machine } else { Pause::Process };
        let length = interval.mul_f64(0.1 + world.random.below(3_000) as f64 / 100.0);
        let transition = world.last_transition;
        world.pause(1, kind, length);
        world.run(length + interval * 20);
        let woke_early = length > interval * 2 && length < interval * 5 && kind == Pause::Machine;
        if !woke_early {
            assert_eq!(world.last_transition, transition, "seed {seed}");
        }
    });
}

/// A busy system that wakes a router late every time must not make it take over.
#[test]
fn timers_that_are_late_make_no_masters() {
    for_each_seed(300, |seed| {
        let (mut world, interval) = lan(seed, &[200, 100], true);
        world.weather.jitter = interval;
        let transition = world.last_transition;
        world.run(interval * 200);
        assert_eq!(world.last_transition, transition, "seed {seed}");
    });
}

/// One packet that is forged: the master is back within the down interval of what it said.
#[test]
fn one_forged_advert_does_no_lasting_harm() {
    for_each_seed(60, |seed| {
        let (mut world, interval) = lan(seed, &[200, 100], true);
        let mut forger = foreign(&world.nodes[0].settings, address(seed.is_multiple_of(3), 90));
        forger.priority = 255;
        forger.interval = Interval::from_centis(4_095).unwrap();
        let mut node = Node::foreign(forger, world.nodes[0].settings.clone());
        let effects = node.start(world.now);
        for effect in effects {
            if let crate::node::Effect::Send { destination, bytes, .. } = effect {
                let source = node.address;
                world.transmit(None, crate::node::Flying { source, destination, bytes });
            }
        }
        let learned = Duration::from_millis(40_950);
        world.run(learned * 4 + interval * 2);
        assert_eq!(world.masters(0), [0]);
    });
}

/// keepalived takes one form of checksum, and its masters speak once a second.
#[test]
fn who_comes_to_a_slow_master_that_takes_another_checksum_is_no_second_master() {
    for_each_seed(500, |seed| {
        let mut random = Random::new(seed);
        let ours = if seed.is_multiple_of(2) { 100 } else { 200 };
        let priorities = [300 - ours, ours];
        let nodes = priorities.iter().enumerate().map(|(node, &priority)| {
            let mut settings = settings(false, node, 2, false);
            settings.priority = Priority::new(priority as u8);
            let own = address(false, node);
            if node == 1 {
                settings.interval = Interval::from_centis(random.pick(&[1, 10, 50])).unwrap();
                return Node::ours(settings, own);
            }
            settings.interval = Interval::from_centis(100).unwrap();
            let mut slow = foreign(&settings, own);
            slow.form = random.pick(&[Checksum::Rfc9568, Checksum::PseudoHeader]);
            Node::foreign(slow, settings)
        });
        let nodes = nodes.collect();
        let latency = Duration::from_millis(1);
        let weather = Weather { loss: 0, twice: 0, latency, jitter: latency };
        let mut world = World::new(random, nodes, weather);
        world.log = number("VRRP_SEED").map(|_| Vec::new());
        let second = Duration::from_secs(1);
        let (first, then) = if seed % 4 < 2 { (0, 1) } else { (1, 0) };
        world.start(first);
        let until = second * 5 + second * world.random.below(1_000) as u32 / 1_000;
        world.run(until);
        assert_eq!(world.masters(0), [first]);
        world.start(then);
        let expected = usize::from(ours == 200);
        for _ in 0..1_000 {
            world.run(second / 100);
            let masters = world.masters(0);
            if first == expected {
                assert_eq!(masters, [first], "a newcomer of lower priority takes nothing");
            }
            // Two only as long as a packet is on its way.
            if masters.len() > 1 {
                world.run(latency * 4);
                assert_eq!(world.masters(0).len(), 1);
            }
        }
        assert_eq!(world.masters(0), [expected]);
    });
}

#[test]
fn a_slow_master_is_waited_for_and_its_death_is_noticed_at_its_own_interval() {
    for_each_seed(300, |seed| {
        let mut random = Random::new(seed);
        let slow = Interval::from_centis(random.pick(&[200, 500, 4_095])).unwrap();
        let nodes = [(250, slow, false), (100, Interval::from_centis(10).unwrap(), true)];
        let nodes = nodes.into_iter().enumerate().map(|(node, (priority, interval, ours))| {
            let mut settings = settings(false, node, 2, false);
            (settings.priority, settings.interval) = (Priority::new(priority), interval);
            let own = address(false, node);
            if ours {
                return Node::ours(settings, own);
            }
            let foreign = foreign(&settings, own);
            Node::foreign(foreign, settings)
        });
        let nodes = nodes.collect();
        let latency = Duration::from_millis(1);
        let weather = Weather { loss: 0, twice: 0, latency, jitter: latency };
        let mut world = World::new(random, nodes, weather);
        let (slow, second) = (slow.duration(), Duration::from_secs(1));
        world.start(1);
        world.run(second * 5);
        assert_eq!(world.masters(0), [1]);
        world.start(0);
        // It hears somebody of lower priority, waits for its own time, and takes over.
        world.run(slow * 4);
        assert_eq!(world.masters(0), [0]);
        let before = world.last_transition;
        let more = slow * (2_000 + world.random.below(100) as u32) / 100;
        world.run(more);
        assert_eq!((world.masters(0), world.last_transition), (vec![0], before));
        world.nodes[0].crash();
        world.run(slow * 2 - latency * 2);
        assert_eq!(world.masters(0), [] as [usize; 0]);
        world.run(slow * 2 + second);
        assert_eq!(world.masters(0), [1]);
    });
}

/// A foreign master by the letter of the RFC that was paused believes itself still to be one.
#[test]
fn with_a_foreign_router_there_is_one_master_too() {
    for_each_seed(500, |seed| {
        let (mut world, interval) = lan(seed, &[150, 100], true);
        let own = world.nodes[1].address;
        let mut settings = world.nodes[1].settings.clone();
        settings.priority = Priority::new(if seed.is_multiple_of(2) { 200 } else { 100 });
        let mut other = foreign(&settings, own);
        other.state = State::Initialize;
        world.nodes[1].crash();
        world.nodes[1].kind = Kind::Foreign(other);
        world.nodes[1].settings = settings;
        world.start(1);
        world.run(interval * 6);
        let expected = if seed.is_multiple_of(2) { 1 } else { 0 };
        assert_eq!(world.masters(0), [expected]);
        world.pause(expected, Pause::Process, interval * 12);
        world.run(interval * 11);
        assert_eq!(world.masters(0), [1 - expected]);
        world.run(interval * 8);
        assert_eq!(world.masters(0), [expected]);
    });
}
