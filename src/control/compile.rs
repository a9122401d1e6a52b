//! From a plan to the world that workers see.
//!
//! [`World::compile`] cannot fail: whatever can go wrong (the file, the sockets) is settled
//! before it is called. What one generation shares with the next is carried over here: backends
//! with their counts, cells and leases, what is known of their health, queues, and the turn of
//! the round robin.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;

use crate::balance::cell::{Block, WEIGHT_ONE};
use crate::balance::{Group, MOST_SLOTS, Policy, Seat};
use crate::config::plan;
use crate::control::addresses::Known;
use crate::control::guard::guard;
use crate::control::material::Material;
use crate::control::probe::NotPassed;
use crate::control::state::Kept;
use crate::health::{Checks, Passive, Rules, Settings, State, Vitals, Ward};
use crate::metrics::{BackendSeries, CheckCounts, ListenerSeries, PoolSeries, Registry};
use crate::pool::{Backend, Endpoint, Pool, Queue, Report, Tier};
use crate::proto::proxy_protocol::Version;
use crate::redirect::{Challenges, Webroot};
use crate::relay::Limits;
use crate::route::{Route, Routes};
use crate::snapshot::{Listener, ListenerMeters, Protocol, Snapshot};
use crate::stats::{PerWorker, PoolStats};
use crate::tls::client::PeerName;

/// Everything that is running, as the control plane knows it.
#[derive(Debug)]
pub struct World {
    /// What was configured.
    pub plan: plan::Plan,
    /// What the workers see.
    pub snapshot: Arc<Snapshot>,
    /// In the order of the plan.
    pub pools: Vec<Ours>,
    /// In the order of the plan.
    pub listener_series: Vec<ListenerSeries>,
    /// Backends of published generations that this one does not have.
    removed: Vec<Arc<Backend>>,
    /// Whether the workers have it, and whether they have had any.
    published: Published,
    next_id: u64,
}

/// What the workers have seen of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Published {
    /// Nothing: the gateway does not serve yet.
    Nothing,
    /// The generation before this one.
    Before,
    /// This generation.
    This,
}

/// A pool, with what the workers need not see of it.
#[derive(Debug)]
pub struct Ours {
    /// What the workers see.
    pub pool: Arc<Pool>,
    /// How its members are; in the order of `members`.
    pub ward: Ward,
    /// In the order of the plan; of one backend there can be several.
    pub members: Vec<Member>,
    series: PoolSeries,
    ordinary: Slots,
    backup: Slots,
    /// What the groups were made of, ordinary and backup.
    made_of: (Recipe, Recipe),
}

/// A backend, with what the workers need not see of it.
#[derive(Debug)]
pub struct Member {
    /// What the workers see.
    pub backend: Arc<Backend>,
    /// What was configured, with its own name, and the weight that operators want.
    pub plan: plan::Backend,
    /// What the backend is called in the file that it is made of.
    pub of: String,
    /// The one address that it is made of, if its name has a backend for each.
    pub at: Option<SocketAddr>,
    /// Active checks so far.
    pub checks: CheckCounts,
    /// The last of them.
    pub last_check: Option<LastCheck>,
    series: BackendSeries,
}

/// An active check that has ended.
#[derive(Clone, Debug)]
pub struct LastCheck {
    /// When.
    pub ended: Instant,
    /// How long it took.
    pub took: Duration,
    /// Why it did not pass.
    pub failure: Option<NotPassed>,
}

/// The means that a compilation needs beside the plan.
#[derive(Debug)]
pub struct Means<'a> {
    /// Number of workers.
    pub workers: usize,
    /// Connections at once.
    pub max_connections: u32,
    /// Makes series.
    pub registry: &'a Registry,
    /// What TLS needs.
    pub material: &'a Material,
    /// Where workers tell of failures.
    pub reports: &'a mpsc::Sender<Report>,
    /// What operators have set.
    pub(super) kept: &'a Kept,
    /// The addresses of names that there is a backend of each of.
    pub addresses: &'a Known,
    /// The generation before, as far as it was published.
    pub generation: u64,
    /// The time.
    pub now: Instant,
}

/// What distinguishes one group of candidates from another.
type Recipe = (Option<plan::Balance>, Vec<(u64, u16, u32)>);

/// Cells of one tier, and whose they are.
#[derive(Debug, Default)]
struct Slots {
    blocks: Vec<Arc<Block>>,
    owners: Vec<Weak<Backend>>,
    cursor: Arc<AtomicU64>,
}

