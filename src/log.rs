//! Where lines go: events to standard error, access records to standard output.
//!
//! Nobody who logs ever waits. Each of the two has a thread that writes, at the end of a bounded
//! channel: when a reader is slow its channel fills, and what no longer fits is dropped and
//! counted. A reader of records that stops does not silence the events.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::record::Format;

/// Chunks of lines on their way.
const CHUNKS: usize = 1_024;

/// How long a stopping process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The way to the logging threads.
#[derive(Clone, Debug)]
pub struct Output {
    events: SyncSender<Chunk>,
    records: SyncSender<Chunk>,
    dropped: Arc<AtomicU64>,
}

/// Whole lines, or the wish to know when all before it is written.
#[derive(Debug)]
enum Chunk {
    Lines(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Output {
    /// Starts the logging threads.
    ///
    /// Fails if the system gives no thread.
    pub fn start() -> io::Result<Self> {
        let writer = |name: &str, write: fn(&[u8]) -> io::Result<()>| {
            let (sender, receiver) = sync_channel(CHUNKS);
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(move || write_all(&receiver, write)).map(|_detached| sender)
        };
        let events = writer("log-events", |lines| io::stderr().write_all(lines))?;
        let records = writer("log-records", |lines| {
            let mut out = io::stdout().lock();
            out.write_all(lines).and_then(|()| out.flush())
        })?;
        Ok(Self { events, records, dropped: Arc::default() })
    }

    /// Hands over access records, each a whole line.
    pub fn records(&self, lines: String) {
        self.hand_over(&self.records, lines.into_bytes());
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what has been handed over is written, for a second at most.
    pub fn flush(&self) {
        let give_up = Instant::now() + LAST_LINES;
        for sender in [&self.records, &self.events] {
            flush(sender, give_up);
        }
    }

    fn hand_over(&self, sender: &SyncSender<Chunk>, lines: Vec<u8>) {
        if let Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) =
            sender.try_send(Chunk::Lines(lines))
            && let Chunk::Lines(lines) = chunk
        {
            let lines = lines.iter().filter(|&&byte| byte == b'\n').count();
            self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
        }
    }
}

fn flush(sender: &SyncSender<Chunk>, give_up: Instant) {
    let (done, is_done) = sync_channel(1);
    let mut flush = Chunk::Flush(done);
    loop {
        match sender.try_send(flush) {
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

fn write_all(receiver: &Receiver<Chunk>, write: fn(&[u8]) -> io::Result<()>) {
    for chunk in receiver {
        match chunk {
            // A reader that went away leaves nobody to tell, and a gateway goes on without it.
            Chunk::Lines(lines) => drop(write(&lines)),
            Chunk::Flush(done) => drop(done.try_send(())),
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
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(output.clone());
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => registry.with(layer).try_init()?,
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
    }
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
        self.output.hand_over(&self.output.events, line);
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
