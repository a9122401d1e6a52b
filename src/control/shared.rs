//! Answers that cost much: made once for all who wait for them.
//!
//! Of each kind one is made at a time. Who asks while it is made gets the next one, which is then made
//! for all who have asked by then: so an answer is never older than its question, and a crowd costs two
//! of them. They are written by one thread, whose memory is used again for the next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::*;
use crate::admin::rendering::{Known, Rendering};
use crate::worker::Census;

/// Texts of a kind there are at once: the one that is made, and those that somebody still reads.
const TEXTS: usize = 4;

/// How long a text may take to be read. A megabyte a second is slow for metrics.
const LONGEST: Duration = Duration::from_secs(60);

/// How long it may take at least, where its place is needed for another.
const SHORTEST: Duration = Duration::from_secs(5);

/// A worker that takes longer to say how old its connections are is not waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is made so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Metrics,
    Status,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Turn {
    /// There is a place for another text.
    Make(Kind, OwnedSemaphorePermit),
    /// One has been made; `None` = that has failed.
    Made(Kind, Option<Known>),
}

/// One kind: its texts, and those who wait for the next.
#[derive(Debug)]
struct Queue {
    waiting: Vec<oneshot::Sender<Rendering>>,
    /// One is being made, or waits for its place.
    is_busy: bool,
    places: Arc<Semaphore>,
    /// Texts that are read, and since when, the oldest first.
    read: Vec<(Known, Instant)>,
}

impl Queue {
    fn new() -> Self {
        let places = Arc::new(Semaphore::new(TEXTS));
        Self { waiting: Vec::new(), is_busy: false, places, read: Vec::new() }
    }

    /// Ends texts that have been read for so long.
    fn end_since(&mut self, longest: Duration, now: Instant) {
        self.read.retain(|(text, since)| {
            let too_slow = now.duration_since(*since) >= longest;
            if too_slow {
                text.end();
            }
            text.is_read() && !too_slow
        });
    }
}

/// All that is made so.
pub(super) struct Shared {
    metrics: Queue,
    status: Queue,
    turns: mpsc::UnboundedSender<Turn>,
    writer: Writer,
}

impl Shared {
    /// Nobody waits. Whose turn it is goes to `turns`.
    ///
    /// Fails if the system gives no thread.
    pub(super) fn new(turns: mpsc::UnboundedSender<Turn>) -> io::Result<Self> {
        Ok(Self { metrics: Queue::new(), status: Queue::new(), turns, writer: Writer::start()? })
    }

    fn queue(&mut self, kind: Kind) -> &mut Queue {
        match kind {
            Kind::Metrics => &mut self.metrics,
            Kind::Status => &mut self.status,
        }
    }

    /// Ends the texts that are read too slowly.
    pub(super) fn end_slow(&mut self, now: Instant) {
        self.metrics.end_since(LONGEST, now);
        self.status.end_since(LONGEST, now);
    }

    /// Has one made as soon as there is a place, unless one is being made.
    fn begin(&mut self, kind: Kind) {
        let turns = self.turns.clone();
        let queue = self.queue(kind);
        // Who has gone away since needs no answer.
        queue.waiting.retain(|one| !one.is_closed());
        if queue.is_busy || queue.waiting.is_empty() {
            return;
        }
        queue.is_busy = true;
        let places = Arc::clone(&queue.places);
        // A place that is free at once is not waited for by a task.
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return drop(turns.send(Turn::Make(kind, place)));
        }
        queue.end_since(SHORTEST, Instant::now());
        let oldest = queue.read.first().cloned();
        tokio::spawn(async move {
            let mut place = pin!(places.acquire_owned());
            let found = match oldest {
                None => place.await,
                Some((oldest, since)) => {
                    match timeout_at((since + SHORTEST).into(), place.as_mut()).await {
                        Ok(found) => found,
                        Err(_elapsed) => {
                            oldest.end();
                            place.await
                        }
                    }
                }
            };
            // The semaphore is never closed, and the control plane may have ended.
            if let Ok(place) = found {
                drop(turns.send(Turn::Make(kind, place)));
            }
        });
    }
}

