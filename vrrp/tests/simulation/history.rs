//! A LAN and its history, as a seed decides, and what must hold of it.

use std::net::IpAddr;
use std::panic;
use std::time::Duration;

use lockgate_vrrp::advert::{Addresses, Advert, Checksum};
use lockgate_vrrp::settings::{Address, ChecksumPolicy, Settings};
use lockgate_vrrp::types::{Family, Interval, Priority, Version, Vrid};

use crate::foreign::{Foreign, State};
use crate::node::{Flying, Node, Pause};
use crate::random::Random;
use crate::world::{Client, Event, Weather, World, address};

/// The longest interval of a forged advert: longer ones are learned as well, and would only make
/// histories longer.
const SLOWEST_FORGED: Interval = Interval::from_centis(200).expect("in range");

/// A LAN with its routers.
pub struct Lan {
    pub world: World,
    ipv6: bool,
    intervals: Vec<Interval>,
    /// Nothing is lost, and whoever hears is heard.
    perfect: bool,
    forged: bool,
    all_ours: bool,
    /// The longest `preempt_delay`.
    delay: Duration,
    longest: Duration,
}

pub fn settings(ipv6: bool, node: usize, nodes: usize, unicast: bool) -> Settings {
    let (shared, prefix): (&[&str], _) =
        if ipv6 { (&["fe80::100", "2001:db8::100"], 64) } else { (&["10.0.0.100"], 24) };
    let peers = (0..nodes).filter(|&peer| unicast && peer != node);
    Settings {
        name: "public".into(),
        interface: "lan".into(),
        vrid: Vrid::new(51).unwrap(),
        addresses: shared.iter().map(|ip| Address { ip: ip.parse().unwrap(), prefix }).collect(),
        priority: Priority::DEFAULT,
        interval: Interval::from_centis(10).unwrap(),
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast_peers: peers.map(|peer| address(ipv6, peer)).collect(),
        source: None,
        checksum: ChecksumPolicy::Auto,
        sync_group: None,
        virtual_mac: false,
        garp_repeat: 5,
        garp_refresh: Duration::ZERO,
        track_interfaces: Vec::new(),
        notify: None,
    }
}

/// The foreign router with these settings.
pub fn foreign(settings: &Settings, own: IpAddr) -> Foreign {
    let mut wire = Vec::new();
    for address in &settings.addresses {
        match address.ip {
            IpAddr::V4(ip) => wire.extend(ip.octets()),
            IpAddr::V6(ip) => wire.extend(ip.octets()),
        }
    }
    Foreign {
        vrid: settings.vrid,
        priority: settings.priority.get(),
        preempt: settings.preempt,
        interval: settings.interval,
        address: own,
        destinations: settings.destinations().collect(),
        wire,
        form: Checksum::Rfc9568,
        state: State::Initialize,
    }
}

