//! What is configured for a virtual router, and what no configuration may say.
//!
//! The embedding program makes [`Settings`] of its file; [`check`] is what [`crate::Router`] asks
//! before it takes them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use crate::types::{Family, Interval, Priority, Version, Vrid};

/// The most addresses that a virtual router may have: they are counted in one octet (RFC 9568,
/// section 5.2.5).
pub const MOST_ADDRESSES: usize = 255;

/// An address that routers share, and the prefix that it is given on the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Length of the prefix in bits, at most 32 or 128.
    pub prefix: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// Which checksum is sent in version 3 over IPv4. Both forms are always accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChecksumPolicy {
    /// What the peer sent last. As long as nobody has been heard, or somebody is master beside us as if
    /// adverts were not understood, both in turn.
    #[default]
    Auto,
    /// Over the message alone (RFC 9568, section 5.2.8).
    Rfc9568,
    /// Over a pseudo header too: a reading of RFC 5798 that keepalived and FRR follow.
    PseudoHeader,
}

/// What is configured for one virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What people call it.
    pub name: String,
    /// The interface that adverts are sent and received on.
    pub interface: String,
    /// Its identifier.
    pub vrid: Vrid,
    /// The shared addresses, all of one family.
    pub addresses: Vec<Address>,
    /// Configured priority, not [`Priority::RELEASE`]; tracking may lower or raise it.
    pub priority: Priority,
    /// Time between own adverts. It is of the version that is spoken.
    pub interval: Interval,
    /// Take over from a master of lower priority (RFC 9568, section 6.1: `Preempt_Mode`). The owner
    /// does in any case.
    pub preempt: bool,
    /// How long a master of lower priority is left alone, from its first advert on.
    pub preempt_delay: Duration,
    /// The other routers, where multicast does not reach them; none = multicast.
    pub unicast_peers: Vec<IpAddr>,
    /// Where adverts come from: nowhere else, as peers expect it; `None` = the shell chooses one
    /// that the interface has.
    pub source: Option<IpAddr>,
    /// The checksum that is sent.
    pub checksum: ChecksumPolicy,
    /// Virtual routers with the same group are master together or not at all.
    pub sync_group: Option<String>,
    /// The shared addresses have a hardware address of their own (RFC 9568, section 7.3).
    pub virtual_mac: bool,
    /// How often each address is announced after a takeover.
    pub garp_repeat: u8,
    /// Time between two later announcements; zero = none.
    pub garp_refresh: Duration,
    /// Interfaces without which mastership is given up.
    pub track_interfaces: Vec<String>,
    /// A program to run at each transition.
    pub notify: Option<String>,
}

impl Settings {
    /// Version of the protocol that is spoken.
    pub const fn version(&self) -> Version {
        self.interval.version()
    }

    /// Family of its addresses; IPv4 if it has none, which [`check`] refuses.
    pub fn family(&self) -> Family {
        self.addresses.first().map_or(Family::V4, |address| Family::of(address.ip))
    }

    /// Whether adverts go to peers, not to the group.
    pub fn is_unicast(&self) -> bool {
        !self.unicast_peers.is_empty()
    }

    /// Where each advert is sent: the peers, or the group.
    pub fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        let group = (!self.is_unicast()).then(|| self.family().group());
        self.unicast_peers.iter().copied().chain(group)
    }

    /// Whether the other settings are of the same virtual router, so that it can go on with them:
    /// interface, family, identifier, version and hardware address are what others know it by.
    pub fn is_same_router(&self, other: &Self) -> bool {
        self.interface == other.interface
            && self.family() == other.family()
            && self.vrid == other.vrid
            && self.version() == other.version()
            && self.virtual_mac == other.virtual_mac
    }
}

