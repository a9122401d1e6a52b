//! The control plane: one thread that knows the configuration, watches backends, writes their
//! weights, publishes snapshots, and answers questions.
//!
//! Everything that changes passes through [`Control::run`], one event after the other, so that
//! no two causes of a change can meet. Checks, name resolution and the admin server are tasks on
//! the same thread that send their events to it.

mod addresses;
mod compile;
mod events;
mod exchange;
pub mod explain;
pub mod failover;
mod failure;
mod files;
mod guard;
mod handover;
mod inherit;
mod lists;
pub mod material;
mod members;
pub mod node;
mod operate;
pub mod preflight;
mod probe;
mod process;
mod pulse;
mod reading;
mod reload;
mod resolve;
mod room;
mod schedule;
mod secrets;
mod servers;
mod shared;
mod show;
mod start;
mod state;
mod summary;
mod tally;
mod tracking;
pub mod upgrade;
mod watch;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout_at};
use tracing_subscriber::filter::LevelFilter;

use crate::admin::order::Order;
use crate::admin::server::Who;
use crate::admin::status::{self, Status};
use crate::admin::{self, Ask};
use crate::balance::cell::WEIGHT_ONE;
use crate::config::{self, plan};
use crate::health::{Event, Transition};
use crate::log::{self, Levels, Opened, Output, Places, Reader};
use crate::metrics::{CARRY_OVER, Registry, Sum};
use crate::pool::{Addresses, Endpoint, Report, Target};
use crate::record;
use crate::sandbox;
use crate::systemd::Systemd;
use crate::tls::client::Prober;
use crate::tls::tickets::Secret;
use crate::worker::{Cut, Sockets, Workers};
use compile::{Means, World};
use events::{Events, Kind};
use failover::Failover;
pub use failure::Failure;
use handover::Handovers;
use inherit::Inheritance;
use material::Material;
use members::Members;
use operate::Emptying;
use probe::{NotPassed, Probe};
use resolve::{Answer, keep_resolving, keep_resolving_all};
use room::max_connections;
use schedule::Schedule;
use servers::{Admin, Task};
use shared::{Shared, Turn};
use state::State;
use upgrade::Upgrades;
use watch::Watch;

/// Reports of failed connections on their way; more are dropped.
const REPORTS: usize = 4_096;

/// How long the first checks of new backends are waited for before a configuration is published,
/// and how much longer if without them a pool has nobody to send to.
const SETTLE: Duration = Duration::from_secs(1);
const SETTLE_USABLE: Duration = Duration::from_secs(5);

/// Checks at once.
const CHECKS_AT_ONCE: usize = 256;

/// A worker that is silent for longer is stuck.
const STUCK: Duration = Duration::from_secs(5);

/// How often listeners to events are sent something, if only to notice those that are gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often a stop looks whether all connections have ended.
const DRAIN_TICK: Duration = Duration::from_millis(20);

/// Runs the gateway of the configuration at `path` until it is told to stop. `named`: which node it
/// is, if the command line says so.
///
/// Fails only before it has begun to serve.
pub fn run(path: &Path, named: Option<&str>) -> Result<(), Failure> {
    if let Some(elder) = inherit::escorted()? {
        let cannot = Failure::system("cannot start the process that is to take over");
        return upgrade::accompany(elder).map(|never| match never {}).map_err(cannot);
    }
    let inheritance = Inheritance::take()?;
    let plan = config::load(path)?;
    node::Host::this().choose(&plan.nodes, named)?;
    // Before there are other threads: what the start can do, a reload can.
    sandbox::begin(confinement(plan.runtime.sandbox))
        .map_err(|error| Failure::system("cannot drop privileges")(error.into()))?;
    let reader = inheritance.reader.unwrap_or_else(Reader::of_stderr);
    let output =
        Output::start(reader).map_err(Failure::system("cannot start the logging thread"))?;
    output.redirect(Opened::between(Places::default(), places(&plan))?);
    let (level, format) = (level(plan.log.level), format(plan.log.format));
    let levels = log::install(&output, level, format)
        .map_err(|error| Failure::system("cannot log")(io::Error::other(error)))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::system("cannot make an event queue"))?;
    let served = runtime.block_on(async {
        let control = Control::start(path, named, plan, inheritance, output.clone(), levels).await;
        control.map_err(|failure| failure.with_line(path))?.run().await
    });
    output.flush();
    served
}

