//! What else may happen while an upgrade is under way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use super::under_load;
use crate::harness::{
    Config, Gateway, Server, StopAtEnd, eventually, held, refused, until, unused_address, visit,
};

/// A gateway whose start takes a while: the first check of a server that says nothing is waited for.
fn slow(address: std::net::SocketAddr, server: &Server, silent: &Server) -> Config {
    Config::new(address)
        .runtime("drain_timeout = \"1h\"")
        .pool("health = { type = \"send_expect\", expect = \"a\", timeout = \"5s\" }")
        .backend(server, "")
        .backend(silent, "weight = 0")
}

#[test]
fn a_stop_ends_both_processes() {
    let address = unused_address();
    let (server, silent) = (Server::named("a"), Server::echo());
    let mut gateway = Gateway::start(slow(address, &server, &silent));
    gateway.signal(Signal::SIGUSR2);
    let child = until("a child", || gateway.children().first().copied());
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().code(), Some(0));
    Gateway::await_end_of(child);
    assert!(refused(address));
}

#[test]
fn a_second_upgrade_is_refused_and_the_first_one_made() {
    let address = unused_address();
    let (server, silent) = (Server::named("a"), Server::echo());
    let mut gateway = Gateway::start(slow(address, &server, &silent));
    gateway.signal(Signal::SIGUSR2);
    until("a child", || gateway.children().first().copied());
    gateway.signal(Signal::SIGUSR2);
    gateway.await_log("an upgrade is under way already");
    let before = gateway.pid();
    until("another process serves", || (gateway.status()["pid"] != before).then_some(()));
    let heir = u32::try_from(gateway.status()["pid"].as_u64().unwrap()).unwrap();
    gateway.adopt(heir);
    assert_eq!(visit(address).unwrap(), "a");
    Gateway::await_end_of(before);
}

#[test]
fn a_reload_waits_for_the_process_that_will_serve() {
    let address = unused_address();
    let (server, other, silent) = (Server::named("a"), Server::named("b"), Server::echo());
    let mut gateway = Gateway::start(slow(address, &server, &silent));
    gateway.signal(Signal::SIGUSR2);
    until("a child", || gateway.children().first().copied());
    // The new process has read its file by now, or not: it ends up with this one.
    let config = Config::new(address).runtime("drain_timeout = \"1h\"").backend(&other, "");
    gateway.write_config(config);
    gateway.signal(Signal::SIGHUP);
    gateway.await_heir();
    eventually("the new configuration is in use", || visit(address).unwrap() == "b");
    eventually("it was read by the new process", || gateway.status()["generation"] == 3);
    assert_eq!(gateway.metric("lockgate_config_reloads_total", &[("result", "ok")]), 1.0);
}

#[test]
fn who_has_been_upgraded_is_not_upgraded_again() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime("drain_timeout = \"1h\"").backend(&server, "");
    let mut gateway = Gateway::start(config);
    let open = held(address).unwrap();
    let before = gateway.upgrade();
    let pid = nix::unistd::Pid::from_raw(before.try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGUSR2).unwrap();
    gateway.await_log("has taken over already");
    // A stop of the whole service leaves it the time that it had.
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    gateway.await_log("draining already");
    assert!(Gateway::is_alive(before));
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    Gateway::await_end_of(before);
    drop(open);
    assert_eq!(visit(address).unwrap(), "a");
}

#[test]
fn the_admin_socket_answers_throughout() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime("drain_timeout = \"1h\"").backend(&server, "");
    let mut gateway = Gateway::start(config);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let socket = gateway.config_path().with_file_name("admin.sock");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
                let (status, _) = crate::harness::fetch(stream, "GET", "/readyz").unwrap();
                assert_eq!(status, 200);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = StopAtEnd(&stop);
        for _ in 0..5 {
            gateway.upgrade();
        }
    });
    assert!(asked.into_inner() > 50);
    // The file is the last one's, and goes with it.
    assert!(socket.exists());
    gateway.signal(Signal::SIGTERM);
    Gateway::await_end_of(gateway.pid());
    assert!(!socket.exists());
}

#[test]
fn the_admin_server_on_tcp_is_handed_on_as_well() {
    let (address, http) = (unused_address(), unused_address());
    let server = Server::named("a");
    let config = Config::new(address).runtime("drain_timeout = \"1h\"").backend(&server, "");
    let mut gateway = crate::harness::Launch::new(config).http(http).start();
    let load = under_load(address, || {
        for _ in 0..3 {
            gateway.upgrade();
            let stream = crate::harness::connect(http).unwrap();
            let (status, body) = crate::harness::fetch(stream, "GET", "/v1/status").unwrap();
            let status_of: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, &status_of["pid"]), (200, &gateway.pid().into()));
        }
    });
    assert_eq!(load.failures, Vec::<String>::new());
}

/// A service manager, which waits for nobody but its own children.
#[test]
fn the_next_process_is_no_child_of_the_one_before() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime("drain_timeout = \"1h\"").backend(&server, "");
    let mut gateway = Gateway::start(config);
    let (_held, _) = held(address).unwrap();
    let elder = gateway.upgrade();
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    assert_ne!(parent, elder.to_string());
    let siblings = std::fs::read_to_string(format!("/proc/{elder}/task/{elder}/children")).unwrap();
    assert_eq!(siblings, "", "the process between is gone");
    assert_eq!(gateway.status()["previous"][0]["pid"], elder);
}

#[test]
fn the_next_process_goes_on_alone_if_the_one_before_is_killed() {
    let address = unused_address();
    let (server, silent) = (Server::named("a"), Server::echo());
    let mut gateway = Gateway::start(slow(address, &server, &silent));
    let elder = gateway.pid();
    gateway.signal(Signal::SIGUSR2);
    eventually("the next process waits for first checks", || silent.accepted() == 2);
    gateway.signal(Signal::SIGKILL);
    let heir = until("it serves", || {
        let (_, status) = gateway.request("GET", "/v1/status").ok()?;
        let status: serde_json::Value = serde_json::from_str(&status).ok()?;
        (status["pid"] != elder).then(|| u32::try_from(status["pid"].as_u64().unwrap()).unwrap())
    });
    gateway.adopt(heir);
    assert_eq!(visit(address).unwrap(), "a");
    gateway.await_log("going on without it");
}
