//! One virtual router: its settings, its state machine, and what it knows of the world.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use crate::advert::{Addresses, Advert, Checksum, Message, Packet, Rejected, Scope};
use crate::instance::{Actions, Cause, Course, Input, Instance, Parameters, Role};
use crate::router::counts::Counts;
use crate::router::flaws::{self, Flaw, LastFlaw, Notice, Said};
use crate::router::{InstanceId, Sink, effective};
use crate::settings::{Address, ChecksumPolicy, Settings};
use crate::types::{Family, Moment, Priority, Version};

/// What keeps a virtual router from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// Its interface is down or gone.
    Interface,
    /// An interface that it tracks is down or gone.
    TrackedInterface,
    /// What the addresses are for does not work.
    Service,
    /// Another process of this host runs it, and will hand it on.
    Predecessor,
}

impl Obstacle {
    /// In the order in which they are given as the reason.
    const ALL: [Self; 4] =
        [Self::Interface, Self::TrackedInterface, Self::Service, Self::Predecessor];

    const fn cause(self) -> Cause {
        match self {
            Self::Interface => Cause::InterfaceDown,
            Self::TrackedInterface => Cause::TrackedInterfaceDown,
            Self::Service => Cause::ServiceDown,
            Self::Predecessor => Cause::Startup,
        }
    }
}

/// The longest that an address to send from may be missing while one takes the place of another; two
/// intervals if that is less, for a backup takes over after three.
const MISSING: Duration = Duration::from_secs(1);

/// Whether there is an address to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// The shell has yet to say so.
    Unknown,
    There,
    /// It is there again after it was missing, which the machine has yet to be told.
    Back,
    /// It has just gone; another is waited for until then.
    Missing(Moment),
    Gone,
}

/// Other routers that are remembered: more are no part of the same virtual router.
const OTHERS: usize = 16;

/// So many adverts in a row of another master are no accident: one who hears us yields at the first, or
/// we do.
const UNHEEDED: u32 = 3;

/// Another router that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its address.
    pub address: IpAddr,
    /// The priority in its last advert.
    pub priority: Priority,
    /// When that came.
    pub at: Moment,
    /// Adverts of it.
    pub adverts: u64,
}

/// What another process of this host knows of a virtual router, and hands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inheritance {
    /// How far it is.
    pub course: Course,
    /// What it has counted.
    pub counts: Counts,
    /// Since when it is what it is.
    pub since: Moment,
    /// Why.
    pub cause: Cause,
    /// The form of checksum that peers send.
    pub checksum: Option<Checksum>,
    /// Other routers that were heard.
    pub others: Vec<Other>,
}

/// One virtual router of this host.
#[derive(Clone, Debug)]
pub struct VirtualRouter {
    id: InstanceId,
    settings: Settings,
    instance: Instance,
    /// The addresses as they are sent.
    wire: Vec<u8>,
    /// The address that adverts come from: the last there was, since the advert that says that it
    /// is gone needs one as well.
    source: Option<IpAddr>,
    /// Whether it is there.
    presence: Presence,
    /// Which of [`Obstacle::ALL`] are there.
    obstacles: [bool; Obstacle::ALL.len()],
    /// What the machine was last told of source and obstacles.
    told: Result<IpAddr, Cause>,
    tracked: Vec<(String, i16)>,
    /// What tracking, of its whole group, adds to the priority.
    weight: i32,
    routed_peers: Vec<IpAddr>,
    /// The form of checksum that was last heard.
    heard: Option<Checksum>,
    /// Adverts in a row of others that are master beside us, and do not mind ours.
    unheeded: u32,
    /// Other routers that were heard.
    others: Vec<Other>,
    counts: Counts,
    /// What was said of flaws in its adverts.
    said: Said,
    since: Moment,
    cause: Cause,
}

impl VirtualRouter {
    pub(super) fn new(id: InstanceId, settings: Settings, now: Moment) -> Self {
        Self {
            id,
            instance: Instance::new(parameters(&settings, 0)),
            wire: wire(&settings.addresses),
            source: None,
            presence: Presence::Unknown,
            obstacles: [false; Obstacle::ALL.len()],
            told: Err(Cause::Startup),
            tracked: Vec::new(),
            weight: 0,
            routed_peers: Vec::new(),
            heard: None,
            unheeded: 0,
            others: Vec::new(),
            counts: Counts::default(),
            said: Said::default(),
            since: now,
            cause: Cause::Startup,
            settings,
        }
    }

