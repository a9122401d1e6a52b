//! Workers: a thread per core, each with an event loop and listening sockets of its own.
//!
//! A worker accepts, and serves what it accepted. A group of `SO_REUSEPORT` sockets hashes, it
//! does not balance: a worker that carries well more than its share hands a connection to the one
//! that carries the least. Otherwise workers share nothing but counters.

mod door;
mod roster;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};

use crate::connection::{Accepted, serve};
use crate::event_loop::EventLoop;
use crate::log::{Output, Ration};
use crate::record::{Format, Id, Record};
use crate::sandbox;
use crate::snapshot::{Listener, ListenerMeters, Snapshot};
use crate::socket;
use door::Door;
use roster::Roster;
pub use roster::{Census, Cut, Seat};

/// How often a worker shows that it lives and hands its records over.
const TICK: Duration = Duration::from_millis(100);

/// TLS handshakes that a worker begins before others have their turn: each takes a tenth of a
/// millisecond with an ECDSA key, and half of one with an RSA key.
const HANDSHAKES: u32 = 4;

/// Lines that a worker logs in a second of what clients do wrong; all of it is counted, and in the
/// records.
const COMPLAINTS: u32 = 50;

/// Bytes of records that are handed over before the next tick.
const RECORDS: usize = 64 << 10;

/// How long the socket of a removed listener waits for room to accept what is in its queue.
pub const CLOSING: Duration = Duration::from_secs(1);

/// Listening sockets, by the address that they are bound to.
pub type Sockets = HashMap<SocketAddr, Vec<Arc<TcpListener>>>;

/// What the control plane tells a worker.
#[derive(Debug)]
enum Command {
    /// This is the world now; these are the sockets that are new in it.
    Publish(Arc<Snapshot>, Vec<(SocketAddr, Arc<TcpListener>)>),
    /// Another worker has too many: serve this one.
    Adopt(Accepted),
    /// Cut the connections of the backend with this id.
    Cut(u64, Cut),
    /// Say how old the oldest connections are.
    Count(oneshot::Sender<Census>),
    /// Accept no more; what waits in the accept queues is still served, but for those of these
    /// addresses, which another process serves.
    Close(Arc<HashSet<SocketAddr>>),
    /// End, whatever is still open.
    Stop,
}

/// What is known of all workers.
#[derive(Debug)]
pub struct Crew {
    posts: Box<[Post]>,
    /// Connections in the process.
    connections: AtomicU32,
    began: Instant,
    /// What connections are named after: see [`Id`].
    started: u64,
    /// Milliseconds after [`Crew::began`] when a shortage was last told of.
    shortage_told: AtomicU64,
}

/// What is known of one worker.
#[derive(Debug)]
#[repr(align(128))]
struct Post {
    connections: AtomicU32,
    /// Milliseconds after [`Crew::began`] when it last showed that it lives.
    heartbeat: AtomicU64,
    /// Accepting sockets that are still open.
    doors: AtomicU32,
    /// Generation of the snapshot that it serves by.
    generation: AtomicU64,
    commands: mpsc::UnboundedSender<Command>,
}

impl Crew {
    /// Connections of each worker.
    pub fn connections_by_worker(&self) -> impl Iterator<Item = u32> {
        self.posts.iter().map(|post| post.connections.load(Ordering::Relaxed))
    }

    /// Connections of all.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// For each worker the time since it last showed that it lives.
    pub fn silences(&self) -> impl Iterator<Item = Duration> {
        let now = self.began.elapsed();
        let heartbeats = self.heartbeats().map(Duration::from_millis);
        heartbeats.map(move |heartbeat| now.saturating_sub(heartbeat))
    }

    /// The longest of them.
    pub fn longest_silence(&self) -> Duration {
        self.silences().max().unwrap_or_default()
    }

    /// The start that connections are named after, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// For each worker a number that grows, about ten times a second, as long as it lives.
    pub fn heartbeats(&self) -> impl Iterator<Item = u64> {
        self.posts.iter().map(|post| post.heartbeat.load(Ordering::Relaxed))
    }

    /// Whether every worker serves those who come now by a snapshot of this generation, or a later
    /// one.
    pub fn serves(&self, generation: u64) -> bool {
        self.posts.iter().all(|post| post.generation.load(Ordering::Acquire) >= generation)
    }

