//! `[node.NAME]` and `[[vrrp]]`.

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use super::super::plan::vrrp::{Checksum, Floating, Peer, Version};
use super::super::plan::{Node, Plan, TrackedPool, Vrrp};
use super::super::{Error, parse};
use super::messages;

/// Every key.
const ALL: &str = include_str!("vrrp.toml");

const PAIR: &str = "[node.gw1]\naddress = '10.0.1.10'\n[node.gw2]\naddress = '10.0.1.11'\n";

const VRRP: &str = "[[vrrp]]\ninterface = 'eth0'\nvrid = 51\naddresses = '10.0.1.100/24'\n";

fn plan(source: &str) -> Plan {
    parse("t.toml", source).unwrap_or_else(|error| panic!("{source}\n{error}"))
}

fn help(source: &str) -> String {
    match parse("t.toml", source) {
        Err(Error::Invalid(report)) => report.errors()[0].help.clone().unwrap_or_default(),
        other => panic!("{source}\nis no report: {other:?}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn priority(priority: u8) -> NonZeroU8 {
    NonZeroU8::new(priority).unwrap()
}

#[test]
fn defaults() {
    let plan = plan(&format!("{PAIR}{VRRP}"));
    let node = |name: &str, address| Node {
        name: name.to_owned(),
        address: Some(ip(address)),
        priority: priority(100),
    };
    assert_eq!(plan.nodes, [node("gw1", "10.0.1.10"), node("gw2", "10.0.1.11")]);
    let expected = Vrrp {
        name: "eth0-51".to_owned(),
        interface: "eth0".to_owned(),
        vrid: priority(51),
        version: Version::V3,
        addresses: vec![Floating { address: ip("10.0.1.100"), prefix: 24 }],
        priority: None,
        advert_interval: Duration::from_millis(100),
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast_peers: Vec::new(),
        source: None,
        checksum: Checksum::Auto,
        virtual_mac: false,
        garp_repeat: 5,
        garp_refresh: Duration::from_secs(60),
        track_interfaces: Vec::new(),
        track_pools: Vec::new(),
        sync_group: None,
        notify: None,
    };
    assert_eq!(plan.vrrp, [expected]);
    assert_eq!(plan.doubts(), [""; 0]);
}

#[test]
fn everything_set() {
    let plan = plan(ALL);
    let [public, v6, other] = &plan.vrrp[..] else { panic!("in the order of the file") };
    assert_eq!(public.advert_interval, Duration::from_secs(2));
    assert_eq!(public.unicast_peers, [Peer::Nodes, Peer::Address(ip("10.0.1.12"))]);
    assert_eq!(public.track_pools, [TrackedPool { pool: 0, weight: -254 }]);
    assert_eq!(public.notify.as_deref(), Some("/usr/local/bin/moved".as_ref()));
    assert_eq!((public.garp_repeat, public.garp_refresh), (1, Duration::ZERO));
    assert!(!public.preempt && v6.preempt && v6.virtual_mac && v6.is_ipv6());
    // A vrid is another one in another family.
    assert_eq!(v6.vrid, public.vrid);
    assert_eq!(v6.name, "eth0.100-51");
    assert_eq!(other.checksum, Checksum::PseudoHeader);
    assert_eq!(plan.doubts(), [""; 0]);
}

#[test]
fn a_version_has_its_own_default_interval() {
    let [two] = &plan(&format!("{PAIR}{VRRP}version = 2\n")).vrrp[..] else { panic!() };
    assert_eq!(two.advert_interval, Duration::from_secs(1));
}

#[test]
fn what_depends_on_the_node() {
    let plan = plan(ALL);
    let [public, v6, other] = &plan.vrrp[..] else { panic!() };
    let [gw1, gw2] = &plan.nodes[..] else { panic!() };
    assert_eq!([gw1, gw2].map(|node| public.priority(Some(node))), [254, 254]);
    assert_eq!([gw1, gw2].map(|node| v6.priority(Some(node))), [150, 100]);
    let peers = |vrrp: &Vrrp, node| vrrp.peers(Some(node), &plan.nodes);
    assert_eq!(peers(public, gw1), [ip("10.0.1.11"), ip("10.0.1.12")]);
    assert_eq!(peers(public, gw2), [ip("10.0.1.10"), ip("10.0.1.12")]);
    // A list of all gateways means all others.
    assert_eq!(peers(other, gw1), [ip("10.0.1.11")]);
    assert_eq!(peers(v6, gw1), Vec::<IpAddr>::new());
    // Peers know a gateway by one address: its own where they are told all nodes, or where it is
    // listed; that of the node, if the host has it, where it is not.
    let source =
        |vrrp: &Vrrp, node, has: bool| vrrp.source(Some(node), |it| has && it == ip("10.0.1.10"));
    assert_eq!(source(public, gw1, false), Some(ip("10.0.1.10")));
    assert_eq!(source(other, gw2, false), Some(ip("10.0.1.11")));
    assert_eq!(source(v6, gw1, true), None);
    assert_eq!(other.source(None, |it| it == ip("10.0.1.11")), Some(ip("10.0.1.11")));
    let mut one = other.clone();
    one.unicast_peers = vec![Peer::Address(ip("10.0.1.12"))];
    assert_eq!([true, false].map(|has| source(&one, gw1, has)), [Some(ip("10.0.1.10")), None]);
    one.source = Some(ip("10.0.1.9"));
    assert_eq!(source(&one, gw1, false), Some(ip("10.0.1.9")));
    assert_eq!(plan.node("gw2"), Some(gw2));
    assert_eq!(plan.node("gw3"), None);
}

#[test]
fn a_gateway_may_only_hold_addresses() {
    assert!(plan(&format!("{VRRP}priority = 1\n")).listeners.is_empty());
    assert_eq!(messages("vrrp = []\n"), ["1:1 no [[listener]]: nothing to do"]);
}

/// Lines of [`PAIR`]: 1 to 4; of [`VRRP`]: 5 to 8; `extra`: 9 and on.
#[test]
fn mistakes_in_an_instance() {
    for (extra, expected) in [
        ("weight = 1", "9:1 unknown key 'weight' in [[vrrp]]"),
        ("name = 'a b'", "9:8 name: 'a b' holds a '/', white space or a control character"),
        ("version = 4", "9:11 version: 4 is out of range (2 to 3)"),
        ("version = '3'", "9:11 version: expected a whole number, found text"),
        ("priority = 256", "9:12 priority: 256 is out of range (0 to 255)"),
        ("priority = -1", "9:12 priority: -1 is out of range (0 to 255)"),
        ("advert_interval = 1", "9:19 advert_interval: expected a duration, found a number"),
        ("advert_interval = '0s'", "9:19 advert_interval: must be longer than zero"),
        ("advert_interval = '9ms'", "9:19 advert_interval: 9ms is out of range (10ms to 40s950ms)"),
        ("advert_interval = '41s'", "9:19 advert_interval: 41s is out of range (10ms to 40s950ms)"),
        ("advert_interval = '15ms'", "9:19 advert_interval: 15ms is not in steps of 10ms"),
        (
            "version = 2\nadvert_interval = '100ms'",
            "10:19 advert_interval: 100ms is not 1 to 255 whole seconds",
        ),
        (
            "version = 2\nadvert_interval = '256s'",
            "10:19 advert_interval: 4m16s is not 1 to 255 whole seconds",
        ),
        (
            "priority = 255\npreempt = false",
            "10:11 preempt: the owner (priority 255) always preempts",
        ),
        ("source = 'gw1'", "9:10 source: 'gw1' is not an IP address"),
        ("source = 'fe80::1'", "9:10 source: fe80::1 is not IPv4, unlike 'addresses'"),
        (
            "source = '10.0.1.10'\nunicast_peers = 'node'",
            "9:10 source: adverts to nodes come from the 'address' of each node on line 10",
        ),
        (
            "source = '10.0.1.100'",
            "9:10 source: 10.0.1.100 is one of 'addresses', which a backup has not on line 8",
        ),
        ("unicast_peers = ['gw2']", "9:18 unicast_peers: 'gw2' is not an IP address"),
        ("unicast_peers = ['nodes']", "9:18 unicast_peers: 'nodes' is not an IP address"),
        (
            "unicast_peers = ['fe80::1']",
            "9:18 unicast_peers: fe80::1 is not IPv4, unlike 'addresses'",
        ),
        (
            "unicast_peers = ['224.0.0.18']",
            "9:18 unicast_peers: '224.0.0.18' is not the address of one machine",
        ),
        ("unicast_peers = ['10.0.1.11']", "9:18 unicast_peers: node 'gw2' has no peer but itself"),
        (
            "unicast_peers = ['node', 'node']",
            "9:26 unicast_peers: 'node' is already listed on line 9",
        ),
        ("checksum = 'rfc'", "9:12 checksum: unknown value 'rfc'"),
        ("version = 2\nchecksum = 'rfc9568'", "10:12 checksum: version 2 has only one form of it"),
        ("virtual_mac = 1", "9:15 virtual_mac: expected true or false, found a number"),
        ("garp_repeat = 0", "9:15 garp_repeat: 0 is out of range (1 to 100)"),
        ("garp_refresh = 60", "9:16 garp_refresh: expected a duration, found a number"),
        (
            "track_interfaces = ['a-name-of-16-bytes']",
            "9:21 track_interfaces: 'a-name-of-16-bytes' is longer than an interface's name can be \
             (15 bytes)",
        ),
        ("track_interfaces = ['a/b']", "9:21 track_interfaces: 'a/b' is no name of an interface"),
        ("track_interfaces = ['']", "9:21 track_interfaces: the name of an interface is missing"),
        (
            "track_pools = [{ pool = 'web', weight = -1 }]",
            "9:25 track_pools: no pool is named 'web'",
        ),
        ("track_pools = [{ weight = -1 }]", "9:16 track_pools: this has no 'pool'"),
        (
            "track_pools = ['web']",
            "9:16 track_pools: expected { pool = NAME, weight = N }, found text",
        ),
        (
            "sync_group = 'a/b'",
            "9:14 sync_group: 'a/b' holds a '/', white space or a control character",
        ),
        ("notify = 'moved.sh'", "9:10 notify: 'moved.sh' is not the whole path of a program"),
        ("notify = '/bin/a b'\nnotify = ''", "10:1 'notify' is already defined"),
    ] {
        let source = format!("{PAIR}{VRRP}{extra}\n");
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

#[test]
fn mistakes_in_addresses_and_interfaces() {
    for (of, value, expected) in [
        ("'10.0.1.100/24'", "'10.0.1.100'", "8:13 addresses: no prefix length in '10.0.1.100'"),
        (
            "'10.0.1.100/24'",
            "'10.0.1.100/33'",
            "8:13 addresses: '33' is no length of a prefix (1 to 32)",
        ),
        (
            "'10.0.1.100/24'",
            "'10.0.1.100/'",
            "8:13 addresses: '' is no length of a prefix (1 to 32)",
        ),
        (
            "'10.0.1.100/24'",
            "'10.0.1.0/24'",
            "8:13 addresses: '10.0.1.0/24' names the network itself",
        ),
        ("'10.0.1.100/24'", "'10.0.1.255/24'", "8:13 addresses: '10.0.1.255/24' is its broadcast"),
        (
            "'10.0.1.100/24'",
            "'224.0.0.1/24'",
            "8:13 addresses: '224.0.0.1' is not the address of one machine",
        ),
        (
            "'10.0.1.100/24'",
            "'127.0.0.1/8'",
            "8:13 addresses: '127.0.0.1' is not an address that another gateway can reach",
        ),
        ("'10.0.1.100/24'", "'vip/24'", "8:13 addresses: 'vip' is not an IP address"),
        ("'10.0.1.100/24'", "[]", "8:13 addresses: must not be empty"),
        (
            "'10.0.1.100/24'",
            "['10.0.1.100/24', '10.0.1.100/32']",
            "8:31 addresses: 10.0.1.100 is already listed on line 8",
        ),
        (
            "'10.0.1.100/24'",
            "['10.0.1.100/24', 'fe80::1/64']",
            "8:31 addresses: fe80::1 is IPv6, unlike the first on line 8",
        ),
        ("vrid = 51", "vrid = 0", "7:8 vrid: 0 is out of range (1 to 255)"),
        ("vrid = 51", "vrid = 256", "7:8 vrid: 256 is out of range (1 to 255)"),
        ("vrid = 51\n", "", "5:1 this vrrp has no 'vrid'"),
        ("interface = 'eth0'\n", "", "5:1 this vrrp has no 'interface'"),
        ("addresses = '10.0.1.100/24'\n", "", "5:1 this vrrp has no 'addresses'"),
    ] {
        let source = format!("{PAIR}{VRRP}").replace(of, value);
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

#[test]
fn mistakes_of_instances_together() {
    let second =
        "[[vrrp]]\nname = 'b'\ninterface = 'eth0'\nvrid = 52\naddresses = '10.0.1.101/24'\n";
    for (source, expected) in [
        (
            second.replace("vrid = 52", "vrid = 51"),
            "12:8 vrid: 51 of IPv4 is already used on eth0 on line 7",
        ),
        (
            second.replace("10.0.1.101", "10.0.1.100"),
            "13:13 addresses: 10.0.1.100 is already listed on line 8",
        ),
        (
            second.replace("name = 'b'", "name = 'eth0-51'"),
            "10:8 vrrp name 'eth0-51' is already used on line 5",
        ),
    ] {
        assert_eq!(messages(&format!("{PAIR}{VRRP}{source}")), [expected], "{source}");
    }
    let elsewhere = second.replace("vrid = 52", "vrid = 51").replace("'eth0'", "'eth1'");
    assert_eq!(plan(&format!("{PAIR}{VRRP}{elsewhere}")).vrrp.len(), 2);
}

#[test]
fn mistakes_of_nodes() {
    for (source, expected) in [
        (VRRP.to_owned(), "1:1 this vrrp has no 'priority', and there is no node to take it from"),
        (
            format!("{VRRP}priority = 0\n"),
            "5:12 this vrrp has no 'priority', and there is no node to take it from",
        ),
        (
            PAIR.replace("10.0.1.11", "10.0.1.10") + VRRP,
            "4:11 address: 10.0.1.10 is already that of another node on line 2",
        ),
        (
            PAIR.replace("10.0.1.11", "10.0.1.11/24") + VRRP,
            "4:11 address: '10.0.1.11/24' is not an IP address",
        ),
        (
            PAIR.replace("10.0.1.11", "127.0.0.1") + VRRP,
            "4:11 address: '127.0.0.1' is not an address that another gateway can reach",
        ),
        (
            PAIR.replace("gw2]", "\"g 2\"]") + VRRP,
            "3:7 node: 'g 2' holds a '/', white space or a control character",
        ),
        (format!("{PAIR}priority = 255\n{VRRP}"), "5:12 priority: 255 is out of range (1 to 254)"),
        (format!("{PAIR}priority = 0\n{VRRP}"), "5:12 priority: 0 is out of range (1 to 254)"),
        (format!("node = 1\n{VRRP}"), "1:8 node: expected [node.NAME], found a number"),
        (
            format!("[node.a]\naddress = '10.0.0.1'\n{VRRP}unicast_peers = 'node'\n"),
            "7:17 unicast_peers: there is no other [node.NAME]",
        ),
        (
            format!("{}{VRRP}unicast_peers = 'node'\n", PAIR.replace("'10.0.1.11'", "''")),
            "9:17 unicast_peers: node 'gw2' has no 'address' on line 4",
        ),
        (
            format!("{}{VRRP}unicast_peers = 'node'\n", PAIR.replace("10.0.1.11", "fe80::1")),
            "9:17 unicast_peers: the address of node 'gw2' is not IPv4 on line 4",
        ),
    ] {
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

#[test]
fn version_2_is_for_ipv4() {
    let v6 = VRRP.replace("10.0.1.100/24", "fe80::1/64");
    let source = format!("{v6}priority = 1\nversion = 2\n");
    assert_eq!(messages(&source), ["6:11 version: 2 is for IPv4, and these addresses are IPv6"]);
    assert_eq!(help(&source), "write version = 3");
    let source = format!("{v6}priority = 1\nchecksum = 'pseudo_header'\n");
    assert_eq!(messages(&source), ["6:12 checksum: IPv6 has only one form of it"]);
}

#[test]
fn an_owner_is_not_tracked() {
    let pool = "[[pool.web.backend]]\naddress = '10.0.0.1:80'\n";
    let source =
        format!("{pool}{VRRP}priority = 255\ntrack_pools = [{{ pool = 'web', weight = -1 }}]\n");
    assert_eq!(
        messages(&source),
        ["8:16 track_pools: the priority of an owner (255) never changes"]
    );
    let twice = "track_pools = [{ pool = 'web', weight = -1 }, { pool = 'web', weight = -2 }]\n";
    assert_eq!(
        messages(&format!("{pool}{VRRP}priority = 1\n{twice}")),
        ["8:47 track_pools: this pool is already listed on line 8"]
    );
    for (weight, found) in [("0", "0"), ("-255", "-255"), ("60", "60")] {
        assert_eq!(
            messages(&format!(
                "{pool}{VRRP}priority = 1\ntrack_pools = {{ pool = 'web', weight = {weight} }}\n"
            ))[1..],
            [format!("8:40 weight: {found} is out of range (-254 to -1)")]
        );
    }
    let source = format!("{pool}{VRRP}priority = 1\ntrack_pools = [{{ pool = 'web' }}]\n");
    assert_eq!(messages(&source), ["8:16 track_pools: this has no 'weight'"]);
}

#[test]
fn help_says_what_to_write() {
    let source = format!("{PAIR}{VRRP}").replace("10.0.1.100/24", "10.0.1.100");
    assert_eq!(help(&source), "write \"10.0.1.100/24\", as the interface's own addresses have it");
    let source = format!("{PAIR}{VRRP}").replace("10.0.1.100/24", "10.0.1.0/24");
    assert_eq!(help(&source), "write an address of one machine, as in \"10.0.1.1/24\"");
    assert_eq!(help(&format!("{PAIR}{VRRP}vird = 1\n")), "did you mean 'vrid'?");
    let source = format!("{PAIR}{VRRP}unicast_peers = 'nodes'\n");
    assert_eq!(help(&source), "write \"node\" for the addresses of all other [node.NAME]");
}

#[test]
fn doubts() {
    let doubts = |source: &str| plan(source).doubts().join("\n");
    let v6 = VRRP.replace("10.0.1.100/24", "2001:db8::1/64");
    assert!(doubts(&format!("{PAIR}{v6}")).contains("\"fe80::33/64\""));
    let alone = doubts(&format!("{PAIR}{VRRP}sync_group = 'all'\n"));
    assert_eq!(alone, "vrrp eth0-51: nothing else is in sync_group all");
    assert!(doubts(&format!("{PAIR}{VRRP}priority = 255\n")).contains("every node the owner"));
    assert_eq!(doubts(&format!("{VRRP}priority = 255\n")), "");
}

#[test]
fn the_examples_for_a_pair_are_valid() {
    for example in [
        include_str!("../../../config/examples/pair.toml"),
        include_str!("../../../config/examples/keepalived-peer.toml"),
    ] {
        let plan = plan(example);
        assert_eq!(plan.doubts(), Vec::<String>::new());
        assert!(!plan.vrrp.is_empty());
    }
}

#[test]
fn a_link_local_address_is_another_on_each_interface() {
    let two = |interface: &str, address: &str| {
        let address = format!("'{address}/64'");
        let first = VRRP.replace("'10.0.1.100/24'", &address);
        let second = first.replace("'eth0'", &format!("'{interface}'")).replace("51", "52");
        format!("{PAIR}{first}{second}")
    };
    assert_eq!(plan(&two("eth1", "fe80::1")).vrrp.len(), 2);
    for (interface, address) in [("eth0", "fe80::1"), ("eth1", "2001:db8::1")] {
        let [message] = &messages(&two(interface, address))[..] else { panic!("one mistake") };
        assert!(message.contains(&format!("addresses: {address} is already listed")), "{message}");
    }
}