    /// Its identity in this process.
    pub const fn id(&self) -> InstanceId {
        self.id
    }

    /// What is configured.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it is.
    pub const fn role(&self) -> Role {
        self.instance.role()
    }

    /// Why it is what it is; in `init`, what keeps it from running now.
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// Since when it is what it is.
    pub const fn since(&self) -> Moment {
        self.since
    }

    /// The address that adverts come from: the last that it was told.
    pub const fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// The primary address of the master: our own, or that of whoever was heard last.
    pub const fn master(&self) -> Option<IpAddr> {
        self.instance.master()
    }

    /// The priority that is configured and what tracking adds to it, 1 to 254; 255 for the owner.
    pub const fn priority(&self) -> Priority {
        self.instance.parameters().priority
    }

    /// What is tracked for it and not well, with what that adds to the priority.
    pub fn tracked(&self) -> impl Iterator<Item = (&str, i16)> {
        self.tracked.iter().map(|(name, weight)| (name.as_str(), *weight))
    }

    /// Until when nobody else takes over, whatever becomes of us: `None` unless it is master and
    /// has lately said so.
    pub fn good_until(&self) -> Option<Moment> {
        self.instance.good_until()
    }

    /// Other routers that were heard, the last heard first.
    pub fn others(&self) -> &[Other] {
        &self.others
    }

    /// What another process needs to go on with it.
    pub fn bequeath(&self) -> Inheritance {
        Inheritance {
            course: self.instance.course(),
            counts: self.counts,
            since: self.since,
            cause: self.cause,
            checksum: self.heard,
            others: self.others.clone(),
        }
    }

    /// Goes on where another process was, if it can run; if not it has the counts, and begins when
    /// it can.
    pub(super) fn take_up(&mut self, inheritance: Inheritance, now: Moment, sink: &mut Sink<'_>) {
        let Inheritance { course, counts, since, cause, checksum, mut others } = inheritance;
        others.truncate(OTHERS);
        (self.counts, self.heard, self.others) = (counts, checksum, others);
        let Ok(source) = self.ability() else { return };
        if course.role == Role::Init {
            return;
        }
        (self.since, self.cause, self.told) = (since, cause, Ok(source));
        let actions = self.instance.take_up(course, source, now);
        self.tell(actions, now, sink);
    }

