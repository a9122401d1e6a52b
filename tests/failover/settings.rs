//! What is said of a pair before it runs: its configuration, which node this is, what the host
//! lacks, and what a killed gateway left behind.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::harness::lab::Namespace;
use crate::harness::lan::{FLOATING, GATEWAYS, Lan, await_vrrp, config, pair};
use crate::harness::{Launch, eventually, lockgate, output_of};

const OS_ERROR: i32 = 71;
const NOT_PERMITTED: i32 = 77;
const CONFIG: i32 = 78;

/// A configuration of the pair in a file.
struct Written(TempDir);

impl Written {
    fn new(lines: &str) -> Self {
        let directory = TempDir::with_prefix("lockgate-").unwrap();
        let socket = directory.path().join("admin.sock");
        let text = config().backend_at("a", "10.7.0.3:7000", "").to_string() + &pair(lines);
        let text = format!("admin = {{ socket = {socket:?}, http = \"\" }}\n{text}");
        fs::write(directory.path().join("lockgate.toml"), text).unwrap();
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("lockgate.toml")
    }

    /// Runs a command of lockgate, below another command, with this file and further arguments.
    fn with(&self, under: &[&str], command: &str, arguments: &[&str]) -> Output {
        let mut words = under.iter().map(std::ffi::OsStr::new).chain([lockgate().as_os_str()]);
        let mut command_line = Command::new(words.next().unwrap());
        command_line.args(words).arg(command).arg("-c").arg(self.path()).args(arguments);
        output_of(&mut command_line)
    }
}

