//! What one process hands on to the next, in a form that may be written down: numbers and words.
//!
//! Either process may be of another version, so that what is missing has a default, and what is not
//! understood is left out. Moments are nanoseconds of `CLOCK_BOOTTIME`, which all processes of a host
//! share.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::thread::{moment, nanos};
use crate::advert::{Checksum, Rejected};
use crate::instance::{Awaits, Cause, Course, Role};
use crate::router::{Counts, Inheritance, Other};
use crate::settings::{Address, Settings};
use crate::types::{Family, Interval, Priority, Version};

/// What [`super::Vrrp::let_go`] hands on to [`super::Vrrp::adopt`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Legacy {
    /// Virtual routers.
    pub routers: Vec<Share>,
    /// Names of the interfaces that were made for virtual MACs.
    pub virtual_macs: Vec<String>,
    /// Values of the system that were changed for those, as they were before, by file.
    pub system: Vec<(String, String)>,
}

/// What is handed on of one virtual router.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Share {
    /// Which one: see [`super::identity`].
    pub identity: String,
    /// What people call it.
    pub name: String,
    /// `init`, `backup` or `master`.
    pub role: String,
    /// When a master sent its last advert, or the wait of a backup began.
    pub course_since: u64,
    /// What a backup waits for: `first`, `silence`, `turn` or `sign`.
    pub awaits: String,
    /// The master that a backup has heard last.
    pub master: Option<IpAddr>,
    /// That master's interval, in centiseconds.
    pub learned: Option<u16>,
    /// Until when a backup leaves a master of lower priority alone.
    pub tolerant_until: Option<u64>,
    /// The last that a backup heard did not count.
    pub preempting: bool,
    /// It would be master but for its group.
    pub ready: bool,
    /// Since when it has its role.
    pub since: u64,
    /// Why.
    pub cause: String,
    /// The form of checksum that peers send.
    pub checksum: Option<String>,
    /// What it has counted, by name.
    pub counts: Vec<(String, u64)>,
    /// Other routers that were heard: address, priority, when, adverts.
    pub others: Vec<(IpAddr, u8, u64, u64)>,
    /// Index of the interface that has its addresses.
    pub index: u32,
    /// The addresses that are on it now.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// What a virtual router is known by to others, as [`Settings::is_same_router`] has it.
