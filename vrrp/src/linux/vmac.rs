//! Virtual MACs: a macvlan with the hardware address of RFC 9568, section 7.3, that has the
//! shared addresses and sends the adverts, so that neighbours never learn another one.
//!
//! - The macvlan is in bridge mode. In private mode, a peer's adverts, which come from the same
//!   hardware address, would be seen on the macvlan alone, not on the interface below.
//! - An address on it makes no route to its subnet in the main table, since the interface below
//!   has one. A rule (`from ADDRESS`) leads what is sent from it to a table with such a route.
//!   Without it, answers, and ARP requests for clients, would leave with the physical address.
//! - The interface below must not answer ARP for it: `arp_ignore` is set there, and put back.
//!
//! Only answers to the subnet are led this way; what goes through a gateway is left to the routes
//! of the host.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::Interface;
use super::netlink::{Found, MARK, Netlink, Request};
use crate::settings::{Address, Settings};
use crate::types::Family;

/// Routing tables for virtual MACs begin here; the index of the macvlan is added.
const TABLES: u32 = 1_120_000;

/// Priority of the rules, before that of the main table (32766).
const RULE_PRIORITY: u32 = 11_200;

/// A virtual MAC that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The interface below.
    pub below: String,
    /// Its own name.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Whether it is for IPv6.
    pub family: Family,
}

impl Wanted {
    /// The one for these settings; `None` if they have none.
    pub fn of(settings: &Settings) -> Option<Self> {
        let family = settings.family();
        let vrid = settings.vrid;
        settings.virtual_mac.then(|| Self {
            below: settings.interface.clone(),
            name: match family {
                Family::V4 => format!("vrrp.{vrid}"),
                Family::V6 => format!("vrrp.{vrid}.6"),
            },
            mac: [0, 0, 0x5e, 0, if family == Family::V4 { 1 } else { 2 }, vrid.get()],
            family,
        })
    }
}

/// What virtual routers need of the system.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Virtual MACs.
    pub virtual_macs: Vec<Wanted>,
    /// Interfaces that get shared IPv4 addresses besides those that they have.
    pub shared: Vec<String>,
    /// Interfaces on which adverts come over IPv4.
    pub heard: Vec<String>,
}

impl Needs {
    /// Those for these settings.
    pub fn of(settings: &[Settings]) -> Self {
        let interfaces = |fits: &dyn Fn(&Settings) -> bool| {
            let those = settings.iter().filter(|it| it.family() == Family::V4 && fits(it));
            let those: BTreeSet<_> = those.map(|settings| settings.interface.clone()).collect();
            those.into_iter().collect()
        };
        Self {
            virtual_macs: settings.iter().filter_map(Wanted::of).collect(),
            shared: interfaces(&|settings| !settings.virtual_mac),
            heard: interfaces(&|_| true),
        }
    }

    /// Values of the system below `/proc/sys/net`, by file.
    fn values(&self) -> Vec<(String, &'static str)> {
        let mut values = Vec::new();
        for Wanted { below, .. } in &self.virtual_macs {
            values.push((format!("ipv4/conf/{below}/arp_ignore"), "1"));
            values.push((format!("ipv4/conf/{below}/arp_announce"), "2"));
        }
        let promoted = |name| (format!("ipv4/conf/{name}/promote_secondaries"), "1");
        values.extend(self.shared.iter().map(promoted));
        // A master that has the address of another router, as of the owner that comes back, has to
        // hear it: the kernel would drop what comes from an address that is here as well.
        let local = |name| (format!("ipv4/conf/{name}/accept_local"), "1");
        values.extend(self.heard.iter().map(local));
        values
    }
}

/// What was changed for virtual routers, to be undone.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// Names of the interfaces.
    pub names: Vec<String>,
    /// Values of the system before, by file.
    pub before: Vec<(String, String)>,
    /// Files that could not be written, which has been told.
    pub failed: Vec<String>,
}

