//! Giving the floating addresses away on purpose: by a handover, and while the node is drained.
//!
//! Both hold this gateway back: a weight takes its priority down to 1, so that whoever else is there is
//! preferred, and nobody who is there is missed. An instance that has the addresses offers them besides
//! (`Vrrp::offer`), for a peer that does not preempt would not take them. They stay
//! until another router speaks, so that they are never lost.
//!
//! A handover ends by `lockgate handover --back`, and for each instance by itself when it becomes
//! master again, which can only be because nobody else is there any more. A drain ends when an
//! operator says so. Both are kept over a restart.

use std::collections::BTreeSet;

use super::*;
use crate::admin::order::{HandedOver, HandedOverInstance, Handover, Refusal, RefusalKind, Reply};
use crate::config::plan::vrrp::OWNER;

/// What takes any priority down to 1.
const WEIGHT: i16 = -255;

/// Names of what holds an instance back, as its status shows them.
const BY_HANDOVER: &str = "handover";
const BY_DRAIN: &str = "drain";

/// A peer has to be heard within two intervals and this.
const PATIENCE: Duration = Duration::from_millis(500);

/// Handovers, those under way and those in force.
#[derive(Debug, Default)]
pub(super) struct Handovers {
    /// Instances that are held back.
    held: BTreeSet<String>,
    pending: Option<Pending>,
}

/// How a handover has begun.
enum Begun {
    /// It is over already.
    Done(HandedOver),
    /// These instances have offered their addresses, and are to be heard of until then.
    Offered { all: Vec<String>, until: Instant },
}

/// A handover that waits for the peer.
#[derive(Debug)]
struct Pending {
    who: String,
    /// Instances that had the addresses when it began.
    all: Vec<String>,
    /// Those that still have.
    left: BTreeSet<String>,
    until: Instant,
    force: bool,
    reply: Reply<HandedOver>,
}

impl Control {
    /// Offers the floating addresses to the peer; the answer goes to `reply` when it is known.
    pub(super) async fn hand_over(
        &mut self,
        who: &str,
        wanted: Handover,
        reply: Reply<HandedOver>,
    ) {
        let begun = match wanted.back {
            true => self.take_back(who).await.map(Begun::Done),
            false => self.begin_to_hand_over(who, wanted.force).await,
        };
        // Who ordered may have gone away.
        match begun {
            Ok(Begun::Done(done)) => drop(reply.send(Ok(done))),
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(Begun::Offered { all, until }) => {
                let (who, force) = (who.to_owned(), wanted.force);
                let left = all.iter().cloned().collect();
                self.handovers.pending = Some(Pending { who, all, left, until, force, reply });
            }
        }
    }

    async fn begin_to_hand_over(&mut self, who: &str, force: bool) -> Result<Begun, Refusal> {
        let conflict = |error: &str| Refusal::new(RefusalKind::Conflict, error);
        self.refuse_orders_when_stopping()?;
        if self.world.plan.vrrp.is_empty() {
            return Err(conflict("there are no floating addresses: no [[vrrp]] is configured"));
        }
        if self.handovers.pending.is_some() {
            return Err(conflict("another handover is under way"));
        }
        let here = self.failover.masters();
        if here.is_empty() && !force {
            let mut done = self.handed_over(&[]);
            done.notes
                .push("no floating address is here: there is nothing to hand over".to_owned());
            return Ok(Begun::Done(done));
        }
        if let Some(owner) = here.iter().find(|instance| instance.priority == OWNER) {
            return Err(conflict(&format!(
                "{} owns its addresses (priority 255): an owner takes them back whatever it is told",
                owner.name
            )));
        }
        let mut kept = self.state.kept.clone();
        kept.handover = Some(status::NodeDrain {
            who: who.to_owned(),
            since: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        });
        self.keep(kept).await?;
        let all: Vec<String> = here.into_iter().map(|instance| instance.name).collect();
        let of_plan = self.world.plan.vrrp.iter().filter(|vrrp| all.contains(&vrrp.name));
        let longest = of_plan.map(|vrrp| vrrp.advert_interval).max().unwrap_or_default();
        self.handovers.held = self.world.plan.vrrp.iter().map(|vrrp| vrrp.name.clone()).collect();
        self.hold_back();
        all.iter().for_each(|name| self.failover.offer(name));
        Ok(Begun::Offered { all, until: Instant::now() + 2 * longest + PATIENCE })
    }