pub fn identity(settings: &Settings) -> String {
    let family = match settings.family() {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let version = match settings.version() {
        Version::V2 => 2,
        Version::V3 => 3,
    };
    let mac = if settings.virtual_mac { "virtual" } else { "own" };
    format!("{} vrid {} ipv{family} v{version} {mac}", settings.interface, settings.vrid)
}

const CHECKSUMS: [(Checksum, &str); 3] = [
    (Checksum::Rfc9568, Checksum::Rfc9568.as_str()),
    (Checksum::PseudoHeader, Checksum::PseudoHeader.as_str()),
    (Checksum::GroupPseudoHeader, Checksum::GroupPseudoHeader.as_str()),
];

const AWAITS: [(Awaits, &str); 4] = [
    (Awaits::First, "first"),
    (Awaits::Silence, "silence"),
    (Awaits::Turn, "turn"),
    (Awaits::Sign, "sign"),
];

fn word<T: Copy + PartialEq>(of: T, words: &[(T, &'static str)]) -> String {
    words.iter().find(|(one, _)| *one == of).map_or("", |(_, word)| word).to_owned()
}

fn meaning<T: Copy>(of: &str, words: &[(T, &str)]) -> Option<T> {
    words.iter().find(|(_, word)| *word == of).map(|(one, _)| *one)
}

impl Share {
    /// What is handed on of a virtual router with these settings, whose addresses are here.
    pub fn of(
        settings: &Settings,
        inheritance: &Inheritance,
        index: u32,
        addresses: impl Iterator<Item = Address>,
    ) -> Self {
        let Inheritance { course, counts, since, cause, checksum, others } = inheritance;
        let other = |o: &Other| (o.address, o.priority.get(), nanos(o.at), o.adverts);
        Self {
            identity: identity(settings),
            name: settings.name.clone(),
            role: course.role.as_str().to_owned(),
            course_since: nanos(course.since),
            awaits: word(course.wait, &AWAITS),
            master: course.master,
            learned: course.learned.map(Interval::centis),
            tolerant_until: course.tolerant_until.map(nanos),
            preempting: course.preempting,
            ready: course.ready,
            since: nanos(*since),
            cause: cause.as_str().to_owned(),
            checksum: checksum.map(|checksum| word(checksum, &CHECKSUMS)),
            counts: write(counts),
            others: others.iter().map(other).collect(),
            index,
            addresses: addresses.map(|address| (address.ip, address.prefix)).collect(),
        }
    }

    /// What a virtual router with these settings goes on with.
    pub fn inheritance(&self, settings: &Settings) -> Inheritance {
        let roles = [Role::Init, Role::Backup, Role::Master].map(|role| (role, role.as_str()));
        let causes = Cause::ALL.map(|cause| (cause, cause.as_str()));
        let learned = self.learned.and_then(|centis| match settings.version() {
            Version::V2 => Some(settings.interval),
            Version::V3 => Interval::from_centis(centis),
        });
        let other = |&(address, priority, at, adverts): &(IpAddr, u8, u64, u64)| Other {
            address,
            priority: Priority::new(priority),
            at: moment(at),
            adverts,
        };
        Inheritance {
            course: Course {
                role: meaning(&self.role, &roles).unwrap_or(Role::Init),
                since: moment(self.course_since),
                wait: meaning(&self.awaits, &AWAITS).unwrap_or(Awaits::Silence),
                master: self.master,
                learned,
                tolerant_until: self.tolerant_until.map(moment),
                preempting: self.preempting,
                ready: self.ready,
            },
            counts: read(&self.counts),
            since: moment(self.since),
            cause: meaning(&self.cause, &causes).unwrap_or(Cause::Startup),
            checksum: self.checksum.as_deref().and_then(|word| meaning(word, &CHECKSUMS)),
            others: self.others.iter().map(other).collect(),
        }
    }

    /// The addresses that are on the interface.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        self.addresses.iter().map(|&(ip, prefix)| Address { ip, prefix })
    }
}

fn named(counts: &mut Counts) -> [(&'static str, &mut u64); 11] {
    [
        ("sent", &mut counts.sent),
        ("priority_zero_sent", &mut counts.priority_zero_sent),
        ("received", &mut counts.received),
        ("priority_zero_received", &mut counts.priority_zero_received),
        ("interval_out_of_bounds", &mut counts.interval_out_of_bounds),
        ("interval_mismatch", &mut counts.interval_mismatch),
        ("address_list_mismatch", &mut counts.address_list_mismatch),
        ("contentions", &mut counts.contentions),
        ("to_init", &mut counts.to_init),
        ("to_backup", &mut counts.to_backup),
        ("to_master", &mut counts.to_master),
    ]
}

fn write(counts: &Counts) -> Vec<(String, u64)> {
    let mut counts = *counts;
    let rejected: Vec<_> = counts.rejected.iter().collect();
    let rejected =
        rejected.into_iter().map(|(reason, n)| (format!("rejected {}", reason.as_str()), n));
    let named = named(&mut counts).map(|(name, count)| (name.to_owned(), *count));
    named.into_iter().chain(rejected).filter(|(_, count)| *count > 0).collect()
}

fn read(written: &[(String, u64)]) -> Counts {
    let mut counts = Counts::default();
    for (name, count) in written {
        if let Some((_, place)) = named(&mut counts).into_iter().find(|(known, _)| known == name) {
            *place = *count;
        } else if let Some(reason) = name.strip_prefix("rejected ") {
            let known = Rejected::ALL.into_iter().find(|known| known.as_str() == reason);
            known.into_iter().for_each(|reason| counts.rejected.set(reason, *count));
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        crate::settings::tests::settings("public", 51, &["10.0.0.1"])
    }

    #[test]
    fn what_is_handed_on_comes_out_as_it_went_in() {
        let mut counts = Counts { sent: 7, to_master: 1, ..Counts::default() };
        counts.rejected.set(Rejected::Vrid, 3);
        let at = moment(1_234_567_891);
        let inheritance = Inheritance {
            course: Course {
                role: Role::Backup,
                since: at,
                wait: Awaits::Turn,
                master: Some([10, 0, 0, 2].into()),
                learned: Interval::from_centis(20),
                tolerant_until: Some(at),
                preempting: true,
                ready: true,
            },
            counts,
            since: at,
            cause: Cause::MasterTimeout,
            checksum: Some(Checksum::PseudoHeader),
            others: vec![Other {
                address: [10, 0, 0, 2].into(),
                priority: Priority::OWNER,
                at,
                adverts: 9,
            }],
        };
        let settings = settings();
        let share = Share::of(&settings, &inheritance, 3, settings.addresses.iter().copied());
        assert_eq!(share.inheritance(&settings), inheritance);
        assert_eq!(share.addresses().collect::<Vec<_>>(), settings.addresses);
    }

    #[test]
    fn what_is_not_understood_is_as_if_it_were_not_there() {
        let share = Share {
            role: "emperor".to_owned(),
            cause: "divine_right".to_owned(),
            checksum: Some("crc".to_owned()),
            counts: vec![("of a later version".to_owned(), 1), ("sent".to_owned(), 2)],
            ..Share::default()
        };
        let inheritance = share.inheritance(&settings());
        assert_eq!(inheritance.course.role, Role::Init);
        assert_eq!((inheritance.cause, inheritance.checksum), (Cause::Startup, None));
        assert_eq!(inheritance.counts, Counts { sent: 2, ..Counts::default() });
    }
}
