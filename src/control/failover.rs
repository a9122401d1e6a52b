//! The seam between the gateway and VRRP: what one tells the other.
//!
//! To VRRP go the instances of the plan, as this node has them; whether the workers serve; and
//! what pools change of a priority. From it come states, counts and events. The crate
//! `lockgate-vrrp` knows nothing of pools and listeners, and nothing but this folder and the
//! commands know it.

mod handing_on;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

pub(super) use lockgate_vrrp::linux::Legacy;
use lockgate_vrrp::linux::{self, Event, Flaw, LastPrograms, Options, Role, State, Vrrp};
use lockgate_vrrp::types::Version;
use serde_json::Value;
use tokio::sync::mpsc;

use super::pulse::Pulse;
use super::tracking::Tracked;
use super::{Control, Failure, Kind};
use crate::admin::status;
use crate::config::plan;
use crate::metrics::{InstanceSeries, Registry, Sum};
use crate::sandbox;
use crate::worker::Crew;
pub(super) use settings::check_programs;
pub use settings::{programs, settings};

/// The hidden command that makes a process of this program the guard of addresses.
pub const GUARD: &str = "vip-guard";

/// Events on their way from VRRP; more are dropped and counted.
const EVENTS: usize = 1_024;

/// VRRP, as the control plane knows it.
pub(super) struct Failover {
    /// What runs, unless the plan has no instances.
    running: Option<Vrrp>,
    /// What was the case when it was stopped for good.
    last: Vec<status::Instance>,
    /// What still runs for instances that were stopped.
    programs: Option<LastPrograms>,
    tracked: Vec<Tracked>,
    crew: Arc<Crew>,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    lost: Arc<AtomicU64>,
    /// The next process has been handed everything; this one may have to take it back.
    is_let_go: bool,
    /// Transitions so far, by instance and new state.
    transitions: BTreeMap<(String, &'static str), u64>,
    series: HashMap<String, InstanceSeries>,
    /// Packets that no instance owns, by reason.
    strays: HashMap<&'static str, Sum>,
}

impl Failover {
    /// Nothing yet.
    pub(super) fn new(crew: &Arc<Crew>) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        Self {
            running: None,
            last: Vec::new(),
            programs: None,
            tracked: Vec::new(),
            crew: Arc::clone(crew),
            sender,
            events,
            lost: Arc::default(),
            is_let_go: false,
            transitions: BTreeMap::new(),
            series: HashMap::new(),
            strays: HashMap::new(),
        }
    }

    /// Goes on with the instances of this plan, as `node` has them: all of them, or none is
    /// changed. One that is as it was does not notice.
    pub(super) fn configure(
        &mut self,
        plan: &plan::Plan,
        node: Option<&plan::Node>,
    ) -> Result<(), Failure> {
        let wanted = settings(plan, node)?;
        match &self.running {
            Some(vrrp) if !wanted.is_empty() => vrrp.reconfigure(wanted)?,
            Some(_) => {
                self.stop_running();
                // They are no longer configured, and nobody asks for them any more.
                self.last.clear();
            }
            None if wanted.is_empty() => {}
            None => self.running = Some(linux::start(wanted, self.options())?),
        }
        self.follow_plan(plan);
        self.repeat_weights();
        Ok(())
    }

    /// Says again what has been said of pools: an instance that others know
    /// by something else now has begun anew.
    fn repeat_weights(&self) {
        for tracked in &self.tracked {
            if let Some(weight) = tracked.said() {
                self.say(tracked, weight);
            }
        }
    }

    fn options(&self) -> Options {
        let crew = Arc::clone(&self.crew);
        let pulse = Pulse::new(crew.heartbeats().count());
        let (sender, lost) = (self.sender.clone(), Arc::clone(&self.lost));
        Options {
            guard: Some(sandbox::guard(GUARD)),
            confine: Some(Arc::new(confine)),
            service: Arc::new(move |now| {
                let verdict = pulse.check(now.since_beginning(), crew.heartbeats());
                verdict.map_err(|stuck| stuck.to_string())
            }),
            events: Arc::new(move |event| {
                if sender.try_send(event).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }),
        }
    }

