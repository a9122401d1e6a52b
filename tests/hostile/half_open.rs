//! A storm of half-open connections: SYNs from addresses that nobody has, whose handshakes are never
//! completed. The kernel bears it (SYN cookies); the gateway does not even notice.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::lab::{CLIENT, GATEWAY, Lab, RIGHT};
use crate::harness::{Config, Launch, Server, visit};

/// Far more than any queue of them holds (`net.ipv4.tcp_max_syn_backlog`).
const STORM: u32 = 50_000;

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = sum(bytes);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A packet of IPv4 (RFC 791) with the SYN of a TCP connection (RFC 9293).
fn syn(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0; 4]);
    // Five words, SYN, a window; checksum and urgent pointer.
    tcp.extend([5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let mut pseudo = [from.ip().octets(), to.ip().octets()].concat();
    pseudo.extend([0, 6, 0, 20]);
    pseudo.extend(&tcp);
    tcp[16..18].copy_from_slice(&checksum(&pseudo));
    // The kernel fills in the length and the checksum of a header that is given (raw(7)).
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(tcp);
    packet
}

#[test]
fn a_storm_of_half_open_connections_is_not_noticed() {
    let lab = Lab::new();
    let address = SocketAddrV4::new(GATEWAY, 80);
    let server = lab.right.run(|| Server::named_at("a", SocketAddr::new(RIGHT.into(), 7000)));
    // Answers to the addresses of the storm go back to where they came from, and are lost there.
    lab.gateway.ip(&format!("route add 10.99.0.0/16 via {CLIENT}"));
    let config = Config::new(address.into()).backend(&server, "");
    let gateway = Launch::new(config).under(&lab.gateway.enter()).start();
    let visit = || lab.client.run(|| visit(address.into()));
    assert_eq!(visit().unwrap(), "a");
    let memory = gateway.resident_memory();
    let (accepted, processor) = (
        gateway.metric("lockgate_connections_total", &[("listener", "web")]),
        gateway.processor_time(),
    );

    let sent = lab.client.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
        socket.set_header_included_v4(true).unwrap();
        let mut sent = 0;
        for number in 0..STORM {
            let [.., high, low] = number.to_be_bytes();
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 99, high, low), 1024 + low as u16);
            let packet = syn(from, address, number);
            sent += u32::from(socket.send_to(&packet, &SocketAddr::from(address).into()).is_ok());
        }
        sent
    });
    assert!(sent > STORM / 2, "only {sent} were sent");
    // Cookies are told of by the kernel: the queue was full.
    let overflowed = cookies(
        &lab.gateway.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap()),
    );
    eprintln!("{sent} sent, {overflowed} cookies");
    assert!(overflowed > 0, "the queue was never full: it was no storm");

    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(visit().unwrap(), "a");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let now = gateway.metric("lockgate_connections_total", &[("listener", "web")]);
    assert_eq!(now, accepted + 20.0, "half-open connections are none");
    let grown = gateway.resident_memory().saturating_sub(memory);
    assert!(grown < 2 << 20, "{grown} bytes more");
    let used = gateway.processor_time() - processor;
    assert!(used < Duration::from_secs(5), "{used:?} of processor time");
    gateway.await_idle();
}

/// `SyncookiesSent` of `/proc/net/netstat`: names in one line, values in the next.
fn cookies(netstat: &str) -> u64 {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "SyncookiesSent").unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}