impl Control {
    /// Somebody asks for the metrics, or the status.
    pub(super) fn share(&mut self, kind: Kind, sender: oneshot::Sender<Rendering>) {
        self.shared.queue(kind).waiting.push(sender);
        self.shared.begin(kind);
    }

    pub(super) fn take_turn(&mut self, turn: Turn) {
        match turn {
            Turn::Made(kind, text) => {
                let queue = self.shared.queue(kind);
                queue.is_busy = false;
                queue.read.retain(|(text, _)| text.is_read());
                queue.read.extend(text.map(|text| (text, Instant::now())));
                self.shared.begin(kind);
            }
            Turn::Make(kind, place) => self.make(kind, place),
        }
    }

    fn make(&mut self, kind: Kind, place: OwnedSemaphorePermit) {
        let askers = std::mem::take(&mut self.shared.queue(kind).waiting);
        let made = Made { kind, text: None, turns: self.shared.turns.clone() };
        let writer = self.shared.writer.clone();
        match kind {
            Kind::Metrics => {
                self.carry_over();
                let renderer = self.registry.renderer();
                writer.write(askers, place, made, move || Ok(renderer.render().into_bytes()));
            }
            Kind::Status => {
                let status = self.status();
                let ids: Vec<Vec<u64>> = self
                    .world
                    .pools
                    .iter()
                    .map(|ours| ours.members.iter().map(|member| member.backend.id).collect())
                    .collect();
                let census = census(self.workers.crew.census());
                tokio::spawn(async move {
                    let oldest = census.await;
                    writer.write(askers, place, made, move || {
                        let mut status = status;
                        for (pool, ids) in status.pools.iter_mut().zip(ids) {
                            for (backend, id) in pool.backends.iter_mut().zip(ids) {
                                backend.oldest_seconds = age(&oldest, id);
                            }
                        }
                        serde_json::to_vec(&status)
                    });
                });
            }
        }
    }
}

/// How old the oldest connection to a backend is, in seconds.
pub(super) fn age(oldest: &Census, backend: u64) -> Option<f64> {
    oldest.get(&backend).map(|since| since.elapsed().as_secs_f64())
}

/// What the workers say of their oldest connections, of those that answer soon.
pub(super) async fn census(answers: Vec<oneshot::Receiver<Census>>) -> Census {
    let deadline = Instant::now() + PATIENCE;
    let mut oldest = Census::new();
    for answer in answers {
        let Ok(Ok(census)) = timeout_at(deadline.into(), answer).await else { continue };
        for (backend, since) in census {
            let known = oldest.entry(backend).or_insert(since);
            *known = since.min(*known);
        }
    }
    oldest
}

/// Says that one has been made, whatever becomes of it.
struct Made {
    kind: Kind,
    text: Option<Known>,
    turns: mpsc::UnboundedSender<Turn>,
}

impl Drop for Made {
    fn drop(&mut self) {
        // If nobody listens, the process is about to end.
        drop(self.turns.send(Turn::Made(self.kind, self.text.take())));
    }
}

/// The thread that writes them, one after the other.
#[derive(Clone, Debug)]
struct Writer(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl Writer {
    fn start() -> io::Result<Self> {
        let (jobs, taken) = channel::<Job>();
        std::thread::Builder::new().name("render".to_owned()).spawn(move || {
            for job in taken {
                // Who waits for it hears that there is no answer; the next one may be all right.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("an answer of the admin server could not be written");
                }
            }
        })?;
        Ok(Self(jobs))
    }

    /// Has one written, and sent to those who have asked.
    fn write(
        &self,
        askers: Vec<oneshot::Sender<Rendering>>,
        place: OwnedSemaphorePermit,
        made: Made,
        text: impl FnOnce() -> serde_json::Result<Vec<u8>> + Send + 'static,
    ) {
        let job = move || {
            let mut made = made;
            let rendering = match text() {
                Ok(text) => Rendering::new(text, place),
                Err(error) => return tracing::error!(%error, "an answer cannot be written"),
            };
            made.text = Some(rendering.known());
            askers.into_iter().for_each(|asker| drop(asker.send(rendering.clone())));
        };
        // The thread ends with its last sender.
        drop(self.0.send(Box::new(job)));
    }
}