    /// Tracks the pools of this plan, and no others.
    fn follow_plan(&mut self, plan: &plan::Plan) {
        let before = std::mem::take(&mut self.tracked);
        for vrrp in &plan.vrrp {
            for tracked in &vrrp.track_pools {
                let pool = &plan.pools[tracked.pool].name;
                let mut now = Tracked::new(&vrrp.name, pool, tracked.pool, tracked.weight);
                if let Some(before) = before.iter().find(|before| before.is_same(&now)) {
                    now.follows(before);
                }
                self.tracked.push(now);
            }
        }
        for gone in &before {
            if !self.tracked.iter().any(|tracked| tracked.is_same(gone)) {
                self.say(gone, 0);
            }
        }
        let known = |name: &str| plan.vrrp.iter().any(|vrrp| vrrp.name == name);
        self.series.retain(|name, _| known(name));
        self.transitions.retain(|(name, _), _| known(name));
    }

    fn say(&self, tracked: &Tracked, weight: i16) {
        if let Some(vrrp) = &self.running {
            vrrp.track(&tracked.instance, &format!("pool {}", tracked.pool), weight);
        }
    }

    /// Adds a weight to the priority of an instance, by this name; 0 = none any more.
    pub(super) fn weigh(&self, instance: &str, name: &str, weight: i16) {
        if let Some(vrrp) = &self.running {
            vrrp.track(instance, name, weight);
        }
    }

    /// Has an instance offer its addresses to whoever else is there.
    pub(super) fn offer(&self, instance: &str) {
        if let Some(vrrp) = &self.running {
            vrrp.offer(instance);
        }
    }

    /// The same for all that have theirs.
    pub(super) fn offer_all(&self) {
        self.masters().iter().for_each(|instance| self.offer(&instance.name));
    }

    /// The instances that have their addresses.
    pub(super) fn masters(&self) -> Vec<status::Instance> {
        let mut instances = self.instances();
        instances.retain(|instance| instance.state == State::Master.as_str());
        instances
    }

    /// Whether it takes part in VRRP.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Tells of pools that have become usable or unusable.
    fn track(&mut self, is_usable: impl Fn(usize) -> bool, now: Instant) {
        let mut said = Vec::new();
        for (index, tracked) in self.tracked.iter_mut().enumerate() {
            if let Some(weight) = tracked.update(is_usable(tracked.index), now) {
                said.push((index, weight));
            }
        }
        for (index, weight) in said {
            let Tracked { instance, pool, .. } = &self.tracked[index];
            tracing::info!(%instance, %pool, weight, "a tracked pool changes the priority");
            self.say(&self.tracked[index], weight);
        }
    }

    /// When [`Control::track_pools`] has something to do although nothing happens.
    pub(super) fn next(&self) -> Option<Instant> {
        self.tracked.iter().filter_map(Tracked::poll_timeout).min()
    }

