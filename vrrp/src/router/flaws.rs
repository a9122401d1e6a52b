//! What is wrong with adverts of a virtual router: what is said of it, and how often.
//!
//! A packet that is refused is why two routers do not agree who is master, so it must not be silent;
//! but anybody on the link can send such packets, at any rate and from any address. So each flaw of
//! each sender is said once in [`PERIOD`], for [`SENDERS`] of them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use crate::advert::{self, Addresses, Advert, Packet, Rejected, Scope};
use crate::router::InstanceId;
use crate::settings::Settings;
use crate::types::{Family, Interval, Moment, Version};

/// The same flaw of the same sender is said no more often than this.
pub const PERIOD: Duration = Duration::from_secs(60);

/// Senders for whom the same flaw is said in one [`PERIOD`]; more are only counted.
pub const SENDERS: usize = 8;

/// An interval of so many of ours makes a failover so much slower that it is said how slow.
const MUCH: u16 = 3;

/// Addresses that are listed in a text.
const LISTED: usize = 8;

/// What is wrong with an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// It was refused.
    Rejected(Rejected),
    /// It was taken, though it has another interval than ours (version 3).
    Interval,
    /// It was taken, though it is of other addresses than ours.
    AddressList,
}

impl Flaw {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let rejected = Rejected::ALL.into_iter().map(Self::Rejected);
        rejected.chain([Self::Interval, Self::AddressList])
    }

    /// The name in metrics, status and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected(rejected) => rejected.as_str(),
            Self::Interval => "interval_mismatch",
            Self::AddressList => "address_list_mismatch",
        }
    }

    /// Whether the advert had no effect.
    pub const fn is_rejected(self) -> bool {
        matches!(self, Self::Rejected(_))
    }
}

/// What was received, and what was expected instead, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// What was received.
    pub received: String,
    /// What was expected.
    pub expected: String,
}

/// What people are to be told of a flaw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The virtual router.
    pub instance: InstanceId,
    /// What is wrong.
    pub flaw: Flaw,
    /// The sender.
    pub from: IpAddr,
    /// What was received and expected.
    pub texts: Texts,
    /// Packets with this flaw from this sender since it was said last, without this one.
    pub more: u64,
}

/// The last flaw of a virtual router's adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastFlaw<'a> {
    /// What is wrong.
    pub flaw: Flaw,
    /// The sender.
    pub from: IpAddr,
    /// When it came.
    pub at: Moment,
    /// What was received and expected when it was said last; `None` if it has not been said since
    /// settings changed.
    pub texts: Option<&'a Texts>,
}

/// What was said of which flaw of whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    entries: Vec<Entry>,
    last: Option<(Flaw, IpAddr, Moment)>,
}

#[derive(Clone, Debug)]
struct Entry {
    flaw: Flaw,
    from: IpAddr,
    at: Moment,
    more: u64,
    texts: Texts,
}

impl Said {
    /// A packet has come with a flaw: how many there were since it was said last, if it is to be
    /// said now. `texts` are only made then.
    pub(super) fn note(
        &mut self,
        flaw: Flaw,
        from: IpAddr,
        now: Moment,
        texts: impl FnOnce() -> Texts,
    ) -> Option<(u64, Texts)> {
        self.last = Some((flaw, from, now));
        let is_over = |entry: &Entry| now - entry.at >= PERIOD;
        let known = self.entries.iter_mut().find(|it| it.flaw == flaw && it.from == from);
        if let Some(entry) = known {
            if !is_over(entry) {
                entry.more += 1;
                return None;
            }
            let (more, texts) = (core::mem::take(&mut entry.more), texts());
            (entry.at, entry.texts) = (now, texts.clone());
            return Some((more, texts));
        }
        let same = self.entries.iter().filter(|entry| entry.flaw == flaw);
        if same.count() >= SENDERS {
            let old = self.entries.iter().enumerate();
            let old = old.filter(|(_, entry)| entry.flaw == flaw && is_over(entry));
            let (oldest, _) = old.min_by_key(|(_, entry)| entry.at)?;
            self.entries.swap_remove(oldest);
        }
        let texts = texts();
        self.entries.push(Entry { flaw, from, at: now, more: 0, texts: texts.clone() });
        Some((0, texts))
    }

