//! What each thread of the gateway may do, and that everything it has to do still works.

mod refused;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};

use crate::harness::lan::{Lan, await_vrrp, config, pair};
use crate::harness::tls::{Authority, Store};
use crate::harness::{
    Config, Gateway, Server, eventually, fetch, lockgate, output_of, until, unused_address, visit,
};

/// Bits of capabilities(7).
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
/// Those and `CAP_DAC_READ_SEARCH`, `CAP_IPC_LOCK`, `CAP_SYS_NICE`.
const CONTROL: u64 = NET_BIND_SERVICE | NET_ADMIN | NET_RAW | 1 << 2 | 1 << 14 | 1 << 23;
const NETWORK: u64 = NET_ADMIN | NET_RAW;

/// What `/proc` says of a thread, or of a process.
#[derive(Debug, PartialEq, Eq)]
struct Powers {
    effective: u64,
    permitted: u64,
    /// Inheritable and ambient.
    passed_on: u64,
    no_new_privs: bool,
    filtered: bool,
}

impl Powers {
    fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
        };
        let set = |name| u64::from_str_radix(&field(name), 16).unwrap();
        Self {
            effective: set("CapEff:"),
            permitted: set("CapPrm:"),
            passed_on: set("CapInh:") | set("CapAmb:"),
            no_new_privs: field("NoNewPrivs:") == "1",
            filtered: field("Seccomp:") == "2",
        }
    }

    fn of_this_process() -> Self {
        Self::parse(&fs::read_to_string("/proc/thread-self/status").unwrap())
    }
}

/// The threads of a process, by name; those that have the same are told apart by a number.
fn threads(pid: u32) -> BTreeMap<String, Powers> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = entry.unwrap().path();
        // One that ends just now needs no privileges.
        let read = |file| fs::read_to_string(thread.join(file));
        let (Ok(name), Ok(status)) = (read("comm"), read("status")) else { continue };
        let name = name.trim();
        let mut unique = name.to_owned();
        while found.contains_key(&unique) {
            unique += "+";
        }
        found.insert(unique, Powers::parse(&status));
    }
    found
}

/// Processes that a gateway has started and that have this name.
fn children(gateway: &Gateway, name: &str) -> Vec<u32> {
    let parent = format!("PPid:\t{}\n", gateway.pid());
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains(&parent) && status.starts_with(&format!("Name:\t{name}\n"))
        })
        .collect()
}

#[track_caller]
fn assert_confined(name: &str, powers: &Powers, capabilities: u64) {
    assert_eq!(
        (powers.effective, powers.permitted, powers.passed_on & !capabilities),
        (capabilities, capabilities, 0),
        "{name} has {powers:x?}"
    );
    assert!(powers.no_new_privs && powers.filtered, "{name} has {powers:x?}");
}

#[test]
fn each_thread_has_the_capabilities_that_it_needs_and_no_others() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().runtime("workers = 3").backend(&server, "").to_string() + &pair("");
    let gateway = lan.start(0, &text);
    await_vrrp(&gateway, "master");
    let threads = threads(gateway.pid());
    let all = Powers::of_this_process().effective;
    assert!(all & !CONTROL != 0, "the test proves nothing: it has no more itself ({all:x})");
    let mut workers = 0;
    for (name, powers) in &threads {
        match name.as_str() {
            "vrrp" | "vrrp-keeper" | "vrrp-links" | "vrrp-notify" => {
                assert_confined(name, powers, NETWORK);
            }
            "vrrp-events" | "log-events" | "log-records" => assert_confined(name, powers, 0),
            worker if worker.starts_with("worker-") => {
                workers += 1;
                assert_confined(worker, powers, 0);
            }
            // The control thread, and those that run what would hold it up.
            control => assert_confined(control, powers, all & CONTROL),
        }
    }
    assert_eq!((workers, threads.contains_key("vrrp")), (3, true), "{threads:x?}");

    // As it is seen from outside.
    let guards = children(&gateway, "vip-guard");
    assert_eq!(guards.len(), 1, "{guards:?}");
    let shown = output_of(Command::new("getpcaps").arg(guards[0].to_string()));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("cap_net_admin,cap_net_raw=ep"), "{shown}");
    // Nor does it know what the gateway was told by its environment.
    let environment = fs::read(format!("/proc/{}/environ", guards[0])).unwrap();
    assert_eq!(String::from_utf8_lossy(&environment), "");
}

/// A guard that is started later is started by a thread that has only the network.
#[test]
fn a_guard_has_real_time_priority_and_the_network_also_if_it_was_started_later() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let gateway = lan.start(0, config().backend(&server, "").to_string() + &pair(""));
    await_vrrp(&gateway, "master");
    let guard = || children(&gateway, "vip-guard").first().copied();
    let first = until("there is a guard", guard);
    for _ in 0..2 {
        let pid = until("there is a guard", guard);
        // It enters its sandbox first, and takes its name then.
        let powers = Powers::parse(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap());
        assert_confined("vip-guard", &powers, NETWORK);
        eventually("the guard has its own priority", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<_> = stat.split_whitespace().collect();
            // proc_pid_stat(5), fields 40 and 41: priority and SCHED_FIFO.
            fields.len() > 41 && fields[39..41] == ["48", "1"]
        });
        if pid == first {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.try_into().unwrap()),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
            eventually("another guard takes its place", || guard().is_some_and(|now| now != pid));
        }
    }
    gateway.await_log("guard");
}