impl Lan {
    pub fn new(seed: u64, verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let count = 2 + random.below(3) as usize;
        let v2 = random.percent(20);
        let ipv6 = !v2 && random.percent(30);
        let unicast = random.percent(25);
        let all_ours = random.percent(75);
        let forged = all_ours && random.percent(25);
        let perfect = random.percent(60);
        let centis = |list: &[u16]| {
            list.iter().map(|&centis| Interval::from_centis(centis).unwrap()).collect::<Vec<_>>()
        };
        let intervals = match random.below(4) {
            _ if v2 => vec![Interval::from_secs(1 + random.below(2) as u8).unwrap()],
            0 => centis(&[1]),
            1 => centis(&[10]),
            2 => centis(&[100]),
            _ => centis(&[10, 20, 50, 100]),
        };
        let shortest = intervals.iter().map(|interval| interval.duration()).min().unwrap();
        let longest = intervals.iter().map(|interval| interval.duration()).max().unwrap();
        let (preempt_percent, delayed) = (random.pick(&[100, 100, 0, 50]), random.percent(25));
        let mut delay = Duration::ZERO;
        // Two that do not understand each other would be masters both, whatever we do.
        let form = random.pick(&[Checksum::Rfc9568, Checksum::PseudoHeader]);
        let mut nodes = Vec::new();
        for node in 0..count {
            let mut settings = settings(ipv6, node, count, unicast);
            settings.interval = random.pick(&intervals);
            settings.priority = Priority::new(random.pick(&[1, 50, 100, 100, 150, 200, 254]));
            if node == 0 && random.percent(10) {
                settings.priority = Priority::OWNER;
            }
            settings.preempt = random.percent(preempt_percent);
            if delayed {
                settings.preempt_delay = longest * random.below(20) as u32;
                delay = delay.max(settings.preempt_delay);
            }
            let own = address(ipv6, node);
            nodes.push(if all_ours || random.percent(50) {
                Node::ours(settings, own)
            } else {
                settings.preempt_delay = Duration::ZERO;
                let mut foreign = foreign(&settings, own);
                foreign.form = form;
                Node::foreign(foreign, settings)
            });
        }
        let weather = Weather {
            loss: if perfect { 0 } else { 1 + random.below(30) },
            twice: random.pick(&[0, 0, 5, 50]),
            latency: shortest / random.pick(&[1_000, 100, 20, 8]),
            jitter: shortest / random.pick(&[1_000, 100, 10]),
        };
        let mut world = World::new(random, nodes, weather);
        world.log = verbose.then(Vec::new);
        for client in 0..3 {
            let behind = world.random.below(count as u64) as usize;
            let asks_every = longest * (3 + world.random.below(40) as u32);
            world.clients.push(Client { behind, owner: None, asks_every });
            world.schedule(asks_every / 3, Event::Ask(client));
        }
        let mut lan = Self { world, ipv6, intervals, perfect, forged, all_ours, delay, longest };
        for node in 0..count {
            if lan.world.random.percent(70) {
                lan.world.start(node);
            } else {
                let after = longest * lan.world.random.below(10) as u32;
                lan.world.schedule(after, Event::Start(node));
            }
        }
        let bound = lan.bound();
        lan.world.comment(&format!("seed {seed}, bound {bound:?}"));
        lan
    }

    /// The time after a disturbance within which there is one master, and the right one. With I the
    /// longest interval that anybody goes by: a router that hears nobody takes over within 4 I (three
    /// and the skew); it may have been paused, and listen for 1.5 I before that. One that would
    /// preempt hears of it within I, waits its delay, and takes over 4 I after. The last half is
    /// for the way of the packets. One that has just begun takes a second for I, if that is longer, as
    /// long as it hears nobody.
    pub fn bound(&self) -> Duration {
        let learned = self.longest_learned();
        learned * 7 + learned.max(Duration::from_secs(1)) * 4 + self.delay
    }

    fn longest_learned(&self) -> Duration {
        let is_v2 = self.intervals[0].version() == Version::V2;
        if self.forged && !is_v2 {
            self.longest.max(SLOWEST_FORGED.duration())
        } else {
            self.longest
        }
    }

