//! What the protocol speaks of, in values that cannot be out of range.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::NonZeroU8;
use core::ops;
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

/// Time between two adverts, in the unit of the version that it is of.
///
/// Version 3 sends twelve bits of centiseconds, 10 ms to 40.95 s (RFC 9568, section 5.2.7), version
/// 2 whole seconds, 1 to 255 (RFC 3768, section 5.3.7). The timers that follow from it differ as
/// well, so an interval knows its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interval {
    version: Version,
    centis: u16,
}

impl Interval {
    /// The longest that twelve bits hold, in centiseconds.
    const LONGEST: u16 = 0x0fff;

    /// An interval of version 3 of so many centiseconds; `None` unless from 1 to 4095.
    pub const fn from_centis(centis: u16) -> Option<Self> {
        match centis {
            1..=Self::LONGEST => Some(Self { version: Version::V3, centis }),
            _ => None,
        }
    }

    /// An interval of version 2 of so many seconds; `None` if there are none.
    pub const fn from_secs(secs: u8) -> Option<Self> {
        match secs {
            0 => None,
            _ => Some(Self { version: Version::V2, centis: secs as u16 * 100 }),
        }
    }

    /// An interval of this duration; `None` if the version cannot say it: out of range, or no
    /// whole number of its unit.
    pub const fn from_duration(version: Version, duration: Duration) -> Option<Self> {
        let (nanos, unit, longest) = match version {
            Version::V2 => (duration.as_nanos(), 1_000_000_000, u8::MAX as u128),
            Version::V3 => (duration.as_nanos(), 10_000_000, Self::LONGEST as u128),
        };
        if !nanos.is_multiple_of(unit) || nanos / unit > longest {
            return None;
        }
        match version {
            Version::V2 => Self::from_secs((nanos / unit) as u8),
            Version::V3 => Self::from_centis((nanos / unit) as u16),
        }
    }

    /// The version that it is of.
    pub const fn version(self) -> Version {
        self.version
    }

    /// The interval in centiseconds: as version 3 sends it.
    pub const fn centis(self) -> u16 {
        self.centis
    }

    /// The interval in seconds, as version 2 sends it; `None` if it is of version 3.
    pub const fn secs(self) -> Option<u8> {
        match self.version {
            Version::V2 => Some((self.centis / 100) as u8),
            Version::V3 => None,
        }
    }

    /// The interval as a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.centis as u64 * 10)
    }

    /// `Skew_Time` of a backup with this priority, which hears adverts at this interval: a lower
    /// priority waits longer. In version 3 a share of the interval (RFC 9568, section 6.1), in
    /// version 2 a share of a second, whatever the interval (RFC 3768, section 6.1).
    ///
    /// In nanoseconds: rounded to centiseconds, as the RFC allows, neighbours in priority would
    /// become master at the same time.
    pub const fn skew(self, priority: Priority) -> Duration {
        let whole = match self.version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => self.duration(),
        };
        Duration::from_nanos(whole.as_nanos() as u64 * (256 - priority.0 as u64) / 256)
    }

    /// `Active_Down_Interval` (`Master_Down_Interval`): the silence after which such a backup
    /// becomes master (RFC 9568 and RFC 3768, section 6.1).
    pub const fn down(self, priority: Priority) -> Duration {
        let adverts = Duration::from_millis(self.centis as u64 * 30);
        Duration::from_nanos(adverts.as_nanos() as u64 + self.skew(priority).as_nanos() as u64)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.duration())
    }
}

/// A point of time on a clock that counts the time of a suspended system as well
/// (`CLOCK_BOOTTIME`): whoever slept has to notice it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The moment so long after the clock's beginning.
    pub const fn new(since_beginning: Duration) -> Self {
        Self(since_beginning)
    }

    /// Time since the clock's beginning.
    pub const fn since_beginning(self) -> Duration {
        self.0
    }
}

impl ops::Add<Duration> for Moment {
    type Output = Self;

    /// The moment so much later; the last there is rather than an overflow.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl ops::Sub for Moment {
    type Output = Duration;

    /// How much later this moment is; nothing if it is not.
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Family of the addresses that a virtual router has, and speaks over: 4 and 6 have identifiers
/// of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The group that adverts are sent to (RFC 9568, sections 5.1.1.2 and 5.1.2.2).
    pub const fn group(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)),
        }
    }

    /// Octets of an address.
    pub const fn octets(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
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
        let from = |millis| Interval::from_duration(Version::V3, Duration::from_millis(millis));
        assert_eq!([from(0), from(5), from(15), from(40_960)], [None; 4]);
        assert_eq!(from(40_950).map(Interval::duration), Some(Duration::from_millis(40_950)));
        let from = |millis| Interval::from_duration(Version::V2, Duration::from_millis(millis));
        assert_eq!([from(0), from(500), from(1_500), from(256_000)], [None; 4]);
        assert_eq!(from(255_000).and_then(Interval::secs), Some(255));
        for version in [Version::V2, Version::V3] {
            assert_eq!(Interval::from_duration(version, Duration::MAX), None);
        }
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

    #[test]
    fn the_skew_of_version_2_is_a_share_of_a_second() {
        for secs in [1, 2, 255] {
            let interval = Interval::from_secs(secs).unwrap();
            assert_eq!(interval.skew(Priority::DEFAULT), Duration::from_nanos(609_375_000));
            let down = Duration::from_secs(3 * u64::from(secs)) + Duration::from_nanos(609_375_000);
            assert_eq!(interval.down(Priority::DEFAULT), down);
        }
    }

    #[test]
    fn moments_do_not_overflow() {
        let (early, late) = (Moment::new(Duration::from_secs(1)), Moment::new(Duration::MAX));
        assert_eq!(late + Duration::from_secs(1), late);
        assert_eq!(
            (early - late, early - Moment::default()),
            (Duration::ZERO, Duration::from_secs(1))
        );
    }
}