fn told(output: &Output) -> (Option<i32>, String) {
    let text = [&*output.stdout, &*output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (lines, expected) in [
        ("vrid = 51\n", "'vrid' is already defined"),
        ("prioriti = 5", "did you mean 'priority'?"),
        ("unicast_peers = [\"10.7.0.11\"]", "has no peer but itself"),
        ("advert_interval = \"5ms\"", "advert_interval: 5ms is out of range (10ms to 40s950ms)"),
        ("track_pools = [{ pool = \"ap\", weight = -60 }]", "did you mean 'app'?"),
    ] {
        let written = Written::new(lines);
        let (code, text) = told(&written.with(&[], "check", &[]));
        assert_eq!(code, Some(CONFIG), "{text}");
        assert!(text.contains(expected), "{expected} in {text}");
        assert!(text.contains("lockgate.toml:"), "{text}");
    }
}

#[test]
fn a_program_that_cannot_be_run_is_a_mistake() {
    let written = Written::new("notify = \"/nonexistent/notify\"");
    for command in ["check", "run"] {
        let (code, text) = told(&written.with(&[], command, &["--node", "gw1"]));
        assert_eq!(code, Some(CONFIG), "{text}");
        assert!(text.contains("vrrp public: notify: /nonexistent/notify: No such file"), "{text}");
    }
}

#[test]
fn what_is_doubtful_is_told_and_no_mistake() {
    let written = Written::new("sync_group = \"all\"");
    let (code, text) = told(&written.with(&[], "check", &["--node", "gw1"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("warning: vrrp public: nothing else is in sync_group all"), "{text}");
    assert!(text.contains("1 VRRP instance)"), "{text}");
}

#[test]
fn a_host_that_is_no_node_is_told_which_there_are() {
    let written = Written::new("");
    let (code, text) = told(&written.with(&[], "run", &[]));
    assert_eq!(code, Some(CONFIG), "{text}");
    assert!(text.contains("is none of the nodes gw1, gw2"), "{text}");
    assert!(text.contains("--node or LOCKGATE_NODE"), "{text}");
    // A file may be written elsewhere than where it runs.
    let (code, text) = told(&written.with(&[], "check", &[]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("note: this host"), "{text}");

    for (under, arguments, by) in [
        (&["env", "LOCKGATE_NODE=gw3"][..], &[][..], "LOCKGATE_NODE"),
        (&[], &["--node", "gw3"], "--node"),
    ] {
        for command in ["run", "check"] {
            let (code, text) = told(&written.with(under, command, arguments));
            assert_eq!(code, Some(CONFIG), "{text}");
            let expected = format!("{by} names the node 'gw3', which is none of gw1, gw2");
            assert!(text.contains(&expected), "{text}");
        }
    }
}

#[test]
fn a_node_is_known_by_command_line_environment_or_host_name() {
    let lan = Lan::new();
    let text = config().backend_at("a", "10.7.0.3:7000", "").to_string() + &pair("");
    let node = |under: &[&str]| {
        let under = [&lan.gateways[0].enter()[..], under].concat();
        Launch::new(&text).under(&under).start().status()["node"].clone()
    };
    // By address gw1, unless something else says otherwise.
    assert_eq!(node(&[]), "gw1");
    assert_eq!(node(&["env", "LOCKGATE_NODE=gw2"]), "gw2");
    let renamed = ["unshare", "--uts", "sh", "-c", "hostname gw2.example.com; exec \"$0\" \"$@\""];
    assert_eq!(node(&renamed), "gw2");
    let named = Launch::new(&text).under(&lan.gateways[0].enter()).arguments(&["--node", "gw2"]);
    assert_eq!(named.start().status()["node"], "gw2");
}

#[test]
fn what_a_host_lacks_is_found_before_it_is_needed() {
    let lan = Lan::new();
    let enter = lan.gateways[0].enter();
    let preflight = |written: &Written, under: &[&str]| {
        told(&written.with(under, "check", &["--node", "gw1", "--preflight"]))
    };
    let (code, text) = preflight(&Written::new(""), &enter);
    assert_eq!(code, Some(0), "{text}");

    let (code, text) = preflight(&Written::new("track_interfaces = [\"eth9\"]"), &enter);
    assert_eq!(code, Some(OS_ERROR), "{text}");
    assert!(text.contains("vrrp public: interface eth9: there is no such interface"), "{text}");

    // Peers take adverts from one address, and from no other that the interface may have.
    let elsewhere = Namespace::new("elsewhere");
    elsewhere.ip("link add eth0 type bridge");
    elsewhere.ip("link set eth0 up");
    elsewhere.ip("addr add 10.7.0.77/24 dev eth0");
    for lines in ["unicast_peers = [\"node\"]", "source = \"10.7.0.11\""] {
        let (code, text) = preflight(&Written::new(lines), &elsewhere.enter());
        assert_eq!(code, Some(OS_ERROR), "{text}");
        assert!(text.contains("interface eth0 has no address 10.7.0.11"), "{text}");
        let (code, text) = preflight(&Written::new(lines), &enter);
        assert_eq!(code, Some(0), "{text}");
    }

    let bare = Namespace::new("bare");
    bare.ip("link add eth0 type bridge");
    let (_, text) = preflight(&Written::new(""), &bare.enter());
    assert!(text.contains("interface eth0: it is down"), "{text}");
    bare.ip("link set eth0 up");
    let (_, text) = preflight(&Written::new(""), &bare.enter());
    assert!(text.contains("has no IPv4 address of its own"), "{text}");
    bare.ip("link add other type bridge");
    bare.ip(&format!("addr add {FLOATING}/24 dev other"));
    let (_, text) = preflight(&Written::new(""), &bare.enter());
    assert!(text.contains(&format!("vrrp public: {FLOATING} is on other already")), "{text}");

    let drop = "-net_admin,-net_raw,-sys_nice";
    let poor = ["setpriv", "--bounding-set", drop, "--inh-caps", drop];
    let poor = [&enter[..], &poor].concat();
    let (code, text) = preflight(&Written::new(""), &poor);
    assert_eq!(code, Some(NOT_PERMITTED), "{text}");
    assert!(text.contains("fault: no CAP_NET_ADMIN"), "{text}");
    assert!(text.contains("fault: no CAP_NET_RAW"), "{text}");
    assert!(text.contains("note: no CAP_SYS_NICE"), "{text}");
    let (code, text) = told(&Written::new("").with(&poor, "run", &[]));
    assert_eq!(code, Some(NOT_PERMITTED), "{text}");
    assert!(text.contains("CAP_NET_"), "{text}");
}

#[test]
fn adverts_to_nodes_come_from_the_address_of_the_node() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    // Other addresses are there before those that the nodes are known by.
    for (gateway, own) in lan.gateways.iter().zip(GATEWAYS) {
        gateway.ip(&format!("addr del {own}/24 dev eth0"));
        let other = own.octets()[3] + 50;
        gateway.ip(&format!("addr add 10.7.0.{other}/24 dev eth0"));
        gateway.ip(&format!("addr add {own}/24 dev eth0"));
    }
    let config = config().backend(&server, "").to_string() + &pair("unicast_peers = [\"node\"]");
    let [first, second] = lan.pair(config);
    eventually("they hear each other", || {
        crate::harness::lan::public(&second)["master"] == GATEWAYS[0].to_string()
    });
    await_vrrp(&first, "master");
    await_vrrp(&second, "backup");
    assert!(!lan.has(1, FLOATING));
}

#[test]
fn what_a_killed_gateway_left_behind_is_released() {
    let lan = Lan::new();
    let written = Written::new("");
    let enter = lan.gateways[0].enter();
    let release = || told(&written.with(&enter, "release-vip", &[]));
    assert_eq!(release(), (Some(0), "nothing was left behind\n".to_owned()));

    // As a gateway adds it, with a lifetime so short that there may be nothing left to release.
    eventually("it is released", || {
        let lifetime = "valid_lft 2 preferred_lft 2";
        lan.gateways[0].ip(&format!("addr replace {FLOATING}/24 dev eth0 {lifetime}"));
        let released = release();
        assert_eq!(released.0, Some(0), "{}", released.1);
        released.1 == format!("released {FLOATING}/24 on eth0\n") && !lan.has(0, FLOATING)
    });
    assert!(lan.has(0, GATEWAYS[0].into()));

    // As an operator does.
    lan.gateways[0].ip(&format!("addr add {FLOATING}/24 dev eth0"));
    assert_eq!(release(), (Some(0), "nothing was left behind\n".to_owned()));
    assert!(lan.has(0, FLOATING));
}

#[test]
fn a_gateway_that_runs_is_not_robbed_of_its_address() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let gateway = lan.start(0, config().backend(&server, "").to_string() + &pair(""));
    await_vrrp(&gateway, "master");
    eventually("it has the address", || lan.has(0, FLOATING));
    let [ip, netns, exec, name] = lan.gateways[0].enter();
    let mut release = Command::new(ip);
    release.args([netns, exec, name]).arg(lockgate()).args(["release-vip", "-c"]);
    let (code, text) = told(&output_of(release.arg(gateway.config_path())));
    assert_eq!(code, Some(OS_ERROR), "{text}");
    assert!(text.contains("a gateway runs"), "{text}");
    assert!(lan.has(0, FLOATING));
}