impl Slots {
    /// The first slot that nothing refers to any more: no generation, and no lease. Its new owner
    /// writes its weight.
    fn free(&mut self) -> (u16, Arc<Block>) {
        let slot = self
            .owners
            .iter()
            .position(|owner| owner.strong_count() == 0)
            .unwrap_or(self.owners.len());
        if slot == self.owners.len() {
            self.owners.push(Weak::new());
        }
        let block = slot / Block::CELLS;
        if block == self.blocks.len() {
            self.blocks.push(Block::new());
        }
        // A plan has at most half of `MOST_SLOTS` backends in a pool.
        debug_assert!(slot < MOST_SLOTS);
        (slot as u16, Arc::clone(&self.blocks[block]))
    }
}

impl World {
    /// Makes the next generation out of a plan and, if there is one, the present generation.
    ///
    /// What the present one hands on is taken out of it; put the result in its place.
    pub fn compile(plan: plan::Plan, before: Option<&mut Self>, means: &Means<'_>) -> Self {
        // Published for the first time: nobody has been served yet.
        let first = before.as_ref().is_none_or(|world| world.published == Published::Nothing);
        let mut removed = Vec::new();
        let mut before_listeners = Vec::new();
        let (mut next_id, mut old_listeners, old_pools) = match before {
            Some(world) => {
                before_listeners = world.snapshot.listeners.clone();
                removed = std::mem::take(&mut world.removed);
                let listeners: HashMap<_, _> = world
                    .snapshot
                    .listeners
                    .iter()
                    .map(|listener| (Arc::clone(&listener.name), Arc::clone(&listener.meters)))
                    .zip(std::mem::take(&mut world.listener_series))
                    .map(|((name, meters), series)| (name, (meters, series)))
                    .collect();
                let pools = std::mem::take(&mut world.pools);
                (world.next_id, listeners, pools)
            }
            None => (0, HashMap::new(), Vec::new()),
        };
        let mut old_pools: HashMap<_, _> =
            old_pools.into_iter().map(|ours| (Arc::clone(&ours.pool.name), ours)).collect();

        let pools: Vec<Ours> = plan
            .pools
            .iter()
            .map(|pool| {
                let before = old_pools.remove(&*pool.name);
                Ours::compile(pool, before, first, &mut next_id, &mut removed, means)
            })
            .collect();
        let members = old_pools.into_values().flat_map(|ours| ours.members);
        removed.extend(members.map(Member::retire));

        let (listeners, listener_series) = plan
            .listeners
            .iter()
            .map(|listener| {
                let name: Arc<str> = listener.name.as_str().into();
                let (meters, mut series) = old_listeners.remove(&name).unwrap_or_else(|| {
                    let labels = [("listener", &*name)];
                    let meters = ListenerMeters {
                        stats: PerWorker::new(means.workers),
                        active: AtomicU32::new(0),
                        duration_seconds: means
                            .registry
                            .histogram("lockgate_connection_duration_seconds", &labels),
                    };
                    (Arc::new(meters), ListenerSeries::new(means.registry, &name))
                });
                let before = before_listeners.iter().find(|before| before.name == name);
                let guard = guard(listener, before.map(Arc::as_ref), &mut series, means);
                let protocol = protocol(listener, &pools, &mut series, means);
                let routes = listener
                    .routes
                    .iter()
                    .map(|route| compile_route(route, Arc::clone(&pools[route.pool].pool)));
                let routes = Routes::new(routes);
                let patience = listener.first_bytes_timeout;
                let compiled = Listener {
                    name,
                    protocol,
                    first_bytes_timeout: routes.ask_for_first_bytes().then_some(patience),
                    routes,
                    bind: listener.bind.clone(),
                    pool: listener.pool.map(|pool| Arc::clone(&pools[pool].pool)),
                    max_connections: listener.max_connections.map_or(0, Into::into),
                    guard,
                    client_timeout: listener.client_timeout,
                    limits: Limits {
                        idle: listener.idle_timeout,
                        half_close: listener.half_close_timeout,
                        user_timeout: unless_zero(listener.user_timeout),
                    },
                    meters,
                };
                (Arc::new(compiled), series)
            })
            .unzip();
        let snapshot = Snapshot {
            generation: means.generation + 1,
            max_connections: means.max_connections,
            access_log: plan.log.access,
            listeners,
        };
        let published = if first { Published::Nothing } else { Published::Before };
        let snapshot = Arc::new(snapshot);
        Self { plan, snapshot, pools, listener_series, removed, published, next_id }
    }

    /// Whether the workers have it.
    pub fn is_published(&self) -> bool {
        self.published == Published::This
    }

    /// The workers have it from now on.
    pub fn has_been_published(&mut self) {
        self.published = Published::This;
    }

