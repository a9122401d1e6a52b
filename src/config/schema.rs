//! What was typed: the sections of a file, each value of its type and within its range.
//!
//! What one section says by itself is settled here, defaults included. What needs another section
//! to make sense (names, references, addresses that may clash) keeps its position for `resolve`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

use super::address::{parse_backend, parse_bind, parse_name, parse_source};
use super::findings::{Findings, Problem, Span, Spanned};
use super::guard;
use super::health;
use super::plan::{self, Address, AllDown, Balance, Format, Level};
use super::protocol::{self, Protocol, Service};
use super::reader::{Field, Section};
use super::route::Route;
use super::tls;
use super::value::text;
use super::vocabulary as known;
use super::vrrp::{self, Node, Vrrp};

/// A whole file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) runtime: plan::Runtime,
    pub(super) admin: Admin,
    pub(super) log: plan::Log,
    pub(super) pair: plan::Pair,
    pub(super) nodes: Field<Vec<Node>>,
    pub(super) listeners: Field<Vec<Listener>>,
    pub(super) pools: Field<Vec<Pool>>,
    pub(super) vrrp: Field<Vec<Vrrp>>,
}

/// `[admin]`
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) socket: Option<PathBuf>,
    pub(super) http: Field<Option<SocketAddr>>,
}

/// `[[listener]]`
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) header: Span,
    pub(super) name: Field<String>,
    pub(super) bind: Field<Vec<Spanned<SocketAddr>>>,
    pub(super) protocol: Protocol,
    pub(super) routes: Vec<Route>,
    pub(super) pool: Field<String>,
    pub(super) max_connections: Option<NonZeroU32>,
    pub(super) guard: plan::Guard,
    pub(super) client_timeout: Duration,
    pub(super) first_bytes_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) half_close_timeout: Duration,
    pub(super) user_timeout: Duration,
}

/// `[pool.NAME]`
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) header: Span,
    pub(super) name: Spanned<String>,
    pub(super) balance: Balance,
    pub(super) connect_timeout: Duration,
    pub(super) retries: u32,
    pub(super) queue_timeout: Duration,
    pub(super) backup_overflow: bool,
    pub(super) slow_start: Duration,
    pub(super) all_down: AllDown,
    pub(super) on_down: plan::OnDown,
    pub(super) user_timeout: Duration,
    pub(super) source: Field<Option<IpAddr>>,
    pub(super) send_proxy: Option<plan::SendProxy>,
    pub(super) tls: Option<plan::PoolTls>,
    pub(super) health: Option<plan::Health>,
    pub(super) passive: Option<plan::Passive>,
    pub(super) backends: Field<Vec<Backend>>,
}

/// `[[pool.NAME.backend]]`
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) header: Span,
    pub(super) name: Field<String>,
    pub(super) address: Field<Address>,
    pub(super) addresses: Field<plan::Addresses>,
    pub(super) weight: u16,
    pub(super) max_connections: Option<NonZeroU32>,
    pub(super) health_port: Option<NonZeroU16>,
    pub(super) backup: bool,
}

impl File {
    /// Reads the sections of `table` and reports what is wrong in each.
    pub(super) fn read(table: &DeTable<'_>, errors: &mut Findings) -> Self {
        let mut file = Section::open(&known::FILE, table, Span::default(), errors);
        Self {
            runtime: file.section_or_empty("runtime", &known::RUNTIME, runtime),
            admin: file.section_or_empty("admin", &known::ADMIN, admin),
            log: file.section_or_empty("log", &known::LOG, log),
            pair: file.section_or_empty("pair", &known::PAIR, pair),
            nodes: file.named_sections("node", &known::NODE, vrrp::node),
            listeners: file.sections("listener", &known::LISTENER, listener),
            pools: file.named_sections("pool", &known::POOL, pool),
            vrrp: file.sections("vrrp", &known::VRRP, vrrp::vrrp),
        }
    }
}

fn runtime(mut section: Section<'_, '_>) -> plan::Runtime {
    plan::Runtime {
        workers: NonZeroUsize::new(section.number("workers", 0..=1024).or(0)),
        pin: section.flag("pin").or(true),
        max_connections: section.limit("max_connections"),
        drain_timeout: section.duration_or_zero("drain_timeout").or(Duration::from_secs(30)),
        state_dir: section
            .parsed("state_dir", optional(parse_file))
            .or(Some(PathBuf::from(plan::STATE_DIR))),
        sandbox: section.choice("sandbox", &SANDBOX).or(plan::Sandbox::On),
    }
}

/// The words for [`plan::Sandbox`].
const SANDBOX: [(&str, plan::Sandbox); 3] =
    [("on", plan::Sandbox::On), ("log", plan::Sandbox::Log), ("off", plan::Sandbox::Off)];

fn admin(mut section: Section<'_, '_>) -> Admin {
    let socket = section.parsed("socket", optional(parse_socket_path));
    Admin {
        socket: socket.or(Some(PathBuf::from(plan::ADMIN_SOCKET))),
        http: section.parsed("http", optional(parse_bind)),
    }
}

fn log(mut section: Section<'_, '_>) -> plan::Log {
    let levels = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];
    let formats = [("text", Format::Text), ("json", Format::Json)];
    plan::Log {
        level: section.choice("level", &levels).or(Level::Info),
        format: section.choice("format", &formats).or(Format::Text),
        access: section.flag("access").or(true),
        file: section.parsed("file", optional(parse_file)).or(None),
        access_file: section.parsed("access_file", optional(parse_file)).or(None),
    }
}

