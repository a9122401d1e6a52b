//! Packets that no router sends: each is ignored, and counted by its reason.

use std::net::{Ipv4Addr, SocketAddrV4};

use lockgate_vrrp::advert::{Addresses, Advert, Checksum};
use lockgate_vrrp::types::{Family, Interval, Priority, Vrid};
use socket2::{Domain, Protocol, Socket, Type};

use super::lab::{Host, Lab, eventually};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

struct Forger(Socket);

impl Forger {
    fn new(host: &Host) -> Self {
        host.run(|| {
            let protocol = Protocol::from(112);
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).unwrap();
            socket.bind_device(Some(b"eth0")).unwrap();
            socket.set_multicast_ttl_v4(255).unwrap();
            Self(socket)
        })
    }

    fn send(&self, packet: &[u8], ttl: u32) {
        self.0.set_multicast_ttl_v4(ttl).unwrap();
        let to = SocketAddrV4::new(GROUP, 0);
        self.0.send_to(packet, &to.into()).unwrap();
    }
}

fn good(priority: u8) -> Vec<u8> {
    let advert = Advert {
        vrid: Vrid::new(51).unwrap(),
        priority: Priority::new(priority),
        interval: Interval::from_centis(10).unwrap(),
        addresses: Addresses::from_wire(Family::V4, &[10, 0, 0, 100]).unwrap(),
    };
    let mut buffer = [0; 64];
    let length =
        advert.encode(CLIENT.into(), GROUP.into(), Checksum::Rfc9568, &mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// Puts the checksum right again.
fn sealed(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6..8].fill(0);
    let words = packet
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(two.get(1).copied().unwrap_or_default()));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    packet[6..8].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn crafted_packets_change_nothing_and_are_counted() {
    let lab = Lab::new();
    let mut one = lab.one.router("eth0 51 100 100ms 10.0.0.100/24");
    one.wait_for("transition backup master");
    let forger = Forger::new(&lab.client);
    let with = |at: usize, value: u8| {
        let mut packet = good(200);
        packet[at] = value;
        sealed(packet)
    };
    let cases = [
        ("ttl", good(200), 254),
        ("version", with(0, 0x41), 255),
        ("type", with(0, 0x32), 255),
        ("length", sealed(good(200)[..10].to_vec()), 255),
        ("length", sealed([&good(200)[..], &[0; 4]].concat()), 255),
        ("address_count", sealed([&good(200)[..3], &[0], &good(200)[4..8]].concat()), 255),
        ("interval", sealed([&good(200)[..4], &[0, 0], &good(200)[6..]].concat()), 255),
        ("vrid", with(1, 52), 255),
        (
            "checksum",
            {
                let mut packet = good(200);
                packet[6] ^= 1;
                packet
            },
            255,
        ),
    ];
    for (reason, packet, ttl) in cases {
        let count = |status: &str| {
            let label = format!("(\"{reason}\", ");
            let all = status.split(&label).skip(1);
            all.map(|rest| rest.split(')').next().unwrap().parse::<u32>().unwrap()).sum::<u32>()
        };
        let before = count(&one.status());
        forger.send(&packet, ttl);
        eventually(reason, || count(&one.status()) == before + 1);
    }
    assert_eq!(one.count("transition"), 2, "{:#?}", one.lines());
    // The same without a flaw counts.
    forger.send(&good(200), 255);
    one.wait_for("transition master backup higher_priority");
}

#[test]
fn random_packets_change_nothing() {
    let lab = Lab::new();
    let mut one = lab.one.router("eth0 51 100 100ms 10.0.0.100/24");
    one.wait_for("transition backup master");
    let forger = Forger::new(&lab.client);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    for number in 0..20_000 {
        let length = usize::from(random()[0]) % 64;
        let mut packet: Vec<u8> = (0..8).flat_map(|_| random()).take(length).collect();
        if number % 2 == 0 && length > 2 {
            packet[..2].copy_from_slice(&[0x31, 51]);
        }
        forger.send(&packet, 255);
    }
    assert!(one.status().contains("Master"));
    assert_eq!(one.count("transition"), 2, "{:#?}", one.lines());
}
