//! A machine of the test's own: systemd is its first process, its files are a copy of this
//! machine's, and its network is a namespace.

use std::fs;
use std::path::PathBuf;
use std::process::{self, Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::lab::Namespace;
use super::{output_of, until};

/// It runs until it is dropped, and leaves nothing behind.
pub struct Machine {
    /// Where its network is. `eth0` has the address 10.9.0.1/24, and nobody is at the other end.
    pub network: Namespace,
    directory: TempDir,
    group: String,
    outside: Child,
    init: u32,
}

impl Machine {
    /// Boots it.
    ///
    /// # Panics
    ///
    /// If it does not come up; what it said is in the log of the test.
    pub fn boot() -> Self {
        let network = Namespace::new("machine");
        network.ip("link add eth0 type veth peer name far");
        network.ip("addr add 10.9.0.1/24 dev eth0");
        ["eth0", "far"].iter().for_each(|device| network.ip(&format!("link set {device} up")));
        let directory = TempDir::with_prefix("machine-").unwrap();
        let group = network.name().to_owned();
        let [program, arguments @ ..] = network.enter();
        let mut command = Command::new(program);
        command.args(arguments).args(Self::script(&directory, &group, "begin"));
        let outside = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut machine = Self { network, directory, group, outside, init: 0 };
        machine.init = until("there is a first process", || {
            let pid = machine.outside.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let init = children.split_whitespace().next()?;
            let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
            (name == "systemd\n").then(|| init.parse().unwrap())
        });
        until("the machine is up", || {
            let state = machine.run(&["systemctl", "is-system-running"]).stdout;
            matches!(&state[..], b"running\n" | b"degraded\n").then_some(())
        });
        machine
    }

    fn script(directory: &TempDir, group: &str, step: &str) -> Vec<String> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packaging/boot.sh");
        let directory = directory.path().to_str().unwrap();
        let words = ["unshare", "--mount", "--propagation", "private", "sh", script];
        words.into_iter().chain([directory, group, step]).map(str::to_owned).collect()
    }

    /// Where a file of the machine is for the test.
    pub fn path(&self, path: &str) -> PathBuf {
        assert!(path.starts_with('/'), "{path}");
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Runs a command on it, as root.
    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "--root", "--wd"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]);
        output_of(command.args(words))
    }

    /// Runs a command that has to succeed. Returns what it has printed, to both of its outputs.
    #[track_caller]
    pub fn done(&self, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(words);
        let text = String::from_utf8([stdout, stderr].concat()).unwrap();
        if !status.success() {
            let journal = self.run(&["journalctl", "--no-pager"]).stdout;
            panic!("{words:?}: {status}\n{text}\n{}", String::from_utf8_lossy(&journal));
        }
        text
    }

    /// What systemd knows of a service.
    #[track_caller]
    pub fn property(&self, service: &str, name: &str) -> String {
        self.done(&["systemctl", "show", "--value", "--property", name, service]).trim().to_owned()
    }

    /// The first process of a service, as the test numbers it.
    #[track_caller]
    pub fn main_process(&self, service: &str) -> u32 {
        let group = self.property(service, "ControlGroup");
        let pid = self.property(service, "MainPID");
        // As it is numbered in its own namespace, the last of them (proc_pid_status(5)).
        let is_it = |outside: &u32| {
            let status = fs::read_to_string(format!("/proc/{outside}/status")).unwrap_or_default();
            let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            inside.is_some_and(|pids| pids.split_whitespace().next_back() == Some(&pid))
        };
        let found = self.processes(&group).into_iter().find(is_it);
        found.unwrap_or_else(|| panic!("no process {pid} in {group}"))
    }

    /// The processes of a control group of the machine, as the test numbers them.
    fn processes(&self, group: &str) -> Vec<u32> {
        let pids = fs::read_to_string(self.path(&format!("/sys/fs/cgroup{group}/cgroup.procs")));
        pids.unwrap().lines().map(|pid| pid.parse().unwrap()).collect()
    }

    /// What the journal has of a service: priority and message of each entry.
    #[track_caller]
    pub fn journal(&self, service: &str) -> Vec<(u8, String)> {
        let entries = self.done(&["journalctl", "--unit", service, "--output", "json"]);
        let entry = |line: &str| {
            let entry: Value = serde_json::from_str(line).expect(line);
            let priority = entry["PRIORITY"].as_str().unwrap().parse().unwrap();
            (priority, entry["MESSAGE"].as_str().unwrap().to_owned())
        };
        entries.lines().map(entry).collect()
    }

    /// Waits for an entry that contains this. Returns its priority.
    #[track_caller]
    pub fn await_journal(&self, service: &str, text: &str) -> u8 {
        until(&format!("the journal says {text:?}"), || {
            let mut entries = self.journal(service).into_iter();
            entries.find_map(|(priority, message)| message.contains(text).then_some(priority))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process all others end. Nothing here may panic.
        if let Ok(init @ 1..) = i32::try_from(self.init) {
            let _ = kill(Pid::from_raw(init), Signal::SIGKILL);
        }
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        let remove = Self::script(&self.directory, &self.group, "remove");
        for _ in 0..50 {
            let mut command = Command::new(&remove[0]);
            command.args(&remove[1..]).stdout(Stdio::null()).stderr(Stdio::null());
            if command.status().is_ok_and(|status| status.success()) {
                return;
            }
            // Its processes are ending.
            thread::sleep(Duration::from_millis(100));
        }
        eprintln!("process {}: the control group {} is left", process::id(), self.group);
    }
}
