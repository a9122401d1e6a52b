//! What the metrics mean, and where the buckets of histograms end.

use metrics::Unit;

/// Where the buckets of each histogram end, in seconds.
///
/// Each bucket of each listener or pool is a series, so they are as few as answer what is asked.
/// What is asked of connects and handshakes is a quantile, or how many took longer than a limit;
/// steps of 2 to 2.5 keep a quantile right to its first digit.
pub(super) const BUCKETS: &[(&str, &[f64])] = &[
    // From a connect within a rack to the default `connect_timeout`. The kernel repeats a lost SYN
    // after 1 and 3 seconds: what lies above 1 has lost one, above 2.5 two.
    (
        "lockgate_backend_connect_seconds",
        &[
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
            2.5, 5.0,
        ],
    ),
    // From a resumed handshake within a rack, over one from another continent (two round trips of
    // 0.3 s), to the default `client_timeout`.
    (
        "lockgate_tls_handshake_seconds",
        &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
    ),
    // From a request on a connection of its own to a WebSocket of a day: eight orders of magnitude,
    // of which it is asked which, hence two steps for each. The default `idle_timeout` is one.
    (
        "lockgate_connection_duration_seconds",
        &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0],
    ),
];

pub(super) type Description = (&'static str, Option<Unit>, &'static str);

pub(super) const COUNTERS: &[Description] = &[
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
    (
        "lockgate_limited_total",
        None,
        "Connections beyond a limit of their source, by limit; served only where the action is log.",
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
        "VRRP packets refused, or accepted although they differ (interval_mismatch, \
         address_list_mismatch), by reason; without an instance, those that belong to none.",
    ),
    (
        "lockgate_log_dropped_total",
        None,
        "Log lines lost; slow = the reader or the disk was, failed = they could not be written.",
    ),
];

pub(super) const GAUGES: &[Description] = &[
    ("lockgate_connections_active", None, "Connections now."),
    ("lockgate_backend_connections_active", None, "Connections to the backend now."),
    (
        "lockgate_backend_up",
        None,
        "1 if the backend is well (up, starting, or not checked), else 0.",
    ),
    ("lockgate_backend_drained", None, "1 if an operator drains or disables the backend, else 0."),
    ("lockgate_backend_effective_weight", None, "Weight that picks go by; 0 = none come here."),
    ("lockgate_queue_depth", None, "Connections that wait for a backend."),
    ("lockgate_pool_usable", None, "1 if a connection would find a backend, else 0."),
    ("lockgate_worker_connections_active", None, "Connections of the worker now."),
    (
        "lockgate_worker_silence_seconds",
        Some(Unit::Seconds),
        "Since the worker last showed that it lives; ten times a second it does.",
    ),
    ("lockgate_ready", None, "1 if /readyz says so, else 0."),
    (
        "lockgate_config_last_reload_successful",
        None,
        "1 if the last reload was taken over, or there was none; 0 if it was refused.",
    ),
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

pub(super) const HISTOGRAMS: &[(&str, &str)] = &[
    ("lockgate_backend_connect_seconds", "Time that successful connects took."),
    ("lockgate_connection_duration_seconds", "Time from accept to the end."),
    ("lockgate_tls_handshake_seconds", "Time that TLS handshakes took, from accept."),
];
