//! The start: everything that can be refused comes first, then the gateway serves, and last it takes
//! part in VRRP.

use super::*;
use crate::socket;

impl Control {
    pub(super) async fn start(
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
        let count = room::workers(&plan).map_err(Failure::system("cannot count processors"))?;
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
            reloads: status::Reloads::default(),
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
    pub(super) fn tell_of_doubts(&self) {
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
}
