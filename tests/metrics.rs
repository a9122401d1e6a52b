//! What Prometheus reads: every promised series with its labels, nothing that strangers can make
//! grow, and at a price that nobody notices.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::lan::{self, Lan};
use crate::harness::tls::{Authority, Store, visit_tls};
use crate::harness::{
    Config, Frozen, Gateway, Server, connect, connect_from, eventually, hello, unused_address,
    visit_from,
};

/// What the project promises: each name and its labels, in the order of its documentation.
const PROMISED: &[(&str, &[&str])] = &[
    ("connections_total", &["listener"]),
    ("connections_active", &["listener"]),
    ("connection_duration_seconds_bucket", &["listener", "le"]),
    ("connection_duration_seconds_sum", &["listener"]),
    ("connection_duration_seconds_count", &["listener"]),
    ("connections_closed_total", &["listener", "reason"]),
    ("bytes_total", &["listener", "direction"]),
    ("backend_connections_total", &["pool", "backend"]),
    ("backend_connections_active", &["pool", "backend"]),
    ("backend_bytes_total", &["pool", "backend", "direction"]),
    ("backend_connect_seconds_bucket", &["pool", "le"]),
    ("backend_connect_seconds_sum", &["pool"]),
    ("backend_connect_seconds_count", &["pool"]),
    ("backend_connect_failures_total", &["pool", "backend", "reason"]),
    ("backend_up", &["pool", "backend"]),
    ("backend_effective_weight", &["pool", "backend"]),
    ("backend_health_checks_total", &["pool", "backend", "result"]),
    ("retries_total", &["pool"]),
    ("queue_depth", &["pool"]),
    ("worker_connections_active", &["worker"]),
    ("tls_handshakes_total", &["listener", "version", "resumed"]),
    ("tls_handshake_failures_total", &["listener", "reason"]),
    ("tls_handshake_seconds_bucket", &["listener", "le"]),
    ("tls_handshake_seconds_sum", &["listener"]),
    ("tls_handshake_seconds_count", &["listener"]),
    ("tls_certificate_not_after_seconds", &["name", "file"]),
    ("config_reloads_total", &["result"]),
    ("config_generation", &[]),
    ("vrrp_state", &["instance"]),
    ("vrrp_priority", &["instance"]),
    ("vrrp_transitions_total", &["instance", "to"]),
    ("vrrp_adverts_total", &["instance", "direction"]),
    ("vrrp_advert_errors_total", &["instance", "reason"]),
    ("build_info", &["version"]),
    // Not promised, but what the alerts stand on.
    ("backend_drained", &["pool", "backend"]),
    ("pool_usable", &["pool"]),
    ("worker_silence_seconds", &["worker"]),
    ("ready", &[]),
    ("config_last_reload_successful", &[]),
    ("connections_limit", &[]),
    ("limited_total", &["listener", "limit"]),
    ("log_dropped_total", &["log", "reason"]),
    ("tls_certificate_renewals_total", &["result"]),
];

/// A series: its name and labels, without its value.
fn series(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

/// The names of the labels of a series. No value in these tests has a comma or a brace.
fn labels(series: &str) -> BTreeSet<&str> {
    let inside = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
    inside
        .split(',')
        .filter(|label| !label.is_empty())
        .map(|l| l.split_once('=').unwrap().0)
        .collect()
}

fn name(series: &str) -> &str {
    series.split('{').next().unwrap()
}

/// Has `promtool` judge a scrape.
fn check_metrics(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the package prometheus: see scripts/setup");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn every_promised_series_is_there_with_its_labels_and_explained() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let (authority, store) = (Authority::new("authority"), Store::new());
    let files = store.put("site", &authority.issue(&["www.example.com"]));
    let health = "health = { type = \"tcp\", interval = \"1s\" }";
    let config = lan::config()
        .listener("limit = { rate = \"1000/s\", connections = 1000 }")
        .tls(&[&files], "")
        .pool(health)
        .backend(&server, "");
    let [gateway, _backup] = lan.pair(config.to_string() + &lan::pair(""));

    let text = gateway.get("/metrics");
    let found = series(&text);
    for (short, expected) in PROMISED {
        let full = format!("lockgate_{short}");
        let mut of = found.iter().filter(|series| name(series) == full).peekable();
        assert!(of.peek().is_some(), "{full} is missing in:\n{text}");
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        // Packets that belong to no instance are counted without one.
        let expected = |series| match full.as_str() {
            "lockgate_vrrp_advert_errors_total" => labels(series).is_subset(&expected),
            _ => labels(series) == expected,
        };
        of.for_each(|series| assert!(expected(series), "{series}"));
    }
    for process in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds"] {
        assert!(found.contains(format!("process_{process}").as_str()), "{process}");
    }
    for series in &found {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name(series).strip_suffix(suffix))
            .unwrap_or_else(|| name(series));
        for comment in ["HELP", "TYPE"] {
            assert!(text.contains(&format!("# {comment} {family} ")), "{comment} of {family}");
        }
    }
    check_metrics(&text);
}

