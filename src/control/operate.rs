//! What operators order, and what becomes of it.
//!
//! Orders come from the admin API and are carried out by [`Control::run`], one after the other and
//! never while a configuration is being taken over. Each is written to the state file first, then
//! done, then told: in the log and as an event, with who wanted it, what was before and what is now.

use super::*;
use crate::admin::order::{
    BackendChange, BackendChanged, BackendTarget, Candidate, Difference, NodeChanged, Order,
    Refusal, RefusalKind, Reloaded, Setting, Upgraded, Wish,
};
use crate::admin::server::Who;
use crate::config::nearest;
use crate::health;
use summary::Summary;

/// How often a backend that is to run empty is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A backend that is to run empty.
#[derive(Debug)]
pub(super) struct Emptying {
    pool: String,
    backend: String,
    /// When the connections that are left are cut.
    until: Option<Instant>,
    timeout: Option<Duration>,
    /// Who wants it.
    by: String,
    /// They have been cut.
    cut: bool,
}

impl Control {
    /// Carries out what was ordered.
    pub(super) async fn obey(&mut self, who: Who, order: Order) {
        let who = who.to_string();
        // Who ordered may have gone away; then nobody misses the answer.
        match order {
            Order::Backend(target, change, reply) => {
                drop(reply.send(self.change_backend(&who, &target, &change).await));
            }
            Order::Node(drain, reply) => drop(reply.send(self.drain_node(&who, drain).await)),
            Order::Handover(wanted, reply) => self.hand_over(&who, wanted, reply).await,
            Order::Upgrade(reply) => {
                let (outcome, told) = tokio::sync::oneshot::channel();
                self.upgrade(&who, Some(outcome));
                // It is known when the other process serves, or has failed to.
                tokio::spawn(async move {
                    let previous = std::process::id();
                    let upgraded = match told.await {
                        Ok(Ok(upgraded)) => Ok(Upgraded { pid: upgraded.pid, previous }),
                        Ok(Err(cause)) => Err(Refusal::new(RefusalKind::Unprocessable, cause)),
                        Err(_) => Err(Refusal::new(RefusalKind::Stopping, "the gateway has ended")),
                    };
                    drop(reply.send(upgraded));
                });
            }
            Order::Reload(reply) => {
                let generation = |control: &Self| control.world.snapshot.generation;
                let reloaded = self.reload(&who).await;
                let reloaded =
                    reloaded.map(|summary| Reloaded { generation: generation(self), summary });
                drop(reply.send(reloaded));
            }
        }
    }

    async fn change_backend(
        &mut self,
        who: &str,
        target: &BackendTarget,
        change: &BackendChange,
    ) -> Result<BackendChanged, Refusal> {
        self.refuse_orders_when_stopping()?;
        let (pool, index) = self.find(target)?;
        let timeout = timeout_of(change)?;
        if change.state.is_none() && change.weight.is_none() {
            let error = "nothing is asked for: give \"state\", \"weight\" or both";
            return Err(Refusal::new(RefusalKind::Invalid, error));
        }
        let of_file = self.weight_of_file(pool, index);
        let (name, backend) = (target.pool.as_str(), target.backend.as_str());
        let before = setting(&self.state.kept, name, backend, of_file);
        let after = Setting {
            state: change.state.unwrap_or(before.state),
            weight: change.weight.map_or(before.weight, |weight| weight.unwrap_or(of_file)),
        };
        let changed = before != after;
        if changed {
            let mut kept = self.state.kept.clone();
            let set = status::Set {
                state: (after.state != Wish::Enabled).then(|| after.state.name().to_owned()),
                weight: (after.weight != of_file).then_some(after.weight),
                by: who.to_owned(),
                since: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            };
            kept.put(name, backend, set);
            self.keep(kept).await?;
            if before.weight != after.weight {
                self.reweigh();
            }
            self.wish(pool, index, after.state);
        }
        self.follow_emptying(who, target, &after, timeout, changed);
        if changed || timeout.is_some() {
            let what = format!("{name}/{backend}");
            let (from, to) = (describe(&before, None), describe(&after, timeout));
            let fields = [("pool", name.into()), ("backend", backend.into())];
            self.tell_of_order(who, &what, &from, &to, &fields);
        }
        let mut notes = Vec::new();
        if after.state != Wish::Enabled && !self.world.pools[pool].pool.is_usable() {
            notes.push(format!("pool {name} has no usable backend now: connections are refused"));
        }
        if changed && !self.state.is_kept() {
            notes.push("runtime.state_dir is off: this ends with the process".to_owned());
        }
        Ok(BackendChanged {
            pool: name.to_owned(),
            backend: backend.to_owned(),
            connections: self.world.pools[pool].members[index].backend.load().active(),
            timeout_seconds: timeout.map(|timeout| timeout.as_secs_f64()),
            kept: self.state.is_kept(),
            before,
            after,
            changed,
            notes,
        })
    }