#[test]
fn with_log_only_capabilities_go_and_with_off_nothing_does() {
    let server = Server::named("a");
    let own = Powers::of_this_process();
    for mode in ["log", "off"] {
        let address = unused_address();
        let config = Config::new(address).runtime(&format!("sandbox = \"{mode}\""));
        let gateway = Gateway::start(config.backend(&server, ""));
        assert_eq!(visit(address).unwrap(), "a");
        let threads = threads(gateway.pid());
        let worker = &threads["worker-0"];
        match mode {
            "log" => assert_confined("worker-0", worker, 0),
            _ => assert_eq!(*worker, own),
        }
    }
}

#[test]
fn a_reload_can_open_what_a_start_can() {
    let (one, server) = (unused_address(), Server::named("a"));
    let gateway = Gateway::start(Config::new(one).backend(&server, ""));
    let low = SocketAddr::new(unused_address().ip(), 81);
    gateway.reload(Config::new(low).backend(&server, ""));
    assert_eq!(visit(low).unwrap(), "a");

    // As root without CAP_DAC_OVERRIDE: the key of a user that is no longer root's.
    let (store, authority) = (Store::new(), Authority::new("ours"));
    let files = store.put("site", &authority.issue(&["site.test"]));
    chown(&files.key, Some(65_534), Some(65_534)).unwrap();
    gateway.reload(Config::new(low).tls(&[&files], "").backend(&server, ""));
    gateway.await_log("belongs to user 65534");
}

#[test]
fn a_notify_program_runs_and_has_the_network_and_nothing_else() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let directory = tempfile::tempdir().unwrap();
    let (program, told) = (directory.path().join("notify"), directory.path().join("told"));
    let text = format!("#!/bin/sh\ncat /proc/self/status >> {}\n", told.display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let lines = format!("notify = {program:?}");
    let gateway = lan.start(0, config().backend(&server, "").to_string() + &pair(&lines));
    await_vrrp(&gateway, "master");
    let status = until("the program has run", || {
        fs::read_to_string(&told).ok().filter(|told| told.contains("Seccomp:"))
    });
    assert_confined("the program", &Powers::parse(&status), NETWORK);
}

/// As `nobody`, without any capability, on ports that anybody may have.
#[test]
fn it_runs_as_nobody() {
    let server = Server::named("a");
    let address = unused_address();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let (file, socket) = (directory.path().join("lockgate.toml"), directory.path().join("admin"));
    let admin = format!("admin.socket = {socket:?}\nadmin.http = \"\"\n");
    fs::write(&file, format!("{admin}{}", Config::new(address).backend(&server, ""))).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    // The build's own directory may be closed to others.
    let binary = directory.path().join("lockgate");
    fs::copy(lockgate(), &binary).unwrap();
    command.arg(&binary).args(["run", "-c"]).arg(&file);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let looked = std::panic::catch_unwind(|| {
        eventually("it is ready", || {
            let stream = std::os::unix::net::UnixStream::connect(&socket);
            stream.is_ok_and(|stream| {
                fetch(stream, "GET", "/readyz").is_ok_and(|(code, _)| code == 200)
            })
        });
        assert_eq!(visit(address).unwrap(), "a");
        for (name, powers) in threads(pid) {
            assert_confined(&name, &powers, 0);
        }
    });
    child.kill().unwrap();
    child.wait().unwrap();
    looked.unwrap();
}

#[test]
fn a_key_that_others_can_read_is_told_of_by_name() {
    let (store, authority) = (Store::new(), Authority::new("ours"));
    let files = store.put("site", &authority.issue(&["site.test"]));
    let server = Server::named("a");
    let secret = store.file("secret", (0..=63).collect::<Vec<u8>>());
    let config = |address| {
        let pair = format!("pair.secret_file = {secret:?}\n");
        format!("{pair}{}", Config::new(address).tls(&[&files], "").backend(&server, ""))
    };
    let check = |mode: u32| {
        for file in [&files.key, &secret] {
            fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
        }
        let file = store.file("lockgate.toml", config(unused_address()));
        let output = output_of(Command::new(lockgate()).args(["check", "-c"]).arg(file));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!check(0o600).contains("warning"), "{}", check(0o600));
    assert!(!check(0o400).contains("warning"));
    for (mode, who) in [(0o640, "its group (mode 0640)"), (0o604, "everybody (mode 0604)")] {
        let told = check(mode);
        for (file, what) in [(&files.key, "a private key"), (&secret, "the secret of the pair")] {
            let expected = format!("{} has {what} in it, and is open to {who}", file.display());
            assert!(told.contains(&expected), "{told}");
        }
    }

    // A gateway that runs tells of it as well, and of none that is well kept.
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let gateway = Gateway::start(config(unused_address()));
    gateway.await_log(&format!("{} has a private key in it", files.key.display()));
    assert!(!gateway.stderr().contains("the secret of the pair"));
}
