//! Limits by source: how many connections at once, and how many new ones in which time.
//!
//! Pure but for atomics: (source, now) → verdict, at any number of threads. A worker asks once for
//! each connection, see [`crate::connection`]; the control plane makes limits and hands their state
//! on from one generation to the next. Nothing here reads a clock.
//!
//! Memory is fixed: see [`table`] for what becomes of the sources that it has no room for.

pub mod rate;
pub mod table;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rate::{Nanos, Rate};
use table::{Lease, Table};

/// The most connections that a source can be let have.
pub const MOST_CONNECTIONS: u32 = table::MOST;

/// What a source may do, and what a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Connections at once, up to [`MOST_CONNECTIONS`].
    pub connections: Option<NonZeroU32>,
    /// New connections.
    pub rate: Option<Rate>,
    /// IPv4: the first bits that addresses of a source have in common, up to 32.
    pub prefix_v4: u8,
    /// IPv6: the same, up to 128.
    pub prefix_v6: u8,
    /// What becomes of a connection beyond that.
    pub action: Action,
}

/// What becomes of a connection beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is reset.
    Reset,
    /// It is closed in order, without a word.
    Drop,
    /// It is served, and counted.
    Log,
}

/// Which limit a connection is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Connections at once.
    Connections,
    /// New connections.
    Rate,
}

impl Limited {
    /// All there are, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Connections, Self::Rate];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Rate => "rate",
        }
    }
}

/// The limits of a listener, and what its sources have done.
#[derive(Debug)]
pub struct Limiter {
    /// The rules of this generation.
    pub rules: Rules,
    memory: Arc<Memory>,
}

/// What one generation hands on to the next.
#[derive(Debug)]
struct Memory {
    table: Arc<Table>,
    /// Random: nobody can choose addresses that fall into the same set.
    secret: RandomState,
    /// When its time began.
    began: Instant,
}

impl Limiter {
    /// Limits for sources of which nothing is known. Takes all of the memory that it will ever have,
    /// [`table::BYTES`].
    pub fn new(rules: Rules, now: Instant) -> Self {
        let memory = Memory { table: Table::new(), secret: RandomState::new(), began: now };
        Self { rules, memory: Arc::new(memory) }
    }

    /// The same sources under other rules. What they have used up stays used up, unless it is
    /// another thing now that a source is.
    pub fn with(&self, rules: Rules, now: Instant) -> Self {
        let before = &self.rules;
        if (rules.prefix_v4, rules.prefix_v6) != (before.prefix_v4, before.prefix_v6) {
            return Self::new(rules, now);
        }
        if let (Some(rate), Some(before)) = (&rules.rate, &before.rate)
            && rate != before
        {
            self.memory.table.convert(rate, self.since_began(now), before);
        }
        Self { rules, memory: Arc::clone(&self.memory) }
    }

    /// A connection of `client` comes in. Its lease, where connections at once are counted, is to be
    /// held for as long as it is there.
    ///
    /// Fails if it is beyond a limit. With [`Action::Log`] it is counted as the others are, and may
    /// have a lease all the same: see [`Limiter::enter_regardless`].
    #[inline]
    pub fn enter(&self, client: IpAddr, now: Instant) -> Result<Option<Lease>, Limited> {
        let Rules { connections, rate, .. } = &self.rules;
        let hash = self.hash(client);
        self.memory.table.enter(hash, self.since_began(now), rate.as_ref(), *connections)
    }

    /// A connection of `client` comes in that is served although it is beyond a limit. It counts
    /// among those at once; `None` where these are not counted, or cannot be any more.
    pub fn enter_regardless(&self, client: IpAddr, now: Instant) -> Option<Lease> {
        self.rules.connections?;
        let (hash, most) = (self.hash(client), NonZeroU32::new(MOST_CONNECTIONS));
        self.memory.table.enter(hash, self.since_began(now), None, most).ok().flatten()
    }

    fn since_began(&self, now: Instant) -> Nanos {
        let since: Duration = now.saturating_duration_since(self.memory.began);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX >> 2)
    }

    /// The source of an address, as the table knows it. Different sources have different ones as
    /// surely as 64 bits of chance can tell them apart.
    fn hash(&self, client: IpAddr) -> u64 {
        let key: u128 = match client.to_canonical() {
            // As IPv6 writes it: no address of IPv6 is left there.
            IpAddr::V4(v4) => {
                let beyond = 32 - u32::from(self.rules.prefix_v4.min(32));
                u128::from(u32::MAX.checked_shl(beyond).unwrap_or(0) & v4.to_bits()) | 0xffff << 32
            }
            IpAddr::V6(v6) => {
                let beyond = 128 - u32::from(self.rules.prefix_v6.min(128));
                u128::MAX.checked_shl(beyond).unwrap_or(0) & v6.to_bits()
            }
        };
        self.memory.secret.hash_one(key)
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
