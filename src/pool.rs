//! Pools and their backends, as workers see them.
//!
//! A [`Pool`] is part of a published [`crate::snapshot::Snapshot`] and never changes; what does
//! change (weights, leases, addresses of names, counts, the queue) sits behind atomics in parts
//! that one generation of a pool hands on to the next.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};

use crate::balance::cell::{Block, Cell, Load};
use crate::balance::{Group, Request, Unavailable};
use crate::proto::proxy_protocol::Version;
use crate::stats::{BackendStats, ConnectFailure, PerWorker, PoolStats};
use crate::tls::client::{Client, PeerName};

/// A server that connections are sent to.
#[derive(Debug)]
pub struct Backend {
    /// Unique in the process, never used again.
    pub id: u64,
    /// Name of its pool.
    pub pool: Arc<str>,
    /// Name within the pool.
    pub name: Arc<str>,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Whom its certificate has to be for, in a pool with TLS; `None` if its host is no name that a
    /// certificate can have.
    pub peer: Option<PeerName>,
    /// One of the pool's backup backends.
    pub backup: bool,
    /// Its slot among the ordinary, or the backup, backends.
    pub slot: u16,
    /// Counts.
    pub stats: PerWorker<BackendStats>,
    /// Holds its cell.
    pub block: Arc<Block>,
}

/// Where a backend listens.
#[derive(Debug)]
pub enum Endpoint {
    /// A fixed address.
    Fixed(SocketAddr),
    /// What a name resolved to last; none yet if empty.
    Resolved(ArcSwapOption<Addresses>),
}

/// The addresses of a name, in the order of preference.
#[derive(Debug)]
pub struct Addresses {
    /// At least one.
    list: Box<[SocketAddr]>,
    /// Index of the one that worked last, by a check or a connection.
    preferred: AtomicUsize,
}

impl Addresses {
    /// `None` without any. `preferred` stays the one to begin with, if it is among them.
    pub fn new(list: Vec<SocketAddr>, preferred: Option<SocketAddr>) -> Option<Self> {
        let index = list.iter().position(|&address| Some(address) == preferred).unwrap_or(0);
        let list = list.into_boxed_slice();
        (!list.is_empty()).then(|| Self { list, preferred: AtomicUsize::new(index) })
    }

    /// All of them, in the order in which they were given.
    pub fn all(&self) -> &[SocketAddr] {
        &self.list
    }

    /// The one to begin with.
    pub fn first(&self) -> Option<SocketAddr> {
        self.in_turn().next()
    }

    /// All of them, as they are to be tried: the one that worked last, then the others.
    pub fn in_turn(&self) -> impl Iterator<Item = SocketAddr> {
        let preferred = self.preferred.load(Ordering::Relaxed).min(self.list.len());
        let (before, from) = self.list.split_at(preferred);
        let (preferred, after) = from.split_at(from.len().min(1));
        [preferred, before, after].into_iter().flatten().copied()
    }

    /// This one works: it is tried first from now on.
    pub fn prefer(&self, address: SocketAddr) {
        if let Some(index) = self.list.iter().position(|&other| other == address) {
            self.preferred.store(index, Ordering::Relaxed);
        }
    }
}

/// Where to connect to now.
#[derive(Debug)]
pub enum Target {
    /// There is but this address.
    One(SocketAddr),
    /// One of these.
    Several(Arc<Addresses>),
}

impl Backend {
    /// Where to connect first; `None` while a name has never been resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.endpoint {
            Endpoint::Fixed(address) => Some(*address),
            Endpoint::Resolved(addresses) => addresses.load().as_ref()?.first(),
        }
    }

    /// Where to connect; `None` while a name has never been resolved.
    #[inline]
    pub fn target(&self) -> Option<Target> {
        match &self.endpoint {
            Endpoint::Fixed(address) => Some(Target::One(*address)),
            Endpoint::Resolved(addresses) => {
                let addresses = addresses.load();
                let addresses = addresses.as_ref()?;
                match addresses.all() {
                    [address] => Some(Target::One(*address)),
                    _ => Some(Target::Several(Arc::clone(addresses))),
                }
            }
        }
    }

    /// Sets the effective weight. For the control plane alone.
    pub fn set_weight(&self, weight: u32) {
        self.cell().set_weight(weight);
    }

    /// Effective weight and leases.
    pub fn load(&self) -> Load {
        self.cell().load()
    }

    fn cell(&self) -> &Cell {
        self.block.cell(usize::from(self.slot) % Block::CELLS)
    }
}

