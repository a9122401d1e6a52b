//! Names for what is counted, in the form that Prometheus reads.
//!
//! The data plane never looks a metric up: it adds to [`crate::stats`], and records into
//! histograms whose handles it holds. When somebody asks, and every few seconds in between, the
//! control plane carries the sums over into counters and gauges whose handles it holds. A series
//! that is no longer carried over, because its backend is gone, disappears after a minute.

mod instance;

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_util::MetricKindMask;

use crate::pool::{Backend, Pool};
use crate::snapshot::Listener;
use crate::stats::{ConnectFailure, Handshake, HandshakeFailure, Hello, Reason};
pub use instance::InstanceSeries;

/// How often sums are carried over when nobody asks; must be well below [`FORGOTTEN`].
pub const CARRY_OVER: Duration = Duration::from_secs(5);

/// A series that was not carried over for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// From a tenth of a millisecond, a connect within a rack, to the default `connect_timeout`.
const CONNECT_BUCKETS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// From a resumed handshake within a rack to the default `client_timeout`.
const HANDSHAKE_BUCKETS: [f64; 11] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0];

/// From a request on a fresh connection to a WebSocket of a day.
const DURATION_BUCKETS: [f64; 13] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0];

const METADATA: Metadata<'static> = Metadata::new("lockgate", Level::INFO, None);

/// Makes series and renders them.
#[derive(Debug)]
pub struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Registry {
    /// An empty registry with all names described.
    ///
    /// Fails if the exporter does not take the buckets, which would be a fault of this file.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(
                Matcher::Full("lockgate_backend_connect_seconds".into()),
                &CONNECT_BUCKETS,
            )?
            .set_buckets_for_metric(
                Matcher::Full("lockgate_connection_duration_seconds".into()),
                &DURATION_BUCKETS,
            )?
            .set_buckets_for_metric(
                Matcher::Full("lockgate_tls_handshake_seconds".into()),
                &HANDSHAKE_BUCKETS,
            )?
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
        Ok(Self { recorder, handle })
    }

    /// What renders the series; may take milliseconds when there are thousands of them.
    pub fn renderer(&self) -> PrometheusHandle {
        self.handle.clone()
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

    /// Describes what [`Registry::collect_process`] collects.
    pub fn describe_process(&self, collector: &metrics_process::Collector) {
        metrics::with_local_recorder(&self.recorder, || collector.describe());
    }

    /// Collects what the kernel says of this process.
    pub fn collect_process(&self, collector: &metrics_process::Collector) {
        metrics::with_local_recorder(&self.recorder, || collector.collect());
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
}

impl PoolSeries {
    /// Series for a pool of this name.
    pub fn new(registry: &Registry, name: &str) -> Self {
        Self {
            retries: registry.counter("lockgate_retries_total", &[("pool", name)]),
            queue_depth: registry.gauge("lockgate_queue_depth", &[("pool", name)]),
        }
    }

    /// Carries the pool's counts over.
    pub fn follow(&mut self, pool: &Pool) {
        self.retries.follow(pool.stats.sum(|s| &s.retries));
        self.queue_depth.set(pool.queue.depth() as f64);
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
    weight: Gauge,
    passed: Sum,
    failed: Sum,
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
            weight: registry.gauge("lockgate_backend_effective_weight", &own),
            passed: checks("passed"),
            failed: checks("failed"),
        }
    }

    /// Carries the backend's counts over. `weight` in the unit of the configuration; `checks` =
    /// passed, failed.
    pub fn follow(&mut self, backend: &Backend, up: bool, weight: f64, checks: (u64, u64)) {
        let stats = &backend.stats;
        self.connections.follow(stats.sum(|s| &s.connections));
        self.active.set(backend.load().active());
        self.bytes_in.follow(stats.sum(|s| &s.bytes_in));
        self.bytes_out.follow(stats.sum(|s| &s.bytes_out));
        for (failure, sum) in self.failures.iter_mut().enumerate() {
            sum.follow(stats.sum(|s| s.connect_failures.of(failure)));
        }
        self.up.set(if up { 1.0 } else { 0.0 });
        self.weight.set(weight);
        self.passed.follow(checks.0);
        self.failed.follow(checks.1);
    }
}

type Description = (&'static str, Option<Unit>, &'static str);

const COUNTERS: &[Description] = &[
    ("lockgate_connections_total", None, "Connections accepted."),
    ("lockgate_connections_closed_total", None, "Connections ended, by the reason why."),
    (
        "lockgate_bytes_total",
        Some(Unit::Bytes),
        "Bytes delivered; in = from clients, out = to clients.",
    ),
    ("lockgate_backend_connections_total", None, "Connections made to the backend."),
    (
        "lockgate_backend_bytes_total",
        Some(Unit::Bytes),
        "Bytes delivered; in = to the backend, out = from it.",
    ),
    ("lockgate_backend_connect_failures_total", None, "Connections that could not be made."),
    ("lockgate_backend_health_checks_total", None, "Active checks, by result."),
    ("lockgate_retries_total", None, "Further backends tried after a failed connect."),
    (
        "lockgate_client_hellos_total",
        None,
        "What was read where a ClientHello was due (protocol tls_passthrough).",
    ),
    ("lockgate_tls_handshakes_total", None, "TLS handshakes with clients."),
    ("lockgate_tls_handshake_failures_total", None, "TLS handshakes that failed, by reason."),
    (
        "lockgate_tls_certificate_renewals_total",
        None,
        "Certificates whose files changed: taken over (ok), or refused (failed).",
    ),
    ("lockgate_config_reloads_total", None, "Reloads, by result."),
    (
        "lockgate_vrrp_transitions_total",
        None,
        "Changes of state of a VRRP instance, by the new one.",
    ),
    ("lockgate_vrrp_adverts_total", None, "VRRP adverts; in = good ones received, out = sent."),
    (
        "lockgate_vrrp_advert_errors_total",
        None,
        "VRRP packets refused, by reason; without an instance, those that belong to none.",
    ),
    ("lockgate_log_dropped_total", None, "Log lines dropped because the reader was too slow."),
];

const GAUGES: &[Description] = &[
    ("lockgate_connections_active", None, "Connections now."),
    ("lockgate_backend_connections_active", None, "Connections to the backend now."),
    (
        "lockgate_backend_up",
        None,
        "1 if the backend is well (up, starting, or not checked), else 0.",
    ),
    ("lockgate_backend_effective_weight", None, "Weight that picks go by; 0 = none come here."),
    ("lockgate_queue_depth", None, "Connections that wait for a backend."),
    ("lockgate_worker_connections_active", None, "Connections of the worker now."),
    ("lockgate_connections_limit", None, "Connections that the process takes at once."),
    ("lockgate_config_generation", None, "Publications of a configuration since the start."),
    (
        "lockgate_tls_certificate_not_after_seconds",
        Some(Unit::Seconds),
        "Until when the certificate is valid, in seconds since 1970.",
    ),
    ("lockgate_vrrp_state", None, "0 = init, 1 = backup, 2 = master."),
    (
        "lockgate_vrrp_priority",
        None,
        "Priority of a VRRP instance, with the weights of what is tracked.",
    ),
    ("lockgate_build_info", None, "Always 1; the labels say what runs."),
];

const HISTOGRAMS: &[(&str, &str)] = &[
    ("lockgate_backend_connect_seconds", "Time that successful connects took."),
    ("lockgate_connection_duration_seconds", "Time from accept to the end."),
    ("lockgate_tls_handshake_seconds", "Time that TLS handshakes took, from accept."),
];

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
