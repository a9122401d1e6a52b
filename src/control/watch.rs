//! Watching backends: when each is checked, what the answers mean for it, what names mean.

use std::collections::HashSet;
use std::net::IpAddr;

use super::addresses::Key;
use super::compile::LastCheck;
use super::*;
use crate::log::Ration;

/// What is done about the backends.
pub(super) struct Watch {
    /// By id of the backend: the pool and the member.
    places: HashMap<u64, (usize, usize)>,
    schedule: Schedule,
    /// Backends whose check is under way; its end sets the time of the next.
    checking: HashSet<u64>,
    /// When the last check of each began.
    last: HashMap<u64, Instant>,
    /// Each with the source that its answers must be reachable from.
    resolvers: HashMap<Whose, (Option<IpAddr>, Task)>,
    prober: Prober,
    /// By pool.
    probes: Vec<Option<Probe>>,
    /// Bounds the checks that run at once.
    permits: Arc<Semaphore>,
    /// Of lines on checks that this host could not make.
    shortages: Ration,
}

/// Whom a name is resolved for.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Whose {
    /// The backend with this id.
    Backend(u64),
    /// A backend of the file that one is made of for each address.
    Each(Key),
}

impl Watch {
    pub(super) fn new(prober: Prober) -> Self {
        Self {
            places: HashMap::new(),
            schedule: Schedule::default(),
            checking: HashSet::new(),
            last: HashMap::new(),
            resolvers: HashMap::new(),
            prober,
            probes: Vec::new(),
            permits: Arc::new(Semaphore::new(CHECKS_AT_ONCE)),
            shortages: Ration::new(1),
        }
    }

    /// Has a name resolved from now on, if it is not yet.
    fn resolve(
        &mut self,
        whose: Whose,
        source: Option<IpAddr>,
        begin: impl FnOnce() -> JoinHandle<()>,
    ) {
        if self.resolvers.get(&whose).is_none_or(|(present, _)| *present != source) {
            self.resolvers.insert(whose, (source, Task(begin())));
        }
    }

    /// Whether a name is being resolved, for a backend that one is made of for each address.
    pub(super) fn resolves(&self, key: &Key) -> bool {
        self.resolvers.contains_key(&Whose::Each(key.clone()))
    }

    /// When a check is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.schedule.next()
    }
}

impl Control {
    /// Watches the backends of the present world, and no others. What is new is asked at once.
    pub(super) fn watch_world(&mut self) {
        let now = Instant::now();
        let watch = &mut self.watch;
        let before = std::mem::take(&mut watch.places);
        let mut names = HashSet::new();
        watch.probes.clear();
        for (pool, (ours, plan)) in self.world.pools.iter().zip(&self.world.plan.pools).enumerate()
        {
            watch.probes.push(plan.health.as_ref().map(|health| Probe {
                health: Arc::new(health.clone()),
                port: health.port,
                source: plan.source,
                send_proxy: plan.send_proxy.map(compile::proxy_version),
                tls: self.material.prober(plan).unwrap_or_else(|| watch.prober.clone()),
            }));
            for (index, member) in ours.members.iter().enumerate() {
                let id = member.backend.id;
                watch.places.insert(id, (pool, index));
                match &plan.health {
                    None => watch.schedule.remove(id),
                    // Due sooner than an interval from now, if the interval has become shorter.
                    Some(health) => {
                        let latest = now + health.interval;
                        match watch.schedule.get(id) {
                            Some(time) => watch.schedule.set(id, time.min(latest)),
                            None if watch.checking.contains(&id) => {}
                            None => watch.schedule.set(id, now),
                        }
                    }
                }
                if let plan::Address::Name { host, port } = &member.plan.address
                    && member.plan.addresses == plan::Addresses::One
                {
                    names.insert(Whose::Backend(id));
                    watch.resolve(Whose::Backend(id), plan.source, || {
                        let answers = self.senders.answers.clone();
                        let resolving =
                            keep_resolving(id, host.clone(), *port, plan.source, answers);
                        tokio::spawn(resolving)
                    });
                }
            }
            for (key, _) in plan.backends.iter().filter_map(|one| Key::of(&plan.name, one)) {
                names.insert(Whose::Each(key.clone()));
                watch.resolve(Whose::Each(key.clone()), plan.source, || {
                    let answers = self.senders.answers.clone();
                    tokio::spawn(keep_resolving_all(key, plan.source, answers))
                });
            }
        }
        watch.resolvers.retain(|whose, _| names.contains(whose));
        for gone in before.keys().filter(|id| !watch.places.contains_key(id)) {
            watch.schedule.remove(*gone);
            watch.last.remove(gone);
        }
    }

