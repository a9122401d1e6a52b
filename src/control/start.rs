//! The start: everything that can be refused comes first, then the gateway serves, and last it takes
//! part in VRRP.

use super::upgrade::{ADDRESSES, LAST_RELOAD, OPERATORS, Succession};
use super::*;
use crate::socket;
use crate::tls::tickets::SecretError;

impl Control {
    pub(super) async fn start(
        path: &Path,
        named: Option<&str>,
        plan: plan::Plan,
        mut inheritance: Inheritance,
        output: Output,
        levels: Levels,
    ) -> Result<Self, Failure> {
        let began = Instant::now();
        let signals = Signals::listen().map_err(Failure::system("cannot listen to signals"))?;
        let open_files =
            socket::raise_open_files().map_err(Failure::system("cannot raise RLIMIT_NOFILE"))?;
        let count = room::workers(&plan).map_err(Failure::system("cannot count processors"))?;
        room::suffices(&plan, count, open_files)?;
        let broken = |what: &str| {
            let what = what.to_owned();
            move |error: String| Failure::system(what)(io::Error::other(error))
        };
        let registry =
            Registry::new().map_err(|error| broken("cannot make metrics")(error.to_string()))?;
        let prober =
            Prober::new().map_err(|error| broken("cannot set up TLS")(error.to_string()))?;

        let mut upgrades =
            Upgrades::new().map_err(Failure::system("cannot find this program's own file"))?;
        let systemd = Systemd::of_environment().map_err(Failure::system("NOTIFY_SOCKET"))?;
        let succession = match inheritance.elder.take() {
            Some((elder, link)) => Some(Succession::begin(elder, link, &mut upgrades).await?),
            None => None,
        };
        let hello = succession.as_ref().map(|succession| &succession.hello);
        let (generation, not_before) = hello.map_or((0, 0), |h| (h.generation, h.started + 1));
        let no_secret = |error: SecretError| broken("cannot make ticket keys")(error.to_string());
        let carried = succession.as_ref().map(|succession| succession.carried(LAST_RELOAD));
        let last_reload = carried.flatten().flatten();
        let ticket_seed = match succession.as_ref().and_then(Succession::ticket_seed) {
            Some(seed) => seed,
            None => Secret::draw().map_err(no_secret)?,
        };
        let secret = Secret::from_bytes(&ticket_seed).map_err(no_secret)?;

        let mut state = State::read(plan.runtime.state_dir.as_deref());
        if plan.runtime.state_dir.is_none()
            && let Some(kept) = succession.as_ref().and_then(|it| it.carried(OPERATORS))
        {
            state.kept = kept;
        }
        let mut members = Members::default();
        if let Some(known) = succession.as_ref().and_then(|it| it.carried(ADDRESSES)) {
            members.known = known;
            members.known.keep(&plan);
        }
        for gone in state.kept.prune(&plan) {
            tracing::warn!(
                backend = gone,
                "what was set for it is forgotten: it is not configured"
            );
        }
        for (pool, backend, set) in state.kept.iter() {
            let status::Set { state, weight, by, since } = set;
            tracing::info!(pool, backend, state, weight, by, since, "set, as it was before");
        }

        // Everything that can be refused comes first.
        let node = node::Host::this().choose(&plan.nodes, named)?.cloned();
        failover::check_programs(&plan)?;
        let material = reading::material(&plan, &secret).await.map_err(Failure::Material)?;
        let admin = Admin::open(&plan.admin, &Admin::default(), &mut inheritance).await?;
        let handed: HashSet<_> = inheritance.sockets.keys().copied().collect();
        let sockets =
            reload::open_binds(&plan, &Default::default(), &mut inheritance.sockets, count)?;
        let listens = sockets.keys().copied().filter(|at| handed.contains(at)).collect();
        for unused in inheritance.rest() {
            tracing::warn!("no listener binds {unused}, which was handed on: it is closed");
        }
        drop(inheritance);
        let (asks_sender, asks) = mpsc::channel(64);
        let (pin, records) = (plan.runtime.pin, format(plan.log.format));
        let workers = Workers::start(count, pin, &output, records, not_before)
            .map_err(Failure::system("cannot start workers"))?;

        let (reports_sender, reports) = mpsc::channel(REPORTS);
        let (answers_sender, answers) = mpsc::unbounded_channel();
        let (checked_sender, checked) = mpsc::unbounded_channel();
        let (turns_sender, turns) = mpsc::unbounded_channel();
        let shared = Shared::new(turns_sender).map_err(Failure::system("cannot start a thread"))?;
        let means = Means {
            workers: count,
            max_connections: max_connections(&plan, count, open_files),
            registry: &registry,
            material: &material,
            reports: &reports_sender,
            kept: &state.kept,
            addresses: &members.known,
            generation,
            now: began,
        };
        let started = plan.clone();
        let world = World::compile(plan, None, &means);
        let reload =
            |result| registry.counter("lockgate_config_reloads_total", &[("result", result)]);
        let renewal = |result| {
            registry.counter("lockgate_tls_certificate_renewals_total", &[("result", result)])
        };
        let loss = |loss: log::Loss| {
            let labels = [("log", loss.log), ("reason", loss.reason)];
            registry.counter("lockgate_log_dropped_total", &labels)
        };
        let series = Series {
            renewals_ok: renewal("ok"),
            renewals_failed: renewal("failed"),
            reloads_ok: reload("ok"),
            reloads_failed: reload("failed"),
            lost_lines: output.losses().map(loss).into(),
        };
        let failover = Failover::new(&workers.crew);
        let mut control = Self {
            path: path.to_owned(),
            named: named.map(str::to_owned),
            node,
            world,
            material,
            secret,
            ticket_seed,
            workers,
            sockets: Sockets::new(),
            open_files,
            output,
            levels,
            admin,
            inbox: Inbox { reports, answers, checked, asks, turns },
            senders: Senders {
                reports: reports_sender,
                answers: answers_sender,
                checked: checked_sender,
                asks: asks_sender,
            },
            failover,
            upgrades,
            systemd,
            watch: Watch::new(prober),
            members,
            events: Events::default(),
            registry,
            series,
            shared,
            reloads: status::Reloads { last: last_reload, ..status::Reloads::default() },
            state,
            orders: VecDeque::new(),
            emptying: Vec::new(),
            handovers: Handovers::default(),
            began,
            closing: HashMap::new(),
            started,
            signals,
            stopping: None,
            told_once: false,
            answers_until: None,
        };
        if succession.is_none() {
            control.admin.serve(&control.senders.asks);
        }
        // Connections that come before the first checks are in wait in the kernel.
        control.watch_world();
        control.apply_wishes();
        control.settle().await;
        if control.stopping.is_none() {
            control.publish(sockets);
            // Last: whoever has the addresses has to serve.
            let is_heir = succession.is_some();
            let taken_part = match succession {
                Some(succession) => control.succeed(succession, listens).await,
                None => control.take_part(),
            };
            if let Err(failure) = taken_part {
                control.workers.stop();
                control.admin.remove_socket();
                return Err(failure);
            }
            control.tell_of_the_start();
            // systemd believes an heir when the elder has said that it is the service.
            if !is_heir {
                control.systemd.ready("serving");
            }
        }
        Ok(control)
    }

    /// Begins with VRRP.
    fn take_part(&mut self) -> Result<(), Failure> {
        self.failover.configure(&self.world.plan, self.node.as_ref())?;
        self.hold_back_as_before();
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
    pub(super) fn tell_of_doubts(&self) {
        for doubt in self.world.plan.doubts().into_iter().chain(secrets::exposed(&self.world.plan))
        {
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
}
