//! What the process of a gateway uses.

use std::fs;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use super::Gateway;

impl Gateway {
    /// Processor time that it has used.
    pub fn processor_time(&self) -> Duration {
        processor_time(&format!("/proc/{}/stat", self.pid()))
    }

    /// Processor time that its control thread, the first one, has used.
    pub fn control_thread_time(&self) -> Duration {
        processor_time(&format!("/proc/{pid}/task/{pid}/stat", pid = self.pid()))
    }

    /// Memory that it occupies, in bytes.
    pub fn resident_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }
}

/// proc_pid_stat(5): user and system time are the fields 14 and 15, in clock ticks.
fn processor_time(stat: &str) -> Duration {
    let stat = fs::read_to_string(stat).unwrap();
    // The second field is the name, in parentheses, and may have spaces in it.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u32 = fields[11..13].iter().map(|field| field.parse::<u32>().unwrap()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs(1) * ticks / u32::try_from(per_second).unwrap()
}
