//! Addresses and links by netlink (rtnetlink(7)), with a deadline on each answer.
//!
//! Called by the keeper, by the guard, by the monitor of links, and when leftovers are looked for;
//! never by the driver.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkMessage};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use super::LIFETIME;
use crate::settings::Address;

/// The mark on addresses of ours (`IFA_PROTO`, since Linux 5.18): the number of the protocol.
pub const MARK: u8 = 112;

/// Multicast groups of rtnetlink(7) for links and for addresses of both families.
pub const GROUPS: [u32; 3] = [1, 5, 9];

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Requests in one datagram: each takes less than 128 octets.
const BATCH: usize = 128;

/// Room for answers and notifications, in octets.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A lifetime without end, as the kernel counts it.
const FOREVER: u32 = u32::MAX;

/// An address as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Index of its interface.
    pub index: u32,
    /// The address.
    pub address: Address,
    /// Whether it bears [`MARK`].
    pub marked: bool,
    /// Seconds until the kernel deletes it; `None` = it stays.
    pub remaining: Option<u32>,
    /// Whether it is there only besides another of its subnet.
    pub secondary: bool,
    /// Whether packets may be sent from it: no duplicate is looked for, or was found.
    pub usable: bool,
}

impl Found {
    /// Whether this program, or one like it, put it there: nobody else gives such a lifetime, and
    /// kernels before 5.18 know no marks.
    pub fn is_ours(&self) -> bool {
        let short = |seconds| u64::from(seconds) <= LIFETIME.as_secs();
        self.marked || self.remaining.is_some_and(short)
    }

    /// What a message says; `None` if it has no address.
    pub fn from_message(message: &AddressMessage) -> Option<Self> {
        let mut ip = None;
        let mut peer = None;
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        let (mut marked, mut remaining) = (false, None);
        for attribute in &message.attributes {
            match attribute {
                // On links between two, `Address` is the other end.
                AddressAttribute::Local(local) => ip = Some(*local),
                AddressAttribute::Address(address) => peer = Some(*address),
                AddressAttribute::Flags(all) => flags = *all,
                AddressAttribute::CacheInfo(cache) => {
                    remaining = Some(cache.ifa_valid).filter(|valid| *valid != FOREVER);
                }
                AddressAttribute::Protocol(protocol) => marked = u8::from(*protocol) == MARK,
                _ => {}
            }
        }
        let ip = ip.or(peer)?;
        let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed;
        Some(Self {
            index: message.header.index,
            address: Address { ip, prefix: message.header.prefix_len },
            marked,
            remaining,
            secondary: flags.contains(AddressFlags::Secondary),
            usable: !flags.intersects(unusable),
        })
    }
}

/// A socket for requests, one at a time.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        // Answers to one batch must fit.
        enlarge(&socket)?;
        // An error then carries the request's header, not the request.
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All addresses of all interfaces.
    ///
    /// # Errors
    ///
    /// Those of the socket; `TimedOut` if the kernel does not answer.
    pub fn addresses(&mut self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(request, |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                found.extend(Found::from_message(&message));
            }
        })?;
        Ok(found)
    }

    /// All links.
    ///
    /// # Errors
    ///
    /// As [`Netlink::addresses`].
    pub fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let mut links = Vec::new();
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(request, |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                links.push(message);
            }
        })?;
        Ok(links)
    }

    /// All rules of routing.
    ///
    /// # Errors
    ///
    /// As [`Netlink::addresses`].
    pub fn rules(&mut self) -> io::Result<Vec<RuleMessage>> {
        let mut rules = Vec::new();
        self.dump(RouteNetlinkMessage::GetRule(RuleMessage::default()), |message| {
            if let RouteNetlinkMessage::NewRule(message) = message {
                rules.push(message);
            }
        })?;
        Ok(rules)
    }

    fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let sequence = self.next_sequence();
        let message = message(request, NLM_F_REQUEST | NLM_F_DUMP, sequence);
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => take(message),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// Does requests in as few system calls as can be, and gives the outcome of each, in order.
    ///
    /// # Errors
    ///
    /// Those of the socket, when it is not known which were done.
    pub fn apply(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> io::Result<Vec<io::Result<()>>> {
        let mut requests = requests.into_iter().peekable();
        let mut outcomes = Vec::new();
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut buffer = Vec::new();
            let mut count = 0;
            for request in requests.by_ref().take(BATCH) {
                let sequence = self.next_sequence();
                let message = message(request.message, request.flags, sequence);
                let begin = buffer.len();
                buffer.resize(begin + message.buffer_len().next_multiple_of(4), 0);
                message.serialize(&mut buffer[begin..]);
                count += 1;
            }
            self.socket.send(&buffer, 0)?;
            let begin = outcomes.len();
            outcomes.resize_with(begin + count, || None);
            while outcomes[begin..].iter().any(Option::is_none) {
                for answer in self.receive()? {
                    let slot = answer.header.sequence_number.wrapping_sub(first) as usize;
                    if let (Some(slot), NetlinkPayload::Error(error)) =
                        (outcomes[begin..].get_mut(slot), answer.payload)
                    {
                        let done = error.code.is_none();
                        *slot = Some(if done { Ok(()) } else { Err(error.to_io()) });
                    }
                }
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn receive(&self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        receive(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::from(io::ErrorKind::TimedOut),
            _ => error,
        })
    }
}

/// Gives a socket a large receive buffer: beyond the limit of the system where that is permitted.
fn enlarge(socket: &Socket) -> io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    Ok(())
}