#[test]
fn a_scrape_is_ordered_by_name() {
    let server = Server::named("a");
    let gateway = Gateway::start(Config::new(unused_address()).backend(&server, ""));
    let text = gateway.get("/metrics");
    let helps: Vec<_> = text.lines().filter(|line| line.starts_with("# HELP")).collect();
    assert!(helps.is_sorted() && helps.len() > 20, "{helps:#?}");
}

/// Everything that a stranger can choose, each many times and differently: the set of series must
/// not notice.
#[test]
fn strangers_make_nothing_grow() {
    let (tcp, tls, passing, http) =
        (unused_address(), unused_address(), unused_address(), unused_address());
    let server = Server::named("a");
    let (authority, store) = (Authority::new("authority"), Store::new());
    let files = store.put("site", &authority.issue(&["www.example.com"]));
    let config = Config::new(tls).tls(&[&files], "").backend(&server, "").to_string()
        + &format!(
            "[[listener]]\nname = \"tcp\"\nbind = \"{tcp}\"\npool = \"app\"\n\
             [[listener]]\nname = \"passing\"\nbind = \"{passing}\"\npool = \"app\"\n\
             protocol = \"tls_passthrough\"\n\
             [[listener]]\nname = \"http\"\nbind = \"{http}\"\nprotocol = \"redirect\"\n"
        );
    let gateway = Gateway::start(config);
    let before = gateway.get("/metrics");

    let client = authority.client();
    for number in 0..40_u8 {
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 77, number + 1));
        visit_from(source, tcp).unwrap();
        let name = format!("host-{number}.example.net");
        // Its certificate is for another name: the client breaks off.
        assert!(visit_tls(&client, &name, tls).is_err());
        let mut stream = connect_from(source, passing).unwrap();
        stream.write_all(&hello::asking(&client, &name, &[&format!("proto-{number}")])).unwrap();
        drop(stream);
        let mut stream = connect_from(source, http).unwrap();
        let request = format!("GET /{number} HTTP/1.1\r\nHost: {name}\r\nX-{number}: 1\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        for address in [tls, passing, http] {
            let mut stream = connect(address).unwrap();
            stream.write_all(&[number; 300]).unwrap();
            drop(stream);
        }
    }
    gateway.await_idle();
    let seen = || gateway.metric("lockgate_connections_total", &[]) == 40.0 * 7.0;
    eventually("all have been served", seen);
    let after = gateway.get("/metrics");
    let (before, after) = (series(&before), series(&after));
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:#?}");
    assert!(after.iter().all(|series| !series.contains("example.net")), "{after:#?}");
}

/// Processor time of the threads of this name, in clock ticks.
fn ticks(process: u32, thread: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of = |path: std::path::PathBuf| {
        let comm = fs::read_to_string(path.join("comm")).ok()?;
        if !comm.starts_with(thread) {
            return None;
        }
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)
    };
    tasks.flatten().filter_map(|task| of(task.path())).sum()
}