    /// The next event; waits for ever if there is none.
    pub(super) async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // The sender is held here as well, so this is not reached.
            None => std::future::pending().await,
        }
    }

    /// An event that has come already.
    pub(super) fn try_event(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Gives all addresses away, for good. Takes a second at most.
    pub(super) fn stop(&mut self) {
        self.take_back();
        self.stop_running();
    }

    fn stop_running(&mut self) {
        if let Some(vrrp) = self.running.take() {
            let began = Instant::now();
            let (last, programs) = vrrp.stop();
            self.last = last.iter().map(instance).collect();
            self.programs = Some(programs);
            tracing::info!(took = ?began.elapsed(), "VRRP has stopped: the addresses are given away");
        }
    }

    /// Waits for the notify programs that the stop has started, if need be: at most ten seconds from
    /// then on.
    pub(super) fn await_programs(&mut self) {
        if let Some(programs) = self.programs.take() {
            programs.wait();
        }
    }

    /// What is the case with all instances.
    pub(super) fn instances(&self) -> Vec<status::Instance> {
        match &self.running {
            None => self.last.clone(),
            Some(vrrp) => vrrp.status().iter().map(instance).collect(),
        }
    }

    /// Carries all counts over into the series.
    pub(super) fn follow(&mut self, registry: &Registry) {
        let Some(vrrp) = &self.running else { return };
        for status in vrrp.status() {
            let name = &status.name;
            let series = self
                .series
                .entry(name.clone())
                .or_insert_with(|| InstanceSeries::new(registry, name));
            let state = match status.state {
                State::Init => 0.0,
                State::Backup => 1.0,
                State::Master => 2.0,
            };
            series.follow(state, status.effective_priority.into());
            series.follow_adverts(status.counts.received, status.counts.sent);
            for to in [State::Init, State::Backup, State::Master].map(State::as_str) {
                let count = self.transitions.get(&(name.clone(), to)).copied().unwrap_or(0);
                series.follow_transitions(registry, name, to, count);
            }
            let flaws: HashMap<_, _> = status.counts.flaws.iter().copied().collect();
            for reason in Flaw::all().map(Flaw::as_str) {
                let count = flaws.get(reason).copied().unwrap_or(0);
                series.follow_errors(registry, name, reason, count);
            }
        }
        for (reason, count) in vrrp.rejected() {
            let labels = [("instance", ""), ("reason", reason)];
            let series = || registry.counter("lockgate_vrrp_advert_errors_total", &labels);
            self.strays.entry(reason).or_insert_with(series).follow(count);
        }
    }
}

impl Control {
    /// Tells VRRP of pools that have become usable or unusable.
    pub(super) fn track_pools(&mut self, now: Instant) {
        let pools = &self.world.pools;
        self.failover.track(|pool| pools[pool].pool.is_usable(), now);
    }

    /// Something has happened to an instance. The log has it already.
    pub(super) async fn failed_over(&mut self, event: Event) {
        let now = SystemTime::now();
        let mut at = now;
        let changed = match &event {
            Event::Transition { instance, from, to, .. } => {
                let gave_way = (*from, *to) == (State::Master, State::Backup);
                Some((instance.clone(), gave_way, *to == State::Master))
            }
            _ => None,
        };
        let fields: Vec<(&str, Value)> = match event {
            Event::Transition { instance, from, to, cause, priority, at: when } => {
                at = when;
                *self.failover.transitions.entry((instance.clone(), to.as_str())).or_default() += 1;
                vec![
                    ("event", "transition".into()),
                    ("instance", instance.into()),
                    ("from", from.as_str().into()),
                    ("to", to.as_str().into()),
                    ("cause", cause.into()),
                    ("priority", priority.into()),
                ]
            }
            Event::Contention { instance, from, priority } => vec![
                ("event", "contention".into()),
                ("instance", instance.into()),
                ("cause", format!("{from} says that it is master, priority {priority}").into()),
            ],
            Event::AdvertFlawed { instance, reason, refused, from, received, expected, more } => {
                let name = if refused { "advert_refused" } else { "advert_mismatch" };
                vec![
                    ("event", name.into()),
                    ("instance", instance.into()),
                    ("reason", reason.into()),
                    ("from", from.to_string().into()),
                    ("cause", format!("received {received}, expected {expected}").into()),
                    ("received", received.into()),
                    ("expected", expected.into()),
                    ("more", more.into()),
                ]
            }
            Event::AddressRestored { instance, address } => vec![
                ("event", "address_restored".into()),
                ("instance", instance.into()),
                ("address", address.to_string().into()),
                ("cause", "something else had removed it".into()),
            ],
            Event::AddressFailed { instance, address, error } => vec![
                ("event", "address_failed".into()),
                ("instance", instance.into()),
                ("address", address.to_string().into()),
                ("cause", error.into()),
            ],
            Event::GuardDied { error } => vec![
                ("event", "guard_died".into()),
                ("cause", error.unwrap_or_else(|| "another was started".to_owned()).into()),
            ],
            Event::Lost { count } => {
                self.failover.lost.fetch_add(count, Ordering::Relaxed);
                Vec::new()
            }
            // Of a later version of the crate.
            _ => Vec::new(),
        };
        if !fields.is_empty() {
            self.events.tell(Kind::Vrrp, at, &fields);
        }
        if let Some((instance, gave_way, is_master)) = changed {
            self.follow_handover(&instance, gave_way, is_master).await;
        }
        let lost = self.failover.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let cause = format!("{lost} events were lost");
            let fields = [("event", "lost".into()), ("cause", cause.into())];
            self.events.tell(Kind::Vrrp, now, &fields);
        }
    }
}

