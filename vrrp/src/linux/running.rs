//! Starting and stopping the threads, and speaking with the driver from outside.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::driver::{Command, Driver, Shared};
use super::events::{self, Outbox};
use super::keeper::Keeper;
use super::lease::Order;
use super::legacy::Legacy;
use super::links::{Interface, Watch};
use super::notify::{self, Programs};
use super::report::Report;
use super::thread::{self, CAP_NET_ADMIN, CAP_NET_RAW, Queue, Wake};
use super::vmac::{Made, Needs};
use super::{Error, Options, Role, leftovers, sys};
use crate::settings::{self, Settings};

/// The keeper's real-time priority, below the driver's.
const KEEPER_PRIORITY: i32 = 49;

/// How long an answer of the driver is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long one is waited for that has to be.
const LONG_PATIENCE: Duration = Duration::from_secs(2);

/// How long a thread may take to end.
const ENDING: Duration = Duration::from_secs(1);

/// Commands, and orders to the keeper, that may wait.
const LIMIT: usize = 1_024;

/// The threads, and how to reach them.
pub struct Threads {
    commands: Arc<Queue<Command>>,
    orders: Arc<Queue<Order>>,
    outbox: Arc<Outbox>,
    needs: Arc<Mutex<Needs>>,
    watch_wake: Arc<Wake>,
    watch_stop: Arc<AtomicBool>,
    /// See [`Watch::made`] and [`Watch::in_charge`].
    made: Arc<Mutex<Made>>,
    in_charge: Arc<AtomicBool>,
    events_stop: Arc<AtomicBool>,
    last: Mutex<Report>,
    driver: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    events: Option<JoinHandle<()>>,
    notify: Option<JoinHandle<()>>,
    programs: Programs,
}

/// Says that the keeper has ended, however that came.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { what, source }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    Builder::new().name(name.to_owned()).spawn(body).map_err(system("start a thread"))
}

impl Threads {
    /// See [`super::start`]; if it `waits`, [`super::succeed`].
    pub fn start(settings: Vec<Settings>, options: Options, waits: bool) -> Result<Self, Error> {
        let needs = needs(&settings)?;
        for (bit, capability, purpose) in [
            (CAP_NET_ADMIN, "CAP_NET_ADMIN", "change addresses"),
            (CAP_NET_RAW, "CAP_NET_RAW", "send and receive adverts"),
        ] {
            if !thread::has_capability(bit) {
                return Err(Error::Capability { capability, purpose });
            }
        }
        if !waits {
            release(&settings)?;
        }
        let open = system("open what threads speak by");
        let links = Arc::new(Queue::new(LIMIT).map_err(&open)?);
        let mut watch = Watch::new(Arc::clone(&links)).map_err(system("watch interfaces"))?;
        *lock(&watch.needs) = needs;
        watch.in_charge.store(!waits, Ordering::Release);
        let interfaces = Arc::new(watch.look().map_err(system("look at interfaces"))?);
        warn_of_foreign(&settings, &interfaces);
        let shared = Shared {
            commands: Arc::new(Queue::new(LIMIT).map_err(&open)?),
            links,
            orders: Arc::new(Queue::new(LIMIT).map_err(&open)?),
            outbox: Arc::new(Outbox::new().map_err(&open)?),
            pulse: Arc::new(AtomicU64::new(thread::nanos(thread::now()))),
            keeper_gone: Arc::new(AtomicBool::new(false)),
            service: options.service,
        };
        let keeper = Keeper::new(
            Arc::clone(&shared.orders),
            Arc::clone(&shared.outbox),
            Arc::clone(&shared.pulse),
            options.guard,
        );
        let mut keeper = keeper.map_err(system("open netlink"))?;
        let gone = Gone(Arc::clone(&shared.keeper_gone));
        let mut threads = Self {
            commands: Arc::clone(&shared.commands),
            orders: Arc::clone(&shared.orders),
            outbox: Arc::clone(&shared.outbox),
            needs: Arc::clone(&watch.needs),
            watch_wake: Arc::clone(&watch.wake),
            watch_stop: Arc::clone(&watch.stop),
            made: Arc::clone(&watch.made),
            in_charge: Arc::clone(&watch.in_charge),
            events_stop: Arc::new(AtomicBool::new(false)),
            last: Mutex::default(),
            driver: None,
            keeper: None,
            watch: None,
            events: None,
            notify: None,
            programs: Programs::default(),
        };
        let driver = Driver::new(shared, settings, Arc::clone(&interfaces), waits)?;
        let (outbox, stop) = (Arc::clone(&threads.outbox), Arc::clone(&threads.events_stop));
        let listener = options.events;
        let shared = options.confine.is_some();
        let confine = options.confine.unwrap_or_else(|| Arc::new(|_| ()));
        let confined = |role| {
            let confine = Arc::clone(&confine);
            move || confine(role)
        };
        let (enter, programs) = (confined(Role::Notify), threads.programs.clone());
        threads.notify = Some(spawn("vrrp-notify", move || {
            enter();
            programs.work();
        })?);
        let programs = threads.programs.clone();
        let enter = confined(Role::Events);
        threads.events = Some(spawn("vrrp-events", move || {
            enter();
            events::run(&outbox, &listener, &programs, &stop);
        })?);
        let (enter_links, enter_driver) = (confined(Role::Links), confined(Role::Driver));
        let (reply, guarded) = sync_channel(1);
        threads.keeper = Some(spawn("vrrp-keeper", move || {
            let _gone = gone;
            // Guards inherit it: once the thread is confined, it could not give it to another.
            if let Err(error) = sys::set_realtime(KEEPER_PRIORITY, true) {
                tracing::debug!(%error, "the keeper has no real-time priority");
            }
            confine(Role::Keeper);
            if reply.send(keeper.start_guard()).is_err() {
                return;
            }
            keeper.run();
        })?);
        match guarded.recv_timeout(LONG_PATIENCE) {
            Ok(started) => started.map_err(system("start the guard"))?,
            Err(_) => return Err(Error::Unresponsive),
        }
        threads.watch = Some(spawn("vrrp-links", move || {
            enter_links();
            watch.run(interfaces);
        })?);
        threads.driver = Some(spawn("vrrp", move || driver.run(enter_driver))?);
        if waits {
            // Once it answers it has all that it needs to go on at once.
            threads.ask(Command::Status).ok_or(Error::Unresponsive)?;
        }
        // Now that their stacks are there.
        if let Err(error) = thread::lock_memory(shared) {
            tracing::info!(%error, "memory is not locked: CAP_IPC_LOCK permits it");
        }
        Ok(threads)
    }

