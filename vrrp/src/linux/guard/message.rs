//! What the keeper tells the guard, one message a datagram.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::settings::Address;

/// A message to the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The process lives.
    Beat,
    /// This is held from now on; it replaces what was held with the same number.
    Hold(Holding),
    /// What has this number is held no longer.
    Release(u32),
    /// All is in order, and nothing is left to guard.
    GoodBye,
}

/// What a virtual router holds, and how it is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Number of the virtual router.
    pub id: u32,
    /// A process that is silent for so long stands still; whole milliseconds.
    pub patience: Duration,
    /// Index of the interface that has the addresses, and sends adverts.
    pub index: u32,
    /// Its name.
    pub interface: String,
    /// Whether that was made for a virtual MAC.
    pub virtual_mac: bool,
    /// The addresses.
    pub addresses: Vec<Address>,
    /// Where adverts come from.
    pub source: IpAddr,
    /// Adverts of priority 0, and where they go.
    pub farewells: Vec<(IpAddr, Vec<u8>)>,
}

const BEAT: u8 = 1;
const HOLD: u8 = 2;
const RELEASE: u8 = 3;
const GOOD_BYE: u8 = 4;

impl Message {
    /// The message as a datagram.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Beat => vec![BEAT],
            Self::GoodBye => vec![GOOD_BYE],
            Self::Release(id) => [&[RELEASE][..], &id.to_ne_bytes()].concat(),
            Self::Hold(holding) => {
                let mut out = vec![HOLD];
                out.extend(holding.id.to_ne_bytes());
                let patience = u32::try_from(holding.patience.as_millis()).unwrap_or(u32::MAX);
                out.extend(patience.to_ne_bytes());
                out.extend(holding.index.to_ne_bytes());
                put_octets(&mut out, holding.interface.as_bytes());
                out.push(u8::from(holding.virtual_mac));
                put_ip(&mut out, holding.source);
                put_length(&mut out, holding.addresses.len());
                for address in &holding.addresses {
                    put_ip(&mut out, address.ip);
                    out.push(address.prefix);
                }
                put_length(&mut out, holding.farewells.len());
                for (to, advert) in &holding.farewells {
                    put_ip(&mut out, *to);
                    put_octets(&mut out, advert);
                }
                out
            }
        }
    }

    /// The message in a datagram; `None` if it is none.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let mut rest = datagram;
        let message = match take::<1>(&mut rest)? {
            [BEAT] => Self::Beat,
            [GOOD_BYE] => Self::GoodBye,
            [RELEASE] => Self::Release(u32::from_ne_bytes(take(&mut rest)?)),
            [HOLD] => Self::Hold(Holding {
                id: u32::from_ne_bytes(take(&mut rest)?),
                patience: Duration::from_millis(u32::from_ne_bytes(take(&mut rest)?).into()),
                index: u32::from_ne_bytes(take(&mut rest)?),
                interface: String::from_utf8(take_octets(&mut rest)?.to_vec()).ok()?,
                virtual_mac: take::<1>(&mut rest)? != [0],
                source: take_ip(&mut rest)?,
                addresses: {
                    let count = take_length(&mut rest)?;
                    let mut one = || {
                        let ip = take_ip(&mut rest)?;
                        Some(Address { ip, prefix: u8::from_ne_bytes(take(&mut rest)?) })
                    };
                    (0..count).map(|_| one()).collect::<Option<_>>()?
                },
                farewells: {
                    let count = take_length(&mut rest)?;
                    let mut one = || Some((take_ip(&mut rest)?, take_octets(&mut rest)?.to_vec()));
                    (0..count).map(|_| one()).collect::<Option<_>>()?
                },
            }),
            [_] => return None,
        };
        rest.is_empty().then_some(message)
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    // Nothing here has more than a few hundred parts, or a few thousand octets.
    out.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
}

fn put_octets(out: &mut Vec<u8>, octets: &[u8]) {
    put_length(out, octets.len());
    out.extend(octets);
}

fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    let octets = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend(octets.octets());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    Some(u16::from_ne_bytes(take(rest)?).into())
}

fn take_octets<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_length(rest)?;
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// No interface has an IPv4-mapped address, so that these are IPv4.
fn take_ip(rest: &mut &[u8]) -> Option<IpAddr> {
    let ip = Ipv6Addr::from(take::<16>(rest)?);
    Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in_and_no_shorter() {
        let address = |text: &str, prefix| Address { ip: text.parse().unwrap(), prefix };
        let holding = Holding {
            id: 7,
            patience: Duration::from_millis(500),
            index: 3,
            interface: "eth0".to_owned(),
            virtual_mac: true,
            addresses: vec![address("10.0.0.100", 24), address("2001:db8::1", 64)],
            source: "10.0.0.1".parse().unwrap(),
            farewells: vec![("224.0.0.18".parse().unwrap(), vec![0x31, 51, 0])],
        };
        for message in
            [Message::Beat, Message::GoodBye, Message::Release(9), Message::Hold(holding)]
        {
            let datagram = message.encode();
            assert_eq!(Message::decode(&datagram), Some(message));
            for length in 0..datagram.len() {
                assert_eq!(Message::decode(&datagram[..length]), None);
            }
        }
        assert_eq!(Message::decode(&[9]), None);
    }
}
