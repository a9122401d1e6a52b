//! What crowds that misbehave cost: memory by each of them, and the time that a client which behaves
//! has to wait, beside HAProxy's.
//!
//! A client that behaves makes a connection in the clear every few milliseconds, asks for a hundred
//! bytes and closes; its time is that from `connect` to the end. A crowd comes meanwhile. Memory is the
//! process', before the crowd and at most while it was there; where nobody stays (resets, garbage)
//! there is nothing to divide it by. Both programs have two threads, on the cores that clients and
//! servers use as well: what is to be compared is each with itself, without a crowd and with it.
//! Crowds come to the listeners that end TLS and that redirect, so that backends have nothing to do with
//! them; but for those that never read, who ask a backend for more than they take.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{PORTS, REQUEST};
use crate::chance::Chance;
use crate::crowd::{Misdeed, come};
use crate::harness::tls::{Authority, Store};
use crate::ledger::Ledger;
use crate::network;
use crate::options::Options;
use crate::process::State;
use crate::site::{self, BACKENDS, LISTENERS, NAME, REDIRECT, Site};

/// How long each crowd is there.
const LENGTH: Duration = Duration::from_secs(6);

/// Between two connections of the client that behaves.
const PACE: Duration = Duration::from_millis(3);

/// Each, and how many come at a time.
const CROWDS: [(&str, Option<(Misdeed, usize)>); 7] = [
    ("nobody", None),
    ("2000 that idle", Some((Misdeed::Idles, 2_000))),
    ("500 that drip", Some((Misdeed::Drips, 500))),
    ("200 that never read", Some((Misdeed::Deaf, 200))),
    ("resets without end", Some((Misdeed::Resets, 100))),
    ("garbage without end", Some((Misdeed::Babbles, 100))),
    ("connect and close without end", Some((Misdeed::Knocks, 100))),
];

/// Measures both, and prints a table.
pub fn measure(options: &Options) -> io::Result<bool> {
    network::isolate()?;
    println!(
        "{:<32} {:>9} {:>9} {:>9} {:>7} {:>12} {:>10} {:>7}",
        "crowd", "p50", "p99", "worst", "visits", "memory", "each", "failed"
    );
    println!("lockgate");
    {
        let site = Site::start(options, Arc::new(Ledger::new()))?;
        rows(site.pid(), options)?;
    }
    println!("haproxy");
    let backends = site::start_backends()?;
    let haproxy = Haproxy::start()?;
    let outcome = rows(haproxy.child.id(), options);
    drop((haproxy, backends));
    outcome.map(|()| true)
}

fn rows(pid: u32, options: &Options) -> io::Result<()> {
    // Warm; but each crowd is to show what it costs, so none comes before.
    visits(Duration::from_secs(2));
    for (name, misdeed) in CROWDS {
        thread::sleep(Duration::from_secs(2));
        let before = State::of(pid)?.memory;
        let (stop, most) = (AtomicBool::new(false), AtomicU64::new(before));
        let visits = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Gone, there is nothing more to see.
                    if let Ok(state) = State::of(pid) {
                        most.fetch_max(state.memory, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            });
            if let Some((misdeed, count)) = misdeed {
                let mut chance = Chance::new(options.seed);
                scope.spawn(move || crowd(misdeed, count, LENGTH, &mut chance));
                // Until it is there.
                thread::sleep(Duration::from_millis(800));
            }
            let visits = visits(LENGTH - Duration::from_millis(1_200));
            stop.store(true, Ordering::Relaxed);
            visits
        });
        let grown = most.load(Ordering::Relaxed) - before;
        let each = match misdeed {
            Some((Misdeed::Idles | Misdeed::Drips | Misdeed::Deaf, count)) => {
                format!("{} B", grown / count as u64)
            }
            _ => "-".to_owned(),
        };
        let at = |share: f64| format!("{:.2} ms", visits.at(share).as_secs_f64() * 1e3);
        println!(
            "  {name:<30} {:>9} {:>9} {:>9} {:>7} {:>8} KiB {each:>10} {:>7}",
            at(0.5),
            at(0.99),
            at(1.0),
            visits.times.len(),
            grown >> 10,
            visits.failed
        );
    }
    Ok(())
}

