//! The load of a clock: requests at a fixed rate, whether or not the replies keep up.
//!
//! Each request has a time at which it is due, and its latency counts from then: what waits because
//! the proxy is behind counts in full, in the load as well ("no coordinated omission"). The times
//! are those of a Poisson process, the same for every run.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::crowd;
use crate::exchange::{Caller, Then};
use crate::histogram::Slices;
use crate::hostile;
use crate::measure::{Measured, Window};
use crate::site::Site;

/// New connections that may be under way at a time. One that comes when there are as many waits.
const MOST: usize = 2000;

/// A proxy that fails more connections than this is broken, and the run not worth its time.
const HOPELESS: u64 = 1000;

/// Requests by the clock.
#[derive(Clone, Copy)]
pub struct OpenLoop {
    pub bytes: usize,
    pub then: Then,
    /// Connections that stay, where they do.
    pub connections: usize,
    /// Who else is there.
    pub beside: Beside,
}

/// Clients beside those whose latency is measured.
#[derive(Clone, Copy, PartialEq)]
pub enum Beside {
    Nobody,
    /// So many new connections a second.
    Storm(f64),
    /// See [`hostile`].
    Hostile,
}

/// The arrival times of a Poisson process.
struct Arrivals {
    next: Instant,
    mean: Duration,
    random: u64,
}

impl Arrivals {
    fn new(first: Instant, per_second: f64) -> Self {
        let mean = Duration::from_secs_f64(1.0 / per_second);
        Self { next: first, mean, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The next arrival, if it is due.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        if self.next > now {
            return None;
        }
        let due = self.next;
        // Xorshift64*. 53 bits are what a double holds.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let bits = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        let uniform = (bits as f64 + 0.5) / (1_u64 << 53) as f64;
        self.next += self.mean.mul_f64(-uniform.ln());
        Some(due)
    }
}

/// Requests of one kind: when they are due, and who is free to make them.
struct Queue {
    arrivals: Arrivals,
    waiting: VecDeque<Instant>,
    idle: VecDeque<usize>,
    then: Then,
}

impl Queue {
    fn new(clients: Range<usize>, per_second: f64, then: Then) -> Self {
        let arrivals = Arrivals::new(Instant::now(), per_second);
        Self { arrivals, waiting: VecDeque::new(), idle: clients.collect(), then }
    }

    /// A client for a request that is due, and since when it is.
    fn next(&mut self) -> Option<(usize, Instant)> {
        while let Some(due) = self.arrivals.due(Instant::now()) {
            self.waiting.push_back(due);
        }
        if self.waiting.is_empty() {
            return None;
        }
        let client = self.idle.pop_front()?;
        Some((client, self.waiting.pop_front()?))
    }
}

impl OpenLoop {
    /// Runs `per_second` requests until the window closes. Also returns the latencies in it, and
    /// how many connections failed.
    pub fn run(
        &self,
        site: &mut Site,
        per_second: f64,
        warm_up: u64,
        requests: u64,
    ) -> io::Result<(Measured, Slices, u64)> {
        let mut serial = 0;
        let mut failures = 0;
        let mut callers: Vec<Option<Caller>> = Vec::new();
        if self.then == Then::Repeat {
            let (kept, lost) = crowd::gather(site, 0, self.connections, self.bytes)?;
            callers.extend(kept.into_iter().map(Some));
            failures += lost;
        } else {
            callers.resize_with(MOST, || None);
        }
        let measured = callers.len();
        let (beside, storm) = match self.beside {
            Beside::Storm(per_second) => (MOST, per_second),
            Beside::Nobody | Beside::Hostile => (0, 0.0),
        };
        callers.resize_with(measured + beside, || None);
        let mut hostile = match self.beside {
            Beside::Hostile => Some(hostile::Crowd::gather(site, callers.len())?),
            Beside::Nobody | Beside::Storm(_) => None,
        };
        let mut due_at = vec![Instant::now(); callers.len()];
        let mut done = 0;
        let mut latencies = Slices::of(requests);
        let mut ready = Vec::new();
        let mut window = Window::over(&site.pids()?, warm_up, requests)?;
        let mut queues = vec![Queue::new(0..measured, per_second, self.then)];
        if beside > 0 {
            queues.push(Queue::new(measured..callers.len(), storm, Then::Reconnect));
        }
        loop {
            for queue in &mut queues {
                while let Some((client, due)) = queue.next() {
                    serial += 1;
                    due_at[client] = due;
                    let caller = match callers[client].take() {
                        Some(mut caller) => {
                            caller.begin(serial);
                            // The reply cannot be here yet; a failure comes again when it is
                            // awaited.
                            let _ = caller.proceed();
                            caller
                        }
                        None => Caller::connect(site, client, self.bytes, serial)?,
                    };
                    callers[client] = Some(caller);
                }
            }
            if let Some(hostile) = &mut hostile {
                hostile.go_on(site)?;
            }
            site.turn(&mut ready)?;
            for &client in &ready {
                let Some(caller) = callers.get_mut(client).and_then(Option::as_mut) else {
                    continue;
                };
                if caller.is_idle() {
                    continue;
                }
                let reply = caller.proceed();
                if let Ok(false) = reply {
                    continue;
                }
                let latency = due_at[client].elapsed();
                let queue = &mut queues[usize::from(client >= measured)];
                queue.idle.push_back(client);
                if queue.then == Then::Reconnect || reply.is_err() {
                    callers[client] = None;
                }
                match reply {
                    Ok(_) if client >= measured => {}
                    Ok(_) => {
                        done += 1;
                        if done > warm_up {
                            latencies.record(latency);
                        }
                        if let Some(measured) = window.advance(1)? {
                            return Ok((measured, latencies, failures));
                        }
                    }
                    Err(error) if failures == HOPELESS => return Err(error),
                    Err(_) => failures += 1,
                }
            }
        }
    }
}