    /// The node as a whole is to be drained, or to serve again.
    async fn drain_node(&mut self, who: &str, drain: bool) -> Result<NodeChanged, Refusal> {
        self.refuse_orders_when_stopping()?;
        let before = self.state.kept.drain.clone();
        let changed = before.is_some() != drain;
        let mut notes = Vec::new();
        if changed {
            let mut kept = self.state.kept.clone();
            kept.drain = drain.then(|| status::NodeDrain {
                who: who.to_owned(),
                since: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            });
            // Who ends a drain wants all of the node back.
            if !drain {
                kept.handover = None;
            }
            self.keep(kept).await?;
        }
        self.hold_back();
        if drain {
            self.failover.offer_all();
            if self.failover.is_running() {
                notes.push("floating addresses go to a peer, if one is there".to_owned());
            }
            notes.push("new connections that come here are still served".to_owned());
        }
        if changed {
            let word = |drain: bool| if drain { "draining" } else { "enabled" };
            self.tell_of_order(who, "node", word(before.is_some()), word(drain), &[]);
        }
        if changed && !self.state.is_kept() {
            notes.push("runtime.state_dir is off: this ends with the process".to_owned());
        }
        Ok(NodeChanged {
            drain: self.state.kept.drain.clone(),
            changed,
            kept: self.state.is_kept(),
            notes,
        })
    }

    /// What a reload of `candidate` would change.
    pub(super) fn compare(&self, candidate: &Candidate) -> Result<Difference, Refusal> {
        let plan = config::parse(&candidate.file, &candidate.text)
            .map_err(|error| refusal_of(&Failure::from(error)))?;
        let difference = Summary::between(&self.world.plan, &plan, &self.started);
        let left = self.world.pools.iter().flat_map(|ours| &ours.members).filter(|member| {
            let of_pool = plan.pools.iter().find(|pool| *pool.name == *member.backend.pool);
            !of_pool.is_some_and(|pool| pool.backends.iter().any(|known| known.name == member.of))
        });
        let mut draining = 0;
        let mut changes = difference.changes();
        for member in left {
            let connections = member.backend.load().active();
            draining += connections;
            let line = format!("- backend {}/{}", member.backend.pool, member.of);
            if let Some(line) = changes.iter_mut().find(|change| **change == line)
                && connections > 0
            {
                let noun = if connections == 1 { "connection" } else { "connections" };
                line.push_str(&format!(": {connections} {noun} would go on"));
            }
        }
        let restart = difference.restart().iter().map(|name| (*name).to_owned()).collect();
        let summary = difference.draining(draining).to_string();
        Ok(Difference { summary, changes, restart })
    }

    /// Says what an operator has done, to people and programs.
    pub(super) fn tell_of_order(
        &mut self,
        who: &str,
        what: &str,
        before: &str,
        after: &str,
        more: &[(&str, serde_json::Value)],
    ) {
        tracing::info!(who, what, before, after, "operator");
        let mut fields = vec![
            ("who", who.into()),
            ("what", what.into()),
            ("before", before.into()),
            ("after", after.into()),
            ("cause", format!("by {who}").into()),
        ];
        fields.extend(more.iter().cloned());
        self.events.tell(Kind::Operator, SystemTime::now(), &fields);
    }

    /// Writes what is to be kept, or refuses for the lack of it.
    pub(super) async fn keep(&mut self, kept: state::Kept) -> Result<(), Refusal> {
        self.state.change(kept).await.map_err(|error| {
            let error =
                format!("this cannot be kept in runtime.state_dir, so it is not done: {error}");
            tracing::error!("{error}");
            Refusal::new(RefusalKind::Storage, error)
        })
    }

    pub(super) fn refuse_orders_when_stopping(&self) -> Result<(), Refusal> {
        let reason = match self.upgrades.successor() {
            Some(pid) => format!("process {pid} has taken over: ask again"),
            None if self.stopping.is_some() => "the gateway is stopping".to_owned(),
            // What changes now would not be known to who takes over.
            None if self.upgrades.is_under_way() => {
                "an upgrade is under way: ask again when it has ended".to_owned()
            }
            None => return Ok(()),
        };
        Err(Refusal::new(RefusalKind::Stopping, reason))
    }

