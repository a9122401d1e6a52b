//! `lockgate top`: the running gateway, live in the terminal, or in batches for a pipe.
//!
//! A thread asks the gateway; this one draws what it answers, and listens to keys. What is shown is
//! worked out by `model`, and put onto the screen by `draw`. Whatever ends it (a key, a signal, an
//! error, a panic), the terminal is as it was before.

mod columns;
mod draw;
mod model;
#[cfg(test)]
mod tests;
mod viewer;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};

use super::text::Table;
use super::{Error, Exit, Gateway, runtime, status};
use crate::admin::client;
use crate::admin::status::Status;
use columns::Layout;
use model::{Glance, LISTENERS, Sort, Wish, glance};
use viewer::Viewer;

/// How `top` looks at a gateway.
#[derive(Args)]
pub struct Options {
    /// Time between two answers
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print tables instead of drawing a screen: for pipes and files
    #[arg(long, short)]
    batch: bool,
    /// Print so many and end; without it, until interrupted. Only with --batch
    #[arg(short = 'n', long, value_name = "N", requires = "batch", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Order of the backends
    #[arg(long, value_name = "COLUMN", default_value = "file")]
    sort: Sort,
    /// Only backends with these words in pool, name, address or state
    #[arg(long, value_name = "WORDS", default_value = "")]
    filter: String,
}

/// The shortest and the longest time between two answers.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3600)];

/// How long a key is waited for before the screen is looked after.
const TICK: Duration = Duration::from_millis(100);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let [shortest, longest] = INTERVALS;
    if !(shortest..=longest).contains(&interval) {
        return Err("from 100ms to 1h".to_owned());
    }
    Ok(interval)
}

/// Shows the gateway until the viewer has seen enough.
pub fn top(gateway: &Gateway, options: Options) -> Result<(), Error> {
    let socket = gateway.socket()?;
    let wish = Wish { sort: options.sort, reversed: false, filter: options.filter };
    if options.batch {
        return batch(&socket, options.interval, options.count, &wish);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let message = "standard input and output are no terminal; --batch prints instead";
        return Err(Error::new(Exit::Usage, message));
    }
    live(socket, options.interval, wish)
}

/// Prints again and again. An answer that fails is told on standard error, and the next one
/// is asked for; the last one decides how it ends.
fn batch(socket: &Path, interval: Duration, count: Option<u64>, wish: &Wish) -> Result<(), Error> {
    let runtime = runtime()?;
    let ask = || -> Result<Status, Error> {
        let body = runtime.block_on(client::get(socket, "/v1/status"))?;
        status::parse(&body)
    };
    // Rates take two answers.
    let mut before = ask();
    for number in 1.. {
        thread::sleep(interval);
        let now = ask();
        match &now {
            Ok(now) => {
                let glance = glance(now, before.as_ref().ok(), wish);
                let time = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
                let text = format!("{time}\n{}\n", text(&glance));
                match io::Write::write_all(&mut io::stdout(), text.as_bytes()) {
                    Ok(()) => {}
                    // Whoever read has seen enough.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    Err(error) => return Err(Error::of_system("cannot print", &error)),
                }
            }
            // The last one is told by whoever called.
            Err(_) if Some(number) == count => {}
            Err(error) => {
                let told = [error.message.trim_end(), "\n"].concat();
                // Nobody is left to tell if this fails.
                let _ = io::Write::write_all(&mut io::stderr(), told.as_bytes());
            }
        }
        if Some(number) == count {
            return now.map(drop);
        }
        before = now;
    }
    Ok(())
}

