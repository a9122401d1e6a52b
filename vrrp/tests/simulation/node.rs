//! A router on the simulated LAN: ours or a foreign one, with what a shell does around it.

use std::net::IpAddr;

use lockgate_vrrp::Router;
use lockgate_vrrp::advert::{LONGEST, Packet};
use lockgate_vrrp::instance::Actions;
pub use lockgate_vrrp::instance::Role;
use lockgate_vrrp::router::{InstanceId, Obstacle, VirtualRouter};
use lockgate_vrrp::settings::Settings;
use lockgate_vrrp::types::Moment;

use crate::foreign::{Foreign, State};

/// What a router does to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Send { destination: IpAddr, bytes: Vec<u8>, priority: u8 },
    Role(Role),
    Announce,
}

/// A packet in flight, or in the receive queue of a process that is paused.
#[derive(Clone, Debug)]
pub struct Flying {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub bytes: Vec<u8>,
}

impl Flying {
    fn packet(&self) -> Packet<'_> {
        let Self { source, destination, ref bytes } = *self;
        Packet { source, destination, ttl: 255, payload: bytes }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The process: its kernel goes on, queues packets, and answers for its addresses.
    Process,
    /// The whole machine: what arrives is lost.
    Machine,
}

pub enum Kind {
    Ours { router: Router, id: Option<InstanceId> },
    Foreign(Foreign),
}

pub struct Node {
    pub kind: Kind,
    pub settings: Settings,
    /// What tracking adds to the priority.
    pub weight: i16,
    pub address: IpAddr,
    pub running: bool,
    pub obstacle: bool,
    pub paused: Option<Pause>,
    pub queue: Vec<Flying>,
    /// Of the last advert of a priority that is not 0.
    pub sent: Option<Moment>,
    /// It has been paused for so long that it must not claim to be master before this.
    pub must_listen_until: Option<Moment>,
    /// Counts the times it ceased to be master: repeated announcements end then.
    pub reign: u64,
}

/// Packets that a socket keeps.
const QUEUE: usize = 64;

impl Node {
    pub fn ours(settings: Settings, address: IpAddr) -> Self {
        Self::new(Kind::Ours { router: Router::new(), id: None }, settings, address)
    }

    pub fn foreign(foreign: Foreign, settings: Settings) -> Self {
        let address = foreign.address;
        Self::new(Kind::Foreign(foreign), settings, address)
    }

