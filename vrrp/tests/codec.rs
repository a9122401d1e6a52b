//! Adverts byte by byte: what others have sent, what the RFCs say, and any bytes whatever.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lockgate_vrrp::advert::{Addresses, Advert, Checksum, LONGEST, Packet, Rejected, Scope};
use lockgate_vrrp::types::{Family, Interval, Priority, Version, Vrid};
use proptest::prelude::*;

/// Bytes written as hexadecimal digits.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn packet<'a>(source: &str, destination: &str, payload: &'a [u8]) -> Packet<'a> {
    Packet { source: ip(source), destination: ip(destination), ttl: 255, payload }
}

/// What keepalived 2.2.7 put on the wire, from the version on.
const KEEPALIVED_V4: &str = "31 33 64 01 0064 7572 0a000064";
const KEEPALIVED_V6: &str = "31 33 64 02 0064 a38d
    fe80000000000000 00000000005e0100 20010db8000000000000000000000100";
const SENDER_V6: &str = "fe80::a4f1:93ff:feb5:626b";

#[test]
fn what_keepalived_sends_is_understood_and_sent_alike() {
    let v4 = hex(KEEPALIVED_V4);
    let arrived = packet("10.0.0.2", "224.0.0.18", &v4);
    let (advert, checksum) = Advert::decode(&arrived, Scope::Link).unwrap();
    assert_eq!((advert.vrid.get(), advert.priority.get()), (0x33, 100));
    assert_eq!((advert.version(), advert.interval.centis()), (Version::V3, 100));
    assert_eq!(advert.addresses.iter().collect::<Vec<_>>(), [ip("10.0.0.100")]);
    assert_eq!(checksum, Checksum::PseudoHeader);
    let mut buffer = [0xff; LONGEST];
    let length = advert.encode(arrived.source, arrived.destination, checksum, &mut buffer).unwrap();
    assert_eq!(buffer[..length], v4);

    let v6 = hex(KEEPALIVED_V6);
    let arrived = packet(SENDER_V6, "ff02::12", &v6);
    let (advert, checksum) = Advert::decode(&arrived, Scope::Link).unwrap();
    let addresses: Vec<_> = advert.addresses.iter().collect();
    assert_eq!(addresses, [ip("fe80::5e:100"), ip("2001:db8::100")]);
    assert_eq!(checksum, Checksum::Rfc9568);
    let length = advert.encode(arrived.source, arrived.destination, checksum, &mut buffer).unwrap();
    assert_eq!(buffer[..length], v6);
}

/// Bytes from the specification of an authentication that keepalived 2.4 appends, without that: of
/// IPv4 with the checksum of RFC 9568.
#[test]
fn the_checksum_of_rfc_9568_is_over_the_message() {
    let bytes = hex("3133c80100644402c0000264");
    let arrived = packet("198.51.100.10", "224.0.0.18", &bytes);
    let (advert, checksum) = Advert::decode(&arrived, Scope::Link).unwrap();
    assert_eq!((advert.priority.get(), checksum), (200, Checksum::Rfc9568));
    assert_eq!(advert.addresses.iter().collect::<Vec<_>>(), [ip("192.0.2.100")]);
}

#[test]
fn fields_lie_where_the_rfcs_put_them() {
    let addresses = [192, 0, 2, 1, 192, 0, 2, 2];
    let mut advert = Advert {
        vrid: Vrid::new(7).unwrap(),
        priority: Priority::new(201),
        interval: Interval::from_centis(0x0abc).unwrap(),
        addresses: Addresses::from_wire(Family::V4, &addresses).unwrap(),
    };
    let mut buffer = [0xff; 64];
    let (source, destination) = (ip("192.0.2.9"), ip("224.0.0.18"));
    let mut encode = |advert: &Advert<'_>| {
        let length = advert.encode(source, destination, Checksum::Rfc9568, &mut buffer).unwrap();
        assert_eq!(length, advert.octets());
        buffer[..length].to_vec()
    };
    let bytes = encode(&advert);
    assert_eq!(bytes[..6], [0x31, 7, 201, 2, 0x0a, 0xbc]);
    assert_eq!((&bytes[8..], bytes.len()), (&addresses[..], 16));

    advert.interval = Interval::from_secs(3).unwrap();
    let bytes = encode(&advert);
    assert_eq!(bytes[..6], [0x21, 7, 201, 2, 0, 3]);
    assert_eq!((&bytes[8..16], &bytes[16..]), (&addresses[..], &[0; 8][..]));
}

