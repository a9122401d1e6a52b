//! From the plan of a listener's guard to the guard that workers ask.

use super::compile::Means;
use crate::access::Set;
use crate::config::plan;
use crate::config::plan::guard::Action as PlannedAction;
use crate::guard::Guard;
use crate::limit::rate::Rate;
use crate::limit::{Action, Limiter, Rules};
use crate::metrics::ListenerSeries;
use crate::snapshot::Listener;

/// What it takes to come in at a listener. What its sources have done is not forgotten.
pub(super) fn guard(
    listener: &plan::Listener,
    before: Option<&Listener>,
    series: &mut ListenerSeries,
    means: &Means<'_>,
) -> Option<Guard> {
    let plan = &listener.guard;
    if plan.is_empty() {
        return None;
    }
    let proxies = plan.accept_proxy_from.iter().copied().map(Into::into);
    let proxies = (!plan.accept_proxy_from.is_empty()).then(|| Set::new(proxies));
    let limit = plan.limit.as_ref();
    let limit = limit.filter(|limit| limit.connections.is_some() || limit.rate.is_some());
    let limiter = limit.map(|limit| {
        series.with_limits(means.registry, &listener.name);
        let rate = limit.rate.map(|rate| Rate::new(rate.count.get(), rate.period, limit.burst()));
        let rules = Rules {
            connections: limit.connections,
            rate,
            prefix_v4: limit.prefix_v4,
            prefix_v6: limit.prefix_v6,
            action: match limit.action {
                PlannedAction::Reset => Action::Reset,
                PlannedAction::Drop => Action::Drop,
                PlannedAction::Log => Action::Log,
            },
        };
        let before = before.and_then(|before| before.guard.as_ref()?.limiter.as_ref());
        match before {
            Some(before) => before.with(rules, means.now),
            None => Limiter::new(rules, means.now),
        }
    });
    Some(Guard { proxies, access: means.material.access(&listener.name), limiter })
}
