//! Starting and stopping the threads, and speaking with the driver from outside.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::driver::{Command, Driver, Shared};
use super::events::{self, Outbox};
use super::keeper::Keeper;
use super::lease::Order;
use super::links::{Interface, Watch};
use super::notify::{self, Programs};
use super::report::Report;
use super::thread::{self, CAP_NET_ADMIN, CAP_NET_RAW, Queue, Wake};
use super::vmac::Wanted;
use super::{Error, Options, leftovers, sys};
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
    wanted: Arc<Mutex<Vec<Wanted>>>,
    watch_wake: Arc<Wake>,
    watch_stop: Arc<AtomicBool>,
    events_stop: Arc<AtomicBool>,
    last: Mutex<Report>,
    driver: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    events: Option<JoinHandle<()>>,
    notify: Option<JoinHandle<()>>,
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
    /// See [`super::start`].
    pub fn start(settings: Vec<Settings>, options: Options) -> Result<Self, Error> {
        let wanted = wanted(&settings)?;
        for (bit, capability, purpose) in [
            (CAP_NET_ADMIN, "CAP_NET_ADMIN", "change addresses"),
            (CAP_NET_RAW, "CAP_NET_RAW", "send and receive adverts"),
        ] {
            if !thread::has_capability(bit) {
                return Err(Error::Capability { capability, purpose });
            }
        }
        if let Err(error) = thread::lock_memory() {
            tracing::info!(%error, "memory is not locked: CAP_IPC_LOCK permits it");
        }
        for leftover in leftovers::release(&settings)? {
            tracing::warn!(%leftover, "deleted an address that was left behind");
        }
        let open = system("open what threads speak by");
        let links = Arc::new(Queue::new(LIMIT).map_err(&open)?);
        let mut watch = Watch::new(Arc::clone(&links)).map_err(system("watch interfaces"))?;
        *watch.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
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
            wanted: Arc::clone(&watch.wanted),
            watch_wake: Arc::clone(&watch.wake),
            watch_stop: Arc::clone(&watch.stop),
            events_stop: Arc::new(AtomicBool::new(false)),
            last: Mutex::default(),
            driver: None,
            keeper: None,
            watch: None,
            events: None,
            notify: None,
        };
        let driver = Driver::new(shared, settings, Arc::clone(&interfaces))?;
        let (programs, jobs) = Programs::new();
        let (outbox, stop) = (Arc::clone(&threads.outbox), Arc::clone(&threads.events_stop));
        let listener = options.events;
        threads.notify = Some(spawn("vrrp-notify", move || notify::run(&jobs))?);
        threads.events =
            Some(spawn("vrrp-events", move || events::run(&outbox, &listener, &programs, &stop))?);
        let (reply, guarded) = sync_channel(1);
        threads.keeper = Some(spawn("vrrp-keeper", move || {
            let _gone = gone;
            if reply.send(keeper.start_guard()).is_err() {
                return;
            }
            if let Err(error) = sys::set_realtime(KEEPER_PRIORITY) {
                tracing::debug!(%error, "the keeper has no real-time priority");
            }
            keeper.run();
        })?);
        match guarded.recv_timeout(LONG_PATIENCE) {
            Ok(started) => started.map_err(system("start the guard"))?,
            Err(_) => return Err(Error::Unresponsive),
        }
        threads.watch = Some(spawn("vrrp-links", move || watch.run(interfaces))?);
        threads.driver = Some(spawn("vrrp", move || driver.run())?);
        Ok(threads)
    }

    /// See [`super::Vrrp::reconfigure`].
    pub fn reconfigure(&self, settings: Vec<Settings>) -> Result<(), Error> {
        let virtual_macs = wanted(&settings)?;
        let (reply, answer) = sync_channel(1);
        self.command(Command::Reconfigure(settings, reply))?;
        answer.recv_timeout(LONG_PATIENCE).map_err(|_| Error::Unresponsive)??;
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = virtual_macs;
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

    fn stop(&mut self) {
        if let Some(driver) = self.driver.take() {
            let (reply, answer) = sync_channel(1);
            let told = self.command(Command::Stop(reply)).is_ok();
            if !told || answer.recv_timeout(PATIENCE).is_err() {
                tracing::error!("the VRRP driver does not stop; addresses are released without it");
            }
            join(driver);
        }
        if let Some(keeper) = self.keeper.take() {
            if self.orders.push(Order::Stop).is_err() {
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
        // The program for the end itself is waited for, a while; what takes longer goes on.
        let begin = Instant::now();
        while self.notify.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if begin.elapsed() > ENDING {
                break;
            }
            sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
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

/// The virtual MACs of settings that can be.
fn wanted(settings: &[Settings]) -> Result<Vec<Wanted>, Error> {
    settings::check(settings)?;
    let mut all: Vec<Wanted> = Vec::new();
    for wanted in settings.iter().filter_map(Wanted::of) {
        if let Some(other) = all.iter().find(|other| other.name == wanted.name) {
            let interfaces = [other.below.clone(), wanted.below];
            return Err(Error::VirtualMac { name: wanted.name, interfaces });
        }
        all.push(wanted);
    }
    Ok(all)
}

fn join(thread: JoinHandle<()>) {
    let begin = Instant::now();
    while !thread.is_finished() {
        if begin.elapsed() > ENDING {
            return tracing::error!(name = thread.thread().name(), "a thread does not end");
        }
        sleep(Duration::from_millis(1));
    }
    if thread.join().is_err() {
        tracing::error!("a thread of VRRP panicked");
    }
}