    /// See [`super::Vrrp::adopt`].
    pub fn adopt(&self, legacy: Option<Legacy>) -> Result<(), Error> {
        let Legacy { routers, virtual_macs, system } = legacy.unwrap_or_default();
        // First what others wait for.
        self.ask(|reply| Command::Adopt(routers, reply)).ok_or(Error::Unresponsive)?;
        *lock(&self.made) = Made { names: virtual_macs, before: system, failed: Vec::new() };
        self.in_charge.store(true, Ordering::Release);
        self.watch_wake.ring();
        Ok(())
    }

    /// See [`super::Vrrp::let_go`].
    pub fn let_go(&self, wanted: Vec<String>) -> Result<Legacy, Error> {
        self.in_charge.store(false, Ordering::Release);
        let Made { names, before, failed: _ } = lock(&self.made).clone();
        let routers = self.ask(|reply| Command::LetGo(wanted, reply));
        match routers {
            Some(routers) => Ok(Legacy { routers, virtual_macs: names, system: before }),
            None => {
                self.take_back();
                Err(Error::Unresponsive)
            }
        }
    }

    /// See [`super::Vrrp::take_back`].
    pub fn take_back(&self) {
        if self.command(Command::TakeBack).is_err() {
            tracing::error!("the VRRP driver does not take back what it has let go");
        }
        self.in_charge.store(true, Ordering::Release);
        self.watch_wake.ring();
    }

    /// See [`super::Vrrp::leave`].
    pub fn leave(&mut self) {
        self.in_charge.store(false, Ordering::Release);
        if let Some(driver) = self.driver.take() {
            if self.command(Command::Leave).is_err() {
                tracing::error!("the VRRP driver is not to be reached");
            }
            join(driver);
        }
        self.end(Order::Leave);
    }

