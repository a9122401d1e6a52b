//! What the driver does for virtual routers at the core's word: adverts go out at once, the rest
//! is left to others. Nothing here waits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::events::{Entry, Outbox};
use super::lease::{Lease, Member, Order};
use super::links::Interface;
use super::notify::{self, Job};
use super::sockets::Sender;
use super::thread::Queue;
use super::{Event, State, guard};
use crate::advert::LONGEST;
use crate::instance::{Actions, Cause, Role, Transition};
use crate::router::{InstanceId, Notice, Router, VirtualRouter};
use crate::settings::Address;
use crate::types::{Moment, Priority};

/// Contention with a router is told no more often than this.
const CONTENTION: Duration = Duration::from_secs(1);

/// What a new master hears for so long is no contention: those that yield to it say so.
const SETTLING: Duration = Duration::from_millis(500);

/// What there is for one virtual router besides its state.
struct Line {
    /// Its number, for keeper and guard.
    number: u32,
    lease: Arc<Lease>,
    sender: Option<Sender>,
    /// The interface for its addresses and adverts, and where those come from.
    way: Option<(Interface, IpAddr)>,
    send_failures: u64,
    /// The last advert could not be sent, which has been told.
    failing: bool,
    contentions: u64,
    contention_told: Option<Moment>,
    /// The keeper has to be told, and its queue was full.
    untold: bool,
}

/// All virtual routers' ways out.
pub struct Voice {
    lines: BTreeMap<InstanceId, Line>,
    next_number: u32,
    buffer: Vec<u8>,
    orders: Arc<Queue<Order>>,
    outbox: Arc<Outbox>,
}

impl Voice {
    /// One that has nobody to speak for.
    pub fn new(orders: Arc<Queue<Order>>, outbox: Arc<Outbox>) -> Self {
        let buffer = vec![0; LONGEST];
        Self { lines: BTreeMap::new(), next_number: 0, buffer, orders, outbox }
    }

    fn line(&mut self, id: InstanceId) -> &mut Line {
        self.lines.entry(id).or_insert_with(|| {
            self.next_number += 1;
            Line {
                number: self.next_number,
                lease: Arc::default(),
                sender: None,
                way: None,
                send_failures: 0,
                failing: false,
                contentions: 0,
                contention_told: None,
                untold: false,
            }
        })
    }

    /// Does what the core says.
    pub fn act(&mut self, router: &VirtualRouter, actions: Actions) {
        if let Some(priority) = actions.send {
            self.send(router, priority);
        }
        self.publish(router);
        let became_master = actions.transition.is_some_and(|change| change.to == Role::Master);
        if became_master {
            // With farewells of the form that peers understand by now.
            self.tell_keeper(router);
        }
        let line = self.line(router.id());
        if actions.announce || became_master {
            line.lease.announce();
        }
        if actions.announce || actions.transition.is_some() {
            self.orders.wake().ring();
        }
        if let Some(transition) = actions.transition {
            self.tell(router, transition);
        }
    }