    /// Lets the first checks and names of new backends come in before their world is published,
    /// so that nobody is sent to a backend that nothing is known of, nor refused for the lack of
    /// one. Bounded: what is slower comes in later. Questions are answered meanwhile,
    /// and a stop is begun.
    pub(super) async fn settle(&mut self) {
        let began = Instant::now();
        while !self.world.pools.iter().all(|ours| ours.ward.is_settled()) {
            self.follow_names(Instant::now());
            self.start_checks();
            let usable = self.world.wants().is_empty();
            let deadline = began + if usable { SETTLE } else { SETTLE_USABLE };
            let event = async {
                tokio::select! {
                    Some(checked) = self.inbox.checked.recv() => Settling::Checked(checked),
                    Some(answer) = self.inbox.answers.recv() => Settling::Answer(answer),
                    Some(ask) = self.inbox.asks.recv() => Settling::Ask(ask),
                    Some(turn) = self.inbox.turns.recv() => Settling::Turn(turn),
                    () = either(&mut self.signals.terminate, &mut self.signals.interrupt) => {
                        Settling::Stop
                    }
                }
            };
            match timeout_at(deadline.into(), event).await {
                Ok(Settling::Checked(checked)) => self.checked(checked),
                Ok(Settling::Answer(answer)) => self.answered(answer),
                Ok(Settling::Ask(ask)) => self.answer(ask),
                Ok(Settling::Turn(turn)) => self.take_turn(turn),
                Ok(Settling::Stop) => return self.begin_to_stop(),
                Err(_elapsed) => return,
            }
        }
    }

