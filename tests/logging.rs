//! Where events and records go: streams and files, which are rotated, removed, and on full disks.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Config, Frozen, Gateway, Launch, Server, eventually, lockgate, output_of, unused_address, visit,
};

/// A gateway that logs to files.
struct Logging {
    gateway: Gateway,
    address: SocketAddr,
    config: Config,
    events: PathBuf,
    records: PathBuf,
    _server: Server,
}

fn keys(events: &Path, records: &Path) -> String {
    format!("log.file = {events:?}\nlog.access_file = {records:?}")
}

impl Logging {
    fn to(directory: &Path) -> Self {
        Self::under(&[], directory)
    }

    fn under(command: &[&str], directory: &Path) -> Self {
        let (events, records) = (directory.join("events"), directory.join("records"));
        let (address, server) = (unused_address(), Server::named("a"));
        let config = Config::new(address).backend(&server, "");
        let launch = Launch::new(&config).log(&keys(&events, &records)).under(command);
        Self { gateway: launch.start(), address, config, events, records, _server: server }
    }

    fn visit(&self, times: usize) {
        (0..times).for_each(|_| assert_eq!(visit(self.address).unwrap(), "a"));
    }

    fn lost(&self, log: &str, reason: &str) -> f64 {
        let labels = [("log", log), ("reason", reason)];
        self.gateway.metric("lockgate_log_dropped_total", &labels)
    }
}

/// The whole lines of a file, each of which has to be JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn files_take_what_streams_took() {
    let directory = TempDir::new().unwrap();
    let logging = Logging::to(directory.path());
    logging.visit(3);
    eventually("three records are in their file", || lines(&logging.records).len() == 3);
    let serving = |line: &Value| line["message"] == "serving" && line["timestamp"].is_string();
    eventually("the start is in its file", || lines(&logging.events).iter().any(serving));
    assert_eq!((logging.gateway.stdout(), logging.gateway.stderr()), Default::default());
}

