//! Publishing a configuration: the first, and those that follow.
//!
//! A reload is everything or nothing. What can fail (reading the file, opening sockets) comes
//! first; then the new world is made, its new backends are checked, and one publication puts it
//! in the place of the old one.

use tokio::time::sleep;

use super::summary::Summary;
use super::*;
use crate::admin::order::Refusal;
use crate::socket;
use crate::worker::CLOSING;

/// Opens what `plan` binds and `present` does not: for each address one for each worker, unless
/// sockets were `handed` on for it.
///
/// Fails with the first address that is refused; sockets opened by then are closed again.
pub(super) fn open_binds(
    plan: &plan::Plan,
    present: &HashSet<SocketAddr>,
    handed: &mut Sockets,
    workers: usize,
) -> Result<Sockets, Failure> {
    let mut opened = Sockets::new();
    for listener in &plan.listeners {
        for &address in listener.bind.iter().filter(|address| !present.contains(address)) {
            let sockets = match handed.remove(&address) {
                Some(sockets) => sockets,
                None => {
                    let what = format!("listener {}: cannot listen on {address}", listener.name);
                    let sockets = socket::listen(address, workers)
                        .map_err(Failure::listen(what, address, present))?;
                    sockets.into_iter().map(Arc::new).collect()
                }
            };
            opened.insert(address, sockets);
        }
    }
    Ok(opened)
}

impl Control {
    /// Reads the file again and takes it over, or says what is wrong with it and changes nothing.
    /// `who` wants it. Returns what changed, in one line.
    pub(super) async fn reload(&mut self, who: &str) -> Result<String, Refusal> {
        self.refuse_orders_when_stopping()?;
        self.systemd.reloading();
        match self.try_reload().await {
            Ok(summary) => {
                self.note_reload(true, summary.to_string());
                let generation = self.world.snapshot.generation;
                tracing::info!(generation, who, "reloaded: {summary}");
                let fields = [
                    ("result", "ok".into()),
                    ("who", who.into()),
                    ("generation", generation.into()),
                    ("cause", summary.to_string().into()),
                ];
                self.events.tell(Kind::Reload, SystemTime::now(), &fields);
                self.systemd.ready(&format!("serving, configuration {generation}"));
                Ok(summary.to_string())
            }
            Err(failure) => {
                let failure = failure.with_line(&self.path);
                self.note_reload(false, failure.to_string());
                tracing::error!(who, "reload refused, the running configuration stays: {failure}");
                let fields = [
                    ("result", "failed".into()),
                    ("who", who.into()),
                    ("generation", self.world.snapshot.generation.into()),
                    ("cause", failure.to_string().into()),
                ];
                self.events.tell(Kind::Reload, SystemTime::now(), &fields);
                self.systemd.ready("serving; a reload was refused: see the log");
                Err(operate::refusal_of(&failure))
            }
        }
    }

    fn note_reload(&mut self, is_ok: bool, text: String) {
        let count = if is_ok { &mut self.reloads.ok } else { &mut self.reloads.failed };
        *count += 1;
        self.reloads.last = Some(status::Reload {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            result: if is_ok { "ok" } else { "failed" }.to_owned(),
            text,
        });
    }

    async fn try_reload(&mut self) -> Result<Summary, Failure> {
        self.refuse_if_stopping()?;
        let plan = config::load(&self.path)?;
        let named = self.named.as_deref();
        let node = node::Host::this().choose(&plan.nodes, named)?.cloned();
        failover::check_programs(&plan)?;
        let read = reading::material(&plan, &self.secret).await;
        let mut material = read.map_err(Failure::Material)?;
        let workers = self.workers.crew.connections_by_worker().count();
        let before = self.world.binds();
        let sockets = loop {
            match open_binds(&plan, &before, &mut Sockets::new(), workers) {
                // Not a stranger's, but our own of a moment ago: workers still accept from it.
                Err(failure) if failure.is_in_use() && self.is_closing_any_of(&plan) => {
                    sleep(Duration::from_millis(20)).await;
                }
                opened => break opened?,
            }
        };
        let admin = Admin::open(&plan.admin, &self.admin, &mut Inheritance::default()).await?;
        let logs = Opened::between(places(&self.world.plan), places(&plan))?;

        self.failover.configure(&plan, node.as_ref())?;

        // From here on nothing fails.
        let summary = Summary::between(&self.world.plan, &plan, &self.started);
        self.node = node;
        self.levels.set(level(plan.log.level));
        self.output.redirect(logs);
        self.admin.replace(&plan.admin, admin);
        self.admin.serve(&self.senders.asks);
        material.renewals = self.material.renewals;
        self.material = material;
        self.state.move_to(plan.runtime.state_dir.as_deref());
        self.forget_what_is_gone(&plan);
        self.forget_names(&plan);
        self.recompile(plan);
        self.hold_back();
        self.watch_world();
        self.apply_wishes();
        self.settle().await;
        self.refuse_if_stopping()?;
        let draining = self.publish(sockets);
        self.await_workers().await;
        self.tell_of_doubts();
        let now = Instant::now();
        self.closing.retain(|_, until| *until > now);
        let after = self.world.binds();
        let closed = before.difference(&after).copied();
        self.closing.extend(closed.map(|address| (address, now + 2 * CLOSING)));
        Ok(summary.draining(draining))
    }

    fn refuse_if_stopping(&self) -> Result<(), Failure> {
        let reason = match self.stopping {
            None if self.upgrades.is_under_way() => "an upgrade is under way",
            None => return Ok(()),
            Some(_) => "the gateway is stopping",
        };
        Err(Failure::system("no reload")(io::Error::other(reason)))
    }

    fn is_closing_any_of(&self, plan: &plan::Plan) -> bool {
        let now = Instant::now();
        let mut binds = plan.listeners.iter().flat_map(|listener| &listener.bind);
        binds.any(|address| self.closing.get(address).is_some_and(|until| *until > now))
    }

    /// Waits until all workers serve by the present world, so that whoever is told of a reload can
    /// rely on it. Not for ever: a worker may be stuck.
    async fn await_workers(&self) {
        const LONGEST: Duration = Duration::from_secs(1);
        const LOOK: Duration = Duration::from_millis(1);
        let (generation, until) = (self.world.snapshot.generation, Instant::now() + LONGEST);
        while !self.workers.crew.serves(generation) && Instant::now() < until {
            sleep(LOOK).await;
        }
    }

    /// Puts the present world before the workers. Returns how many connections of removed
    /// backends go on.
    pub(super) fn publish(&mut self, opened: Sockets) -> u32 {
        // Of what is removed, the workers are to have the last descriptor.
        let binds = self.world.binds();
        self.sockets.retain(|address, _| binds.contains(address));
        self.workers.crew.publish(&self.world.snapshot, &opened);
        self.world.has_been_published();
        self.sockets.extend(opened);
        for ours in &self.world.pools {
            ours.pool.queue.renew(&ours.pool);
        }
        let mut draining = 0;
        for (backend, connections) in self.world.take_removed() {
            draining += connections;
            let (pool, backend) = (&backend.pool, &backend.name);
            tracing::info!(%pool, %backend, connections, "removed; its connections go on");
        }
        draining
    }
}
