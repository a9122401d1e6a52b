//! Adverts as they are on the wire, read by rules written down here a second time, so that a mistake
//! in lockgate's own codec shows.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;

use super::lab::Namespace;

const VRRP: u8 = 112;

/// An advert, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    pub version: u8,
    pub kind: u8,
    pub vrid: u8,
    pub priority: u8,
    /// As it stands there.
    pub count: u8,
    pub checksum: Option<Checksum>,
    pub addresses: Vec<IpAddr>,
    /// What follows the addresses.
    pub rest: Vec<u8>,
    /// In version 3 of hundredths of a second, in version 2 of seconds.
    pub interval: u16,
}

/// Over what a right checksum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Message,
    PseudoHeader,
}

impl Advert {
    fn read(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        let (source, destination, ttl, protocol, message): (IpAddr, IpAddr, _, _, _);
        match frame.get(12..14)? {
            [0x08, 0x00] => {
                let header = usize::from(packet.first()? & 15) * 4;
                let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
                source = <[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into();
                destination = <[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into();
                (ttl, protocol, message) = (packet[8], packet[9], packet.get(header..total)?);
            }
            [0x86, 0xdd] => {
                let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
                source = <[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into();
                destination = <[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into();
                (ttl, protocol, message) = (packet[7], packet[6], packet.get(40..40 + length)?);
            }
            _ => return None,
        }
        if protocol != VRRP {
            return None;
        }
        let &[first, vrid, priority, count, a, b, _, _, ref list @ ..] = message else {
            return None;
        };
        let version = first >> 4;
        let size = if source.is_ipv4() { 4 } else { 16 };
        let end = (usize::from(count) * size).min(list.len());
        let address = |bytes: &[u8]| -> IpAddr {
            match <[u8; 4]>::try_from(bytes) {
                Ok(four) => Ipv4Addr::from(four).into(),
                Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into(),
            }
        };
        let interval = if version == 2 { b.into() } else { u16::from_be_bytes([a & 15, b]) };
        Some(Self {
            source_mac: frame[6..12].try_into().unwrap(),
            destination_mac: frame[..6].try_into().unwrap(),
            source,
            destination,
            ttl,
            version,
            kind: first & 15,
            vrid,
            priority,
            count,
            checksum: checksum(source, destination, message),
            addresses: list[..end].chunks_exact(size).map(address).collect(),
            rest: list[end..].to_vec(),
            interval,
        })
    }
}

/// Which kind of checksum a message has (RFC 1071; RFC 8200, 8.1).
fn checksum(source: IpAddr, destination: IpAddr, message: &[u8]) -> Option<Checksum> {
    let mut pseudo = Vec::new();
    let length = u32::try_from(message.len()).unwrap();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    // Both families' have the same words in them, in different places.
    pseudo.extend([0, 0, 0, VRRP]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(message);
    if sum(message) == 0xffff {
        Some(Checksum::Message)
    } else {
        (sum(&pseudo) == 0xffff).then_some(Checksum::PseudoHeader)
    }
}

/// The sum, in ones' complement, of 16-bit words.
pub fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum.try_into().unwrap()
}

/// Frames that come and go on the devices of a namespace.
pub struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// From now on.
    pub fn start(namespace: &Namespace) -> Self {
        let (frames, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (captured, stopped) = (Arc::clone(&frames), Arc::clone(&stop));
        let thread = namespace.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let packets =
                socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
            setsockopt(&packets, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while !stopped.load(Ordering::SeqCst) {
                    match recv(packets.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                        Ok(length) => captured.lock().unwrap().push(buffer[..length].to_vec()),
                        Err(error) => {
                            let kind = std::io::Error::from(error).kind();
                            // The device was taken down.
                            let fine = [
                                ErrorKind::WouldBlock,
                                ErrorKind::Interrupted,
                                ErrorKind::NetworkDown,
                            ];
                            assert!(fine.contains(&kind), "{error}");
                        }
                    }
                }
            })
        });
        Self { frames, stop, thread: Some(thread) }
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().unwrap().clone()
    }

    /// The adverts so far.
    pub fn adverts(&self) -> Vec<Advert> {
        self.frames.lock().unwrap().iter().filter_map(|frame| Advert::read(frame)).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