#[test]
fn rotation_by_renaming_loses_no_line() {
    let directory = TempDir::new().unwrap();
    let logging = Logging::to(directory.path());
    let mut expected = 0;
    for round in 0..2 {
        logging.visit(50);
        let old = directory.path().join(format!("records.{round}"));
        fs::rename(&logging.records, &old).unwrap();
        logging.visit(50);
        expected += 100;
        eventually("the file is made again", || logging.records.exists());
    }
    logging.visit(20);
    let all = || {
        let names = ["records.0", "records.1", "records"];
        names.iter().flat_map(|name| lines(&directory.path().join(name))).collect::<Vec<_>>()
    };
    eventually("each connection has its line", || all().len() == expected + 20);
    eventually("new lines are in the new file", || !lines(&logging.records).is_empty());
    let mut ids: Vec<_> = all().iter().map(|record| record["id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), expected + 20);
}

#[test]
fn rotation_by_truncating_leaves_no_hole() {
    let directory = TempDir::new().unwrap();
    let logging = Logging::to(directory.path());
    logging.visit(10);
    eventually("ten records are there", || lines(&logging.records).len() == 10);
    OpenOptions::new().write(true).open(&logging.records).unwrap().set_len(0).unwrap();
    logging.visit(1);
    eventually("one record is there", || lines(&logging.records).len() == 1);
}

#[test]
fn a_removed_file_is_made_again() {
    let directory = TempDir::new().unwrap();
    let logging = Logging::to(directory.path());
    for path in [&logging.events, &logging.records] {
        fs::remove_file(path).unwrap();
    }
    eventually("both are there", || logging.events.exists() && logging.records.exists());
    logging.visit(1);
    eventually("one record is there", || lines(&logging.records).len() == 1);
}

#[test]
fn a_directory_that_vanishes_costs_lines_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let place = directory.path().join("logs");
    fs::create_dir(&place).unwrap();
    let logging = Logging::to(&place);
    fs::remove_dir_all(&place).unwrap();
    for file in ["log.file", "log.access_file"] {
        logging.gateway.await_log(&format!("lockgate: {file} {}", place.display()));
    }
    logging.visit(30);
    eventually("lost records are counted", || logging.lost("records", "failed") == 30.0);
    eventually("lost events are counted", || logging.lost("events", "failed") > 0.0);
    let told = logging.gateway.stderr();
    assert_eq!(told.lines().count(), 2, "each is told once: {told}");

    fs::create_dir(&place).unwrap();
    eventually("files are there again", || logging.events.exists() && logging.records.exists());
    logging.visit(1);
    eventually("one record is there", || lines(&logging.records).len() == 1);
    let told = |line: &Value| {
        line["message"].as_str().unwrap().contains("lines are written again") && line["lost"] == 30
    };
    eventually("the loss is told", || lines(&logging.events).iter().any(told));
}

#[test]
fn a_full_disk_costs_lines_and_is_got_over() {
    let directory = TempDir::new().unwrap();
    // A small disk that only the gateway sees, and its end takes away.
    let mount = format!(
        "mount -t tmpfs -o size=64k none {:?} && exec \"$@\"",
        directory.path().to_str().unwrap()
    );
    let logging =
        Logging::under(&["unshare", "--mount", "sh", "-c", &mount, "sh"], directory.path());
    let seen = format!("/proc/{}/root{}", logging.gateway.pid(), directory.path().display());
    let records = Path::new(&seen).join("records");
    // About 350 bytes each.
    logging.visit(400);
    eventually("lost records are counted", || logging.lost("records", "failed") > 100.0);
    let full = "lockgate: log.access_file";
    logging.gateway.await_log(full);
    logging.visit(50);
    assert_eq!(logging.gateway.stderr().matches(full).count(), 1, "told once");

    let room = OpenOptions::new().write(true).open(&records).unwrap();
    room.set_len(0).unwrap();
    eventually("what is lost is all lost", || {
        let lost = logging.lost("records", "failed");
        logging.visit(1);
        logging.lost("records", "failed") == lost && !lines(&records).is_empty()
    });
    eventually("the loss is told", || {
        let events = fs::read_to_string(Path::new(&seen).join("events")).unwrap();
        events.contains("lines are written again")
    });
}

#[test]
fn a_disk_that_hangs_holds_nobody_up() {
    let directory = TempDir::new().unwrap();
    let logging = Logging::to(directory.path());
    let frozen = [
        Frozen::thread(logging.gateway.pid(), "log-records"),
        Frozen::thread(logging.gateway.pid(), "log-events"),
    ];
    // More than there is room for, in chunks of a tenth of a second.
    logging.visit(500);
    assert!(logging.gateway.try_reload(&logging.config));
    assert_eq!(logging.gateway.request("GET", "/healthz").unwrap().0, 200);
    drop(frozen);
    eventually("nothing is lost of so little", || lines(&logging.records).len() == 500);
    assert_eq!(logging.lost("records", "slow"), 0.0);
}

#[test]
fn a_reload_changes_the_files() {
    let (directory, address) = (TempDir::new().unwrap(), unused_address());
    let server = Server::named("a");
    let config = Config::new(address).backend(&server, "");
    let mut gateway = Gateway::start(&config);
    visit(address).unwrap();
    gateway.await_records(1, "closed");

    let path = |name: &str| directory.path().join(name);
    gateway.change_log(&keys(&path("events"), &path("records")));
    gateway.reload(&config);
    visit(address).unwrap();
    eventually("the next is in the file", || lines(&path("records")).len() == 1);
    eventually("the reload is in the file", || {
        let text = fs::read_to_string(path("events")).unwrap();
        text.contains("~log.file, ~log.access_file")
    });

    gateway.change_log(&format!("log.access_file = {:?}", path("others")));
    gateway.reload(&config);
    visit(address).unwrap();
    eventually("the next is in the other file", || lines(&path("others")).len() == 1);
    gateway.await_log("~log.file, ~log.access_file");

    let nowhere = path("nowhere").join("events");
    gateway.change_log(&format!("log.file = {nowhere:?}"));
    assert!(!gateway.try_reload(&config));
    gateway.await_log(&format!("log.file: cannot open {}: No such file", nowhere.display()));
    visit(address).unwrap();
    eventually("records go where they went", || lines(&path("others")).len() == 2);
    assert_eq!(gateway.records().len(), 1);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_file_that_cannot_be_opened_is_named_and_ends_the_start() {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("lockgate.toml");
    for (key, file, cause) in [
        ("file", "missing/events", "No such file or directory"),
        ("access_file", ".", "Is a directory"),
    ] {
        let file = directory.path().join(file);
        let listener = format!("[[listener]]\nname = \"a\"\nbind = \"{}\"\n", unused_address());
        fs::write(
            &config,
            format!("admin.socket = ''\nadmin.http = ''\nlog.{key} = {file:?}\n{listener}"),
        )
        .unwrap();
        let output = output_of(Command::new(lockgate()).arg("run").arg("-c").arg(&config));
        assert_eq!(output.status.code(), Some(71));
        let expected = format!("lockgate: log.{key}: cannot open {}: {cause}", file.display());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.starts_with(&expected), "{told}");
    }
}

/// A gateway with text on standard error, which is a file; `journal`: with the environment that
/// says so of a journal.
fn on_stderr(journal: bool) -> io::Result<String> {
    let directory = TempDir::new()?;
    let path = directory.path().join("stderr");
    let stream = if journal { "$(stat -L -c %d:%i /proc/self/fd/2)" } else { "1:1" };
    let script = format!("exec 2>{path:?}; JOURNAL_STREAM={stream} exec \"$@\"");
    let address = unused_address();
    let server = Server::named("a");
    let launch = Launch::new(Config::new(address).backend(&server, "")).text();
    let mut gateway = launch.under(&["sh", "-c", &script, "sh"]).start();
    // Of many lines, which all are errors.
    assert!(!gateway.try_reload("[[listener]]\nname = 1\nbind = 2\n"));
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().code(), Some(0));
    fs::read_to_string(path)
}

#[test]
fn the_journal_gets_priorities_and_no_time() {
    let text = on_stderr(true).unwrap();
    let starts: Vec<_> = text.lines().filter_map(|line| line.get(..3)).collect();
    assert!(starts.iter().all(|start| ["<3>", "<4>", "<6>"].contains(start)), "{text}");
    assert!(starts.iter().filter(|start| **start == "<3>").count() > 3, "{text}");
    assert!(text.contains("<6> INFO serving version="), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn others_get_the_time_and_no_colours() {
    let text = on_stderr(false).unwrap();
    assert!(text.starts_with("20"), "{text}");
    assert!(text.contains("Z  INFO serving version="), "{text}");
    assert!(!text.contains('\x1b') && !text.contains("<6>"), "{text}");
}
