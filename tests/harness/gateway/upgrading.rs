//! One process of the gateway after the other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::super::{eventually, until};
use super::{Gateway, lockgate};

impl Gateway {
    /// The program that is started by an upgrade.
    pub fn binary(&self) -> PathBuf {
        self.directory.path().join("lockgate")
    }

    /// Puts another file in the place of the program, as a whole.
    pub fn replace_binary(&self, text: &str, mode: u32) {
        let new = self.directory.path().join("new-binary");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&new, self.binary()).unwrap();
    }

    /// Puts the program back in its place: a copy, which is not the same file.
    pub fn restore_binary(&self) {
        let new = self.directory.path().join("new-binary");
        fs::copy(lockgate(), &new).unwrap();
        fs::rename(&new, self.binary()).unwrap();
    }

    /// Has another process take over, and waits until it has. Returns the one that served before.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn upgrade(&mut self) -> u32 {
        self.signal(Signal::SIGUSR2);
        self.await_heir()
    }

    /// Waits until another process has taken over. Returns the one that served before.
    #[track_caller]
    pub fn await_heir(&mut self) -> u32 {
        let before = self.pid();
        let taken_over = |text: &str| text.contains("upgraded: the new process serves");
        let mine = format!("pid={before}");
        let heir = until("another process answers", || {
            let stderr = self.stderr();
            assert!(!stderr.contains("upgrade failed"), "{mine}:\n{stderr}");
            let status = self.request("GET", "/v1/status").ok()?;
            let status: Value = serde_json::from_str(&status.1).ok()?;
            let pid = u32::try_from(status["pid"].as_u64()?).ok()?;
            (pid != before && taken_over(&stderr)).then_some(pid)
        });
        self.process.heirs.push(heir);
        before
    }

    /// This process has taken over.
    pub fn adopt(&mut self, heir: u32) {
        self.process.heirs.push(heir);
    }

    /// Whether a process is there, and no zombie.
    pub fn is_alive(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| state != 'Z')
    }

    /// Waits until a process has ended.
    #[track_caller]
    pub fn await_end_of(pid: u32) {
        eventually(&format!("process {pid} has ended"), || !Self::is_alive(pid));
    }

    /// Children of the process that serves.
    pub fn children(&self) -> Vec<u32> {
        let tasks = format!("/proc/{}/task", self.pid());
        let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
        let children = tasks.map(|task| fs::read_to_string(task.path().join("children")));
        let children: Vec<String> = children.filter_map(Result::ok).collect();
        let pids = children.iter().flat_map(|text| text.split_whitespace());
        pids.map(|pid| pid.parse().unwrap()).collect()
    }
}
