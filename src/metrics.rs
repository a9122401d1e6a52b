//! Names for what is counted, in the form that Prometheus reads.
//!
//! The data plane never looks a metric up: it adds to [`crate::stats`], and records into
//! histograms whose handles it holds. When somebody asks, and every few seconds in between, the
//! control plane carries the sums over into counters and gauges whose handles it holds. A series
//! that is no longer carried over, because its backend is gone, disappears after a minute.

mod descriptions;
pub mod histograms;
mod instance;

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_util::MetricKindMask;

use crate::limit::Limited;
use crate::pool::{Backend, Pool};
use crate::snapshot::Listener;
use crate::stats::{ConnectFailure, Handshake, HandshakeFailure, Hello, Reason};
use descriptions::{BUCKETS, COUNTERS, GAUGES, HISTOGRAMS};
use histograms::Series;
pub use instance::InstanceSeries;

/// How often sums are carried over when nobody asks; must be well below [`FORGOTTEN`].
pub const CARRY_OVER: Duration = Duration::from_secs(5);

/// A series that was not carried over for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

const METADATA: Metadata<'static> = Metadata::new("lockgate", Level::INFO, None);

/// Makes series.
#[derive(Debug)]
pub struct Registry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
    /// Histograms of processes before this one.
    before: Arc<Series>,
}

/// Renders series; may take a while when there are thousands of them, so not on a thread that
/// others wait for.
#[derive(Clone, Debug)]
pub struct Renderer {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
    before: Arc<Series>,
}

impl Renderer {
    /// All series, in the text format of Prometheus, ordered by name. Asks the kernel about this
    /// process, too.
    pub fn render(&self) -> String {
        metrics::with_local_recorder(&self.recorder, || self.process.collect());
        let text = self.handle.render();
        // A block for each name, in the order of a hash: nobody finds anything, or compares.
        let mut blocks: Vec<&str> = text.split_inclusive("\n\n").collect();
        blocks.sort_unstable();
        let sorted = blocks.concat();
        // It is large: not both of them longer than needed.
        drop(text);
        histograms::render(&histogram_names(), sorted, &self.before)
    }
}

fn histogram_names() -> Vec<&'static str> {
    HISTOGRAMS.iter().map(|(name, _)| *name).collect()
}

impl Registry {
    /// An empty registry with all names described.
    ///
    /// Fails if the exporter does not take the buckets, which would be a fault of this file.
    pub fn new() -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for (name, buckets) in BUCKETS {
            builder = builder.set_buckets_for_metric(Matcher::Full((*name).into()), buckets)?;
        }
        let recorder = builder
            // Workers hold the handles of histograms: those must never be forgotten.
            .idle_timeout(MetricKindMask::COUNTER | MetricKindMask::GAUGE, Some(FORGOTTEN))
            .build_recorder();
        let handle = recorder.handle();
        for (name, unit, description) in COUNTERS {
            recorder.describe_counter(KeyName::from(*name), *unit, (*description).into());
        }
        for (name, unit, description) in GAUGES {
            recorder.describe_gauge(KeyName::from(*name), *unit, (*description).into());
        }
        for (name, description) in HISTOGRAMS {
            recorder.describe_histogram(
                KeyName::from(*name),
                Some(Unit::Seconds),
                (*description).into(),
            );
        }
        let process = metrics_process::Collector::default();
        metrics::with_local_recorder(&recorder, || process.describe());
        Ok(Self { recorder: Arc::new(recorder), handle, process, before: Arc::default() })
    }

    /// What renders the series.
    pub fn renderer(&self) -> Renderer {
        Renderer {
            recorder: Arc::clone(&self.recorder),
            handle: self.handle.clone(),
            process: self.process.clone(),
            before: Arc::clone(&self.before),
        }
    }

    /// What histograms have measured, here and in processes before this one.
    pub fn histograms(&self) -> Series {
        histograms::series(&histogram_names(), &self.renderer().render())
    }

    /// Adds what a process before this one has measured.
    pub fn add_histograms(&mut self, more: &Series) {
        histograms::add(Arc::make_mut(&mut self.before), more);
    }

    /// Moves the samples of histograms into their buckets; until then they take up memory.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// A counter that carries sums over.
    pub fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Sum {
        let counter = self.recorder.register_counter(&key(name, labels), &METADATA);
        Sum { counter, carried: 0 }
    }

    /// A gauge.
    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A histogram.
    pub fn histogram(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
        self.recorder.register_histogram(&key(name, labels), &METADATA)
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|&(key, value)| Label::new(key, value.to_owned())).collect();
    Key::from_parts(name, labels)
}

