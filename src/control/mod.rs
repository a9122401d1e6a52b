//! The control plane: one thread that knows the configuration, watches backends, writes their
//! weights, publishes snapshots, and answers questions.
//!
//! Everything that changes passes through [`Control::run`], one event after the other, so that
//! no two causes of a change can meet. Checks, name resolution and the admin server are tasks on
//! the same thread that send their events to it.

mod compile;
mod events;
pub mod failover;
mod files;
pub mod material;
pub mod node;
pub mod preflight;
mod probe;
mod pulse;
mod reload;
mod resolve;
mod schedule;
mod show;
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
use crate::relay::MOST_PIPES;
use crate::socket;
use crate::tls::client::Prober;
use crate::tls::tickets::Secret;
use crate::worker::Workers;
use compile::{Means, World};
use events::{Events, Kind};
use failover::Failover;
use material::Material;
use probe::Probe;
use resolve::{Answer, keep_resolving};
use schedule::Schedule;
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

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is not valid, or not readable.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// There is no telling which node this is.
    #[error(transparent)]
    Node(#[from] node::Unknown),
    /// A file that the configuration names is of no use.
    #[error("{0}")]
    Material(String),
    /// The system refuses something.
    #[error("{what}: {source}{hint}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
        /// What may help, in brackets, or nothing.
        hint: String,
    },
}

impl Failure {
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source, hint: String::new() }
    }

    /// A listening socket of the network is refused. `present`: what this process listens on.
    fn listen(
        what: String,
        address: SocketAddr,
        present: &HashSet<SocketAddr>,
    ) -> impl FnOnce(io::Error) -> Self {
        let own = present.iter().find(|own| own.port() == address.port()).copied();
        move |source| {
            let hint = match (source.kind(), own) {
                (io::ErrorKind::PermissionDenied, _) if address.port() < 1_024 => {
                    " (ports below 1024 need root or CAP_NET_BIND_SERVICE)".to_owned()
                }
                (io::ErrorKind::AddrInUse, Some(own)) => {
                    format!(
                        " (this gateway itself listens on {own}; remove that first, or restart)"
                    )
                }
                (io::ErrorKind::AddrInUse, None) => {
                    " (another process listens there; `ss -ltnp` says which)".to_owned()
                }
                _ => String::new(),
            };
            Self::System { what, source, hint }
        }
    }

    /// Whether an address is taken.
    fn is_in_use(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

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
    reloads: (u64, u64),
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
    result: Result<(), String>,
}

/// The admin servers.
#[derive(Default)]
struct Admin {
    socket: Option<(PathBuf, Task)>,
    http: Option<(SocketAddr, Task)>,
}

/// A task that ends when it is no longer wanted.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
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
    async fn start(
        path: &Path,
        named: Option<&str>,
        plan: plan::Plan,
        output: Output,
        levels: Levels,
    ) -> Result<Self, Failure> {
        let began = Instant::now();
        let signals = Signals::listen().map_err(Failure::system("cannot listen to signals"))?;
        let open_files =
            socket::raise_open_files().map_err(Failure::system("cannot raise RLIMIT_NOFILE"))?;
        let count = workers(&plan).map_err(Failure::system("cannot count processors"))?;
        let broken = |what: &str| {
            let what = what.to_owned();
            move |error: String| Failure::system(what)(io::Error::other(error))
        };
        let registry =
            Registry::new().map_err(|error| broken("cannot make metrics")(error.to_string()))?;
        let process = metrics_process::Collector::default();
        registry.describe_process(&process);
        let prober =
            Prober::new().map_err(|error| broken("cannot set up TLS")(error.to_string()))?;

        let secret = Secret::random()
            .map_err(|error| broken("cannot make ticket keys")(error.to_string()))?;

        // Everything that can be refused comes first.
        let node = node::Host::this().choose(&plan.nodes, named)?.cloned();
        failover::check_programs(&plan)?;
        let material = Material::read(&plan, &secret).map_err(Failure::Material)?;
        let sockets = reload::open_binds(&plan, &Default::default(), count)?;
        let (asks_sender, asks) = mpsc::channel(64);
        let admin = Admin::open(&plan.admin, &Admin::default(), &asks_sender).await?;
        let workers = Workers::start(count, plan.runtime.pin, &output, format(plan.log.format))
            .map_err(Failure::system("cannot start workers"))?;

        let (reports_sender, reports) = mpsc::channel(REPORTS);
        let (answers_sender, answers) = mpsc::unbounded_channel();
        let (checked_sender, checked) = mpsc::unbounded_channel();
        let means = Means {
            workers: count,
            max_connections: max_connections(&plan, count, open_files),
            registry: &registry,
            material: &material,
            reports: &reports_sender,
            now: began,
        };
        let started = plan.clone();
        let world = World::compile(plan, None, &means);
        let reload =
            |result| registry.counter("lockgate_config_reloads_total", &[("result", result)]);
        let renewal = |result| {
            registry.counter("lockgate_tls_certificate_renewals_total", &[("result", result)])
        };
        let series = Series {
            renewals_ok: renewal("ok"),
            renewals_failed: renewal("failed"),
            reloads_ok: reload("ok"),
            reloads_failed: reload("failed"),
            dropped: registry.counter("lockgate_log_dropped_total", &[]),
        };
        let failover = Failover::new(&workers.crew);
        let mut control = Self {
            path: path.to_owned(),
            named: named.map(str::to_owned),
            node,
            world,
            material,
            secret,
            workers,
            open_files,
            output,
            levels,
            admin,
            inbox: Inbox { reports, answers, checked, asks },
            senders: Senders {
                reports: reports_sender,
                answers: answers_sender,
                checked: checked_sender,
                asks: asks_sender,
            },
            failover,
            watch: Watch::new(prober),
            events: Events::default(),
            registry,
            process,
            series,
            reloads: (0, 0),
            began,
            closing: HashMap::new(),
            started,
            signals,
            stopping: None,
        };
        // Connections that come before the first checks are in wait in the kernel.
        control.watch_world();
        control.settle().await;
        if control.stopping.is_none() {
            control.publish(sockets);
            // Last: whoever has the addresses has to serve.
            if let Err(failure) = control.take_part() {
                control.workers.stop();
                control.admin.remove_socket();
                return Err(failure);
            }
            control.tell_of_the_start();
        }
        Ok(control)
    }

    /// Begins with VRRP.
    fn take_part(&mut self) -> Result<(), Failure> {
        self.failover.configure(&self.world.plan, self.node.as_ref())?;
        self.track_pools(Instant::now());
        Ok(())
    }

    fn tell_of_the_start(&self) {
        let binds = self.world.snapshot.listeners.iter().flat_map(|listener| {
            listener.bind.iter().map(|address| format!("{} on {address}", listener.name))
        });
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %self.path.display(),
            node = self.node.as_ref().map(|node| &*node.name),
            workers = self.workers.crew.connections_by_worker().count(),
            max_connections = self.world.snapshot.max_connections,
            listeners = %binds.collect::<Vec<_>>().join(", "),
            "serving"
        );
        for want in self.world.wants() {
            tracing::warn!("{want}");
        }
        self.tell_of_doubts();
    }

    /// Tells what is doubtful about the configuration and the certificates in use.
    fn tell_of_doubts(&self) {
        for doubt in self.world.plan.doubts() {
            tracing::warn!("{doubt}");
        }
        let now = SystemTime::now();
        for (listener, certificate) in self.material.certificates() {
            for finding in certificate.findings(now) {
                let file = certificate.file().display();
                tracing::warn!(listener, %file, "certificate: {finding}");
            }
        }
    }

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

