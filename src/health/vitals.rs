//! One backend: checks, ejection, slow start, and what the operator wants.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// An ejection lasts at most this many times `eject_for`.
const LONGEST_EJECTION: u32 = 10;

/// A ramp begins at one of this many steps and climbs one at a time.
const RAMP_STEPS: u32 = 20;

const FIRST_CHECK_PENDING: &str = "first check pending";

const NAME_PENDING: &str = "name not resolved yet";

/// What is configured for one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Configured weight.
    pub weight: u16,
    /// Active checks; `None` = none.
    pub checks: Option<Checks>,
    /// What live traffic says; `None` = not listened to.
    pub passive: Option<Passive>,
    /// How long a backend that came up takes to reach its weight.
    pub slow_start: Duration,
}

/// When active checks turn a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Successes in a row that make a backend up.
    pub rise: u32,
    /// Failures in a row that make it down.
    pub fall: u32,
    /// Time between checks.
    pub interval: Duration,
    /// The same while a verdict is pending.
    pub fast_interval: Duration,
}

/// When failures of live traffic eject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// Failures within `window` that eject.
    pub max_fails: u32,
    /// How far back failures count.
    pub window: Duration,
    /// The first ejection; each further one lasts twice as long, up to ten times this.
    pub eject_for: Duration,
}

/// What can happen to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An active check succeeded.
    CheckPassed,
    /// An active check failed, for this cause.
    CheckFailed(String),
    /// An active check came to nothing, for a cause that lies with this host: it neither passed nor
    /// failed, and is to be made again.
    CheckInconclusive(String),
    /// A connection of a client could not be made, for this cause.
    ConnectFailed(String),
    /// The name has an address.
    Resolved,
    /// The name could not be resolved, for this cause; ignored if it once could.
    Unresolved(String),
    /// The operator's wish.
    Admin(Admin),
    /// Nothing but time.
    Tick,
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Ordinary service.
    Enabled,
    /// No new connections; the present ones go on.
    Draining,
    /// No new connections, and no checks that matter.
    Disabled,
}

/// What a backend is called in status and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Checks pass.
    Up,
    /// Checks fail, or its name has no address.
    Down,
    /// The operator lets it run empty.
    Draining,
    /// The operator took it out.
    Disabled,
    /// Live traffic failed too often.
    Ejected,
    /// Up, on the way to its full weight.
    Starting,
    /// Not checked, or not yet.
    Unchecked,
}

impl State {
    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Ejected => "ejected",
            Self::Starting => "starting",
            Self::Unchecked => "unchecked",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether there is an address to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// There is, or there was and it still counts.
    Resolved,
    /// The first answer is on its way.
    Pending,
    /// There is none.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// No check has ended yet; the first one decides alone.
    Unknown,
    Up,
    Down,
}

/// The state of one backend.
#[derive(Debug)]
pub struct Vitals {
    settings: Settings,
    admin: Admin,
    name: Name,
    verdict: Verdict,
    /// Checks in a row that spoke against the verdict.
    contrary: u32,
    /// Checks in a row that passed since it was ejected. Counted apart: an ejected backend can come
    /// back early or go down, and either takes checks in a row of its own kind.
    recovering: u32,
    /// Live traffic failed since the last check, or that one came to nothing.
    suspect: bool,
    /// Failures of live traffic, the oldest first; at most `max_fails`.
    failures: VecDeque<Instant>,
    /// Only of one whose checks do not say that it is down: that verdict ends an ejection.
    ejected_until: Option<Instant>,
    last_ejection: Option<Ejection>,
    ramp_since: Option<Instant>,
    /// Its first rise is a slow start.
    newcomer: bool,
    /// Why it is as it is. Each kind of cause has its own: what happens to a backend that is, say,
    /// drained must not become the reason of the drain, nor be forgotten when that ends.
    reasons: Reasons,
    since: Instant,
}

#[derive(Debug)]
struct Reasons {
    /// Why its name is not resolved.
    name: String,
    /// Why its checks say that it is down.
    verdict: String,
    /// Why it was ejected.
    ejection: String,
    /// What happened last of that which lets it serve, or what is awaited.
    latest: String,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    end: Instant,
    length: Duration,
}