fn crowd(misdeed: Misdeed, count: usize, length: Duration, chance: &mut Chance) {
    let until = Instant::now() + length;
    while Instant::now() < until {
        // Not to where they would be the backends' affair as well.
        let to: &[&str] =
            if matches!(misdeed, Misdeed::Deaf) { &["plain"] } else { &["tls", REDIRECT] };
        come(misdeed, count, to, until.saturating_duration_since(Instant::now()), chance);
    }
}

struct Visits {
    /// In their order.
    times: Vec<Duration>,
    failed: usize,
}

impl Visits {
    /// The time that this share of the visits needed at most: the median of ten slices, so that a pause
    /// of the machine itself is not everybody's tail.
    fn at(&self, share: f64) -> Duration {
        let slices = self.times.chunks(self.times.len().div_ceil(10).max(1));
        let mut of_slices: Vec<_> = slices
            .map(|slice| {
                let mut slice = slice.to_vec();
                slice.sort_unstable();
                slice[((slice.len() as f64 * share) as usize).min(slice.len() - 1)]
            })
            .collect();
        of_slices.sort_unstable();
        of_slices.get(of_slices.len() / 2).copied().unwrap_or_default()
    }
}

fn visits(length: Duration) -> Visits {
    let began = Instant::now();
    let (mut times, mut failed) = (Vec::new(), 0);
    let mut due = began;
    while began.elapsed() < length {
        // By the clock: who is late does not wait any more.
        thread::sleep(due.saturating_duration_since(Instant::now()));
        match visit() {
            Ok(()) => times.push(due.elapsed()),
            Err(_) => failed += 1,
        }
        due += PACE;
    }
    Visits { times, failed }
}

fn visit() -> io::Result<()> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&site::address("plain"), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    request[4..8].copy_from_slice(&100u32.to_le_bytes());
    stream.write_all(&request)?;
    // A greeting of three bytes, the verdict, what was asked for.
    stream.read_exact(&mut [0; 3 + 1 + 100])?;
    stream.shutdown(Shutdown::Write)?;
    stream.read(&mut [0]).map(drop)
}

struct Haproxy {
    child: Child,
    _store: Store,
}

impl Haproxy {
    fn start() -> io::Result<Self> {
        let (store, authority) = (Store::new(), Authority::new("soak"));
        let issued = authority.issue(&[NAME]);
        let pem = store.file("soak.pem", format!("{}{}", issued.certificate, issued.key));
        let mut text = "global\n  nbthread 2\n  maxconn 9000\n  tune.ssl.default-dh-param 2048\n\
             defaults\n  mode tcp\n  timeout client 600s\n  timeout server 600s\n\
               timeout connect 1s\n  retries 3\n  option redispatch\n"
            .to_owned();
        for listener in LISTENERS {
            let bind = site::address(listener);
            let tls = matches!(listener, "tls" | "sealed");
            let ssl = if tls { format!(" ssl crt {}", pem.display()) } else { String::new() };
            text += &format!("listen {listener}\n  bind {bind}{ssl}\n");
            if listener == "passed" {
                text += "  tcp-request inspect-delay 15s\n  \
                         tcp-request content accept if { req.ssl_hello_type 1 }\n";
            }
            let sealed = matches!(listener, "sealed" | "passed");
            let port = PORTS[usize::from(sealed)];
            let ssl = if listener == "sealed" { " ssl verify none" } else { "" };
            for number in 0..BACKENDS {
                let ip = network::backend(number);
                text += &format!("  server b{number} {ip}:{port}{ssl}\n");
            }
        }
        text += &format!(
            "frontend {REDIRECT}\n  mode http\n  timeout http-request 15s\n  bind {}\n  \
             http-request redirect scheme https code 301\n",
            site::address(REDIRECT)
        );
        let config = store.path().join("haproxy.cfg");
        fs::write(&config, text)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "haproxy", "-db", "-q", "-f"]).arg(&config);
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).stdin(Stdio::null());
        let child = command.spawn()?;
        let began = Instant::now();
        while visit().is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other("haproxy does not serve"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { child, _store: store })
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
