//! Events and the log: what happened is put into a queue by threads that must not wait, and told
//! by one that may.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::notify::{Job, Programs};
use super::thread::Queue;
use super::{Event, Events};

/// Events that may wait to be told.
const LIMIT: usize = 4_096;

/// Lines about the same kind of trouble within [`WINDOW`]; the rest is counted.
const LINES: u32 = 20;

/// See [`LINES`].
const WINDOW: Duration = Duration::from_secs(10);

/// Where threads put events.
#[derive(Debug)]
pub struct Outbox {
    entries: Queue<Entry>,
    /// For what came when the other end was interrupted while it took something out.
    late: Queue<Entry>,
}

/// What is told.
#[derive(Debug)]
pub enum Entry {
    /// To everybody.
    Event(Event),
    /// A transition, and the program to run.
    Notify(Job),
    /// To people: a line of the log.
    Line(String),
    /// The same, as a warning.
    Warning(String),
}

impl Outbox {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    pub fn new() -> io::Result<Self> {
        Ok(Self { entries: Queue::new(LIMIT)?, late: Queue::new(LIMIT)? })
    }

    /// Puts an event in, never waiting: if there is no room it is lost, and counted.
    pub fn put(&self, event: Event) {
        self.put_entry(Entry::Event(event));
    }

    /// The same for anything.
    pub fn put_entry(&self, entry: Entry) {
        let Err(entry) = self.entries.try_push(entry) else { return };
        if self.late.try_push(entry).is_err() {
            self.entries.lose();
        }
        self.ring();
    }

    /// A line about trouble with the system.
    pub fn warn(&self, what: &str, error: &io::Error) {
        self.put_entry(Entry::Warning(format!("{what}: {error}")));
    }

    /// Wakes the thread that tells.
    pub fn ring(&self) {
        self.entries.wake().ring();
    }
}

/// The body of the thread `vrrp-events`: until `stop`, and until all is told.
pub fn run(outbox: &Arc<Outbox>, events: &Events, programs: &Programs, stop: &AtomicBool) {
    let queue = &outbox.entries;
    let mut window = Window { since: Instant::now(), lines: 0 };
    loop {
        let ending = stop.load(Ordering::Acquire);
        queue.wake().quiet();
        while let Some(entry) = queue.try_pop().or_else(|| outbox.late.try_pop()) {
            match entry {
                Entry::Event(event) => {
                    // Transitions always are told, and what is wrong with adverts was counted before.
                    let always =
                        matches!(event, Event::Transition { .. } | Event::AdvertFlawed { .. });
                    if always || window.is_open() {
                        log(&event);
                    }
                    events(event);
                }
                Entry::Notify(job) => programs.run(job),
                Entry::Line(line) => tracing::info!("{line}"),
                Entry::Warning(line) if window.is_open() => tracing::warn!("{line}"),
                Entry::Warning(_) => {}
            }
        }
        let count = queue.lost();
        if count > 0 {
            let event = Event::Lost { count };
            log(&event);
            events(event);
        }
        if ending {
            return;
        }
        let mut fds = [PollFd::new(queue.wake().as_fd(), PollFlags::POLLIN)];
        if let Err(error) = poll(&mut fds, PollTimeout::NONE) {
            tracing::debug!(%error, "poll for events was interrupted");
        }
    }
}

/// Lines of trouble lately.
struct Window {
    since: Instant,
    lines: u32,
}

impl Window {
    /// Whether one more line does not flood the log.
    fn is_open(&mut self) -> bool {
        if self.since.elapsed() > WINDOW {
            if self.lines > LINES {
                tracing::warn!(lines = self.lines - LINES, "more of the same was not told");
            }
            *self = Self { since: Instant::now(), lines: 0 };
        }
        self.lines += 1;
        self.lines <= LINES
    }
}

fn log(event: &Event) {
    match event {
        Event::Transition { instance, from, to, cause, priority, .. } => {
            tracing::info!(instance, %from, %to, cause, priority, "VRRP transition");
        }
        Event::Contention { instance, from, priority } => {
            tracing::warn!(instance, %from, priority, "another router says that it is master");
        }
        Event::AdvertFlawed { instance, reason, refused, from, received, expected, more } => {
            let what = match refused {
                true => "an advert was refused",
                false => "an advert differs from what is configured here",
            };
            tracing::warn!(instance, reason, %from, received, expected, more, "{what}");
        }
        Event::AddressRestored { instance, address } => {
            tracing::warn!(instance, %address, "something removed the address; it is back");
        }
        Event::AddressFailed { instance, address, error } => {
            tracing::error!(instance, %address, error, "the address cannot be changed");
        }
        Event::GuardDied { error: None } => tracing::warn!("the guard died; another was started"),
        Event::GuardDied { error: Some(error) } => {
            tracing::error!(error, "the guard died, and no other can be started");
        }
        Event::Lost { count } => tracing::warn!(count, "events were lost"),
    }
}