impl Vitals {
    /// A backend nothing is known of. `named`: its name has yet to be resolved. `newcomer`: it
    /// joins a pool that is in service already, so its first rise is a slow start.
    pub fn new(settings: Settings, named: bool, newcomer: bool, now: Instant) -> Self {
        let ramps_now = newcomer && !named && settings.checks.is_none();
        let reason = match (&settings.checks, named) {
            (_, true) => NAME_PENDING,
            (Some(_), false) => FIRST_CHECK_PENDING,
            (None, false) => "no checks",
        };
        let mut vitals = Self {
            settings,
            admin: Admin::Enabled,
            name: if named { Name::Pending } else { Name::Resolved },
            verdict: Verdict::Unknown,
            contrary: 0,
            recovering: 0,
            suspect: false,
            failures: VecDeque::new(),
            ejected_until: None,
            last_ejection: None,
            ramp_since: None,
            newcomer,
            reasons: Reasons {
                name: NAME_PENDING.to_owned(),
                verdict: String::new(),
                ejection: String::new(),
                latest: reason.to_owned(),
            },
            since: now,
        };
        if ramps_now {
            vitals.came_up(now);
        }
        vitals
    }

    /// Takes over new settings; what is known of the backend stays, except where the new settings
    /// no longer ask for it.
    pub fn reconfigure(&mut self, settings: Settings) {
        if settings.checks.is_none() && self.settings.checks.is_some() {
            self.verdict = Verdict::Unknown;
            self.contrary = 0;
            self.recovering = 0;
            self.reasons.latest = "no checks".to_owned();
        } else if settings.checks.is_some() && self.settings.checks.is_none() {
            // It served without checks: it goes on until checks say otherwise.
            self.verdict = Verdict::Up;
            self.reasons.latest = FIRST_CHECK_PENDING.to_owned();
        }
        if settings.passive.is_none() {
            self.failures.clear();
            if self.ejected_until.take().is_some() {
                self.reasons.latest = "no passive checks any more".to_owned();
            }
        }
        if settings.slow_start.is_zero() {
            self.ramp_since = None;
        }
        self.settings = settings;
    }

    /// Tells what happened. `ejectable`: the rules of the pool allow an ejection now.
    pub(super) fn handle(&mut self, event: Event, ejectable: bool, now: Instant) {
        let before = self.state();
        self.pass_time(now);
        match event {
            Event::CheckPassed => self.checked(None, now),
            Event::CheckFailed(cause) => self.checked(Some(cause), now),
            Event::CheckInconclusive(cause) if self.settings.checks.is_some() => {
                self.suspect = true;
                if self.verdict == Verdict::Unknown {
                    self.reasons.latest = format!("{FIRST_CHECK_PENDING}: {cause}");
                }
            }
            Event::CheckInconclusive(_) => {}
            Event::ConnectFailed(cause) => self.failed(cause, ejectable, now),
            Event::Resolved if self.name == Name::Resolved => {}
            Event::Resolved => {
                let late = self.name == Name::Failed || self.newcomer;
                if late && self.settings.checks.is_none() {
                    self.came_up(now);
                }
                self.name = Name::Resolved;
                self.reasons.latest = "name resolved".to_owned();
            }
            // The last good answer counts for ever.
            Event::Unresolved(_) if self.name == Name::Resolved => {}
            Event::Unresolved(cause) => {
                self.name = Name::Failed;
                self.reasons.name = cause;
            }
            Event::Admin(admin) if admin != self.admin => {
                self.admin = admin;
                if admin == Admin::Enabled {
                    self.reasons.latest = "enabled by the operator".to_owned();
                    self.came_up(now);
                }
            }
            Event::Admin(_) => {}
            Event::Tick => {}
        }
        if self.state() != before {
            self.since = now;
        }
    }

