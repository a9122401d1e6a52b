//! The one clock of all that is measured: the kernel's wall clock, because that is what it stamps
//! packets with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment: time since 1970.
pub type Stamp = Duration;

/// The moment.
pub fn now() -> Stamp {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// From one moment to another, in milliseconds; negative if they are the other way round.
pub fn milliseconds(from: Stamp, to: Stamp) -> f64 {
    1e3 * (to.as_secs_f64() - from.as_secs_f64())
}
