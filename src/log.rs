//! Where lines go: events to standard error or a file, access records to standard output or a file.
//!
//! Nobody who logs ever waits. Each of the two has a thread that writes, at the end of a bounded
//! channel: when a reader or a disk is slow its channel fills, and what no longer fits is dropped
//! and counted. A reader of records that stops does not silence the events. A file is opened again
//! when it was rotated; a disk that is full costs lines, which are counted, and nothing else.

mod form;
mod sink;

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::record::Format;
use crate::sandbox;
pub use form::Reader;
use form::{Form, Present};
use sink::{News, Sink};

/// Chunks of records on their way; each is what a worker has gathered in a moment.
const CHUNKS_OF_RECORDS: usize = 1_024;

/// Chunks of events on their way; each is one.
const CHUNKS_OF_EVENTS: usize = 4_096;

/// Bytes that are written at once, if they are there.
const BATCH: usize = 64 << 10;

/// How long a stopping process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How often a file is looked at: has it been rotated?
const LOOK: Duration = Duration::from_secs(1);

/// Files that lines go to; `None` = the stream that the process was started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places<'a> {
    /// `log.file`
    pub events: Option<&'a Path>,
    /// `log.access_file`
    pub records: Option<&'a Path>,
}

/// A file that cannot be written to.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot open {}: {source}", path.display())]
pub struct Unopened {
    /// The key that names it.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// What is open and not written to yet; `None` = those lines go where they went.
#[derive(Debug)]
pub struct Opened {
    events: Option<Sink>,
    records: Option<Sink>,
}

impl Opened {
    /// Opens what is new in `after`.
    ///
    /// Fails with the first file that cannot be written to. What both have is not touched: a disk
    /// that is full is no reason to refuse a reload.
    pub fn between(before: Places<'_>, after: Places<'_>) -> Result<Self, Unopened> {
        let open = |key, path: Option<&Path>, stream: fn() -> io::Result<Sink>| match path {
            Some(path) => Sink::file(key, path).map_err(|source| Unopened {
                key,
                path: path.to_owned(),
                source,
            }),
            None => stream().map_err(|source| Unopened { key, path: PathBuf::new(), source }),
        };
        let differs = |one: Option<&Path>, other| (one != other).then_some(other);
        let events = differs(before.events, after.events);
        let records = differs(before.records, after.records);
        Ok(Self {
            events: events.map(|path| open("log.file", path, stderr)).transpose()?,
            records: records.map(|path| open("log.access_file", path, stdout)).transpose()?,
        })
    }
}

fn stderr() -> io::Result<Sink> {
    Sink::stream("standard error", io::stderr().as_fd())
}

fn stdout() -> io::Result<Sink> {
    Sink::stream("standard output", io::stdout().as_fd())
}

/// The way to the logging threads.
#[derive(Clone, Debug)]
pub struct Output {
    events: Way,
    records: Way,
    reader: Present,
}

/// The way to one of them.
#[derive(Clone, Debug)]
struct Way {
    chunks: SyncSender<Chunk>,
    sinks: Sender<Sink>,
    lost: Arc<Lost>,
}

/// Lines lost so far.
#[derive(Debug, Default)]
struct Lost {
    /// There was no room for them.
    slow: AtomicU64,
    /// Writing them failed.
    failed: AtomicU64,
}

/// Whole lines, or the wish to know when all before it is written.
#[derive(Debug)]
enum Chunk {
    Lines(Vec<u8>),
    Flush(SyncSender<()>),
}

/// How many lines were lost, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// `events` or `records`.
    pub log: &'static str,
    /// `slow`: there was no room for them; `failed`: they could not be written.
    pub reason: &'static str,
    /// Lines so far.
    pub lines: u64,
}

impl Output {
    /// Starts the logging threads, which write to the streams of the process. `reader` reads its
    /// standard error.
    ///
    /// Fails if the system gives no thread, or no descriptor.
    pub fn start(reader: Reader) -> io::Result<Self> {
        Ok(Self {
            events: Way::start("log-events", CHUNKS_OF_EVENTS, stderr()?)?,
            records: Way::start("log-records", CHUNKS_OF_RECORDS, stdout()?)?,
            reader: Present::new(reader),
        })
    }

