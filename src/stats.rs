//! Counts that the data plane keeps.
//!
//! Each worker has its own, on cache lines of its own, and adds to them without a lock or a
//! look-up; the control plane sums them when somebody asks. [`crate::metrics`] names them.

mod tally;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limit::Limited;
use crate::socket;
pub use tally::{Tally, growth};

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

/// One `T` for each worker, and one more for what processes before this one have counted.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[Padded<T>]>);

/// Two cache lines: the prefetcher of x86 fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> PerWorker<T> {
    /// One `T` for each of `workers`, and one more.
    pub fn new(workers: usize) -> Self {
        Self((0..=workers).map(|_| Padded::default()).collect())
    }
}

impl<T> PerWorker<T> {
    /// That of one worker, in which no other may count.
    #[inline]
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    /// That of the processes before this one, in which only the control plane counts.
    pub fn inherited(&self) -> &T {
        &self.0[self.0.len() - 1].0
    }

    /// The sum over all workers, and the processes before this one, of what `count` picks.
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
    /// What was read where a ClientHello was due, by [`Hello`].
    pub hellos: ByCase<{ Hello::ALL.len() }>,
    /// TLS handshakes, by [`Handshake`].
    pub handshakes: ByCase<{ Handshake::ALL.len() }>,
    /// TLS handshakes that failed, by [`HandshakeFailure`].
    pub handshake_failures: ByCase<{ HandshakeFailure::ALL.len() }>,
    /// Connections beyond a limit of their source, by [`Limited`].
    pub limited: ByCase<{ Limited::ALL.len() }>,
}

/// What happens on a backend.
#[derive(Debug, Default)]
pub struct BackendStats {
    /// Connections made.
    pub connections: Count,
    /// Nanoseconds that they took to be made.
    pub connect_nanoseconds: Count,
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
    /// The gateway stopped, or the operator's patience with a draining backend was over.
    Drained,
    /// Every backend was full for too long.
    QueueTimeout,
    /// What must come first, a PROXY header or a TLS handshake, took the client too long.
    ClientTimeout,
    /// The TLS handshake failed otherwise.
    TlsFailed,
    /// What came was no ClientHello, and there is no pool for that.
    BadClientHello,
    /// Its source had as many connections as it may, or as many new ones.
    Limited,
    /// The listener does not let it in.
    Denied,
    /// What came from a trusted proxy was no PROXY header.
    BadProxyHeader,
    /// Its backend's checks said that it is down, and the pool resets connections then.
    BackendDown,
}

impl Reason {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 17] = [
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
        Self::ClientTimeout,
        Self::TlsFailed,
        Self::BadClientHello,
        Self::Limited,
        Self::Denied,
        Self::BadProxyHeader,
        Self::BackendDown,
    ];

    /// Whether the connection was turned away before anybody served it, by us or for what the client
    /// sent. One that no backend could be reached for has been tried.
    pub fn is_refusal(self) -> bool {
        !matches!(
            self,
            Self::Closed
                | Self::ClientReset
                | Self::BackendReset
                | Self::IdleTimeout
                | Self::HalfCloseTimeout
                | Self::ConnectFailed
                | Self::Drained
                | Self::ClientTimeout
                | Self::BackendDown
        )
    }

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
            Self::ClientTimeout => "client_timeout",
            Self::TlsFailed => "tls_failed",
            Self::BadClientHello => "bad_client_hello",
            Self::Limited => "limited",
            Self::Denied => "denied",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::BackendDown => "backend_down",
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
    /// The TLS handshake with the backend failed, or its certificate is not to be trusted.
    Tls,
}

impl ConnectFailure {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Reset,
        Self::Local,
        Self::Other,
        Self::Tls,
    ];

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
            | ErrorKind::InvalidInput
            | ErrorKind::PermissionDenied => Self::Local,
            _ if socket::is_shortage(error) => Self::Local,
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Self::Local,
            _ => Self::Other,
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
            Self::Tls => "tls",
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
            Self::Tls => "TLS handshake failed",
        })
    }
}

