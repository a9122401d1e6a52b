//! What was done, what went wrong, and whether the one explains the other.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::Total;
use crate::options::Options;
use crate::process::State;
use crate::site::End;

/// After an action has ended, its effects may take so long to reach a client: the gateway's and the
/// client's turns on a busy machine.
const GRACE: Duration = Duration::from_millis(1_500);

/// Failures that are listed one by one.
const LISTED: usize = 20;

/// Memory that a process may have more of in the end: what the allocator keeps, and what the pools
/// of a worker (pipes, tickets, records) hold at one time and not at another.
const ROOM: u64 = 16 << 20;

/// Open files of which there may be more in the end: pipes of the pool (`relay::MOST_PIPES`) that were
/// not yet used in the warm-up.
const MORE_FILES: usize = 64;

/// A connection that was not as it should be.
pub struct Failure {
    /// Of which kind, where, and in which phase.
    pub what: String,
    /// Whose it was, if the client knew.
    pub backend: Option<String>,
    pub error: String,
    /// It brought wrong bytes: no action explains that.
    pub corrupt: bool,
    pub began: Instant,
    pub at: Instant,
}

/// Time in which a backend's connections may break.
struct Window {
    action: &'static str,
    backend: String,
    takes: Takes,
    from: Instant,
    until: Option<Instant>,
}

/// Which connections end with a backend, or with a part of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// All that it has.
    All,
    /// Those that it has not accepted yet.
    Unaccepted,
}

#[derive(Default)]
struct Row {
    done: u64,
    skipped: Option<String>,
    time: Duration,
    explains: u64,
}

#[derive(Default)]
struct Book {
    rows: BTreeMap<&'static str, Row>,
    windows: Vec<Window>,
    failures: Vec<Failure>,
    /// What is wrong without being a connection.
    wrong: Vec<String>,
}

/// All of it.
pub struct Ledger {
    began: Instant,
    book: Mutex<Book>,
}

impl Ledger {
    pub fn new() -> Self {
        Self { began: Instant::now(), book: Mutex::default() }
    }

    pub fn failed(&self, failure: Failure) {
        self.book.lock().unwrap().failures.push(failure);
    }

    /// Something else than a connection is not as it should be.
    pub fn wrong(&self, text: String) {
        eprintln!("soak: {:.1} s: {text}", self.began.elapsed().as_secs_f64());
        self.book.lock().unwrap().wrong.push(text);
    }

    pub fn done(&self, action: &'static str, took: Duration) {
        let mut book = self.book.lock().unwrap();
        let row = book.rows.entry(action).or_default();
        row.done += 1;
        row.time += took;
    }

    /// The binary cannot do it, or this machine.
    pub fn skipped(&self, action: &'static str, why: String) {
        self.book.lock().unwrap().rows.entry(action).or_default().skipped = Some(why);
    }

    /// From now on connections of this backend may break, until the window is closed.
    pub fn open(&self, action: &'static str, backend: &str, takes: Takes) -> usize {
        let mut book = self.book.lock().unwrap();
        let (backend, from) = (backend.to_owned(), Instant::now());
        book.windows.push(Window { action, backend, takes, from, until: None });
        book.windows.len() - 1
    }

    pub fn close(&self, window: usize) {
        self.book.lock().unwrap().windows[window].until = Some(Instant::now());
    }

    /// Prints it all; false if something is unexplained, or was lost.
    pub fn report(
        &self,
        options: &Options,
        total: &Total,
        (before, after): (&State, &State),
        end: &End,
    ) -> bool {
        let mut book = self.book.lock().unwrap();
        let Book { rows, windows, failures, wrong } = &mut *book;
        let mut unexplained = Vec::new();
        for failure in failures.iter() {
            match windows.iter().find(|window| window.explains(failure)) {
                Some(window) => rows.entry(window.action).or_default().explains += 1,
                None => unexplained.push(failure),
            }
        }
        println!("\n{:<34} {:>5} {:>8} {:>18}", "action", "times", "seconds", "explains failures");
        for (action, row) in rows.iter() {
            match &row.skipped {
                Some(why) => println!("{action:<34} skipped: {why}"),
                None => {
                    let (done, time, explains) = (row.done, row.time.as_secs_f64(), row.explains);
                    println!("{action:<34} {done:>5} {time:>8.1} {explains:>18}");
                }
            }
        }
        let connections = total.connections.load(Ordering::Relaxed);
        let megabytes = total.bytes.load(Ordering::Relaxed) >> 20;
        let (failed, explained) = (failures.len(), failures.len() - unexplained.len());
        println!(
            "\nchecked connections {connections}, {megabytes} MiB of checked bytes; \
             failures {failed}: explained {explained}, unexplained {}",
            unexplained.len()
        );
        for failure in unexplained.iter().take(LISTED) {
            let since = |time: Instant| (time - self.began).as_secs_f64();
            let backend = failure.backend.as_deref().unwrap_or("nobody yet");
            let (from, to) = (since(failure.began), since(failure.at));
            println!("  {from:.1} s to {to:.1} s: {} ({backend}): {}", failure.what, failure.error);
        }
        if !unexplained.is_empty() {
            println!("what ends connections was done from and to, in seconds:");
            for window in windows.iter() {
                let since = |time: Instant| (time - self.began).as_secs_f64();
                let until = window.until.map_or(f64::INFINITY, since);
                let (action, backend) = (window.action, &window.backend);
                println!("  {:.1} {until:.1} {action} ({backend})", since(window.from));
            }
        }
        println!("\n{:<34} {:>12} {:>12}", "the gateway at rest", "start", "end");
        let kib = |bytes: u64| format!("{} KiB", bytes >> 10);
        println!("{:<34} {:>12} {:>12}", "memory", kib(before.memory), kib(after.memory));
        println!("{:<34} {:>12} {:>12}", "open files", before.files, after.files);
        println!("{:<34} {:>12} {:>12}", "threads", before.threads, after.threads);
        println!("{}", end.summary);
        if after.memory > before.memory + before.memory / 4 + ROOM {
            wrong.push("it has more memory than at the start".to_owned());
        }
        if after.files > before.files + MORE_FILES {
            wrong.push("it has more open files than at the start".to_owned());
        }
        // Those of the control plane that rendered metrics have ended by now.
        if after.threads > before.threads {
            wrong.push("it has more threads than at the start".to_owned());
        }
        wrong.extend(end.wrong.iter().cloned());
        wrong.iter().for_each(|text| println!("wrong: {text}"));
        let well = wrong.is_empty() && unexplained.is_empty();
        if !well && options.log.is_none() {
            println!("\nthe last that the gateway logged:\n{}", end.log);
        }
        let verdict = if well { "well" } else { "NOT WELL" };
        println!("\nsoak: {verdict} (--seed {})", options.seed);
        well
    }
}

impl Window {
    fn explains(&self, failure: &Failure) -> bool {
        let before_the_end =
            |time: Instant, grace| self.until.is_none_or(|end| time <= end + grace);
        !failure.corrupt
            && failure.at >= self.from
            && match &failure.backend {
                // However long it takes the client to notice: it may have been silent.
                Some(backend) => {
                    *backend == self.backend
                        && self.takes == Takes::All
                        && before_the_end(failure.began, Duration::ZERO)
                }
                None => before_the_end(failure.at, GRACE),
            }
    }
}