/// A connection to a backend failed; a message to the control plane that may be lost.
#[derive(Debug)]
pub struct Report {
    /// Id of the backend.
    pub backend: u64,
    /// What happened.
    pub failure: ConnectFailure,
}

/// Backends of one kind, with the policy that chooses among them.
#[derive(Debug)]
pub struct Tier {
    /// Chooses a slot.
    pub group: Group,
    /// By slot; `None` where a backend was removed.
    pub backends: Box<[Option<Arc<Backend>>]>,
}

/// A set of backends that serve the same.
#[derive(Debug)]
pub struct Pool {
    /// Unique name.
    pub name: Arc<str>,
    /// Tried first.
    pub ordinary: Arc<Tier>,
    /// Tried when no ordinary backend is left.
    pub backup: Arc<Tier>,
    /// Backups are also tried when those that are left are full.
    pub backup_overflow: bool,
    /// Longest time for one connect.
    pub connect_timeout: Duration,
    /// How long what was sent to a backend may stay unacknowledged; `None` = as long as the system
    /// has it.
    pub user_timeout: Option<Duration>,
    /// Other backends tried after a failed connect.
    pub retries: u32,
    /// Longest time in the queue.
    pub queue_timeout: Duration,
    /// Local address to connect from.
    pub source: Option<IpAddr>,
    /// The PROXY protocol that tells the backends whom a connection is from; `None` = nothing does.
    pub send_proxy: Option<Version>,
    /// TLS towards the backends, one for each worker; empty = none.
    pub tls: Box<[Client]>,
    /// Counts.
    pub stats: Arc<PerWorker<PoolStats>>,
    /// Seconds that successful connects took.
    pub connect_seconds: metrics::Histogram,
    /// Connections that wait for a backend.
    pub queue: Arc<Queue>,
    /// Where failures of live traffic are told.
    pub reports: mpsc::Sender<Report>,
}

/// The backends that one connection has failed to reach.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    ordinary: Vec<u16>,
    backup: Vec<u16>,
}

impl Tried {
    /// None.
    pub const fn none() -> Self {
        Self { ordinary: Vec::new(), backup: Vec::new() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ordinary.is_empty() && self.backup.is_empty()
    }

    /// Adds a backend.
    pub fn push(&mut self, backend: &Backend) {
        if backend.backup { &mut self.backup } else { &mut self.ordinary }.push(backend.slot);
    }
}

impl Pool {
    /// Chooses a backend and takes a lease on it.
    ///
    /// `client` is the hash of the client's address, `entropy` any number that differs from call
    /// to call.
    pub fn lease(&self, client: u64, entropy: u64, tried: &Tried) -> Result<Lease, Unavailable> {
        self.in_tiers(tried, |tier, tried| {
            let slot = tier.group.pick(&Request { client, entropy, tried })?;
            let backend = tier.backends[slot].clone().ok_or(Unavailable::Down)?;
            Ok(Lease { backend, queue: Arc::clone(&self.queue) })
        })
    }

    /// The backend that [`Pool::lease`] would choose at this moment. Nothing changes by asking.
    pub fn peek(&self, client: u64, entropy: u64) -> Result<Arc<Backend>, Unavailable> {
        self.in_tiers(&Tried::none(), |tier, tried| {
            let slot = tier.group.peek(&Request { client, entropy, tried })?;
            tier.backends[slot].clone().ok_or(Unavailable::Down)
        })
    }

    #[inline]
    fn in_tiers<T>(
        &self,
        tried: &Tried,
        choose: impl Fn(&Tier, &[u16]) -> Result<T, Unavailable>,
    ) -> Result<T, Unavailable> {
        match choose(&self.ordinary, &tried.ordinary) {
            Err(Unavailable::Down) => choose(&self.backup, &tried.backup),
            // Without a backup there is still one to wait for.
            Err(Unavailable::Full) if self.backup_overflow => {
                choose(&self.backup, &tried.backup).map_err(|_| Unavailable::Full)
            }
            // Backups stand in for backends that are down, not for busy ones.
            found => found,
        }
    }

