//! All virtual routers of a host: which packet is for which, what becomes of the host for each, who
//! goes together with whom, and other settings while they run.
//!
//! The shell ([`crate`]'s feature `linux`, or a simulation) owns one [`Router`]. It tells it what
//! arrives and what changes, and is told what to do through a sink: a function that is called with
//! the virtual router and its [`Actions`], before the call that caused it returns. Inside it, the
//! shell makes an advert with [`VirtualRouter::encode`].

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::net::IpAddr;

use crate::advert::{Message, Packet, Rejected, Scope};
use crate::instance::{Actions, Input, Role};
use crate::settings::{self, Address, Settings};
use crate::types::{Family, Moment, Priority};

mod counts;
mod flaws;
mod virtual_router;

pub use counts::{Counts, RejectedCounts};
pub use flaws::{Flaw, LastFlaw, Notice, PERIOD, SENDERS, Texts};
pub use virtual_router::{Inheritance, Obstacle, Other, VirtualRouter};

/// Identity of a virtual router, for as long as the [`Router`] lives: none is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u32);

/// Where a [`Router`] says what is to be done.
pub type Sink<'a> = dyn FnMut(&VirtualRouter, Actions) + 'a;

/// What other settings meant for one virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new; its source address and obstacles have yet to be told.
    Added(InstanceId),
    /// It is no more. If it was master, the sink was told that it no longer is.
    Removed(InstanceId),
    /// It goes on with other settings. A master takes and releases these addresses.
    Changed {
        /// Which one.
        id: InstanceId,
        /// New addresses.
        acquired: Vec<Address>,
        /// Addresses that it has no longer.
        released: Vec<Address>,
    },
}

/// The virtual routers of a host.
#[derive(Clone, Debug, Default)]
pub struct Router {
    routers: Vec<VirtualRouter>,
    next_id: u32,
    /// Packets that are for none of them.
    strays: RejectedCounts,
    /// What is to be said of the last packet.
    notices: Vec<Notice>,
}

impl Router {
    /// A host with no virtual router.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the settings of all virtual routers. Those whose settings are the same do not
    /// notice; those with the same interface, family, identifier and version go on, with other
    /// settings; of the others, the old are stopped and the new begin.
    ///
    /// # Errors
    ///
    /// That of [`settings::check`]; nothing has changed then.
    pub fn reconfigure(
        &mut self,
        settings: Vec<Settings>,
        now: Moment,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Change>, settings::Error> {
        settings::check(&settings)?;
        let mut changes = Vec::new();
        self.routers.retain_mut(|router| {
            let stays = settings.iter().any(|settings| settings.is_same_router(router.settings()));
            if !stays {
                router.handle(Input::Stop, now, sink);
                changes.push(Change::Removed(router.id()));
            }
            stays
        });
        for settings in settings {
            let old = self.routers.iter_mut().find(|old| settings.is_same_router(old.settings()));
            let Some(router) = old else {
                let id = InstanceId(self.next_id);
                self.next_id += 1;
                self.routers.push(VirtualRouter::new(id, settings, now));
                changes.push(Change::Added(id));
                continue;
            };
            if *router.settings() == settings {
                continue;
            }
            let (acquired, released) = router.take_settings(settings, now, sink);
            changes.push(Change::Changed { id: router.id(), acquired, released });
        }
        self.retune(now, sink);
        self.settle_all(now, sink);
        Ok(changes)
    }

    /// A packet of [`crate::advert::PROTOCOL`] that arrived on this interface. What people are to be
    /// told of it is in [`Router::notices`] until the next one.
    ///
    /// # Errors
    ///
    /// Why it was ignored; it has been counted.
    pub fn receive(
        &mut self,
        interface: &str,
        packet: &Packet<'_>,
        now: Moment,
        sink: &mut Sink<'_>,
    ) -> Result<InstanceId, Rejected> {
        self.notices.clear();
        let family = Family::of(packet.source);
        // What it claims to be for says at least whom it concerns, be it broken or not.
        let claimed = packet.payload.get(1).copied();
        let index = self.routers.iter().position(|router| {
            Some(router.settings().vrid.get()) == claimed
                && router.settings().family() == family
                && router.settings().interface == interface
        });
        let Some(index) = index else {
            let message = Message::verify(packet, Scope::Link);
            let rejected = message.err().unwrap_or(Rejected::Vrid);
            self.strays.count(rejected);
            return Err(rejected);
        };
        self.routers[index].receive(packet, now, sink, &mut self.notices)?;
        self.settle(index, now, sink);
        Ok(self.routers[index].id())
    }

    /// What people are to be told of the packet that came last: each flaw of a sender once in
    /// [`PERIOD`].
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Has all that is due done. Everything that had arrived before has been told before.
    pub fn tick(&mut self, now: Moment, sink: &mut Sink<'_>) {
        for index in 0..self.routers.len() {
            let router = &mut self.routers[index];
            if router.poll_timeout().is_some_and(|at| at <= now) {
                if !router.give_up_source(now) {
                    router.handle(Input::Timer, now, sink);
                }
                self.settle(index, now, sink);
            }
        }
    }

    /// When [`Router::tick`] has something to do.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.routers.iter().filter_map(VirtualRouter::poll_timeout).min()
    }

