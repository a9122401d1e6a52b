//! What systemd is told, and what it hands on.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::{
    Config, Frozen, Gateway, Launch, PATIENCE, Server, connect, eventually, fetch, greeting,
    lockgate, refused, until, unused_address, visit,
};

/// What a service is told to talk to.
struct Notified {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Notified {
    fn new() -> Self {
        let directory = TempDir::with_prefix("notify-").unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self { socket, directory }
    }

    fn path(&self) -> String {
        self.directory.path().join("notify").display().to_string()
    }

    /// What has come, at most until so much time has passed.
    fn within(&self, time: Duration) -> Vec<String> {
        let (end, mut messages, mut buffer) = (Instant::now() + time, Vec::new(), [0; 4096]);
        while Instant::now() < end {
            if let Ok(length) = self.socket.recv(&mut buffer) {
                messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
        }
        messages
    }

    /// The next message that says this.
    #[track_caller]
    fn await_message(&self, text: &str) -> String {
        let mut buffer = [0; 4096];
        until(&format!("systemd is told {text}"), || {
            let length = self.socket.recv(&mut buffer).ok()?;
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            message.contains(text).then_some(message)
        })
    }
}

fn monotonic_micros() -> u128 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_micros()
}

#[test]
fn systemd_is_told_of_start_reload_upgrade_and_stop() {
    let address = unused_address();
    let server = Server::named("a");
    let notified = Notified::new();
    let config = Config::new(address).runtime("drain_timeout = \"1h\"").backend(&server, "");
    let launch = Launch::new(&config).variable("NOTIFY_SOCKET", &notified.path());
    let mut gateway = launch.start();
    assert!(notified.await_message("READY=1").contains("STATUS=serving"));

    let before = monotonic_micros();
    gateway.reload(&config);
    let reloading = notified.await_message("RELOADING=1");
    let at = reloading.split("MONOTONIC_USEC=").nth(1).unwrap().trim().parse::<u128>().unwrap();
    assert!((before..=monotonic_micros()).contains(&at), "{reloading}");
    notified.await_message("READY=1");
    // One that is refused has ended as well.
    assert!(!gateway.try_reload("[runtime]\nwokers = 1\n"));
    notified.await_message("RELOADING=1");
    assert!(notified.await_message("READY=1").contains("refused"));
    gateway.write_config(&config);

    let old = gateway.upgrade();
    let main = notified.await_message("MAINPID=");
    assert_eq!(main, format!("MAINPID={}", gateway.pid()));
    notified.await_message("READY=1");
    Gateway::await_end_of(old);
    gateway.signal(Signal::SIGTERM);
    notified.await_message("STOPPING=1");
    // Nothing of the old process came in between.
    Gateway::await_end_of(gateway.pid());
    assert_eq!(notified.within(Duration::from_millis(200)), Vec::<String>::new());
}

#[test]
fn the_watchdog_is_fed_while_all_workers_live_also_by_the_next_process() {
    let address = unused_address();
    let server = Server::named("a");
    let notified = Notified::new();
    let config = Config::new(address).runtime("workers = 2").backend(&server, "");
    let launch = Launch::new(&config)
        .variable("NOTIFY_SOCKET", &notified.path())
        .variable("WATCHDOG_USEC", "2000000");
    let mut gateway = launch.start();
    let fed = |messages: &[String]| messages.iter().filter(|text| *text == "WATCHDOG=1").count();
    for _ in 0..2 {
        notified.await_message("WATCHDOG=1");
        let frozen = Frozen::thread(gateway.pid(), "worker-1");
        // What was said before this was found out.
        notified.within(Duration::from_millis(2_500));
        assert_eq!(fed(&notified.within(Duration::from_secs(3))), 0);
        drop(frozen);
        notified.await_message("WATCHDOG=1");
        gateway.upgrade();
        notified.await_message("MAINPID=");
    }
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let server = Server::named("a");
    let notified = Notified::new();
    let _gateway = Launch::new(Config::new(unused_address()).backend(&server, ""))
        .variable("NOTIFY_SOCKET", &notified.path())
        .variable("WATCHDOG_USEC", "200000")
        .variable("WATCHDOG_PID", "1")
        .start();
    notified.await_message("READY=1");
    assert_eq!(notified.within(Duration::from_secs(1)), Vec::<String>::new());
}

/// Becomes the gateway, as systemd's child does: with its own number in `LISTEN_PID`.
const ACTIVATOR: [&str; 4] = ["sh", "-c", "LISTEN_PID=$$ exec \"$@\"", "sh"];

#[test]
fn sockets_that_systemd_has_opened_are_taken() {
    let (address, other) = (unused_address(), unused_address());
    let server = Server::named("a");
    let listening = TcpListener::bind(address).unwrap();
    let unused = TcpListener::bind(unused_address()).unwrap();
    let unused_at = unused.local_addr().unwrap();
    // It waits in the queue before there is a gateway.
    let early = thread::spawn(move || visit(address));
    let second = format!("[[listener]]\nname = \"second\"\nbind = [\"{other}\"]\npool = \"app\"\n");
    let config = Config::new(address)
        .runtime("workers = 3\ndrain_timeout = \"1h\"")
        .backend(&server, "")
        .to_string()
        + &second;
    let mut gateway = Launch::new(config)
        .under(&ACTIVATOR)
        .variable("LISTEN_FDS", "2")
        .variable("LISTEN_FDNAMES", "web:spare")
        .descriptor(listening)
        .descriptor(unused)
        .start();
    assert_eq!(early.join().unwrap().unwrap(), "a");
    for _ in 0..20 {
        assert_eq!(visit(address).unwrap(), "a");
    }
    assert_eq!(visit(other).unwrap(), "a");
    gateway.await_log(&format!("no listener binds {unused_at}"));
    eventually("what is of no use is closed", || refused(unused_at));
    // And on they go.
    gateway.upgrade();
    assert_eq!(visit(address).unwrap(), "a");
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let address = unused_address();
    let server = Server::named("a");
    let listening = TcpListener::bind(unused_address()).unwrap();
    let gateway = Launch::new(Config::new(address).backend(&server, ""))
        .variable("LISTEN_FDS", "1")
        .variable("LISTEN_PID", "1")
        .descriptor(listening)
        .start();
    assert_eq!(visit(address).unwrap(), "a");
    assert!(!gateway.stderr().contains("handed on"));
}

#[test]
fn the_file_of_a_socket_that_systemd_has_opened_stays() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).backend(&server, "");
    let directory = TempDir::with_prefix("activated-").unwrap();
    let path = directory.path().join("admin.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let file = directory.path().join("lockgate.toml");
    let text = format!("admin.socket = {path:?}\nadmin.http = \"\"\n{config}");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(ACTIVATOR[0]);
    command.args(&ACTIVATOR[1..]).arg(lockgate()).args(["run", "-c"]).arg(&file);
    command.env("LISTEN_FDS", "1");
    let mapping = FdMapping { parent_fd: OwnedFd::from(socket), child_fd: 3 };
    let first = Ended(command.fd_mappings(vec![mapping]).unwrap().spawn().unwrap().id());
    let answers = || {
        let stream = UnixStream::connect(&path).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (_, body) = fetch(stream, "GET", "/v1/status").ok()?;
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        u32::try_from(status["pid"].as_u64().unwrap()).ok()
    };
    until("it answers", || answers().filter(|pid| *pid == first.0));
    first.signal(Signal::SIGUSR2);
    let second = Ended(until("another answers", || answers().filter(|pid| *pid != first.0)));
    second.signal(Signal::SIGTERM);
    Gateway::await_end_of(second.0);
    assert!(path.exists());
}

/// A process that is not to outlive the test.
struct Ended(u32);

impl Ended {
    fn signal(&self, signal: Signal) {
        let _gone = kill(Pid::from_raw(self.0.try_into().unwrap()), signal);
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

#[test]
fn it_can_be_activated_by_systemd_s_own_tool() {
    let address = unused_address();
    let server = Server::named("a");
    let directory = TempDir::with_prefix("activated-").unwrap();
    let file = directory.path().join("lockgate.toml");
    let config = Config::new(address).backend(&server, "");
    let text = format!("admin.socket = \"\"\nadmin.http = \"\"\n{config}");
    std::fs::write(&file, text).unwrap();
    let mut tool = Command::new("systemd-socket-activate");
    tool.args(["--listen", &address.to_string(), "--"]).arg(lockgate()).args(["run", "-c"]);
    let _tool = Ended(tool.arg(&file).spawn().unwrap().id());
    // It waits for the first connection, and becomes the gateway.
    let mut client = until("somebody listens", || connect(address).ok());
    assert_eq!(greeting(&mut client).unwrap(), "a");
}
