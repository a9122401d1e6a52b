//! Adverts, byte by byte: version 3 of RFC 9568, section 5, and version 2 of RFC 3768, section 5.
//!
//! [`crate::Router`] calls it for each packet that arrives and for each advert that leaves. Any
//! bytes whatever may arrive. Nothing here allocates, panics, or knows what is configured: what
//! depends on that is checked where it is known.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::types::{Family, Interval, Priority, Version, Vrid};

/// The IP protocol, or next header, of adverts.
pub const PROTOCOL: u8 = 112;

/// Octets of the longest advert: 255 addresses of IPv6.
pub const LONGEST: usize = HEADER + 255 * 16;

/// Octets before the addresses.
const HEADER: usize = 8;

/// Octets after the addresses in version 2, whatever the authentication (RFC 3768, section 5.3.10).
const AUTH_DATA: usize = 8;

/// The only type of packet there is.
const ADVERTISEMENT: u8 = 1;

/// Why an advert was not taken. The order is that of the checks: RFC 9568, section 7.1, and what
/// goes beyond it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejected {
    /// It has passed a router: its TTL or hop limit is not 255.
    Ttl,
    /// Another version than the one that is spoken, or none there is.
    Version,
    /// Longer or shorter than its count of addresses says.
    Length,
    /// The checksum is wrong in each of its forms.
    Checksum,
    /// No virtual router here has this identifier.
    Vrid,
    /// No advertisement.
    Type,
    /// No address.
    AddressCount,
    /// An interval of 0, or in version 2 one that is not ours.
    Interval,
    /// Authentication, of which there is none here: in version 2 a type (RFC 3768 has removed it), in
    /// both a trailer behind the advert (`auth_hmac` of keepalived).
    Auth,
    /// Sent to the group while peers are configured, or the reverse.
    Destination,
    /// The sender has our own address.
    OwnSource,
    /// The sender is none of the peers that are configured.
    NotAPeer,
    /// In version 2, other addresses than ours, from a router that does not own them.
    AddressList,
    /// Over IPv6, the first address is not link-local (RFC 9568, section 5.2.9).
    FirstAddress,
}

impl Rejected {
    /// All of them, in order.
    pub const ALL: [Self; 14] = [
        Self::Ttl,
        Self::Version,
        Self::Length,
        Self::Checksum,
        Self::Vrid,
        Self::Type,
        Self::AddressCount,
        Self::Interval,
        Self::Auth,
        Self::Destination,
        Self::OwnSource,
        Self::NotAPeer,
        Self::AddressList,
        Self::FirstAddress,
    ];

    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Version => "version",
            Self::Length => "length",
            Self::Checksum => "checksum",
            Self::Vrid => "vrid",
            Self::Type => "type",
            Self::AddressCount => "address_count",
            Self::Interval => "interval",
            Self::Auth => "auth",
            Self::Destination => "destination",
            Self::OwnSource => "own_source",
            Self::NotAPeer => "not_a_peer",
            Self::AddressList => "address_list",
            Self::FirstAddress => "first_address",
        }
    }
}

/// What a checksum is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// What RFC 9568, section 5.2.8, says: the message, and over IPv6 a pseudo header too. In
    /// version 2, the message.
    Rfc9568,
    /// In version 3 over IPv4, a pseudo header as well, which is how keepalived and FRR read
    /// RFC 5798.
    PseudoHeader,
    /// The same with the group as destination though sent to a peer: keepalived up to 1.3.6.
    GroupPseudoHeader,
}

impl Checksum {
    /// The name, as `checksum` of a configuration has it where it can be chosen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rfc9568 => "rfc9568",
            Self::PseudoHeader => "pseudo_header",
            Self::GroupPseudoHeader => "group_pseudo_header",
        }
    }
}

/// From how far away a packet may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The same link: the TTL must be 255, which nobody farther away can send (RFC 5082).
    Link,
    /// Beyond routers, so that the TTL says nothing.
    Routed,
}