impl Made {
    /// Has the system's values be what virtual routers need, and puts those back that none needs
    /// any more. Says whether something has yet to be put back.
    ///
    /// With a primary address the kernel deletes all secondary ones of its subnet, unless
    /// `promote_secondaries` is set. A shared address becomes the primary one where it was there
    /// first, as when the host's own is taken away and added again, or where the host had none of
    /// the subnet: whatever others added since would go with it, whoever deletes it, be it the
    /// kernel at the end of its lifetime. So the value stays as long as there is a shared address.
    pub fn tune(&mut self, netlink: &mut Netlink, interfaces: &[Interface], needs: &Needs) -> bool {
        let mut values = needs.values();
        let mut waits = false;
        for (name, _) in &self.before {
            let interface = interfaces.iter().find(|one| promotes(name) == Some(&one.name));
            let has_ours = |one: &Interface| one.addresses.iter().any(Found::is_ours);
            if interface.is_some_and(has_ours) && !values.iter().any(|(other, _)| other == name) {
                values.push((name.clone(), "1"));
                waits = true;
            }
        }
        let is_needed = |name: &str| values.iter().any(|(needed, _)| needed == name);
        let (stay, over) =
            std::mem::take(&mut self.before).into_iter().partition(|(name, _)| is_needed(name));
        self.before = stay;
        put_back(netlink, interfaces, over);
        for (name, value) in values {
            let there = name.split('/').nth(2);
            if !interfaces.iter().any(|one| Some(one.name.as_str()) == there) {
                continue;
            }
            let outcome = self.change(netlink, interfaces, &name, value);
            let news = match outcome {
                Ok(()) => {
                    self.failed.retain(|failed| *failed != name);
                    continue;
                }
                Err(_) if self.failed.contains(&name) => continue,
                Err(error) => error,
            };
            tracing::warn!(error = %news, name, value, "cannot be set");
            self.failed.push(name);
        }
        waits
    }

    /// Makes what is wanted, where the interface below is there, and deletes what is not wanted
    /// any more. Says whether anything changed.
    pub fn provide(
        &mut self,
        netlink: &mut Netlink,
        interfaces: &[Interface],
        wanted: &[Wanted],
    ) -> bool {
        let mut changed = false;
        for name in std::mem::take(&mut self.names) {
            if wanted.iter().any(|wanted| wanted.name == name) {
                self.names.push(name);
            } else if let Some(old) = interfaces.iter().find(|one| one.name == name) {
                delete(netlink, old.index);
                changed = true;
            }
        }
        for wanted in wanted {
            let Some(below) = interfaces.iter().find(|one| one.name == wanted.below) else {
                continue;
            };
            let mut there = interfaces.iter().find(|one| one.name == wanted.name);
            if let Some(old) = there
                && !self.names.contains(&wanted.name)
            {
                // Of a process before, which may have left addresses on it.
                delete(netlink, old.index);
                there = None;
            }
            if there.is_some() {
                continue;
            }
            match self.make(netlink, below, wanted) {
                Ok(()) => changed = true,
                Err(error) => {
                    tracing::error!(%error, name = wanted.name, "cannot make the virtual MAC");
                }
            }
        }
        changed
    }

    fn make(
        &mut self,
        netlink: &mut Netlink,
        below: &Interface,
        wanted: &Wanted,
    ) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(wanted.name.clone()));
        link.attributes.push(LinkAttribute::Link(below.index));
        link.attributes.push(LinkAttribute::Address(wanted.mac.to_vec()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
        ]));
        let request = Request::new(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL);
        netlink.apply([request])?.into_iter().collect::<io::Result<()>>()?;
        if !self.names.contains(&wanted.name) {
            self.names.push(wanted.name.clone());
        }
        let name = &wanted.name;
        // Before it is up, or the kernel would have given it addresses of its own.
        match wanted.family {
            Family::V4 => set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?,
            Family::V6 => {
                set(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
                set(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
            }
        }
        // It answers for its own addresses alone, and what comes in may go out below.
        set(&format!("ipv4/conf/{name}/arp_ignore"), "1")?;
        set(&format!("ipv4/conf/{name}/accept_local"), "1")?;
        set(&format!("ipv4/conf/{name}/rp_filter"), "2")?;
        // One address of several of a subnet goes, the others stay.
        set(&format!("ipv4/conf/{name}/promote_secondaries"), "1")?;
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(wanted.name.clone()));
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        let request = Request::new(RouteNetlinkMessage::SetLink(link), 0);
        netlink.apply([request])?.into_iter().collect()
    }

    /// Sets a value of the system that is not ours, and remembers the one before.
    fn change(
        &mut self,
        netlink: &mut Netlink,
        interfaces: &[Interface],
        name: &str,
        value: &str,
    ) -> io::Result<()> {
        let before = fs::read_to_string(path(name))?;
        if before.trim() == value {
            return Ok(());
        }
        set_anyhow(netlink, interfaces, name, value)?;
        if !self.before.iter().any(|(known, _)| known == name) {
            self.before.push((name.to_owned(), before.trim().to_owned()));
        }
        Ok(())
    }

    /// Takes it all away.
    pub fn undo(self, netlink: &mut Netlink) {
        let links = match super::links::interfaces(netlink) {
            Ok(links) => links,
            Err(error) => return tracing::warn!(%error, "virtual MACs stay"),
        };
        for link in links.iter().filter(|link| self.names.contains(&link.name)) {
            delete(netlink, link.index);
        }
        put_back(netlink, &links, self.before);
    }
}