    /// What it has counted.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The last advert that was refused, or taken though it differs from what is configured.
    pub fn last_flaw(&self) -> Option<LastFlaw<'_>> {
        self.said.last()
    }

    /// The forms of checksum in which an advert of this priority is to be sent now: one, or two.
    ///
    /// As long as nobody has been heard, nobody knows which form is understood, so adverts have one
    /// and the other in turn: whoever is there hears every second one, which is often enough. So it is if
    /// others are master beside us as if they heard nothing. The last advert, which nothing follows, is
    /// sent in both forms.
    pub fn checksums(&self, priority: Priority) -> impl Iterator<Item = Checksum> {
        let has_forms =
            self.settings.version() == Version::V3 && self.settings.family() == Family::V4;
        let (first, other) = match (self.settings.checksum, self.heard) {
            (ChecksumPolicy::Rfc9568, _) => (Checksum::Rfc9568, None),
            (ChecksumPolicy::PseudoHeader, _) => (Checksum::PseudoHeader, None),
            (ChecksumPolicy::Auto, None) => (Checksum::Rfc9568, Some(Checksum::PseudoHeader)),
            (ChecksumPolicy::Auto, Some(heard)) if self.unheeded < UNHEEDED => (heard, None),
            (ChecksumPolicy::Auto, Some(Checksum::Rfc9568)) => {
                (Checksum::Rfc9568, Some(Checksum::PseudoHeader))
            }
            (ChecksumPolicy::Auto, Some(heard)) => (heard, Some(Checksum::Rfc9568)),
        };
        let other = other.filter(|_| has_forms);
        let is_last = priority == Priority::RELEASE;
        // The count includes the advert in question.
        let is_odd = !self.counts.sent.is_multiple_of(2);
        let of_turn = if is_odd { first } else { other.unwrap_or(first) };
        let (one, more) = if is_last { (first, other) } else { (of_turn, None) };
        [Some(one), more].into_iter().flatten()
    }

    /// Writes an advert for one of [`Settings::destinations`] with one of [`Self::checksums`], and says
    /// how long it is: at most [`crate::advert::LONGEST`]. `None` if there never was an address to send
    /// from, or without room.
    pub fn encode(
        &self,
        priority: Priority,
        destination: IpAddr,
        checksum: Checksum,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let advert = Advert {
            vrid: self.settings.vrid,
            priority,
            interval: self.settings.interval,
            addresses: self.addresses()?,
        };
        advert.encode(self.source?, destination, checksum, buffer)
    }

    fn addresses(&self) -> Option<Addresses<'_>> {
        Addresses::from_wire(self.settings.family(), &self.wire)
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let given_up = match self.presence {
            Presence::Missing(until) => Some(until),
            Presence::Unknown | Presence::There | Presence::Back | Presence::Gone => None,
        };
        self.instance.poll_timeout().into_iter().chain(given_up).min()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.instance.is_ready()
    }

    /// Whether nothing but its group can keep it from running.
    pub(super) fn is_able(&self) -> bool {
        self.ability().is_ok()
    }

    /// Whether it is new, and the shell has yet to say whether it can run.
    pub fn is_unknown(&self) -> bool {
        self.presence == Presence::Unknown && self.ability() == Err(Cause::Startup)
    }

    fn ability(&self) -> Result<IpAddr, Cause> {
        let obstacle =
            Obstacle::ALL.into_iter().find(|obstacle| self.obstacles[*obstacle as usize]);
        match (obstacle, self.presence) {
            (Some(obstacle), _) => Err(obstacle.cause()),
            (None, Presence::Unknown) => Err(Cause::Startup),
            (None, Presence::Gone) => Err(Cause::NoAddress),
            (None, Presence::There | Presence::Back | Presence::Missing(_)) => {
                self.source.ok_or(Cause::NoAddress)
            }
        }
    }

    /// Whether the address that adverts come from is gone, and another is waited for a while.
    pub const fn misses_source(&self) -> bool {
        matches!(self.presence, Presence::Missing(_))
    }

    pub(super) fn set_source(&mut self, source: Option<IpAddr>, now: Moment) {
        self.presence = match (source, self.presence) {
            (Some(_), Presence::Missing(_) | Presence::Back) => Presence::Back,
            (Some(_), Presence::Unknown | Presence::There | Presence::Gone) => Presence::There,
            (None, Presence::Missing(until)) => Presence::Missing(until),
            (None, _) if self.told.is_ok() => {
                Presence::Missing(now + (self.settings.interval.duration() * 2).min(MISSING))
            }
            (None, _) => Presence::Gone,
        };
        if source.is_some() {
            self.source = source;
        }
    }

    /// Gives up waiting for an address to send from if it is time. Whether it is.
    pub(super) fn give_up_source(&mut self, now: Moment) -> bool {
        let is_over = matches!(self.presence, Presence::Missing(until) if until <= now);
        if is_over {
            self.presence = Presence::Gone;
        }
        is_over
    }

    pub(super) const fn set_obstacle(&mut self, obstacle: Obstacle, is_there: bool) {
        self.obstacles[obstacle as usize] = is_there;
    }

    pub(super) fn set_routed_peers(&mut self, peers: Vec<IpAddr>) {
        self.routed_peers = peers;
    }

    pub(super) fn track(&mut self, name: &str, weight: i16) {
        self.tracked.retain(|(other, _)| other != name);
        if weight != 0 {
            self.tracked.push((name.to_owned(), weight));
        }
    }

    /// Takes what tracking of the whole group adds to the priority.
    pub(super) fn set_weight(&mut self, weight: i32, now: Moment, sink: &mut Sink<'_>) {
        self.weight = weight;
        let parameters = parameters(&self.settings, weight);
        if parameters != *self.instance.parameters() {
            self.handle(Input::Reconfigure { parameters, addresses: false }, now, sink);
        }
    }

    /// Takes other settings of the same virtual router: the addresses that are new, and those
    /// that are gone.
    pub(super) fn take_settings(
        &mut self,
        settings: Settings,
        now: Moment,
        sink: &mut Sink<'_>,
    ) -> (Vec<Address>, Vec<Address>) {
        let missing_in = |those: &[Address], these: &[Address]| {
            these.iter().filter(|address| !those.contains(address)).copied().collect::<Vec<_>>()
        };
        let acquired = missing_in(&self.settings.addresses, &settings.addresses);
        let released = missing_in(&settings.addresses, &self.settings.addresses);
        let wire = wire(&settings.addresses);
        // Whoever hears of it anew, or for the first time, is told now.
        let addresses = wire != self.wire
            || !acquired.is_empty()
            || settings.unicast_peers != self.settings.unicast_peers;
        (self.settings, self.wire) = (settings, wire);
        self.said.forget();
        let parameters = parameters(&self.settings, self.weight);
        if addresses || parameters != *self.instance.parameters() {
            self.handle(Input::Reconfigure { parameters, addresses }, now, sink);
        }
        (acquired, released)
    }

    /// Tells the machine whether it can run. `together`: all of its group can.
    pub(super) fn enable(&mut self, together: bool, now: Moment, sink: &mut Sink<'_>) {
        let ability = match self.ability() {
            Ok(_) if !together => Err(Cause::Group),
            ability => ability,
        };
        let is_back = self.presence == Presence::Back;
        if is_back {
            self.presence = Presence::There;
        }
        if ability == self.told && !is_back {
            return;
        }
        self.told = ability;
        match ability {
            Ok(source) => self.handle(Input::Able(source), now, sink),
            Err(cause) => {
                self.handle(Input::Unable(cause), now, sink);
                self.cause = cause;
            }
        }
    }

    /// A packet that names this virtual router.
    pub(super) fn receive(
        &mut self,
        packet: &Packet<'_>,
        now: Moment,
        sink: &mut Sink<'_>,
        notices: &mut Vec<Notice>,
    ) -> Result<(), Rejected> {
        let (advert, checksum) = match self.accept(packet) {
            Ok(accepted) => accepted,
            Err(rejected) => {
                self.counts.rejected.count(rejected);
                self.note(Flaw::Rejected(rejected), packet, now, notices);
                return Err(rejected);
            }
        };
        self.heard = Some(checksum);
        let is_ours = self.addresses().is_some_and(|own| own.is_same_set(advert.addresses));
        let own = self.instance.parameters();
        let counts = &mut self.counts;
        counts.received += 1;
        counts.priority_zero_received += u64::from(advert.priority == Priority::RELEASE);
        counts.interval_mismatch += u64::from(advert.interval != own.interval);
        counts.interval_out_of_bounds += u64::from(own.learned(advert.interval) != advert.interval);
        counts.address_list_mismatch += u64::from(!is_ours);
        counts.contentions += u64::from(self.instance.role() == Role::Master);
        let differs = advert.interval != own.interval;
        let Advert { priority, interval, .. } = advert;
        if differs {
            self.note(Flaw::Interval, packet, now, notices);
        }
        if !is_ours {
            self.note(Flaw::AddressList, packet, now, notices);
        }
        self.note_unheeded(&advert, now);
        self.remember(packet.source, priority, now);
        self.handle(Input::Advert { from: packet.source, priority, interval }, now, sink);
        Ok(())
    }

    /// A packet has a flaw: adds what is to be said of it, if anything is.
    fn note(&mut self, flaw: Flaw, packet: &Packet<'_>, now: Moment, notices: &mut Vec<Notice>) {
        let (settings, own, from) = (&self.settings, self.source, packet.source);
        let texts = || flaws::describe(flaw, packet, settings, own);
        if let Some((more, texts)) = self.said.note(flaw, from, now, texts) {
            notices.push(Notice { instance: self.id, flaw, from, texts, more });
        }
    }

    /// Counts what others say as if they did not hear us. One who yields does not go on with it.
    fn note_unheeded(&mut self, advert: &Advert<'_>, now: Moment) {
        let beside = self.instance.role() == Role::Master && advert.priority != Priority::RELEASE;
        let pause = advert.interval.duration() * 4;
        let in_a_row = self.others.first().is_some_and(|last| now - last.at <= pause);
        if !beside {
            self.unheeded = 0;
        } else if in_a_row || self.unheeded >= UNHEEDED {
            self.unheeded = self.unheeded.saturating_add(1);
        } else {
            self.unheeded = 1;
        }
    }

    fn remember(&mut self, address: IpAddr, priority: Priority, at: Moment) {
        let known = self.others.iter().position(|other| other.address == address);
        let adverts = known.map_or(0, |index| self.others.remove(index).adverts) + 1;
        self.others.truncate(OTHERS - 1);
        self.others.insert(0, Other { address, priority, at, adverts });
    }

    /// The checks of a packet in the order of [`Rejected`].
    fn accept<'a>(&self, packet: &Packet<'a>) -> Result<(Advert<'a>, Checksum), Rejected> {
        let routed = self.routed_peers.contains(&packet.source);
        let scope = if routed { Scope::Routed } else { Scope::Link };
        let message = Message::verify(packet, scope)?;
        if message.version() != self.settings.version() {
            return Err(Rejected::Version);
        }
        let advert = message.advert()?;
        let unicast = self.settings.is_unicast();
        if unicast == packet.destination.is_multicast() {
            return Err(Rejected::Destination);
        }
        if Some(packet.source) == self.source {
            return Err(Rejected::OwnSource);
        }
        if unicast && !self.settings.unicast_peers.contains(&packet.source) {
            return Err(Rejected::NotAPeer);
        }
        if message.version() == Version::V2 && advert.interval != self.settings.interval {
            return Err(Rejected::Interval);
        }
        let is_ours = || self.addresses().is_some_and(|own| own.is_same_set(advert.addresses));
        if !may_differ(message.version(), advert.priority) && !is_ours() {
            return Err(Rejected::AddressList);
        }
        // Those who are configured without any, as we are then, would be masters side by side.
        let ours_begins = self.addresses().is_some_and(begins_link_local);
        if ours_begins && !begins_link_local(advert.addresses) {
            return Err(Rejected::FirstAddress);
        }
        Ok((advert, message.checksum()))
    }

    /// Tells the machine what happened, and the sink what is to be done.
    pub(super) fn handle(&mut self, input: Input, now: Moment, sink: &mut Sink<'_>) {
        let actions = self.instance.handle(input, now);
        self.tell(actions, now, sink);
    }

    fn tell(&mut self, actions: Actions, now: Moment, sink: &mut Sink<'_>) {
        if actions.is_none() {
            return;
        }
        let Actions { send, transition, announce: _ } = actions;
        self.counts.sent += u64::from(send.is_some());
        self.counts.priority_zero_sent += u64::from(send == Some(Priority::RELEASE));
        if let Some(transition) = transition {
            (self.since, self.cause, self.unheeded) = (now, transition.cause, 0);
            match transition.to {
                Role::Init => self.counts.to_init += 1,
                Role::Backup => self.counts.to_backup += 1,
                Role::Master => self.counts.to_master += 1,
            }
        }
        sink(self, actions);
    }
}

