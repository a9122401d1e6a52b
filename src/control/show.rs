//! Answers to what people and programs ask of the running gateway.

use super::*;
use crate::admin::order::{BackendTarget, Reply};
use crate::health::Vitals;
use crate::stats::{ConnectFailure, Handshake, HandshakeFailure, Reason};
use crate::tls::certificate::Certificate;
use shared::Kind;

impl Control {
    pub(super) fn answer(&mut self, ask: Ask) {
        // Who asked may have gone away; then nobody misses the answer.
        match ask {
            Ask::Status(sender) => self.share(Kind::Status, sender),
            Ask::Metrics(sender) => self.share(Kind::Metrics, sender),
            Ask::Backend(target, reply) => self.send_backend(&target, reply),
            Ask::Health(sender) => drop(sender.send(self.ills())),
            Ask::Readiness(sender) => drop(sender.send(self.wants())),
            Ask::Events(replay, sender) => drop(sender.send(self.events.listen(replay))),
            Ask::Explain(question, reply) => drop(reply.send(self.explain(&question))),
            Ask::Compare(candidate, reply) => drop(reply.send(self.compare(&candidate))),
            // Not in the middle of a reload, which asks are answered in, too.
            Ask::Order(who, order) => self.orders.push_back((who, order)),
        }
    }

    /// Carries all counts over into their series.
    pub(super) fn carry_over(&mut self) {
        self.world.follow();
        self.failover.follow(&self.registry);
        self.series.reloads_ok.follow(self.reloads.ok);
        self.series.reloads_failed.follow(self.reloads.failed);
        for (sum, loss) in self.series.lost_lines.iter_mut().zip(self.output.losses()) {
            sum.follow(loss.lines);
        }
        self.series.renewals_ok.follow(self.material.renewals.0);
        self.series.renewals_failed.follow(self.material.renewals.1);
        let registry = &self.registry;
        let gauge = |name, labels: &[(&'static str, &str)], value: f64| {
            registry.gauge(name, labels).set(value);
        };
        for (worker, connections) in self.workers.crew.connections_by_worker().enumerate() {
            let labels = [("worker", &*worker.to_string())];
            gauge("lockgate_worker_connections_active", &labels, connections.into());
        }
        for (worker, silence) in self.workers.crew.silences().enumerate() {
            let labels = [("worker", &*worker.to_string())];
            gauge("lockgate_worker_silence_seconds", &labels, silence.as_secs_f64());
        }
        gauge("lockgate_ready", &[], if self.wants().is_empty() { 1.0 } else { 0.0 });
        let last = self.reloads.last.as_ref();
        let successful = if last.is_none_or(|last| last.result == "ok") { 1.0 } else { 0.0 };
        gauge("lockgate_config_last_reload_successful", &[], successful);
        for (_, certificate) in self.material.certificates() {
            let file = certificate.file().display().to_string();
            let name = names(certificate).next().unwrap_or_default();
            let labels = [("name", &*name), ("file", &*file)];
            let not_after = seconds(certificate.not_after());
            gauge("lockgate_tls_certificate_not_after_seconds", &labels, not_after as f64);
        }
        let snapshot = &self.world.snapshot;
        gauge("lockgate_connections_limit", &[], snapshot.max_connections.into());
        gauge("lockgate_config_generation", &[], snapshot.generation as f64);
        gauge("lockgate_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        registry.upkeep();
    }

    /// The certificates in use.
    fn certificates(&self) -> Vec<status::Certificate> {
        let mut all: Vec<_> = self
            .material
            .certificates()
            .map(|(listener, certificate)| status::Certificate {
                listener: listener.to_owned(),
                names: names(certificate).collect(),
                serial: certificate.serial().to_owned(),
                not_after: seconds(certificate.not_after()),
                file: certificate.file().display().to_string(),
            })
            .collect();
        all.sort_by(|one, other| (&one.listener, &one.file).cmp(&(&other.listener, &other.file)));
        all
    }

    /// Why the process is not well.
    fn ills(&self) -> Vec<String> {
        let silence = self.workers.crew.longest_silence();
        if silence > STUCK {
            vec![format!("a worker has been silent for {silence:?}")]
        } else {
            Vec::new()
        }
    }

    /// Why the gateway is not ready.
    fn wants(&self) -> Vec<String> {
        let mut wants = self.world.wants();
        wants.extend(self.ills());
        if let Some(drain) = &self.state.kept.drain {
            wants.push(format!("the node is drained by {} since {}", drain.who, drain.since));
        }
        if self.stopping.is_some() {
            wants.push("stopping".to_owned());
        }
        wants
    }

    pub(super) fn status(&self) -> Status {
        let crew = &self.workers.crew;
        let workers = crew.connections_by_worker();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            generation: self.world.snapshot.generation,
            node: self.node.as_ref().map(|node| node.name.clone()),
            state: if self.stopping.is_some() { "draining" } else { "running" }.to_owned(),
            connections: crew.connections(),
            max_connections: self.world.snapshot.max_connections,
            workers: workers.map(|connections| status::Worker { connections }).collect(),
            listeners: self
                .world
                .snapshot
                .listeners
                .iter()
                .zip(&self.world.plan.listeners)
                .map(|(running, plan)| listener(running, plan))
                .collect(),
            pools: self
                .world
                .pools
                .iter()
                .zip(&self.world.plan.pools)
                .map(|both| pool(both, &self.state.kept))
                .collect(),
            vrrp: self.failover.instances(),
            certificates: self.certificates(),
            process: process::usage(),
            reloads: self.reloads.clone(),
            previous: self.upgrades.previous(),
            drain: self.state.kept.drain.clone(),
        }
    }

    /// Answers with one backend, once the workers have said how old its connections are.
    fn send_backend(&self, target: &BackendTarget, reply: Reply<status::Backend>) {
        let (pool, index) = match self.find(target) {
            Ok(found) => found,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let ours = &self.world.pools[pool];
        let mut shown =
            backend(&ours.members[index], &ours.ward.members()[index], &self.state.kept);
        let id = ours.members[index].backend.id;
        let oldest = shared::census(self.workers.crew.census());
        tokio::spawn(async move {
            shown.oldest_seconds = shared::age(&oldest.await, id);
            // Who asked may have gone away.
            drop(reply.send(Ok(shown)));
        });
    }
}

fn listener(listener: &crate::snapshot::Listener, plan: &plan::Listener) -> status::Listener {
    let stats = &listener.meters.stats;
    let closed = Reason::ALL.map(|reason| (reason, stats.sum(|s| s.closed.of(reason as usize))));
    let refused = closed.iter().filter(|(reason, _)| reason.is_refusal());
    let handshakes = (0..Handshake::ALL.len()).map(|case| stats.sum(|s| s.handshakes.of(case)));
    let failures =
        (0..HandshakeFailure::ALL.len()).map(|case| stats.sum(|s| s.handshake_failures.of(case)));
    status::Listener {
        name: listener.name.to_string(),
        bind: listener.bind.iter().map(ToString::to_string).collect(),
        protocol: plan.protocol.name().to_owned(),
        pool: listener.pool.as_ref().map(|pool| pool.name.to_string()),
        connections: listener.meters.active.load(std::sync::atomic::Ordering::Relaxed),
        connections_total: stats.sum(|s| &s.opened),
        bytes_in: stats.sum(|s| &s.bytes_in),
        bytes_out: stats.sum(|s| &s.bytes_out),
        max_connections: listener.max_connections,
        refused_total: refused.map(|(_, count)| count).sum(),
        closed: closed
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name().to_owned(), *count))
            .collect(),
        handshakes_total: handshakes.sum(),
        handshake_failures_total: failures.sum(),
    }
}

