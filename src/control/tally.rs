//! All that has been counted, as one process tells it the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Control;
use super::compile::World;
use crate::metrics::CheckCounts;
use crate::stats::{Tally, growth};

/// Counts by what they are of: a kind, and names.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(from = "Vec<Row>", into = "Vec<Row>")]
pub(super) struct Totals(BTreeMap<Vec<String>, Tally>);

/// Counts of one thing.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Row {
    of: Vec<String>,
    counts: Tally,
}

impl From<Vec<Row>> for Totals {
    fn from(rows: Vec<Row>) -> Self {
        Self(rows.into_iter().map(|row| (row.of, row.counts)).collect())
    }
}

impl From<Totals> for Vec<Row> {
    fn from(totals: Totals) -> Self {
        totals.0.into_iter().map(|(of, counts)| Row { of, counts }).collect()
    }
}

impl Totals {
    pub(super) fn set(&mut self, of: &[&str], counts: Tally) {
        if !counts.is_empty() {
            self.0.insert(of.iter().map(|name| (*name).to_owned()).collect(), counts);
        }
    }

    pub(super) fn of(&self, of: &[&str]) -> Option<&Tally> {
        // Without making an owned key there is no asking; this is done when processes change.
        let of: Vec<String> = of.iter().map(|name| (*name).to_owned()).collect();
        self.0.get(&of)
    }

    /// One count; 0 if it is not there.
    pub(super) fn one(&self, of: &[&str], name: &str) -> u64 {
        self.of(of).and_then(|tally| tally.get(name)).copied().unwrap_or(0)
    }

    /// What they have grown by since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(of, now)| (of.clone(), growth(now, before.0.get(of))));
        Self(grown.filter(|(_, more)| !more.is_empty()).collect())
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl World {
    fn count(&self, totals: &mut Totals) {
        for listener in &self.snapshot.listeners {
            totals.set(&["listener", &listener.name], listener.meters.stats.tally());
        }
        for ours in &self.pools {
            totals.set(&["pool", &ours.pool.name], ours.pool.stats.tally());
            for member in &ours.members {
                let backend = &member.backend;
                let mut tally = backend.stats.tally();
                let CheckCounts { passed, failed, inconclusive } = member.checks;
                let counts = [
                    (CHECKS_PASSED, passed),
                    (CHECKS_FAILED, failed),
                    (CHECKS_INCONCLUSIVE, inconclusive),
                ];
                for (name, count) in counts {
                    if count > 0 {
                        tally.insert(name.to_owned(), count);
                    }
                }
                totals.set(&["backend", &backend.pool, &backend.name], tally);
            }
        }
    }

    fn add(&mut self, totals: &Totals) {
        for listener in &self.snapshot.listeners {
            if let Some(tally) = totals.of(&["listener", &listener.name]) {
                listener.meters.stats.add(tally);
            }
        }
        for ours in &mut self.pools {
            if let Some(tally) = totals.of(&["pool", &ours.pool.name]) {
                ours.pool.stats.add(tally);
            }
            for member in &mut ours.members {
                let of = ["backend", &*member.backend.pool, &*member.backend.name];
                if let Some(tally) = totals.of(&of) {
                    member.backend.stats.add(tally);
                    let of = |name| tally.get(name).copied().unwrap_or(0);
                    member.checks.passed += of(CHECKS_PASSED);
                    member.checks.failed += of(CHECKS_FAILED);
                    member.checks.inconclusive += of(CHECKS_INCONCLUSIVE);
                }
            }
        }
    }
}

const GATEWAY: &[&str] = &["gateway"];

const CHECKS_PASSED: &str = "checks passed";
const CHECKS_FAILED: &str = "checks failed";
const CHECKS_INCONCLUSIVE: &str = "checks inconclusive";

fn lines_lost(log: &str, reason: &str) -> String {
    format!("lines of {log} lost: {reason}")
}

impl Control {
    /// All that has been counted, by this process and those before it.
    pub(super) fn count(&self) -> Totals {
        let mut totals = Totals::default();
        self.world.count(&mut totals);
        let counts = [
            ("reloads ok", self.reloads.ok),
            ("reloads failed", self.reloads.failed),
            ("renewals ok", self.material.renewals.0),
            ("renewals failed", self.material.renewals.1),
        ];
        let counts = counts.map(|(name, count)| (name.to_owned(), count)).into_iter();
        let lost = self.output.losses().map(|loss| (lines_lost(loss.log, loss.reason), loss.lines));
        totals.set(GATEWAY, counts.chain(lost).filter(|(_, count)| *count > 0).collect());
        self.failover.count(&mut totals);
        totals
    }

    /// Adds what a process before this one has counted.
    pub(super) fn add(&mut self, totals: &Totals) {
        self.world.add(totals);
        self.reloads.ok += totals.one(GATEWAY, "reloads ok");
        self.reloads.failed += totals.one(GATEWAY, "reloads failed");
        self.material.renewals.0 += totals.one(GATEWAY, "renewals ok");
        self.material.renewals.1 += totals.one(GATEWAY, "renewals failed");
        self.output.add_losses(|log, reason| totals.one(GATEWAY, &lines_lost(log, reason)));
        self.failover.add(totals, &self.world.plan);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_came_since_and_nothing_else() {
        let tally = |count| Tally::from([("opened".to_owned(), count)]);
        let (mut before, mut now) = (Totals::default(), Totals::default());
        before.set(&["listener", "a"], tally(3));
        before.set(&["listener", "b"], tally(3));
        now.set(&["listener", "a"], tally(5));
        now.set(&["listener", "b"], tally(3));
        now.set(&["listener", "c"], tally(1));
        let since = now.since(&before);
        assert_eq!(since.one(&["listener", "a"], "opened"), 2);
        assert_eq!(since.of(&["listener", "b"]), None);
        assert_eq!(since.one(&["listener", "c"], "opened"), 1);
        assert!(now.since(&now).is_empty());
        let text = serde_json::to_string(&since).unwrap();
        assert_eq!(serde_json::from_str::<Totals>(&text).unwrap(), since);
    }
}