    /// The driver's answer; `None` if it does not come.
    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.command(command(reply)).ok()?;
        answer.recv_timeout(LONG_PATIENCE).ok()
    }

    /// See [`super::Vrrp::reconfigure`].
    pub fn reconfigure(&self, settings: Vec<Settings>) -> Result<(), Error> {
        let needs = needs(&settings)?;
        let (reply, answer) = sync_channel(1);
        self.command(Command::Reconfigure(settings, reply))?;
        answer.recv_timeout(LONG_PATIENCE).map_err(|_| Error::Unresponsive)??;
        *lock(&self.needs) = needs;
        self.watch_wake.ring();
        Ok(())
    }

    /// Tells the driver something.
    pub fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.push(command).map_err(|_| Error::Unresponsive)
    }

    /// What is the case; if the driver does not answer, what was before.
    pub fn report(&self) -> Report {
        let (reply, answer) = sync_channel(1);
        let fresh = self.command(Command::Status(reply)).ok();
        let fresh = fresh.and_then(|()| answer.recv_timeout(PATIENCE).ok());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = fresh {
            *last = fresh;
        }
        last.clone()
    }

    /// The programs that still run after [`Threads::stop`].
    pub fn last_programs(&mut self) -> LastPrograms {
        LastPrograms(self.notify.take())
    }

    /// Gives everything up. Returns what was the case then; if the driver does not say, before.
    pub fn stop(&mut self) -> Report {
        if let Some(driver) = self.driver.take() {
            let (reply, answer) = sync_channel(1);
            let told = self.command(Command::Stop(reply)).is_ok();
            match answer.recv_timeout(PATIENCE) {
                Ok(last) if told => *lock(&self.last) = last,
                Ok(_) | Err(_) => {
                    tracing::error!(
                        "the VRRP driver does not stop; addresses are released without it"
                    );
                }
            }
            join(driver);
        }
        self.end(Order::Stop);
        lock(&self.last).clone()
    }

    /// Ends all threads but the driver's. `order`: how the keeper ends.
    fn end(&mut self, order: Order) {
        let goes_on = matches!(order, Order::Leave);
        if let Some(keeper) = self.keeper.take() {
            if self.orders.push(order).is_err() {
                tracing::error!("the keeper of addresses is not to be reached");
            }
            join(keeper);
        }
        self.watch_stop.store(true, Ordering::Release);
        self.watch_wake.ring();
        self.events_stop.store(true, Ordering::Release);
        self.outbox.ring();
        for thread in [self.watch.take(), self.events.take()].into_iter().flatten() {
            join(thread);
        }
        if goes_on {
            self.programs.close();
        } else {
            self.programs.cut();
        }
        // The programs for the end itself are waited for, a while; what takes longer goes on.
        if let Some(notify) = &self.notify {
            await_end(notify, ENDING);
        }
    }
}

/// Programs for the end of virtual routers, which may run for a while yet: the end of the process may
/// be the end of them too.
#[derive(Debug)]
pub struct LastPrograms(Option<JoinHandle<()>>);

impl LastPrograms {
    /// Waits until they have ended. Those that take longer than 10 s from [`super::Vrrp::stop`] on are
    /// killed.
    pub fn wait(self) {
        if let Some(thread) = self.0 {
            await_end(&thread, notify::LAST + ENDING);
        }
    }
}

/// Waits for the end of a thread, for so long.
fn await_end(thread: &JoinHandle<()>, longest: Duration) -> bool {
    let begin = Instant::now();
    while !thread.is_finished() {
        if begin.elapsed() > longest {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Deletes what a process before left behind.
fn release(settings: &[Settings]) -> Result<(), Error> {
    for leftover in leftovers::release(settings)? {
        tracing::warn!(%leftover, "deleted an address that was left behind");
    }
    Ok(())
}

/// Says which addresses are on this host whoever is master, which two hosts must not have.
fn warn_of_foreign(settings: &[Settings], interfaces: &[Interface]) {
    for settings in settings.iter().filter(|settings| !settings.priority.is_owner()) {
        let on = interfaces.iter().filter(|interface| interface.name == settings.interface);
        for interface in on {
            let foreign =
                settings.addresses.iter().filter(|address| interface.has_foreign(**address));
            for address in foreign {
                let (instance, interface) = (&settings.name, &interface.name);
                tracing::warn!(
                    instance, %address, interface,
                    "the shared address is there already, added by somebody else: remove it"
                );
            }
        }
    }
}

/// What settings that can be need of the system.
fn needs(settings: &[Settings]) -> Result<Needs, Error> {
    settings::check(settings)?;
    let needs = Needs::of(settings);
    for (index, wanted) in needs.virtual_macs.iter().enumerate() {
        if let Some(other) =
            needs.virtual_macs[..index].iter().find(|other| other.name == wanted.name)
        {
            let interfaces = [other.below.clone(), wanted.below.clone()];
            return Err(Error::VirtualMac { name: wanted.name.clone(), interfaces });
        }
    }
    Ok(needs)
}

fn join(thread: JoinHandle<()>) {
    if !await_end(&thread, ENDING) {
        return tracing::error!(name = thread.thread().name(), "a thread does not end");
    }
    if thread.join().is_err() {
        tracing::error!("a thread of VRRP panicked");
    }
}