    fn send(&mut self, router: &VirtualRouter, priority: Priority) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let line = self.line(router.id());
        let mut failure = None;
        let destinations = router.settings().destinations();
        let all =
            destinations.flat_map(|to| router.checksums(priority).map(move |form| (to, form)));
        for (destination, checksum) in all {
            let advert = router.encode(priority, destination, checksum, &mut buffer);
            let sent = match (&line.sender, advert) {
                (Some(sender), Some(length)) => sender.send(&buffer[..length], destination),
                _ => Err(std::io::Error::from(std::io::ErrorKind::NotConnected)),
            };
            if let Err(error) = sent {
                line.send_failures += 1;
                failure = Some((error, destination));
            }
        }
        let news = failure.is_some() != line.failing;
        line.failing = failure.is_some();
        self.buffer = buffer;
        if news {
            let name = &router.settings().name;
            self.outbox.put_entry(match failure {
                Some((error, to)) => {
                    Entry::Warning(format!("'{name}' cannot send adverts to {to}: {error}"))
                }
                None => Entry::Line(format!("'{name}' can send adverts again")),
            });
        }
    }

    /// Says for how long addresses may be here.
    pub fn publish(&mut self, router: &VirtualRouter) {
        let line = self.line(router.id());
        line.lease.set(router.role() == Role::Master, router.good_until());
    }

    fn tell(&self, router: &VirtualRouter, transition: Transition) {
        let settings = router.settings();
        let priority = router.priority().get();
        self.outbox.put(Event::Transition {
            instance: settings.name.clone(),
            from: state(transition.from),
            to: state(transition.to),
            cause: transition.cause.as_str(),
            priority,
            at: SystemTime::now(),
        });
        if let Some(program) = &settings.notify {
            self.outbox.put_entry(Entry::Notify(Job {
                program: program.clone(),
                instance: settings.name.clone(),
                state: match (transition.to, transition.cause) {
                    (Role::Master, _) => "MASTER",
                    (Role::Backup, _) => "BACKUP",
                    (Role::Init, Cause::Shutdown) => notify::STOP,
                    (Role::Init, _) => "FAULT",
                },
                priority,
            }));
        }
    }

    /// Another router was heard while this one may be master.
    pub fn notice_contention(
        &mut self,
        router: &VirtualRouter,
        from: IpAddr,
        priority: u8,
        now: Moment,
    ) {
        let contentions = router.counts().contentions;
        let line = self.line(router.id());
        let more = contentions > line.contentions && now - router.since() >= SETTLING;
        line.contentions = contentions;
        if more && line.contention_told.is_none_or(|at| now - at >= CONTENTION) {
            line.contention_told = Some(now);
            let instance = router.settings().name.clone();
            self.outbox.put(Event::Contention { instance, from, priority });
        }
    }

    /// Tells what is wrong with an advert, which the core says seldom enough.
    pub fn tell_flaw(&self, router: &Router, notice: &Notice) {
        let Some(router) = router.get(notice.instance) else { return };
        self.outbox.put(Event::AdvertFlawed {
            instance: router.settings().name.clone(),
            reason: notice.flaw.as_str(),
            refused: notice.flaw.is_rejected(),
            from: notice.from,
            received: notice.texts.received.clone(),
            expected: notice.texts.expected.clone(),
            more: notice.more,
        });
    }

    /// Sends by this way from now on, and has the keeper know. Says whether it can be sent by.
    pub fn set_way(&mut self, router: &VirtualRouter, way: Option<(&Interface, IpAddr)>) -> bool {
        let line = self.line(router.id());
        let key = |interface: &Interface, source: IpAddr| (interface.index, interface.mac, source);
        let old = line.way.as_ref().map(|(interface, source)| key(interface, *source));
        if old == way.map(|(interface, source)| key(interface, source)) && line.sender.is_some() {
            return true;
        }
        line.way = way.map(|(interface, source)| (interface.clone(), source));
        line.sender = None;
        if let Some((interface, source)) = way {
            match Sender::open(&interface.name, interface.index, source) {
                Ok(sender) => line.sender = Some(sender),
                Err(error) => {
                    let name = &router.settings().name;
                    let line = format!("'{name}' cannot send from {source}: {error}");
                    self.outbox.put_entry(Entry::Warning(line));
                    return false;
                }
            }
        }
        way.is_some()
    }

    /// Tells the keeper what the virtual router has become.
    pub fn tell_keeper(&mut self, router: &VirtualRouter) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let settings = router.settings();
        let line = self.line(router.id());
        let order = line.way.as_ref().map(|(interface, source)| {
            let mut farewells = Vec::new();
            for to in settings.destinations() {
                for checksum in router.checksums(Priority::RELEASE) {
                    let length = router.encode(Priority::RELEASE, to, checksum, &mut buffer);
                    farewells.extend(length.map(|length| (to, buffer[..length].to_vec())));
                }
            }
            let foreign = settings.addresses.iter().copied();
            let foreign = foreign
                .filter(|address| settings.priority.is_owner() && interface.has_foreign(*address));
            Order::Keep(Arc::new(Member {
                number: line.number,
                name: settings.name.clone(),
                lease: Arc::clone(&line.lease),
                index: interface.index,
                interface: interface.name.clone(),
                mac: interface.mac,
                virtual_mac: settings.virtual_mac,
                addresses: settings.addresses.clone(),
                foreign: foreign.collect(),
                repeat: settings.garp_repeat.max(1),
                refresh: settings.garp_refresh,
                patience: guard::patience(settings.interval.duration()),
                source: *source,
                farewells,
            }))
        });
        let untold = order.is_some_and(|order| self.orders.try_push(order).is_err());
        self.buffer = buffer;
        self.line(router.id()).untold = untold;
    }

    /// Tells the keeper which addresses a process before has left for a virtual router.
    pub fn adopt(&mut self, id: InstanceId, index: u32, addresses: Vec<Address>) {
        let number = self.line(id).number;
        let order = Order::Adopt(number, index, addresses);
        if self.orders.push(order).is_err() {
            let line = "the keeper of addresses was not told what a process before left".to_owned();
            self.outbox.put_entry(Entry::Warning(line));
        }
    }

    /// The index of the interface that has the addresses of a virtual router, and those among them
    /// that would not be there without it.
    pub fn has(&self, router: &VirtualRouter) -> (u32, Vec<Address>) {
        let settings = router.settings();
        let line = self.lines.get(&router.id());
        let Some((interface, _)) = line.and_then(|line| line.way.as_ref()) else {
            return (0, Vec::new());
        };
        let foreign =
            |address: &Address| settings.priority.is_owner() && interface.has_foreign(*address);
        let ours = settings.addresses.iter().copied().filter(|address| !foreign(address));
        (interface.index, ours.collect())
    }

    /// Whether the keeper has yet to be told of this virtual router.
    pub fn is_untold(&self, id: InstanceId) -> bool {
        self.lines.get(&id).is_some_and(|line| line.untold)
    }

    /// Speaks for this virtual router no more.
    pub fn forget(&mut self, id: InstanceId) {
        if let Some(line) = self.lines.remove(&id) {
            line.lease.set(false, None);
            // If its queue is full, the keeper still releases what is held: the lease says so.
            if self.orders.try_push(Order::Forget(line.number)).is_err() {
                self.orders.wake().ring();
            }
        }
    }

    /// Whether this virtual router has a way to send adverts.
    pub fn can_send(&self, id: InstanceId) -> bool {
        self.lines.get(&id).is_some_and(|line| line.sender.is_some())
    }

    /// Adverts that could not be sent.
    pub fn send_failures(&self, id: InstanceId) -> u64 {
        self.lines.get(&id).map_or(0, |line| line.send_failures)
    }
}

/// The role in the words of this module.
pub const fn state(role: Role) -> State {
    match role {
        Role::Init => State::Init,
        Role::Backup => State::Backup,
        Role::Master => State::Master,
    }
}
