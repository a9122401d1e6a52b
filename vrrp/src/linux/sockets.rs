//! Raw sockets for adverts, and the one for announcements.
//!
//! A [`Receiver`] hears all adverts of one family on one interface. A [`Sender`] speaks for one
//! virtual router from its primary address, and hears nothing. Neither blocks.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn6, recvmsg, sendmmsg,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

use super::sys;
use crate::advert::{PROTOCOL, Packet};
use crate::types::Family;

/// Internetwork control (RFC 2474, class selector 6), as keepalived marks adverts.
const TRAFFIC_CLASS: u32 = 0xc0;

/// TTL of adverts (RFC 9568, section 5.1.1.3): nobody beyond a router can send it (RFC 5082).
const TTL: u32 = 255;

/// Room for adverts that wait, which the kernel doubles. A flood finds it full, and costs no more
/// than this to read before time goes on.
const RECEIVE_BUFFER: usize = 128 << 10;

const fn domain(family: Family) -> Domain {
    match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    }
}

fn raw(family: Family, interface: &str) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(PROTOCOL));
    let socket = Socket::new(domain(family), Type::RAW, Some(protocol))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Hears adverts.
#[derive(Debug)]
pub struct Receiver {
    socket: Socket,
    family: Family,
    /// For the hop limit and destination of IPv6.
    control: Vec<u8>,
}

impl Receiver {
    /// One on this interface, a member of the group.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_RAW`, `ENODEV` without the interface.
    pub fn open(family: Family, interface: &str, index: u32) -> io::Result<Self> {
        let socket = raw(family, interface)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        match family.group() {
            IpAddr::V4(group) => {
                // Groups that others joined are theirs alone.
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
            }
            IpAddr::V6(group) => {
                socket.set_multicast_all_v6(false)?;
                socket.set_recv_hoplimit_v6(true)?;
                nix::sys::socket::setsockopt(
                    &socket,
                    nix::sys::socket::sockopt::Ipv6RecvPacketInfo,
                    &true,
                )?;
                socket.join_multicast_v6(&group, index)?;
            }
        }
        let control = nix::cmsg_space!(libc::c_int, libc::in6_pktinfo);
        Ok(Self { socket, family, control })
    }

    /// The next packet, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// Those of the interface: `ENETDOWN`, once.
    pub fn next<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<Packet<'a>>> {
        let mut found = None;
        {
            let mut parts = [IoSliceMut::new(buffer)];
            let control = Some(self.control.as_mut_slice());
            let flags = MsgFlags::MSG_DONTWAIT;
            match recvmsg::<SockaddrIn6>(self.socket.as_raw_fd(), &mut parts, control, flags) {
                Ok(message) => {
                    let (mut ttl, mut destination) = (0, Ipv6Addr::UNSPECIFIED);
                    if self.family == Family::V6 {
                        for part in message.cmsgs()? {
                            match part {
                                ControlMessageOwned::Ipv6HopLimit(hops) => {
                                    ttl = u8::try_from(hops).unwrap_or_default();
                                }
                                ControlMessageOwned::Ipv6PacketInfo(info) => {
                                    destination = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                                }
                                _ => {}
                            }
                        }
                    }
                    let source = message.address.map_or(Ipv6Addr::UNSPECIFIED, |from| from.ip());
                    found = Some((message.bytes, ttl, source, destination));
                }
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some((length, ttl, source, destination)) = found else { return Ok(None) };
        let read = buffer.get(..length).unwrap_or_default();
        Ok(match self.family {
            Family::V4 => from_ipv4(read),
            Family::V6 => Some(Packet {
                source: source.into(),
                destination: destination.into(),
                ttl,
                payload: read,
            }),
        })
    }
}

/// An IPv4 packet with its header, as raw sockets receive it: the kernel has checked the header,
/// and cut the packet at its total length.
fn from_ipv4(packet: &[u8]) -> Option<Packet<'_>> {
    let header = packet.first_chunk::<20>()?;
    let address = |at: usize| {
        Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
    };
    let payload = packet.get(usize::from(header[0] & 0x0f) * 4..)?;
    Some(Packet { source: address(12), destination: address(16), ttl: header[8], payload })
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends adverts.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    index: u32,
}

