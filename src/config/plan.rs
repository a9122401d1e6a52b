//! What a configuration means: validated, total, free of file positions.
//!
//! A [`Plan`] that exists can run: every name it mentions is defined, every range is kept, every
//! default is filled in. Only [`super::load`] and [`super::parse`] make one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::proto::first_bytes::FirstBytes;
pub use guard::{Guard, Listed, SendProxy};
pub use vrrp::{Node, TrackedPool, Vrrp};

pub mod guard;
pub mod vrrp;

/// Where the admin socket is unless `admin.socket` says otherwise.
pub const ADMIN_SOCKET: &str = "/run/lockgate/admin.sock";

/// Where what operators set is kept unless `runtime.state_dir` says otherwise.
pub const STATE_DIR: &str = "/var/lib/lockgate";

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[admin]`
    pub admin: Admin,
    /// `[log]`
    pub log: Log,
    /// `[pair]`
    pub pair: Pair,
    /// `[node.NAME]`, in the order of the file; names and addresses are unique. Empty = a single
    /// gateway.
    pub nodes: Vec<Node>,
    /// `[[listener]]`, in the order of the file; names are unique, no two binds overlap. Empty only
    /// if there is something in `vrrp`.
    pub listeners: Vec<Listener>,
    /// `[pool.NAME]`, in the order of the file; names are unique.
    pub pools: Vec<Pool>,
    /// `[[vrrp]]`, in the order of the file; names are unique.
    pub vrrp: Vec<Vrrp>,
}

/// `[runtime]`: the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Worker threads; `None` = one per core that this process may use. At most 1024.
    pub workers: Option<NonZeroUsize>,
    /// Pin each worker to a core.
    pub pin: bool,
    /// Connections at once, over all listeners; `None` = from `RLIMIT_NOFILE`.
    pub max_connections: Option<NonZeroU32>,
    /// How long a graceful stop waits for connections.
    pub drain_timeout: Duration,
    /// Where what operators set is kept; `None` = nowhere, it ends with the process.
    pub state_dir: Option<PathBuf>,
    /// How much a thread may do that it has no need to.
    pub sandbox: Sandbox,
}

/// `runtime.sandbox`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// `on`: threads have the privileges that they need, and are refused what they never do.
    On,
    /// `log`: the same privileges; what would be refused is done, and told by the kernel's log.
    Log,
    /// `off`: threads keep what the process was started with.
    Off,
}

/// `[admin]`: where the process answers questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Path of the unix socket; `None` = off.
    pub socket: Option<PathBuf>,
    /// Address of the read-only HTTP server; `None` = off.
    pub http: Option<SocketAddr>,
}

/// `[log]`: what is written where.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: Level,
    /// Form of events and access records.
    pub format: Format,
    /// Write one access record per connection.
    pub access: bool,
    /// File of events; `None` = standard error.
    pub file: Option<PathBuf>,
    /// File of access records; `None` = standard output.
    pub access_file: Option<PathBuf>,
}

/// `log.level`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `error`
    Error,
    /// `warn`
    Warn,
    /// `info`
    Info,
    /// `debug`
    Debug,
    /// `trace`
    Trace,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// key=value lines.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[pair]`: what two gateways share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// File of 32 random bytes or more, the same on both; `None` = nothing is shared.
    pub secret_file: Option<PathBuf>,
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique name.
    pub name: String,
    /// Where it listens; never empty.
    pub bind: Vec<SocketAddr>,
    /// What becomes of a connection.
    pub protocol: Protocol,
    /// `[[listener.route]]`: the first that matches decides. At most 10,000, and none of a redirect.
    /// With `tcp` none asks for `sni` or `alpn`, with `tls` none for `first_bytes`.
    pub routes: Vec<Route>,
    /// Where connections go that no route matches, an index into [`Plan::pools`]; `None` = refuse
    /// them. Always `None` for a redirect, which answers by itself.
    pub pool: Option<usize>,
    /// Connections at once on this listener; `None` = no limit of its own.
    pub max_connections: Option<NonZeroU32>,
    /// Who may come in, and how much of it.
    pub guard: Guard,
    /// Longest time until a client has said what is needed to serve it: its PROXY header,
    /// ClientHello and TLS handshake, or its request for a redirect.
    pub client_timeout: Duration,
    /// Longest time that the first bytes of a client are waited for, where a route asks for them.
    pub first_bytes_timeout: Duration,
    /// Longest time without a byte in either direction.
    pub idle_timeout: Duration,
    /// Longest time without a byte after one side has sent FIN.
    pub half_close_timeout: Duration,
    /// How long what was sent to a client may stay unacknowledged; zero = as long as the system has
    /// it.
    pub user_timeout: Duration,
}