/// Why settings cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Two have this name.
    DuplicateName(String),
    /// These two have the same identifier on the same interface and family.
    DuplicateVrid(String, String),
    /// This one has no address.
    NoAddress(String),
    /// This one has more than [`MOST_ADDRESSES`].
    TooManyAddresses(String),
    /// This one has the address twice.
    DuplicateAddress(String, IpAddr),
    /// This one has addresses, or peers, of both families.
    MixedFamilies(String),
    /// This one is IPv6 in version 2, which has only IPv4.
    FamilyOfVersion(String),
    /// This one has a prefix longer than the address.
    Prefix(String, Address),
    /// This one has priority 0, which only releases.
    Priority(String),
    /// This one sends from an address of another family, or none that a host has.
    Source(String, IpAddr),
    /// This one has a peer twice, or one that is no host's address.
    Peer(String, IpAddr),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateName(name) => write!(f, "'{name}' is there twice"),
            Self::DuplicateVrid(one, other) => {
                write!(f, "'{one}' and '{other}' have the same VRID on the same interface")
            }
            Self::NoAddress(name) => write!(f, "'{name}' has no address"),
            Self::TooManyAddresses(name) => {
                write!(f, "'{name}' has more than {MOST_ADDRESSES} addresses")
            }
            Self::DuplicateAddress(name, address) => write!(f, "'{name}' has {address} twice"),
            Self::MixedFamilies(name) => {
                write!(f, "'{name}' mixes IPv4 and IPv6: make two virtual routers of it")
            }
            Self::FamilyOfVersion(name) => {
                write!(f, "'{name}' has IPv6 addresses, which version 2 does not know")
            }
            Self::Prefix(name, address) => write!(f, "'{name}': no prefix: {address}"),
            Self::Priority(name) => write!(f, "'{name}' has priority 0, not 1 to 255"),
            Self::Source(name, source) => {
                write!(f, "'{name}': adverts cannot come from {source}")
            }
            Self::Peer(name, peer) => {
                write!(f, "'{name}': the peer {peer} is there twice, or is no host")
            }
        }
    }
}

impl core::error::Error for Error {}

/// Whether a router can run with all of these.
///
/// # Errors
///
/// The first thing that it cannot.
pub fn check(settings: &[Settings]) -> Result<(), Error> {
    for (index, one) in settings.iter().enumerate() {
        check_one(one)?;
        for other in &settings[..index] {
            if one.name == other.name {
                return Err(Error::DuplicateName(one.name.clone()));
            }
            if one.interface == other.interface
                && one.family() == other.family()
                && one.vrid == other.vrid
            {
                return Err(Error::DuplicateVrid(other.name.clone(), one.name.clone()));
            }
        }
    }
    Ok(())
}

