//! What the watcher can tell apart of the frames on the wire.

use std::net::Ipv4Addr;

use crate::network::Mac;

/// A frame that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A VRRP advertisement (RFC 9568, 5.1).
    Advert { from: Ipv4Addr, priority: u8 },
    /// A gratuitous ARP, request or reply: the sender says that it has the address.
    Announcement { address: Ipv4Addr, mac: Mac },
    /// An answer to an ARP request.
    Answer { address: Ipv4Addr, mac: Mac },
}

impl Seen {
    /// Reads an Ethernet frame.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let payload = frame.get(14..)?;
        match frame.get(12..14)? {
            [0x08, 0x00] => Self::ipv4(payload),
            [0x08, 0x06] => Self::arp(payload),
            _ => None,
        }
    }

    fn ipv4(packet: &[u8]) -> Option<Self> {
        const VRRP: u8 = 112;
        let header = usize::from(*packet.first()? & 0x0f) * 4;
        if *packet.get(9)? != VRRP {
            return None;
        }
        let priority = *packet.get(header + 2)?;
        Some(Self::Advert { from: address(packet.get(12..16)?)?, priority })
    }

    fn arp(packet: &[u8]) -> Option<Self> {
        const REPLY: u8 = 2;
        let mac = packet.get(8..14)?.try_into().ok()?;
        let sender = address(packet.get(14..18)?)?;
        let target = address(packet.get(24..28)?)?;
        if sender == target {
            return Some(Self::Announcement { address: sender, mac });
        }
        (*packet.get(7)? == REPLY).then_some(Self::Answer { address: sender, mac })
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// An ARP request, as an Ethernet frame to everybody.
pub fn arp_request(mac: Mac, sender: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(wanted.octets());
    frame
}

/// An ICMP echo request (RFC 792).
pub fn echo_request(identifier: u16, sequence: u16) -> [u8; 8] {
    let [i, d] = identifier.to_be_bytes();
    let [s, q] = sequence.to_be_bytes();
    let mut packet = [8, 0, 0, 0, i, d, s, q];
    let sum =
        packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let [high, low] = (!(folded as u16)).to_be_bytes();
    (packet[2], packet[3]) = (high, low);
    packet
}

/// The sequence number of the echo request of ours that an IPv4 packet answers.
pub fn echo_reply(packet: &[u8], identifier: u16) -> Option<u16> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let [i, d] = identifier.to_be_bytes();
    match *packet.get(header..)? {
        [0, 0, _, _, a, b, s, q, ..] if (a, b) == (i, d) => Some(u16::from_be_bytes([s, q])),
        _ => None,
    }
}
