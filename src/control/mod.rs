//! The control plane: one thread that knows the configuration, watches backends, writes their
//! weights, publishes snapshots, and answers questions.
//!
//! Everything that changes passes through [`Control::run`], one event after the other, so that
//! no two causes of a change can meet. Checks, name resolution and the admin server are tasks on
//! the same thread that send their events to it.

mod compile;
mod events;
pub mod failover;
mod failure;
mod files;
pub mod material;
pub mod node;
pub mod preflight;
mod probe;
mod process;
mod pulse;
mod reload;
mod resolve;
mod room;
mod schedule;
mod servers;
mod show;
mod start;
mod summary;
mod tracking;
mod watch;

use std::collections::{HashMap, HashSet};
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

use crate::admin::status::{self, Status};
use crate::admin::{self, Ask};
use crate::balance::cell::WEIGHT_ONE;
use crate::config::{self, plan};
use crate::health::{Event, Transition};
use crate::log::{self, Levels, Output};
use crate::metrics::{CARRY_OVER, Registry, Sum};
use crate::pool::{Endpoint, Report};
use crate::record;
use crate::tls::client::Prober;
use crate::tls::tickets::Secret;
use crate::worker::Workers;
use compile::{Means, World};
use events::{Events, Kind};
use failover::Failover;
pub use failure::Failure;
use material::Material;
use probe::Probe;
use resolve::{Answer, keep_resolving};
use room::max_connections;
use schedule::Schedule;
use servers::{Admin, Task};
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
    let plan = config::load(path)?;
    node::Host::this().choose(&plan.nodes, named)?;
    let output = Output::start().map_err(Failure::system("cannot start the logging thread"))?;
    let (level, format) = (level(plan.log.level), format(plan.log.format));
    let levels = log::install(&output, level, format)
        .map_err(|error| Failure::system("cannot log")(io::Error::other(error)))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::system("cannot make an event queue"))?;
    let served = runtime.block_on(async {
        let control = Control::start(path, named, plan, output.clone(), levels).await?;
        control.run().await
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
    /// What tickets are made with, if gateways share no secret.
    secret: Secret,
    workers: Workers,
    open_files: u64,
    output: Output,
    levels: Levels,
    admin: Admin,
    inbox: Inbox,
    senders: Senders,
    watch: Watch,
    failover: Failover,
    events: Events,
    registry: Registry,
    process: metrics_process::Collector,
    series: Series,
    reloads: status::Reloads,
    began: Instant,
    /// Addresses that were removed, and until when workers may still accept from them.
    closing: HashMap<SocketAddr, Instant>,
    /// What the process was started with, for what it cannot change.
    started: plan::Plan,
    signals: Signals,
    /// When connections must have ended, once a stop has begun.
    stopping: Option<Instant>,
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
    result: Result<(), String>,
}

/// Series of the process as a whole.
struct Series {
    renewals_ok: Sum,
    renewals_failed: Sum,
    reloads_ok: Sum,
    reloads_failed: Sum,
    dropped: Sum,
}

impl Control {
    /// Handles events until the gateway has stopped.
    async fn run(mut self) -> Result<(), Failure> {
        let mut carry_over = tokio::time::interval(CARRY_OVER);
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        let mut look = tokio::time::interval(material::LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            self.pass_time(now);
            self.track_pools(now);
            self.start_checks();
            if self.stopping.is_some() && self.has_drained(now) {
                break;
            }
            let wakes = [self.watch.next(), self.next_change(), self.failover.next()];
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
                event = self.failover.event() => self.failed_over(event),
                _ = carry_over.tick() => self.carry_over(),
                _ = look.tick() => self.renew_certificates(),
                _ = keep_alive.tick() => self.events.keep_alive(),
                () = received(&mut self.signals.hangup) => self.reload().await,
                () = received(&mut self.signals.upgrade) => {
                    tracing::warn!("SIGUSR2: upgrade is not supported yet");
                }
                () = either(&mut self.signals.terminate, &mut self.signals.interrupt) => {
                    if self.stopping.is_some() {
                        tracing::warn!("second signal: stopping at once");
                        break;
                    }
                    self.begin_to_stop();
                }
            }
        }
        // What stopping has brought about is told before the end.
        while let Some(event) = self.failover.try_event() {
            self.failed_over(event);
        }
        self.events.flush().await;
        let cut = self.workers.crew.connections();
        self.workers.stop();
        self.admin.remove_socket();
        tracing::info!(cut, "stopped");
        Ok(())
    }

    fn begin_to_stop(&mut self) {
        let timeout = self.world.plan.runtime.drain_timeout;
        self.stopping = Some(Instant::now() + timeout);
        // The peer takes over while this gateway still serves whom it has.
        self.failover.stop();
        let connections = self.workers.crew.connections();
        tracing::info!(connections, drain_timeout = ?timeout, "stopping: no new connections");
        self.workers.crew.close();
        let fields = [("from", "running"), ("to", "draining"), ("cause", "told to stop")];
        let fields = fields.map(|(name, value)| (name, value.into()));
        self.events.tell(Kind::Gateway, SystemTime::now(), &fields);
    }

    fn renew_certificates(&mut self) {
        let now = SystemTime::now();
        for renewal in self.material.renew(now) {
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
        let empty = !crew.accepts() && crew.connections() == 0;
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

fn format(format: plan::Format) -> record::Format {
    match format {
        plan::Format::Text => record::Format::Text,
        plan::Format::Json => record::Format::Json,
    }
}
