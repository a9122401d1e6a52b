//! The load of a clock: requests at a fixed rate, whether or not the replies keep up.
//!
//! Each request has a time at which it is due, and its latency counts from then: what waits because
//! the proxy is behind counts in full, in the load as well ("no coordinated omission"). The times
//! are those of a Poisson process, the same for every run.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::crowd;
use crate::exchange::{Caller, Then};
use crate::histogram::Slices;
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
    /// Connections that stay, or that may be under way.
    pub then: Then,
    /// Connections that stay.
    pub connections: usize,
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
        let mut idle: VecDeque<usize> = (0..callers.len()).collect();
        let mut due_at = vec![Instant::now(); callers.len()];
        let mut waiting = VecDeque::new();
        let mut done = 0;
        let mut latencies = Slices::of(requests);
        let mut ready = Vec::new();
        let mut window = Window::over(&site.pids()?, warm_up, requests)?;
        let mut arrivals = Arrivals::new(Instant::now(), per_second);
        loop {
            while let Some(due) = arrivals.due(Instant::now()) {
                waiting.push_back(due);
            }
            while let Some(due) = waiting.pop_front() {
                let Some(client) = idle.pop_front() else {
                    waiting.push_front(due);
                    break;
                };
                serial += 1;
                due_at[client] = due;
                let caller = match callers[client].take() {
                    Some(mut caller) => {
                        caller.begin(serial);
                        // The reply cannot be here yet; a failure comes again when it is awaited.
                        let _ = caller.proceed();
                        caller
                    }
                    None => Caller::connect(site, client, self.bytes, serial)?,
                };
                callers[client] = Some(caller);
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
                idle.push_back(client);
                if self.then == Then::Reconnect || reply.is_err() {
                    callers[client] = None;
                }
                match reply {
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
