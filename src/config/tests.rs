//! Whole files: what they mean, and what is said about mistakes in them.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::plan::{
    Address, Addresses, Admin, AllDown, Backend, Balance, Check, Format, Guard, Level, Listener,
    Log, OnDown, Pair, Passive, Plan, Pool, Protocol, Runtime, Sandbox, Step,
};
use super::vocabulary as known;
use super::{Error, Report, parse};

mod example;
mod files;
mod guard;
mod mistakes;
mod properties;
mod tls;
mod vrrp;

const EXAMPLE: &str = include_str!("../../config/lockgate.toml");

const MINIMAL: &str = r#"
[[listener]]
name = "web"
bind = "0.0.0.0:80"
pool = "web"

[[pool.web.backend]]
address = "10.0.0.1:80"
"#;

fn report(source: &str) -> Report {
    match parse("t.toml", source) {
        Err(Error::Invalid(report)) => report,
        other => panic!("{source}\nis no report: {other:?}"),
    }
}

/// Each error as `LINE:COLUMN MESSAGE`.
fn messages(source: &str) -> Vec<String> {
    let report = report(source);
    let shown = report.errors().iter().map(|e| format!("{}:{} {}", e.line, e.column, e.message));
    shown.collect()
}

/// [`MINIMAL`] with `extra` in place of one of its lines, or as a section before the others.
fn minimal_with(section: &str, extra: &str) -> String {
    match section {
        "listener" => MINIMAL.replace("pool = \"web\"\n", &format!("pool = \"web\"\n{extra}\n")),
        "backend" => format!("{MINIMAL}{extra}\n"),
        section => format!("[{section}]\n{extra}\n{MINIMAL}"),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn defaults() {
    let plan = parse("t.toml", MINIMAL).unwrap();
    let expected = Plan {
        runtime: Runtime {
            workers: None,
            pin: true,
            max_connections: None,
            drain_timeout: seconds(30),
            state_dir: Some("/var/lib/lockgate".into()),
            sandbox: Sandbox::On,
        },
        admin: Admin {
            socket: Some("/run/lockgate/admin.sock".into()),
            http: Some("127.0.0.1:8404".parse().unwrap()),
        },
        log: Log {
            level: Level::Info,
            format: Format::Text,
            access: true,
            file: None,
            access_file: None,
        },
        pair: Pair { secret_file: None },
        nodes: Vec::new(),
        listeners: vec![Listener {
            name: "web".to_owned(),
            bind: vec!["0.0.0.0:80".parse().unwrap()],
            protocol: Protocol::Tcp,
            routes: Vec::new(),
            pool: Some(0),
            max_connections: None,
            guard: Guard::default(),
            client_timeout: seconds(10),
            first_bytes_timeout: seconds(1),
            idle_timeout: seconds(3600),
            half_close_timeout: seconds(60),
            user_timeout: Duration::ZERO,
        }],
        pools: vec![Pool {
            name: "web".to_owned(),
            balance: Balance::WeightedRoundRobin,
            connect_timeout: seconds(5),
            retries: 2,
            queue_timeout: seconds(5),
            backup_overflow: false,
            slow_start: Duration::ZERO,
            all_down: AllDown::Refuse,
            on_down: OnDown::Keep,
            user_timeout: seconds(30),
            source: None,
            send_proxy: None,
            tls: None,
            health: None,
            passive: Some(Passive {
                max_fails: NonZeroU32::new(3).unwrap(),
                window: seconds(30),
                eject_for: seconds(30),
                max_ejected: 50,
            }),
            backends: vec![Backend {
                addresses: Addresses::One,
                health_port: None,
                name: "10.0.0.1:80".to_owned(),
                address: Address::Socket("10.0.0.1:80".parse().unwrap()),
                weight: 100,
                max_connections: None,
                backup: false,
            }],
        }],
        vrrp: Vec::new(),
    };
    assert_eq!(plan, expected);
}

#[test]
fn an_overflow_that_cannot_happen_is_a_doubt() {
    let overflowing = |backends: &[&str]| {
        let backends = backends.iter().enumerate().map(|(index, lines)| {
            format!("[[pool.p.backend]]\naddress = '10.0.0.{}:80'\n{lines}\n", index + 1)
        });
        let listener = "[[listener]]\nname = 'web'\nbind = ['127.0.0.1:80']\npool = 'p'\n";
        let text = format!("{listener}[pool.p]\nbackup_overflow = true\n");
        parse("t.toml", &(text + &backends.collect::<String>())).unwrap().doubts()
    };
    let start = "pool p: backup_overflow has no effect: no backend ";
    assert_eq!(overflowing(&["max_connections = 1"]), [format!("{start}is a backup")]);
    assert_eq!(
        overflowing(&["", "backup = true\nmax_connections = 1"]),
        [format!("{start}but the backups has max_connections")]
    );
    assert_eq!(overflowing(&["max_connections = 1", "backup = true"]), [""; 0]);
}

#[test]
fn everything_set() {
    let plan = parse(
        "t.toml",
        r#"
[runtime]
workers = 4
pin = false
max_connections = 50_000
drain_timeout = "0s"
state_dir = ""
sandbox = "log"
[admin]
socket = ""
http = ""
[log]
level = "trace"
format = "json"
access = false
file = "log/events"
access_file = "/var/log/records"
[[listener]]
name = "none"
bind = ["[::]:443", "0.0.0.0:443"]
protocol = "tcp"
max_connections = 7
idle_timeout = "2d"
half_close_timeout = "1ms"
user_timeout = "45s"
[pool.z]
balance = "source_hash"
connect_timeout = "250ms"
retries = 0
queue_timeout = "0s"
backup_overflow = true
slow_start = "1m"
all_down = "try_all"
on_down = "reset"
user_timeout = "0s"
source = "10.0.0.9"
[pool.z.health]
type = "http"
interval = "400ms"
timeout = "3s"
rise = 1
fall = 1
port = 81
tls = true
path = "/up?full=1"
host = "example.com"
expect_status = [204, "200", "300-399"]
[pool.z.passive]
max_fails = 0
[[pool.z.backend]]
name = "one"
address = "Web.Example.:80"
weight = 65535
max_connections = 9
[[pool.z.backend]]
name = "two"
address = "web.example:80"
weight = 0
backup = true
[pool.a]
backend = [{ address = "[2001:db8::1]:80" }]
[pool.a.health]
type = "send_expect"
send = "PING\r\n"
expect = "+PONG"
"#,
    )
    .unwrap();
    assert_eq!(plan.runtime.workers, NonZeroUsize::new(4));
    assert_eq!(plan.runtime.max_connections, NonZeroU32::new(50_000));
    assert_eq!(plan.runtime.drain_timeout, Duration::ZERO);
    assert_eq!(plan.runtime.state_dir, None);
    assert_eq!(plan.runtime.sandbox, Sandbox::Log);
    assert_eq!(plan.admin, Admin { socket: None, http: None });
    let log = Log {
        level: Level::Trace,
        format: Format::Json,
        access: false,
        file: Some("log/events".into()),
        access_file: Some("/var/log/records".into()),
    };
    assert_eq!(plan.log, log);
    assert_eq!(plan.listeners[0].pool, None);
    assert_eq!(plan.listeners[0].max_connections, NonZeroU32::new(7));
    assert_eq!(plan.listeners[0].idle_timeout, seconds(2 * 86_400));

    let [z, a] = &plan.pools[..] else { panic!("pools in the order of the file") };
    assert_eq!((z.name.as_str(), a.name.as_str()), ("z", "a"));
    assert_eq!(z.source, Some("10.0.0.9".parse().unwrap()));
    assert_eq!(plan.listeners[0].user_timeout, seconds(45));
    assert_eq!((z.on_down, z.user_timeout), (OnDown::Reset, Duration::ZERO));
    assert_eq!((a.on_down, a.user_timeout), (OnDown::Keep, seconds(30)));
    assert_eq!(z.passive, None);
    let health = z.health.as_ref().unwrap();
    assert_eq!(health.fast_interval, Duration::from_millis(400), "never above the interval");
    assert_eq!(health.port, Some(81));
    let http = Check::Http {
        tls: true,
        path: "/up?full=1".to_owned(),
        host: Some("example.com".to_owned()),
        expect_status: vec![204..=204, 200..=200, 300..=399],
    };
    assert_eq!(health.check, http);
    assert_eq!(z.backends[0].address, z.backends[1].address);
    assert_eq!(z.backends[0].address.to_string(), "web.example:80");
    assert_eq!(z.backends[0].max_connections, NonZeroU32::new(9));
    assert!(z.backends[1].backup);
    let steps = vec![Step::Send(b"PING\r\n".to_vec()), Step::Begins(b"+PONG".to_vec())];
    let exchange = Check::SendExpect(steps);
    assert_eq!(a.health.as_ref().unwrap().check, exchange);
}
