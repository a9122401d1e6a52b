//! What VRRP needs of this host: capabilities, interfaces, addresses that are still free.

use std::collections::HashMap;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::{Fault, Findings};
use crate::config::plan::vrrp::OWNER;
use crate::config::plan::{Node, Plan, Vrrp};

/// What an interface has.
#[derive(Default)]
struct Interface {
    is_up: bool,
    addresses: Vec<IpAddr>,
}

/// Looks at all instances of the plan, as `node` has them. `runs`: a gateway runs already, and may
/// have the addresses.
pub(super) fn inspect(plan: &Plan, node: Option<&Node>, runs: bool, found: &mut Findings) {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => inspect_capabilities(&status, found),
        Err(error) => found.fault("cannot read /proc/self/status".to_owned(), &error),
    }
    let mut interfaces: HashMap<String, Interface> = HashMap::new();
    match getifaddrs() {
        Err(error) => found.fault("cannot list interfaces".to_owned(), &error.into()),
        Ok(all) => {
            for part in all {
                let interface = interfaces.entry(part.interface_name).or_default();
                interface.is_up |= part.flags.contains(InterfaceFlags::IFF_UP);
                let address = part.address.as_ref();
                let v4 = address.and_then(|a| a.as_sockaddr_in()).map(|v4| IpAddr::V4(v4.ip()));
                let v6 = address.and_then(|a| a.as_sockaddr_in6()).map(|v6| IpAddr::V6(v6.ip()));
                interface.addresses.extend(v4.or(v6));
            }
        }
    }
    for vrrp in &plan.vrrp {
        inspect_interfaces(vrrp, node, &interfaces, found);
        if !runs {
            inspect_addresses(vrrp, node, &interfaces, found);
        }
    }
}

/// By capabilities(7): the bit of each, what it is for, and whether nothing goes without.
const CAPABILITIES: [(u32, &str, &str, bool); 4] = [
    (12, "CAP_NET_ADMIN", "to put addresses on interfaces", true),
    (13, "CAP_NET_RAW", "to send and receive VRRP, ARP and neighbour advertisements", true),
    (23, "CAP_SYS_NICE", "to send adverts in time on a busy host (real-time priority)", false),
    (14, "CAP_IPC_LOCK", "to send adverts in time when memory is short (locked memory)", false),
];

fn inspect_capabilities(status: &str, found: &mut Findings) {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let Some(effective) = effective else {
        found.notes.push("cannot tell which capabilities there are".to_owned());
        return;
    };
    for (bit, name, purpose, is_needed) in CAPABILITIES {
        if effective & 1 << bit != 0 {
            continue;
        }
        let message = format!("no {name}: VRRP needs it {purpose}");
        match is_needed {
            true => found.faults.push(Fault { message, not_permitted: true }),
            false => found.notes.push(message),
        }
    }
}

fn inspect_interfaces(
    vrrp: &Vrrp,
    node: Option<&Node>,
    interfaces: &HashMap<String, Interface>,
    found: &mut Findings,
) {
    let name = &vrrp.name;
    for wanted in std::iter::once(&vrrp.interface).chain(&vrrp.track_interfaces) {
        let trouble = match interfaces.get(wanted) {
            None => "there is no such interface",
            Some(interface) if !interface.is_up => "it is down",
            Some(_) => continue,
        };
        let message = format!("vrrp {name}: interface {wanted}: {trouble}");
        found.faults.push(Fault { message, not_permitted: false });
    }
    let has = |ip: IpAddr| interfaces.values().any(|interface| interface.addresses.contains(&ip));
    if let Some(source) = vrrp.source(node, has) {
        let interface = interfaces.get(&vrrp.interface);
        if interface.is_some_and(|interface| !interface.addresses.contains(&source)) {
            let message = format!(
                "vrrp {name}: interface {} has no address {source}, where peers expect adverts \
                 from",
                vrrp.interface
            );
            found.faults.push(Fault { message, not_permitted: false });
        }
        return;
    }
    let own = |address: &IpAddr| {
        let floats = vrrp.addresses.iter().any(|floating| floating.address == *address);
        let is_link_local = match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        address.is_ipv6() == vrrp.is_ipv6() && !floats && is_link_local
    };
    let is_owner = vrrp.priority.is_some_and(|priority| priority.get() == OWNER);
    if let Some(interface) = interfaces.get(&vrrp.interface)
        && !interface.addresses.iter().any(own)
        && !is_owner
    {
        let family = if vrrp.is_ipv6() { "link-local IPv6" } else { "IPv4" };
        let message = format!(
            "vrrp {name}: interface {} has no {family} address of its own to send adverts from",
            vrrp.interface
        );
        found.faults.push(Fault { message, not_permitted: false });
    }
}

/// Addresses that float are nobody's before a gateway runs; the peer may well have them.
fn inspect_addresses(
    vrrp: &Vrrp,
    node: Option<&Node>,
    interfaces: &HashMap<String, Interface>,
    found: &mut Findings,
) {
    let name = &vrrp.name;
    let is_owner = vrrp.priority(node) == OWNER;
    for floating in &vrrp.addresses {
        let ip = floating.address;
        for (interface, _) in interfaces.iter().filter(|(_, has)| has.addresses.contains(&ip)) {
            if *interface != vrrp.interface {
                if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
                    // On another link it is another address.
                    continue;
                }
                let message = format!("vrrp {name}: {ip} is on {interface} already");
                found.faults.push(Fault { message, not_permitted: false });
            } else if !is_owner {
                found.notes.push(format!(
                    "vrrp {name}: {ip} is on {interface} already: `lockgate release-vip` removes \
                     it if a gateway left it behind; one that was added by hand stays, on both \
                     gateways"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_told_apart() {
        let told = |bits: &str| {
            let mut found = Findings::default();
            inspect_capabilities(&format!("Name:\tx\nCapEff:\t{bits}\nCapBnd:\t0\n"), &mut found);
            (found.faults.len(), found.notes.len())
        };
        assert_eq!(told("000001ffffffffff"), (0, 0));
        assert_eq!(told("0000000000000000"), (2, 2));
        assert_eq!(told("0000000000003000"), (0, 2));
        assert_eq!(told("nonsense"), (0, 1));
    }
}