    /// What was expected has changed: whatever comes next is news.
    pub(super) fn forget(&mut self) {
        self.entries.clear();
    }

    /// The last flaw.
    pub(super) fn last(&self) -> Option<LastFlaw<'_>> {
        let (flaw, from, at) = self.last?;
        let entry = self.entries.iter().find(|it| it.flaw == flaw && it.from == from);
        Some(LastFlaw { flaw, from, at, texts: entry.map(|entry| &entry.texts) })
    }
}

/// What was received and expected, of a packet with this flaw that arrived for a virtual router with
/// these settings, which sends from `own`.
pub(super) fn describe(
    flaw: Flaw,
    packet: &Packet<'_>,
    settings: &Settings,
    own: Option<IpAddr>,
) -> Texts {
    let octet = |at: usize| packet.payload.get(at).copied().unwrap_or_default();
    let family = settings.family();
    // Its length was looked at before whether the version is ours.
    let version = advert::claimed_version(packet);
    let advert = || Advert::decode(packet, Scope::Routed).ok().map(|(advert, _)| advert);
    let (received, expected) = match flaw {
        Flaw::Rejected(Rejected::Ttl) => {
            let name = if family == Family::V4 { "TTL" } else { "hop limit" };
            (
                format!("{name} {}", packet.ttl),
                format!("{name} 255, which nobody beyond a router can send"),
            )
        }
        Flaw::Rejected(Rejected::Version) => (
            format!("version {}", octet(0) >> 4),
            format!("version {}", number(settings.version())),
        ),
        Flaw::Rejected(Rejected::Length) => {
            let (length, count) = (packet.payload.len(), octet(3));
            (
                format!("{length} octets"),
                format!(
                    "{} octets for a count of {count} addresses in version {}",
                    advert::length(version, family, usize::from(count)),
                    number(version),
                ),
            )
        }
        Flaw::Rejected(Rejected::Checksum) => {
            let right: Vec<_> = advert::right_checksums(packet)
                .map(|(form, sum)| format!("{sum:#06x} ({})", form.as_str()))
                .collect();
            let received = u16::from_be_bytes([octet(6), octet(7)]);
            (format!("checksum {received:#06x}"), right.join(" or "))
        }
        // Not of this virtual router: never said.
        Flaw::Rejected(Rejected::Vrid) => {
            (format!("vrid {}", octet(1)), format!("vrid {}", settings.vrid))
        }
        Flaw::Rejected(Rejected::Type) => {
            (format!("type {}", octet(0) & 0x0f), "type 1, an advertisement".into())
        }
        Flaw::Rejected(Rejected::AddressCount) => ("no address".into(), "at least one".into()),
        Flaw::Rejected(Rejected::Interval) | Flaw::Interval => {
            let received = match settings.version() {
                Version::V2 => format!("{}s", octet(5)),
                Version::V3 => {
                    let centis = u16::from_be_bytes([octet(4) & 0x0f, octet(5)]);
                    Interval::from_centis(centis).map_or_else(|| "0s".into(), |it| it.to_string())
                }
            };
            let much = settings.interval.centis().saturating_mul(MUCH);
            let slower =
                advert().filter(|it| flaw == Flaw::Interval && it.interval.centis() >= much);
            let noticed = slower.map_or_else(String::new, |advert| {
                let down = advert.interval.down(settings.priority);
                format!(", so that its silence is noticed after {down:.1?}")
            });
            (
                format!("advert_interval {received}{noticed}"),
                format!("advert_interval {}", settings.interval),
            )
        }
        Flaw::Rejected(Rejected::Auth) => {
            let right = advert::length(version, family, usize::from(octet(3)));
            let received = match packet.payload.len().saturating_sub(right) {
                0 => match octet(4) {
                    1 => "authentication type 1, a password".into(),
                    kind => format!("authentication type {kind}"),
                },
                more => format!("{more} octets of authentication after the advert"),
            };
            (received, "no authentication".into())
        }
        Flaw::Rejected(Rejected::Destination) => {
            let expected = match settings.is_unicast() {
                true => "sent to this gateway alone, as unicast_peers are configured".into(),
                false => {
                    format!(
                        "sent to the group {}, as no unicast_peers are configured",
                        family.group()
                    )
                }
            };
            (format!("sent to {}", packet.destination), expected)
        }
        Flaw::Rejected(Rejected::OwnSource) => {
            let own = own.map_or_else(String::new, |own| format!(" {own}"));
            (
                format!("sent from this gateway's own address{own}"),
                "another address: two hosts have this one, or the network returns what is sent"
                    .into(),
            )
        }
        Flaw::Rejected(Rejected::NotAPeer) => (
            format!("sent from {}", packet.source),
            format!("one of unicast_peers: {}", list(settings.unicast_peers.iter().copied())),
        ),
        Flaw::Rejected(Rejected::FirstAddress) => {
            let first = advert().and_then(|advert| advert.addresses.first());
            let first = first.map_or_else(String::new, |first| first.to_string());
            (format!("first address {first}"), "a link-local address first".into())
        }
        Flaw::Rejected(Rejected::AddressList) | Flaw::AddressList => {
            let ours: Vec<_> = settings.addresses.iter().map(|address| address.ip).collect();
            let theirs = advert().map(|advert| advert.addresses);
            let theirs: Vec<_> = theirs.into_iter().flat_map(Addresses::iter).collect();
            differing(&theirs, &ours)
        }
    };
    Texts { received, expected }
}