/// The control plane of a running gateway.
struct Control {
    path: PathBuf,
    /// Which node it is by the command line.
    named: Option<String>,
    /// Which node it is.
    node: Option<plan::Node>,
    world: World,
    material: Material,
    /// What tickets are made with, if gateways share no secret; and the bytes that it is made of.
    secret: Secret,
    ticket_seed: [u8; 32],
    workers: Workers,
    /// What listeners accept from.
    sockets: Sockets,
    open_files: u64,
    output: Output,
    levels: Levels,
    admin: Admin,
    inbox: Inbox,
    senders: Senders,
    watch: Watch,
    members: Members,
    failover: Failover,
    upgrades: Upgrades,
    systemd: Systemd,
    events: Events,
    registry: Registry,
    series: Series,
    shared: Shared,
    reloads: status::Reloads,
    /// What operators have set.
    state: State,
    /// What they have ordered, and is not done yet.
    orders: VecDeque<(Who, Order)>,
    emptying: Vec<Emptying>,
    handovers: Handovers,
    began: Instant,
    /// Addresses that were removed, and until when workers may still accept from them.
    closing: HashMap<SocketAddr, Instant>,
    /// What the process was started with, for what it cannot change.
    started: plan::Plan,
    signals: Signals,
    /// When connections must have ended, once a stop has begun.
    stopping: Option<Instant>,
    /// A process that has been upgraded was told to stop, too.
    told_once: bool,
    /// Until when such a process answers what it was asked before.
    answers_until: Option<Instant>,
}

/// What the system tells the process to do. Listened to from the start, so that none ends it
/// unprepared.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Where events come from.
struct Inbox {
    reports: mpsc::Receiver<Report>,
    answers: mpsc::UnboundedReceiver<Answer>,
    checked: mpsc::UnboundedReceiver<Checked>,
    asks: mpsc::Receiver<Ask>,
    turns: mpsc::UnboundedReceiver<Turn>,
}

/// Where they are sent to.
struct Senders {
    reports: mpsc::Sender<Report>,
    answers: mpsc::UnboundedSender<Answer>,
    checked: mpsc::UnboundedSender<Checked>,
    asks: mpsc::Sender<Ask>,
}

/// A check has ended.
struct Checked {
    backend: u64,
    began: Instant,
    ended: Instant,
    result: Result<(), NotPassed>,
}

/// Series of the process as a whole.
struct Series {
    renewals_ok: Sum,
    renewals_failed: Sum,
    reloads_ok: Sum,
    reloads_failed: Sum,
    lost_lines: Vec<Sum>,
}

