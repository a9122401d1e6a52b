//! The keeper: the thread that has the addresses where the driver says they are to be.
//!
//! It compares what each [`Lease`](super::lease::Lease) says with what is held, and does what is
//! missing in one batch; it puts back what something else removes, renews lifetimes, announces,
//! and beats for the guard. It may wait for the kernel, which is why it is not the driver; it must
//! not wait for anything else, such as the log: the guard would take it for dead.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::events::{self, Outbox};
use super::guard::{Holding, Message, Minder};
use super::held::Held;
use super::lease::{Member, Order};
use super::netlink::{Found, GROUPS, Monitor, Netlink, Request, was_gone};
use super::sockets::FrameSender;
use super::thread::{self, Queue};
use super::{Event, LIFETIME, frames, vmac};
use crate::settings::Address;
use crate::types::Moment;

/// A driver that has not turned for so long does not live.
const PULSE: Duration = Duration::from_millis(350);

/// Time until frames that found no room are sent again.
const CONGESTION: Duration = Duration::from_millis(5);

/// A virtual router with what is held for it, by interface and address.
struct Kept {
    member: Arc<Member>,
    held: BTreeMap<(u32, Address), Held>,
    /// Announcements that were asked for and heeded.
    heeded: u32,
    /// Whether the guard knows of it.
    guarded: bool,
    /// Whether what the guard knows is no longer so.
    outdated: bool,
}

/// The keeper's state.
pub struct Keeper {
    orders: Arc<Queue<Order>>,
    outbox: Arc<Outbox>,
    /// When the driver turned last, in nanoseconds of a [`Moment`].
    pulse: Arc<AtomicU64>,
    netlink: Netlink,
    monitor: Monitor,
    senders: HashMap<u32, FrameSender>,
    kept: BTreeMap<u32, Kept>,
    minder: Minder,
    /// Another process has the addresses, or is about to.
    suspended: bool,
}

/// What a request to the kernel was for.
struct Errand {
    number: u32,
    key: (u32, Address),
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Add,
    Renew,
    Delete,
    /// Something besides the address itself.
    Besides,
}

impl Keeper {
    /// Opens its sockets. `guard`: see [`super::Options::guard`].
    ///
    /// # Errors
    ///
    /// If netlink cannot be spoken.
    pub fn new(
        orders: Arc<Queue<Order>>,
        outbox: Arc<Outbox>,
        pulse: Arc<AtomicU64>,
        guard: Option<Vec<OsString>>,
    ) -> io::Result<Self> {
        Ok(Self {
            orders,
            outbox,
            pulse,
            netlink: Netlink::open()?,
            monitor: Monitor::open(&GROUPS[1..])?,
            senders: HashMap::new(),
            kept: BTreeMap::new(),
            minder: Minder::new(guard, thread::now()),
            suspended: false,
        })
    }

    /// Starts the guard. It has to be done on the keeper's own thread.
    ///
    /// # Errors
    ///
    /// If there are too many open files or processes.
    pub fn start_guard(&mut self) -> io::Result<()> {
        self.minder.start(thread::now())
    }

    /// The body of the thread.
    pub fn run(mut self) {
        loop {
            self.wait();
            let now = thread::now();
            if self.take_orders(now) {
                break;
            }
            self.notice_removals(now);
            self.settle(now);
            self.announce(thread::now());
            self.mind_guard(thread::now());
        }
        if !self.suspended {
            for kept in self.kept.values() {
                kept.member.lease.set(false, None);
            }
            self.settle(thread::now());
        }
        self.minder.stop();
    }

    fn wait(&mut self) {
        let now = thread::now();
        let active = |kept: &&Kept| !self.suspended && kept.member.lease.is_good(now);
        let due = self.kept.values().filter(active);
        let due = due.flat_map(|kept| kept.held.values().map(Held::due)).min();
        let beat = self.minder.beat_at();
        // While nothing is certain the driver wakes us when it is; this is only for safety.
        let safety = (!self.kept.is_empty()).then(|| now + Duration::from_secs(1));
        let next = [due, beat, safety].into_iter().flatten().min();
        let timeout = next.map_or(PollTimeout::NONE, |next| {
            let micros = (next - now).as_micros();
            PollTimeout::from(u16::try_from(micros.div_ceil(1_000)).unwrap_or(u16::MAX))
        });
        let mut fds = vec![
            PollFd::new(self.orders.wake().as_fd(), PollFlags::POLLIN),
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.minder.fd().map(|fd| PollFd::new(fd, PollFlags::empty())));
        if let Err(error) = poll(&mut fds, timeout) {
            // An interruption does no harm, and anything else is found out by the next call.
            self.outbox.warn("waiting for addresses was interrupted", &error.into());
        }
        let hung_up = fds.get(2).is_some_and(|fd| fd.any().unwrap_or(false));
        drop(fds);
        self.orders.wake().quiet();
        if hung_up && let Some(pid) = self.minder.bury() {
            let line = format!("the guard, process {pid}, is gone");
            self.outbox.put_entry(events::Entry::Warning(line));
        }
    }

