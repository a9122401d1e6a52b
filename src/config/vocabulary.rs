//! Every key of a configuration file, section by section, including those not built yet.
//!
//! The reader refuses what is not listed here; the lists also tell a mistyped key from one that
//! stands in the wrong section. No key is ever accepted and ignored.

/// The keys of one section.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// The section as it is written, with `NAME` where a name goes.
    pub(super) title: &'static str,
    /// Keys that are read.
    pub(super) keys: &'static [&'static str],
    /// Keys that have a meaning, but no implementation yet.
    pub(super) later: &'static [&'static str],
}

/// The sections themselves.
pub(super) const FILE: Vocabulary = Vocabulary {
    title: "the file",
    keys: &["runtime", "admin", "log", "pair", "node", "listener", "pool", "vrrp"],
    later: &[],
};

pub(super) const RUNTIME: Vocabulary = Vocabulary {
    title: "[runtime]",
    keys: &["workers", "pin", "max_connections", "drain_timeout", "state_dir", "sandbox"],
    later: &[],
};

pub(super) const ADMIN: Vocabulary =
    Vocabulary { title: "[admin]", keys: &["socket", "http"], later: &[] };

pub(super) const LOG: Vocabulary = Vocabulary {
    title: "[log]",
    keys: &["level", "format", "access", "file", "access_file"],
    later: &[],
};

pub(super) const PAIR: Vocabulary =
    Vocabulary { title: "[pair]", keys: &["secret_file"], later: &[] };

pub(super) const NODE: Vocabulary =
    Vocabulary { title: "[node.NAME]", keys: &["address", "priority"], later: &[] };

pub(super) const LISTENER: Vocabulary = Vocabulary {
    title: "[[listener]]",
    keys: &[
        "name",
        "bind",
        "protocol",
        "pool",
        "max_connections",
        "accept_proxy_from",
        "allow",
        "deny",
        "limit",
        "client_timeout",
        "first_bytes_timeout",
        "idle_timeout",
        "half_close_timeout",
        "user_timeout",
        "tls",
        "route",
        "acme_dir",
        "acme_pool",
    ],
    later: &[],
};

pub(super) const LIMIT: Vocabulary = Vocabulary {
    title: "[listener.limit]",
    keys: &["connections", "rate", "burst", "prefix_v4", "prefix_v6", "action"],
    later: &[],
};

pub(super) const LISTENER_TLS: Vocabulary = Vocabulary {
    title: "[listener.tls]",
    keys: &[
        "certificates",
        "strict_sni",
        "min_version",
        "ciphers",
        "alpn",
        "client_auth",
        "client_ca",
        "client_crl",
        "ocsp",
        "tickets",
        "require_close_notify",
    ],
    later: &[],
};

pub(super) const CERTIFICATE: Vocabulary =
    Vocabulary { title: "{ cert = FILE, key = FILE }", keys: &["cert", "key"], later: &[] };

pub(super) const ROUTE: Vocabulary = Vocabulary {
    title: "[[listener.route]]",
    keys: &["first_bytes", "sni", "alpn", "client", "pool"],
    later: &[],
};

pub(super) const POOL: Vocabulary = Vocabulary {
    title: "[pool.NAME]",
    keys: &[
        "balance",
        "connect_timeout",
        "retries",
        "queue_timeout",
        "backup_overflow",
        "slow_start",
        "all_down",
        "on_down",
        "user_timeout",
        "source",
        "send_proxy",
        "tls",
        "health",
        "passive",
        "backend",
    ],
    later: &[],
};

pub(super) const POOL_TLS: Vocabulary = Vocabulary {
    title: "[pool.NAME.tls]",
    keys: &["ca", "verify", "sni", "client_cert", "client_key", "require_close_notify"],
    later: &[],
};

pub(super) const HEALTH: Vocabulary = Vocabulary {
    title: "[pool.NAME.health]",
    keys: &[
        "type",
        "interval",
        "fast_interval",
        "timeout",
        "rise",
        "fall",
        "port",
        "tls",
        "path",
        "host",
        "expect_status",
        "send",
        "expect",
        "steps",
        "sni",
        "ca",
    ],
    later: &[],
};

pub(super) const STEP: Vocabulary = Vocabulary {
    title: "{ send = TEXT } or { expect = TEXT }",
    keys: &["send", "expect", "expect_contains", "expect_regex"],
    later: &[],
};

pub(super) const PASSIVE: Vocabulary = Vocabulary {
    title: "[pool.NAME.passive]",
    keys: &["max_fails", "window", "eject_for", "max_ejected"],
    later: &[],
};

pub(super) const BACKEND: Vocabulary = Vocabulary {
    title: "[[pool.NAME.backend]]",
    keys: &["name", "address", "addresses", "weight", "max_connections", "health_port", "backup"],
    later: &[],
};

pub(super) const VRRP: Vocabulary = Vocabulary {
    title: "[[vrrp]]",
    keys: &[
        "name",
        "interface",
        "vrid",
        "version",
        "addresses",
        "priority",
        "advert_interval",
        "preempt",
        "preempt_delay",
        "unicast_peers",
        "source",
        "checksum",
        "virtual_mac",
        "garp_repeat",
        "garp_refresh",
        "track_interfaces",
        "track_pools",
        "sync_group",
        "notify",
    ],
    later: &[],
};

pub(super) const TRACKED_POOL: Vocabulary =
    Vocabulary { title: "{ pool = NAME, weight = N }", keys: &["pool", "weight"], later: &[] };

/// All of them.
pub(super) const SECTIONS: [&Vocabulary; 19] = [
    &FILE,
    &RUNTIME,
    &ADMIN,
    &LOG,
    &PAIR,
    &NODE,
    &LISTENER,
    &LIMIT,
    &LISTENER_TLS,
    &CERTIFICATE,
    &ROUTE,
    &POOL,
    &POOL_TLS,
    &HEALTH,
    &STEP,
    &PASSIVE,
    &BACKEND,
    &VRRP,
    &TRACKED_POOL,
];

impl Vocabulary {
    /// Every key that has a meaning here, built or not.
    pub(super) fn all(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().chain(self.later).copied()
    }
}

/// The titles of the sections that know `key`.
pub(super) fn homes(key: &str) -> Vec<&'static str> {
    SECTIONS
        .iter()
        .filter(|section| section.all().any(|known| known == key))
        .map(|section| section.title)
        .collect()
}
