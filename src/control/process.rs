//! What this process uses of the system, for the status.
//!
//! Read from `/proc/self` (proc_pid_statm(5)) and getrusage(2) whenever somebody asks. What cannot be
//! read is shown as 0: a gateway without `/proc` serves all the same.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::unistd::{SysconfVar, sysconf};

use crate::admin::status::Process;

/// What it uses now.
pub(super) fn usage() -> Process {
    let (max_open_files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    let cpu_seconds = getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let seconds = |time: nix::sys::time::TimeVal| {
            time.tv_sec() as f64 + time.tv_usec() as f64 / 1_000_000.0
        };
        seconds(usage.user_time()) + seconds(usage.system_time())
    });
    Process {
        open_files: open_files(),
        max_open_files,
        resident_bytes: resident_pages().unwrap_or(0) * page_size(),
        cpu_seconds,
    }
}

fn open_files() -> u64 {
    // Linux 6.2 and later say how many they are; before that they are counted, a hundred thousand
    // of them in some 30 ms.
    let told = fs::metadata("/proc/self/fd").map_or(0, |directory| directory.len());
    if told > 0 {
        return told;
    }
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// The second number of `statm`: pages in RAM.
fn resident_pages() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}

fn page_size() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something_and_one_file_more_is_one_more() {
        let before = usage();
        assert!(before.resident_bytes > 1 << 20 && before.cpu_seconds > 0.0, "{before:?}");
        assert!(before.open_files >= 3 && before.max_open_files >= before.open_files);
        let opened: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close files meanwhile.
        assert!(usage().open_files >= before.open_files + 30, "{} files", opened.len());
    }
}
