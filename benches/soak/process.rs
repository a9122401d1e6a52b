//! What the kernel says of a process.

use std::{fs, io};

/// Its size at a moment.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Resident, in bytes.
    pub memory: u64,
    pub files: usize,
    pub threads: usize,
}

impl State {
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |key: &str| -> io::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.ok_or_else(|| io::Error::other(format!("no {key} of process {pid}")))
        };
        Ok(Self {
            memory: number("VmRSS:")? << 10,
            files: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            threads: number("Threads:")? as usize,
        })
    }
}