    /// Makes `stream` the standard error of the process. What has been logged so far goes where
    /// it went; what follows goes to `stream`, unless `places` has a file for it.
    ///
    /// Fails if the system gives no descriptor.
    pub fn replace_stderr(&self, stream: OwnedFd, places: Places<'_>) -> io::Result<()> {
        self.flush();
        nix::unistd::dup2_stderr(stream)?;
        let events = places.events.is_none().then(stderr).transpose()?;
        self.redirect(Opened { events, records: None });
        Ok(())
    }

    /// Who reads events at the moment.
    pub fn reader(&self) -> Reader {
        self.reader.get()
    }

    /// From now on lines go to what was opened.
    pub fn redirect(&self, opened: Opened) {
        if let Some(sink) = opened.events {
            let reader = if sink.is_file() { Reader::Plain } else { Reader::of_stderr() };
            self.reader.set(reader);
            self.events.redirect(sink);
        }
        if let Some(sink) = opened.records {
            self.records.redirect(sink);
        }
    }

    /// Hands over access records, each a whole line.
    pub fn records(&self, lines: String) {
        self.records.hand_over(lines.into_bytes());
    }

    /// Hands over what another process has logged.
    pub fn lines(&self, lines: Vec<u8>) {
        self.events.hand_over(lines);
    }

    /// Lines lost so far, by this process and those before it.
    pub fn losses(&self) -> [Loss; 4] {
        self.all_lost().map(|(log, reason, lines)| Loss {
            log,
            reason,
            lines: lines.load(Ordering::Relaxed),
        })
    }

    /// Adds what processes before this one have lost, by log and reason.
    pub fn add_losses(&self, before: impl Fn(&str, &str) -> u64) {
        for (log, reason, lines) in self.all_lost() {
            lines.fetch_add(before(log, reason), Ordering::Relaxed);
        }
    }

    fn all_lost(&self) -> [(&'static str, &'static str, &AtomicU64); 4] {
        let (events, records) = (&self.events.lost, &self.records.lost);
        [
            ("events", "slow", &events.slow),
            ("events", "failed", &events.failed),
            ("records", "slow", &records.slow),
            ("records", "failed", &records.failed),
        ]
    }

    /// Waits until what has been handed over is written, for a second at most.
    pub fn flush(&self) {
        let give_up = Instant::now() + LAST_LINES;
        for way in [&self.records, &self.events] {
            way.flush(give_up);
        }
    }
}

impl Way {
    fn start(name: &str, room: usize, sink: Sink) -> io::Result<Self> {
        let (chunks, receiver) = sync_channel(room);
        let (sinks, new_sinks) = channel();
        let lost = Arc::new(Lost::default());
        let writer = Writer { chunks: receiver, new_sinks, sink, lost: Arc::clone(&lost) };
        let body = move || {
            // What it could do besides writing is no reason not to write.
            if let Err(error) = sandbox::enter(sandbox::Role::Log) {
                drop(io::stderr().write_all(format!("lockgate: {error}\n").as_bytes()));
            }
            writer.run();
        };
        thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { chunks, sinks, lost })
    }

    fn redirect(&self, sink: Sink) {
        // The thread ends when this way does, not before.
        if self.sinks.send(sink).is_ok() {
            self.hand_over(Vec::new());
        }
    }

    fn hand_over(&self, lines: Vec<u8>) {
        if let Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) =
            self.chunks.try_send(Chunk::Lines(lines))
            && let Chunk::Lines(lines) = chunk
        {
            self.lost.slow.fetch_add(sink::count(&lines), Ordering::Relaxed);
        }
    }

    fn flush(&self, give_up: Instant) {
        let (done, is_done) = sync_channel(1);
        let mut flush = Chunk::Flush(done);
        loop {
            match self.chunks.try_send(flush) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < give_up => {
                    flush = back;
                    thread::sleep(Duration::from_millis(10));
                }
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return,
            }
        }
        // In time or not: the process ends now.
        let _ = is_done.recv_timeout(give_up.saturating_duration_since(Instant::now()));
    }
}

/// A logging thread.
struct Writer {
    chunks: Receiver<Chunk>,
    new_sinks: Receiver<Sink>,
    sink: Sink,
    lost: Arc<Lost>,
}