/// A counter that follows a sum kept elsewhere.
#[derive(Debug)]
pub struct Sum {
    counter: Counter,
    carried: u64,
}

impl Sum {
    /// Carries over what the sum has grown by. Even if that is nothing, the series is still
    /// wanted.
    pub fn follow(&mut self, sum: u64) {
        self.counter.increment(sum.saturating_sub(self.carried));
        self.carried = sum;
    }
}

/// The series of a listener.
#[derive(Debug)]
pub struct ListenerSeries {
    opened: Sum,
    active: Gauge,
    closed: Vec<Sum>,
    bytes_in: Sum,
    bytes_out: Sum,
    tls: Option<TlsSeries>,
    limited: Vec<Sum>,
    hellos: Vec<Sum>,
}

/// The series that only a listener with TLS has.
#[derive(Debug)]
struct TlsSeries {
    handshakes: Vec<Sum>,
    failures: Vec<Sum>,
}

impl ListenerSeries {
    /// Series for a listener of this name.
    pub fn new(registry: &Registry, name: &str) -> Self {
        let bytes = |direction| {
            let labels = [("listener", name), ("direction", direction)];
            registry.counter("lockgate_bytes_total", &labels)
        };
        Self {
            opened: registry.counter("lockgate_connections_total", &[("listener", name)]),
            active: registry.gauge("lockgate_connections_active", &[("listener", name)]),
            closed: Reason::ALL
                .iter()
                .map(|reason| {
                    let labels = [("listener", name), ("reason", reason.name())];
                    registry.counter("lockgate_connections_closed_total", &labels)
                })
                .collect(),
            bytes_in: bytes("in"),
            bytes_out: bytes("out"),
            tls: None,
            hellos: Vec::new(),
            limited: Vec::new(),
        }
    }

    /// From now on it reads ClientHellos.
    pub fn with_hellos(&mut self, registry: &Registry, name: &str) {
        if self.hellos.is_empty() {
            let hello = |hello: &Hello| {
                let labels = [("listener", name), ("result", hello.name())];
                registry.counter("lockgate_client_hellos_total", &labels)
            };
            self.hellos = Hello::ALL.iter().map(hello).collect();
        }
    }

    /// From now on its sources are limited.
    pub fn with_limits(&mut self, registry: &Registry, name: &str) {
        if self.limited.is_empty() {
            let limited = |limited: &Limited| {
                let labels = [("listener", name), ("limit", limited.name())];
                registry.counter("lockgate_limited_total", &labels)
            };
            self.limited = Limited::ALL.iter().map(limited).collect();
        }
    }

    /// From now on it has TLS. Where the seconds that handshakes take are recorded.
    pub fn with_tls(&mut self, registry: &Registry, name: &str) -> Histogram {
        let handshakes = |handshake: &Handshake| {
            let resumed = if handshake.is_resumed() { "true" } else { "false" };
            let labels =
                [("listener", name), ("version", handshake.version()), ("resumed", resumed)];
            registry.counter("lockgate_tls_handshakes_total", &labels)
        };
        let failures = |failure: &HandshakeFailure| {
            let labels = [("listener", name), ("reason", failure.name())];
            registry.counter("lockgate_tls_handshake_failures_total", &labels)
        };
        self.tls.get_or_insert_with(|| TlsSeries {
            handshakes: Handshake::ALL.iter().map(handshakes).collect(),
            failures: HandshakeFailure::ALL.iter().map(failures).collect(),
        });
        registry.histogram("lockgate_tls_handshake_seconds", &[("listener", name)])
    }

    /// Carries the listener's counts over.
    pub fn follow(&mut self, listener: &Listener) {
        let stats = &listener.meters.stats;
        self.opened.follow(stats.sum(|s| &s.opened));
        self.active.set(listener.meters.active.load(std::sync::atomic::Ordering::Relaxed));
        for (reason, closed) in self.closed.iter_mut().enumerate() {
            closed.follow(stats.sum(|s| s.closed.of(reason)));
        }
        self.bytes_in.follow(stats.sum(|s| &s.bytes_in));
        self.bytes_out.follow(stats.sum(|s| &s.bytes_out));
        for (hello, sum) in self.hellos.iter_mut().enumerate() {
            sum.follow(stats.sum(|s| s.hellos.of(hello)));
        }
        for (limited, sum) in self.limited.iter_mut().enumerate() {
            sum.follow(stats.sum(|s| s.limited.of(limited)));
        }
        if let Some(tls) = &mut self.tls {
            for (handshake, sum) in tls.handshakes.iter_mut().enumerate() {
                sum.follow(stats.sum(|s| s.handshakes.of(handshake)));
            }
            for (failure, sum) in tls.failures.iter_mut().enumerate() {
                sum.follow(stats.sum(|s| s.handshake_failures.of(failure)));
            }
        }
    }
}