    pub(super) fn find(&self, target: &BackendTarget) -> Result<(usize, usize), Refusal> {
        let unknown = |what: String, name: &str, known: Vec<&str>| {
            let meant = nearest(name, known.iter().copied());
            let more = match meant {
                Some(meant) => format!("; did you mean '{meant}'?"),
                None if known.len() <= 10 => format!(" (there are: {})", known.join(", ")),
                None => String::new(),
            };
            Refusal::new(RefusalKind::Unknown, format!("{what}{more}"))
        };
        let pools = &self.world.plan.pools;
        let Some(pool) = pools.iter().position(|pool| pool.name == target.pool) else {
            let known = pools.iter().map(|pool| &*pool.name).collect();
            return Err(unknown(
                format!("there is no pool '{}'", target.pool),
                &target.pool,
                known,
            ));
        };
        let members = &self.world.pools[pool].members;
        let index = members.iter().position(|member| *member.backend.name == target.backend);
        if let Some(index) = index.filter(|&index| !members[index].awaits_addresses()) {
            return Ok((pool, index));
        }
        let of_it = members.iter().filter(|member| member.of == target.backend);
        let known: Vec<&str> = of_it.map(|member| &*member.backend.name).collect();
        let (what, known) = match known[..] {
            [] => {
                let known = members.iter().map(|member| &*member.backend.name).collect();
                (format!("pool '{}' has no backend '{}'", target.pool, target.backend), known)
            }
            _ if index.is_some() => {
                let what = format!("backend '{}' has no address yet", target.backend);
                return Err(Refusal::new(RefusalKind::Unknown, what));
            }
            _ => {
                let what = format!("backend '{}' is one for each address", target.backend);
                let more = format!("{what}: there are {}", known.join(", "));
                return Err(Refusal::new(RefusalKind::Unknown, more));
            }
        };
        Err(unknown(what, &target.backend, known))
    }

    /// The weight that the file has for a backend.
    fn weight_of_file(&self, pool: usize, index: usize) -> u16 {
        let member = &self.world.pools[pool].members[index];
        let mut backends = self.world.plan.pools[pool].backends.iter();
        let of_file = backends.find(|backend| backend.name == member.of);
        of_file.map_or(member.plan.weight, |backend| backend.weight)
    }

    /// Publishes the world anew, with the weights that operators have set.
    fn reweigh(&mut self) {
        let plan = self.world.plan.clone();
        self.recompile(plan);
        self.publish(Sockets::new());
    }

    /// Makes the world anew out of the present one, with what operators have set.
    pub(super) fn recompile(&mut self, plan: plan::Plan) {
        let workers = self.workers.crew.connections_by_worker().count();
        let means = Means {
            workers,
            max_connections: max_connections(&plan, workers, self.open_files),
            registry: &self.registry,
            material: &self.material,
            reports: &self.senders.reports,
            kept: &self.state.kept,
            addresses: &self.members.known,
            generation: self.world.published_generation(),
            now: Instant::now(),
        };
        self.world = World::compile(plan, Some(&mut self.world), &means);
    }

    fn wish(&mut self, pool: usize, index: usize, wish: Wish) {
        let admin = match wish {
            Wish::Enabled => health::Admin::Enabled,
            Wish::Draining => health::Admin::Draining,
            Wish::Disabled => health::Admin::Disabled,
        };
        self.tell(pool, index, Event::Admin(admin));
    }

    /// Has every backend be what operators want of it: those of a new world are what they were, or
    /// new.
    pub(super) fn apply_wishes(&mut self) {
        let mut wishes = Vec::new();
        for (pool, ours) in self.world.pools.iter().enumerate() {
            for (index, member) in ours.members.iter().enumerate() {
                let wish = self.state.kept.wish(&member.backend.pool, &member.backend.name);
                wishes.push((pool, index, wish));
            }
        }
        for (pool, index, wish) in wishes {
            self.tell(pool, index, Event::Admin(wish));
        }
    }

    /// Forgets what is set for backends that `plan` does not have.
    pub(super) fn forget_what_is_gone(&mut self, plan: &plan::Plan) {
        for gone in self.state.kept.prune(plan) {
            tracing::warn!(
                backend = gone,
                "what was set for it is forgotten: it is not configured"
            );
        }
    }