/// A packet as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Sender in the IP header.
    pub source: IpAddr,
    /// Destination in the IP header.
    pub destination: IpAddr,
    /// TTL or hop limit in the IP header.
    pub ttl: u8,
    /// What follows the IP header, as long as that says: without what pads an Ethernet frame.
    pub payload: &'a [u8],
}

/// The addresses of an advert, in the form that they are sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses<'a> {
    family: Family,
    wire: &'a [u8],
}

impl<'a> Addresses<'a> {
    /// Addresses in network order, one after the other; `None` unless they are whole, and at most
    /// 255.
    pub const fn from_wire(family: Family, wire: &'a [u8]) -> Option<Self> {
        let whole = wire.len().is_multiple_of(family.octets());
        if whole && wire.len() / family.octets() <= 255 {
            Some(Self { family, wire })
        } else {
            None
        }
    }

    /// How many there are, at most 255.
    pub const fn len(self) -> usize {
        self.wire.len() / self.family.octets()
    }

    /// The address that is sent first.
    pub fn first(self) -> Option<IpAddr> {
        self.iter().next()
    }

    /// Whether there are none, which no router may send.
    pub const fn is_empty(self) -> bool {
        self.wire.is_empty()
    }

    /// Their family.
    pub const fn family(self) -> Family {
        self.family
    }

    /// The addresses, in the order that they are sent in.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> + Clone + use<'a> {
        self.wire.chunks_exact(self.family.octets()).map(|octets| match *octets {
            [a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            _ => {
                let mut address = [0; 16];
                address.copy_from_slice(octets);
                IpAddr::V6(Ipv6Addr::from(address))
            }
        })
    }

    /// Whether the other has the same addresses, in any order. Each address is there once in
    /// `self`.
    pub fn is_same_set(self, other: Self) -> bool {
        let octets = self.family.octets();
        self == other
            || (self.family == other.family
                && self.wire.len() == other.wire.len()
                && self
                    .wire
                    .chunks_exact(octets)
                    .all(|one| other.wire.chunks_exact(octets).any(|another| one == another)))
    }
}

/// An advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert<'a> {
    /// Identifier of the virtual router.
    pub vrid: Vrid,
    /// Priority of the sender; [`Priority::RELEASE`] if it steps down.
    pub priority: Priority,
    /// Time until the next advert. It is of the version that is spoken.
    pub interval: Interval,
    /// The addresses that the sender answers for; never none in an advert that was received.
    pub addresses: Addresses<'a>,
}

impl<'a> Advert<'a> {
    /// Version of the protocol.
    pub const fn version(&self) -> Version {
        self.interval.version()
    }

    /// Octets of the advert.
    pub const fn octets(&self) -> usize {
        length(self.version(), self.addresses.family, self.addresses.len())
    }

    /// Writes the advert and says how long it is; `None` if there is no room for
    /// [`Advert::octets`]. The ends of its way are needed for some of the checksums.
    pub fn encode(
        &self,
        source: IpAddr,
        destination: IpAddr,
        checksum: Checksum,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let message = buffer.get_mut(..self.octets())?;
        message.fill(0);
        let (version, interval) = match self.interval.secs() {
            Some(secs) => (2, [0, secs]),
            None => (3, self.interval.centis().to_be_bytes()),
        };
        message[0] = version << 4 | ADVERTISEMENT;
        message[1] = self.vrid.get();
        message[2] = self.priority.get();
        // At most 255, or there would be no `Addresses`.
        message[3] = u8::try_from(self.addresses.len()).ok()?;
        message[4..6].copy_from_slice(&interval);
        message[HEADER..][..self.addresses.wire.len()].copy_from_slice(self.addresses.wire);
        let ends = covered(self.version(), checksum, source, destination);
        let sum = !fold(sum(message) + ends.map_or(0, |(a, b)| pseudo(a, b, message.len())));
        message[6..8].copy_from_slice(&sum.to_be_bytes());
        Some(message.len())
    }