/// `protocol` of a listener, with what only this protocol has a use for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `tcp`: bytes are passed on as they are.
    Tcp,
    /// `tls`: decrypted here.
    Tls(Box<ServerTls>),
    /// `tls_passthrough`: the ClientHello is read, the bytes are passed on as they are.
    TlsPassthrough,
    /// `redirect`: HTTP is answered with the way to HTTPS.
    Redirect(Redirect),
}

impl Protocol {
    /// The name as written in a configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::TlsPassthrough => "tls_passthrough",
            Self::Redirect(_) => "redirect",
        }
    }
}

/// `[listener.tls]`: how clients are decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// 1 to 10,000, no `cert` twice. Chosen by the name that a client asks for; the first is the
    /// default.
    pub certificates: Vec<Certificate>,
    /// Refuse a client that asks for a name which no certificate covers.
    pub strict_sni: bool,
    /// The least version that is spoken.
    pub min_version: TlsVersion,
    /// The suites that are offered, the best first, none twice; empty = the recommended ones. One
    /// at least is of `min_version` or above.
    pub ciphers: Vec<CipherSuite>,
    /// Protocols that are agreed upon, the best first, none twice, each of 1 to 255 bytes; empty =
    /// ALPN is not answered.
    pub alpn: Vec<String>,
    /// Certificates of clients; `None` = not asked for.
    pub client_auth: Option<ClientAuth>,
    /// DER file with the OCSP response to staple.
    pub ocsp: Option<PathBuf>,
    /// Let clients resume their sessions.
    pub tickets: bool,
    /// Reset a plain backend when a client ends without `close_notify`.
    pub require_close_notify: bool,
}

/// `client_auth`, when it is not `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Refuse clients without a certificate. A wrong one is refused either way.
    pub required: bool,
    /// PEM file of the authorities whose certificates are accepted.
    pub ca: PathBuf,
    /// File of the certificates that these have revoked.
    pub crl: Option<PathBuf>,
}

/// `min_version`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// `1.2`, RFC 5246
    Tls12,
    /// `1.3`, RFC 8446
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

/// A cipher suite, of those that are still recommended (RFC 9325, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128GcmSha256,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256GcmSha384,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    Chacha20Poly1305Sha256,
    /// `TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256`
    EcdheEcdsaAes128GcmSha256,
    /// `TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384`
    EcdheEcdsaAes256GcmSha384,
    /// `TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256`
    EcdheEcdsaChacha20Poly1305Sha256,
    /// `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`
    EcdheRsaAes128GcmSha256,
    /// `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384`
    EcdheRsaAes256GcmSha384,
    /// `TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256`
    EcdheRsaChacha20Poly1305Sha256,
}

impl CipherSuite {
    /// The one version that has this suite.
    pub fn version(self) -> TlsVersion {
        match self {
            Self::Aes128GcmSha256 | Self::Aes256GcmSha384 | Self::Chacha20Poly1305Sha256 => {
                TlsVersion::Tls13
            }
            Self::EcdheEcdsaAes128GcmSha256
            | Self::EcdheEcdsaAes256GcmSha384
            | Self::EcdheEcdsaChacha20Poly1305Sha256
            | Self::EcdheRsaAes128GcmSha256
            | Self::EcdheRsaAes256GcmSha384
            | Self::EcdheRsaChacha20Poly1305Sha256 => TlsVersion::Tls12,
        }
    }

    /// Its name in IANA's registry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128GcmSha256 => "TLS_AES_128_GCM_SHA256",
            Self::Aes256GcmSha384 => "TLS_AES_256_GCM_SHA384",
            Self::Chacha20Poly1305Sha256 => "TLS_CHACHA20_POLY1305_SHA256",
            Self::EcdheEcdsaAes128GcmSha256 => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheEcdsaAes256GcmSha384 => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            Self::EcdheEcdsaChacha20Poly1305Sha256 => {
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
            }
            Self::EcdheRsaAes128GcmSha256 => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheRsaAes256GcmSha384 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            Self::EcdheRsaChacha20Poly1305Sha256 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        }
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `[[listener.route]]`: matches a client that meets every condition. An empty list is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The name that the client asks for is one of these. A client that asks for none does not
    /// match.
    pub sni: Vec<SniPattern>,
    /// The client offers one of these protocols, each of 1 to 255 bytes.
    pub alpn: Vec<String>,
    /// The client's address is in one of these.
    pub client: Vec<Network>,
    /// The client says one of these first, none twice.
    pub first_bytes: Vec<FirstBytes>,
    /// Index into [`Plan::pools`].
    pub pool: usize,
}