/// A glance as text, whole.
fn text(glance: &Glance) -> String {
    let mut text = String::new();
    for (_, line) in &glance.head {
        text.push_str(line);
        text.push('\n');
    }
    let mut section = |table: Table| {
        if table.rows.len() > 1 {
            text.push('\n');
            table.write(&mut text);
        }
    };
    let mut table = Table::new(&["vrrp", "state", "priority", "master", "for", "cause"], &[2]);
    table.rows.extend(glance.instances.iter().map(|(_, cells)| cells.to_vec()));
    section(table);
    let mut table = Table::new(&LISTENERS, &[2, 3, 4, 5, 6, 7]);
    table.rows.extend(glance.listeners.iter().cloned());
    section(table);
    let layout = Layout::whole(&glance.backends);
    let columns = || layout.columns.iter().map(|(column, _)| *column);
    let titles: Vec<_> = columns().map(|column| column.title).collect();
    let numbers = columns().enumerate().filter(|(_, column)| column.is_number);
    let numbers: Vec<_> = numbers.map(|(at, _)| at).collect();
    let mut table = Table::new(&titles, &numbers);
    let rows = glance.backends.iter();
    table.rows.extend(rows.map(|row| columns().map(|column| column.cell(row)).collect()));
    section(table);
    text
}

/// What the thread that asks has to tell.
enum News {
    Asked(Instant),
    Answered(Box<Status>),
    Failed(client::Error),
    Odd(String),
    Stop,
}

/// The terminal as it was before, whatever ends the viewing. A panic is told afterwards: the hook of
/// [`ratatui::init()`] restores first.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn live(socket: PathBuf, interval: Duration, wish: Wish) -> Result<(), Error> {
    let (sender, news) = channel();
    let pace = Arc::new(AtomicU64::new(millis(interval)));
    let asking = Arc::clone(&pace);
    thread::Builder::new()
        .name("ask".to_owned())
        .spawn(move || ask(&socket, &asking, &sender))
        .map_err(|error| Error::of_system("cannot start a thread", &error))?;
    let mut terminal =
        ratatui::try_init().map_err(|error| Error::of_system("cannot use the terminal", &error))?;
    let restore = Restore;
    let mut viewer = Viewer::new(wish, pace);
    let ended = loop {
        match viewer.take(&news) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
        let failed = |error: &io::Error| Error::of_system("the terminal is gone", error);
        if std::mem::take(&mut viewer.stale)
            && let Err(error) = terminal.draw(|frame| viewer.scene.draw(frame))
        {
            break Err(failed(&error));
        }
        match event::poll(TICK).and_then(|ready| ready.then(event::read).transpose()) {
            Ok(None) => {}
            Ok(Some(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                viewer.stale = true;
                if !viewer.press(key) {
                    break Ok(());
                }
            }
            // A resize, above all.
            Ok(Some(_)) => viewer.stale = true,
            Err(error) => break Err(failed(&error)),
        }
    };
    drop(restore);
    ended
}

/// How long the viewer has to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Asks until nobody wants to know, or a signal ends it.
fn ask(socket: &Path, pace: &AtomicU64, news: &Sender<News>) {
    let asking = async {
        let kinds = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()];
        let [Ok(mut terminate), Ok(mut hangup), Ok(mut interrupt)] = kinds.map(signal) else {
            return drop(news.send(News::Odd("cannot listen to signals".to_owned())));
        };
        let asking = async {
            loop {
                if news.send(News::Asked(Instant::now())).is_err() {
                    return;
                }
                let answer = match client::get(socket, "/v1/status").await {
                    Err(error) => News::Failed(error),
                    Ok(body) => match serde_json::from_slice(&body) {
                        Ok(status) => News::Answered(Box::new(status)),
                        Err(error) => News::Odd(format!("unexpected answer: {error}")),
                    },
                };
                if news.send(answer).is_err() {
                    return;
                }
                // In small steps: the viewer may change the pace.
                let asked = Instant::now();
                while asked.elapsed() < Duration::from_millis(pace.load(Ordering::Relaxed)) {
                    tokio::time::sleep(TICK / 2).await;
                }
            }
        };
        tokio::select! {
            () = asking => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Who does not listen has ended already.
        let _ = news.send(News::Stop);
        // The viewer may be held in a read of a terminal that is gone, which never ends.
        tokio::time::sleep(LAST_WORDS).await;
        ratatui::restore();
        std::process::exit(0);
    };
    match runtime() {
        Ok(runtime) => runtime.block_on(asking),
        Err(error) => drop(news.send(News::Odd(error.message))),
    }
}
