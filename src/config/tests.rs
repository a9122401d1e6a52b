//! Whole files: what they mean, and what is said about mistakes in them.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::plan::{
    Address, Admin, AllDown, Backend, Balance, Check, Format, Guard, Level, Listener, Log, Pair,
    Passive, Plan, Pool, Protocol, Runtime, Sandbox,
};
use super::vocabulary as known;
use super::{Error, Report, parse};

mod files;
mod guard;
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
            idle_timeout: seconds(3600),
            half_close_timeout: seconds(60),
        }],
        pools: vec![Pool {
            name: "web".to_owned(),
            balance: Balance::WeightedRoundRobin,
            connect_timeout: seconds(5),
            retries: 2,
            queue_timeout: seconds(5),
            slow_start: Duration::ZERO,
            all_down: AllDown::Refuse,
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
[pool.z]
balance = "source_hash"
connect_timeout = "250ms"
retries = 0
queue_timeout = "0s"
slow_start = "1m"
all_down = "try_all"
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
    let exchange = Check::SendExpect { send: b"PING\r\n".to_vec(), expect: b"+PONG".to_vec() };
    assert_eq!(a.health.as_ref().unwrap().check, exchange);
}

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let shown = parse("lockgate.toml", EXAMPLE).unwrap();
    let bare = r#"
[[listener]]
name = "web"
bind = ["0.0.0.0:8080", "[::]:8080"]
pool = "web"
[pool.web.health]
[[pool.web.backend]]
name = "web-1"
address = "127.0.0.1:3000"
[[pool.web.backend]]
address = "127.0.0.1:3001"
"#;
    assert_eq!(shown, parse("t.toml", bare).unwrap());
}

#[test]
fn the_example_shows_the_defaults_of_other_checks() {
    let mut http = EXAMPLE.replace("type = \"tcp\"", "type = \"http\"");
    for key in ["tls", "path", "host", "expect_status"] {
        http = http.replace(&format!("# {key} = "), &format!("{key} = "));
    }
    let bare = EXAMPLE.replace("type = \"tcp\"", "type = \"http\"");
    assert_eq!(parse("t.toml", &http).unwrap(), parse("t.toml", &bare).unwrap());

    let send = EXAMPLE
        .replace("type = \"tcp\"", "type = \"send_expect\"")
        .replace("# send = ", "send = ")
        .replace("# expect = ", "expect = ");
    parse("t.toml", &send).unwrap();
}

/// The example with all of its sections: those in comments begin with a header and end at an empty
/// line.
fn uncommented() -> String {
    let mut is_inside = false;
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        is_inside = !line.is_empty() && (is_inside || line.starts_with("# ["));
        let bare = line.strip_prefix("# ").or_else(|| line.strip_prefix('#')).unwrap_or(line);
        text.push_str(if is_inside { bare } else { line });
        text.push('\n');
    }
    text
}