    /// Notes a backend that is to run empty, or no longer is.
    fn follow_emptying(
        &mut self,
        who: &str,
        target: &BackendTarget,
        after: &Setting,
        timeout: Option<Duration>,
        changed: bool,
    ) {
        let is_it = |one: &Emptying| (&one.pool, &one.backend) == (&target.pool, &target.backend);
        if after.state == Wish::Enabled {
            self.emptying.retain(|one| !is_it(one));
            return;
        }
        // What was ordered before stays, unless this says more.
        if timeout.is_none() && !changed {
            return;
        }
        self.emptying.retain(|one| !is_it(one));
        self.emptying.push(Emptying {
            pool: target.pool.clone(),
            backend: target.backend.clone(),
            until: timeout.map(|timeout| Instant::now() + timeout),
            timeout,
            by: who.to_owned(),
            cut: false,
        });
    }

    /// Cuts what has had its time, and tells of backends that have run empty.
    pub(super) fn empty_backends(&mut self, now: Instant) {
        let mut all = std::mem::take(&mut self.emptying);
        all.retain_mut(|one| self.is_emptying(one, now));
        self.emptying = all;
    }

    fn is_emptying(&mut self, one: &mut Emptying, now: Instant) -> bool {
        let target = BackendTarget { pool: one.pool.clone(), backend: one.backend.clone() };
        // What a reload has removed runs empty by itself.
        let Ok((pool, index)) = self.find(&target) else { return false };
        let backend = Arc::clone(&self.world.pools[pool].members[index].backend);
        let connections = backend.load().active();
        let mut tell = |event: &str, cause: String| {
            let fields = [
                ("event", event.into()),
                ("pool", one.pool.as_str().into()),
                ("backend", one.backend.as_str().into()),
                ("connections", connections.into()),
                ("cause", cause.into()),
            ];
            self.events.tell(Kind::Backend, SystemTime::now(), &fields);
        };
        let (pool, name) = (&one.pool, &one.backend);
        if connections == 0 {
            tracing::info!(%pool, backend = %name, "drained: no connection is left");
            tell("drained", format!("no connection is left; by {}", one.by));
            return false;
        }
        if one.until.is_some_and(|until| until <= now) {
            if !one.cut {
                let timeout = one.timeout.unwrap_or_default();
                tracing::warn!(%pool, backend = %name, connections, ?timeout, "drain timeout: cut by a reset");
                tell("cut", format!("its drain timeout of {timeout:?} is over; by {}", one.by));
                one.cut = true;
            }
            // Again and again: some may just have been on their way there.
            self.workers.crew.cut(backend.id, Cut::Drained);
        }
        true
    }

    /// When [`Control::empty_backends`] has something to do.
    pub(super) fn next_emptying(&self) -> Option<Instant> {
        (!self.emptying.is_empty()).then(|| Instant::now() + LOOK)
    }
}

/// What is set for a backend, or would be by default.
fn setting(kept: &state::Kept, pool: &str, backend: &str, of_file: u16) -> Setting {
    let state = match kept.wish(pool, backend) {
        health::Admin::Enabled => Wish::Enabled,
        health::Admin::Draining => Wish::Draining,
        health::Admin::Disabled => Wish::Disabled,
    };
    Setting { state, weight: kept.weight(pool, backend).unwrap_or(of_file) }
}

fn describe(setting: &Setting, timeout: Option<Duration>) -> String {
    let text = format!("{}, weight {}", setting.state.name(), setting.weight);
    match timeout {
        Some(timeout) => format!("{text}, what is left is cut after {timeout:?}"),
        None => text,
    }
}

fn timeout_of(change: &BackendChange) -> Result<Option<Duration>, Refusal> {
    let invalid = |error: String| Refusal::new(RefusalKind::Invalid, error);
    let Some(text) = &change.timeout else { return Ok(None) };
    match change.state {
        Some(Wish::Draining | Wish::Disabled) => {}
        _ => return Err(invalid("a timeout is only for \"draining\" and \"disabled\"".to_owned())),
    }
    config::duration(text).map(Some).map_err(|error| invalid(format!("timeout: {error}")))
}

/// What is wrong, for the one who asked for it.
pub(super) fn refusal_of(failure: &Failure) -> Refusal {
    let errors = match failure {
        Failure::Config(config::Error::Invalid(report)) => report
            .errors()
            .iter()
            .map(|error| format!("{}:{}: {}", error.line, error.column, error.message))
            .collect(),
        _ => Vec::new(),
    };
    Refusal { kind: RefusalKind::Unprocessable, error: failure.to_string(), errors }
}
