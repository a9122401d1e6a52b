//! How well a backend is, and what weight it deserves for that.
//!
//! [`Vitals`] is one backend, [`Ward`] the backends of a pool with the rules that concern all of
//! them. Both are pure: the control plane tells them what happened and when, and writes the
//! weights that they answer with. Probing lives in [`crate::control`].

mod vitals;

use std::ops::Range;
use std::time::Instant;

pub use vitals::{Admin, Checks, Event, Passive, Settings, State, Vitals};

/// Rules of a pool as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Largest share of the members that may be ejected, in percent. The last usable member never
    /// is.
    pub max_ejected: u8,
    /// When no member is usable for reasons of health, send to all of them at their weight.
    pub try_all: bool,
}

/// A change of state, to be told to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Index of the member.
    pub member: usize,
    /// State before.
    pub from: State,
    /// State now.
    pub to: State,
    /// Why.
    pub reason: String,
}

/// The members of a pool.
#[derive(Debug)]
pub struct Ward {
    rules: Rules,
    members: Vec<Vitals>,
    /// Not later than time alone changes something about any member.
    due: Option<Instant>,
}

impl Ward {
    /// A ward of these members.
    pub fn new(rules: Rules, members: Vec<Vitals>, now: Instant) -> Self {
        let due = earliest(&members, now);
        Self { rules, members, due }
    }

    /// The members, in the order given to [`Ward::new`].
    pub fn members(&self) -> &[Vitals] {
        &self.members
    }

    /// Gives up the members, for the next generation of the pool.
    pub fn into_members(self) -> Vec<Vitals> {
        self.members
    }

    /// Tells a member what happened. The weights of [`Ward::concerned`] may change by it.
    pub fn handle(&mut self, member: usize, event: Event, now: Instant) -> Option<Transition> {
        let ejectable = matches!(event, Event::ConnectFailed(_)) && self.may_eject(member, now);
        let vitals = &mut self.members[member];
        let from = vitals.state();
        vitals.handle(event, ejectable, now);
        let to = vitals.state();
        self.due = self.due.into_iter().chain(vitals.poll_timeout(now)).min();
        (from != to).then(|| Transition { member, from, to, reason: vitals.reason().to_owned() })
    }

    /// Lets time pass for all members.
    pub fn tick(&mut self, now: Instant) -> Vec<Transition> {
        let transitions = (0..self.members.len())
            .filter_map(|member| self.handle(member, Event::Tick, now))
            .collect();
        self.due = earliest(&self.members, now);
        transitions
    }

    /// When [`Ward::tick`] may have something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Whose weights depend on how `member` is.
    pub fn concerned(&self, member: usize) -> Range<usize> {
        if self.rules.try_all { 0..self.members.len() } else { member..member + 1 }
    }

    /// The effective weight of each of `members`, in units of 1/`one`.
    pub fn weights(
        &self,
        members: Range<usize>,
        one: u32,
        now: Instant,
    ) -> impl Iterator<Item = u32> {
        let panic = self.rules.try_all && self.members.iter().all(|m| m.weight(one, now) == 0);
        self.members[members]
            .iter()
            .map(move |m| if panic { m.weight_if_well(one) } else { m.weight(one, now) })
    }

    /// Whether every member has been judged, or never will be.
    pub fn is_settled(&self) -> bool {
        self.members.iter().all(Vitals::is_settled)
    }

    fn may_eject(&self, member: usize, now: Instant) -> bool {
        // Those that are drained as well count: they are ejected when the drain ends.
        let ejected = self.members.iter().filter(|vitals| vitals.is_ejected()).count();
        let another = self
            .members
            .iter()
            .enumerate()
            .any(|(index, vitals)| index != member && vitals.weight(1, now) > 0);
        another && (ejected + 1) * 100 <= self.members.len() * usize::from(self.rules.max_ejected)
    }
}

fn earliest(members: &[Vitals], now: Instant) -> Option<Instant> {
    members.iter().filter_map(|vitals| vitals.poll_timeout(now)).min()
}

#[cfg(test)]
mod tests;
