//! What is the case with virtual routers, in the words of [`super::Status`].

use std::time::SystemTime;

use super::voice::{Voice, state};
use super::{Counts, Heard, LastFlaw, Status};
use crate::instance::{Cause, Role};
use crate::router::{Router, VirtualRouter};
use crate::settings::Settings;
use crate::types::Moment;

/// What is the case.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// With each virtual router.
    pub routers: Vec<Status>,
    /// With packets for none.
    pub strays: Vec<(&'static str, u64)>,
}

/// What is the case now. `trouble`: why the addresses may not be here.
pub fn report(
    router: &Router,
    voice: &Voice,
    trouble: Option<&str>,
    realtime: bool,
    now: Moment,
) -> Report {
    Report {
        routers: router.iter().map(|one| status(one, voice, trouble, realtime, now)).collect(),
        strays: nonzero(router.strays().iter().map(|(reason, count)| (reason.as_str(), count))),
    }
}

fn status(
    router: &VirtualRouter,
    voice: &Voice,
    trouble: Option<&str>,
    realtime: bool,
    now: Moment,
) -> Status {
    let settings = router.settings();
    let counts = router.counts();
    let mut reasons = Vec::new();
    if router.role() == Role::Init {
        let cause = router.cause();
        reasons.push(match trouble {
            Some(trouble) => format!("service: {trouble}"),
            None if cause == Cause::NoAddress => {
                format!("{} on {} to send adverts from", lack(settings), settings.interface)
            }
            None => cause.as_str().replace('_', " "),
        });
    }
    reasons.extend(router.tracked().map(|(name, weight)| format!("{name} {weight:+}")));
    let past = now - router.since();
    Status {
        name: settings.name.clone(),
        vrid: settings.vrid,
        version: settings.version(),
        interface: settings.interface.clone(),
        state: state(router.role()),
        priority: settings.priority.get(),
        effective_priority: router.priority().get(),
        addresses: settings.addresses.clone(),
        master: router.master(),
        since: SystemTime::now().checked_sub(past).unwrap_or(SystemTime::UNIX_EPOCH),
        transitions: counts.to_init + counts.to_backup + counts.to_master,
        cause: router.cause().as_str(),
        reason: (!reasons.is_empty()).then(|| reasons.join(", ")),
        counts: Counts {
            sent: counts.sent,
            received: counts.received,
            priority_zero_sent: counts.priority_zero_sent,
            priority_zero_received: counts.priority_zero_received,
            send_failures: voice.send_failures(router.id()),
            flaws: nonzero(counts.flaws().map(|(flaw, count)| (flaw.as_str(), count))),
        },
        heard: router
            .others()
            .iter()
            .map(|other| Heard {
                address: other.address,
                priority: other.priority.get(),
                ago: now - other.at,
                adverts: other.adverts,
            })
            .collect(),
        last_flaw: router.last_flaw().map(|last| LastFlaw {
            reason: last.flaw.as_str(),
            refused: last.flaw.is_rejected(),
            from: last.from,
            ago: now - last.at,
            texts: last.texts.cloned(),
        }),
        realtime,
    }
}

/// What an interface lacks that has no source for adverts.
pub fn lack(settings: &Settings) -> String {
    settings.source.map_or_else(|| "no address".to_owned(), |source| format!("no address {source}"))
}

fn nonzero(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
    counts.filter(|(_, count)| *count > 0).collect()
}