    /// Whether this is the end.
    fn take_orders(&mut self, now: Moment) -> bool {
        while let Some(order) = self.orders.try_pop() {
            match order {
                Order::Keep(member) => {
                    let kept = self.kept.entry(member.number).or_insert_with(|| Kept {
                        heeded: member.lease.announcements(),
                        member: Arc::clone(&member),
                        held: BTreeMap::new(),
                        guarded: false,
                        outdated: false,
                    });
                    if member.mac != kept.member.mac {
                        for held in kept.held.values_mut() {
                            held.retake(now);
                        }
                    }
                    kept.member = member;
                    kept.outdated = true;
                }
                Order::Forget(number) => {
                    if let Some(kept) = self.kept.get(&number) {
                        kept.member.lease.set(false, None);
                    }
                    self.settle(now);
                    self.kept.remove(&number);
                }
                Order::Adopt(number, index, addresses) => {
                    if let Some(kept) = self.kept.get_mut(&number) {
                        let held = addresses.into_iter().map(|it| ((index, it), Held::new(now)));
                        kept.held.extend(held);
                    }
                }
                Order::Suspend => self.suspend(),
                Order::Resume => self.suspended = false,
                Order::Leave => {
                    self.suspend();
                    return true;
                }
                Order::Stop => return true,
            }
        }
        false
    }

    /// Leaves all addresses as they are, to another process.
    fn suspend(&mut self) {
        self.suspended = true;
        for (number, kept) in &mut self.kept {
            if std::mem::take(&mut kept.guarded) {
                self.minder.tell(&Message::Release(*number));
            }
        }
    }

    /// Finds out what something else removed.
    fn notice_removals(&mut self, now: Moment) {
        loop {
            match self.monitor.next() {
                Ok(messages) if messages.is_empty() => return,
                Ok(messages) => {
                    for message in messages {
                        let RouteNetlinkMessage::DelAddress(message) = message else { continue };
                        let Some(found) = Found::from_message(&message) else { continue };
                        self.removed((found.index, found.address), now);
                    }
                }
                // Some were missed.
                Err(_) => return self.look_again(now),
            }
        }
    }

    fn removed(&mut self, key: (u32, Address), now: Moment) {
        for kept in self.kept.values_mut() {
            if let Some(held) = kept.held.get_mut(&key) {
                held.removed(now);
            }
        }
    }

    fn look_again(&mut self, now: Moment) {
        let there: BTreeSet<_> = match self.netlink.addresses() {
            Ok(found) => found.iter().map(|found| (found.index, found.address)).collect(),
            Err(error) => return self.outbox.warn("cannot look at addresses", &error),
        };
        for kept in self.kept.values_mut() {
            for (key, held) in &mut kept.held {
                if !there.contains(key) {
                    held.removed(now);
                }
            }
        }
    }

