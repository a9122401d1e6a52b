//! What holds whatever comes. The tests here and `fuzz/` ask the same of limits.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::limit::Limited;
use crate::limit::rate::{Nanos, Rate};
use crate::limit::table::{Lease, SETS, Table};

/// A sequence of arrivals and departures, made of any bytes: of eight sources of one set, which has
/// room for twice as many. What the table says is what a map says that forgets nothing; and no source
/// gets more than its burst and what has come back since.
pub fn sequence(bytes: &[u8]) {
    let [count, period, burst, most, steps @ ..] = bytes else { return };
    let seconds = [1, 60, 3_600][usize::from(*period) % 3];
    let (count, burst) = (u32::from(*count) + 1, u32::from(*burst) + 1);
    let rate = Rate::new(count, Duration::from_secs(seconds), burst);
    let interval = seconds * 1_000_000_000 / u64::from(count);
    let most = NonZeroU32::new(u32::from(*most) % 8);
    let table = Table::new();
    let mut untils: HashMap<u64, Nanos> = HashMap::new();
    let mut admitted: HashMap<u64, (Nanos, u64)> = HashMap::new();
    let mut leases: Vec<(u64, Lease)> = Vec::new();
    let mut now: Nanos = 0;
    for step in steps.chunks_exact(2) {
        let source = u64::from(step[0] % 8);
        // From nothing to many intervals.
        now += (interval / 16 * u64::from(step[1])) >> (step[0] >> 5);
        if step[0] & 16 == 16 {
            if let Some(at) = leases.iter().position(|(own, _)| *own == source) {
                leases.swap_remove(at);
            }
            continue;
        }
        let held = leases.iter().filter(|(own, _)| *own == source).count();
        let until = untils.entry(source).or_default();
        let expected = match rate.admit(*until, now) {
            _ if most.is_some_and(|most| held >= most.get() as usize) => Err(Limited::Connections),
            None => Err(Limited::Rate),
            Some(after) => {
                assert!(after > *until && after > now, "time only rises");
                *until = after;
                Ok(())
            }
        };
        let hash = (source + 1) * SETS as u64;
        let entered = table.enter(hash, now, Some(&rate), most);
        assert_eq!(entered.as_ref().map(|_| ()).map_err(|limited| *limited), expected);
        if let Ok(lease) = entered {
            assert_eq!(lease.is_some(), most.is_some());
            leases.extend(lease.map(|lease| (source, lease)));
            let (first, count) = admitted.entry(source).or_insert((now, 0));
            *count += 1;
            assert!(*count <= u64::from(burst) + (now - *first) / interval, "more than there was");
        }
    }
    let other = Rate::new(burst, Duration::from_secs(60), count);
    for until in untils.into_values() {
        let converted = other.convert(until, now, &rate);
        assert!(converted >= now && (converted == now) == (until <= now));
        assert!(other.admit(converted, now + 60_000_000_000).is_some(), "waits too long");
    }
}