    fn checked(&mut self, failure: Option<String>, now: Instant) {
        let Some(checks) = self.settings.checks else {
            return;
        };
        self.suspect = false;
        match (self.verdict, failure) {
            (Verdict::Unknown, None) => {
                self.verdict = Verdict::Up;
                self.reasons.latest = "first check passed".to_owned();
                if self.newcomer {
                    self.came_up(now);
                }
                self.recover(checks.rise, now);
            }
            (Verdict::Unknown, Some(cause)) => {
                self.went_down(format!("first check failed: {cause}"), now);
            }
            (Verdict::Up, None) => {
                self.contrary = 0;
                if self.reasons.latest.starts_with(FIRST_CHECK_PENDING) {
                    self.reasons.latest = "first check passed".to_owned();
                }
                self.recover(checks.rise, now);
            }
            (Verdict::Down, None) => {
                self.contrary += 1;
                if self.contrary >= checks.rise {
                    self.contrary = 0;
                    self.verdict = Verdict::Up;
                    self.failures.clear();
                    self.reasons.latest = format!("{} passed", count(checks.rise));
                    self.came_up(now);
                }
            }
            (Verdict::Up, Some(cause)) => {
                self.recovering = 0;
                self.contrary += 1;
                if self.contrary >= checks.fall {
                    self.went_down(format!("{} failed: {cause}", count(checks.fall)), now);
                }
            }
            (Verdict::Down, Some(_)) => self.contrary = 0,
        }
    }

    /// A check has passed: enough of them in a row end an ejection.
    fn recover(&mut self, rise: u32, now: Instant) {
        if self.ejected_until.is_none() {
            return;
        }
        self.recovering += 1;
        if self.recovering >= rise {
            self.end_ejection(format!("{} passed", count(rise)), now);
        }
    }

    /// Its checks say that it is down. That outlasts any ejection: only they bring it back.
    fn went_down(&mut self, reason: String, now: Instant) {
        self.verdict = Verdict::Down;
        self.contrary = 0;
        self.failures.clear();
        self.forget_ejection(now);
        self.ramp_since = None;
        self.reasons.verdict = reason;
    }

    fn failed(&mut self, cause: String, ejectable: bool, now: Instant) {
        self.suspect = true;
        let Some(passive) = self.settings.passive else {
            return;
        };
        // One that is out already is not counted: what fails now was under way before, or was sent
        // there for want of anything better.
        if self.ejected_until.is_some() || self.verdict == Verdict::Down {
            return;
        }
        self.failures.push_back(now);
        while self.failures.len() > passive.max_fails as usize
            || self.failures.front().is_some_and(|&first| now - first > passive.window)
        {
            self.failures.pop_front();
        }
        if self.failures.len() < passive.max_fails as usize || !ejectable {
            return;
        }
        let longest = passive.eject_for * LONGEST_EJECTION;
        let length = match self.last_ejection {
            // One that has been well for as long as it was out begins anew.
            Some(last) if now - last.end <= last.length.max(passive.window) => {
                (last.length * 2).min(longest)
            }
            _ => passive.eject_for,
        };
        self.failures.clear();
        self.recovering = 0;
        self.ramp_since = None;
        self.ejected_until = Some(now + length);
        self.last_ejection = Some(Ejection { end: now + length, length });
        self.reasons.ejection = format!(
            "{} failed connections within {:?}: {cause}; out for {length:?}",
            passive.max_fails, passive.window
        );
    }

    fn pass_time(&mut self, now: Instant) {
        if self.ejected_until.is_some_and(|end| end <= now) {
            self.end_ejection("ejection over".to_owned(), now);
            // On probation: a single failure within the window sends it out again.
            if let Some(passive) = self.settings.passive {
                self.failures.extend((1..passive.max_fails).map(|_| now));
            }
        }
        if self.ramp_since.is_some_and(|since| now >= since + self.settings.slow_start) {
            if self.state() == State::Starting {
                self.reasons.latest = "slow start done".to_owned();
            }
            self.ramp_since = None;
        }
    }

    fn end_ejection(&mut self, reason: String, now: Instant) {
        self.forget_ejection(now);
        self.reasons.latest = reason;
        self.came_up(now);
    }

    fn forget_ejection(&mut self, now: Instant) {
        self.recovering = 0;
        if self.ejected_until.take().is_some()
            && let Some(last) = &mut self.last_ejection
        {
            last.end = last.end.min(now);
        }
    }

    fn came_up(&mut self, now: Instant) {
        self.newcomer = false;
        if !self.settings.slow_start.is_zero() {
            self.ramp_since = Some(now);
        }
    }

    /// What it is called.
    pub fn state(&self) -> State {
        match self.admin {
            Admin::Disabled => return State::Disabled,
            Admin::Draining => return State::Draining,
            Admin::Enabled => {}
        }
        if self.name == Name::Failed || self.verdict == Verdict::Down {
            State::Down
        } else if self.name == Name::Pending {
            State::Unchecked
        } else if self.ejected_until.is_some() {
            State::Ejected
        } else if self.settings.checks.is_some() && self.verdict == Verdict::Unknown {
            State::Unchecked
        } else if self.ramp_since.is_some() {
            State::Starting
        } else if self.verdict == Verdict::Up {
            State::Up
        } else {
            State::Unchecked
        }
    }