    /// Has what is held be what leases say.
    fn settle(&mut self, now: Moment) {
        if self.suspended {
            return;
        }
        let mut errands = Vec::new();
        let mut requests = Vec::new();
        for (number, kept) in &mut self.kept {
            let member = Arc::clone(&kept.member);
            let mut go = |key: (u32, Address), kind, request| {
                errands.push(Errand { number: *number, key, kind });
                requests.push(request);
            };
            let master = member.lease.is_master();
            let wanted = |key: &(u32, Address)| {
                master && key.0 == member.index && member.addresses.contains(&key.1)
            };
            kept.held.retain(|key, _| {
                let keep = wanted(key);
                if !keep && !member.foreign.contains(&key.1) {
                    go(*key, Kind::Delete, Request::delete(key.0, key.1));
                    if member.virtual_mac {
                        go(*key, Kind::Besides, vmac::source_rule_gone(key.0, key.1));
                    }
                }
                keep
            });
            if !member.lease.is_good(now) {
                if !master && kept.guarded {
                    self.minder.tell(&Message::Release(*number));
                    kept.guarded = false;
                }
                continue;
            }
            let announcements = member.lease.announcements();
            if announcements != kept.heeded {
                kept.heeded = announcements;
                for held in kept.held.values_mut() {
                    held.retake(now);
                }
            }
            if !kept.guarded || kept.outdated {
                self.minder.tell(&Message::Hold(holding(&member)));
                (kept.guarded, kept.outdated) = (true, false);
            }
            for address in &member.addresses {
                let key = (member.index, *address);
                let held = kept.held.entry(key).or_insert_with(|| Held::new(now));
                let kind = match (held.is_add_due(now), held.is_renewal_due(now)) {
                    (true, _) => Kind::Add,
                    (false, true) => Kind::Renew,
                    (false, false) => continue,
                };
                if member.foreign.contains(address) {
                    match kind {
                        Kind::Add => held.added(now),
                        Kind::Renew | Kind::Delete | Kind::Besides => held.renewed(now),
                    }
                    continue;
                }
                go(
                    key,
                    kind,
                    Request::add(member.index, *address, Some(LIFETIME), !member.virtual_mac),
                );
                if member.virtual_mac && kind == Kind::Add {
                    for request in vmac::source_routes(member.index, *address) {
                        go(key, Kind::Besides, request);
                    }
                }
            }
        }
        if requests.is_empty() {
            return;
        }
        let outcomes = match self.netlink.apply(requests) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.outbox.warn("addresses cannot be changed", &error);
                // What was done is not known. All is done again: it does no harm.
                errands.iter().map(|_| Err(io::Error::from(error.kind()))).collect()
            }
        };
        let now = thread::now();
        for (errand, outcome) in errands.into_iter().zip(outcomes) {
            self.done(&errand, outcome, now);
        }
    }

    fn done(&mut self, errand: &Errand, outcome: io::Result<()>, now: Moment) {
        let Some(kept) = self.kept.get_mut(&errand.number) else { return };
        let instance = || kept.member.name.clone();
        let address = errand.key.1;
        let held = kept.held.get_mut(&errand.key);
        match (errand.kind, outcome, held) {
            (Kind::Add, Ok(()), Some(held)) => {
                if held.is_lost() {
                    self.outbox.put(Event::AddressRestored { instance: instance(), address });
                }
                held.added(now);
            }
            (Kind::Renew, Ok(()), Some(held)) => held.renewed(now),
            (Kind::Add | Kind::Renew, Err(error), Some(held)) => {
                held.failed(now);
                // Without its interface, the virtual router will not be master for long.
                if error.raw_os_error() != Some(libc::ENODEV) {
                    let error = error.to_string();
                    self.outbox.put(Event::AddressFailed { instance: instance(), address, error });
                }
            }
            (Kind::Delete, Err(error), _) if !was_gone(&error) => {
                let error = error.to_string();
                self.outbox.put(Event::AddressFailed { instance: instance(), address, error });
            }
            (Kind::Besides, Err(error), _) if !is_done(&error) => {
                self.outbox.warn("a route for a virtual MAC cannot be set", &error);
            }
            (Kind::Add | Kind::Renew | Kind::Delete | Kind::Besides, _, _) => {}
        }
    }

    /// Sends the announcements that are due.
    fn announce(&mut self, now: Moment) {
        let active = if self.suspended { None } else { Some(self.kept.values_mut()) };
        for kept in active.into_iter().flatten() {
            let member = &kept.member;
            let Some(mac) = member.mac else { continue };
            if !member.lease.is_good(now) {
                continue;
            }
            let mut due: Vec<_> =
                kept.held.iter_mut().filter(|(_, held)| held.is_announcement_due(now)).collect();
            if due.is_empty() {
                continue;
            }
            let routes = member.source.is_ipv6() && forwards(&member.interface);
            let mut frames = Vec::new();
            let mut ends = Vec::with_capacity(due.len());
            for ((_, address), _) in &due {
                frames.extend(frames::announcement(address.ip, mac, routes));
                ends.push(frames.len());
            }
            let sent = match send(&mut self.senders, member.index, &frames) {
                Ok(sent) => sent,
                Err(error) => {
                    self.outbox.warn("addresses cannot be announced", &error);
                    self.senders.remove(&member.index);
                    0
                }
            };
            for ((_, held), end) in due.iter_mut().zip(ends) {
                if end <= sent {
                    held.announced(member.repeat, member.refresh, now);
                } else {
                    held.announce_later(now + CONGESTION);
                }
            }
        }
    }

    /// Beats, and starts a guard if there is none.
    fn mind_guard(&mut self, now: Moment) {
        if self.minder.is_start_due(now) {
            let error = self.minder.start(now).err().map(|error| error.to_string());
            self.outbox.put(Event::GuardDied { error });
            for kept in self.kept.values_mut() {
                kept.guarded = false;
            }
            self.settle(now);
        }
        let turned = thread::moment(self.pulse.load(Ordering::Acquire));
        self.minder.beat(now - turned < PULSE, now);
    }
}

/// Whether a route or rule was there, or gone, already.
fn is_done(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOENT)) || was_gone(error)
}

fn holding(member: &Member) -> Holding {
    let ours = |address: &&Address| !member.foreign.contains(address);
    Holding {
        id: member.number,
        patience: member.patience,
        index: member.index,
        interface: member.interface.clone(),
        virtual_mac: member.virtual_mac,
        addresses: member.addresses.iter().filter(ours).copied().collect(),
        source: member.source,
        farewells: member.farewells.clone(),
    }
}

fn send(
    senders: &mut HashMap<u32, FrameSender>,
    index: u32,
    frames: &[Vec<u8>],
) -> io::Result<usize> {
    let sender = match senders.entry(index) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(FrameSender::open(index)?),
    };
    sender.send(frames)
}

/// Whether the host forwards IPv6 packets that arrive there, and so is a router to neighbours.
fn forwards(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