    /// The generation that the workers have.
    pub fn published_generation(&self) -> u64 {
        match self.published {
            Published::This => self.snapshot.generation,
            Published::Nothing | Published::Before => self.snapshot.generation.saturating_sub(1),
        }
    }

    /// Backends of the generation before that this one does not have, and still have
    /// connections, with their number.
    ///
    /// Their weights stay: connections that began with the generation before may still choose
    /// them, and for all others they are not there.
    pub fn take_removed(&mut self) -> Vec<(Arc<Backend>, u32)> {
        std::mem::take(&mut self.removed)
            .into_iter()
            .map(|backend| {
                let active = backend.load().active();
                (backend, active)
            })
            .filter(|(_, active)| *active > 0)
            .collect()
    }

    /// The addresses that listeners are bound to.
    pub fn binds(&self) -> HashSet<SocketAddr> {
        self.snapshot.listeners.iter().flat_map(|l| l.bind.iter().copied()).collect()
    }

    /// Why the gateway is not ready; nothing if it is.
    pub fn wants(&self) -> Vec<String> {
        self.snapshot
            .listeners
            .iter()
            .filter_map(|listener| {
                let pool = listener.pool.as_ref()?;
                let (listener, name) = (&listener.name, &pool.name);
                (!pool.is_usable())
                    .then(|| format!("listener {listener}: pool {name} has no usable backend"))
            })
            .collect()
    }

    /// Carries all counts over into the series.
    pub fn follow(&mut self) {
        for (listener, series) in self.snapshot.listeners.iter().zip(&mut self.listener_series) {
            series.follow(listener);
        }
        for ours in &mut self.pools {
            ours.series.follow(&ours.pool);
            for (member, vitals) in ours.members.iter_mut().zip(ours.ward.members()) {
                let weight = f64::from(member.backend.load().weight()) / f64::from(WEIGHT_ONE);
                let well = vitals.is_well();
                let drained = matches!(vitals.state(), State::Draining | State::Disabled);
                member.series.follow(&member.backend, (well, drained), weight, member.checks);
            }
        }
    }
}

/// A time that may be left to the system.
fn unless_zero(time: Duration) -> Option<Duration> {
    Some(time).filter(|time| !time.is_zero())
}

/// What clients of a listener speak.
fn protocol(
    listener: &plan::Listener,
    pools: &[Ours],
    series: &mut ListenerSeries,
    means: &Means<'_>,
) -> Protocol {
    let name = &listener.name;
    match &listener.protocol {
        plan::Protocol::Tcp => Protocol::Tcp,
        plan::Protocol::Tls(_) => {
            let handshake_seconds = series.with_tls(means.registry, name);
            let server = means.material.server(name);
            // Read for this very plan: anything else than TLS here would be worse than an end.
            Protocol::Tls { server: server.expect("what a plan needs is read"), handshake_seconds }
        }
        plan::Protocol::TlsPassthrough => {
            series.with_hellos(means.registry, name);
            Protocol::TlsPassthrough
        }
        plan::Protocol::Redirect(redirect) => {
            Protocol::Redirect(redirect.challenges.as_ref().map(|challenges| match challenges {
                plan::Challenges::Directory(path) => Challenges::Directory(Webroot::of(path)),
                plan::Challenges::Pool(pool) => Challenges::Pool(Arc::clone(&pools[*pool].pool)),
            }))
        }
    }
}

/// A route as it is configured, to whatever its pool is.
pub fn compile_route<T>(plan: &plan::Route, target: T) -> Route<T> {
    let mut route = Route::to(target);
    for pattern in &plan.sni {
        match pattern {
            plan::SniPattern::Exact(name) => route.name(name),
            plan::SniPattern::Wildcard(parent) => route.below(parent),
            plan::SniPattern::Below(ancestor) => route.far_below(ancestor),
            plan::SniPattern::Any => route.any_name(),
        }
    }
    route.first_bytes(plan.first_bytes.iter().copied());
    route.protocols(plan.alpn.iter().map(String::as_bytes));
    route.networks(plan.client.iter().copied().map(Into::into));
    route
}