/// `sni` of a route. Names are in lower case, without a trailing dot; a client's has to be brought
/// into the same form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SniPattern {
    /// This name.
    Exact(String),
    /// `*.` and this name: any one label before it, as in a certificate (RFC 9525, section 6.3).
    Wildcard(String),
    /// `**.` and this name: any number of labels before it, one at least.
    Below(String),
    /// `*`: any name, but there has to be one.
    Any,
}

impl fmt::Display for SniPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Below(ancestor) => write!(f, "**.{ancestor}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// Addresses that have their first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// The first of them: all bits beyond `prefix` are zero. Never an IPv4 address in IPv6 notation.
    pub address: IpAddr,
    /// How many bits they have in common, up to 32 or 128.
    pub prefix: u8,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// `protocol = "redirect"`: a 301 to HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Who answers below `/.well-known/acme-challenge/`; `None` = redirected as everything else.
    pub challenges: Option<Challenges>,
}

/// `acme_dir` or `acme_pool`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenges {
    /// `acme_dir`: the files in this directory.
    Directory(PathBuf),
    /// `acme_pool`: a pool, by its index into [`Plan::pools`].
    Pool(usize),
}

/// `[pool.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique name.
    pub name: String,
    /// How a backend is chosen.
    pub balance: Balance,
    /// Longest time for one connect.
    pub connect_timeout: Duration,
    /// Other backends tried after a failed connect.
    pub retries: u32,
    /// How long a connection waits when every backend is full; zero = refuse at once.
    pub queue_timeout: Duration,
    /// Backup backends take connections when all others that are up are full, too.
    pub backup_overflow: bool,
    /// How long a backend that came up takes to reach its weight; zero = at once.
    pub slow_start: Duration,
    /// What to do when every backend is down.
    pub all_down: AllDown,
    /// What becomes of the connections of a backend that its checks take down.
    pub on_down: OnDown,
    /// How long what was sent to a backend may stay unacknowledged; zero = as long as the system has
    /// it.
    pub user_timeout: Duration,
    /// Local address to connect from.
    pub source: Option<IpAddr>,
    /// Tells the backends whom a connection is from; `None` = nothing is told.
    pub send_proxy: Option<SendProxy>,
    /// TLS to the backends; `None` = bytes are passed on as they are.
    pub tls: Option<PoolTls>,
    /// Active checks; `None` = none.
    pub health: Option<Health>,
    /// What live traffic says; `None` = not listened to (`max_fails = 0`).
    pub passive: Option<Passive>,
    /// Never empty; names are unique within the pool.
    pub backends: Vec<Backend>,
}

impl Pool {
    /// What is allowed of it, and yet rarely meant.
    fn doubt(&self) -> Option<String> {
        let mut others = self.backends.iter().filter(|backend| !backend.backup);
        let lacks = match () {
            () if !self.backup_overflow => return None,
            () if self.backends.iter().all(|backend| !backend.backup) => "no backend is a backup",
            () if others.all(|backend| backend.max_connections.is_none()) => {
                "no backend but the backups has max_connections"
            }
            () => return None,
        };
        Some(format!("pool {}: backup_overflow has no effect: {lacks}", self.name))
    }
}

/// `on_down`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// `keep`: they go on, if they can.
    Keep,
    /// `reset`: they are reset.
    Reset,
}

/// `balance`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// `weighted_round_robin`
    WeightedRoundRobin,
    /// `least_connections`
    LeastConnections,
    /// `random`: the less loaded of two.
    Random,
    /// `source_hash`: Maglev over the client's address.
    SourceHash,
}

impl Balance {
    /// The name as written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastConnections => "least_connections",
            Self::Random => "random",
            Self::SourceHash => "source_hash",
        }
    }
}

/// `all_down`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// Reset the connection.
    Refuse,
    /// Try the backends all the same.
    TryAll,
}

/// `[pool.NAME.tls]`: what is sent to and expected of backends that speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTls {
    /// PEM file of the authorities that `verify` trusts; `None` = those of the system.
    pub ca: Option<PathBuf>,
    /// Whether a backend has to prove who it is. `false` keeps out who listens, not who intervenes.
    pub verify: bool,
    /// The name that is sent, and that the certificate has to be for.
    pub sni: Sni,
    /// What the backends see of us; `None` = no client certificate.
    pub client_certificate: Option<Certificate>,
    /// Reset a plain client when a backend ends without `close_notify`.
    pub require_close_notify: bool,
}

