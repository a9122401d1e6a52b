//! Durations, counted in classes that are a few per mille wide, however long they are.
//!
//! The open loop keeps one [`Histogram`] per slice of its window, as [`Slices`].

use std::time::Duration;

use crate::measure::Spread;

/// Each power of two of nanoseconds is divided into so many classes: no quantile is off by more
/// than 1/128 of itself.
const STEPS: u32 = 128;
const STEP_BITS: u32 = STEPS.ilog2();

/// Log-linear, as in HDR histograms.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub fn new() -> Self {
        let classes = (64 - STEP_BITS + 1) * STEPS;
        Self { counts: vec![0; classes as usize], total: 0 }
    }

    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[class(nanos)] += 1;
        self.total += 1;
    }

    /// The upper bound of the class of the duration that a share of all, in [0, 1], do not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper_bound(class));
            }
        }
        Duration::ZERO
    }
}

/// The durations of a window, by when in it they were.
///
/// A quantile is the median of those of the slices. When the machine itself stops for 50 ms, as
/// virtual ones do, that is one slice, and not the tail of everything; what a proxy does to its
/// clients regularly is in most of them.
pub struct Slices {
    slices: Vec<Histogram>,
    /// How many durations the window has.
    length: u64,
    recorded: u64,
}

/// Slices of a window.
const SLICES: u64 = 10;

impl Slices {
    pub fn of(length: u64) -> Self {
        let slices = vec![Histogram::new(); SLICES as usize];
        Self { slices, length: length.max(1), recorded: 0 }
    }

    pub fn record(&mut self, duration: Duration) {
        let slice = (self.recorded * SLICES / self.length).min(SLICES - 1);
        self.slices[slice as usize].record(duration);
        self.recorded += 1;
    }

    /// In seconds. See [`Histogram::quantile`].
    pub fn quantile(&self, share: f64) -> f64 {
        let quantiles = self.slices.iter().map(|slice| slice.quantile(share).as_secs_f64());
        Spread::of(quantiles).map_or(f64::NAN, |spread| spread.median)
    }
}

/// Below [`STEPS`] each number has a class; above, each power of two has as many classes.
fn class(nanos: u64) -> usize {
    let exponent = nanos.max(1).ilog2();
    let class = if exponent < STEP_BITS {
        nanos
    } else {
        let shift = exponent - STEP_BITS;
        u64::from(shift + 1) * u64::from(STEPS) + (nanos >> shift) - u64::from(STEPS)
    };
    class as usize
}

/// The largest number in a class.
fn upper_bound(class: usize) -> u64 {
    let (class, steps) = (class as u64, u64::from(STEPS));
    if class < 2 * steps {
        return class;
    }
    let shift = class / steps - 1;
    let last = ((class % steps + steps + 1) as u128) << shift;
    u64::try_from(last - 1).unwrap_or(u64::MAX)
}
