//! Where lines go before, during and after an upgrade.

use nix::sys::signal::Signal;

use crate::harness::{Config, Gateway, Launch, Server, eventually, until, unused_address, visit};

/// Of a file, or of standard error, which each process hands on to the next.
fn events_go_on(file: Option<&str>, read: impl Fn(&Gateway) -> String) {
    let (address, server) = (unused_address(), Server::named("a"));
    let launch = Launch::new(Config::new(address).backend(&server, ""));
    let log = file.map(|file| format!("log.file = {file:?}\n"));
    let mut gateway = launch.log(&log.unwrap_or_default()).start();
    for upgrade in 1..=2 {
        // By what it answers: what it logs is what this is about.
        let before = gateway.pid();
        gateway.signal(Signal::SIGUSR2);
        let heir = until("another process answers", || {
            let pid = u32::try_from(gateway.status()["pid"].as_u64().unwrap()).unwrap();
            (pid != before).then_some(pid)
        });
        gateway.adopt(heir);
        Gateway::await_end_of(before);
        assert_eq!(visit(address).unwrap(), "a");
        gateway.signal(Signal::SIGHUP);
        eventually("events go on", || {
            read(&gateway).matches("reloaded: no change").count() == upgrade
        });
        let lost = |log| {
            gateway.metric("lockgate_log_dropped_total", &[("log", log), ("reason", "failed")])
        };
        assert_eq!([lost("events"), lost("records")], [0.0, 0.0]);
    }
    eventually("records go on", || gateway.records().len() == 2);
}

#[test]
fn standard_error_is_that_of_the_first_process() {
    events_go_on(None, Gateway::stderr);
}

#[test]
fn a_file_stays_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events");
    let read = |_: &Gateway| std::fs::read_to_string(&file).unwrap();
    events_go_on(Some(file.to_str().unwrap()), read);
}
