//! What threads of this crate share: their clock, their privileges, and how they wake each other.

use std::collections::VecDeque;
use std::fs;
use std::hint;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};

use crate::types::Moment;

/// The present on `CLOCK_BOOTTIME`, which counts the time that the host was suspended.
pub fn now() -> Moment {
    // The clock has been there since Linux 2.6.39, so that an error cannot be; the beginning of
    // time would look like a pause, and be harmless.
    let Ok(time) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return Moment::default() };
    Moment::new(Duration::from(time))
}

/// A moment in nanoseconds, for atomics.
pub fn nanos(moment: Moment) -> u64 {
    u64::try_from(moment.since_beginning().as_nanos()).unwrap_or(u64::MAX)
}

/// The moment that [`nanos`] was of.
pub const fn moment(nanos: u64) -> Moment {
    Moment::new(Duration::from_nanos(nanos))
}

/// Bit of `CAP_NET_ADMIN` (capabilities(7)): addresses.
pub const CAP_NET_ADMIN: u8 = 12;
/// Bit of `CAP_NET_RAW`: raw sockets.
pub const CAP_NET_RAW: u8 = 13;
/// Bit of `CAP_IPC_LOCK`: locking memory without limit.
const CAP_IPC_LOCK: u8 = 14;

/// Whether the calling thread has a capability.
pub fn has_capability(bit: u8) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|set| set >> bit & 1 == 1)
}

/// Keeps all memory of the process from being paged out, as it is first used. `shared`: with threads
/// that lack `CAP_IPC_LOCK`.
///
/// Memory that comes later is locked too, unless that made allocations fail: of any thread at a
/// limit, of those that lack the capability at the usual one (8 MiB).
///
/// # Errors
///
/// `EPERM` without `CAP_IPC_LOCK` and with a limit.
pub fn lock_memory(shared: bool) -> io::Result<()> {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK);
    let unlimited = limit.is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    if !unlimited && !has_capability(CAP_IPC_LOCK) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let present =
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT as _);
    let future =
        if unlimited || !shared { MlockAllFlags::MCL_FUTURE } else { MlockAllFlags::empty() };
    Ok(mlockall(present | future)?)
}

/// How often a lock is tried whose holder needs a few nanoseconds.
const SPINS: u32 = 100;

/// Wakes a thread that polls it.
#[derive(Debug)]
pub struct Wake(EventFd);

impl Wake {
    /// One that nobody has rung yet.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    /// Rings. It never blocks: when the counter is full, the thread is as good as woken.
    pub fn ring(&self) {
        let _full = self.0.write(1);
    }

    /// Forgets that it has been rung.
    pub fn quiet(&self) {
        let _not_rung = self.0.read();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A bounded queue to a thread that polls. A real-time thread can use either end of it without
/// ever waiting for the other.
#[derive(Debug)]
pub struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    limit: usize,
    lost: AtomicU64,
    wake: Wake,
}

impl<T> Queue<T> {
    /// An empty one, for so many.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    pub fn new(limit: usize) -> io::Result<Self> {
        let items = Mutex::new(VecDeque::with_capacity(limit));
        Ok(Self { items, limit, lost: AtomicU64::new(0), wake: Wake::new()? })
    }

    /// What the receiving thread polls.
    pub const fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Appends, waiting for the other end if need be. Gives the item back when it is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        self.append(items, item)
    }

    /// Appends without waiting for more than a microsecond or two, which is what the other end
    /// needs to take something out while it runs. Gives the item back when there is no room, or
    /// the other end was interrupted just then.
    pub fn try_push(&self, item: T) -> Result<(), T> {
        for _ in 0..SPINS {
            match self.items.try_lock() {
                Ok(items) => return self.append(items, item),
                Err(TryLockError::Poisoned(items)) => return self.append(items.into_inner(), item),
                Err(TryLockError::WouldBlock) => hint::spin_loop(),
            }
        }
        Err(item)
    }

    fn append(&self, mut items: MutexGuard<'_, VecDeque<T>>, item: T) -> Result<(), T> {
        if items.len() >= self.limit {
            return Err(item);
        }
        items.push_back(item);
        drop(items);
        self.wake.ring();
        Ok(())
    }

    /// The oldest. It does not wait: when the other end is at it, that will ring when it is done.
    /// Ringing here would have a real-time thread spin, and never let the other end be done.
    pub fn try_pop(&self) -> Option<T> {
        match self.items.try_lock() {
            Ok(mut items) => items.pop_front(),
            Err(TryLockError::Poisoned(items)) => items.into_inner().pop_front(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Counts one that was not appended.
    pub fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were lost since this was asked last.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_back_and_nobody_waits_for_a_busy_one() {
        let queue = Queue::new(1).unwrap();
        assert_eq!((queue.try_push(1), queue.try_push(2), queue.push(3)), (Ok(()), Err(2), Err(3)));
        let guard = queue.items.lock().unwrap();
        queue.wake.quiet();
        assert_eq!((queue.try_pop(), queue.try_push(4)), (None, Err(4)));
        drop(guard);
        assert_eq!((queue.try_pop(), queue.try_pop()), (Some(1), None));
    }

    #[test]
    fn the_clock_runs_and_survives_atomics() {
        let before = now();
        assert!(before.since_beginning() > Duration::ZERO);
        assert_eq!(moment(nanos(before)), before);
        assert!(now() >= before);
    }
}