/// What was read where a ClientHello was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// One that asks for a name.
    Named,
    /// One without a name, or with one that is none.
    Unnamed,
    /// Something else than TLS.
    NotTls,
    /// One against the rules.
    Malformed,
    /// More than any has.
    TooLarge,
    /// Not all of it in time.
    TooSlow,
    /// The end, before all of it was there.
    Cut,
}

impl Hello {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Named,
        Self::Unnamed,
        Self::NotTls,
        Self::Malformed,
        Self::TooLarge,
        Self::TooSlow,
        Self::Cut,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Unnamed => "no_sni",
            Self::NotTls => "not_tls",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Cut => "cut",
        }
    }
}

/// A TLS handshake that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// TLS 1.2, from the beginning.
    Tls12,
    /// TLS 1.2, where an earlier connection left off.
    Tls12Resumed,
    /// TLS 1.3, from the beginning.
    Tls13,
    /// TLS 1.3, where an earlier connection left off.
    Tls13Resumed,
}

impl Handshake {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Tls12, Self::Tls12Resumed, Self::Tls13, Self::Tls13Resumed];

    /// `1.2` or `1.3`.
    pub fn version(self) -> &'static str {
        match self {
            Self::Tls12 | Self::Tls12Resumed => "1.2",
            Self::Tls13 | Self::Tls13Resumed => "1.3",
        }
    }

    /// Whether it went on where an earlier connection left off.
    pub fn is_resumed(self) -> bool {
        matches!(self, Self::Tls12Resumed | Self::Tls13Resumed)
    }
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// No certificate covers the name that the client asked for, or it asked for none.
    UnknownSni,
    /// No cipher suite, group or signature scheme in common.
    NoSharedCipher,
    /// No protocol version in common.
    NoSharedVersion,
    /// No application protocol in common (ALPN).
    NoSharedProtocol,
    /// The other end's certificate is missing, or not to be trusted.
    BadCertificate,
    /// The other end refused something by an alert.
    Alert,
    /// The other end closed the connection, or broke it.
    Closed,
    /// It took too long.
    Timeout,
    /// Not TLS, or against its rules.
    Protocol,
}

impl HandshakeFailure {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 9] = [
        Self::UnknownSni,
        Self::NoSharedCipher,
        Self::NoSharedVersion,
        Self::NoSharedProtocol,
        Self::BadCertificate,
        Self::Alert,
        Self::Closed,
        Self::Timeout,
        Self::Protocol,
    ];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownSni => "unknown_sni",
            Self::NoSharedCipher => "no_shared_cipher",
            Self::NoSharedVersion => "no_shared_version",
            Self::NoSharedProtocol => "no_shared_protocol",
            Self::BadCertificate => "bad_certificate",
            Self::Alert => "alert",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_listed_in_the_order_of_their_discriminants() {
        assert!(Reason::ALL.iter().enumerate().all(|(n, &reason)| reason as usize == n));
        assert!(ConnectFailure::ALL.iter().enumerate().all(|(n, &failure)| failure as usize == n));
        assert!(HandshakeFailure::ALL.iter().enumerate().all(|(n, &case)| case as usize == n));
        assert!(Limited::ALL.iter().enumerate().all(|(n, &limited)| limited as usize == n));
        assert!(Hello::ALL.iter().enumerate().all(|(n, &hello)| hello as usize == n));
        assert!(Handshake::ALL.iter().enumerate().all(|(n, &handshake)| handshake as usize == n));
    }

    #[test]
    fn workers_are_summed() {
        let stats = PerWorker::<BackendStats>::new(3);
        stats.of(0).connections.add(1);
        stats.of(2).connections.add(4);
        assert_eq!(stats.sum(|s| &s.connections), 5);
    }
}
