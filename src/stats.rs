//! Counts that the data plane keeps.
//!
//! Each worker has its own, on cache lines of its own, and adds to them without a lock or a
//! look-up; the control plane sums them when somebody asks. [`crate::metrics`] names them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that one thread adds to and others read. With a second that adds, some of it is lost:
/// hence one for each worker, who counts in none but its own.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only ever the same thread may do so, or one that is known to have come after.
    #[inline]
    pub fn add(&self, n: u64) {
        // Not `fetch_add`, which is locked: it costs as much as twenty instructions.
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// The count so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One `T` for each worker.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[Padded<T>]>);

/// Two cache lines: the prefetcher of x86 fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> PerWorker<T> {
    /// One `T` for each of `workers`.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Padded::default()).collect())
    }
}

impl<T> PerWorker<T> {
    /// That of one worker, in which no other may count.
    #[inline]
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    /// The sum over all workers of what `count` picks.
    pub fn sum(&self, count: impl Fn(&T) -> &Count) -> u64 {
        self.0.iter().map(|padded| count(&padded.0).get()).sum()
    }
}

/// Counts by one of a few named cases.
#[derive(Debug)]
pub struct ByCase<const N: usize>([Count; N]);

impl<const N: usize> Default for ByCase<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

impl<const N: usize> ByCase<N> {
    /// The count of case `index`.
    #[inline]
    pub fn of(&self, index: usize) -> &Count {
        &self.0[index]
    }
}

/// What happens on a listener.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Connections accepted.
    pub opened: Count,
    /// Connections ended, by [`Reason`].
    pub closed: ByCase<{ Reason::ALL.len() }>,
    /// Bytes from clients.
    pub bytes_in: Count,
    /// Bytes to clients.
    pub bytes_out: Count,
}

/// What happens on a backend.
#[derive(Debug, Default)]
pub struct BackendStats {
    /// Connections made.
    pub connections: Count,
    /// Connections that could not be made, by [`ConnectFailure`].
    pub connect_failures: ByCase<{ ConnectFailure::ALL.len() }>,
    /// Bytes to the backend.
    pub bytes_in: Count,
    /// Bytes from the backend.
    pub bytes_out: Count,
}

/// What happens on a pool.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Further backends tried after a failed connect.
    pub retries: Count,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Both sides had sent FIN.
    Closed,
    /// The client reset it, or went away.
    ClientReset,
    /// The backend reset it, or went away.
    BackendReset,
    /// No byte for too long.
    IdleTimeout,
    /// No byte for too long after one side had sent FIN.
    HalfCloseTimeout,
    /// No backend could be reached.
    ConnectFailed,
    /// No backend was usable.
    NoBackend,
    /// The listener has no pool for it.
    NoRoute,
    /// The gateway stopped.
    Drained,
    /// Every backend was full for too long.
    QueueTimeout,
}

impl Reason {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::Closed,
        Self::ClientReset,
        Self::BackendReset,
        Self::IdleTimeout,
        Self::HalfCloseTimeout,
        Self::ConnectFailed,
        Self::NoBackend,
        Self::NoRoute,
        Self::Drained,
        Self::QueueTimeout,
    ];

    /// The name in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::NoBackend => "no_backend",
            Self::NoRoute => "no_route",
            Self::Drained => "drained",
            Self::QueueTimeout => "queue_timeout",
        }
    }
}

/// Why a connection to a backend could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// No way to that address.
    Unreachable,
    /// Reset while connecting.
    Reset,
    /// This host lacks something: a port, a descriptor, memory, a permission.
    Local,
    /// Anything else.
    Other,
}

impl ConnectFailure {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Refused, Self::Timeout, Self::Unreachable, Self::Reset, Self::Local, Self::Other];

    /// What an error of `connect(2)` says.
    pub fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                Self::Unreachable
            }
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Self::Reset,
            ErrorKind::AddrNotAvailable
            | ErrorKind::AddrInUse
            | ErrorKind::OutOfMemory
            | ErrorKind::InvalidInput
            | ErrorKind::PermissionDenied => Self::Local,
            _ => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::EAFNOSUPPORT) => {
                    Self::Local
                }
                _ => Self::Other,
            },
        }
    }

    /// Whether the backend is to blame.
    pub fn is_backends(self) -> bool {
        self != Self::Local
    }

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Timeout => "connect timed out",
            Self::Unreachable => "unreachable",
            Self::Reset => "connection reset",
            Self::Local => "cannot connect from here (ports, descriptors or source)",
            Self::Other => "connect failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_listed_in_the_order_of_their_discriminants() {
        assert!(Reason::ALL.iter().enumerate().all(|(n, &reason)| reason as usize == n));
        assert!(ConnectFailure::ALL.iter().enumerate().all(|(n, &failure)| failure as usize == n));
    }

    #[test]
    fn workers_are_summed() {
        let stats = PerWorker::<BackendStats>::new(3);
        stats.of(0).connections.add(1);
        stats.of(2).connections.add(4);
        assert_eq!(stats.sum(|s| &s.connections), 5);
    }
}
