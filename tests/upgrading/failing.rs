//! Upgrades that fail: the running process goes on, nobody notices, and the cause is told.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{converse, under_load};
use crate::harness::{
    Config, Events, Gateway, Launch, PATIENCE, Server, connect, eventually, held, lockgate,
    output_of, until, unused_address, visit,
};

/// Attempts an upgrade that is to fail, under load, with an open connection. Returns the cause.
fn attempt(gateway: &Gateway, address: SocketAddr, echo: SocketAddr) -> String {
    let events = Events::of(gateway);
    let mut open = connect(echo).unwrap();
    converse(&mut open);
    let mut cause = String::new();
    let load = under_load(address, || {
        gateway.signal(Signal::SIGUSR2);
        // One that hangs is given half a minute.
        let give_up = Instant::now() + 2 * PATIENCE;
        let event = loop {
            let all = events.all();
            match all.into_iter().find(|event| event["event"] == "upgrade") {
                Some(event) => break event,
                None => assert!(Instant::now() < give_up, "the upgrade neither fails nor is made"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!((&event["result"], &event["who"]), (&"failed".into(), &"SIGUSR2".into()));
        cause = event["cause"].as_str().unwrap().to_owned();
        converse(&mut open);
    });
    assert_eq!(load.failures, Vec::<String>::new());
    assert_eq!(gateway.status()["state"], "running");
    assert_eq!(gateway.status()["pid"], gateway.pid());
    assert_eq!(visit(address).unwrap(), "a");
    // Nothing of it is left.
    eventually("no process is left", || gateway.children().is_empty());
    cause
}

struct Stage {
    gateway: Gateway,
    address: SocketAddr,
    echo: SocketAddr,
    config: String,
    _servers: [Server; 2],
}

impl Stage {
    fn new() -> Self {
        let (address, echo) = (unused_address(), unused_address());
        let servers = [Server::named("a"), Server::echo()];
        let config = super::with_echo(address, echo, &servers[1], &servers[0]);
        Self { gateway: Gateway::start(&config), address, echo, config, _servers: servers }
    }

    fn attempt(&self) -> String {
        attempt(&self.gateway, self.address, self.echo)
    }

    /// The next attempt goes well.
    fn recover(mut self) {
        self.gateway.restore_binary();
        self.gateway.write_config(&self.config);
        self.gateway.signal(Signal::SIGUSR2);
        let before = self.gateway.pid();
        until("another process serves", || (self.gateway.status()["pid"] != before).then_some(()));
        let last = u32::try_from(self.gateway.status()["pid"].as_u64().unwrap()).unwrap();
        assert_eq!(visit(self.address).unwrap(), "a");
        self.gateway.adopt(last);
        Gateway::await_end_of(before);
    }
}

#[test]
fn a_file_that_is_no_program_changes_nothing() {
    let stage = Stage::new();
    stage.gateway.replace_binary("garbage", 0o755);
    let cause = stage.attempt();
    // execvp(3) has the shell try.
    assert!(cause.contains("exit status: 127") && cause.contains("garbage"), "{cause}");
    stage.gateway.replace_binary("#!/bin/sh\nexit 0\n", 0o644);
    let cause = stage.attempt();
    assert!(cause.contains("Permission denied"), "{cause}");
    fs::remove_file(stage.gateway.binary()).unwrap();
    let cause = stage.attempt();
    assert!(cause.contains("No such file"), "{cause}");
    stage.recover();
}

#[test]
fn a_program_that_ends_is_quoted() {
    let stage = Stage::new();
    stage.gateway.replace_binary("#!/bin/sh\necho 'cannot find libfoo' >&2\nexit 1\n", 0o755);
    let cause = stage.attempt();
    assert!(cause.contains("exit status: 1") && cause.contains("cannot find libfoo"), "{cause}");
    stage.gateway.replace_binary("#!/bin/sh\nkill -SEGV $$\n", 0o755);
    let cause = stage.attempt();
    assert!(cause.contains("signal: 11"), "{cause}");
    stage.recover();
}

#[test]
fn a_bad_configuration_is_told_with_its_line() {
    let stage = Stage::new();
    stage.gateway.write_config("[runtime]\nwokers = 3\n");
    let cause = stage.attempt();
    assert!(cause.contains("exit status: 78") && cause.contains("wokers"), "{cause}");
    stage.recover();
}

#[test]
fn a_program_that_hangs_is_killed() {
    let stage = Stage::new();
    stage.gateway.replace_binary("#!/bin/sh\nexec sleep 1000\n", 0o755);
    let cause = stage.attempt();
    assert!(cause.contains("not ready within 30s"), "{cause}");
    stage.recover();
}

/// What a process may do that has got to the point where it is handed everything.
#[test]
fn a_program_that_fails_half_way_through_changes_nothing() {
    let stage = Stage::new();
    let script = |then: &str| {
        format!(
            "#!/bin/bash\nfd=$LOCKGATE_UPGRADE\nread -r -u $fd hello\n\
             echo '{{\"version\":9,\"say\":\"serving\",\"colour\":\"red\"}}' >&$fd\n\
             echo '{{\"say\":\"sing\"}}' >&$fd\n\
             read -r -u $fd counts\nread -r -u $fd vrrp\n{then}\n"
        )
    };
    for (then, expected) in [
        ("exit 3", "exit status: 3"),
        ("kill -KILL $$", "signal: 9"),
        ("exec sleep 1000", "did not take over in time"),
        ("exec {fd}>&-; exec sleep 1000", "closed the connection"),
    ] {
        stage.gateway.replace_binary(&script(then), 0o755);
        let cause = stage.attempt();
        assert!(cause.contains(expected), "{then}: {cause}");
    }
    stage.recover();
}

#[test]
fn a_new_process_that_is_killed_while_it_begins_changes_nothing() {
    let address = unused_address();
    let (server, silent) = (Server::named("a"), Server::echo());
    // The first check of a server that says nothing is waited for.
    let config = Config::new(address)
        .pool("health = { type = \"send_expect\", expect = \"a\", timeout = \"5s\" }")
        .backend(&server, "")
        .backend(&silent, "weight = 0");
    let gateway = Gateway::start(config);
    let _open = held(address).unwrap();
    for pause in [0, 20, 200] {
        let count = gateway.stderr().matches("upgrade failed").count();
        gateway.signal(Signal::SIGUSR2);
        let child = until("a child", || gateway.children().first().copied());
        thread::sleep(Duration::from_millis(pause));
        kill(Pid::from_raw(child.try_into().unwrap()), Signal::SIGKILL).unwrap();
        eventually("it is told", || {
            gateway.stderr().matches("upgrade failed").count() == count + 1
        });
        assert!(gateway.stderr().contains("signal: 9"));
        assert_eq!(visit(address).unwrap(), "a");
    }
}

/// The container would end with the process, and its connections with that.
#[test]
fn the_first_process_of_a_container_is_not_upgraded() {
    let (address, server) = (unused_address(), Server::named("a"));
    let launch = Launch::new(Config::new(address).backend(&server, ""));
    let gateway = launch.under(&["unshare", "--pid", "--fork", "--kill-child"]).start();
    assert_eq!(gateway.status()["pid"], 1);
    let mut upgrade = Command::new(lockgate());
    let output = output_of(upgrade.args(["upgrade", "-c"]).arg(gateway.config_path()));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("replace the container"), "{told}");
    assert_eq!(visit(address).unwrap(), "a");
}
