//! Two hosts between two links, a virtual router on each link, both in one group: as a firewall
//! has it, or a gateway whose clients and servers are on different networks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

use lockgate_vrrp::Router;
use lockgate_vrrp::advert::Packet;
use lockgate_vrrp::instance::{Actions, Role};
use lockgate_vrrp::router::{InstanceId, Obstacle, Sink, VirtualRouter};
use lockgate_vrrp::settings::Settings;
use lockgate_vrrp::types::{Moment, Priority};

use crate::for_each_seed;
use crate::history::settings;
use crate::random::Random;
use crate::world::address;

const LINKS: [&str; 2] = ["inside", "outside"];

struct Host {
    router: Router,
    ids: Vec<InstanceId>,
    obstacles: [bool; 2],
    priority: u8,
}

/// A packet in flight, in the order of arrival.
type Flying = Reverse<(Moment, u64, usize, usize, Vec<u8>)>;

struct Pair {
    now: Moment,
    random: Random,
    hosts: Vec<Host>,
    flying: BinaryHeap<Flying>,
    sequence: u64,
    /// Links whose hosts do not hear each other.
    cut: [bool; 2],
    transitions: u64,
}

fn host_settings(host: usize, link: usize, priority: u8) -> Settings {
    let mut settings = settings(false, host, 2, false);
    settings.name = LINKS[link].into();
    settings.interface = LINKS[link].into();
    settings.sync_group = Some("both".into());
    settings.priority = Priority::new(priority);
    settings
}

impl Pair {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let priorities = random.pick(&[[200, 100], [100, 200], [100, 100], [255, 100]]);
        let hosts = priorities.map(|priority| Host {
            router: Router::new(),
            ids: Vec::new(),
            obstacles: [false; 2],
            priority,
        });
        let mut pair = Self {
            now: Moment::new(Duration::from_secs(1_000)),
            random,
            hosts: hosts.into(),
            flying: BinaryHeap::new(),
            sequence: 0,
            cut: [false; 2],
            transitions: 0,
        };
        for host in 0..2 {
            pair.start(host);
        }
        pair
    }

    fn start(&mut self, host: usize) {
        let it = &mut self.hosts[host];
        (it.router, it.obstacles) = (Router::new(), [false; 2]);
        let settings = (0..2).map(|link| host_settings(host, link, it.priority)).collect();
        self.call(host, |router, now, sink| {
            router.reconfigure(settings, now, sink).unwrap();
        });
        let router = &self.hosts[host].router;
        self.hosts[host].ids = router.iter().map(VirtualRouter::id).collect();
        for link in 0..2 {
            let id = self.hosts[host].ids[link];
            self.call(host, |router, now, sink| {
                router.set_source(id, Some(address(false, host)), now, sink);
            });
        }
    }

    /// Tells a host something, and checks that its members are master together.
    fn call(&mut self, host: usize, call: impl FnOnce(&mut Router, Moment, &mut Sink<'_>)) {
        let mut sent = Vec::new();
        let transitions = &mut self.transitions;
        let mut sink = |router: &VirtualRouter, actions: Actions| {
            *transitions += u64::from(actions.transition.is_some());
            let Some(priority) = actions.send else { return };
            let link = LINKS.iter().position(|link| *link == router.settings().interface);
            for destination in router.settings().destinations() {
                let mut bytes = vec![0; 64];
                let form = router.checksums(priority).next().unwrap();
                let length = router.encode(priority, destination, form, &mut bytes).unwrap();
                bytes.truncate(length);
                sent.push((link.unwrap(), bytes));
            }
        };
        call(&mut self.hosts[host].router, self.now, &mut sink);
        for (link, bytes) in sent {
            self.sequence += 1;
            let at = self.now + Duration::from_micros(100 + self.random.below(3_000));
            if !self.cut[link] {
                self.flying.push(Reverse((at, self.sequence, 1 - host, link, bytes)));
            }
        }
        let roles: Vec<_> = self.hosts[host].router.iter().map(VirtualRouter::role).collect();
        let masters = roles.iter().filter(|role| **role == Role::Master).count();
        assert!(masters == 0 || masters == roles.len(), "half a group is master: {roles:?}");
    }

    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            let due = |host: &Host| host.router.poll_timeout();
            let timer = (0..2).filter_map(|host| Some((due(&self.hosts[host])?, host))).min();
            let packet = self.flying.peek().map(|Reverse((at, ..))| *at);
            let next = timer.map(|(at, _)| at).into_iter().chain(packet).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if packet == Some(next) {
                let Some(Reverse((_, _, to, link, bytes))) = self.flying.pop() else { break };
                let source = address(false, 1 - to);
                let destination: IpAddr = [224, 0, 0, 18].into();
                self.call(to, |router, now, sink| {
                    let packet = Packet { source, destination, ttl: 255, payload: &bytes };
                    let _ = router.receive(LINKS[link], &packet, now, sink);
                });
            } else if let Some((_, host)) = timer {
                self.call(host, |router, now, sink| router.tick(now, sink));
            }
        }
        self.now = end;
    }

    fn disturb(&mut self) {
        let (host, link) = (self.random.below(2) as usize, self.random.below(2) as usize);
        match self.random.below(4) {
            0 => self.cut[link] = !self.cut[link],
            1 | 2 => {
                let is_there = !self.hosts[host].obstacles[link];
                self.hosts[host].obstacles[link] = is_there;
                let id = self.hosts[host].ids[link];
                self.call(host, |router, now, sink| {
                    router.set_obstacle(id, Obstacle::Interface, is_there, now, sink);
                });
            }
            _ => {
                if self.random.percent(50) {
                    self.call(host, Router::stop);
                }
                self.start(host);
            }
        }
    }

    fn check(&self) {
        let is_able = |host: &usize| !self.hosts[*host].obstacles.contains(&true);
        let is_master = |host: &usize| {
            self.hosts[*host].router.iter().all(|router| router.role() == Role::Master)
        };
        let able: Vec<_> = (0..2).filter(is_able).collect();
        let masters: Vec<_> = (0..2).filter(is_master).collect();
        if able.len() == 2 && self.cut == [true, true] {
            assert_eq!(masters, [0, 1]);
        } else {
            assert_eq!(masters.len(), able.len().min(1), "able are {able:?}");
        }
        if let [master] = masters[..] {
            let priority = self.hosts[master].priority;
            assert!(able.iter().all(|&host| self.hosts[host].priority <= priority));
        }
    }
}

#[test]
fn groups() {
    for_each_seed(500, |seed| {
        let mut pair = Pair::new(seed);
        let interval = Duration::from_millis(100);
        for _ in 0..15 {
            pair.disturb();
            if pair.random.percent(50) {
                let short = interval * pair.random.below(400) as u32 / 100;
                pair.run(short);
                continue;
            }
            // A first wait is for a master that speaks once a second.
            pair.run(interval * 14 + Duration::from_secs(4));
            pair.check();
            let transitions = pair.transitions;
            pair.run(interval * 10);
            assert_eq!(pair.transitions, transitions, "a group goes back and forth");
        }
    });
}