    fn new(kind: Kind, settings: Settings, address: IpAddr) -> Self {
        Self {
            kind,
            settings,
            weight: 0,
            address,
            running: false,
            obstacle: false,
            paused: None,
            queue: Vec::new(),
            sent: None,
            must_listen_until: None,
            reign: 0,
        }
    }

    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours { .. })
    }

    pub fn router(&self) -> Option<&VirtualRouter> {
        match &self.kind {
            Kind::Ours { router, id } => router.get((*id)?),
            Kind::Foreign(_) => None,
        }
    }

    pub fn role(&self) -> Role {
        match &self.kind {
            Kind::Ours { .. } => self.router().map_or(Role::Init, VirtualRouter::role),
            Kind::Foreign(foreign) => foreign.role(),
        }
    }

    pub fn is_able(&self) -> bool {
        self.running && !self.obstacle && self.paused.is_none()
    }

    /// Whether it takes over from a master of lower priority, once a delay is over.
    pub fn preempts(&self) -> bool {
        self.settings.preempt || self.priority() == 255
    }

    pub fn priority(&self) -> u8 {
        let configured = self.settings.priority.get();
        match configured {
            255 => 255,
            _ => (i16::from(configured) + self.weight).clamp(1, 254) as u8,
        }
    }

    pub fn timeout(&self) -> Option<Moment> {
        match &self.kind {
            Kind::Ours { router, .. } => router.poll_timeout(),
            Kind::Foreign(foreign) => foreign.timeout(),
        }
    }

    fn with_router(
        &mut self,
        call: impl FnOnce(&mut Router, InstanceId, &mut Collect<'_>),
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Kind::Ours { router, id: Some(id) } = &mut self.kind {
            call(router, *id, &mut |router, actions| collect(router, actions, &mut effects));
        }
        effects
    }

    pub fn start(&mut self, now: Moment) -> Vec<Effect> {
        self.running = true;
        let mut effects = Vec::new();
        match &mut self.kind {
            Kind::Ours { router, id } => {
                *router = Router::new();
                let mut sink = |router: &VirtualRouter, actions: Actions| {
                    collect(router, actions, &mut effects);
                };
                router.reconfigure(vec![self.settings.clone()], now, &mut sink).unwrap();
                let first = router.iter().next().unwrap().id();
                *id = Some(first);
                router.track(first, "something", self.weight, now, &mut sink);
                router.set_obstacle(first, Obstacle::Service, self.obstacle, now, &mut sink);
                router.set_source(first, Some(self.address), now, &mut sink);
            }
            Kind::Foreign(foreign) => foreign.startup(now, &mut effects),
        }
        effects
    }

    /// It ends as it should.
    pub fn stop(&mut self, now: Moment) -> Vec<Effect> {
        self.running = false;
        if let Kind::Foreign(foreign) = &mut self.kind {
            let mut effects = Vec::new();
            foreign.shutdown(&mut effects);
            return effects;
        }
        self.with_router(|router, _, sink| router.stop(now, sink))
    }

    /// It is gone.
    pub fn crash(&mut self) {
        self.running = false;
        self.queue.clear();
        self.reign += 1;
        self.sent = None;
        match &mut self.kind {
            Kind::Ours { router, id } => (*router, *id) = (Router::new(), None),
            Kind::Foreign(foreign) => foreign.state = State::Initialize,
        }
    }

    pub fn reconfigure(&mut self, now: Moment) -> Vec<Effect> {
        let settings = vec![self.settings.clone()];
        self.with_router(|router, _, sink| {
            router.reconfigure(settings, now, sink).unwrap();
        })
    }

    pub fn track(&mut self, weight: i16, now: Moment) -> Vec<Effect> {
        self.weight = weight;
        self.with_router(|router, id, sink| router.track(id, "something", weight, now, sink))
    }

    pub fn set_obstacle(&mut self, is_there: bool, now: Moment) -> Vec<Effect> {
        self.obstacle = is_there;
        self.with_router(|router, id, sink| {
            router.set_obstacle(id, Obstacle::Service, is_there, now, sink);
        })
    }

    pub fn timer(&mut self, now: Moment) -> Vec<Effect> {
        if let Kind::Foreign(foreign) = &mut self.kind {
            let mut effects = Vec::new();
            foreign.timer(now, &mut effects);
            return effects;
        }
        self.with_router(|router, _, sink| router.tick(now, sink))
    }

    pub fn receive(&mut self, flying: &Flying, now: Moment) -> Vec<Effect> {
        match self.paused {
            Some(Pause::Process) if self.queue.len() < QUEUE => self.queue.push(flying.clone()),
            Some(Pause::Process | Pause::Machine) => {}
            None => {
                if let Kind::Foreign(foreign) = &mut self.kind {
                    let mut effects = Vec::new();
                    foreign.packet(&flying.packet(), now, &mut effects);
                    return effects;
                }
                return self.with_router(|router, _, sink| {
                    let _ = router.receive("lan", &flying.packet(), now, sink);
                });
            }
        }
        Vec::new()
    }
}

type Collect<'a> = dyn FnMut(&VirtualRouter, Actions) + 'a;

fn collect(router: &VirtualRouter, actions: Actions, effects: &mut Vec<Effect>) {
    if let Some(priority) = actions.send {
        let destinations = router.settings().destinations();
        for (to, form) in
            destinations.flat_map(|to| router.checksums(priority).map(move |form| (to, form)))
        {
            let mut bytes = vec![0; LONGEST.min(256)];
            let length = router.encode(priority, to, form, &mut bytes).unwrap();
            bytes.truncate(length);
            effects.push(Effect::Send { destination: to, bytes, priority: priority.get() });
        }
    }
    if let Some(transition) = actions.transition {
        assert_ne!(transition.from, transition.to);
        assert_eq!(transition.to, router.role());
        effects.push(Effect::Role(transition.to));
    }
    if actions.announce {
        assert_eq!(router.role(), Role::Master, "only a master announces");
        effects.push(Effect::Announce);
    }
}
