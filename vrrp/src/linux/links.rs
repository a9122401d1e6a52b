//! Interfaces and their own addresses, as far as virtual routers depend on them.
//!
//! The thread `vrrp-links` looks at all of them again whenever the kernel says that something
//! changed, and hands the driver the whole picture. It never says what to do about it.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use super::netlink::{Found, GROUPS, Monitor, Netlink};
use super::thread::{Queue, Wake};
use super::vmac::{Made, Needs};
use crate::settings::{Address, Settings};

/// Changes that come together are looked at together.
const COALESCE: Duration = Duration::from_millis(2);

/// Milliseconds until it is looked whether shared addresses have gone.
const WAITING: u8 = 50;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, which changes when it is made anew.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is up, and its link too.
    pub up: bool,
    /// Its hardware address, if it has one of Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Its addresses.
    pub addresses: Vec<Found>,
}

impl Interface {
    fn from_message(message: &LinkMessage) -> Option<Self> {
        let mut name = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.clone()),
                LinkAttribute::Address(octets) => mac = octets.as_slice().try_into().ok(),
                _ => {}
            }
        }
        let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::Running);
        Some(Self { index: message.header.index, name: name?, up, mac, addresses: Vec::new() })
    }

    /// The address that adverts of a virtual router come from: the primary one for IPv4, the
    /// link-local one for IPv6 (RFC 9568, sections 5.1.1.1 and 5.1.2.1), but a global one towards
    /// peers that are not on the link. Shared addresses are none, unless it is all their owner
    /// has. Where one is configured, it is that or none. Peers take adverts from one address alone,
    /// so towards them it stays the one `now`, whatever others come.
    pub fn source(&self, settings: &Settings, now: Option<IpAddr>) -> Option<IpAddr> {
        let global = settings.unicast_peers.iter().any(|peer| match peer {
            IpAddr::V4(_) => false,
            IpAddr::V6(peer) => !peer.is_unicast_link_local(),
        });
        let fits = |found: &&Found| match (found.address.ip, settings.family().group()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => true,
            (IpAddr::V6(ip), IpAddr::V6(_)) => ip.is_unicast_link_local() != global,
            _ => false,
        };
        let shared =
            |found: &Found| settings.addresses.iter().any(|shared| shared.ip == found.address.ip);
        let mut usable: Vec<_> = self
            .addresses
            .iter()
            .filter(|found| found.usable && !found.is_ours())
            .filter(fits)
            .collect();
        if let Some(source) = settings.source {
            let own = self.addresses.iter().filter(|found| found.usable && !found.is_ours());
            return own.map(|found| found.address.ip).find(|ip| *ip == source);
        }
        if let Some(now) = now.filter(|_| settings.is_unicast())
            && usable.iter().any(|found| found.address.ip == now && !shared(found))
        {
            return Some(now);
        }
        // An address that came back after a shared one of its subnet is secondary to that. Temporary
        // ones of IPv6 are marked in the same way.
        usable.sort_by_key(|found| found.secondary);
        let mut usable = usable.into_iter();
        let own = usable.clone().find(|found| !shared(found));
        let own = own.or_else(|| settings.priority.is_owner().then(|| usable.next()).flatten());
        own.map(|found| found.address.ip)
    }

    /// The peers of a virtual router that are in no subnet of this interface.
    pub fn routed_peers(&self, settings: &Settings) -> Vec<IpAddr> {
        let on_link = |peer: IpAddr| {
            self.addresses.iter().any(|found| !found.marked && contains(found.address, peer))
        };
        settings.unicast_peers.iter().copied().filter(|peer| !on_link(*peer)).collect()
    }

    /// Whether it has this address, and nobody who would call it ours put it there.
    pub fn has_foreign(&self, address: Address) -> bool {
        self.addresses.iter().any(|found| found.address.ip == address.ip && !found.is_ours())
    }
}

/// Whether an address is in the subnet of another.
fn contains(subnet: Address, ip: IpAddr) -> bool {
    match (subnet.ip, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => {
            let shift = 32 - u32::from(subnet.prefix.min(32));
            let [net, ip] = [net, ip].map(|ip| u32::from(ip).checked_shr(shift));
            net == ip
        }
        (IpAddr::V6(net), IpAddr::V6(ip)) => {
            let shift = 128 - u32::from(subnet.prefix.min(128));
            let [net, ip] = [net, ip].map(|ip| u128::from(ip).checked_shr(shift));
            net == ip
        }
        _ => false,
    }
}

/// All interfaces now.
///
/// # Errors
///
/// If netlink cannot be spoken.
pub fn interfaces(netlink: &mut Netlink) -> io::Result<Vec<Interface>> {
    let links = netlink.links()?;
    let mut interfaces: Vec<_> = links.iter().filter_map(Interface::from_message).collect();
    for found in netlink.addresses()? {
        if let Some(interface) = interfaces.iter_mut().find(|one| one.index == found.index) {
            interface.addresses.push(found);
        }
    }
    Ok(interfaces)
}

