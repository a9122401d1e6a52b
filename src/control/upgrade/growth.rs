//! What is counted while the process before drains, and what it tells of that at its end.

use super::message::{Counts, Growth, Message};
use super::{GROWTH, News, Stage, Whom};
use crate::control::*;
use crate::metrics::histograms;

impl Control {
    /// All that has been counted and measured so far.
    pub(super) fn counts(&self) -> Counts {
        self.registry.upkeep();
        Counts { totals: self.count(), histograms: self.registry.histograms() }
    }

    /// Tells the heir what has been counted since it was told last.
    pub(super) fn tell_heir(&mut self) {
        let counts = self.counts();
        let (connections, previous) = (self.workers.crew.connections(), self.upgrades.previous());
        let Some(heir) = &mut self.upgrades.heir else { return };
        heir.stage = Stage::Serves(Instant::now() + GROWTH);
        // What does not go now goes with the next.
        let growth = Growth {
            totals: counts.totals.since(&heir.told.totals),
            histograms: histograms::growth(&counts.histograms, &heir.told.histograms),
            connections,
            previous,
        };
        if heir.link.has_room() && heir.link.say(Message::Growth(growth)) {
            heir.told = counts;
        }
    }

    /// The process before this one has said something.
    pub(super) fn heard_elder(&mut self, message: Message) {
        match message {
            Message::Growth(Growth { totals, histograms, connections, previous }) => {
                self.add(&totals);
                self.registry.add_histograms(&histograms);
                let moved = self.upgrades.elder.as_mut().is_some_and(|elder| {
                    let moved = elder.connections != connections || !totals.is_empty();
                    (elder.connections, elder.previous) = (connections, previous);
                    moved
                });
                if moved && self.upgrades.successor().is_some() {
                    self.tell_heir();
                }
            }
            Message::Retired => {
                self.systemd.ready(&format!("upgraded to {}", env!("CARGO_PKG_VERSION")));
            }
            Message::Reload => self.upgrades.reload_later(),
            // Said before, or of a later version.
            _ => {}
        }
    }

    /// Before the end: what the last connections counted, and those of processes before this one,
    /// which have nobody else to tell it to.
    pub(in crate::control) async fn tell_the_last(&mut self, is_hurried: bool) {
        if self.upgrades.successor().is_none() {
            return;
        }
        self.tell_heir();
        while self.upgrades.elder.is_some() && !is_hurried {
            let news = tokio::select! {
                news = self.upgrades.next() => news,
                () = either(&mut self.signals.terminate, &mut self.signals.interrupt) => break,
            };
            match news {
                News::Said(Whom::Elder, message) => self.heard_elder(*message),
                News::Gone(Whom::Elder) => self.upgrades.elder = None,
                News::Gone(Whom::Heir(_)) => break,
                News::Said(Whom::Heir(_), _) | News::Ended(..) => {}
            }
        }
        self.tell_heir();
        if let Some(heir) = &self.upgrades.heir {
            // Who does not listen any more does not miss it.
            let _ = tokio::time::timeout(GROWTH, heir.link.flush()).await;
        }
    }
}
