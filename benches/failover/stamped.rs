//! Receiving packets with the moment at which they came, by the kernel: whether the reader had a
//! core just then does not show in what is measured.

use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::{Stamp, now};

/// A socket that is never waited for longer than told, and its packets with their moments.
pub struct Stamped {
    socket: OwnedFd,
}

impl Stamped {
    /// All frames that reach the devices of this namespace.
    pub fn frames() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let frames = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        Self::new(frames)
    }

    /// ICMP from this address.
    pub fn icmp(peer: std::net::Ipv4Addr) -> io::Result<Self> {
        let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        icmp.set_nonblocking(true)?;
        icmp.connect(&std::net::SocketAddr::from((peer, 0)).into())?;
        Self::new(icmp.into())
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // Five hundred addresses announced five times over, while the reader has no core.
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
        Ok(Self { socket })
    }

    pub fn as_fd(&self) -> &OwnedFd {
        &self.socket
    }

    /// Waits until something is there, at most so long.
    pub fn wait(&self, at_most: Duration) -> io::Result<()> {
        let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut watched, Some(TimeSpec::from_duration(at_most)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The next packet that somebody else sent; `None` if there is none yet.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(Stamp, usize)>> {
        const OUTGOING: u8 = 4;
        loop {
            let mut control = cmsg_space!(TimeSpec);
            let mut parts = [IoSliceMut::new(buffer)];
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::empty());
            let message =
                match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags) {
                    Ok(message) => message,
                    Err(error) if io::Error::from(error).kind() == ErrorKind::WouldBlock => {
                        return Ok(None);
                    }
                    // The network was unreachable, a moment ago.
                    Err(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ECONNREFUSED) => continue,
                    Err(error) => return Err(error.into()),
                };
            let link = message.address.as_ref().and_then(SockaddrStorage::as_link_addr);
            if link.map(LinkAddr::pkttype) == Some(OUTGOING) {
                continue;
            }
            let stamp = message.cmsgs()?.find_map(|part| match part {
                ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                _ => None,
            });
            return Ok(Some((stamp.unwrap_or_else(now), message.bytes)));
        }
    }
}