    /// Whether a worker still accepts.
    pub fn accepts(&self) -> bool {
        self.posts.iter().any(|post| post.doors.load(Ordering::Relaxed) > 0)
    }

    /// Publishes a snapshot, with the new sockets of its listeners: in general each has one for
    /// each worker. Where there are more, workers have several, since the kernel hands connections
    /// to all of them; where there are less, workers share one.
    pub fn publish(&self, snapshot: &Arc<Snapshot>, opened: &Sockets) {
        let mut by_worker: Vec<Vec<_>> = self.posts.iter().map(|_| Vec::new()).collect();
        let workers = by_worker.len();
        for (address, sockets) in opened {
            for turn in 0..workers.max(sockets.len()) {
                if let Some(socket) = sockets.get(turn % sockets.len().max(1)) {
                    by_worker[turn % workers].push((*address, Arc::clone(socket)));
                }
            }
        }
        for (post, sockets) in self.posts.iter().zip(by_worker) {
            post.tell(Command::Publish(Arc::clone(snapshot), sockets));
        }
    }

    /// Cuts the connections that the backend with this id has at the moment, each by a reset.
    pub fn cut(&self, backend: u64, why: Cut) {
        self.posts.iter().for_each(|post| post.tell(Command::Cut(backend, why)));
    }

    /// Asks each worker for the oldest connections of its backends.
    pub fn census(&self) -> Vec<oneshot::Receiver<Census>> {
        let ask = |post: &Post| {
            let (sender, answer) = oneshot::channel();
            post.tell(Command::Count(sender));
            answer
        };
        self.posts.iter().map(ask).collect()
    }

    /// Stops accepting. What waits in the accept queues is still served, but for those of the
    /// addresses in `left`, where another process goes on.
    pub fn close(&self, left: HashSet<SocketAddr>) {
        let left = Arc::new(left);
        self.posts.iter().for_each(|post| post.tell(Command::Close(Arc::clone(&left))));
    }

    /// Whether a shortage of files or memory is to be told of: once a second, whichever worker meets
    /// it, at whichever socket.
    fn tells_of_shortage(&self) -> bool {
        const PAUSE: u64 = 1_000;
        // So that the first is told of.
        let now =
            PAUSE + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - PAUSE);
        let told = |last: u64| (now >= last + PAUSE).then_some(now);
        self.shortage_told.fetch_update(Ordering::Relaxed, Ordering::Relaxed, told).is_ok()
    }

    fn stop(&self) {
        self.posts.iter().for_each(|post| post.tell(Command::Stop));
    }

    /// The worker that the next connection of `own` is better off with.
    fn relief(&self, own: usize) -> Option<usize> {
        let count = |post: &Post| post.connections.load(Ordering::Relaxed);
        let mine = u64::from(count(&self.posts[own]));
        let workers = self.posts.len() as u64;
        let total = u64::from(self.connections());
        // Well above: a quarter and eight more than the mean.
        if mine * workers * 4 <= total * 5 + 8 * 4 * workers {
            return None;
        }
        (0..self.posts.len()).min_by_key(|&worker| count(&self.posts[worker]))
    }
}

impl Post {
    fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("a worker has ended");
        }
    }
}

/// A connection's place in the counts; given back when dropped.
#[derive(Debug)]
pub struct Place {
    crew: Arc<Crew>,
    meters: Arc<ListenerMeters>,
    worker: Option<usize>,
}