    /// Waits in the queue for a lease, for as long as the future is polled. First come, first
    /// served. `None` if there is no backend left that this connection has not tried.
    pub async fn queued(
        self: &Arc<Self>,
        client: u64,
        entropy: u64,
        tried: &Tried,
    ) -> Option<Lease> {
        let (grant, granted) = oneshot::channel();
        let (pool, tried) = (Arc::clone(self), tried.clone());
        let ticket =
            self.queue.join(|ticket| Waiter { ticket, pool, client, entropy, tried, grant });
        let mut place = Place { queue: &self.queue, ticket, left: false };
        self.queue.serve();
        let lease = granted.await.ok();
        place.left = true;
        lease
    }

    /// Whether a backend is up that this connection has not tried, full or not.
    pub fn has_candidate(&self, tried: &Tried) -> bool {
        self.ordinary.group.has_candidate(&tried.ordinary)
            || self.backup.group.has_candidate(&tried.backup)
    }

    /// Whether a connection would find a backend.
    pub fn is_usable(&self) -> bool {
        self.has_candidate(&Tried::default())
    }

    /// All backends, the ordinary ones first.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.ordinary.backends.iter().chain(&self.backup.backends).flatten()
    }
}

/// A connection's place on a backend; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    queue: Arc<Queue>,
}

impl Lease {
    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.cell().release();
        if self.queue.depth() > 0 {
            self.queue.serve();
        }
    }
}

/// Connections that found every backend full. Taken under a lock, but only by those that wait and
/// by leases that are given back while somebody does.
#[derive(Debug, Default)]
pub struct Queue {
    depth: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// By rising ticket.
    waiters: VecDeque<Waiter>,
    next_ticket: u64,
    /// The pool as last published: what a reload adds is for those who wait already, too.
    newest: Weak<Pool>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    /// The generation of the pool that the connection began with.
    pool: Arc<Pool>,
    client: u64,
    entropy: u64,
    tried: Tried,
    /// Dropped unsent when there is nothing left to wait for.
    grant: oneshot::Sender<Lease>,
}

impl Queue {
    /// Connections that wait.
    #[inline]
    pub fn depth(&self) -> usize {
        // SeqCst: see `Cell::release`.
        self.depth.load(Ordering::SeqCst)
    }

    /// From now on those who wait are served by `pool`.
    pub fn renew(&self, pool: &Arc<Pool>) {
        self.line().newest = Arc::downgrade(pool);
        self.serve();
    }

    /// Gives backends that have become free to those who wait, the longest waiting first.
    pub fn serve(&self) {
        let mut served = Vec::new();
        let mut line = self.line();
        let newest = line.newest.upgrade();
        let mut index = 0;
        while let Some(waiter) = line.waiters.get(index) {
            let pool = newest.as_ref().unwrap_or(&waiter.pool);
            let first_try = waiter.tried.is_empty();
            let lease = match pool.lease(waiter.client, waiter.entropy, &waiter.tried) {
                Ok(lease) => Some(lease),
                Err(Unavailable::Down) if !first_try => None,
                // Who has tried nothing yet could take any backend: nobody further back fares
                // better.
                Err(_) if first_try => break,
                Err(_) => {
                    index += 1;
                    continue;
                }
            };
            served.extend(line.waiters.remove(index).map(|waiter| (waiter, lease)));
        }
        self.depth.store(line.waiters.len(), Ordering::SeqCst);
        drop(line);
        for (waiter, lease) in served {
            // If it has just stopped waiting, the lease comes back and is dropped here, outside
            // the lock that its drop may take.
            drop(lease.map(|lease| waiter.grant.send(lease)));
        }
    }

    fn join(&self, waiter: impl FnOnce(u64) -> Waiter) -> u64 {
        let mut line = self.line();
        let ticket = line.next_ticket;
        line.next_ticket += 1;
        line.waiters.push_back(waiter(ticket));
        self.depth.store(line.waiters.len(), Ordering::SeqCst);
        // Pairs with `Cell::release`: either that sees this depth, or who looks at the cells from
        // here on sees the place that it gave back.
        fence(Ordering::SeqCst);
        ticket
    }

