//! What the protocol speaks of, in values that cannot be out of range.

use core::fmt;
use core::num::NonZeroU8;
use core::time::Duration;

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 3768: IPv4, intervals in whole seconds.
    V2,
    /// RFC 9568: IPv4 and IPv6, intervals in centiseconds.
    V3,
}

/// Virtual router identifier, 1 to 255 (RFC 9568, section 5.2.3): unique on a network segment and
/// address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vrid(NonZeroU8);

impl Vrid {
    /// An identifier; `None` if it is 0.
    pub const fn new(id: u8) -> Option<Self> {
        match NonZeroU8::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The identifier as it is sent.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Vrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Priority of a router (RFC 9568, section 5.2.4): the highest becomes master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// Sent by a master that steps down, so that a backup need not wait for its silence.
    pub const RELEASE: Self = Self(0);

    /// That of a backup which is told nothing else.
    pub const DEFAULT: Self = Self(100);

    /// That of the router whose own addresses the shared ones are.
    pub const OWNER: Self = Self(255);

    /// Any priority as it is sent.
    pub const fn new(priority: u8) -> Self {
        Self(priority)
    }

    /// The priority as it is sent.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether it is that of the address owner.
    pub const fn is_owner(self) -> bool {
        self.0 == Self::OWNER.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Time between two adverts of version 3, 10 ms to 40.95 s (RFC 9568, section 5.2.7: twelve bits
/// of centiseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(u16);

impl Interval {
    /// The longest that twelve bits hold, in centiseconds.
    const LONGEST: u16 = 0x0fff;

    /// An interval of so many centiseconds; `None` unless from 1 to 4095.
    pub const fn from_centis(centis: u16) -> Option<Self> {
        match centis {
            1..=Self::LONGEST => Some(Self(centis)),
            _ => None,
        }
    }

    /// An interval of this duration; `None` if it is no whole number of centiseconds or out of
    /// range.
    pub const fn from_duration(duration: Duration) -> Option<Self> {
        let nanos = duration.as_nanos();
        if !nanos.is_multiple_of(10_000_000) || nanos / 10_000_000 > Self::LONGEST as u128 {
            return None;
        }
        Self::from_centis((nanos / 10_000_000) as u16)
    }

    /// The interval in centiseconds, as it is sent.
    pub const fn centis(self) -> u16 {
        self.0
    }

    /// The interval as a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }

    /// `Skew_Time` of a backup with this priority, which hears adverts at this interval: a lower
    /// priority waits longer (RFC 9568, section 6.1).
    ///
    /// In nanoseconds: rounded to centiseconds, as the RFC allows, neighbours in priority would
    /// become master at the same time.
    pub const fn skew(self, priority: Priority) -> Duration {
        let nanos = self.duration().as_nanos() as u64;
        Duration::from_nanos(nanos * (256 - priority.0 as u64) / 256)
    }

    /// `Active_Down_Interval`: the silence after which such a backup becomes master (RFC 9568,
    /// section 6.1).
    pub const fn down(self, priority: Priority) -> Duration {
        let adverts = Duration::from_millis(self.0 as u64 * 30);
        Duration::from_nanos(adverts.as_nanos() as u64 + self.skew(priority).as_nanos() as u64)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.duration())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_wire() {
        assert_eq!((Vrid::new(0), Vrid::new(255).map(Vrid::get)), (None, Some(255)));
        assert_eq!((Interval::from_centis(0), Interval::from_centis(4_096)), (None, None));
        assert_eq!(Interval::from_centis(4_095).map(Interval::centis), Some(4_095));
        let from = |millis| Interval::from_duration(Duration::from_millis(millis));
        assert_eq!([from(0), from(5), from(15), from(40_960)], [None; 4]);
        assert_eq!(from(40_950).map(Interval::duration), Some(Duration::from_millis(40_950)));
        assert_eq!(Interval::from_duration(Duration::MAX), None);
    }

    #[test]
    fn a_higher_priority_waits_less_and_neighbours_differ() {
        let interval = Interval::from_centis(1).unwrap();
        for priority in 0..255 {
            let (lower, higher) = (Priority::new(priority), Priority::new(priority + 1));
            assert!(interval.skew(higher) < interval.skew(lower));
        }
        let second = Interval::from_centis(100).unwrap();
        assert_eq!(second.skew(Priority::DEFAULT), Duration::from_nanos(609_375_000));
        assert_eq!(second.down(Priority::OWNER), Duration::from_nanos(3_003_906_250));
    }
}