    async fn take_back(&mut self, who: &str) -> Result<HandedOver, Refusal> {
        self.refuse_orders_when_stopping()?;
        let was = self.state.kept.handover.is_some();
        let mut kept = self.state.kept.clone();
        kept.handover = None;
        self.keep(kept).await?;
        self.handovers.held.clear();
        self.hold_back();
        let mut done = self.handed_over(&[]);
        if was {
            self.tell_of_order(who, "handover", "handed over", "ended", &[]);
            let note = "this gateway takes part with its own priority again";
            done.notes.push(note.to_owned());
        } else {
            done.notes.push("nothing was handed over".to_owned());
        }
        Ok(done)
    }

    /// Tells VRRP what holds this gateway back, and that nothing else does.
    pub(super) fn hold_back(&mut self) {
        if self.state.kept.handover.is_none() {
            self.handovers.held.clear();
        }
        let drained = self.state.kept.drain.is_some();
        for vrrp in &self.world.plan.vrrp {
            let weight = |holds: bool| if holds { WEIGHT } else { 0 };
            self.failover.weigh(&vrrp.name, BY_DRAIN, weight(drained));
            let held = self.handovers.held.contains(&vrrp.name);
            self.failover.weigh(&vrrp.name, BY_HANDOVER, weight(held));
        }
    }

    /// The same at the start, when nothing but the state file knows of a handover.
    pub(super) fn hold_back_as_before(&mut self) {
        if let Some(since) = &self.state.kept.handover {
            tracing::warn!(who = since.who, since = since.since, "handed over, as it was before");
            self.handovers.held =
                self.world.plan.vrrp.iter().map(|vrrp| vrrp.name.clone()).collect();
        }
        if let Some(since) = &self.state.kept.drain {
            tracing::warn!(
                who = since.who,
                since = since.since,
                "the node is drained, as it was before"
            );
        }
        self.hold_back();
    }

    /// An instance has changed its state. `gave_way`: from master to backup, as somebody else was heard;
    /// one that cannot run any more has not handed anything over.
    pub(super) async fn follow_handover(
        &mut self,
        instance: &str,
        gave_way: bool,
        is_master: bool,
    ) {
        if let Some(pending) = &mut self.handovers.pending {
            if gave_way {
                pending.left.remove(instance);
            }
            if pending.left.is_empty() {
                self.end_handover().await;
            }
        } else if is_master && self.handovers.held.remove(instance) {
            tracing::info!(instance, "nobody else has the addresses: the handover has ended");
            if self.handovers.held.is_empty() {
                let mut kept = self.state.kept.clone();
                kept.handover = None;
                // What cannot be written now is written with the next change; it has been told.
                let _ = self.keep(kept).await;
            }
            self.hold_back();
            let before = format!("{instance} handed over");
            self.tell_of_order("lockgate", "handover", &before, "ended: nobody else is there", &[]);
        }
    }

    /// When [`Control::give_up_handover`] has something to do.
    pub(super) fn next_handover(&self) -> Option<Instant> {
        self.handovers.pending.as_ref().map(|pending| pending.until)
    }

    /// Ends a handover that nobody has answered.
    pub(super) async fn give_up_handover(&mut self, now: Instant) {
        if self.handovers.pending.as_ref().is_some_and(|pending| pending.until <= now) {
            self.end_handover().await;
        }
    }

    async fn end_handover(&mut self) {
        let Some(Pending { who, all, left, force, reply, .. }) = self.handovers.pending.take()
        else {
            return;
        };
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
        let answer = if left.is_empty() || force {
            let mut done = self.handed_over(&all);
            if !left.is_empty() {
                done.notes.push(format!(
                    "nobody has taken the addresses of {}: they stay here until a peer does",
                    list(&left)
                ));
            }
            done.notes.push("until `lockgate handover --back`, or the peer goes away".to_owned());
            self.tell_of_order(&who, "handover", "master", "handed over", &[]);
            Ok(done)
        } else {
            let mut kept = self.state.kept.clone();
            kept.handover = None;
            // What cannot be written now is written with the next change; it has been told.
            let _ = self.keep(kept).await;
            self.state.kept.handover = None;
            self.hold_back();
            self.tell_of_order(&who, "handover", "master", "refused: no peer answers", &[]);
            Err(Refusal::new(
                RefusalKind::Conflict,
                format!(
                    "no peer has taken the addresses of {}: they stay here (--force holds this \
                     gateway back all the same)",
                    list(&left)
                ),
            ))
        };
        // Who ordered may have gone away.
        drop(reply.send(answer));
    }

    fn handed_over(&self, names: &[String]) -> HandedOver {
        let instances = self.failover.instances().into_iter();
        let instances = instances
            .filter(|instance| names.contains(&instance.name))
            .map(|instance| HandedOverInstance {
                name: instance.name,
                state: instance.state,
                master: instance.master,
                addresses: instance.addresses,
            })
            .collect();
        HandedOver { instances, notes: Vec::new() }
    }
}
