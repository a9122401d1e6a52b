//! From one process to the next, in an upgrade: the instances go on where they were.

use std::time::Duration;

use lockgate_vrrp::linux::{self, State};

use super::super::Failure;
use super::super::tally::Totals;
use super::settings::settings;
use super::{Failover, Legacy};
use crate::config::plan;

/// How long the next process may take to say that it has everything. It sends adverts before that; if
/// it stands still instead, a backup takes over, as it should.
const HAND_OVER: Duration = Duration::from_secs(1);

impl Failover {
    /// Makes the instances of this plan ready to go on where another process was.
    pub(in crate::control) fn prepare(
        &mut self,
        plan: &plan::Plan,
        node: Option<&plan::Node>,
    ) -> Result<(), Failure> {
        let wanted = settings(plan, node)?;
        if !wanted.is_empty() {
            self.running = Some(linux::succeed(wanted, self.options())?);
        }
        self.follow_plan(plan);
        Ok(())
    }

    /// Which instances these are, for the process that hands them on.
    pub(in crate::control) fn identities(
        plan: &plan::Plan,
        node: Option<&plan::Node>,
    ) -> Result<Vec<String>, Failure> {
        Ok(settings(plan, node)?.iter().map(linux::identity).collect())
    }

    /// Goes on where another process was; without a legacy it is gone, and all begins anew.
    pub(in crate::control) fn adopt(&mut self, legacy: Option<Legacy>) -> Result<(), Failure> {
        if let Some(vrrp) = &self.running {
            vrrp.adopt(legacy)?;
        }
        Ok(())
    }

    /// Lets the next process go on with the instances of these identities, and gives up all others.
    /// What it needs for that, and how long it may take.
    pub(in crate::control) fn let_go(
        &mut self,
        wanted: Vec<String>,
    ) -> Result<(Option<Legacy>, Duration), Failure> {
        let Some(vrrp) = &self.running else { return Ok((None, 5 * HAND_OVER)) };
        let legacy = vrrp.let_go(wanted)?;
        self.is_let_go = true;
        Ok((Some(legacy), HAND_OVER))
    }

    /// The next process does not go on after all.
    pub(in crate::control) fn take_back(&mut self) {
        if let Some(vrrp) = self.running.as_ref().filter(|_| std::mem::take(&mut self.is_let_go)) {
            vrrp.take_back();
            tracing::info!("VRRP goes on here");
        }
    }

    /// The next process has gone on.
    pub(in crate::control) fn leave(&mut self) {
        if let Some(vrrp) = self.running.take() {
            vrrp.leave();
        }
    }

    /// Adds what has been counted to what the next process is told. The rest is with the instances.
    pub(in crate::control) fn count(&self, totals: &mut Totals) {
        for ((instance, to), count) in &self.transitions {
            totals.set(&["transitions", instance, to], [("made".to_owned(), *count)].into());
        }
    }

    /// Adds what a process before this one has counted.
    pub(in crate::control) fn add(&mut self, totals: &Totals, plan: &plan::Plan) {
        for vrrp in &plan.vrrp {
            for to in [State::Init, State::Backup, State::Master].map(State::as_str) {
                let count = totals.one(&["transitions", &vrrp.name, to], "made");
                *self.transitions.entry((vrrp.name.clone(), to)).or_default() += count;
            }
        }
    }
}
