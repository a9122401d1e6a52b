//! Publishing a configuration: the first, and those that follow.
//!
//! A reload is everything or nothing. What can fail (reading the file, opening sockets) comes
//! first; then the new world is made, its new backends are checked, and one publication puts it
//! in the place of the old one.

use std::net::TcpListener;

use tokio::time::sleep;

use super::summary::Summary;
use super::*;
use crate::socket;
use crate::worker::CLOSING;

/// Sockets that were opened for a publication: for each address one for each worker.
pub(super) type Sockets = Vec<(SocketAddr, Vec<TcpListener>)>;

/// Opens what `plan` binds and `present` does not.
///
/// Fails with the first address that is refused; sockets opened by then are closed again.
pub(super) fn open_binds(
    plan: &plan::Plan,
    present: &HashSet<SocketAddr>,
    workers: usize,
) -> Result<Sockets, Failure> {
    let mut opened = Vec::new();
    for listener in &plan.listeners {
        for &address in listener.bind.iter().filter(|address| !present.contains(address)) {
            let what = format!("listener {}: cannot listen on {address}", listener.name);
            opened.push((
                address,
                socket::listen(address, workers)
                    .map_err(Failure::listen(what, address, present))?,
            ));
        }
    }
    Ok(opened)
}

impl Control {
    /// Reads the file again and takes it over, or says what is wrong with it and changes nothing.
    pub(super) async fn reload(&mut self) {
        match self.try_reload().await {
            Ok(summary) => {
                self.note_reload(true, summary.to_string());
                let generation = self.world.snapshot.generation;
                tracing::info!(generation, "reloaded: {summary}");
                let fields = [
                    ("result", "ok".into()),
                    ("generation", generation.into()),
                    ("cause", summary.to_string().into()),
                ];
                self.events.tell(Kind::Reload, SystemTime::now(), &fields);
            }
            Err(failure) => {
                self.note_reload(false, failure.to_string());
                tracing::error!("reload refused, the running configuration stays: {failure}");
                let fields = [
                    ("result", "failed".into()),
                    ("generation", self.world.snapshot.generation.into()),
                    ("cause", failure.to_string().into()),
                ];
                self.events.tell(Kind::Reload, SystemTime::now(), &fields);
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
        let mut material = Material::read(&plan, &self.secret).map_err(Failure::Material)?;
        let workers = self.workers.crew.connections_by_worker().count();
        let before = self.world.binds();
        let sockets = loop {
            match open_binds(&plan, &before, workers) {
                // Not a stranger's, but our own of a moment ago: workers still accept from it.
                Err(failure) if failure.is_in_use() && self.is_closing_any_of(&plan) => {
                    sleep(Duration::from_millis(20)).await;
                }
                opened => break opened?,
            }
        };
        let admin = Admin::open(&plan.admin, &self.admin, &self.senders.asks).await?;

        self.failover.configure(&plan, node.as_ref())?;

        // From here on nothing fails.
        let summary = Summary::between(&self.world.plan, &plan, &self.started);
        self.node = node;
        self.levels.set(level(plan.log.level));
        self.admin.replace(&plan.admin, admin);
        material.renewals = self.material.renewals;
        self.material = material;
        let means = Means {
            workers,
            max_connections: max_connections(&plan, workers, self.open_files),
            registry: &self.registry,
            material: &self.material,
            reports: &self.senders.reports,
            now: Instant::now(),
        };
        self.world = World::compile(plan, Some(&mut self.world), &means);
        self.watch_world();
        self.settle().await;
        self.refuse_if_stopping()?;
        let draining = self.publish(sockets);
        self.tell_of_doubts();
        let now = Instant::now();
        self.closing.retain(|_, until| *until > now);
        let after = self.world.binds();
        let closed = before.difference(&after).copied();
        self.closing.extend(closed.map(|address| (address, now + 2 * CLOSING)));
        Ok(summary.draining(draining))
    }

    fn refuse_if_stopping(&self) -> Result<(), Failure> {
        match self.stopping {
            None => Ok(()),
            Some(_) => {
                let source = io::Error::other("the gateway is stopping");
                Err(Failure::system("no reload")(source))
            }
        }
    }

    fn is_closing_any_of(&self, plan: &plan::Plan) -> bool {
        let now = Instant::now();
        let mut binds = plan.listeners.iter().flat_map(|listener| &listener.bind);
        binds.any(|address| self.closing.get(address).is_some_and(|until| *until > now))
    }

    /// Puts the present world before the workers. Returns how many connections of removed
    /// backends go on.
    pub(super) fn publish(&mut self, sockets: Sockets) -> u32 {
        self.workers.crew.publish(&self.world.snapshot, sockets);
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