/// The interface that a file is of, if it is about promotion.
fn promotes(name: &str) -> Option<&str> {
    name.strip_prefix("ipv4/conf/")?.strip_suffix("/promote_secondaries")
}

fn put_back(netlink: &mut Netlink, interfaces: &[Interface], before: Vec<(String, String)>) {
    for (name, value) in before {
        if let Err(error) = set_anyhow(netlink, interfaces, &name, &value) {
            tracing::warn!(%error, name, "cannot be set to what it was");
        }
    }
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}

fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(path(name), value)
}

/// Sets a value by its file or, where that is read-only, by netlink.
fn set_anyhow(
    netlink: &mut Netlink,
    interfaces: &[Interface],
    name: &str,
    value: &str,
) -> io::Result<()> {
    /// By number in `linux/ip.h`.
    const KNOWN: [(&str, u16); 4] = [
        ("arp_announce", 18),
        ("arp_ignore", 19),
        ("promote_secondaries", 20),
        ("accept_local", 23),
    ];
    let Err(error) = set(name, value) else { return Ok(()) };
    let Some((of, what)) = name.strip_prefix("ipv4/conf/").and_then(|it| it.split_once('/')) else {
        return Err(error);
    };
    let interface = interfaces.iter().find(|one| one.name == of);
    let number = KNOWN.iter().find(|(known, _)| *known == what);
    let (Some(interface), Some((_, number)), Ok(value)) = (interface, number, value.parse()) else {
        return Err(error);
    };
    netlink.apply([Request::set_ipv4(interface.index, *number, value)])?.into_iter().collect()
}

/// Deletes an interface that was made for a virtual MAC, and with it its addresses and routes.
pub fn link_gone(index: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    Request::new(RouteNetlinkMessage::DelLink(link), 0)
}

fn delete(netlink: &mut Netlink, index: u32) {
    let request = link_gone(index);
    let outcome: io::Result<()> =
        netlink.apply([request]).and_then(|all| all.into_iter().collect());
    if let Err(error) = outcome {
        tracing::warn!(%error, index, "cannot delete the virtual MAC");
    }
}

/// What leads packets from an address on a virtual MAC out through it.
pub fn source_routes(index: u32, address: Address) -> Vec<Request> {
    let mut route = RouteMessage::default();
    let (family, all, subnet) = match address.ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix)).unwrap_or(0);
            let subnet = RouteAddress::Inet((u32::from(ip) & mask).into());
            (AddressFamily::Inet, RouteAddress::Inet(ip), subnet)
        }
        // It is only ever spoken to, and from, on its link.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => return Vec::new(),
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(address.prefix)).unwrap_or(0);
            let subnet = RouteAddress::Inet6((u128::from(ip) & mask).into());
            (AddressFamily::Inet6, RouteAddress::Inet6(ip), subnet)
        }
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = address.prefix;
    route.header.protocol = RouteProtocol::Other(MARK);
    route.header.kind = RouteType::Unicast;
    if address.ip.is_ipv4() {
        route.header.scope = RouteScope::Link;
    }
    route.attributes.push(RouteAttribute::Destination(subnet));
    route.attributes.push(RouteAttribute::PrefSource(all));
    route.attributes.push(RouteAttribute::Oif(index));
    route.attributes.push(RouteAttribute::Table(TABLES + index));
    vec![
        Request::new(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE),
        Request::new(RouteNetlinkMessage::NewRule(rule(index, address)), NLM_F_CREATE | NLM_F_EXCL),
    ]
}

/// Takes away of [`source_routes`] what does not go with the address.
pub fn source_rule_gone(index: u32, address: Address) -> Request {
    Request::new(RouteNetlinkMessage::DelRule(rule(index, address)), 0)
}

/// Whether a rule was made for a virtual MAC that has one of these addresses.
pub fn is_rule_for(rule: &RuleMessage, ips: &[IpAddr]) -> bool {
    let has = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
    has(&RuleAttribute::Priority(RULE_PRIORITY))
        && has(&RuleAttribute::Protocol(RouteProtocol::Other(MARK)))
        && ips.iter().any(|ip| has(&RuleAttribute::Source(*ip)))
}

/// Deletes a rule that there is.
pub fn rule_gone(rule: RuleMessage) -> Request {
    Request::new(RouteNetlinkMessage::DelRule(rule), 0)
}

fn rule(index: u32, address: Address) -> RuleMessage {
    let mut rule = RuleMessage::default();
    (rule.header.family, rule.header.src_len) = match address.ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    rule.header.action = RuleAction::ToTable;
    rule.attributes.push(RuleAttribute::Source(address.ip));
    rule.attributes.push(RuleAttribute::Table(TABLES + index));
    rule.attributes.push(RuleAttribute::Priority(RULE_PRIORITY));
    rule.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(MARK)));
    rule
}