    /// Starts the checks whose time has come.
    pub(super) fn start_checks(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.watch.schedule.pop(now) {
            let Some(&(pool, index)) = self.watch.places.get(&id) else {
                continue;
            };
            let Some(mut probe) = self.watch.probes[pool].clone() else {
                continue;
            };
            let member = &self.world.pools[pool].members[index];
            // Without an address there is nothing to check; the answer to the name asks again.
            let Some(target) = member.backend.target() else {
                continue;
            };
            let named = member.plan.address.to_string();
            if let Some(port) = member.plan.health_port {
                probe.port = Some(port.get());
            }
            self.watch.checking.insert(id);
            let (results, permits) =
                (self.senders.checked.clone(), Arc::clone(&self.watch.permits));
            tokio::spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                let began = Instant::now();
                let result = match &target {
                    Target::One(address) => probe.check(*address, &named).await,
                    Target::Several(addresses) => probe.check_any(addresses, &named).await,
                };
                let ended = Instant::now();
                // When nobody listens any more, the gateway has stopped.
                let _ = results.send(Checked { backend: id, began, ended, result });
            });
        }
    }

    /// A check has ended: what it says, and when the next one is.
    pub(super) fn checked(&mut self, checked: Checked) {
        let Checked { backend: id, began, ended, result } = checked;
        self.watch.checking.remove(&id);
        let Some(&(pool, index)) = self.watch.places.get(&id) else {
            return;
        };
        self.watch.last.insert(id, began);
        let ours = &mut self.world.pools[pool];
        let first = !ours.ward.members()[index].is_settled();
        let member = &mut ours.members[index];
        let failure = result.as_ref().err().cloned();
        member.last_check = Some(LastCheck { ended, took: ended - began, failure });
        let checks = &mut member.checks;
        let event = match result {
            Ok(()) => {
                checks.passed += 1;
                Event::CheckPassed
            }
            Err(NotPassed::Failed(cause)) => {
                checks.failed += 1;
                Event::CheckFailed(cause)
            }
            Err(NotPassed::Inconclusive(cause)) => {
                checks.inconclusive += 1;
                if let Some(withheld) = self.watch.shortages.take(ended) {
                    tracing::warn!(
                        pool = %member.backend.pool,
                        backend = %member.backend.name,
                        %cause,
                        withheld = (withheld > 0).then_some(withheld),
                        "this host could not make a health check: it says nothing, and is made again"
                    );
                }
                Event::CheckInconclusive(cause)
            }
        };
        self.tell(pool, index, event);
        let interval = self.world.pools[pool].ward.members()[index].check_interval();
        if let Some(interval) = interval {
            // All first checks go out at once: the second ones are spread over an interval.
            let wait = if first { interval.mul_f64(spread(id)) } else { interval };
            self.watch.schedule.set(id, began + wait);
        }
    }

    /// A client's connection to a backend failed.
    pub(super) fn reported(&mut self, report: &Report) {
        let Some(&(pool, index)) = self.watch.places.get(&report.backend) else {
            return;
        };
        self.tell(pool, index, Event::ConnectFailed(report.failure.to_string()));
        // Looked into as soon as the fast interval allows.
        let interval = self.world.pools[pool].ward.members()[index].check_interval();
        let last = self.watch.last.get(&report.backend);
        let due = self.watch.schedule.get(report.backend);
        if let (Some(interval), Some(&last), Some(due)) = (interval, last, due) {
            self.watch.schedule.set(report.backend, due.min(last + interval));
        }
    }

    /// A name has been resolved, or could not be.
    pub(super) fn answered(&mut self, answer: Answer) {
        let (id, addresses) = match answer {
            Answer::One { backend, addresses } => (backend, addresses),
            Answer::All(key, found) => return self.found(key, &found),
        };
        let Some(&(pool, index)) = self.watch.places.get(&id) else {
            return;
        };
        let member = &self.world.pools[pool].members[index];
        let (name, backend) = (&member.backend.pool, &member.backend.name);
        match addresses {
            Ok(list) => {
                let Endpoint::Resolved(present) = &member.backend.endpoint else {
                    return;
                };
                let before = present.load_full();
                if before.as_ref().is_none_or(|before| before.all() != list) {
                    let others = list.len() - 1;
                    let kept = before.and_then(|before| before.first());
                    present.store(Addresses::new(list, kept).map(Arc::new));
                    let address = member.backend.address();
                    let address = address.map(tracing::field::display);
                    let others = (others > 0).then_some(others);
                    tracing::info!(pool = %name, %backend, address, others, "resolved");
                    if self.watch.probes[pool].is_some() {
                        self.watch.schedule.set(id, Instant::now());
                    }
                }
                self.tell(pool, index, Event::Resolved);
            }
            Err(cause) => {
                let kept = member.backend.address();
                tracing::warn!(pool = %name, %backend, ?kept, "{cause}");
                self.tell(pool, index, Event::Unresolved(cause));
            }
        }
    }

    /// Lets time pass for the backends.
    pub(super) fn pass_time(&mut self, now: Instant) {
        for pool in 0..self.world.pools.len() {
            let ours = &mut self.world.pools[pool];
            if ours.ward.poll_timeout().is_some_and(|due| due <= now) {
                let transitions = ours.ward.tick(now);
                ours.apply_weights(0..ours.members.len(), now);
                transitions.iter().for_each(|transition| self.tell_of(pool, transition));
            }
        }
    }

    /// When time alone changes something about a backend.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.world.pools.iter().filter_map(|ours| ours.ward.poll_timeout()).min()
    }

    pub(super) fn tell(&mut self, pool: usize, index: usize, event: Event) {
        let now = Instant::now();
        let ours = &mut self.world.pools[pool];
        let weight = |ours: &compile::Ours| ours.ward.members()[index].weight(WEIGHT_ONE, now);
        let is_down = |ours: &compile::Ours| ours.ward.members()[index].is_down_by_checks();
        let (before, was_down) = (weight(ours), is_down(ours));
        let check_failed = matches!(event, Event::CheckFailed(_));
        let transition = ours.ward.handle(index, event, now);
        if transition.is_some() || weight(ours) != before {
            ours.apply_weights(ours.ward.concerned(index), now);
        }
        let resets = self.world.plan.pools[pool].on_down == plan::OnDown::Reset;
        if check_failed && resets && is_down(ours) {
            let backend = &ours.members[index].backend;
            let load = backend.load();
            if !was_down && load.active() > 0 {
                let (pool, backend, connections) = (&backend.pool, &backend.name, load.active());
                tracing::info!(%pool, %backend, connections, "down: its connections are reset");
            }
            // With every further failure again: one that had been given its place in a queue may just
            // have been on its way there. Not where it is sent to for want of anything better.
            if !was_down || load.weight() == 0 {
                self.workers.crew.cut(backend.id, Cut::BackendDown);
            }
        }
        if let Some(transition) = transition {
            self.tell_of(pool, &transition);
        }
    }

    fn tell_of(&mut self, pool: usize, transition: &Transition) {
        let backend = &self.world.pools[pool].members[transition.member].backend;
        let Transition { from, to, reason, .. } = transition;
        tracing::info!(pool = %backend.pool, backend = %backend.name, %from, %to, %reason, "backend");
        let fields = [
            ("pool", (*backend.pool).into()),
            ("backend", (*backend.name).into()),
            ("from", from.to_string().into()),
            ("to", to.to_string().into()),
            ("cause", reason.to_string().into()),
        ];
        self.events.tell(Kind::Backend, SystemTime::now(), &fields);
    }
}

enum Settling {
    Checked(Checked),
    Answer(Answer),
    Ask(Ask),
    Turn(Turn),
    Stop,
}

/// A number from 0 to 1 that is evenly spread over backends.
fn spread(id: u64) -> f64 {
    const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;
    (id as f64 * GOLDEN_RATIO).fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_checks_are_spread_evenly() {
        let mut times: Vec<f64> = (0..1_000).map(spread).collect();
        times.sort_by(f64::total_cmp);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] < 0.003));
    }
}