/// The series of a pool, without its backends.
#[derive(Debug)]
pub struct PoolSeries {
    retries: Sum,
    queue_depth: Gauge,
    usable: Gauge,
}

impl PoolSeries {
    /// Series for a pool of this name.
    pub fn new(registry: &Registry, name: &str) -> Self {
        Self {
            retries: registry.counter("lockgate_retries_total", &[("pool", name)]),
            queue_depth: registry.gauge("lockgate_queue_depth", &[("pool", name)]),
            usable: registry.gauge("lockgate_pool_usable", &[("pool", name)]),
        }
    }

    /// Carries the pool's counts over.
    pub fn follow(&mut self, pool: &Pool) {
        self.retries.follow(pool.stats.sum(|s| &s.retries));
        self.queue_depth.set(pool.queue.depth() as f64);
        self.usable.set(if pool.is_usable() { 1.0 } else { 0.0 });
    }
}

/// The series of a backend.
#[derive(Debug)]
pub struct BackendSeries {
    connections: Sum,
    active: Gauge,
    bytes_in: Sum,
    bytes_out: Sum,
    failures: Vec<Sum>,
    up: Gauge,
    drained: Gauge,
    weight: Gauge,
    passed: Sum,
    failed: Sum,
    inconclusive: Sum,
}

/// Active checks of a backend, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckCounts {
    /// It answered as it should.
    pub passed: u64,
    /// It did not.
    pub failed: u64,
    /// This host could not ask it.
    pub inconclusive: u64,
}

impl BackendSeries {
    /// Series for a backend.
    pub fn new(registry: &Registry, backend: &Backend) -> Self {
        let own = [("pool", &*backend.pool), ("backend", &*backend.name)];
        let with = |key, value| [own[0], own[1], (key, value)];
        let bytes = |way| registry.counter("lockgate_backend_bytes_total", &with("direction", way));
        let checks = |result| {
            registry.counter("lockgate_backend_health_checks_total", &with("result", result))
        };
        Self {
            connections: registry.counter("lockgate_backend_connections_total", &own),
            active: registry.gauge("lockgate_backend_connections_active", &own),
            bytes_in: bytes("in"),
            bytes_out: bytes("out"),
            failures: ConnectFailure::ALL
                .iter()
                .map(|failure| {
                    let labels = with("reason", failure.name());
                    registry.counter("lockgate_backend_connect_failures_total", &labels)
                })
                .collect(),
            up: registry.gauge("lockgate_backend_up", &own),
            drained: registry.gauge("lockgate_backend_drained", &own),
            weight: registry.gauge("lockgate_backend_effective_weight", &own),
            passed: checks("passed"),
            failed: checks("failed"),
            inconclusive: checks("inconclusive"),
        }
    }

    /// Carries the backend's counts over. `state` = it is well, an operator has taken it out;
    /// `weight` in the unit of the configuration.
    pub fn follow(
        &mut self,
        backend: &Backend,
        state: (bool, bool),
        weight: f64,
        checks: CheckCounts,
    ) {
        let stats = &backend.stats;
        self.connections.follow(stats.sum(|s| &s.connections));
        self.active.set(backend.load().active());
        self.bytes_in.follow(stats.sum(|s| &s.bytes_in));
        self.bytes_out.follow(stats.sum(|s| &s.bytes_out));
        for (failure, sum) in self.failures.iter_mut().enumerate() {
            sum.follow(stats.sum(|s| s.connect_failures.of(failure)));
        }
        self.up.set(if state.0 { 1.0 } else { 0.0 });
        self.drained.set(if state.1 { 1.0 } else { 0.0 });
        self.weight.set(weight);
        self.passed.follow(checks.passed);
        self.failed.follow(checks.failed);
        self.inconclusive.follow(checks.inconclusive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_carried_over_and_rendered() {
        let registry = Registry::new().unwrap();
        let mut sum = registry.counter("lockgate_retries_total", &[("pool", "a")]);
        sum.follow(3);
        sum.follow(7);
        let histogram = registry.histogram("lockgate_backend_connect_seconds", &[("pool", "a")]);
        histogram.record(0.002);
        let text = registry.renderer().render();
        assert!(text.contains("# TYPE lockgate_retries_total counter"), "{text}");
        assert!(text.contains("lockgate_retries_total{pool=\"a\"} 7"), "{text}");
        assert!(
            text.contains("lockgate_backend_connect_seconds_bucket{pool=\"a\",le=\"0.0025\"} 1"),
            "{text}"
        );
    }
}