#[test]
fn the_checksum_has_three_forms_and_the_one_used_is_told() {
    let addresses = [192, 0, 2, 1];
    let advert = Advert {
        vrid: Vrid::new(1).unwrap(),
        priority: Priority::DEFAULT,
        interval: Interval::from_centis(100).unwrap(),
        addresses: Addresses::from_wire(Family::V4, &addresses).unwrap(),
    };
    let mut buffer = [0; 16];
    for (destination, accepted) in [("224.0.0.18", 2), ("192.0.2.8", 3)] {
        let forms = [Checksum::Rfc9568, Checksum::PseudoHeader, Checksum::GroupPseudoHeader];
        for form in &forms[..accepted] {
            let length =
                advert.encode(ip("192.0.2.9"), ip(destination), *form, &mut buffer).unwrap();
            let arrived = packet("192.0.2.9", destination, &buffer[..length]);
            assert_eq!(Advert::decode(&arrived, Scope::Link), Ok((advert, *form)));
        }
    }
    assert_eq!(advert.encode(ip("192.0.2.9"), ip("192.0.2.8"), Checksum::Rfc9568, &mut []), None);
}

/// Sets the checksum of a message without a pseudo header.
fn seal(bytes: &mut [u8]) {
    bytes[6..8].fill(0);
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.fold(0, |sum, word| (sum + word) % 0xffff);
    bytes[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[test]
fn each_check_has_its_reason_and_its_place() {
    let reason = |bytes: &[u8], ttl: u8, scope: Scope| {
        let packet = Packet { ttl, ..packet("192.0.2.9", "224.0.0.18", bytes) };
        Advert::decode(&packet, scope).err()
    };
    let with = |original: &[u8], offset: usize, value: u8| {
        let mut bytes = original.to_vec();
        bytes[offset] = value;
        seal(&mut bytes);
        reason(&bytes, 255, Scope::Link)
    };
    let mut v3 = hex("31 01 64 01 0064 0000 c0000201");
    let mut v2 = hex("21 01 64 01 0001 0000 c0000201 0000000000000000");
    seal(&mut v3);
    seal(&mut v2);
    for good in [&v3, &v2] {
        assert_eq!(reason(good, 255, Scope::Link), None);
        assert_eq!(reason(good, 254, Scope::Link), Some(Rejected::Ttl));
        assert_eq!(reason(good, 1, Scope::Routed), None);
        for version in [0, 1, 4, 15] {
            assert_eq!(with(good, 0, version << 4 | 1), Some(Rejected::Version));
        }
        for length in 0..good.len() {
            assert_eq!(reason(&good[..length], 255, Scope::Link), Some(Rejected::Length));
        }
        let mut longer = good.clone();
        longer.extend([0; 4]);
        assert_eq!(reason(&longer, 255, Scope::Link), Some(Rejected::Length));
        assert_eq!(with(good, 3, 2), Some(Rejected::Length));
        let mut broken = good.clone();
        broken[7] ^= 1;
        assert_eq!(reason(&broken, 255, Scope::Link), Some(Rejected::Checksum));
        assert_eq!(with(good, 1, 0), Some(Rejected::Vrid));
        for kind in [0, 2, 15] {
            assert_eq!(with(good, 0, good[0] & 0xf0 | kind), Some(Rejected::Type));
        }
        assert_eq!(with(good, 5, 0), Some(Rejected::Interval));
    }
    let mut empty = hex("31 01 64 00 0064 0000");
    seal(&mut empty);
    assert_eq!(reason(&empty, 255, Scope::Link), Some(Rejected::AddressCount));
    assert_eq!(with(&v2, 4, 1), Some(Rejected::Auth));
    assert_eq!(with(&v3, 4, 0xf0), None, "reserved bits are ignored");
    // Of two faults the first is told.
    v3[0] = 0x41;
    assert_eq!(reason(&v3[..5], 254, Scope::Link), Some(Rejected::Ttl));
    assert_eq!(reason(&v3[..5], 255, Scope::Link), Some(Rejected::Version));
}

#[test]
fn version_2_has_no_ipv6() {
    let mut bytes = hex("21 01 64 01 0001 0000");
    bytes.extend([0; 24]);
    seal(&mut bytes);
    let packet = packet("fe80::1", "ff02::12", &bytes);
    assert_eq!(Advert::decode(&packet, Scope::Link), Err(Rejected::Version));
}

#[test]
fn reasons_have_names_of_their_own() {
    let mut names: Vec<_> = Rejected::ALL.into_iter().map(Rejected::as_str).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Rejected::ALL.len());
    for (index, reason) in Rejected::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
    }
}

