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
pub struct Outbox(Queue<Entry>);

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
        Queue::new(LIMIT).map(Self)
    }

    /// Puts an event in, never waiting: if there is no room it is lost, and counted.
    pub fn put(&self, event: Event) {
        self.put_entry(Entry::Event(event));
    }

    /// The same for anything.
    pub fn put_entry(&self, mut entry: Entry) {
        // The other end holds the lock for no longer than it takes to take one entry out.
        for _ in 0..3 {
            match self.0.try_push(entry) {
                Ok(()) => return,
                Err(back) => entry = back,
            }
        }
        self.0.lose();
    }

    /// Wakes the thread that tells.
    pub fn ring(&self) {
        self.0.wake().ring();
    }
}

/// A line about trouble with the system on a thread that may wait a little.
pub fn report(error: &io::Error, what: &str) {
    tracing::warn!(%error, "{what}");
}

/// The body of the thread `vrrp-events`: until `stop`, and until all is told.
pub fn run(outbox: &Arc<Outbox>, events: &Events, programs: &Programs, stop: &AtomicBool) {
    let queue = &outbox.0;
    let mut window = (Instant::now(), 0);
    loop {
        let ending = stop.load(Ordering::Acquire);
        queue.wake().quiet();
        while let Some(entry) = queue.try_pop() {
            match entry {
                Entry::Event(event) => {
                    if is_allowed(&event, &mut window) {
                        log(&event);
                    }
                    events(event);
                }
                Entry::Notify(job) => programs.run(job),
                Entry::Line(line) => tracing::info!("{line}"),
                Entry::Warning(line) => tracing::warn!("{line}"),
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

/// Whether one more line does not flood the log. Transitions always are told.
fn is_allowed(event: &Event, (since, count): &mut (Instant, u32)) -> bool {
    if matches!(event, Event::Transition { .. }) {
        return true;
    }
    if since.elapsed() > WINDOW {
        if *count > LINES {
            tracing::warn!(lines = *count - LINES, "more of the same was not told");
        }
        (*since, *count) = (Instant::now(), 0);
    }
    *count += 1;
    *count <= LINES
}

fn log(event: &Event) {
    match event {
        Event::Transition { instance, from, to, cause, priority, .. } => {
            tracing::info!(instance, %from, %to, cause, priority, "VRRP transition");
        }
        Event::Contention { instance, from, priority } => {
            tracing::warn!(instance, %from, priority, "another router says that it is master");
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