impl Ours {
    fn compile(
        plan: &plan::Pool,
        before: Option<Self>,
        first: bool,
        next_id: &mut u64,
        removed: &mut Vec<Arc<Backend>>,
        means: &Means<'_>,
    ) -> Self {
        let name: Arc<str> = plan.name.as_str().into();
        let (pool, ward, members, series, mut ordinary, mut backup, made_of) = match before {
            Some(ours) => (
                Some(ours.pool),
                ours.ward.into_members(),
                ours.members,
                ours.series,
                ours.ordinary,
                ours.backup,
                ours.made_of,
            ),
            None => {
                let series = PoolSeries::new(means.registry, &name);
                let made_of = Default::default();
                (None, vec![], vec![], series, Slots::default(), Slots::default(), made_of)
            }
        };
        let mut known: HashMap<_, _> = members
            .into_iter()
            .zip(ward)
            .map(|(member, vitals)| (identity(&member.plan), (member, vitals)))
            .collect();

        let (members, vitals): (Vec<Member>, Vec<Vitals>) = plan
            .backends
            .iter()
            .flat_map(|backend| {
                let made = means.addresses.expand(&plan.name, backend);
                made.into_iter().map(|(made, at)| (&backend.name, made, at))
            })
            .map(|(of, backend, at)| {
                let backend = weighed(backend, &plan.name, means.kept);
                let settings = settings(plan, &backend);
                if let Some((mut member, mut vitals)) = known.remove(&identity(&backend)) {
                    vitals.reconfigure(settings);
                    member.plan = backend;
                    return (member, vitals);
                }
                let slots = if backend.backup { &mut backup } else { &mut ordinary };
                let named = at.is_none() && matches!(backend.address, plan::Address::Name { .. });
                let member = Member::new(&name, (of, backend, at), slots, next_id, means);
                (member, Vitals::new(settings, named, !first, means.now))
            })
            .unzip();
        removed.extend(known.into_values().map(|(member, _)| member.retire()));

        let tier = |slots: &Slots, backup: bool, before: Option<(&Arc<Tier>, &Recipe)>| {
            let of_tier: Vec<_> =
                members.iter().filter(|member| member.backend.backup == backup).collect();
            let recipe = (Some(plan.balance), of_tier.iter().map(|m| m.ingredient()).collect());
            let tier = match before {
                Some((tier, made_of)) if *made_of == recipe => Arc::clone(tier),
                _ => Arc::new(slots.tier(policy(plan.balance), &of_tier)),
            };
            (tier, recipe)
        };
        let before = pool.as_ref();
        let (ordinary_tier, ordinary_recipe) =
            tier(&ordinary, false, before.map(|pool| (&pool.ordinary, &made_of.0)));
        let (backup_tier, backup_recipe) =
            tier(&backup, true, before.map(|pool| (&pool.backup, &made_of.1)));

        let connect_seconds =
            || means.registry.histogram("lockgate_backend_connect_seconds", &[("pool", &*name)]);
        let compiled = Pool {
            ordinary: ordinary_tier,
            backup: backup_tier,
            backup_overflow: plan.backup_overflow,
            connect_timeout: plan.connect_timeout,
            user_timeout: unless_zero(plan.user_timeout),
            retries: plan.retries,
            queue_timeout: plan.queue_timeout,
            source: plan.source,
            send_proxy: plan.send_proxy.map(proxy_version),
            tls: means.material.clients(&name, means.workers),
            stats: before.map_or_else(
                || Arc::new(PerWorker::<PoolStats>::new(means.workers)),
                |pool| Arc::clone(&pool.stats),
            ),
            connect_seconds: before
                .map_or_else(connect_seconds, |pool| pool.connect_seconds.clone()),
            queue: before.map_or_else(Arc::<Queue>::default, |pool| Arc::clone(&pool.queue)),
            reports: means.reports.clone(),
            name,
        };
        let rules = Rules {
            max_ejected: plan.passive.as_ref().map_or(0, |passive| passive.max_ejected),
            try_all: plan.all_down == plan::AllDown::TryAll,
        };
        let ours = Self {
            pool: Arc::new(compiled),
            ward: Ward::new(rules, vitals, means.now),
            members,
            series,
            ordinary,
            backup,
            made_of: (ordinary_recipe, backup_recipe),
        };
        ours.apply_weights(0..ours.members.len(), means.now);
        ours
    }

    /// How many backends more it has slots for: those that were removed keep theirs while they have
    /// connections.
    pub fn room(&self, backup: bool) -> usize {
        let slots = if backup { &self.backup } else { &self.ordinary };
        let taken = slots.owners.iter().filter(|owner| owner.strong_count() > 0).count();
        MOST_SLOTS - taken.min(MOST_SLOTS)
    }

    /// Writes the weights that the ward answers with for `members`, and lets those who wait have
    /// what is free.
    pub fn apply_weights(&self, members: Range<usize>, now: Instant) {
        let weights = self.ward.weights(members.clone(), WEIGHT_ONE, now);
        for (member, weight) in self.members[members].iter().zip(weights) {
            if member.backend.load().weight() != weight {
                member.backend.set_weight(weight);
            }
        }
        if self.pool.queue.depth() > 0 {
            self.pool.queue.serve();
        }
    }
}

