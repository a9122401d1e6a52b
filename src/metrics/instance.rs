//! The series of VRRP instances.

use std::collections::HashMap;

use metrics::Gauge;

use super::{Registry, Sum};

/// The series of an instance.
#[derive(Debug)]
pub struct InstanceSeries {
    state: Gauge,
    priority: Gauge,
    received: Sum,
    sent: Sum,
    transitions: HashMap<&'static str, Sum>,
    errors: HashMap<&'static str, Sum>,
}

impl InstanceSeries {
    /// Series for an instance of this name.
    pub fn new(registry: &Registry, name: &str) -> Self {
        let adverts = |direction| {
            let labels = [("instance", name), ("direction", direction)];
            registry.counter("lockgate_vrrp_adverts_total", &labels)
        };
        Self {
            state: registry.gauge("lockgate_vrrp_state", &[("instance", name)]),
            priority: registry.gauge("lockgate_vrrp_priority", &[("instance", name)]),
            received: adverts("in"),
            sent: adverts("out"),
            transitions: HashMap::new(),
            errors: HashMap::new(),
        }
    }

    /// What is the case: the state as a number, and the priority with all weights.
    pub fn follow(&mut self, state: f64, priority: f64) {
        self.state.set(state);
        self.priority.set(priority);
    }

    /// Carries the counts of good adverts over.
    pub fn follow_adverts(&mut self, received: u64, sent: u64) {
        self.received.follow(received);
        self.sent.follow(sent);
    }

    /// Carries the count of transitions to a state over.
    pub fn follow_transitions(
        &mut self,
        registry: &Registry,
        name: &str,
        to: &'static str,
        count: u64,
    ) {
        let labels = [("instance", name), ("to", to)];
        let series = || registry.counter("lockgate_vrrp_transitions_total", &labels);
        self.transitions.entry(to).or_insert_with(series).follow(count);
    }

    /// Carries the count of packets refused for a reason over.
    pub fn follow_errors(
        &mut self,
        registry: &Registry,
        name: &str,
        reason: &'static str,
        count: u64,
    ) {
        let labels = [("instance", name), ("reason", reason)];
        let series = || registry.counter("lockgate_vrrp_advert_errors_total", &labels);
        self.errors.entry(reason).or_insert_with(series).follow(count);
    }
}