impl Sender {
    /// One that sends through this interface from this address.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_RAW`, `ENODEV` without the interface, `EADDRNOTAVAIL` without the
    /// address.
    pub fn open(interface: &str, index: u32, source: IpAddr) -> io::Result<Self> {
        let family = Family::of(source);
        let socket = raw(family, interface)?;
        // What arrives is for receivers. The kernel would queue it here as well.
        let nothing = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
        socket.attach_filter(&[nothing])?;
        match source {
            IpAddr::V4(_) => {
                socket.set_ttl_v4(TTL)?;
                socket.set_multicast_ttl_v4(TTL)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_tos_v4(TRAFFIC_CLASS)?;
            }
            IpAddr::V6(_) => {
                socket.set_unicast_hops_v6(TTL)?;
                socket.set_multicast_hops_v6(TTL)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_tclass_v6(TRAFFIC_CLASS)?;
                // With a virtual MAC the address is on the interface below.
                socket.set_freebind_v6(true)?;
            }
        }
        socket.bind(&scoped(source, index))?;
        Ok(Self { socket, index })
    }

    /// Sends an advert.
    ///
    /// # Errors
    ///
    /// Those of send(2), `WouldBlock` and `ENOBUFS` if the interface is congested.
    pub fn send(&self, advert: &[u8], to: IpAddr) -> io::Result<()> {
        self.socket.send_to(advert, &scoped(to, self.index)).map(drop)
    }
}

/// The address; a link-local one on this interface.
fn scoped(ip: IpAddr, index: u32) -> SockAddr {
    match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, 0).into(),
        IpAddr::V6(ip) => {
            let local = ip.is_unicast_link_local() || ip.is_multicast();
            SocketAddrV6::new(ip, 0, 0, if local { index } else { 0 }).into()
        }
    }
}

/// Sends frames through an interface, and hears nothing.
#[derive(Debug)]
pub struct FrameSender {
    socket: Socket,
}

impl FrameSender {
    /// One for this interface.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_RAW`, `ENODEV` without the interface.
    pub fn open(index: u32) -> io::Result<Self> {
        // With protocol 0 the kernel never queues a frame here.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.bind(&sys::packet_address(index)?)?;
        socket.set_send_buffer_size(1 << 20)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Sends frames in few system calls, and says how many went: the rest found no room.
    ///
    /// # Errors
    ///
    /// `ENETDOWN` and the like, if none went.
    pub fn send(&self, frames: &[Vec<u8>]) -> io::Result<usize> {
        /// The kernel takes no more at once.
        const MOST: usize = 1_024;
        let mut sent = 0;
        for some in frames.chunks(MOST) {
            let parts: Vec<_> = some.iter().map(|frame| [io::IoSlice::new(frame)]).collect();
            let mut headers = MultiHeaders::<()>::preallocate(some.len(), None);
            let nowhere_else = vec![None; some.len()];
            let flags = MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            match sendmmsg(fd, &mut headers, &parts, nowhere_else, [], flags) {
                Ok(results) => {
                    let count = results.count();
                    sent += count;
                    if count < some.len() {
                        break;
                    }
                }
                Err(error) if sent == 0 => return Err(error.into()),
                Err(_) => break,
            }
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_with_options_is_skipped() {
        let mut packet = vec![0; 32];
        packet[0] = 0x46;
        packet[8] = 255;
        packet[12..20].copy_from_slice(&[10, 0, 0, 2, 224, 0, 0, 18]);
        packet[24] = 0x31;
        let parsed = from_ipv4(&packet).unwrap();
        assert_eq!((parsed.ttl, parsed.payload.len(), parsed.payload[0]), (255, 8, 0x31));
        assert_eq!(parsed.source, IpAddr::from([10, 0, 0, 2]));
        assert_eq!(parsed.destination, IpAddr::from([224, 0, 0, 18]));
        assert!(from_ipv4(&packet[..19]).is_none());
    }
}