    /// Whether nothing speaks against it but, perhaps, a weight of 0.
    pub fn is_well(&self) -> bool {
        match self.state() {
            State::Up | State::Starting => true,
            State::Unchecked => self.settings.checks.is_none() && self.name == Name::Resolved,
            State::Down | State::Draining | State::Disabled | State::Ejected => false,
        }
    }

    /// Why it is in this state.
    pub fn reason(&self) -> &str {
        match self.state() {
            State::Disabled => "disabled by the operator",
            State::Draining => "drained by the operator",
            State::Down if self.name == Name::Failed => &self.reasons.name,
            State::Down => &self.reasons.verdict,
            State::Ejected => &self.reasons.ejection,
            State::Unchecked if self.name == Name::Pending => &self.reasons.name,
            State::Unchecked | State::Starting | State::Up => &self.reasons.latest,
        }
    }

    /// Whether its checks say that it is down, whatever else is the case.
    pub fn is_down_by_checks(&self) -> bool {
        self.verdict == Verdict::Down
    }

    /// Whether it is ejected, whatever else keeps it from serving.
    pub fn is_ejected(&self) -> bool {
        self.ejected_until.is_some()
    }

    /// When it entered this state.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Effective weight in units of 1/`one`.
    pub fn weight(&self, one: u32, now: Instant) -> u32 {
        let full = self.weight_if_well(one);
        match self.state() {
            State::Up => full,
            // One that awaits its first check takes nothing; one that is never checked does, once
            // its name is resolved.
            State::Unchecked if self.settings.checks.is_none() => full,
            State::Starting if full > 0 => {
                let share = u64::from(full) * u64::from(self.ramp(now)) / u64::from(RAMP_STEPS);
                u32::try_from(share).unwrap_or(full).max(1)
            }
            State::Unchecked
            | State::Starting
            | State::Down
            | State::Draining
            | State::Disabled
            | State::Ejected => 0,
        }
    }

    /// The weight it would have if nothing but the operator's wish counted.
    pub(super) fn weight_if_well(&self, one: u32) -> u32 {
        match self.admin {
            Admin::Enabled if self.name == Name::Resolved => u32::from(self.settings.weight) * one,
            Admin::Enabled | Admin::Draining | Admin::Disabled => 0,
        }
    }

    /// The step of the ramp it is on, of [`RAMP_STEPS`].
    fn ramp(&self, now: Instant) -> u32 {
        let Some(since) = self.ramp_since else {
            return RAMP_STEPS;
        };
        let passed = now.saturating_duration_since(since).as_nanos();
        let step = passed * u128::from(RAMP_STEPS) / self.settings.slow_start.as_nanos().max(1);
        u32::try_from(step + 1).unwrap_or(RAMP_STEPS).min(RAMP_STEPS)
    }

    /// How long to wait before the next active check; `None` = there are none.
    pub fn check_interval(&self) -> Option<Duration> {
        let checks = self.settings.checks?;
        let pending = self.contrary > 0
            || self.suspect
            || self.ejected_until.is_some()
            || self.verdict == Verdict::Unknown;
        Some(if pending { checks.fast_interval } else { checks.interval })
    }

    /// When time alone changes something; never before `now`, at which [`Event::Tick`] has been.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let step = self.settings.slow_start / RAMP_STEPS;
        let ramp = self.ramp_since.map(|since| since + step * self.ramp(now));
        [self.ejected_until, ramp].into_iter().flatten().min().map(|at| at.max(now))
    }

    /// Whether it has been judged, or never will be.
    pub fn is_settled(&self) -> bool {
        let checked = self.settings.checks.is_none() || self.verdict != Verdict::Unknown;
        match (self.admin, self.name) {
            (Admin::Draining | Admin::Disabled, _) | (_, Name::Failed) => true,
            (Admin::Enabled, Name::Pending) => false,
            (Admin::Enabled, Name::Resolved) => checked,
        }
    }
}

fn count(checks: u32) -> String {
    if checks == 1 { "1 check".to_owned() } else { format!("{checks} checks in a row") }
}