fn parameters(settings: &Settings, weight: i32) -> Parameters {
    Parameters {
        priority: effective(settings.priority, weight),
        interval: settings.interval,
        preempt: settings.preempt,
        preempt_delay: settings.preempt_delay,
        grouped: settings.sync_group.is_some(),
    }
}

/// Whether an advert may be of other addresses than ours. In version 3 it may, or adding an address
/// to one router after the other would make two masters; in version 2 only that of the owner (RFC
/// 3768, section 7.1).
const fn may_differ(version: Version, sender: Priority) -> bool {
    match version {
        Version::V2 => sender.is_owner(),
        Version::V3 => true,
    }
}

/// Whether the first of these addresses is a link-local one of IPv6.
fn begins_link_local(addresses: Addresses<'_>) -> bool {
    matches!(addresses.first(), Some(IpAddr::V6(first)) if first.is_unicast_link_local())
}

/// The addresses as they are sent: of IPv6, those of the link first (RFC 9568, section 5.2.9).
fn wire(addresses: &[Address]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(addresses.len() * 16);
    for of_link in [true, false] {
        for address in addresses {
            match address.ip {
                IpAddr::V4(ip) if of_link => wire.extend(ip.octets()),
                IpAddr::V6(ip) if ip.is_unicast_link_local() == of_link => {
                    wire.extend(ip.octets());
                }
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
        }
    }
    wire
}