const fn number(version: Version) -> u8 {
    match version {
        Version::V2 => 2,
        Version::V3 => 3,
    }
}

fn list(addresses: impl ExactSizeIterator<Item = IpAddr>) -> String {
    let more = addresses.len().saturating_sub(LISTED);
    let listed: Vec<_> = addresses.take(LISTED).map(|address| address.to_string()).collect();
    match more {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

/// Two lists of addresses that differ; of long ones, in what.
fn differing(theirs: &[IpAddr], ours: &[IpAddr]) -> (String, String) {
    if theirs.len().max(ours.len()) <= LISTED {
        let of = |addresses: &[IpAddr]| format!("addresses {}", list(addresses.iter().copied()));
        return (of(theirs), of(ours));
    }
    let of = |these: &[IpAddr], those: &[IpAddr]| {
        let only: Vec<_> = these.iter().filter(|one| !those.contains(one)).copied().collect();
        match only.is_empty() {
            true => format!("{} addresses", these.len()),
            false => {
                format!("{} addresses, among them {}", these.len(), list(only.into_iter()))
            }
        }
    };
    (of(theirs, ours), of(ours, theirs))
}

#[cfg(test)]
mod tests {
    use core::iter;

    use super::*;
    use crate::settings::tests::settings;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn texts() -> Texts {
        Texts { received: "this".into(), expected: "that".into() }
    }

    const TTL: Flaw = Flaw::Rejected(Rejected::Ttl);
    const CHECKSUM: Flaw = Flaw::Rejected(Rejected::Checksum);

    /// What is said of a packet that comes at this second.
    fn note(said: &mut Said, flaw: Flaw, from: &str, second: u64) -> Option<u64> {
        let now = Moment::new(Duration::from_secs(1_000 + second));
        said.note(flaw, ip(from), now, texts).map(|(more, _)| more)
    }

    #[test]
    fn each_flaw_of_each_sender_is_said_once_a_minute_with_what_was_not_said() {
        let mut said = Said::default();
        assert_eq!(note(&mut said, TTL, "10.0.0.1", 0), Some(0));
        for second in 1..60 {
            assert_eq!(note(&mut said, TTL, "10.0.0.1", second), None);
        }
        assert_eq!(note(&mut said, TTL, "10.0.0.1", 60), Some(59));
        assert_eq!(note(&mut said, TTL, "10.0.0.1", 61), None);
        // Others are news, whatever was said before.
        assert_eq!(note(&mut said, TTL, "10.0.0.2", 61), Some(0));
        assert_eq!(note(&mut said, CHECKSUM, "10.0.0.1", 61), Some(0));
        // After a long silence nothing is left to be added up but what came before it.
        assert_eq!(note(&mut said, TTL, "10.0.0.1", 10_000), Some(1));
    }

    #[test]
    fn a_flood_from_many_senders_is_said_for_a_few_and_hides_no_other_flaw() {
        let mut said = Said::default();
        let sender = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        let flood = |said: &mut Said, second: u64| {
            let now = Moment::new(Duration::from_secs(second));
            let all = (0..100_000).filter(|n| said.note(TTL, sender(*n), now, texts).is_some());
            all.count()
        };
        assert_eq!(flood(&mut said, 0), SENDERS);
        assert_eq!(flood(&mut said, 59), 0);
        assert_eq!(said.entries.len(), SENDERS);
        assert_eq!(note(&mut said, CHECKSUM, "10.0.0.1", 0), Some(0));
        assert_eq!(flood(&mut said, 60), SENDERS);
        // Who came first has no right to stay: one that still sends is heard when those are silent.
        assert_eq!(note(&mut said, TTL, "192.0.2.1", 0), Some(0));
    }

    #[test]
    fn the_last_flaw_is_known_whether_it_was_said_or_not() {
        let mut said = Said::default();
        assert_eq!(said.last(), None);
        note(&mut said, TTL, "10.0.0.1", 0);
        note(&mut said, TTL, "10.0.0.1", 7);
        let texts = texts();
        let at = Moment::new(Duration::from_secs(1_007));
        let from = ip("10.0.0.1");
        let last = LastFlaw { flaw: TTL, from, at, texts: Some(&texts) };
        assert_eq!(said.last(), Some(last));
        // Of other settings, other things are expected.
        said.forget();
        assert_eq!(said.last(), Some(LastFlaw { texts: None, ..last }));
        assert_eq!(note(&mut said, TTL, "10.0.0.1", 8), Some(0));
    }

    #[test]
    fn names_are_unique() {
        let names: Vec<_> = Flaw::all().map(Flaw::as_str).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
    }

    #[test]
    fn long_lists_are_said_by_what_differs() {
        let many = |from: u8, to: u8| (from..to).map(|n| IpAddr::from([10, 0, 0, n]));
        let ours: Vec<_> = many(1, 201).collect();
        let theirs: Vec<_> = many(2, 201).chain(iter::once(ip("10.0.1.1"))).collect();
        let (received, expected) = differing(&theirs, &ours);
        assert_eq!(received, "200 addresses, among them 10.0.1.1");
        assert_eq!(expected, "200 addresses, among them 10.0.0.1");
        let (received, expected) = differing(&ours[..2], &ours[..1]);
        assert_eq!(received, "addresses 10.0.0.1, 10.0.0.2");
        assert_eq!(expected, "addresses 10.0.0.1");
        let (received, _) = differing(&ours, &[]);
        let listed =
            "10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5, 10.0.0.6, 10.0.0.7, 10.0.0.8";
        assert_eq!(received, format!("200 addresses, among them {listed} and 192 more"));
    }

    /// Whatever bytes come, something is said of them.
    #[test]
    fn any_packet_can_be_described() {
        let one = settings("one", 51, &["10.0.0.100"]);
        for length in 0..40 {
            let payload = alloc::vec![0xff; length];
            let packet = Packet {
                source: ip("10.0.0.2"),
                destination: ip("224.0.0.18"),
                ttl: 1,
                payload: &payload,
            };
            for flaw in Flaw::all() {
                let Texts { received, expected } = describe(flaw, &packet, &one, None);
                assert!(!received.is_empty() && !expected.is_empty(), "{flaw:?}");
            }
        }
    }
}