fn pair(mut section: Section<'_, '_>) -> plan::Pair {
    plan::Pair { secret_file: section.parsed("secret_file", optional(parse_file)).or(None) }
}

fn listener(mut section: Section<'_, '_>) -> Listener {
    let Service { protocol, routes, pool } = protocol::service(&mut section);
    Listener {
        header: section.span,
        name: section.parsed("name", parse_name),
        bind: section.one_or_more("bind", |value| parse_bind(text(value)?)),
        protocol,
        routes,
        pool,
        max_connections: section.limit("max_connections"),
        guard: guard::guard(&mut section),
        client_timeout: section.duration("client_timeout").or(Duration::from_secs(10)),
        first_bytes_timeout: section.duration("first_bytes_timeout").or(Duration::from_secs(1)),
        idle_timeout: section.duration("idle_timeout").or(Duration::from_hours(1)),
        half_close_timeout: section.duration("half_close_timeout").or(Duration::from_mins(1)),
        user_timeout: section.duration_or_zero("user_timeout").or(Duration::ZERO),
    }
}

fn pool(name: Spanned<String>, mut section: Section<'_, '_>) -> Pool {
    let policies = [
        Balance::WeightedRoundRobin,
        Balance::LeastConnections,
        Balance::Random,
        Balance::SourceHash,
    ]
    .map(|policy| (policy.name(), policy));
    let all_down = [("refuse", AllDown::Refuse), ("try_all", AllDown::TryAll)];
    let ways = [("keep", plan::OnDown::Keep), ("reset", plan::OnDown::Reset)];
    let on_down = section.choice("on_down", &ways);
    let health = section.section("health", &known::HEALTH, health::health);
    if let Some(on_down) = on_down.as_given()
        && on_down.value == plan::OnDown::Reset
        && health.is_absent()
    {
        let message = "on_down: without [pool.NAME.health] nothing takes a backend down";
        section.errors.wrong(on_down.span, message.to_owned());
    }
    Pool {
        header: section.span,
        name,
        balance: section.choice("balance", &policies).or(Balance::WeightedRoundRobin),
        connect_timeout: section.duration("connect_timeout").or(Duration::from_secs(5)),
        retries: section.number("retries", 0..=100).or(2),
        queue_timeout: section.duration_or_zero("queue_timeout").or(Duration::from_secs(5)),
        backup_overflow: section.flag("backup_overflow").or(false),
        slow_start: section.duration_or_zero("slow_start").or(Duration::ZERO),
        all_down: section.choice("all_down", &all_down).or(AllDown::Refuse),
        on_down: on_down.or(plan::OnDown::Keep),
        user_timeout: section.duration_or_zero("user_timeout").or(Duration::from_secs(30)),
        source: section.parsed("source", optional(parse_source)),
        send_proxy: section.parsed("send_proxy", optional(guard::parse_send_proxy)).or(None),
        tls: section.section("tls", &known::POOL_TLS, tls::pool).value(),
        health: health.value(),
        passive: section.section_or_empty("passive", &known::PASSIVE, health::passive),
        backends: section.sections("backend", &known::BACKEND, backend),
    }
}

fn backend(mut section: Section<'_, '_>) -> Backend {
    let addresses = [("one", plan::Addresses::One), ("all", plan::Addresses::All)];
    Backend {
        header: section.span,
        name: section.parsed("name", parse_name),
        address: section.parsed("address", parse_backend),
        addresses: section.choice("addresses", &addresses),
        weight: section.number("weight", 0..=u16::MAX).or(100),
        max_connections: section.limit("max_connections"),
        health_port: NonZeroU16::new(section.number("health_port", 0..=u16::MAX).or(0)),
        backup: section.flag("backup").or(false),
    }
}

/// Reads `""` as nothing, and anything else by `parse`.
pub(super) fn optional<T>(
    parse: impl FnOnce(&str) -> Result<T, Problem>,
) -> impl FnOnce(&str) -> Result<Option<T>, Problem> {
    |text| {
        if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
    }
}

/// Reads the path of a file. A relative one stays relative, to where the process was started.
pub(super) fn parse_file(text: &str) -> Result<PathBuf, Problem> {
    // PATH_MAX, less the NUL at its end; see path_resolution(7).
    const MAX_BYTES: usize = 4095;
    if text.is_empty() {
        return Err(Problem::new("a path is missing"));
    }
    if text.len() > MAX_BYTES {
        return Err(Problem::new(format!("a path has at most {MAX_BYTES} bytes")));
    }
    if text.contains('\0') {
        return Err(Problem::new("a path cannot hold a NUL character"));
    }
    Ok(PathBuf::from(text))
}

fn parse_socket_path(text: &str) -> Result<PathBuf, Problem> {
    // sun_path of sockaddr_un, less the NUL at its end; see unix(7).
    const MAX_BYTES: usize = 107;
    if text.len() > MAX_BYTES {
        let message = format!("the path of a unix socket has at most {MAX_BYTES} bytes");
        return Err(Problem::new(message));
    }
    if text.contains('\0') {
        return Err(Problem::new("a path cannot hold a NUL character"));
    }
    Ok(PathBuf::from(text))
}