#[test]
fn the_example_shows_the_defaults_of_tls_and_vrrp() {
    let bare = r#"
[node.gw1]
address = "10.0.1.10"
priority = 150
[node.gw2]
address = "10.0.1.11"
[[listener]]
name = "web"
bind = ["0.0.0.0:8080", "[::]:8080"]
pool = "web"
[listener.limit]
[[listener]]
name = "https"
bind = ["0.0.0.0:8443", "[::]:8443"]
protocol = "tls"
pool = "web"
[[listener.tls.certificates]]
cert = "/etc/lockgate/example.com.pem"
key = "/etc/lockgate/example.com.key"
[[listener.route]]
sni = ["admin.example.com", "*.internal.example.com"]
pool = "web"
[[listener]]
name = "passthrough"
bind = ["0.0.0.0:9443", "[::]:9443"]
protocol = "tls_passthrough"
pool = "web"
[[listener]]
name = "http"
bind = ["0.0.0.0:80", "[::]:80"]
protocol = "redirect"
[pool.web.tls]
[pool.web.health]
[[pool.web.backend]]
name = "web-1"
address = "127.0.0.1:3000"
[[pool.web.backend]]
address = "127.0.0.1:3001"
[[vrrp]]
name = "public"
interface = "eth0"
vrid = 51
addresses = "10.0.1.100/24"
"#;
    let shown = parse("lockgate.toml", &uncommented()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(shown, parse("t.toml", bare).unwrap());
}

#[test]
fn the_example_shows_every_key() {
    let example = uncommented();
    for section in known::SECTIONS {
        let name = if section.title == "[node.NAME]" { "gw1" } else { "web" };
        let title = section.title.replace("NAME", name);
        let path = match title.trim_matches(['[', ']']) {
            "the file" => String::new(),
            path => format!("{path}."),
        };
        for key in section.keys {
            let (written, below) = (format!("{key} = "), format!("{path}{key}"));
            let mut is_inside = false;
            let is_shown = example.lines().any(|line| match line.strip_prefix('[') {
                Some(header) => {
                    is_inside = line.starts_with(&title);
                    let rest = header.trim_start_matches('[').strip_prefix(&below);
                    rest.is_some_and(|rest| rest.starts_with([']', '.']))
                }
                None if title.starts_with('{') => line.contains(&format!(" {written}")),
                // Keys of other kinds of checks are in comments.
                None => is_inside && line.trim_start_matches("# ").starts_with(&written),
            });
            assert!(is_shown, "{key} of {title}");
        }
    }
}

/// [`MINIMAL`] with `extra` in place of one of its lines, or as a section before the others.
fn minimal_with(section: &str, extra: &str) -> String {
    match section {
        "listener" => MINIMAL.replace("pool = \"web\"\n", &format!("pool = \"web\"\n{extra}\n")),
        "backend" => format!("{MINIMAL}{extra}\n"),
        section => format!("[{section}]\n{extra}\n{MINIMAL}"),
    }
}

#[test]
fn one_mistake_one_error() {
    for (section, extra, expected) in [
        // Keys.
        ("runtime", "worker = 1", "2:1 unknown key 'worker' in [runtime]"),
        ("runtme", "workers = 1", "1:2 unknown key 'runtme' in the file"),
        ("backend", "wieght = 1", "9:1 unknown key 'wieght' in [[pool.NAME.backend]]"),
        ("listener", "\"a\\nb\" = 1", "6:1 unknown key 'a\u{fffd}b' in [[listener]]"),
        // Types.
        ("runtime", "pin = 1", "2:7 pin: expected true or false, found a number"),
        ("runtime", "workers = '4'", "2:11 workers: expected a whole number, found text"),
        ("runtime", "workers = 1.5", "2:11 workers: expected a whole number, found a fraction"),
        ("runtime", "drain_timeout = 5", "2:17 drain_timeout: expected a duration, found a number"),
        ("log", "level = true", "2:9 level: expected text in quotes, found true or false"),
        ("pool.web", "health = 1", "2:10 health: expected [pool.NAME.health], found a number"),
        ("pool.web", "passive = []", "2:11 passive: expected [pool.NAME.passive], found a list"),
        // Ranges.
        ("runtime", "workers = 1025", "2:11 workers: 1025 is out of range (0 to 1024)"),
        ("runtime", "workers = -1", "2:11 workers: -1 is out of range (0 to 1024)"),
        (
            "runtime",
            "workers = 0x7fff_ffff_ffff_ffff",
            "2:11 workers: 0x7fffffffffffffff is out of range (0 to 1024)",
        ),
        ("backend", "weight = 65536", "9:10 weight: 65536 is out of range (0 to 65535)"),
        ("pool.web", "retries = 101", "2:11 retries: 101 is out of range (0 to 100)"),
        (
            "pool.web.passive",
            "max_ejected = 101",
            "2:15 max_ejected: 101 is out of range (0 to 100)",
        ),
        ("pool.web.health", "rise = 0", "2:8 rise: 0 is out of range (1 to 65535)"),
        ("pool.web.health", "port = 65536", "2:8 port: 65536 is out of range (0 to 65535)"),
        ("listener", "idle_timeout = '0s'", "6:16 idle_timeout: must be longer than zero"),
        (
            "listener",
            "half_close_timeout = '0s'",
            "6:22 half_close_timeout: must be longer than zero",
        ),
        ("pool.web", "connect_timeout = '0ms'", "2:19 connect_timeout: must be longer than zero"),
        (
            "pool.web",
            "connect_timeout = '400d'",
            "2:19 connect_timeout: '400d' is longer than 366 days",
        ),
        ("pool.web.health", "interval = '0s'", "2:12 interval: must be longer than zero"),
        (
            "pool.web.health",
            "fast_interval = '3s'",
            "2:17 fast_interval: 3s is longer than the interval of 2s",
        ),
        ("pool.web.passive", "window = '0s'", "2:10 window: must be longer than zero"),
        // Values.
        ("log", "level = 'warning'", "2:9 level: unknown value 'warning'"),
        ("pool.web", "balance = 'round_robin'", "2:11 balance: unknown value 'round_robin'"),
        ("listener", "protocol = 'udp'", "6:12 protocol: 'udp' is not supported yet"),
        ("listener", "protocol = 'tpc'", "6:12 protocol: unknown value 'tpc'"),
        ("admin", "http = ':8404'", "2:8 http: no host in ':8404'"),
        ("pool.web", "source = '10.0.0.1:80'", "2:10 source: '10.0.0.1:80' is not an IP address"),
        (
            "pool.web",
            "source = '::1'",
            "10:11 address: 10.0.0.1:80 cannot be reached from source ::1 on line 2",
        ),
        (
            "backend",
            "name = 'a/b'",
            "9:8 name: 'a/b' holds a '/', white space or a control character",
        ),
        // Health.
        ("pool.web.health", "path = '/'", "2:1 'path' is a key of type \"http\", not of \"tcp\""),
        (
            "pool.web.health",
            "type = 'tls'\ntls = true",
            "3:1 'tls' is a key of type \"http\", not of \"tls\"",
        ),
        (
            "pool.web.health",
            "type = 'http'\nsend = ''",
            "3:1 'send' is a key of type \"send_expect\", not of \"http\"",
        ),
        (
            "pool.web.health",
            "type = 'send_expect'",
            "1:1 type \"send_expect\" needs the key 'expect'",
        ),
        (
            "pool.web.health",
            "type = 'send_expect'\nexpect = ''",
            "3:10 expect: must not be empty: any answer begins with nothing",
        ),
        ("pool.web.health", "type = 'http'\npath = 'up'", "3:8 path: a path begins with '/'"),
        (
            "pool.web.health",
            "type = 'http'\npath = '/a b'",
            "3:8 path: the character \\u{20} is not allowed here",
        ),
        (
            "pool.web.health",
            "type = 'http'\nhost = \"a\\r\\nb\"",
            "3:8 host: the character \\u{d} is not allowed here",
        ),
        (
            "pool.web.health",
            "type = 'http'\nexpect_status = []",
            "3:17 expect_status: must not be empty",
        ),
        (
            "pool.web.health",
            "type = 'http'\nexpect_status = [200, 600]",
            "3:23 expect_status: 600 is out of range (100 to 599)",
        ),
        (
            "pool.web.health",
            "type = 'http'\nexpect_status = '2xx'",
            "3:17 expect_status: '2xx' is not a status or range within 100 to 599",
        ),
        (
            "pool.web.health",
            "type = 'http'\nexpect_status = '399-200'",
            "3:17 expect_status: '399-200' is an empty range",
        ),
        ("pool.web.health", "type = 'htp'\npath = '/'\nsend = ''", "2:8 type: unknown value 'htp'"),
    ] {
        let source = minimal_with(section, extra);
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

#[test]
fn mistakes_across_sections() {
    let pool = "[[pool.p.backend]]\naddress = 'h:1'\n";
    for (source, expected) in [
        ("", "1:1 no [[listener]]: nothing to do"),
        ("[log]\n", "1:1 no [[listener]]: nothing to do"),
        ("listener = []\n", "1:1 no [[listener]]: nothing to do"),
        ("[[listener]]\nbind = '10.0.0.1:1'\n", "1:1 this listener has no 'name'"),
        ("[[listener]]\nname = 'a'\n", "1:1 this listener has no 'bind'"),
        ("[[listener]]\nname = 'a'\nbind = []\n", "3:8 bind: must not be empty"),
        (
            "[listener]\nname = 'a'\nbind = '10.0.0.1:1'\n",
            "1:1 listener: there can be several of these",
        ),
        ("listener = 5\n", "1:12 listener: expected [[listener]], found a number"),
        ("listener = [5]\n", "1:13 listener: expected [[listener]], found a number"),
        (
            "[[listener]]\nname = 'a'\nbind = 'h:0'\n",
            "3:8 bind: port 0 is out of range (1 to 65535)",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '10.0.0.1:1'\npool = 'q'\n",
            "4:8 pool: no pool is named 'q'",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = ['10.0.0.1:1', '10.0.0.1:1']\n",
            "3:23 bind: 10.0.0.1:1 is already bound on line 3",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '10.0.0.1:1'\n\
             [[listener]]\nname = 'b'\nbind = '0.0.0.0:1'\n",
            "6:8 bind: 0.0.0.0:1 overlaps 10.0.0.1:1 on line 3",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '[::]:1'\n\
             [[listener]]\nname = 'b'\nbind = '[::1]:1'\n",
            "6:8 bind: [::1]:1 overlaps [::]:1 on line 3",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '10.0.0.1:1'\n\
             [[listener]]\nname = 'a'\nbind = '10.0.0.1:2'\n",
            "5:8 listener name 'a' is already used on line 2",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '0.0.0.0:9'\n[admin]\nhttp = '127.0.0.1:9'\n",
            "3:8 bind: 0.0.0.0:9 overlaps admin.http on line 5",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '0.0.0.0:8404'\n",
            "3:8 bind: 0.0.0.0:8404 overlaps admin.http",
        ),
    ] {
        assert_eq!(messages(source), [expected], "{source}");
        assert_eq!(messages(&format!("{source}{pool}")).len(), 1, "{source}");
    }

    for (pools, expected) in [
        ("[pool.web]\n", "1:1 pool 'web' has no backends"),
        ("[pool.web]\nbackend = []\n", "1:1 pool 'web' has no backends"),
        ("[pool]\nweb = 5\n", "2:7 web: expected [pool.NAME], found a number"),
        ("pool = 5\n", "1:8 pool: expected [pool.NAME], found a number"),
        ("[[pool]]\nname = 'web'\n", "1:1 pool: expected [pool.NAME], found a list"),
        (
            "[pool.web]\nbackend = 'h:1'\n",
            "2:11 backend: expected [[pool.NAME.backend]], found text",
        ),
        ("[pool.web.backend]\naddress = 'h:1'\n", "1:1 backend: there can be several of these"),
        ("[[pool.web.backend]]\nweight = 1\n", "1:1 this backend has no 'address'"),
        ("[[pool.web.backend]]\naddress = 'h'\n", "2:11 address: no port in 'h'"),
        (
            "[[pool.web.backend]]\naddress = 'h:1'\n[[pool.web.backend]]\naddress = 'H:1'\n",
            "4:11 backend name 'h:1' is already used on line 2",
        ),
        (
            "[[pool.web.backend]]\nname = 'h:1'\naddress = 'h:2'\n\
             [[pool.web.backend]]\naddress = 'h:1'\n",
            "5:11 backend name 'h:1' is already used on line 2",
        ),
        (
            "[pool.'a b']\n[[pool.'a b'.backend]]\naddress = 'h:1'\n\
             [[pool.web.backend]]\naddress = 'h:1'",
            "1:7 pool: 'a b' holds a '/', white space or a control character",
        ),
    ] {
        let listener = "\n[[listener]]\nname = 'a'\nbind = '10.0.0.1:1'\npool = 'web'\n";
        let source = format!("{pools}{listener}");
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

#[test]
fn wildcards_of_two_families_do_not_overlap() {
    let source = "[[listener]]\nname = 'a'\nbind = ['0.0.0.0:8404', '[::]:8404']\n[admin]\n";
    parse("t.toml", &format!("{source}http = ''\n")).unwrap();
    parse("t.toml", &format!("{source}http = '127.0.0.1:8405'\n")).unwrap();
}

#[test]
fn syntax_errors_hide_nothing_and_cause_nothing() {
    for (source, expected) in [
        // The header is closed, so its keys stay its own.
        (
            MINIMAL.replace("[[listener]]", "[[listener"),
            vec!["2:11 unclosed array table, expected `]]`"],
        ),
        // The array does not swallow the pool.
        (
            MINIMAL.replace("\"0.0.0.0:80\"", "[\"0.0.0.0:0\""),
            vec!["4:8 unclosed array, expected `]`"],
        ),
        (
            MINIMAL
                .replace("\"0.0.0.0:80\"", "[\"0.0.0.0:80\",")
                .replace("10.0.0.1:80", "10.0.0.1"),
            vec!["4:8 unclosed array, expected `]`", "8:11 address: no port in '10.0.0.1'"],
        ),
        // Unquoted text, a missing value, a key without a value.
        (
            minimal_with("log", "level = info\naccess = yes\nformat =\nlvl\nfoo = 1"),
            vec![
                "2:9 'info' is not a value; text is written in quotes",
                "3:10 'yes' is not a value; text is written in quotes",
                "4:9 a value is missing",
                "5:4 key with no value, expected `=`",
                "6:1 unknown key 'foo' in [log]",
            ],
        ),
        // A required key on a broken line is not called missing; in another section it is.
        (
            MINIMAL
                .replace("name = \"web\"", "name = web")
                .replace("address = \"10.0.0.1:80\"", ""),
            vec![
                "3:8 'web' is not a value; text is written in quotes",
                "7:1 this backend has no 'address'",
            ],
        ),
        // Twice the same.
        (
            minimal_with("log", "level = 'info'\nlevel = 'warn'"),
            vec!["3:1 'level' is already defined"],
        ),
        (
            format!("{MINIMAL}[log]\n[log]\nx = 1\n"),
            vec!["10:2 'log' is already defined", "11:1 unknown key 'x' in [log]"],
        ),
    ] {
        assert_eq!(messages(&source), expected, "{source}");
    }
}

#[test]
fn suggestions() {
    for (section, extra, note, help) in [
        ("runtime", "worker = 1", None, Some("did you mean 'workers'?")),
        ("runtime", "zzz = 1", None, None),
        ("runtime", "level = 1", Some("'level' is a key of [log]"), None),
        ("log", "level = 'inof'", None, Some("did you mean 'info'?")),
        ("log", "level = 'x'", None, Some("one of error, warn, info, debug, trace")),
        ("log", "access = 'true'", None, None),
        ("log", "level = info", None, Some("write \"info\"")),
        ("log", "access = yes", None, Some("write true")),
        ("runtime", "drain_timeout = 5", None, Some("write \"5s\"")),
        ("runtime", "workers = '5'", None, Some("write 5")),
        ("pool.web", "balance = 'round_robin'", None, Some("did you mean 'weighted_round_robin'?")),
        (
            "pool.wbe",
            "backend = [{ address = 'h:1' }]\n\
             [[listener]]\nname = 'x'\nbind = '10.0.0.1:9'\npool = 'wb'",
            None,
            Some("did you mean 'wbe'?"),
        ),
        ("pool.web.health", "path = '/'", Some("without a 'type', the type is \"tcp\""), None),
    ] {
        let source = minimal_with(section, extra);
        let report = report(&source);
        let [error] = report.errors() else { panic!("{source}\n{report}") };
        assert_eq!((error.note.as_deref(), error.help.as_deref()), (note, help), "{source}");
    }
}

#[test]
fn columns_count_characters() {
    let source = "# ö\r\n[[listener]]\r\nname = 'a'\r\nbind = ['日本', '[::]:1']\r\nü = 1\r\n";
    assert_eq!(messages(source)[0], "4:9 bind: no port in '日本'");
    let bom = format!("\u{feff}lissener = 1\n{MINIMAL}");
    assert_eq!(messages(&bom), ["1:1 unknown key 'lissener' in the file"]);
}

#[test]
fn many_mistakes_at_once() {
    let source = r#"[runtime]
worker = 4
pin = "yes"
drain_timeout = 30

[log]
level = "inof"
format = json

[[listener]]
name = "web"
bind = ["*:443", "10.0.0.1:70000", "10.0.0.1:80"]
pool = "wbe"

[[listener]]
name = "web"
bind = "0.0.0.0:80"
protocol = "udp"
idle_timeout = "0s"

[pool.web]
retries = 1000
source = "10.0.0.9"

[pool.web.health]
path = "healthz"

[[pool.web.backend]]
address = "[::1]:3000"

[[vrrp]]
interface = "eth0"
vrid = 510
addresses = ["10.0.1.100"]
priority = 150
"#;
    let rendered = report(source).to_string();
    assert_eq!(rendered, include_str!("tests/many_mistakes.txt").trim_end(), "\n{rendered}\n");
}

#[test]
fn a_single_error_is_counted_as_one() {
    let report = report("");
    assert!(report.render(false).ends_with("\n1 error in t.toml"));
    assert!(report.render(false).contains("--> t.toml:1:1\n"));
    assert!(!report.render(false).contains('\u{1b}'));
    assert!(report.render(true).contains('\u{1b}'));
}

#[test]
fn a_long_line_and_many_errors_are_named_and_cut() {
    let source = format!("[runtime]\nx = '{}'\n{MINIMAL}", "a".repeat(100_000));
    let rendered = report(&source).render(false);
    assert!(rendered.contains("--> t.toml:2:1") && rendered.len() < 500, "{rendered}");

    let source: String = (0..1500).map(|i| format!("k{i} = 1\n")).collect();
    let report = report(&source);
    assert_eq!(report.errors().len(), 1501);
    assert!(report.to_string().ends_with("1501 errors in t.toml (the first 1000 are shown)"));
}

#[test]
fn deep_nesting_is_answered() {
    // Multi-line strings are repaired one by one, which takes time.
    for (part, times) in [
        ("a.", 20_000),
        ("[", 20_000),
        ("{a=", 20_000),
        ("[{a=", 20_000),
        ("[[", 20_000),
        ("\"\"\"", 500),
        ("'''\n", 500),
        ("a=[\n", 500),
    ] {
        let deep = part.repeat(times);
        for source in [deep.clone(), format!("a = {deep}"), format!("[{deep}a]\n")] {
            parse("t.toml", &source).unwrap_err();
        }
    }
}