impl Writer {
    fn run(mut self) {
        let mut look = Instant::now() + LOOK;
        loop {
            let wait = look.saturating_duration_since(Instant::now());
            let chunk = match self.chunks.recv_timeout(wait) {
                Ok(chunk) => Some(chunk),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Ok(sink) = self.new_sinks.try_recv() {
                self.sink = sink;
            }
            if look <= Instant::now() {
                self.sink.look();
                look = Instant::now() + LOOK;
            }
            match chunk {
                Some(Chunk::Lines(lines)) => self.write(lines),
                Some(Chunk::Flush(done)) => drop(done.try_send(())),
                None => {}
            }
            self.tell();
        }
    }

    /// Writes lines, and what waits behind them: a storm of events is written in a few calls.
    fn write(&mut self, mut lines: Vec<u8>) {
        let mut flush = None;
        while lines.len() < BATCH && flush.is_none() {
            match self.chunks.try_recv() {
                // What follows is for another sink.
                Ok(Chunk::Lines(more)) if more.is_empty() => break,
                Ok(Chunk::Lines(more)) => lines.extend(more),
                Ok(Chunk::Flush(done)) => flush = Some(done),
                Err(_) => break,
            }
        }
        let lost = self.sink.write(&lines);
        self.lost.failed.fetch_add(lost, Ordering::Relaxed);
        if let Some(done) = flush {
            // Whoever asked may have given up.
            let _ = done.try_send(());
        }
    }

    /// Tells what has changed about the sink: as an event, and where it is events that fail, on
    /// standard error.
    fn tell(&mut self) {
        let news = self.sink.news();
        let sink = self.sink.name();
        match news {
            None => {}
            Some(News::Failing(error)) => {
                if self.sink.is_file() {
                    let text = format!("lockgate: {sink}: {error}: lines are lost\n");
                    // The last resort. Whoever reads neither is told by the metrics.
                    let _ = io::stderr().write_all(text.as_bytes());
                }
                tracing::error!("{sink}: {error}: lines are lost");
            }
            Some(News::Recovered(lost)) => {
                tracing::warn!(lost, "{sink}: lines are written again");
            }
        }
    }
}

/// Changes the level of a running process.
#[derive(Clone)]
pub struct Levels(reload::Handle<LevelFilter, tracing_subscriber::Registry>);

impl Levels {
    /// Events of this level and above are written from now on.
    pub fn set(&self, level: LevelFilter) {
        if let Err(error) = self.0.reload(level) {
            tracing::error!(%error, "cannot change log.level");
        }
    }
}

/// Makes `output` what the process logs to.
///
/// Fails if there is one already.
pub fn install(
    output: &Output,
    level: LevelFilter,
    format: Format,
) -> Result<Levels, TryInitError> {
    let (filter, handle) = reload::Layer::new(level);
    let form = Form::new(output.reader.clone(), format == Format::Json);
    // The form decides about colours, event by event.
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(true)
        .event_format(form)
        .with_writer(output.clone());
    tracing_subscriber::registry().with(filter).with(layer).try_init()?;
    Ok(Levels(handle))
}

/// One event on its way.
pub struct Event<'a> {
    output: &'a Output,
    line: Vec<u8>,
}

impl Write for Event<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.output.events.hand_over(line);
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event { output: self, line: Vec::new() }
    }
}

/// So many lines a second and no more: what strangers can cause must not fill a disk.
#[derive(Debug)]
pub struct Ration {
    most: u32,
    second: Cell<Option<Instant>>,
    left: Cell<u32>,
    withheld: Cell<u64>,
}

impl Ration {
    /// `most` lines a second.
    pub fn new(most: u32) -> Self {
        Self { most, second: Cell::new(None), left: Cell::new(0), withheld: Cell::new(0) }
    }

    /// Takes one: how many had to be withheld since the last, or `None` if this one has to.
    pub fn take(&self, now: Instant) -> Option<u64> {
        let is_over = |began| now.duration_since(began) >= Duration::from_secs(1);
        if self.second.get().is_none_or(is_over) {
            self.second.set(Some(now));
            self.left.set(self.most);
        }
        let Some(left) = self.left.get().checked_sub(1) else {
            self.withheld.set(self.withheld.get() + 1);
            return None;
        };
        self.left.set(left);
        Some(self.withheld.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ration_is_for_a_second_and_tells_what_it_withheld() {
        let (ration, start) = (Ration::new(2), Instant::now());
        let at = |millis| ration.take(start + Duration::from_millis(millis));
        assert_eq!([at(0), at(10), at(20), at(999)], [Some(0), Some(0), None, None]);
        assert_eq!([at(1_000), at(1_001), at(1_002)], [Some(2), Some(0), None]);
        assert_eq!(at(5_000), Some(1));
    }
}
