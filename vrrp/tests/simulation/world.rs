//! The simulated LAN: virtual time, switches that lose and delay, clients with ARP tables.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

use lockgate_vrrp::types::Moment;

use crate::node::{Effect, Flying, Node, Pause, Role};
use crate::random::Random;

/// When a shell repeats an announcement, after the first.
const REPEATS: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

pub enum Event {
    Deliver { from: Option<usize>, to: usize, flying: Flying },
    Wake { node: usize, due: Moment },
    Resume(usize),
    Start(usize),
    Repeat { node: usize, reign: u64 },
    Learn { client: usize, owner: usize },
    Ask(usize),
}

struct Scheduled {
    at: Moment,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// What the switches do.
#[derive(Clone, Copy)]
pub struct Weather {
    /// Percent of the packets that are lost.
    pub loss: u64,
    /// Percent that arrive twice.
    pub twice: u64,
    /// The longest way of a packet. The shortest is a tenth, so packets overtake each other.
    pub latency: Duration,
    /// The most that a timer is late.
    pub jitter: Duration,
}

/// A host that uses the address, on the same switch as a router.
pub struct Client {
    pub behind: usize,
    /// The router that its ARP table has; `None` if it has no entry.
    pub owner: Option<usize>,
    /// How often it asks.
    pub asks_every: Duration,
}

pub struct World {
    pub now: Moment,
    pub random: Random,
    events: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    scheduled: Vec<Option<Moment>>,
    pub nodes: Vec<Node>,
    /// Routers with the same number hear each other.
    pub segments: Vec<usize>,
    /// What the first sends does not reach the second.
    pub deaf: Option<(usize, usize)>,
    pub clients: Vec<Client>,
    pub weather: Weather,
    /// Digest of all that happened.
    pub trace: u64,
    /// When a router last changed its role.
    pub last_transition: Moment,
    /// The last time that the world changed, other than by what routers do.
    pub disturbed: Moment,
    pub adverts: u64,
    /// All that was done, if it is to be printed.
    pub log: Option<Vec<String>>,
}

impl World {
    pub fn new(random: Random, nodes: Vec<Node>, weather: Weather) -> Self {
        let now = Moment::new(Duration::from_secs(1_000));
        Self {
            now,
            random,
            events: BinaryHeap::new(),
            sequence: 0,
            scheduled: vec![None; nodes.len()],
            segments: vec![0; nodes.len()],
            nodes,
            deaf: None,
            clients: Vec::new(),
            weather,
            trace: 0,
            last_transition: now,
            disturbed: now,
            adverts: 0,
            log: None,
        }
    }

    pub fn schedule(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        let at = self.now + after;
        self.events.push(Reverse(Scheduled { at, sequence: self.sequence, event }));
    }

    fn note(&mut self, what: impl FnOnce() -> String, digest: u64) {
        let nanos = self.now.since_beginning().as_nanos() as u64;
        for word in [nanos, digest] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
        if let Some(log) = &mut self.log {
            let line = format!("{:>14.6} {}", nanos as f64 / 1e9 - 1_000.0, what());
            log.push(line);
        }
    }

    pub fn comment(&mut self, what: &str) {
        self.note(|| format!("-- {what}"), 0);
    }

    pub fn disturb(&mut self, what: &str) {
        self.disturbed = self.now;
        self.comment(what);
    }

    fn delay(&mut self) -> Duration {
        let longest = self.weather.latency.as_nanos() as u64;
        let shortest = longest / 10;
        Duration::from_nanos(shortest + self.random.below(longest - shortest + 1))
    }

    pub fn is_connected(&self, from: usize, to: usize) -> bool {
        self.segments[from] == self.segments[to] && self.deaf != Some((from, to))
    }

    /// The routers that are master and run, of a segment.
    pub fn masters(&self, segment: usize) -> Vec<usize> {
        let in_segment = (0..self.nodes.len()).filter(|&node| self.segments[node] == segment);
        let is_master =
            |&node: &usize| self.nodes[node].is_able() && self.nodes[node].role() == Role::Master;
        in_segment.filter(is_master).collect()
    }