    /// The advert in a packet, and the form of its checksum: [`Message::verify`] and
    /// [`Message::advert`] at once.
    ///
    /// # Errors
    ///
    /// The first check that it fails.
    pub fn decode(packet: &Packet<'a>, scope: Scope) -> Result<(Self, Checksum), Rejected> {
        let message = Message::verify(packet, scope)?;
        Ok((message.advert()?, message.checksum()))
    }
}

/// A packet that arrived as it was sent: of a known version, of the right length and with a right
/// checksum. Whether it is meant for us is yet to be found out.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    version: Version,
    family: Family,
    checksum: Checksum,
    octets: &'a [u8],
}

impl<'a> Message<'a> {
    /// The checks that come before the identifier is looked at: TTL, version, length, checksum.
    ///
    /// # Errors
    ///
    /// [`Rejected::Ttl`], [`Rejected::Version`], [`Rejected::Length`] or [`Rejected::Checksum`],
    /// whichever comes first.
    pub fn verify(packet: &Packet<'a>, scope: Scope) -> Result<Self, Rejected> {
        let (octets, family) = (packet.payload, Family::of(packet.source));
        if scope == Scope::Link && packet.ttl != 255 {
            return Err(Rejected::Ttl);
        }
        let version = match (octets.first().ok_or(Rejected::Length)? >> 4, family) {
            (2, Family::V4) => Version::V2,
            (3, Family::V4 | Family::V6) => Version::V3,
            _ => return Err(Rejected::Version),
        };
        let count = *octets.get(3).ok_or(Rejected::Length)?;
        let right = length(version, family, usize::from(count));
        if octets.len() != right {
            let signed = is_signed(packet, version, octets.len().saturating_sub(right), right);
            return Err(if signed { Rejected::Auth } else { Rejected::Length });
        }
        let checksum = find_checksum(packet, version, octets).ok_or(Rejected::Checksum)?;
        Ok(Self { version, family, checksum, octets })
    }

    /// Version of the protocol.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The identifier that it is for; `None` if it is 0, which is nobody's.
    pub const fn vrid(&self) -> Option<Vrid> {
        Vrid::new(self.octets[1])
    }

    /// The form of the checksum.
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// The advert in it: the checks of what it says.
    ///
    /// # Errors
    ///
    /// [`Rejected::Vrid`], [`Rejected::Type`], [`Rejected::AddressCount`], [`Rejected::Interval`] or
    /// [`Rejected::Auth`], whichever comes first.
    pub fn advert(&self) -> Result<Advert<'a>, Rejected> {
        let octets = self.octets;
        let vrid = self.vrid().ok_or(Rejected::Vrid)?;
        if octets[0] & 0x0f != ADVERTISEMENT {
            return Err(Rejected::Type);
        }
        let wire = &octets[HEADER..][..usize::from(octets[3]) * self.family.octets()];
        let addresses =
            Addresses::from_wire(self.family, wire).filter(|addresses| !addresses.is_empty());
        let addresses = addresses.ok_or(Rejected::AddressCount)?;
        let interval = match self.version {
            Version::V2 => Interval::from_secs(octets[5]),
            // The four bits before it are reserved, and ignored.
            Version::V3 => Interval::from_centis(u16::from_be_bytes([octets[4] & 0x0f, octets[5]])),
        };
        let interval = interval.ok_or(Rejected::Interval)?;
        if self.version == Version::V2 && octets[4] != 0 {
            return Err(Rejected::Auth);
        }
        Ok(Advert { vrid, priority: Priority::new(octets[2]), interval, addresses })
    }
}

/// The shortest trailer that can be authentication: 128 bits, of which no less is any good.
const SHORTEST_TRAILER: usize = 16;

/// Whether a packet that is longer by `more` than the `right` length bears authentication behind an
/// advert that is as it was sent. The checksum may be over either.
fn is_signed(packet: &Packet<'_>, version: Version, more: usize, right: usize) -> bool {
    let typed = version == Version::V2 && packet.payload.get(4).is_some_and(|kind| *kind != 0);
    (more >= SHORTEST_TRAILER || (typed && more > 0))
        && [right, packet.payload.len()].into_iter().any(|length| {
            let octets = packet.payload.get(..length).unwrap_or_default();
            find_checksum(packet, version, octets).is_some()
        })
}