impl Control {
    /// Handles events until the gateway has stopped.
    async fn run(mut self) -> Result<(), Failure> {
        let mut carry_over = tokio::time::interval(CARRY_OVER);
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        let mut look = tokio::time::interval(material::LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut hurried = false;
        loop {
            while let Some((who, order)) = self.orders.pop_front() {
                self.obey(who, order).await;
            }
            let now = Instant::now();
            self.follow_names(now);
            self.pass_time(now);
            self.track_pools(now);
            self.start_checks();
            self.empty_backends(now);
            self.give_up_handover(now).await;
            self.follow_upgrade(now).await;
            self.systemd.live(self.workers.crew.longest_silence(), now);
            if self.stopping.is_some() && self.has_drained(now) {
                break;
            }
            let wakes = [
                self.watch.next(),
                self.next_change(),
                self.members.known.next(),
                self.failover.next(),
                self.next_emptying(),
                self.next_handover(),
                self.upgrades.due(),
                self.systemd.due(),
            ];
            let wake = wakes.into_iter().flatten().min();
            let wake = match self.stopping {
                Some(_) => wake.into_iter().chain([now + DRAIN_TICK]).min(),
                None => wake,
            };
            let sleep = pin!(sleep_until(wake.unwrap_or(now + CARRY_OVER).into()));
            tokio::select! {
                () = sleep => {}
                Some(checked) = self.inbox.checked.recv() => {
                    self.checked(checked);
                    // With a thousand backends they come in crowds.
                    while let Ok(checked) = self.inbox.checked.try_recv() {
                        self.checked(checked);
                    }
                }
                Some(report) = self.inbox.reports.recv() => self.reported(&report),
                Some(answer) = self.inbox.answers.recv() => self.answered(answer),
                Some(ask) = self.inbox.asks.recv() => self.answer(ask),
                Some(turn) = self.inbox.turns.recv() => self.take_turn(turn),
                event = self.failover.event() => self.failed_over(event).await,
                _ = carry_over.tick() => {
                    self.carry_over();
                    self.shared.end_slow(Instant::now());
                }
                _ = look.tick() => self.renew_certificates(),
                _ = keep_alive.tick() => self.events.keep_alive(),
                news = self.upgrades.next() => self.heard(news).await,
                () = received(&mut self.signals.hangup) => self.hung_up().await,
                () = received(&mut self.signals.upgrade) => self.upgrade("SIGUSR2", None),
                () = either(&mut self.signals.terminate, &mut self.signals.interrupt) => {
                    if self.told_to_stop() {
                        hurried = true;
                        break;
                    }
                }
            }
        }
        // What stopping has brought about is told before the end.
        while let Some(event) = self.failover.try_event() {
            self.failed_over(event).await;
        }
        self.events.flush().await;
        let cut = self.workers.crew.connections();
        self.workers.stop();
        self.tell_the_last(hurried).await;
        if !hurried {
            self.failover.await_programs();
        }
        self.admin.remove_socket();
        tracing::info!(cut, "stopped");
        Ok(())
    }

    /// A signal to stop has come. Whether that is to be at once.
    fn told_to_stop(&mut self) -> bool {
        match (self.stopping, self.upgrades.successor()) {
            (None, _) => {
                self.begin_to_stop();
                false
            }
            // It is on its way out, and who stops a service means all of its processes: this one
            // has as much time as it had.
            (Some(_), Some(pid)) if !self.told_once => {
                tracing::info!(pid, "draining already: the new process serves");
                self.told_once = true;
                false
            }
            (Some(_), _) => {
                tracing::warn!("second signal: stopping at once");
                true
            }
        }
    }

    /// SIGHUP has come.
    async fn hung_up(&mut self) {
        if self.upgrades.is_under_way() {
            tracing::info!("SIGHUP: put off until the upgrade has ended");
            self.upgrades.reload_later();
        } else {
            // Told where everything else is: who waits for an answer asks for it.
            let _ = self.reload("SIGHUP").await;
        }
    }

    fn begin_to_stop(&mut self) {
        self.systemd.stopping("stopping");
        self.give_up_upgrade("the gateway was told to stop".to_owned());
        let timeout = self.world.plan.runtime.drain_timeout;
        self.stopping = Some(Instant::now() + timeout);
        // The peer takes over while this gateway still serves whom it has.
        self.failover.stop();
        let connections = self.workers.crew.connections();
        tracing::info!(connections, drain_timeout = ?timeout, "stopping: no new connections");
        self.sockets.clear();
        self.workers.crew.close(HashSet::new());
        let fields = [("from", "running"), ("to", "draining"), ("cause", "told to stop")];
        let fields = fields.map(|(name, value)| (name, value.into()));
        self.events.tell(Kind::Gateway, SystemTime::now(), &fields);
    }

    fn renew_certificates(&mut self) {
        let now = SystemTime::now();
        let renewals = self.material.renew(now);
        if !renewals.is_empty() {
            // A new key may have come with other permissions. Others may be on a file system that
            // hangs.
            let plan = self.world.plan.clone();
            let looking = std::thread::Builder::new().name("files-secret".to_owned());
            let looking = looking.spawn(move || {
                secrets::exposed(&plan).iter().for_each(|doubt| tracing::warn!("{doubt}"));
            });
            if let Err(error) = looking {
                tracing::error!(%error, "no thread to look at the permissions of secrets");
            }
        }
        for renewal in renewals {
            let result = if renewal.refused.is_some() { "refused" } else { "renewed" };
            let cause = renewal.refused.unwrap_or_else(|| "its files changed".to_owned());
            let fields = [
                (renewal.of.0, renewal.of.1.into()),
                ("file", renewal.what.into()),
                ("result", result.into()),
                ("cause", cause.into()),
            ];
            self.events.tell(Kind::Certificate, now, &fields);
        }
    }

    fn has_drained(&self, now: Instant) -> bool {
        let crew = &self.workers.crew;
        let answered = self.admin.has_answered();
        let answered = answered || self.answers_until.is_none_or(|until| until <= now);
        // Who stops a service ends what is left of the one before as soon as this has ended.
        let last = !self.upgrades.has_elder();
        let empty = last && !crew.accepts() && crew.connections() == 0 && answered;
        empty || self.stopping.is_some_and(|deadline| deadline <= now)
    }
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        () = received(one) => {}
        () = received(other) => {}
    }
}

fn level(level: plan::Level) -> LevelFilter {
    match level {
        plan::Level::Error => LevelFilter::ERROR,
        plan::Level::Warn => LevelFilter::WARN,
        plan::Level::Info => LevelFilter::INFO,
        plan::Level::Debug => LevelFilter::DEBUG,
        plan::Level::Trace => LevelFilter::TRACE,
    }
}

fn confinement(sandbox: plan::Sandbox) -> sandbox::Mode {
    match sandbox {
        plan::Sandbox::On => sandbox::Mode::On,
        plan::Sandbox::Log => sandbox::Mode::Log,
        plan::Sandbox::Off => sandbox::Mode::Off,
    }
}

fn format(format: plan::Format) -> record::Format {
    match format {
        plan::Format::Text => record::Format::Text,
        plan::Format::Json => record::Format::Json,
    }
}

fn places(plan: &plan::Plan) -> Places<'_> {
    Places { events: plan.log.file.as_deref(), records: plan.log.access_file.as_deref() }
}