fn instance(status: &linux::Status) -> status::Instance {
    let since = SystemTime::now().duration_since(status.since).unwrap_or_default();
    status::Instance {
        name: status.name.clone(),
        interface: status.interface.clone(),
        vrid: status.vrid.get(),
        version: match status.version {
            Version::V2 => 2,
            Version::V3 => 3,
        },
        state: status.state.as_str().to_owned(),
        cause: status.cause.to_owned(),
        reason: status.reason.clone(),
        priority: status.priority,
        effective_priority: status.effective_priority,
        addresses: status.addresses.iter().map(ToString::to_string).collect(),
        master: status.master.map(|master| master.to_string()),
        since: humantime::format_rfc3339_millis(status.since).to_string(),
        since_seconds: since.as_secs_f64(),
        transitions: status.transitions,
        realtime: status.realtime,
        heard: status
            .heard
            .iter()
            .map(|heard| status::Heard {
                address: heard.address.to_string(),
                priority: heard.priority,
                ago_seconds: heard.ago.as_secs_f64(),
                adverts: heard.adverts,
            })
            .collect(),
        advert_errors: status.counts.flaws.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect(),
        last_advert_error: status.last_flaw.as_ref().map(advert_error),
    }
}

fn advert_error(last: &linux::LastFlaw) -> status::AdvertError {
    let (received, expected) =
        last.texts.clone().map(|texts| (texts.received, texts.expected)).unzip();
    let at = SystemTime::now().checked_sub(last.ago).unwrap_or(SystemTime::UNIX_EPOCH);
    status::AdvertError {
        reason: last.reason.to_owned(),
        refused: last.refused,
        from: last.from.to_string(),
        time: humantime::format_rfc3339_millis(at).to_string(),
        ago_seconds: last.ago.as_secs_f64(),
        received,
        expected,
    }
}

impl From<linux::Error> for Failure {
    fn from(error: linux::Error) -> Self {
        let what = "VRRP".to_owned();
        match error {
            linux::Error::Settings(error) => Self::Material(format!("{what}: {error}")),
            linux::Error::Capability { .. } => Self::System {
                what,
                source: io::Error::new(io::ErrorKind::PermissionDenied, error.to_string()),
                hint: " (run as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)"
                    .to_owned(),
            },
            linux::Error::System { what: tried, source } => Self::System {
                what: format!("{what}: cannot {tried}"),
                source,
                hint: String::new(),
            },
            error => Self::system(what)(io::Error::other(error.to_string())),
        }
    }
}

/// Takes from a thread of VRRP what it does not need.
fn confine(role: Role) {
    let role = match role {
        Role::Driver => sandbox::Role::Vrrp,
        Role::Keeper => sandbox::Role::Keeper,
        Role::Links => sandbox::Role::Links,
        Role::Events => sandbox::Role::Events,
        Role::Notify => sandbox::Role::Notify,
    };
    // The addresses are better held by a thread with too many privileges than by nobody.
    if let Err(error) = sandbox::enter(role) {
        tracing::error!(?role, "a thread of VRRP keeps its privileges: {error}");
    }
}