/// `sni` of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// The host name in the backend's address. A backend that is addressed by IP is sent no name
    /// (RFC 6066, section 3), and its certificate has to be for that IP.
    Backend,
    /// `client`: what the client asked for; where it asked for nothing, as `Backend`.
    Client,
    /// This one, in lower case and without a trailing dot.
    Name(String),
}

/// Files of a certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate, and those that lead from it to its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[[pool.NAME.backend]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Unique within the pool; the address unless given.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// What is made of a name with several addresses; [`Addresses::One`] unless `address` is a name.
    pub addresses: Addresses,
    /// Share of the traffic, 0 to 65535; 0 = no new connections.
    pub weight: u16,
    /// Connections at once; `None` = no limit.
    pub max_connections: Option<NonZeroU32>,
    /// Port to check; `None` = that of the pool's checks.
    pub health_port: Option<NonZeroU16>,
    /// Used only when every other backend is down.
    pub backup: bool,
}

/// `addresses` of a backend: what is made of a name that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// One backend, which is reached at any of them.
    One,
    /// A backend of each, at most [`MOST_ADDRESSES`].
    All,
}

/// Backends that are made of one name at most.
pub const MOST_ADDRESSES: usize = 256;

/// `address` of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A host name and port, to be resolved.
    Name {
        /// Lower-case host name without a trailing dot.
        host: String,
        /// Port, never 0.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// `[pool.NAME.health]`
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is done.
    pub check: Check,
    /// Time between checks, from start to start.
    pub interval: Duration,
    /// The same while a verdict is pending.
    pub fast_interval: Duration,
    /// Longest time for one check, connect included.
    pub timeout: Duration,
    /// Successes in a row that make a backend up.
    pub rise: NonZeroU32,
    /// Failures in a row that make it down.
    pub fall: NonZeroU32,
    /// Port to check, unless the backend has a [`Backend::health_port`]; `None` = the backend's own.
    pub port: Option<u16>,
    /// The name that checks over TLS ask for; `None` = as connections to the pool do.
    pub sni: Option<String>,
    /// PEM file of the authorities that checks over TLS trust; `None` = as connections to the pool
    /// do, or without `[pool.NAME.tls]` any certificate.
    pub ca: Option<PathBuf>,
}

/// `health.type` with the keys that belong to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// A connection is accepted.
    Tcp,
    /// A TLS handshake completes.
    Tls,
    /// An HTTP/1.1 GET is answered with an expected status.
    Http {
        /// Over TLS.
        tls: bool,
        /// Begins with `/`.
        path: String,
        /// The `Host` header; `None` = the backend's address.
        host: Option<String>,
        /// Ranges within 100..=599; never empty.
        expect_status: Vec<RangeInclusive<u16>>,
    },
    /// Bytes are sent and expected, step by step. At most [`MOST_STEPS`], and one at least expects
    /// something.
    SendExpect(Vec<Step>),
}

/// Most steps of a check.
pub const MOST_STEPS: usize = 64;

/// A step of a check of type `send_expect`. Texts are of 1 byte to 16 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `send`: these bytes are sent.
    Send(Vec<u8>),
    /// `expect`: the answer begins with these bytes.
    Begins(Vec<u8>),
    /// `expect_contains`: the answer has these bytes somewhere.
    Contains(Vec<u8>),
    /// `expect_regex`: the answer has a match.
    Matches(Pattern),
}

/// A regular expression over bytes, in the syntax of the `regex` crate; `.` and classes are of ASCII.
#[derive(Clone, Debug)]
pub struct Pattern(regex::bytes::Regex);

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// What is wrong with it; or that it would take over a mebibyte of memory.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        const LARGEST: usize = 1 << 20;
        let mut builder = regex::bytes::RegexBuilder::new(text);
        builder.unicode(false).size_limit(LARGEST).build().map(Self)
    }

    /// Whether it matches somewhere in `bytes`, in time proportional to their number.
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// `[pool.NAME.passive]`
#[derive(Clone, Debug, PartialEq)]
pub struct Passive {
    /// Failures within `window` that eject.
    pub max_fails: NonZeroU32,
    /// How far back failures count.
    pub window: Duration,
    /// First ejection; doubles on each repeat, up to 10 times.
    pub eject_for: Duration,
    /// Largest share of the pool that may be ejected, in percent, 0 to 100.
    pub max_ejected: u8,
}