/// The forms that a checksum may have in a packet.
fn forms(packet: &Packet<'_>, version: Version) -> &'static [Checksum] {
    match (version, Family::of(packet.source)) {
        (Version::V2, _) | (Version::V3, Family::V6) => &[Checksum::Rfc9568],
        (Version::V3, Family::V4) if packet.destination.is_multicast() => {
            &[Checksum::Rfc9568, Checksum::PseudoHeader]
        }
        (Version::V3, Family::V4) => {
            &[Checksum::Rfc9568, Checksum::PseudoHeader, Checksum::GroupPseudoHeader]
        }
    }
}

/// The sum of octets of a packet, and of the pseudo header that goes with this form.
fn sum_as(packet: &Packet<'_>, version: Version, form: Checksum, octets: &[u8]) -> u16 {
    let ends = covered(version, form, packet.source, packet.destination);
    fold(sum(octets) + ends.map_or(0, |(a, b)| pseudo(a, b, octets.len())))
}

/// The form in which the checksum of these octets of a packet is right.
fn find_checksum(packet: &Packet<'_>, version: Version, octets: &[u8]) -> Option<Checksum> {
    let is_right = |form: &&Checksum| sum_as(packet, version, **form, octets) == 0xffff;
    forms(packet, version).iter().find(is_right).copied()
}

/// The version that a packet says it is of; 3 if there is none such.
pub(crate) fn claimed_version(packet: &Packet<'_>) -> Version {
    match packet.payload.first().map(|first| first >> 4) {
        Some(2) => Version::V2,
        _ => Version::V3,
    }
}

/// The checksums that would be right for a packet, one for each form that it may have.
pub(crate) fn right_checksums(packet: &Packet<'_>) -> impl Iterator<Item = (Checksum, u16)> {
    let version = claimed_version(packet);
    let received = packet.payload.get(6..8).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    forms(packet, version).iter().map(move |form| {
        // Without what it has: one's complement takes away by adding the complement.
        let rest = u32::from(sum_as(packet, version, *form, packet.payload)) + u32::from(!received);
        (*form, !fold(rest))
    })
}

/// Octets of an advert with so many addresses.
pub(crate) const fn length(version: Version, family: Family, addresses: usize) -> usize {
    let auth = match version {
        Version::V2 => AUTH_DATA,
        Version::V3 => 0,
    };
    HEADER + addresses * family.octets() + auth
}

/// The addresses of the pseudo header that this checksum is over, if there is one.
fn covered(
    version: Version,
    checksum: Checksum,
    source: IpAddr,
    destination: IpAddr,
) -> Option<(IpAddr, IpAddr)> {
    match (version, Family::of(source), checksum) {
        (Version::V2, _, _) | (Version::V3, Family::V4, Checksum::Rfc9568) => None,
        (Version::V3, Family::V4, Checksum::GroupPseudoHeader) => {
            Some((source, Family::V4.group()))
        }
        (Version::V3, Family::V4, Checksum::PseudoHeader) | (Version::V3, Family::V6, _) => {
            Some((source, destination))
        }
    }
}

/// Sum of the 16-bit words of a pseudo header (RFC 8200, section 8.1; that of IPv4 has the same
/// sum). No message is long enough for an overflow.
fn pseudo(source: IpAddr, destination: IpAddr, octets: usize) -> u32 {
    let sum_of = |address| match address {
        IpAddr::V4(address) => sum(&Ipv4Addr::octets(&address)),
        IpAddr::V6(address) => sum(&Ipv6Addr::octets(&address)),
    };
    sum_of(source) + sum_of(destination) + u32::from(PROTOCOL) + octets as u32
}

/// Sum of the 16-bit words (RFC 1071). Every message is a whole number of them; of anything else
/// the last octet would count as if a zero followed.
fn sum(octets: &[u8]) -> u32 {
    let words = octets.chunks(2);
    words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low))).sum()
}

/// The sum with its carries added in.
const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}