    /// The primary address of the interface, which adverts come from: `None` if it has none. For
    /// IPv6 the link-local one.
    ///
    /// One that runs goes on without it for two intervals, or a second if that is less, so that one
    /// address can take the place of another: see [`VirtualRouter::misses_source`]. A master speaks
    /// from the new one at once.
    pub fn set_source(
        &mut self,
        id: InstanceId,
        source: Option<IpAddr>,
        now: Moment,
        sink: &mut Sink<'_>,
    ) {
        if let Some(index) = self.find(id) {
            self.routers[index].set_source(source, now);
            self.settle(index, now, sink);
        }
    }

    /// Whether something keeps the virtual router from running. There is nothing in the beginning,
    /// but no source address either.
    pub fn set_obstacle(
        &mut self,
        id: InstanceId,
        obstacle: Obstacle,
        is_there: bool,
        now: Moment,
        sink: &mut Sink<'_>,
    ) {
        if let Some(index) = self.find(id) {
            self.routers[index].set_obstacle(obstacle, is_there);
            self.settle(index, now, sink);
        }
    }

    /// What something that is tracked adds to the priority, or takes from it: 0 if all is well.
    /// In a group it counts for all, so that its members have the same master, and once, whichever
    /// members track something of this name.
    pub fn track(
        &mut self,
        id: InstanceId,
        name: &str,
        weight: i16,
        now: Moment,
        sink: &mut Sink<'_>,
    ) {
        if let Some(index) = self.find(id) {
            self.routers[index].track(name, weight);
            self.retune(now, sink);
        }
    }

    /// Has a virtual router, and its group, offer their addresses to whoever is there: priority 0 is
    /// sent, and the addresses stay until another router speaks. If none does, all goes on as before.
    pub fn offer(&mut self, id: InstanceId, now: Moment, sink: &mut Sink<'_>) {
        let Some(index) = self.find(id) else { return };
        for other in 0..self.routers.len() {
            if self.are_companions(index, other) {
                self.routers[other].handle(Input::Offer, now, sink);
            }
        }
    }

    /// The peers that are not on the link of the interface, so that their TTL says nothing.
    pub fn set_routed_peers(&mut self, id: InstanceId, peers: Vec<IpAddr>) {
        if let Some(index) = self.find(id) {
            self.routers[index].set_routed_peers(peers);
        }
    }

    /// Goes on where another process of this host was: with these virtual routers as they were, with
    /// all others from the beginning. Nothing has been done with any until now, as
    /// [`Obstacle::Predecessor`] was there.
    pub fn take_up(
        &mut self,
        inheritances: Vec<(InstanceId, Inheritance)>,
        now: Moment,
        sink: &mut Sink<'_>,
    ) {
        for router in &mut self.routers {
            router.set_obstacle(Obstacle::Predecessor, false);
        }
        for (id, inheritance) in inheritances {
            if let Some(index) = self.find(id) {
                self.routers[index].take_up(inheritance, now, sink);
            }
        }
        self.settle_all(now, sink);
    }