impl Admin {
    /// Opens what `wanted` has and `before` has not; what both have is left as it is, and not
    /// part of the result.
    async fn open(
        wanted: &plan::Admin,
        before: &Self,
        asks: &mpsc::Sender<Ask>,
    ) -> Result<Self, Failure> {
        let mut opened = Self::default();
        if let Some(address) = wanted.http
            && before.http.as_ref().is_none_or(|(present, _)| *present != address)
        {
            let what = format!("admin.http: cannot listen on {address}");
            let listener = admin::open_http(address).await.map_err(Failure::listen(
                what,
                address,
                &HashSet::new(),
            ))?;
            let task = Task(tokio::spawn(admin::serve(listener, asks.clone())));
            opened.http = Some((address, task));
        }
        // Last, for it is the one that leaves something behind.
        if let Some(path) = &wanted.socket
            && before.socket.as_ref().is_none_or(|(present, _)| present != path)
        {
            let what = format!("admin.socket: cannot listen on {}", path.display());
            let refused = |source: io::Error| {
                let hint = match source.kind() {
                    io::ErrorKind::AddrInUse => " (another gateway answers on it)",
                    _ => " (set admin.socket to a path that you may write, or \"\" for none)",
                };
                Failure::System { what, source, hint: hint.to_owned() }
            };
            let listener = admin::open_socket(path).map_err(refused)?;
            let task = Task(tokio::spawn(admin::serve(listener, asks.clone())));
            opened.socket = Some((path.clone(), task));
        }
        Ok(opened)
    }

    /// Closes the unix socket and removes its file.
    fn remove_socket(&mut self) {
        let Some((path, task)) = self.socket.take() else { return };
        drop(task);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove the admin socket");
        }
    }

    /// Takes over what was opened for `wanted`, and closes what is no longer.
    fn replace(&mut self, wanted: &plan::Admin, opened: Self) {
        if opened.socket.is_some() || wanted.socket.is_none() {
            self.remove_socket();
            self.socket = opened.socket;
        }
        if opened.http.is_some() || wanted.http.is_none() {
            self.http = opened.http;
        }
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

/// Connections that the process takes at once: as configured, as far as files suffice.
fn max_connections(plan: &plan::Plan, workers: usize, open_files: u64) -> u32 {
    let room = room(plan, workers, open_files);
    match plan.runtime.max_connections {
        Some(wanted) if wanted.get() > room => {
            tracing::warn!(
                wanted,
                room,
                open_files,
                "runtime.max_connections is more than RLIMIT_NOFILE has room for"
            );
            room
        }
        Some(wanted) => wanted.get(),
        None => room,
    }
}

/// How many workers there are to be: as configured, or one for each processor of this process.
fn workers(plan: &plan::Plan) -> io::Result<usize> {
    match plan.runtime.workers {
        Some(count) => Ok(count.get()),
        None => Ok(socket::processors()?.len()),
    }
}

/// Connections that so many open files have room for.
fn room(plan: &plan::Plan, workers: usize, open_files: u64) -> u32 {
    // Beside two sockets for each connection: pipes and sockets of the workers, checks, the
    // admin server, the log, and some to spare.
    let binds: usize = plan.listeners.iter().map(|listener| listener.bind.len()).sum();
    let others = workers * (2 * MOST_PIPES + binds + 4) + CHECKS_AT_ONCE + 128;
    let room = open_files.saturating_sub(others as u64) / 2;
    u32::try_from(room).unwrap_or(u32::MAX).max(1)
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
