//! The driver: the thread that has adverts in and out in time.
//!
//! Each turn it empties the receiving sockets before it believes the clock, so that a master that
//! was paused hears its successor first. Deadlines are absolute, on a clock that counts pauses.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::ears::{self, Ears};
use super::events::{Entry, Outbox};
use super::lease::Order;
use super::legacy::{Share, identity};
use super::links::{Interface, Interfaces};
use super::report::{self, Report};
use super::thread::{self, Queue};
use super::vmac::Wanted;
use super::voice::Voice;
use super::{Service, sys};
use crate::instance::{Cause, Role};
use crate::router::{Change, InstanceId, Obstacle, Router, VirtualRouter};
use crate::settings::{self, Settings};
use crate::types::Moment;

/// Real-time priority, 1 to 99: that of keepalived where it is told to have one.
const PRIORITY: i32 = 50;

/// The longest between two turns: what the guard's beat lives on.
const PULSE: Duration = Duration::from_millis(100);

/// How long the interface of a virtual MAC may take to be there after a reload, before the virtual
/// router counts as one that cannot run.
const MAKING: Duration = Duration::from_secs(1);

/// Packets that are read from one socket in a turn. More than this is a flood, which must not
/// keep adverts from going out.
const DRAIN: usize = 512;

/// More than any packet of an advert.
const BUFFER: usize = 8 << 10;

const TIMER: u64 = 0;
const COMMANDS: u64 = 1;
const LINKS: u64 = 2;

/// What others want of the driver.
pub enum Command {
    /// Other settings, and where to say how that went.
    Reconfigure(Vec<Settings>, SyncSender<Result<(), settings::Error>>),
    /// A weight that tracking adds to a priority.
    Track {
        /// Name of the virtual router.
        instance: String,
        /// What is tracked.
        name: String,
        /// What it adds.
        weight: i16,
    },
    /// The virtual router of this name offers its addresses.
    Offer(String),
    /// Where to say what is the case.
    Status(SyncSender<Report>),
    /// A process before has let go of these. Where to say that they are taken up.
    Adopt(Vec<Share>, SyncSender<()>),
    /// Another process takes up the virtual routers of these identities; all others are given up.
    /// Where to say how far they are.
    LetGo(Vec<String>, SyncSender<Vec<Share>>),
    /// It does not after all.
    TakeBack,
    /// The end, and where to say what was the case.
    Stop(SyncSender<Report>),
    /// The end; another process goes on.
    Leave,
}

/// What the driver shares with others.
pub struct Shared {
    /// Commands.
    pub commands: Arc<Queue<Command>>,
    /// Interfaces, when they change.
    pub links: Arc<Queue<Interfaces>>,
    /// Orders to the keeper.
    pub orders: Arc<Queue<Order>>,
    /// Events.
    pub outbox: Arc<Outbox>,
    /// When it turned last.
    pub pulse: Arc<AtomicU64>,
    /// Whether the keeper has ended.
    pub keeper_gone: Arc<AtomicBool>,
    /// Asked before each advert.
    pub service: Service,
}

/// The driver's state.
pub struct Driver {
    shared: Shared,
    router: Router,
    voice: Voice,
    interfaces: Interfaces,
    ears: Ears,
    epoll: Epoll,
    timer: TimerFd,
    buffer: Vec<u8>,
    trouble: Option<String>,
    realtime: bool,
    /// Another process has it all, or is about to; these were our settings.
    away: Option<Vec<Settings>>,
    /// Something could not be done, and is tried again then.
    retry_at: Option<Moment>,
}

