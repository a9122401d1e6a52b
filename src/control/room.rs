//! How much the process takes at once.

use std::io;

use super::CHECKS_AT_ONCE;
use crate::config::plan;
use crate::relay::MOST_PIPES;
use crate::socket;

/// Connections that the process takes at once: as configured, as far as files suffice.
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
        None => room,
    }
}

/// How many workers there are to be: as configured, or one for each processor of this process.
pub(super) fn workers(plan: &plan::Plan) -> io::Result<usize> {
    match plan.runtime.workers {
        Some(count) => Ok(count.get()),
        None => Ok(socket::processors()?.len()),
    }
}

/// Connections that so many open files have room for.
pub(super) fn room(plan: &plan::Plan, workers: usize, open_files: u64) -> u32 {
    // Beside two sockets for each connection: pipes and sockets of the workers, checks, the
    // admin server, the log, and some to spare.
    let binds: usize = plan.listeners.iter().map(|listener| listener.bind.len()).sum();
    let others = workers * (2 * MOST_PIPES + binds + 4) + CHECKS_AT_ONCE + 128;
    let room = open_files.saturating_sub(others as u64) / 2;
    u32::try_from(room).unwrap_or(u32::MAX).max(1)
}
