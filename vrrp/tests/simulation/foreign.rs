//! A router of somebody else, who did what RFC 9568 (or RFC 3768) says, section 6.4, and no more.
//! Written from the text alone: it shares the codec with ours, and nothing of the machine.

use std::net::IpAddr;
use std::time::Duration;

use lockgate_vrrp::advert::{Addresses, Advert, Checksum, Packet, Scope};
use lockgate_vrrp::types::{Family, Interval, Moment, Priority, Version, Vrid};

use crate::node::{Effect, Role};

#[derive(Clone)]
pub struct Foreign {
    pub vrid: Vrid,
    pub priority: u8,
    pub preempt: bool,
    pub interval: Interval,
    pub address: IpAddr,
    pub destinations: Vec<IpAddr>,
    pub wire: Vec<u8>,
    /// The form of checksum that it sends, over IPv4 in version 3, and the only one that it takes.
    pub form: Checksum,
    pub state: State,
}

#[derive(Clone, Copy)]
pub enum State {
    Initialize,
    Backup { down: Moment, learned: Interval },
    Active { adver: Moment },
}

impl Foreign {
    pub fn role(&self) -> Role {
        match self.state {
            State::Initialize => Role::Init,
            State::Backup { .. } => Role::Backup,
            State::Active { .. } => Role::Master,
        }
    }

    pub fn timeout(&self) -> Option<Moment> {
        match self.state {
            State::Initialize => None,
            State::Backup { down, .. } => Some(down),
            State::Active { adver } => Some(adver),
        }
    }

    fn skew(&self, interval: Interval) -> Duration {
        let whole = match interval.version() {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => interval.duration(),
        };
        whole * (256 - u32::from(self.priority)) / 256
    }

    fn send(&self, priority: u8, effects: &mut Vec<Effect>) {
        let advert = Advert {
            vrid: self.vrid,
            priority: Priority::new(priority),
            interval: self.interval,
            addresses: Addresses::from_wire(Family::of(self.address), &self.wire).unwrap(),
        };
        for &destination in &self.destinations {
            let mut bytes = vec![0; advert.octets()];
            advert.encode(self.address, destination, self.form, &mut bytes).unwrap();
            effects.push(Effect::Send { destination, bytes, priority });
        }
    }

    fn activate(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.state = State::Active { adver: now + self.interval.duration() };
        self.send(self.priority, effects);
        effects.push(Effect::Role(Role::Master));
        effects.push(Effect::Announce);
    }

    pub fn startup(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.priority == 255 {
            self.activate(now, effects);
        } else {
            let down = now + self.interval.duration() * 3 + self.skew(self.interval);
            self.state = State::Backup { down, learned: self.interval };
            effects.push(Effect::Role(Role::Backup));
        }
    }

    pub fn shutdown(&mut self, effects: &mut Vec<Effect>) {
        if let State::Active { .. } = self.state {
            self.send(0, effects);
        }
        self.state = State::Initialize;
        effects.push(Effect::Role(Role::Init));
    }

    pub fn timer(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        match self.state {
            State::Backup { down, .. } if now >= down => self.activate(now, effects),
            State::Active { adver } if now >= adver => {
                self.send(self.priority, effects);
                self.state = State::Active { adver: now + self.interval.duration() };
            }
            _ => {}
        }
    }

    pub fn packet(&mut self, packet: &Packet<'_>, now: Moment, effects: &mut Vec<Effect>) {
        let Ok((advert, form)) = Advert::decode(packet, Scope::Link) else { return };
        let v2 = self.interval.version() == Version::V2;
        if !v2 && self.address.is_ipv4() && form != self.form {
            return;
        }
        if advert.vrid != self.vrid
            || advert.version() != self.interval.version()
            || packet.source == self.address
            || v2 && advert.interval != self.interval
        {
            return;
        }
        let theirs = advert.priority.get();
        let follow = |this: &Self| State::Backup {
            down: now + advert.interval.duration() * 3 + this.skew(advert.interval),
            learned: advert.interval,
        };
        match self.state {
            State::Initialize => {}
            State::Backup { learned, .. } => {
                if theirs == 0 {
                    self.state = State::Backup { down: now + self.skew(learned), learned };
                } else if !self.preempt || theirs >= self.priority {
                    self.state = follow(self);
                }
            }
            State::Active { .. } => {
                if theirs == 0 {
                    self.send(self.priority, effects);
                    self.state = State::Active { adver: now + self.interval.duration() };
                } else if theirs > self.priority
                    || theirs == self.priority && packet.source > self.address
                {
                    self.state = follow(self);
                    effects.push(Effect::Role(Role::Backup));
                } else if !v2 {
                    self.send(self.priority, effects);
                }
            }
        }
    }
}