#[test]
fn a_scrape_of_a_thousand_backends_is_the_matter_of_neither_workers_nor_the_control_thread() {
    const SCRAPES: u32 = 20;
    let address = unused_address();
    let server = Server::named("a");
    let mut config = Config::new(address).backend(&server, "").to_string();
    for backend in 1..1_000 {
        let ip = Ipv4Addr::new(127, 3, (backend >> 8) as u8, backend as u8);
        let own = SocketAddr::new(ip.into(), 9);
        write!(
            config,
            "[[pool.app.backend]]\nname = \"b{backend}\"\naddress = \"{own}\"\nweight = 0\n"
        )
        .unwrap();
    }
    let gateway = Gateway::start(config);
    let first = gateway.get("/metrics");
    assert!(series(&first).len() > 15_000);

    let (process, began) = (gateway.pid(), Instant::now());
    let (all, control) = (gateway.processor_time(), gateway.control_thread_time());
    let workers = ticks(process, "worker-");
    (0..SCRAPES)
        .for_each(|_| assert_eq!(gateway.get("/metrics").len() / 1_000, first.len() / 1_000));
    let took = began.elapsed() / SCRAPES;
    let all = gateway.processor_time() - all;
    let control = gateway.control_thread_time() - control;
    let workers = ticks(process, "worker-") - workers;
    eprintln!("a scrape: {took:?}; all together {all:?}, of that control {control:?}");
    // Without optimisation, and beside other tests: in a release build it is a tenth of this.
    assert!(took < Duration::from_secs(2), "{took:?} a scrape");
    assert!(control * 2 < all, "{control:?} of {all:?} on the control thread");
    assert!(workers <= u64::from(SCRAPES), "{workers} ticks of the workers");
}

#[test]
fn a_worker_that_is_stuck_shows() {
    let server = Server::named("a");
    let config = Config::new(unused_address()).runtime("workers = 2").backend(&server, "");
    let gateway = Gateway::start(config);
    let silence = |worker| gateway.metric("lockgate_worker_silence_seconds", &[("worker", worker)]);
    assert!(silence("0") < 5.0 && silence("1") < 5.0);
    let frozen = Frozen::thread(gateway.pid(), "worker-1");
    eventually("the worker's silence is told", || silence("1") > 2.0);
    drop(frozen);
    eventually("it lives again", || silence("1") < 1.0);
}

#[test]
fn a_refused_reload_shows_until_one_is_taken_over() {
    let server = Server::named("a");
    let config = Config::new(unused_address()).backend(&server, "");
    let gateway = Gateway::start(&config);
    let last = || gateway.metric("lockgate_config_last_reload_successful", &[]);
    assert_eq!(last(), 1.0);
    assert!(!gateway.try_reload("[[listener]]\n"));
    assert_eq!(last(), 0.0);
    gateway.reload(&config);
    assert_eq!(last(), 1.0);
}

/// The most memory that it has had, in bytes.
fn peak_memory(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn ask(gateway: &Gateway, path: &str) -> UnixStream {
    let mut stream = gateway.connect_admin().unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Each text of ten thousand backends is many megabytes, and made out of several times as much.
#[test]
fn a_crowd_that_asks_at_once_costs_the_memory_of_a_few() {
    const BACKENDS: usize = 10_000;
    const CROWD: usize = 20;
    const FEW: u64 = 400 << 20;
    let mut config = Config::new(unused_address());
    for number in 0..BACKENDS {
        let (high, low) = (number / 250, number % 250 + 1);
        config = config.backend_at(&format!("b-{number}"), &format!("127.9.{high}.{low}:9"), "");
    }
    let gateway = Gateway::start(config);
    let before = peak_memory(&gateway);
    let last = format!("b-{}\"", BACKENDS - 1);
    for path in ["/metrics", "/v1/status"] {
        for _round in 0..2 {
            let crowd: Vec<_> = (0..CROWD).map(|_| ask(&gateway, path)).collect();
            thread::scope(|scope| {
                for mut stream in crowd {
                    let last = &last;
                    scope.spawn(move || {
                        let mut text = String::new();
                        stream.read_to_string(&mut text).unwrap();
                        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {}", &text[..200]);
                        assert!(text.contains(last), "{path} is not complete");
                    });
                }
            });
        }
    }
    let grown = peak_memory(&gateway) - before;
    assert!(grown < FEW, "it took {} MiB more", grown >> 20);

    // Nor do those who never read what they have asked for, one after the other.
    let mut silent = Vec::new();
    for _ in 0..CROWD {
        silent.push(ask(&gateway, "/v1/status"));
        // By now it is made, or waits for its place: the next is sent another.
        let (code, text) = gateway.request("GET", "/v1/pools/app/backends/b-0").unwrap();
        assert_eq!(code, 200, "{text}");
    }
    assert!(gateway.get("/metrics").contains(&last), "others are answered");
    let grown = peak_memory(&gateway) - before;
    assert!(grown < FEW, "it took {} MiB more", grown >> 20);
}
