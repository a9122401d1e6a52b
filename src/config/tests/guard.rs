//! What stands before a listener.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::plan::guard::{Action, Limit, Rate};
use super::super::plan::{Guard, Listed, Network, Plan, SendProxy};
use super::super::{Error, parse};
use super::{MINIMAL, messages};

/// Every key.
const ALL: &str = include_str!("guard.toml");

fn plan(source: &str) -> Plan {
    parse("t.toml", source).unwrap_or_else(|error| panic!("{source}\n{error}"))
}

fn network(text: &str) -> Network {
    let (address, prefix) = text.split_once('/').unwrap();
    Network { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

/// [`MINIMAL`] with lines in its listener.
fn with(lines: &str) -> String {
    MINIMAL.replace("pool = \"web\"\n", &format!("pool = \"web\"\n{lines}\n"))
}

fn help(source: &str) -> String {
    match parse("t.toml", source) {
        Err(Error::Invalid(report)) => report.errors()[0].help.clone().unwrap_or_default(),
        other => panic!("{source}\nis no report: {other:?}"),
    }
}

#[test]
fn everything_set() {
    let plan = plan(ALL);
    let networks = |list: &[&str]| list.iter().map(|text| network(text)).collect::<Vec<_>>();
    let file = |path: &str| Listed::File(path.into());
    let expected = Guard {
        accept_proxy_from: networks(&["10.0.0.0/24", "fd00::7/128"]),
        allow: vec![
            Listed::Network(network("192.0.2.0/24")),
            file("/etc/lockgate/friends.txt"),
            Listed::Network(network("2001:db8::/32")),
        ],
        deny: vec![
            Listed::Network(network("192.0.2.66/32")),
            file("./enemies.txt"),
            file("../all/enemies.txt"),
        ],
        limit: Some(Limit {
            connections: NonZeroU32::new(100),
            rate: Some(Rate {
                count: NonZeroU32::new(50).unwrap(),
                period: Duration::from_secs(60),
            }),
            burst: NonZeroU32::new(10),
            prefix_v4: 24,
            prefix_v6: 48,
            action: Action::Drop,
        }),
    };
    assert_eq!(plan.listeners[0].guard, expected);
    assert_eq!(plan.pools[0].send_proxy, Some(SendProxy::V2));
    assert_eq!(plan.doubts(), [""; 0]);
}

#[test]
fn defaults() {
    let plan = plan(&with("[listener.limit]\n"));
    let limit = plan.listeners[0].guard.limit.as_ref().unwrap();
    assert_eq!((limit.connections, limit.rate, limit.burst), (None, None, None));
    assert_eq!((limit.prefix_v4, limit.prefix_v6, limit.action), (32, 64, Action::Reset));
    assert!(self::plan(MINIMAL).listeners[0].guard.is_empty());
    let empty = "accept_proxy_from = []\nallow = []\ndeny = []";
    assert!(self::plan(&with(empty)).listeners[0].guard.is_empty());
}

/// One second's worth, and 1 at least.
#[test]
fn the_burst_follows_from_the_rate() {
    for (rate, burst) in [
        ("50/s", 50),
        ("1/s", 1),
        ("50/m", 1),
        ("60/m", 1),
        ("179/m", 2),
        ("7200/h", 2),
        ("1/h", 1),
        ("1000000/s", 1_000_000),
    ] {
        let plan = plan(&with(&format!("[listener.limit]\nrate = '{rate}'")));
        assert_eq!(plan.listeners[0].guard.limit.as_ref().unwrap().burst(), burst, "{rate}");
    }
    let plan = plan(&with("[listener.limit]\nrate = '50/s'\nburst = 7"));
    assert_eq!(plan.listeners[0].guard.limit.as_ref().unwrap().burst(), 7);
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    for (lines, message, expected) in [
        (
            "accept_proxy_from = '10.0.0.1/8'",
            "accept_proxy_from: '10.0.0.1/8' has bits beyond its prefix",
            "write \"10.0.0.0/8\" or \"10.0.0.1\"",
        ),
        (
            "accept_proxy_from = './a'",
            "accept_proxy_from: './a' is not an IP address or network",
            "write \"10.0.0.0/8\" or \"2001:db8::/32\"",
        ),
        (
            "allow = ['10.0.0.0/8', '10.0.0.0/8']",
            "allow: '10.0.0.0/8' is already listed on line 6",
            "",
        ),
        ("deny = ['./a', './a']", "deny: './a' is already listed on line 6", ""),
        (
            "deny = 'enemies.txt'",
            "deny: 'enemies.txt' is not an IP address or network",
            "a file is written with its directory: \"./enemies.txt\"",
        ),
        (
            "deny = '::ffff:10.0.0.1'",
            "deny: '::ffff:10.0.0.1' is IPv4 in IPv6 notation",
            "write \"10.0.0.1/32\"",
        ),
        ("allow = 10", "allow: expected text in quotes, found a number", ""),
        ("limit = '50/s'", "limit: expected [listener.limit], found text", ""),
        ("limit = { rate = '50' }", "rate: '50' has no unit of time", "write \"50/s\""),
        (
            "limit = { rate = '0/s' }",
            "rate: 0 is out of range (1 to 1000000)",
            "write \"\" for no limit",
        ),
        ("limit = { rate = 50 }", "rate: expected text in quotes, found a number", ""),
        ("limit = { burst = 1000001 }", "burst: 1000001 is out of range (0 to 1000000)", ""),
        ("limit = { prefix_v4 = 33 }", "prefix_v4: 33 is out of range (0 to 32)", ""),
        ("limit = { prefix_v6 = 129 }", "prefix_v6: 129 is out of range (0 to 128)", ""),
        ("limit = { connections = -1 }", "connections: -1 is out of range (0 to 4294967295)", ""),
        (
            "limit = { action = 'tarpit' }",
            "action: unknown value 'tarpit'",
            "one of reset, drop, log",
        ),
        ("limit = { action = 'dorp' }", "action: unknown value 'dorp'", "did you mean 'drop'?"),
        (
            "limit = { conections = 1 }",
            "unknown key 'conections' in [listener.limit]",
            "did you mean 'connections'?",
        ),
    ] {
        let source = with(lines);
        let told = messages(&source);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("6:") && told[0].ends_with(message), "{lines}: {}", told[0]);
        assert_eq!(help(&source), expected, "{lines}");
    }
    let source = format!("[pool.web]\nsend_proxy = 'v3'\n{MINIMAL}");
    assert_eq!(messages(&source), ["2:14 send_proxy: unknown value 'v3'"]);
    // All at once.
    let all = "allow = ['x']\ndeny = ['y']\n[listener.limit]\nrate = '1/d'\naction = ''";
    let lines: Vec<_> = messages(&with(all)).iter().map(|told| told[..2].to_owned()).collect();
    assert_eq!(lines, ["6:", "7:", "9:", "10"]);
}

#[test]
fn doubts() {
    for (lines, doubt) in [
        ("accept_proxy_from = '0.0.0.0/0'", "anybody can claim to be anybody"),
        ("accept_proxy_from = 'fd00::/8'", "it listens on no such address"),
        ("deny = '0.0.0.0/0'", "deny has 0.0.0.0/0, which is everybody"),
        (
            "allow = '10.1.0.0/16'\ndeny = '10.0.0.0/8'",
            "allow has 10.1.0.0/16, and deny has 10.0.0.0/8",
        ),
        ("[listener.limit]", "neither 'connections' nor 'rate': no effect"),
        ("[listener.limit]\nconnections = 1\nburst = 5", "limit.burst has no effect"),
        (
            "max_connections = 10\n[listener.limit]\nconnections = 10",
            "max_connections lets in 10 in all",
        ),
        ("[listener.limit]\nconnections = 10\nprefix_v4 = 0", "one source of everybody"),
    ] {
        let doubts = plan(&with(lines)).doubts();
        assert_eq!(doubts.len(), 1, "{lines}: {doubts:?}");
        assert!(doubts[0].contains(doubt) && doubts[0].starts_with("listener web: "), "{doubts:?}");
    }
    let runtime =
        format!("[runtime]\nmax_connections = 9\n{}", with("[listener.limit]\nconnections = 9"));
    assert!(plan(&runtime).doubts()[0].contains("runtime.max_connections lets in 9 in all"));
    for lines in [
        "allow = '10.0.0.0/8'\ndeny = '10.1.0.0/16'",
        "max_connections = 10\n[listener.limit]\nconnections = 9\nprefix_v6 = 0",
    ] {
        assert_eq!(plan(&with(lines)).doubts(), [""; 0], "{lines}");
    }
}