#[test]
fn address_sets_are_compared_in_any_order() {
    let addresses = |wire| Addresses::from_wire(Family::V4, wire).unwrap();
    let own = addresses(&[1, 1, 1, 1, 2, 2, 2, 2]);
    assert!(own.is_same_set(addresses(&[2, 2, 2, 2, 1, 1, 1, 1])));
    assert!(!own.is_same_set(addresses(&[2, 2, 2, 2, 2, 2, 2, 2])));
    assert!(!own.is_same_set(addresses(&[1, 1, 1, 1])));
    assert_eq!(Addresses::from_wire(Family::V4, &[0; 5]), None);
    assert_eq!(Addresses::from_wire(Family::V6, &[0; 16 * 256]), None);
    assert!(addresses(&[]).is_empty());
}

/// What keepalived 2.4 appends with `auth_hmac`, and what others might: it is named, so that nobody
/// looks for a mistake in the length.
#[test]
fn authentication_behind_an_advert_is_known_as_such() {
    const TRAILER: &str = "010100006800000080000000 1b84bc4e8e43892dc6d98448f8ee2265";
    let reason = |source: &str, bytes: &[u8]| {
        let group = if source.contains(':') { "ff02::12" } else { "224.0.0.18" };
        Advert::decode(&packet(source, group, bytes), Scope::Link).unwrap_err()
    };
    // The checksum is over the advert alone, with IPv6 over the trailer too.
    let signed = hex(&format!("3133c80100644402c0000264 {TRAILER}"));
    assert_eq!(reason("198.51.100.10", &signed), Rejected::Auth);
    let v6 = "3133c8010064 0000 fe800000000000000000000000000100";
    let mut signed_v6 = hex(&format!("{v6} {TRAILER}"));
    // The kernel fills it in: take what is right from an advert that is sent with it.
    let sum = signed_v6.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let ends = ["fe80::10", "ff02::12"].map(|end| match ip(end) {
        IpAddr::V6(end) => end.segments().map(u32::from).iter().sum::<u32>(),
        IpAddr::V4(_) => unreachable!("IPv6"),
    });
    let mut sum = sum.sum::<u32>() + ends[0] + ends[1] + 112 + signed_v6.len() as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    signed_v6[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    assert_eq!(reason("fe80::10", &signed_v6), Rejected::Auth);
    let mut v2 = hex(&format!("21 01 64 01 0001 0000 c0000201 0000000000000000 {TRAILER}"));
    let mut advert = v2[..20].to_vec();
    seal(&mut advert);
    v2[..20].copy_from_slice(&advert);
    assert_eq!(reason("198.51.100.10", &v2), Rejected::Auth);
    // Of version 2 with a type that has more data than RFC 2338 knew.
    let mut typed = hex("21 01 64 01 fe01 0000 c0000201 0000000000000000 00000000");
    seal(&mut typed);
    assert_eq!(reason("198.51.100.10", &typed), Rejected::Auth);

    // Less than any authentication needs, or behind no advert that is as it was sent.
    assert_eq!(reason("198.51.100.10", &signed[..12 + 15]), Rejected::Length);
    let mut broken = signed;
    broken[2] ^= 1;
    assert_eq!(reason("198.51.100.10", &broken), Rejected::Length);
}

/// What an advert may be, with its way.
#[derive(Clone, Debug)]
struct Any {
    vrid: Vrid,
    priority: Priority,
    interval: Interval,
    family: Family,
    wire: Vec<u8>,
    source: IpAddr,
    destination: IpAddr,
    checksum: Checksum,
}

impl Any {
    fn advert(&self) -> Advert<'_> {
        let addresses = Addresses::from_wire(self.family, &self.wire).unwrap();
        let Self { vrid, priority, interval, .. } = *self;
        Advert { vrid, priority, interval, addresses }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut buffer = vec![0xff; LONGEST];
        let advert = self.advert();
        let length =
            advert.encode(self.source, self.destination, self.checksum, &mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    fn decode<'a>(&self, payload: &'a [u8]) -> Result<(Advert<'a>, Checksum), Rejected> {
        let Self { source, destination, .. } = *self;
        Advert::decode(&Packet { source, destination, ttl: 255, payload }, Scope::Link)
    }
}

fn any_advert() -> impl Strategy<Value = Any> {
    let interval = prop_oneof![
        (1..=4_095_u16).prop_map(|centis| Interval::from_centis(centis).unwrap()),
        (1..=255_u8).prop_map(|secs| Interval::from_secs(secs).unwrap()),
    ];
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let most = prop_oneof![4 => 1..5_usize, 1 => 5..=255_usize];
    (interval, family, most, any::<(u8, u8, u128, u128, bool, bool)>())
        .prop_flat_map(|(interval, family, count, fields)| {
            let family = if interval.version() == Version::V2 { Family::V4 } else { family };
            let wire = prop::collection::vec(any::<u8>(), count * family.octets());
            (Just((interval, family, fields)), wire)
        })
        .prop_map(|((interval, family, fields), wire)| {
            let (vrid, priority, source, destination, multicast, pseudo) = fields;
            let address = |bits: u128| match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(bits as u32 & 0x7fff_ffff)),
                Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits >> 1)),
            };
            let pseudo = pseudo && family == Family::V4 && interval.version() == Version::V3;
            Any {
                vrid: Vrid::new(vrid.max(1)).unwrap(),
                priority: Priority::new(priority),
                interval,
                family,
                wire,
                source: address(source),
                destination: if multicast { family.group() } else { address(destination) },
                checksum: if pseudo { Checksum::PseudoHeader } else { Checksum::Rfc9568 },
            }
        })
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn what_is_sent_arrives(any in any_advert()) {
        let bytes = any.bytes();
        prop_assert_eq!(bytes.len(), any.advert().octets());
        let (advert, _) = any.decode(&bytes).unwrap();
        prop_assert_eq!(advert, any.advert());
        for room in 0..bytes.len().min(40) {
            let advert = any.advert();
            let none = advert.encode(any.source, any.destination, any.checksum, &mut vec![0; room]);
            prop_assert_eq!(none, None);
        }
    }

    /// But where the two checksums of version 3 over IPv4 differ by that very bit: it then arrives
    /// as one with the other checksum.
    #[test]
    fn no_bit_can_fall_over_unnoticed(any in any_advert(), bit in any::<prop::sample::Index>()) {
        let mut bytes = any.bytes();
        let form = any.decode(&bytes).unwrap().1;
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok((_, other)) = any.decode(&bytes) {
            prop_assert_ne!(other, form);
        }
    }
}