impl Member {
    fn new(
        pool: &Arc<str>,
        (of, plan, at): (&str, plan::Backend, Option<SocketAddr>),
        slots: &mut Slots,
        next_id: &mut u64,
        means: &Means<'_>,
    ) -> Self {
        let (slot, block) = slots.free();
        let backend = Arc::new(Backend {
            id: *next_id,
            pool: Arc::clone(pool),
            name: plan.name.as_str().into(),
            endpoint: match (at, &plan.address) {
                (Some(address), _) => Endpoint::Fixed(address),
                (None, plan::Address::Socket(address)) => Endpoint::Fixed(*address),
                (None, plan::Address::Name { .. }) => Endpoint::Resolved(ArcSwapOption::empty()),
            },
            peer: match &plan.address {
                plan::Address::Socket(address) => Some(address.ip().into()),
                plan::Address::Name { host, .. } => PeerName::parse(host).ok(),
            },
            backup: plan.backup,
            slot,
            stats: PerWorker::new(means.workers),
            block,
        });
        *next_id += 1;
        slots.owners[usize::from(slot)] = Arc::downgrade(&backend);
        let series = BackendSeries::new(means.registry, &backend);
        Self {
            backend,
            plan,
            of: of.to_owned(),
            at,
            checks: CheckCounts::default(),
            last_check: None,
            series,
        }
    }

    /// Whether it stands for all addresses of its name, of which none is known.
    pub fn awaits_addresses(&self) -> bool {
        self.plan.addresses == plan::Addresses::All && self.at.is_none()
    }

    /// Carries its counts over a last time.
    fn retire(mut self) -> Arc<Backend> {
        self.series.follow(&self.backend, (false, false), 0.0, self.checks);
        self.backend
    }

    fn ingredient(&self) -> (u64, u16, u32) {
        let limit = self.plan.max_connections.map_or(0, Into::into);
        (self.backend.id, self.plan.weight, limit)
    }
}

impl Slots {
    fn tier(&self, policy: Policy, members: &[&Member]) -> Tier {
        let mut seats = vec![Seat { name: "", weight: 0, limit: 0 }; self.owners.len()];
        let mut backends: Box<[Option<Arc<Backend>>]> =
            std::iter::repeat_with(|| None).take(self.owners.len()).collect();
        for member in members {
            let slot = usize::from(member.backend.slot);
            let (_, weight, limit) = member.ingredient();
            seats[slot] = Seat { name: &member.backend.name, weight, limit };
            backends[slot] = Some(Arc::clone(&member.backend));
        }
        let blocks = self.blocks.iter().cloned().collect();
        Tier { group: Group::new(policy, &seats, blocks, Arc::clone(&self.cursor)), backends }
    }
}

/// A backend as it is configured, with the weight that an operator has set for it.
fn weighed(backend: plan::Backend, pool: &str, kept: &Kept) -> plan::Backend {
    let weight = kept.weight(pool, &backend.name).unwrap_or(backend.weight);
    plan::Backend { weight, ..backend }
}

/// What makes a backend the same one in the next generation of its pool.
fn identity(plan: &plan::Backend) -> (String, plan::Address, bool) {
    (plan.name.clone(), plan.address.clone(), plan.backup)
}

/// The PROXY protocol that a pool's backends are spoken to in.
pub(super) fn proxy_version(plan: plan::SendProxy) -> Version {
    match plan {
        plan::SendProxy::V1 => Version::V1,
        plan::SendProxy::V2 => Version::V2,
    }
}

fn policy(balance: plan::Balance) -> Policy {
    match balance {
        plan::Balance::WeightedRoundRobin => Policy::RoundRobin,
        plan::Balance::LeastConnections => Policy::LeastConnections,
        plan::Balance::Random => Policy::Random,
        plan::Balance::SourceHash => Policy::SourceHash,
    }
}

fn settings(pool: &plan::Pool, backend: &plan::Backend) -> Settings {
    Settings {
        weight: backend.weight,
        checks: pool.health.as_ref().map(|health| Checks {
            rise: health.rise.get(),
            fall: health.fall.get(),
            interval: health.interval,
            fast_interval: health.fast_interval,
        }),
        passive: pool.passive.as_ref().map(|passive| Passive {
            max_fails: passive.max_fails.get(),
            window: passive.window,
            eject_for: passive.eject_for,
        }),
        slow_start: pool.slow_start,
    }
}