    /// Lets all of it happen, and says how it went.
    pub fn live(mut self) -> u64 {
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| self.happen()));
        if let Some(log) = &self.world.log {
            println!("{}", log.join("\n"));
        }
        if let Err(cause) = outcome {
            panic::resume_unwind(cause);
        }
        self.world.trace
    }

    fn happen(&mut self) {
        for _ in 0..8 + self.world.random.below(8) {
            let bound = self.bound();
            let pause = if self.world.random.percent(50) {
                bound + self.longest
            } else {
                self.longest * self.world.random.below(400) as u32 / 100
            };
            self.world.run(pause);
            self.check_calm();
            self.disturb();
        }
        self.heal();
        self.world.run(self.bound());
        // What is paused by now resumes, or starts, some time.
        while self.world.now < self.world.disturbed + self.bound() {
            self.world.run(self.longest);
        }
        assert!(self.check_calm());
        let (transition, adverts) = (self.world.last_transition, self.world.adverts);
        self.world.run(self.longest * 20);
        assert!(self.check_calm());
        assert_eq!(self.world.last_transition, transition, "a transition in a quiet network");
        assert!(self.world.adverts >= adverts + 18, "no adverts in a quiet network");
        self.world.run(Duration::from_millis(2_100));
        self.check_clients();
    }

    /// Whether the world has been still for long enough to tell; if so, all is as it should be.
    fn check_calm(&self) -> bool {
        let world = &self.world;
        let still = self.perfect || world.weather.loss == 0;
        if !still || world.deaf.is_some() || world.now < world.disturbed + self.bound() {
            return false;
        }
        for segment in 0..world.nodes.len() {
            let members: Vec<_> =
                (0..world.nodes.len()).filter(|&node| world.segments[node] == segment).collect();
            let able = || members.iter().copied().filter(|&node| world.nodes[node].is_able());
            let masters = world.masters(segment);
            if able().next().is_none() {
                continue;
            }
            let [master] = masters[..] else {
                panic!("masters of {members:?} are {masters:?}");
            };
            let priority = world.nodes[master].priority();
            for node in able() {
                let other = &world.nodes[node];
                assert!(
                    !other.preempts() || other.priority() <= priority,
                    "{master} is master with {priority}, though {node} has {}",
                    other.priority()
                );
                if let Some(router) = other.router() {
                    assert_eq!(router.master(), Some(world.nodes[master].address));
                }
            }
        }
        true
    }

    fn check_clients(&self) {
        if !self.perfect || !self.all_ours {
            return;
        }
        let masters = self.world.masters(0);
        for (index, client) in self.world.clients.iter().enumerate() {
            let owner = client.owner;
            assert!(
                owner.is_none_or(|owner| masters.contains(&owner)),
                "client {index} sends to {owner:?}, masters are {masters:?}"
            );
        }
    }

    fn heal(&mut self) {
        self.world.expire();
        self.world.weather.loss = 0;
        self.world.deaf = None;
        self.world.segments.fill(0);
        for node in 0..self.world.nodes.len() {
            self.world.resume(node);
            self.world.schedule(Duration::ZERO, Event::Start(node));
            if self.world.nodes[node].obstacle {
                self.set_obstacle(node, false);
            }
        }
        self.world.disturb("all is well again");
    }

    fn set_obstacle(&mut self, node: usize, is_there: bool) {
        self.world.disturb(&format!("{node}: obstacle {is_there}"));
        let effects = self.world.nodes[node].set_obstacle(is_there, self.world.now);
        self.world.apply(node, effects);
    }

    fn disturb(&mut self) {
        let count = self.world.nodes.len() as u64;
        let node = self.world.random.below(count) as usize;
        let fault = self.world.random.below(12);
        let it = &self.world.nodes[node];
        let (ours, runs, paused) = (it.is_ours(), it.running, it.paused.is_some());
        match fault {
            0 | 1 => {
                self.world.expire();
                for node in 0..count as usize {
                    self.world.segments[node] = self.world.random.below(2) as usize;
                }
                let segments = self.world.segments.clone();
                self.world.disturb(&format!("segments {segments:?}"));
            }
            2 | 3 => {
                self.world.expire();
                self.world.segments.fill(0);
                self.world.deaf = None;
                self.world.disturb("no segments");
            }
            4 if !self.perfect => {
                let other = self.world.random.below(count) as usize;
                self.world.deaf = Some((node, other));
                self.world.disturb(&format!("{other} does not hear {node}"));
            }
            4..=6 if runs && !paused => {
                let kind =
                    self.world.random.pick(&[Pause::Process, Pause::Process, Pause::Machine]);
                let length = self.longest * (self.world.random.below(1_000) as u32) / 100;
                self.world.pause(node, kind, length);
            }
            7 if runs => {
                self.world.disturb(&format!("{node} crashes"));
                self.world.nodes[node].paused = None;
                self.world.nodes[node].crash();
                self.restart(node);
            }
            8 if runs && !paused => {
                self.world.disturb(&format!("{node} stops"));
                let effects = self.world.nodes[node].stop(self.world.now);
                self.world.apply(node, effects);
                self.restart(node);
            }
            9 if runs && ours && !paused => self.reconfigure(node),
            10 if runs && ours && !paused => {
                let obstacle = !self.world.nodes[node].obstacle;
                self.set_obstacle(node, obstacle);
            }
            11 => {
                if self.forged {
                    self.forge(node);
                }
                self.garbage(node);
            }
            _ => {}
        }
    }

    fn restart(&mut self, node: usize) {
        let after = self.longest * self.world.random.below(1_000) as u32 / 100;
        self.world.schedule(after, Event::Start(node));
    }

    fn reconfigure(&mut self, node: usize) {
        let interval = self.world.random.pick(&self.intervals);
        let (now, what) = (self.world.now, self.world.random.below(5));
        let weight = self.world.random.below(300) as i16 - 150;
        let priority = Priority::new(1 + self.world.random.below(254) as u8);
        let it = &mut self.world.nodes[node];
        let effects = match what {
            0 => it.track(weight, now),
            1 => {
                it.settings.priority = priority;
                it.reconfigure(now)
            }
            2 => {
                it.settings.interval = interval;
                it.reconfigure(now)
            }
            3 => {
                it.settings.preempt = !it.settings.preempt;
                it.reconfigure(now)
            }
            _ => {
                let ip = if self.ipv6 { "2001:db8::7" } else { "10.0.0.7" };
                let extra = Address { ip: ip.parse().unwrap(), prefix: 32 };
                let had = it.settings.addresses.len();
                it.settings.addresses.retain(|address| *address != extra);
                // Version 2 refuses the adverts of others who have other addresses.
                if it.settings.addresses.len() == had && it.settings.version() == Version::V3 {
                    it.settings.addresses.push(extra);
                }
                it.reconfigure(now)
            }
        };
        self.world.disturb(&format!("{node} is reconfigured: {what}"));
        self.world.apply(node, effects);
    }

    /// A valid advert of somebody who is no router.
    fn forge(&mut self, to: usize) {
        let settings = &self.world.nodes[to].settings;
        let family = Family::of(self.world.nodes[to].address);
        let wire: Vec<u8> = foreign(settings, self.world.nodes[to].address).wire;
        let own = settings.interval;
        let peers = settings.unicast_peers.clone();
        let senders = if peers.is_empty() { vec![address(self.ipv6, 98)] } else { peers.clone() };
        let source = self.world.random.pick(&senders);
        let destination =
            if peers.is_empty() { family.group() } else { self.world.nodes[to].address };
        let priority = Priority::new(self.world.random.pick(&[0, 1, 100, 255, 255]));
        let centis = self.world.random.pick(&[1, 2, 100, SLOWEST_FORGED.centis()]);
        let interval = match own.version() {
            Version::V2 => own,
            Version::V3 => Interval::from_centis(centis).unwrap(),
        };
        let addresses = Addresses::from_wire(family, &wire).unwrap();
        let advert = Advert { vrid: Vrid::new(51).unwrap(), priority, interval, addresses };
        let mut bytes = vec![0; advert.octets()];
        advert.encode(source, destination, Checksum::Rfc9568, &mut bytes).unwrap();
        if self.world.random.percent(20) {
            // An interval of 0, with a right checksum over IPv4.
            let sum = u16::from_be_bytes([bytes[6], bytes[7]]) as u32
                + u16::from_be_bytes([bytes[4], bytes[5]]) as u32;
            bytes[4..6].fill(0);
            bytes[6..8].copy_from_slice(&((sum % 0xffff) as u16).to_be_bytes());
        }
        self.world.disturb(&format!("forged for {to}: {priority} at {interval}"));
        self.world.transmit(None, Flying { source, destination, bytes });
    }

    /// Random bytes, at once and to one router: nothing may come of them.
    fn garbage(&mut self, to: usize) {
        let source = address(self.ipv6, 97);
        for _ in 0..20 {
            let length = self.world.random.below(40) as usize;
            let mut bytes: Vec<u8> = (0..length).map(|_| self.world.random.next() as u8).collect();
            if let [version, vrid, ..] = bytes.as_mut_slice() {
                (*version, *vrid) = (0x31, 51);
            }
            let destination = Family::of(source).group();
            let before = (self.world.nodes[to].role(), self.world.nodes[to].timeout());
            if self.world.nodes[to].paused.is_some() || !self.world.nodes[to].is_ours() {
                return;
            }
            let flying = Flying { source, destination, bytes };
            let effects = self.world.nodes[to].receive(&flying, self.world.now);
            let after = (self.world.nodes[to].role(), self.world.nodes[to].timeout());
            assert!(effects.is_empty() && before == after, "random bytes had an effect");
        }
    }
}