/// Messages of one datagram. Those that cannot be understood are left out: a new kernel may say
/// more than we know.
fn receive(socket: &Socket) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
    let mut buffer = Vec::with_capacity(64 << 10);
    socket.recv(&mut buffer, 0)?;
    let mut messages = Vec::new();
    let mut rest = buffer.as_slice();
    while rest.len() >= 16 {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < 16 || length > rest.len() {
            break;
        }
        messages.extend(NetlinkMessage::deserialize(&rest[..length]));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn message(
    message: RouteNetlinkMessage,
    flags: u16,
    sequence: u32,
) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    message
}

/// Something that the kernel is to do.
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    /// Any request, to be acknowledged.
    pub const fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags: NLM_F_REQUEST | NLM_F_ACK | flags }
    }

    /// Adds an address of ours, or gives it a new lifetime (whole seconds; `None` = no end).
    /// `route`: with a route to its subnet, as is usual.
    pub fn add(index: u32, address: Address, lifetime: Option<Duration>, route: bool) -> Self {
        let mut message = address_message(index, address);
        let valid = lifetime
            .map_or(FOREVER, |lifetime| u32::try_from(lifetime.as_secs()).unwrap_or(FOREVER));
        let mut cache = CacheInfo::default();
        cache.ifa_valid = valid;
        // Deprecated, so that IPv6 does not choose it as a source on its own. IPv4 never would
        // while the interface has a primary address, and has no such notion.
        cache.ifa_preferred = if address.ip.is_ipv6() { 0 } else { valid };
        message.attributes.push(AddressAttribute::CacheInfo(cache));
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Noprefixroute, !route);
        if address.ip.is_ipv6() {
            // Who held it before may not be gone from the link yet, and a second of looking for
            // duplicates would be a second of silence.
            message.header.flags = AddressHeaderFlags::Nodad;
            flags |= AddressFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(MARK)));
        Self::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Sets a value of `net.ipv4.conf` for one interface, as the file below `/proc/sys` does, which
    /// may be read-only in a container. `number`: `IPV4_DEVCONF_…` of `linux/ip.h`.
    pub fn set_ipv4(index: u32, number: u16, value: u32) -> Self {
        /// `IFLA_INET_CONF`, with attributes in it.
        const CONF: u16 = 1 | NLA_F_NESTED;
        let mut one = Vec::from(8_u16.to_ne_bytes());
        one.extend(number.to_ne_bytes());
        one.extend(value.to_ne_bytes());
        let conf = AfSpecInet::Other(DefaultNla::new(CONF, one));
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![conf])]));
        Self::new(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Deletes an address.
    pub fn delete(index: u32, address: Address) -> Self {
        Self::new(RouteNetlinkMessage::DelAddress(address_message(index, address)), 0)
    }
}

/// Whether a deletion failed only since there is nothing to delete.
pub fn was_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV | libc::ESRCH))
}

fn address_message(index: u32, address: Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address.ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address.ip));
    message.attributes.push(AddressAttribute::Address(address.ip));
    message
}

/// A socket that is told of changes.
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// One for these groups.
    ///
    /// # Errors
    ///
    /// If there are too many open files, or the kernel knows no such group.
    pub fn open(groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Before the groups, so that a burst right afterwards finds room.
        enlarge(&socket)?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// What is new. Empty if nothing is.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` if something was missed: then all is to be looked at again.
    pub fn next(&self) -> io::Result<Vec<RouteNetlinkMessage>> {
        match receive(&self.socket) {
            Ok(messages) => Ok(messages
                .into_iter()
                .filter_map(|message| match message.payload {
                    NetlinkPayload::InnerMessage(message) => Some(message),
                    _ => None,
                })
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("socket", &self.socket.as_raw_fd()).finish()
    }
}