    /// Does what a router said, and sees that its timer goes off.
    pub fn apply(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { destination, bytes, priority } => {
                    self.note(
                        || format!("{node} sends {priority} to {destination}"),
                        u64::from(priority) << 8 | node as u64,
                    );
                    self.sent(node, priority);
                    self.transmit(
                        Some(node),
                        Flying { source: self.nodes[node].address, destination, bytes },
                    );
                }
                Effect::Role(role) => {
                    let cause = self.nodes[node].router().map(|router| router.cause());
                    self.note(
                        || format!("{node} is {role} ({cause:?})"),
                        1 << 20 | (role as u64) << 8 | node as u64,
                    );
                    self.last_transition = self.now;
                    if role != Role::Master {
                        self.nodes[node].reign += 1;
                        self.nodes[node].must_listen_until = None;
                    }
                }
                Effect::Announce => {
                    self.note(|| format!("{node} announces"), 2 << 20 | node as u64);
                    self.announce(node);
                    let reign = self.nodes[node].reign;
                    for after in REPEATS {
                        self.schedule(after, Event::Repeat { node, reign });
                    }
                }
            }
        }
        let timeout = self.nodes[node].timeout();
        if timeout != self.scheduled[node] {
            self.scheduled[node] = timeout;
            if let Some(at) = timeout {
                let late = self.random.below(self.weather.jitter.as_nanos() as u64 + 1);
                let event = Event::Wake { node, due: at };
                self.schedule((at - self.now) + Duration::from_nanos(late), event);
            }
        }
    }

    /// Nobody who was paused for long claims to be master before it has listened.
    fn sent(&mut self, node: usize, priority: u8) {
        self.adverts += 1;
        let node = &mut self.nodes[node];
        if priority == 0 {
            return;
        }
        if node.role() == Role::Master {
            let listening = node.must_listen_until.is_some_and(|until| self.now < until);
            assert!(!listening, "a paused master spoke before it had listened");
            node.sent = Some(self.now);
        }
    }

    pub fn transmit(&mut self, from: Option<usize>, flying: Flying) {
        for to in 0..self.nodes.len() {
            let is_for =
                flying.destination.is_multicast() || flying.destination == self.nodes[to].address;
            if Some(to) == from || !is_for {
                continue;
            }
            let copies = 1 + u64::from(self.random.percent(self.weather.twice));
            for _ in 0..copies {
                if self.random.percent(self.weather.loss) {
                    continue;
                }
                let delay = self.delay();
                self.schedule(delay, Event::Deliver { from, to, flying: flying.clone() });
            }
        }
    }

    fn announce(&mut self, node: usize) {
        for client in 0..self.clients.len() {
            if !self.random.percent(self.weather.loss) {
                let delay = self.delay();
                self.schedule(delay, Event::Learn { client, owner: node });
            }
        }
    }

    /// Has the ARP entries of clients time out that are wrong for want of anybody who could have
    /// put them right: before the segments change.
    pub fn expire(&mut self) {
        for client in 0..self.clients.len() {
            let Client { behind, owner, .. } = self.clients[client];
            let stands = owner.is_some_and(|owner| {
                self.segments[owner] == self.segments[behind]
                    && self.nodes[owner].role() == Role::Master
            });
            if !stands {
                self.clients[client].owner = None;
            }
        }
    }

    pub fn pause(&mut self, node: usize, kind: Pause, length: Duration) {
        self.disturb(&format!("{node} pauses for {length:?}: {kind:?}"));
        self.nodes[node].paused = Some(kind);
        self.schedule(length, Event::Resume(node));
    }

    pub fn resume(&mut self, index: usize) {
        if self.nodes[index].paused.take().is_none() {
            return;
        }
        self.disturb(&format!("{index} resumes"));
        let node = &mut self.nodes[index];
        if node.is_ours() && node.role() == Role::Master {
            let interval = node.settings.interval.duration();
            let was_late = node.sent.is_some_and(|sent| self.now > sent + interval * 3);
            // It may listen already, and be no later with that than an interval.
            let listens = node.must_listen_until.is_some_and(|until| self.now <= until + interval);
            if was_late && !listens {
                node.must_listen_until = Some(self.now + interval * 3 / 2);
            }
        }
        // The driver: all that has arrived, and then the timer.
        for flying in std::mem::take(&mut node.queue) {
            let effects = self.nodes[index].receive(&flying, self.now);
            self.apply(index, effects);
        }
        self.wake(index);
    }

    fn wake(&mut self, node: usize) {
        if self.nodes[node].paused.is_some() || !self.nodes[node].running {
            return;
        }
        self.scheduled[node] = None;
        let effects = self.nodes[node].timer(self.now);
        self.apply(node, effects);
    }

    pub fn start(&mut self, node: usize) {
        self.disturb(&format!("{node} starts"));
        self.nodes[node].sent = None;
        self.nodes[node].must_listen_until = None;
        let effects = self.nodes[node].start(self.now);
        self.apply(node, effects);
    }

    /// Lets time pass.
    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while let Some(Reverse(next)) = self.events.peek() {
            if next.at > end {
                break;
            }
            let Some(Reverse(Scheduled { at, event, .. })) = self.events.pop() else { break };
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, flying } => {
                let arrives = from.is_none_or(|from| self.is_connected(from, to));
                if arrives && self.nodes[to].running {
                    let effects = self.nodes[to].receive(&flying, self.now);
                    self.apply(to, effects);
                }
            }
            Event::Wake { node, due } if self.scheduled[node] == Some(due) => self.wake(node),
            Event::Wake { .. } => {}
            Event::Resume(node) => self.resume(node),
            Event::Start(node) => {
                if !self.nodes[node].running {
                    self.start(node);
                }
            }
            Event::Repeat { node, reign } => {
                let it = &self.nodes[node];
                if it.reign == reign && it.paused.is_none() && it.role() == Role::Master {
                    self.announce(node);
                }
            }
            Event::Learn { client, owner } => {
                if self.is_connected(owner, self.clients[client].behind) {
                    self.note(|| format!("client {client} learns {owner}"), owner as u64);
                    self.clients[client].owner = Some(owner);
                }
            }
            Event::Ask(client) => {
                for owner in 0..self.nodes.len() {
                    let it = &self.nodes[owner];
                    // The kernel of a process that is paused goes on.
                    let answers = it.running && it.paused != Some(Pause::Machine);
                    if answers && it.role() == Role::Master {
                        let delay = self.delay();
                        self.schedule(delay, Event::Learn { client, owner });
                    }
                }
                let again = self.clients[client].asks_every;
                self.schedule(again, Event::Ask(client));
            }
        }
    }
}

/// The address of a router of the simulation.
pub fn address(ipv6: bool, node: usize) -> IpAddr {
    let number = node + 1;
    let text = if ipv6 { format!("fe80::{number}") } else { format!("10.0.0.{number}") };
    text.parse().unwrap()
}