impl Driver {
    /// A driver with these settings, which have been checked. `waits`: for a process before, which
    /// has yet to let go.
    ///
    /// # Errors
    ///
    /// If there are too many open files, or settings cannot be after all.
    pub fn new(
        shared: Shared,
        settings: Vec<Settings>,
        interfaces: Interfaces,
        waits: bool,
    ) -> Result<Self, super::Error> {
        let open = |source: io::Error| super::Error::System { what: "wait for events", source };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| open(e.into()))?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).map_err(|e| open(e.into()))?;
        for (fd, token) in [
            (timer.as_fd(), TIMER),
            (shared.commands.wake().as_fd(), COMMANDS),
            (shared.links.wake().as_fd(), LINKS),
        ] {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
            epoll.add(fd, event).map_err(|error| open(error.into()))?;
        }
        let voice = Voice::new(Arc::clone(&shared.orders), Arc::clone(&shared.outbox));
        let mut driver = Self {
            shared,
            router: Router::new(),
            voice,
            interfaces,
            ears: Ears::default(),
            epoll,
            timer,
            buffer: vec![0; BUFFER],
            trouble: None,
            realtime: false,
            away: None,
            retry_at: None,
        };
        let now = thread::now();
        driver.reconfigure(settings, now)?;
        if waits {
            driver.for_each(|router, voice, id| {
                let mut act = |router: &VirtualRouter, actions| voice.act(router, actions);
                router.set_obstacle(id, Obstacle::Predecessor, true, now, &mut act);
            });
        }
        Ok(driver)
    }

    /// The body of the thread. `confine` takes away what it needs no longer, once it has real-time
    /// priority.
    pub fn run(mut self, confine: impl FnOnce()) {
        self.realtime = match sys::set_realtime(PRIORITY, false) {
            Ok(()) => true,
            Err(error) => {
                let line = format!(
                    "no real-time priority ({error}): on a busy host adverts may be late; \
                     CAP_SYS_NICE permits it"
                );
                self.shared.outbox.put_entry(Entry::Warning(line));
                false
            }
        };
        confine();
        let now = thread::now();
        self.look_at_service(now);
        self.apply_interfaces(now);
        loop {
            let now = thread::now();
            self.shared.pulse.store(thread::nanos(now), Ordering::Release);
            self.set_timer(now);
            let mut events = [EpollEvent::empty(); 64];
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => {
                    let line = format!("waiting for events failed: {error}");
                    self.shared.outbox.put_entry(Entry::Warning(line));
                    std::thread::sleep(Duration::from_millis(1));
                    0
                }
            };
            let events = &events[..count];
            for event in events.iter().filter(|event| event.data() >= ears::FIRST) {
                self.drain(event.data());
            }
            let now = thread::now();
            if self.away.is_none() {
                self.turn(now);
            }
            if self.take_commands() {
                return;
            }
            if self.away.is_none() {
                for router in self.router.iter() {
                    self.voice.publish(router);
                }
            }
        }
    }

    /// What is due.
    fn turn(&mut self, now: Moment) {
        self.look_at_service(now);
        let Self { router, voice, .. } = self;
        router.tick(now, &mut |router, actions| voice.act(router, actions));
        // Each turn, since one that found a queue busy is not told again.
        self.take_interfaces(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.apply_interfaces(now);
        }
    }

    fn set_timer(&self, now: Moment) {
        let mut at = now + PULSE;
        if self.away.is_none() {
            for other in [self.router.poll_timeout(), self.retry_at].into_iter().flatten() {
                at = at.min(other);
            }
        }
        // A timer of zero would be none at all.
        let at = at.since_beginning().max(Duration::from_nanos(1));
        let at = Expiration::OneShot(TimeSpec::from_duration(at));
        if let Err(error) = self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME) {
            let line = format!("the timer cannot be set: {error}");
            self.shared.outbox.put_entry(Entry::Warning(line));
        }
    }

    fn drain(&mut self, token: u64) {
        let Self { router, voice, ears, buffer, away, .. } = self;
        let Some(listening) = ears.get(token) else { return };
        for _ in 0..DRAIN {
            let packet = match listening.receiver.next(buffer) {
                Ok(Some(packet)) => packet,
                Ok(None) => return,
                // The interface went down. The monitor of links tells in a moment.
                Err(_) => return,
            };
            // It is for the other process, which hears it too.
            if away.is_some() {
                continue;
            }
            let now = thread::now();
            let heard =
                router.receive(&listening.interface, &packet, now, &mut |router, actions| {
                    voice.act(router, actions);
                });
            for notice in router.notices() {
                voice.tell_flaw(router, notice);
            }
            if let Ok(id) = heard
                && let Some(router) = router.get(id)
            {
                let priority = packet.payload.get(2).copied().unwrap_or_default();
                voice.notice_contention(router, packet.source, priority, now);
            }
        }
    }

    fn look_at_service(&mut self, now: Moment) {
        let gone = self.shared.keeper_gone.load(Ordering::Acquire);
        let answer = (self.shared.service)(now);
        let trouble = if gone { Some("nobody keeps addresses".to_owned()) } else { answer.err() };
        if trouble.is_some() != self.trouble.is_some() {
            let there = trouble.is_some();
            self.for_each(|router, voice, id| {
                router.set_obstacle(id, Obstacle::Service, there, now, &mut |router, actions| {
                    voice.act(router, actions);
                });
            });
        }
        self.trouble = trouble;
    }

    fn for_each(&mut self, mut what: impl FnMut(&mut Router, &mut Voice, InstanceId)) {
        let ids: Vec<_> = self.router.iter().map(VirtualRouter::id).collect();
        for id in ids {
            what(&mut self.router, &mut self.voice, id);
        }
    }

    fn take_interfaces(&mut self, now: Moment) {
        self.shared.links.wake().quiet();
        let mut newest = None;
        while let Some(interfaces) = self.shared.links.try_pop() {
            newest = Some(interfaces);
        }
        if let Some(interfaces) = newest {
            self.interfaces = interfaces;
            self.apply_interfaces(now);
        }
    }

    /// Tells each virtual router what its interfaces mean for it.
    fn apply_interfaces(&mut self, now: Moment) {
        self.retry_at = None;
        let Self { router, ears, epoll, interfaces, shared, .. } = self;
        let mut failed = !ears.listen(router, interfaces, epoll, &shared.outbox);
        let (interfaces, outbox) = (Arc::clone(&self.interfaces), Arc::clone(&self.shared.outbox));
        let find = |name: &str| interfaces.iter().find(|interface| interface.name == name);
        self.for_each(|router, voice, id| {
            let Some(virtual_router) = router.get(id) else { return };
            let settings = virtual_router.settings().clone();
            let below = find(&settings.interface);
            let device = match Wanted::of(&settings) {
                Some(virtual_mac) => find(&virtual_mac.name),
                None => below,
            };
            let up = |interface: Option<&Interface>| interface.is_some_and(|one| one.up);
            let usable = up(below) && up(device);
            if virtual_router.is_unknown()
                && up(below)
                && !usable
                && now - virtual_router.since() < MAKING
            {
                failed = true;
                return;
            }
            let tracked = settings.track_interfaces.iter().all(|name| up(find(name)));
            let now_from = virtual_router.source();
            let source = below.and_then(|below| below.source(&settings, now_from));
            let could_send = virtual_router.cause() != Cause::NoAddress || voice.can_send(id);
            if let Some(below) = below {
                router.set_routed_peers(id, below.routed_peers(&settings));
            }
            // What takes mastership comes while the old way still is there: priority 0 may
            // yet get out.
            let mut act = |router: &VirtualRouter, actions| voice.act(router, actions);
            for (obstacle, there) in
                [(Obstacle::Interface, !usable), (Obstacle::TrackedInterface, !tracked)]
            {
                if there {
                    router.set_obstacle(id, obstacle, true, now, &mut act);
                }
            }
            if source.is_none() {
                router.set_source(id, None, now, &mut act);
            }
            let Some(virtual_router) = router.get(id) else { return };
            let way = if usable { device.zip(source) } else { None };
            // As long as another address may take its place, and looked at again when none has.
            let waits = usable && virtual_router.misses_source();
            let can_send = waits || voice.set_way(virtual_router, way);
            failed |= waits || way.is_some() && !can_send;
            let mut act = |router: &VirtualRouter, actions| voice.act(router, actions);
            for (obstacle, there) in
                [(Obstacle::Interface, !usable), (Obstacle::TrackedInterface, !tracked)]
            {
                router.set_obstacle(id, obstacle, there, now, &mut act);
            }
            // Without its interface it is not the address that it lacks.
            let source = if can_send || !usable { source } else { None };
            router.set_source(id, source, now, &mut act);
            if let Some(virtual_router) = router.get(id) {
                if could_send && virtual_router.cause() == Cause::NoAddress {
                    let Settings { name, interface, .. } = &settings;
                    let lack = report::lack(&settings);
                    let line = format!("'{name}' cannot send adverts: {interface} has {lack}");
                    outbox.put_entry(Entry::Warning(line));
                }
                voice.tell_keeper(virtual_router);
                failed |= voice.is_untold(id);
            }
        });
        if failed {
            self.retry_at = Some(now + PULSE);
        }
    }

    fn reconfigure(&mut self, settings: Vec<Settings>, now: Moment) -> Result<(), settings::Error> {
        let Self { router, voice, .. } = self;
        let mut act = |router: &VirtualRouter, actions| voice.act(router, actions);
        let changes = router.reconfigure(settings, now, &mut act)?;
        let there = self.trouble.is_some();
        for change in changes {
            match change {
                Change::Removed(id) => self.voice.forget(id),
                Change::Added(id) if there => {
                    let Self { router, voice, .. } = self;
                    let mut act = |router: &VirtualRouter, actions| voice.act(router, actions);
                    router.set_obstacle(id, Obstacle::Service, true, now, &mut act);
                }
                Change::Added(_) | Change::Changed { .. } => {}
            }
        }
        Ok(())
    }

    /// A process before has let go: goes on with what it had, at once.
    fn adopt(&mut self, shares: &[Share], now: Moment) {
        let mut inheritances = Vec::new();
        let mut addresses = Vec::new();
        for router in self.router.iter() {
            let settings = router.settings();
            let own = identity(settings);
            if let Some(share) = shares.iter().find(|share| share.identity == own) {
                inheritances.push((router.id(), share.inheritance(settings)));
                addresses.push((router.id(), share));
            }
        }
        let Self { router, voice, .. } = self;
        router.take_up(inheritances, now, &mut |router, actions| voice.act(router, actions));
        for router in self.router.iter() {
            self.voice.publish(router);
            // With farewells of the form that peers understand.
            self.voice.tell_keeper(router);
        }
        // Only now, when leases say whose they are: the keeper deletes what nobody wants.
        for (id, share) in addresses.into_iter().filter(|(_, share)| !share.addresses.is_empty()) {
            self.voice.adopt(id, share.index, share.addresses().collect());
        }
    }

    /// Another process takes up the virtual routers of these identities: from now on nothing is
    /// sent, and their addresses are left alone.
    fn let_go(&mut self, wanted: &[String], now: Moment) -> Vec<Share> {
        let all: Vec<_> = self.router.iter().map(|router| router.settings().clone()).collect();
        let stay = |settings: &&Settings| wanted.contains(&identity(settings));
        let staying: Vec<_> = all.iter().filter(stay).cloned().collect();
        if staying.len() < all.len()
            && let Err(error) = self.reconfigure(staying, now)
        {
            // A part of what was right is right.
            self.shared.outbox.put_entry(Entry::Warning(error.to_string()));
        }
        self.away = Some(all);
        self.tell_keeper(Order::Suspend);
        let share = |router: &VirtualRouter| {
            let inheritance = router.bequeath();
            let is_master = inheritance.course.role == Role::Master;
            let (index, addresses) = self.voice.has(router);
            let addresses = addresses.into_iter().filter(|_| is_master);
            Share::of(router.settings(), &inheritance, index, addresses)
        };
        self.router.iter().map(share).collect()
    }

    /// The other process does not go on: this one does. If too much time has passed, virtual routers
    /// notice, and listen first.
    fn take_back(&mut self, now: Moment) {
        let Some(settings) = self.away.take() else { return };
        self.tell_keeper(Order::Resume);
        if let Err(error) = self.reconfigure(settings, now) {
            self.shared.outbox.put_entry(Entry::Warning(error.to_string()));
        }
        self.apply_interfaces(now);
    }

    fn tell_keeper(&self, order: Order) {
        if self.shared.orders.push(order).is_err() {
            let line = "the keeper of addresses does not take orders".to_owned();
            self.shared.outbox.put_entry(Entry::Warning(line));
        }
    }

    /// Whether this is the end.
    fn take_commands(&mut self) -> bool {
        self.shared.commands.wake().quiet();
        while let Some(command) = self.shared.commands.try_pop() {
            let now = thread::now();
            match command {
                Command::Reconfigure(settings, reply) => {
                    let outcome = self.reconfigure(settings, now);
                    if outcome.is_ok() {
                        self.apply_interfaces(now);
                    }
                    // Whoever asked may have gone.
                    let _gone = reply.try_send(outcome);
                }
                Command::Track { instance, name, weight } => {
                    let Self { router, voice, .. } = self;
                    let found = router.iter().find(|router| router.settings().name == instance);
                    if let Some(id) = found.map(VirtualRouter::id) {
                        let mut act = |router: &VirtualRouter, actions| voice.act(router, actions);
                        router.track(id, &name, weight, now, &mut act);
                    }
                }
                Command::Offer(instance) => {
                    let Self { router, voice, .. } = self;
                    let found = router.iter().find(|router| router.settings().name == instance);
                    if let Some(id) = found.map(VirtualRouter::id) {
                        let mut act = |router: &VirtualRouter, actions| voice.act(router, actions);
                        router.offer(id, now, &mut act);
                    }
                }
                Command::Status(reply) => {
                    let Self { router, voice, trouble, realtime, .. } = &*self;
                    let _gone = reply.try_send(report::report(
                        router,
                        voice,
                        trouble.as_deref(),
                        *realtime,
                        now,
                    ));
                }
                Command::Adopt(shares, reply) => {
                    self.adopt(&shares, now);
                    let _gone = reply.try_send(());
                }
                Command::LetGo(wanted, reply) => {
                    let shares = self.let_go(&wanted, now);
                    let _gone = reply.try_send(shares);
                }
                Command::TakeBack => self.take_back(now),
                Command::Stop(reply) => {
                    self.take_back(now);
                    let Self { router, voice, realtime, .. } = self;
                    router.stop(now, &mut |router, actions| voice.act(router, actions));
                    let last = report::report(router, voice, None, *realtime, now);
                    let _gone = reply.try_send(last);
                    return true;
                }
                Command::Leave => return true,
            }
        }
        false
    }
}
