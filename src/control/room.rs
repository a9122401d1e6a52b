//! How much the process takes at once.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{CHECKS_AT_ONCE, Failure};
use crate::config::plan;
use crate::relay::MOST_PIPES;
use crate::socket;

/// What of the memory is for connections, and how much of it each is counted with, in bytes. A silent
/// one takes a fiftieth of that; one with TLS whose client does not read takes about as much. The rest
/// of the memory is the kernel's, for what their sockets hold.
const SHARE: u64 = 2;
const EACH: u64 = 64 << 10;

/// A gateway that has room for fewer connections than this serves nobody well: the host is to be set up
/// otherwise.
const FEWEST: u32 = 64;

/// Connections that the process takes at once: as configured, as far as files suffice. If nothing is
/// configured, as far as memory suffices as well.
pub(super) fn max_connections(plan: &plan::Plan, workers: usize, open_files: u64) -> u32 {
    let room = room(plan, workers, open_files);
    match plan.runtime.max_connections {
        Some(wanted) if wanted.get() > room => {
            tracing::warn!(
                wanted,
                room,
                open_files,
                "runtime.max_connections is more than RLIMIT_NOFILE has room for"
            );
            room
        }
        Some(wanted) => wanted.get(),
        None => room.min(memory().map_or(u32::MAX, room_in)),
    }
}

/// Connections that so much memory, in bytes, has room for.
fn room_in(memory: u64) -> u32 {
    u32::try_from(memory / SHARE / EACH).unwrap_or(u32::MAX).max(1)
}

/// Memory that this process may use, in bytes: the machine's, or what its control groups leave it of
/// that. None if nobody says.
fn memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    });
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(limits(Path::new("/sys/fs/cgroup"), &groups)).min()
}

/// The limits of these control groups (`/proc/self/cgroup`, cgroups(7)) and of those that they are in,
/// as far as they are shown under `root`.
fn limits(root: &Path, groups: &str) -> Vec<u64> {
    let mut limits = Vec::new();
    for group in groups.lines() {
        let mut parts = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (top, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            all if all.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A path from outside a container leads nowhere within; what there is lies at the top then.
        let own = top.join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|above| above.starts_with(&top));
        let files = above.map(|directory| directory.join(file)).collect::<Vec<PathBuf>>();
        // "max", and no limit at all, is no number.
        let numbers = files.iter().filter_map(|file| fs::read_to_string(file).ok());
        limits.extend(numbers.filter_map(|text| text.trim().parse::<u64>().ok()));
    }
    limits
}

/// How many workers there are to be: as configured, or one for each processor of this process.
pub(super) fn workers(plan: &plan::Plan) -> io::Result<usize> {
    match plan.runtime.workers {
        Some(count) => Ok(count.get()),
        None => Ok(socket::processors()?.len()),
    }
}

/// Open files beside the two sockets of each connection: pipes and sockets of the workers, checks, the
/// admin server, the log, and some to spare.
fn others(plan: &plan::Plan, workers: usize) -> u64 {
    let binds: usize = plan.listeners.iter().map(|listener| listener.bind.len()).sum();
    (workers * (2 * MOST_PIPES + binds + 4) + CHECKS_AT_ONCE + 128) as u64
}

/// Connections that so many open files have room for.
pub(super) fn room(plan: &plan::Plan, workers: usize, open_files: u64) -> u32 {
    let room = open_files.saturating_sub(others(plan, workers)) / 2;
    u32::try_from(room).unwrap_or(u32::MAX).max(1)
}

/// Whether there are enough open files to be of use: for [`FEWEST`] connections, or for as many as are
/// configured if that is less.
///
/// Fails with the number that is needed, and where to set it.
pub(super) fn suffices(plan: &plan::Plan, workers: usize, open_files: u64) -> Result<(), Failure> {
    let fewest = plan.runtime.max_connections.map_or(FEWEST, |wanted| wanted.get().min(FEWEST));
    let needed = others(plan, workers) + 2 * u64::from(fewest);
    if open_files >= needed {
        return Ok(());
    }
    Err(Failure::System {
        what: "RLIMIT_NOFILE is too low".to_owned(),
        source: io::Error::other(format!(
            "{open_files} file descriptors, and {workers} workers with {fewest} connections need \
             {needed}"
        )),
        hint: " (raise the hard limit: LimitNOFILE= of a systemd unit, ulimit -Hn of a shell)"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_all_groups_count_that_a_process_is_in() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("memory.max", "9000\n");
        put("system.slice/memory.max", "7000\n");
        put("system.slice/lockgate.service/memory.max", "max\n");
        put("memory/box/memory.limit_in_bytes", "5000\n");
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        put("elsewhere/memory.max", "1\n");
        let of = |groups: &str| limits(root.path(), groups);
        assert_eq!(of("0::/system.slice/lockgate.service\n"), [7000, 9000]);
        assert_eq!(of("0::/outside/of/this\n"), [9000]);
        let old = "12:cpu,cpuacct:/box\n11:memory:/box\n1:name=systemd:/elsewhere\n";
        assert_eq!(of(old), [5000, 9223372036854771712]);
        assert!(of("no line of such a file").is_empty());
    }

    #[test]
    fn memory_has_room_for_connections() {
        assert_eq!(room_in(1 << 30), 8_192);
        assert_eq!(room_in(1000), 1);
        assert_eq!(room_in(u64::MAX), u32::MAX);
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