fn pool((ours, plan): (&compile::Ours, &plan::Pool), kept: &state::Kept) -> status::Pool {
    status::Pool {
        name: ours.pool.name.to_string(),
        balance: plan.balance.name().to_owned(),
        queue: ours.pool.queue.depth(),
        retries_total: ours.pool.stats.sum(|s| &s.retries),
        usable: ours.pool.is_usable(),
        backends: ours
            .members
            .iter()
            .zip(ours.ward.members())
            .map(|(member, vitals)| backend(member, vitals, kept))
            .collect(),
    }
}

fn backend(member: &compile::Member, vitals: &Vitals, kept: &state::Kept) -> status::Backend {
    let backend = &member.backend;
    let load = backend.load();
    let failures = |failure| backend.stats.sum(|s| s.connect_failures.of(failure));
    let resolved = match &backend.endpoint {
        Endpoint::Fixed(_) => member.at,
        Endpoint::Resolved(_) => backend.address(),
    };
    status::Backend {
        name: backend.name.to_string(),
        address: member.plan.address.to_string(),
        resolved: resolved.map(|address| address.to_string()),
        state: vitals.state().name().to_owned(),
        reason: vitals.reason().to_owned(),
        since_seconds: vitals.since().elapsed().as_secs_f64(),
        weight: member.plan.weight,
        effective_weight: f64::from(load.weight()) / f64::from(WEIGHT_ONE),
        connections: load.active(),
        max_connections: member.plan.max_connections.map_or(0, Into::into),
        backup: backend.backup,
        connections_total: backend.stats.sum(|s| &s.connections),
        connect_failures_total: (0..ConnectFailure::ALL.len()).map(failures).sum(),
        bytes_in: backend.stats.sum(|s| &s.bytes_in),
        bytes_out: backend.stats.sum(|s| &s.bytes_out),
        connect_seconds_total: Duration::from_nanos(backend.stats.sum(|s| &s.connect_nanoseconds))
            .as_secs_f64(),
        oldest_seconds: None,
        check: member.last_check.as_ref().map(check),
        set: kept.of(&backend.pool, &backend.name).cloned(),
    }
}

fn check(last: &compile::LastCheck) -> status::Check {
    let (result, text) = match &last.failure {
        None => ("ok", ""),
        Some(NotPassed::Failed(cause)) => ("failed", &**cause),
        Some(NotPassed::Inconclusive(cause)) => ("inconclusive", &**cause),
    };
    status::Check {
        result: result.to_owned(),
        text: text.to_owned(),
        seconds: last.took.as_secs_f64(),
        ago_seconds: last.ended.elapsed().as_secs_f64(),
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whom a certificate is for.
fn names(certificate: &Certificate) -> impl Iterator<Item = String> {
    let names = certificate.names();
    names.dns.iter().cloned().chain(names.ip.iter().map(ToString::to_string))
}