impl Place {
    /// A place, unless the process has `limit` connections or the listener has as many as it may.
    fn take(crew: &Arc<Crew>, limit: u32, listener: &Listener) -> Option<Self> {
        take_one(&crew.connections, limit)?;
        let most = match listener.max_connections {
            0 => u32::MAX,
            most => most,
        };
        if take_one(&listener.meters.active, most).is_none() {
            crew.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let (crew, meters) = (Arc::clone(crew), Arc::clone(&listener.meters));
        Some(Self { crew, meters, worker: None })
    }

    /// Counts the connection as this worker's.
    fn assigned_to(mut self, worker: usize) -> Self {
        self.crew.posts[worker].connections.fetch_add(1, Ordering::Relaxed);
        self.worker = Some(worker);
        self
    }
}

fn take_one(count: &AtomicU32, limit: u32) -> Option<u32> {
    let more = |taken| (taken < limit).then_some(taken + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(worker) = self.worker {
            self.crew.posts[worker].connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.meters.active.fetch_sub(1, Ordering::Relaxed);
        self.crew.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    /// What is known of them.
    pub crew: Arc<Crew>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers, each on a processor of its own if `pin`. Connections are named after
    /// this moment, but never after one before `not_before`, in seconds since 1970.
    ///
    /// Fails if the system gives no thread or no event queue.
    pub fn start(
        count: usize,
        pin: bool,
        output: &Output,
        format: Format,
        not_before: u64,
    ) -> io::Result<Self> {
        let started = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
            .max(not_before);
        let (posts, inboxes): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (commands, inbox) = mpsc::unbounded_channel();
                let post = Post {
                    connections: AtomicU32::new(0),
                    heartbeat: AtomicU64::new(0),
                    doors: AtomicU32::new(0),
                    generation: AtomicU64::new(0),
                    commands,
                };
                (post, inbox)
            })
            .unzip();
        let crew = Arc::new(Crew {
            posts: posts.into(),
            connections: AtomicU32::new(0),
            began: Instant::now(),
            started,
            shortage_told: AtomicU64::new(0),
        });
        let processors = if pin { socket::processors()? } else { Vec::new() };
        let (ready, readiness) = std::sync::mpsc::channel();
        let mut threads = Vec::with_capacity(count);
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let processor = processors.get(index % processors.len().max(1)).copied();
            let (crew, output, ready) = (Arc::clone(&crew), output.clone(), ready.clone());
            let thread =
                thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                    if let Some(Err(error)) = processor.map(socket::pin) {
                        tracing::warn!(%error, worker = index, ?processor, "cannot pin a worker");
                    }
                    let events = match EventLoop::new() {
                        Ok(events) => events,
                        Err(error) => return drop(ready.send(Err(error))),
                    };
                    if let Err(error) = sandbox::enter(sandbox::Role::Worker) {
                        return drop(ready.send(Err(error.into())));
                    }
                    drop(ready.send(Ok(())));
                    let local = Rc::new(Local {
                        index,
                        events: Rc::clone(&events),
                        crew,
                        output,
                        format,
                        started,
                        access_log: Cell::new(false),
                        records: RefCell::default(),
                        sequence: Cell::new(0),
                        entropy: Cell::new(started ^ (index as u64) << 32),
                        handshakes: Cell::new((0, 0)),
                        complaints: Ration::new(COMPLAINTS),
                        roster: Roster::new(Instant::now()),
                    });
                    // The connections that are still open at its end leave their records.
                    if let Err(error) = events.run(work(Rc::clone(&local), inbox)) {
                        tracing::error!(%error, worker = index, "a worker has failed");
                    }
                    local.hand_over();
                })?;
            threads.push(thread);
        }
        drop(ready);
        readiness.iter().take(count).collect::<io::Result<()>>()?;
        Ok(Self { crew, threads })
    }

    /// Ends all workers, and with them the connections that are still open.
    pub fn stop(&mut self) {
        self.crew.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// What the tasks of one worker share.
#[derive(Debug)]
pub struct Local {
    /// Which worker, from 0.
    pub index: usize,
    /// Runs them.
    pub events: Rc<EventLoop>,
    crew: Arc<Crew>,
    output: Output,
    format: Format,
    started: u64,
    access_log: Cell<bool>,
    records: RefCell<String>,
    sequence: Cell<u64>,
    entropy: Cell<u64>,
    /// Handshakes begun in a round of the loop.
    handshakes: Cell<(u64, u32)>,
    /// Of lines on what clients do wrong.
    pub complaints: Ration,
    /// The connections that are at a backend, or on the way to one.
    pub roster: Roster,
}

impl Local {
    /// Says that the system lacks files or memory, unless that has been said within this second.
    pub fn tell_of_shortage(&self, what_waits: &str, error: &io::Error) {
        if self.crew.tells_of_shortage() {
            tracing::error!(%error, "{what_waits}");
        }
    }

    /// A number that differs from call to call.
    pub fn entropy(&self) -> u64 {
        let next = self.entropy.get().wrapping_add(1);
        self.entropy.set(next);
        next
    }

    /// Waits until this worker may begin another handshake: a storm of them leaves the connections
    /// that are open their turns.
    pub async fn turnstile(&self) {
        loop {
            let round = self.events.round();
            let (last, begun) = self.handshakes.get();
            let begun = if last == round { begun } else { 0 };
            if begun < HANDSHAKES {
                return self.handshakes.set((round, begun + 1));
            }
            self.events.give_way().await;
        }
    }

    /// Writes a record, if they are wanted.
    pub fn record<'a>(&self, record: impl FnOnce() -> Record<'a>) {
        if !self.access_log.get() {
            return;
        }
        let mut records = self.records.borrow_mut();
        record().write(self.format, &mut records);
        if records.len() >= RECORDS {
            self.output.records(std::mem::take(&mut records));
        }
    }

    fn hand_over(&self) {
        let records = self.records.take();
        if !records.is_empty() {
            self.output.records(records);
        }
    }

    fn post(&self) -> &Post {
        &self.crew.posts[self.index]
    }

    fn show_life(&self) {
        let since = u64::try_from(self.crew.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.post().heartbeat.store(since, Ordering::Relaxed);
    }

    fn name_connection(&self) -> Id {
        let sequence = self.sequence.get() + 1;
        self.sequence.set(sequence);
        Id { started: self.started, worker: self.index, sequence }
    }
}

/// Where a worker accepts.
type Doors = HashMap<SocketAddr, Vec<Rc<Door>>>;

/// The life of a worker.
async fn work(local: Rc<Local>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let mut doors: Doors = HashMap::new();
    let mut tick = local.events.now();
    loop {
        let Some(command) = local.events.until(tick, inbox.recv()).await else {
            local.show_life();
            local.hand_over();
            tick = local.events.now() + TICK;
            continue;
        };
        match command {
            Some(Command::Adopt(accepted)) => admit(&local, accepted),
            Some(Command::Publish(snapshot, opened)) => {
                publish(&local, &mut doors, &snapshot, opened);
                local.post().generation.store(snapshot.generation, Ordering::Release);
            }
            Some(Command::Cut(backend, why)) => {
                local.roster.cut(backend, why).into_iter().for_each(|task| local.events.wake(task));
            }
            // Who asked may have given up.
            Some(Command::Count(answer)) => drop(answer.send(local.roster.census())),
            Some(Command::Close(left)) => {
                for (address, doors) in doors.drain() {
                    let leave = left.contains(&address);
                    doors.iter().for_each(|door| match leave {
                        true => door.leave(&local.events),
                        false => door.close(&local.events, None),
                    });
                }
            }
            Some(Command::Stop) | None => {
                // What was handed over until now ends with the rest, and leaves its record.
                while let Ok(command) = inbox.try_recv() {
                    if let Command::Adopt(accepted) = command {
                        admit(&local, accepted);
                    }
                }
                return;
            }
        }
    }
}

fn publish(
    local: &Rc<Local>,
    doors: &mut Doors,
    snapshot: &Arc<Snapshot>,
    opened: Vec<(SocketAddr, Arc<TcpListener>)>,
) {
    local.access_log.set(snapshot.access_log);
    let mut sockets: HashMap<_, Vec<_>> = HashMap::new();
    for (address, socket) in opened {
        sockets.entry(address).or_default().push(socket);
    }
    let mut before = std::mem::take(doors);
    for listener in &snapshot.listeners {
        for &address in &listener.bind {
            let open = |socket| Door::open(local, listener, snapshot, socket);
            let here: Vec<_> = match (before.remove(&address), sockets.remove(&address)) {
                (Some(doors), _) => doors,
                (None, Some(sockets)) => sockets.into_iter().map(open).collect(),
                (None, None) => {
                    tracing::error!(%address, worker = local.index, "no socket to accept from");
                    continue;
                }
            };
            here.iter().for_each(|door| door.belong_to(listener, snapshot));
            doors.insert(address, here);
        }
    }
    let closed = before.into_values().flatten();
    closed.for_each(|door| door.close(&local.events, Some(CLOSING)));
}

fn admit(local: &Rc<Local>, accepted: Accepted) {
    local.events.spawn(serve(Rc::clone(local), accepted));
}

#[cfg(test)]
mod tests;
