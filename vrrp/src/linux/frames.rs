//! The frames that tell neighbours whose an address is now.
//!
//! IPv4 (RFC 5227, section 3; RFC 9568, section 8.1.2): a gratuitous ARP request, with a target
//! hardware address of all ones as keepalived sends it. Linux takes it over an entry that it has,
//! which it does with a reply only if the entry is older than a second, or both of the reply's
//! hardware addresses are the same: such a reply follows, for stacks that heed replies alone.
//!
//! IPv6 (RFC 4861, section 7.2.6): an unsolicited neighbour advertisement to all nodes, with the
//! override flag.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, MutableArpPacket};
use pnet::packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet::packet::icmpv6::ndp::{MutableNeighborAdvertPacket, NdpOptionTypes};
use pnet::packet::icmpv6::{self, Icmpv6Packet, Icmpv6Types};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::util::MacAddr;

const ETHERNET: usize = 14;
const ARP: usize = 28;
const IPV6: usize = 40;
/// A neighbour advertisement with one option, a link-layer address.
const ADVERTISEMENT: usize = 24 + 8;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Frames of one announcement of an address: the hardware address is that of the interface, and
/// `routes` says whether the host forwards packets of the family there, as neighbours remember it.
pub fn announcement(ip: IpAddr, mac: [u8; 6], routes: bool) -> Vec<Vec<u8>> {
    let mac = MacAddr::from(mac);
    match ip {
        IpAddr::V4(ip) => [arp(ip, mac, true), arp(ip, mac, false)].into_iter().flatten().collect(),
        IpAddr::V6(ip) => neighbour_advertisement(ip, mac, routes).into_iter().collect(),
    }
}

fn ethernet(buffer: &mut [u8], to: MacAddr, from: MacAddr, kind: EtherType) -> Option<()> {
    let mut frame = MutableEthernetPacket::new(buffer)?;
    frame.set_destination(to);
    frame.set_source(from);
    frame.set_ethertype(kind);
    Some(())
}

/// `None` cannot be: there is room.
fn arp(ip: Ipv4Addr, mac: MacAddr, request: bool) -> Option<Vec<u8>> {
    let mut buffer = vec![0; ETHERNET + ARP];
    ethernet(&mut buffer, MacAddr::broadcast(), mac, EtherTypes::Arp)?;
    let mut arp = MutableArpPacket::new(&mut buffer[ETHERNET..])?;
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(if request { ArpOperations::Request } else { ArpOperations::Reply });
    arp.set_sender_hw_addr(mac);
    arp.set_sender_proto_addr(ip);
    arp.set_target_hw_addr(if request { MacAddr::broadcast() } else { mac });
    arp.set_target_proto_addr(ip);
    Some(buffer)
}

fn neighbour_advertisement(ip: Ipv6Addr, mac: MacAddr, routes: bool) -> Option<Vec<u8>> {
    /// Flags of RFC 4861, section 4.4.
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    let mut buffer = vec![0; ETHERNET + IPV6 + ADVERTISEMENT];
    ethernet(&mut buffer, MacAddr::new(0x33, 0x33, 0, 0, 0, 1), mac, EtherTypes::Ipv6)?;
    let mut packet = MutableIpv6Packet::new(&mut buffer[ETHERNET..])?;
    packet.set_version(6);
    packet.set_payload_length(u16::try_from(ADVERTISEMENT).ok()?);
    packet.set_next_header(IpNextHeaderProtocols::Icmpv6);
    packet.set_hop_limit(255);
    packet.set_source(ip);
    packet.set_destination(ALL_NODES);
    let message = &mut buffer[ETHERNET + IPV6..];
    let mut advert = MutableNeighborAdvertPacket::new(message)?;
    advert.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
    advert.set_flags(if routes { ROUTER | OVERRIDE } else { OVERRIDE });
    advert.set_target_addr(ip);
    // Length is in units of eight octets.
    message[24..26].copy_from_slice(&[NdpOptionTypes::TargetLLAddr.0, 1]);
    message[26..].copy_from_slice(&[mac.0, mac.1, mac.2, mac.3, mac.4, mac.5]);
    let sum = icmpv6::checksum(&Icmpv6Packet::new(message)?, &ip, &ALL_NODES);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0x10, 0x20, 0x30, 0x40, 0x50];

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(octet).collect()
    }

    #[test]
    fn an_ipv4_address_is_announced_by_a_request_and_a_reply() {
        let frames = announcement("10.0.0.100".parse().unwrap(), MAC, false);
        // The form that keepalived sends.
        let request = "ffffffffffff 021020304050 0806 0001 0800 06 04 0001
            021020304050 0a000064 ffffffffffff 0a000064";
        let reply = "ffffffffffff 021020304050 0806 0001 0800 06 04 0002
            021020304050 0a000064 021020304050 0a000064";
        assert_eq!(frames, [bytes(request), bytes(reply)]);
    }

    #[test]
    fn an_ipv6_address_is_announced_to_all_nodes() {
        let address = "2001:db8::100".parse().unwrap();
        for (routes, flags, sum) in [(false, "20", "5cdc"), (true, "a0", "dcdb")] {
            let frames = announcement(address, MAC, routes);
            let expected = format!(
                "333300000001 021020304050 86dd 60000000 0020 3a ff
                20010db8000000000000000000000100 ff020000000000000000000000000001
                88 00 {sum} {flags}000000 20010db8000000000000000000000100 02 01 021020304050"
            );
            let expected = bytes(&expected);
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0][..56], expected[..56]);
            assert_eq!(frames[0][58..], expected[58..]);
            // RFC 1071 over the message and its pseudo header is all ones.
            let words = |part: &[u8]| -> u32 {
                part.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum()
            };
            let mut total = words(&frames[0][22..]) + 32 + 58;
            while total > 0xffff {
                total = (total & 0xffff) + (total >> 16);
            }
            assert_eq!(total, 0xffff);
        }
    }
}