fn check_one(settings: &Settings) -> Result<(), Error> {
    let name = || settings.name.clone();
    let family = settings.family();
    if settings.addresses.is_empty() {
        return Err(Error::NoAddress(name()));
    }
    if settings.addresses.len() > MOST_ADDRESSES {
        return Err(Error::TooManyAddresses(name()));
    }
    if settings.version() == Version::V2 && family == Family::V6 {
        return Err(Error::FamilyOfVersion(name()));
    }
    if settings.priority == Priority::RELEASE {
        return Err(Error::Priority(name()));
    }
    for (index, address) in settings.addresses.iter().enumerate() {
        if Family::of(address.ip) != family {
            return Err(Error::MixedFamilies(name()));
        }
        if usize::from(address.prefix) > family.octets() * 8 {
            return Err(Error::Prefix(name(), *address));
        }
        if settings.addresses[..index].iter().any(|other| other.ip == address.ip) {
            return Err(Error::DuplicateAddress(name(), address.ip));
        }
    }
    if let Some(source) = settings.source
        && (Family::of(source) != family || source.is_multicast() || source.is_unspecified())
    {
        return Err(Error::Source(name(), source));
    }
    for (index, peer) in settings.unicast_peers.iter().enumerate() {
        if Family::of(*peer) != family {
            return Err(Error::MixedFamilies(name()));
        }
        let twice = settings.unicast_peers[..index].contains(peer);
        if twice || peer.is_multicast() || peer.is_unspecified() {
            return Err(Error::Peer(name(), *peer));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::vec;

    use super::*;

    /// Plain ones, which a test changes as it needs.
    pub(crate) fn settings(name: &str, vrid: u8, addresses: &[&str]) -> Settings {
        let address = |ip: &&str| Address { ip: ip.parse().unwrap(), prefix: 24 };
        Settings {
            name: name.into(),
            interface: "eth0".into(),
            vrid: Vrid::new(vrid).unwrap(),
            addresses: addresses.iter().map(address).collect(),
            priority: Priority::DEFAULT,
            interval: Interval::from_centis(10).unwrap(),
            preempt: true,
            preempt_delay: Duration::ZERO,
            unicast_peers: Vec::new(),
            source: None,
            checksum: ChecksumPolicy::Auto,
            sync_group: None,
            virtual_mac: false,
            garp_repeat: 5,
            garp_refresh: Duration::ZERO,
            track_interfaces: Vec::new(),
            notify: None,
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let one = settings("one", 1, &["10.0.0.1"]);
        let name = || String::from("one");
        let ip = |ip: &str| ip.parse::<IpAddr>().unwrap();
        let with = |change: fn(&mut Settings)| {
            let mut changed = one.clone();
            change(&mut changed);
            check(&[changed]).err()
        };
        assert_eq!(with(|_| ()), None);
        assert_eq!(with(|it| it.addresses.clear()), Some(Error::NoAddress(name())));
        let many = with(|it| {
            it.addresses = (0..256_u32)
                .map(|bits| Address { ip: IpAddr::V4(bits.into()), prefix: 24 })
                .collect();
        });
        assert_eq!(many, Some(Error::TooManyAddresses(name())));
        let twice = with(|it| it.addresses.push(it.addresses[0]));
        assert_eq!(twice, Some(Error::DuplicateAddress(name(), ip("10.0.0.1"))));
        let prefix = with(|it| it.addresses[0].prefix = 33);
        assert!(matches!(prefix, Some(Error::Prefix(..))));
        assert_eq!(with(|it| it.priority = Priority::RELEASE), Some(Error::Priority(name())));
        let peer = with(|it| it.unicast_peers.push("224.0.0.18".parse().unwrap()));
        assert_eq!(peer, Some(Error::Peer(name(), ip("224.0.0.18"))));
        let mixed = with(|it| it.unicast_peers.push("fe80::1".parse().unwrap()));
        assert_eq!(mixed, Some(Error::MixedFamilies(name())));
        for source in ["fe80::1", "224.0.0.18", "0.0.0.0"].map(ip) {
            let mut changed = one.clone();
            changed.source = Some(source);
            assert_eq!(check(&[changed]), Err(Error::Source(name(), source)));
        }
        let mixed = settings("one", 1, &["10.0.0.1", "fe80::1"]);
        assert_eq!(check(&[mixed]), Err(Error::MixedFamilies(name())));
        let mut six = settings("one", 1, &["fe80::1"]);
        six.interval = Interval::from_secs(1).unwrap();
        assert_eq!(check(&[six]), Err(Error::FamilyOfVersion(name())));

        let two = settings("two", 1, &["10.0.0.2"]);
        let error = check(&[one.clone(), two]).unwrap_err();
        assert_eq!(error, Error::DuplicateVrid(name(), "two".into()));
        assert_eq!(check(&[one.clone(), one.clone()]), Err(Error::DuplicateName(name())));
        // Families have identifiers of their own.
        let six = settings("six", 1, &["fe80::1"]);
        assert_eq!(check(&[one, six]), Ok(()));
    }

    #[test]
    fn adverts_go_to_the_group_or_to_peers() {
        let mut one = settings("one", 1, &["10.0.0.1"]);
        assert_eq!(one.destinations().collect::<Vec<_>>(), [Family::V4.group()]);
        one.unicast_peers = vec!["10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap()];
        assert_eq!(one.destinations().collect::<Vec<_>>(), one.unicast_peers);
    }
}