#[test]
fn no_bit_of_what_was_captured_can_fall_over_unnoticed() {
    for (bytes, source, group) in [
        (hex(KEEPALIVED_V4), "10.0.0.2", "224.0.0.18"),
        (hex(KEEPALIVED_V6), SENDER_V6, "ff02::12"),
    ] {
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let arrived = packet(source, group, &bytes);
            assert!(Advert::decode(&arrived, Scope::Link).is_err(), "bit {bit}");
        }
    }
}

proptest! {
    #![proptest_config(cases(100_000))]

    /// Of random bytes, most with a first octet and a length that are looked at further.
    #[test]
    fn any_bytes_are_refused_or_are_an_advert(
        mut bytes in prop::collection::vec(any::<u8>(), 0..64),
        first in prop_oneof![Just(None), Just(Some(0x21)), Just(Some(0x31))],
        sealed in any::<bool>(),
        family in any::<bool>(),
        ttl in prop_oneof![Just(255), any::<u8>()],
    ) {
        if let (Some(first), [version, _, _, count, ..]) = (first, bytes.as_mut_slice()) {
            *version = first;
            *count %= 8;
            let octets = if family { 4 } else { 16 };
            let auth = if first == 0x21 { 8 } else { 0 };
            bytes.resize(8 + usize::from(bytes[3]) * octets + auth, 0xa5);
            if sealed {
                seal(&mut bytes);
            }
        }
        let (source, destination) =
            if family { ("192.0.2.9", "224.0.0.18") } else { (SENDER_V6, "ff02::12") };
        let packet = Packet { ttl, ..packet(source, destination, &bytes) };
        if let Ok((advert, checksum)) = Advert::decode(&packet, Scope::Link) {
            prop_assert_eq!(advert.octets(), bytes.len());
            prop_assert!(!advert.addresses.is_empty());
            let mut buffer = [0; LONGEST];
            let length =
                advert.encode(packet.source, packet.destination, checksum, &mut buffer).unwrap();
            let again = Packet { payload: &buffer[..length], ..packet };
            prop_assert_eq!(Advert::decode(&again, Scope::Link).map(|(advert, _)| advert), Ok(advert));
        }
    }
}