/// Where the driver gets interfaces from.
pub type Interfaces = Arc<Vec<Interface>>;

/// What the thread needs.
pub struct Watch {
    /// For the first look and later ones.
    pub netlink: Netlink,
    /// Says when to look again.
    pub monitor: Monitor,
    /// Where the picture goes.
    pub driver: Arc<Queue<Interfaces>>,
    /// What virtual routers need of the system.
    pub needs: Arc<Mutex<Needs>>,
    /// What was made and changed for that.
    pub made: Arc<Mutex<Made>>,
    /// Whether it is this process that makes them, and takes them away at the end: another may have
    /// them still, or again.
    pub in_charge: Arc<AtomicBool>,
    /// Rung, with `stop`, when it is to end, and when others are wanted.
    pub wake: Arc<Wake>,
    /// Whether it is to end.
    pub stop: Arc<AtomicBool>,
    /// Something is to be put back when addresses have gone.
    pub waits: bool,
}

impl Watch {
    /// Opens its sockets, so that nothing is missed from now on.
    ///
    /// # Errors
    ///
    /// If netlink cannot be spoken, or there are too many open files.
    pub fn new(driver: Arc<Queue<Interfaces>>) -> io::Result<Self> {
        Ok(Self {
            monitor: Monitor::open(&GROUPS)?,
            netlink: Netlink::open()?,
            driver,
            needs: Arc::default(),
            made: Arc::default(),
            in_charge: Arc::new(AtomicBool::new(true)),
            wake: Arc::new(Wake::new()?),
            stop: Arc::new(AtomicBool::new(false)),
            waits: false,
        })
    }

    /// The body of the thread. `known` is what the driver was given already.
    pub fn run(mut self, mut known: Interfaces) {
        while !self.stop.load(Ordering::Acquire) {
            if !self.wait() {
                continue;
            }
            thread::sleep(COALESCE);
            self.is_news();
            match self.look() {
                Ok(found) if found != *known => {
                    known = Arc::new(found);
                    // Only the last picture counts; the driver takes them faster than they come.
                    while self.driver.push(Arc::clone(&known)).is_err() {
                        thread::sleep(COALESCE);
                        if self.stop.load(Ordering::Acquire) {
                            break;
                        }
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot look at interfaces; trying again");
                    thread::sleep(Duration::from_millis(100));
                    // Whatever it was, the next look finds out.
                    self.wake.ring();
                }
            }
        }
        if self.in_charge.load(Ordering::Acquire) {
            let made =
                std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
            made.undo(&mut self.netlink);
        }
    }

    /// All interfaces, with the virtual MACs that are wanted, and values as they are needed.
    ///
    /// # Errors
    ///
    /// If netlink cannot be spoken.
    pub fn look(&mut self) -> io::Result<Vec<Interface>> {
        let needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let found = interfaces(&mut self.netlink)?;
        if !self.in_charge.load(Ordering::Acquire) {
            return Ok(found);
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        self.waits = made.tune(&mut self.netlink, &found, &needs);
        if made.provide(&mut self.netlink, &found, &needs.virtual_macs) {
            drop(made);
            return interfaces(&mut self.netlink);
        }
        Ok(found)
    }

    /// Whether something changed that matters. Renewals of our own addresses do not.
    fn wait(&self) -> bool {
        let mut fds = [
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = if self.waits { PollTimeout::from(WAITING) } else { PollTimeout::NONE };
        if let Err(error) = poll(&mut fds, timeout) {
            tracing::debug!(%error, "poll for links was interrupted");
            return false;
        }
        let rung = fds[1].any().unwrap_or(false);
        if rung {
            self.wake.quiet();
        }
        self.is_news() || rung || self.waits
    }

    /// Reads what the monitor has.
    fn is_news(&self) -> bool {
        let mut news = false;
        loop {
            match self.monitor.next() {
                Ok(messages) if messages.is_empty() => return news,
                Ok(messages) => news |= messages.iter().any(matters),
                // Something was missed, so look at everything.
                Err(error) => {
                    tracing::debug!(%error, "notifications of links were missed");
                    return true;
                }
            }
        }
    }
}

fn matters(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => true,
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Found::from_message(address).is_none_or(|found| !found.marked)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        let (ip, prefix) = text.split_once('/').unwrap();
        Address { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }

    #[test]
    fn subnets_contain_their_own() {
        let is_in = |net, ip: &str| contains(address(net), ip.parse().unwrap());
        assert!(is_in("10.0.0.1/24", "10.0.0.200") && !is_in("10.0.0.1/24", "10.0.1.1"));
        assert!(is_in("0.0.0.0/0", "10.0.0.200") && is_in("::/0", "::1"));
        assert!(is_in("fe80::1/64", "fe80::2") && !is_in("fe80::1/128", "fe80::2"));
        assert!(!is_in("10.0.0.1/24", "fe80::2"));
    }
}