    /// Stops all of them, for good.
    pub fn stop(&mut self, now: Moment, sink: &mut Sink<'_>) {
        for router in &mut self.routers {
            router.handle(Input::Stop, now, sink);
        }
    }

    /// One of the virtual routers.
    pub fn get(&self, id: InstanceId) -> Option<&VirtualRouter> {
        self.routers.iter().find(|router| router.id() == id)
    }

    /// All of the virtual routers.
    pub fn iter(&self) -> impl Iterator<Item = &VirtualRouter> {
        self.routers.iter()
    }

    /// Packets that are for none of them, by reason.
    pub const fn strays(&self) -> &RejectedCounts {
        &self.strays
    }

    fn find(&self, id: InstanceId) -> Option<usize> {
        self.routers.iter().position(|router| router.id() == id)
    }

    /// Gives each the priority that tracking leaves it.
    fn retune(&mut self, now: Moment, sink: &mut Sink<'_>) {
        for index in 0..self.routers.len() {
            let weight = self.weight(index);
            self.routers[index].set_weight(weight, now, sink);
        }
    }

    /// What is tracked by a virtual router and its group adds to the priority. What several members
    /// track counts once, and if they weigh it differently, with the weight that moves it most.
    fn weight(&self, index: usize) -> i32 {
        let mut all: Vec<_> = self.companions(index).flat_map(VirtualRouter::tracked).collect();
        all.sort_by_key(|(name, weight)| (*name, Reverse(weight.unsigned_abs())));
        all.dedup_by_key(|(name, _)| *name);
        all.into_iter().map(|(_, weight)| i32::from(weight)).sum()
    }

    /// The group of a virtual router; itself if it has none.
    fn companions(&self, index: usize) -> impl Iterator<Item = &VirtualRouter> {
        let all = self.routers.iter().enumerate();
        all.filter_map(move |(other, router)| self.are_companions(index, other).then_some(router))
    }

    /// Whether two virtual routers are the same, or of the same group.
    fn are_companions(&self, one: usize, other: usize) -> bool {
        let group = |index: usize| self.routers[index].settings().sync_group.as_ref();
        one == other || (group(one).is_some() && group(one) == group(other))
    }

    /// Tells a virtual router, and its group, whether they can run, and has the group be master
    /// together or not at all. A new member becomes what its group is.
    fn settle(&mut self, index: usize, now: Moment, sink: &mut Sink<'_>) {
        if self.routers[index].settings().sync_group.is_none() {
            return self.routers[index].enable(true, now, sink);
        }
        // Of a member that came with a reload nothing is known yet: its group goes on as it is.
        let runs = self.companions(index).any(|router| router.role() != Role::Init);
        let leads = self.companions(index).any(|router| router.role() == Role::Master);
        let counts = |router: &&VirtualRouter| !(runs && router.is_unknown());
        let together = self.companions(index).filter(counts).all(VirtualRouter::is_able);
        for other in 0..self.routers.len() {
            if !self.are_companions(index, other) {
                continue;
            }
            let router = &mut self.routers[other];
            let began = router.role() == Role::Init;
            router.enable(together, now, sink);
            if leads && began && router.role() == Role::Backup {
                router.handle(Input::Lead, now, sink);
            }
        }
        // Who leads alone yields: on the other links a better master was heard, and a group that
        // went back and forth would be worse than one that waits.
        let all_ready = self.companions(index).filter(counts).all(VirtualRouter::is_ready);
        let order = if all_ready { Input::Lead } else { Input::Yield };
        for other in 0..self.routers.len() {
            if self.are_companions(index, other) {
                self.routers[other].handle(order, now, sink);
            }
        }
    }

    fn settle_all(&mut self, now: Moment, sink: &mut Sink<'_>) {
        for index in 0..self.routers.len() {
            self.settle(index, now, sink);
        }
    }
}

/// Priority of a router that is told this one and has this much added to it: 1 to 254, since an
/// owner stays owner and nobody else becomes one.
fn effective(configured: Priority, weight: i32) -> Priority {
    if configured.is_owner() {
        return configured;
    }
    let sum = i32::from(configured.get()).saturating_add(weight).clamp(1, 254);
    u8::try_from(sum).map_or(configured, Priority::new)
}

#[cfg(test)]
mod tests;