    fn leave(&self, ticket: u64) {
        let mut line = self.line();
        let found = line.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket);
        let gone = found.ok().and_then(|index| line.waiters.remove(index));
        self.depth.store(line.waiters.len(), Ordering::SeqCst);
        drop(line);
        drop(gone);
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        // No code that can panic runs half-way through a change of the line.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue: who stops waiting leaves it.
struct Place<'a> {
    queue: &'a Queue,
    ticket: u64,
    left: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.queue.leave(self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{Policy, Seat};

    fn tier(name: &str, seats: &[(u16, u32)], backup: bool) -> Arc<Tier> {
        let block = Block::new();
        let backends: Box<[_]> = (0..)
            .zip(seats)
            .map(|(slot, &(weight, _))| {
                let backend = Backend {
                    id: u64::from(slot),
                    pool: "pool".into(),
                    name: format!("{name}{slot}").into(),
                    endpoint: Endpoint::Fixed(([127, 0, 0, 1], 1).into()),
                    peer: None,
                    backup,
                    slot,
                    stats: PerWorker::new(1),
                    block: Arc::clone(&block),
                };
                backend.set_weight(u32::from(weight) * 256);
                Some(Arc::new(backend))
            })
            .collect();
        let seats: Vec<_> =
            seats.iter().map(|&(weight, limit)| Seat { name: "", weight, limit }).collect();
        let blocks = Box::new([block]);
        let group = Group::new(Policy::LeastConnections, &seats, blocks, Arc::default());
        Arc::new(Tier { group, backends })
    }

    fn pool(ordinary: &[(u16, u32)], backup: &[(u16, u32)]) -> Arc<Pool> {
        Arc::new(Pool {
            name: "pool".into(),
            ordinary: tier("o", ordinary, false),
            backup: tier("b", backup, true),
            backup_overflow: false,
            connect_timeout: Duration::from_secs(1),
            user_timeout: None,
            retries: 2,
            queue_timeout: Duration::from_secs(1),
            source: None,
            send_proxy: None,
            tls: Box::default(),
            stats: Arc::new(PerWorker::new(1)),
            connect_seconds: metrics::Histogram::noop(),
            queue: Arc::default(),
            reports: mpsc::channel(1).0,
        })
    }

    #[test]
    fn the_address_that_worked_last_is_tried_first() {
        let [a, b, c] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let turn = |addresses: &Addresses| addresses.in_turn().collect::<Vec<_>>();
        assert!(Addresses::new(Vec::new(), Some(a)).is_none());
        let addresses = Addresses::new(vec![a, b, c], None).unwrap();
        assert_eq!(turn(&addresses), [a, b, c]);
        addresses.prefer(c);
        assert_eq!(turn(&addresses), [c, a, b]);
        addresses.prefer(SocketAddr::from(([127, 0, 0, 1], 4)));
        assert_eq!((addresses.first(), addresses.all()), (Some(c), &[a, b, c][..]));
        // Another answer: the one in use stays if it is among them.
        assert_eq!(turn(&Addresses::new(vec![a, b], Some(b)).unwrap()), [b, a]);
        assert_eq!(turn(&Addresses::new(vec![a, b], Some(c)).unwrap()), [a, b]);
    }

    fn lease(pool: &Pool, tried: &Tried) -> Result<Lease, Unavailable> {
        pool.lease(0, 0, tried)
    }

    #[test]
    fn backups_serve_when_every_other_is_down_or_tried() {
        let pool = pool(&[(1, 0), (1, 1)], &[(1, 0)]);
        let mut tried = Tried::default();
        for expected in ["o0", "o1", "b0"] {
            let lease = lease(&pool, &tried).unwrap();
            assert_eq!(&*lease.backend().name, expected);
            tried.push(lease.backend());
        }
        assert_eq!(lease(&pool, &tried).unwrap_err(), Unavailable::Down);
    }

    #[test]
    fn backups_do_not_serve_when_others_are_only_full() {
        let pool = pool(&[(1, 1)], &[(1, 0)]);
        let _held = lease(&pool, &Tried::default()).unwrap();
        assert_eq!(lease(&pool, &Tried::default()).unwrap_err(), Unavailable::Full);
    }

    #[test]
    fn backups_take_what_full_backends_can_not_if_they_are_told_to() {
        let mut pool = pool(&[(1, 1), (1, 1)], &[(1, 1)]);
        Arc::get_mut(&mut pool).unwrap().backup_overflow = true;
        let none = Tried::default();
        let held = ["o0", "o1", "b0"].map(|expected| {
            let lease = lease(&pool, &none).unwrap();
            assert_eq!(&*lease.backend().name, expected);
            lease
        });
        assert_eq!(lease(&pool, &none).unwrap_err(), Unavailable::Full);
        // A backup that is down, or that failed this connection, leaves the full ones to wait for.
        let [first, _second, backup] = held;
        let mut tried = Tried::default();
        tried.push(backup.backend());
        assert_eq!(lease(&pool, &tried).unwrap_err(), Unavailable::Full);
        backup.backend().set_weight(0);
        drop(backup);
        assert_eq!(lease(&pool, &none).unwrap_err(), Unavailable::Full);
        // They come first again once one is free.
        drop(first);
        assert_eq!(&*lease(&pool, &none).unwrap().backend().name, "o0");
    }

    #[tokio::test]
    async fn a_backup_that_is_free_serves_the_queue_where_full_backends_overflow() {
        for overflows in [false, true] {
            let mut pool = pool(&[(1, 1)], &[(1, 1)]);
            Arc::get_mut(&mut pool).unwrap().backup_overflow = true;
            let ordinary = lease(&pool, &Tried::default()).unwrap();
            let backup = lease(&pool, &Tried::default()).unwrap();
            assert!(backup.backend().backup);
            Arc::get_mut(&mut pool).unwrap().backup_overflow = overflows;
            let waiting = tokio::spawn({
                let pool = Arc::clone(&pool);
                async move { pool.queued(0, 0, &Tried::default()).await }
            });
            while pool.queue.depth() < 1 {
                tokio::task::yield_now().await;
            }
            drop(backup);
            assert_eq!(pool.queue.depth(), usize::from(!overflows));
            drop(ordinary);
            let served = waiting.await.unwrap().unwrap();
            assert_eq!(served.backend().backup, overflows);
        }
    }

    #[tokio::test]
    async fn the_queue_is_first_come_first_served() {
        let pool = pool(&[(1, 1)], &[]);
        let held = lease(&pool, &Tried::default()).unwrap();
        let wait = || {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.queued(0, 0, &Tried::default()).await })
        };
        let first = wait();
        while pool.queue.depth() < 1 {
            tokio::task::yield_now().await;
        }
        let second = wait();
        let impatient = wait();
        while pool.queue.depth() < 3 {
            tokio::task::yield_now().await;
        }
        drop(held);
        let lease = first.await.unwrap();
        assert!(!second.is_finished());
        impatient.abort();
        assert!(impatient.await.unwrap_err().is_cancelled());
        assert_eq!(pool.queue.depth(), 1, "who stops waiting leaves the queue");
        drop(lease);
        assert!(second.await.unwrap().is_some());
        assert_eq!((pool.queue.depth(), pool.backends().next().unwrap().load().active()), (0, 0));
    }

    /// A connection that has tried the free backend waits for the other one, and is in nobody's
    /// way; one that has tried all there are is told so.
    #[tokio::test]
    async fn who_can_not_be_served_does_not_hold_up_others() {
        let pool = pool(&[(1, 1), (1, 1)], &[]);
        let held = [(); 2].map(|()| lease(&pool, &Tried::default()).unwrap());
        let mut tried = Tried::default();
        tried.push(held[0].backend());
        let wait = |tried: Tried| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.queued(0, 0, &tried).await })
        };
        let picky = wait(tried.clone());
        while pool.queue.depth() < 1 {
            tokio::task::yield_now().await;
        }
        let other = wait(Tried::default());
        while pool.queue.depth() < 2 {
            tokio::task::yield_now().await;
        }
        let [first, second] = held;
        let name = Arc::clone(&first.backend().name);
        drop(first);
        let served = other.await.unwrap().unwrap();
        assert_eq!(served.backend().name, name);
        assert_eq!(pool.queue.depth(), 1);

        second.backend().set_weight(0);
        drop(second);
        assert!(picky.await.unwrap().is_none(), "the only backend left is down");
        assert_eq!(pool.queue.depth(), 0);
    }

    #[tokio::test]
    async fn what_a_reload_adds_is_for_those_who_wait_already() {
        let old = pool(&[(1, 1)], &[]);
        let _held = lease(&old, &Tried::default()).unwrap();
        let waiting = tokio::spawn({
            let old = Arc::clone(&old);
            async move { old.queued(0, 0, &Tried::default()).await }
        });
        while old.queue.depth() < 1 {
            tokio::task::yield_now().await;
        }
        let new = pool(&[(1, 0)], &[]);
        old.queue.renew(&new);
        assert!(waiting.await.unwrap().is_some());
    }
}
