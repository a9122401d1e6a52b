//! What `[node.NAME]` and `[[vrrp]]` mean together: names are unique, references lead somewhere,
//! and every node could run the plan.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use super::{Node, TrackedPool, Vrrp};
use crate::config::address::parse_name;
use crate::config::findings::{Findings, Span, Spanned, quote};
use crate::config::plan;
use crate::config::plan::vrrp::{Checksum, Floating, OWNER, Peer, Version};
use crate::config::reader::Field;
use crate::config::resolve::{Names, Pools};
use crate::config::units::format_duration;

/// Most nodes: a mistake of a program rather than a plan of a person.
const MOST_NODES: usize = 64;

/// Most addresses of an instance: their number is one byte (RFC 9568, section 5.2.5), and an
/// advert of IPv6 is not to exceed what Ethernet carries.
const MOST_V4: usize = 255;
const MOST_V6: usize = 90;

/// The nodes, as the instances see them.
pub(in crate::config) struct Nodes {
    pub(in crate::config) plan: Vec<plan::Node>,
    /// Where the address of each is written, or its header.
    places: Vec<Span>,
    /// Whether the file says which there are, and all that is there could be read.
    are_known: bool,
}

/// Turns the nodes that were typed into those of a plan.
pub(in crate::config) fn nodes(typed: Field<Vec<Node>>, errors: &mut Findings) -> Nodes {
    let mut are_known = !matches!(typed, Field::Wrong);
    let mut taken: HashMap<IpAddr, Span> = HashMap::new();
    let (mut plan, mut places) = (Vec::new(), Vec::new());
    let typed = typed.given();
    if let Some(nodes) = typed.as_ref().filter(|nodes| nodes.value.len() > MOST_NODES) {
        let message = format!("node: {} are more than {MOST_NODES}", nodes.value.len());
        errors.wrong(nodes.span, message);
    }
    for node in typed.map_or_else(Vec::new, |nodes| nodes.value) {
        if let Err(problem) = parse_name(&node.name.value) {
            errors.problem(node.name.span, "node", problem);
        }
        are_known &= !matches!(node.address, Field::Wrong);
        let place = node.address.as_given().map_or(node.header, |address| address.span);
        let address = node.address.or(None);
        if let Some(address) = address
            && let Some(first) = taken.insert(address, place)
        {
            let message = format!("address: {address} is already that of another node");
            errors.clash(place, message, first);
        }
        plan.push(plan::Node { name: node.name.value, address, priority: node.priority });
        places.push(place);
    }
    Nodes { plan, places, are_known }
}

/// What no two instances may share, and where each is written.
#[derive(Default)]
struct Taken {
    /// By interface, family (whether it is IPv6) and number.
    vrids: HashMap<(String, bool, u8), Span>,
    /// A link-local one is another on each interface, whose name is there too.
    addresses: HashMap<(Option<String>, IpAddr), Span>,
}

/// Turns the instances that were typed into those of a plan.
pub(in crate::config) fn instances(
    typed: Vec<Vrrp>,
    nodes: &Nodes,
    pools: &Pools,
    errors: &mut Findings,
) -> Vec<plan::Vrrp> {
    let mut names = Names::new("vrrp");
    let mut taken = Taken::default();
    typed
        .into_iter()
        .map(|typed| instance(typed, nodes, pools, &mut names, &mut taken, errors))
        .collect()
}

fn instance(
    typed: Vrrp,
    nodes: &Nodes,
    pools: &Pools,
    names: &mut Names,
    taken: &mut Taken,
    errors: &mut Findings,
) -> plan::Vrrp {
    report_missing(&typed, errors);
    let interface = typed.interface.as_given().map(|interface| interface.value.clone());
    let name = match &typed.name {
        Field::Given(name) => {
            names.claim(&name.value, name.span, errors);
            name.value.clone()
        }
        Field::Wrong => String::new(),
        Field::Absent => default_name(&typed, names, errors),
    };
    let family = addresses(&typed.addresses, interface.as_deref(), taken, errors);
    if let (Some(interface), Some(vrid), Some(is_ipv6)) =
        (&interface, typed.vrid.as_given(), family)
    {
        let key = (interface.clone(), is_ipv6, vrid.value);
        if let Some(&first) = taken.vrids.get(&key) {
            let family = if is_ipv6 { "IPv6" } else { "IPv4" };
            let message =
                format!("vrid: {} of {family} is already used on {interface}", vrid.value);
            errors
                .clash(vrid.span, message, first)
                .help("one instance can hold many addresses; another needs another vrid");
        } else {
            taken.vrids.insert(key, vrid.span);
        }
    }
    if let (Some(version), Some(true)) = (typed.version.as_given(), family)
        && version.value == Version::V2
    {
        errors
            .wrong(version.span, "version: 2 is for IPv4, and these addresses are IPv6")
            .help("write version = 3");
    }
    let is_owner = typed.priority.as_given().is_some_and(|priority| priority.value == OWNER);
    report_owner(&typed, is_owner, errors);
    report_priority(&typed, nodes, errors);
    report_checksum(&typed, family, errors);
    if let Some(is_ipv6) = family {
        report_peers(&typed, is_ipv6, nodes, errors);
        report_source(&typed, is_ipv6, errors);
    }
    let advert_interval = interval(&typed, errors);
    let track_pools = track_pools(typed.track_pools, pools, errors);
    plan::Vrrp {
        name,
        interface: interface.unwrap_or_default(),
        vrid: typed.vrid.value().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MIN),
        version: typed.version.or(Version::V3),
        addresses: values(typed.addresses),
        priority: typed.priority.value().and_then(NonZeroU8::new),
        advert_interval,
        preempt: typed.preempt.or(true),
        preempt_delay: typed.preempt_delay,
        unicast_peers: values(typed.unicast_peers),
        source: typed.source.or(None),
        checksum: typed.checksum.or(Checksum::Auto),
        virtual_mac: typed.virtual_mac,
        garp_repeat: typed.garp_repeat,
        garp_refresh: typed.garp_refresh,
        track_interfaces: typed.track_interfaces,
        track_pools,
        sync_group: typed.sync_group,
        notify: typed.notify,
    }
}

fn values<T>(field: Field<Vec<Spanned<T>>>) -> Vec<T> {
    field.or(Vec::new()).into_iter().map(|spanned| spanned.value).collect()
}

fn report_missing(typed: &Vrrp, errors: &mut Findings) {
    if typed.interface.is_absent() {
        errors
            .key_missing(typed.header, "this vrrp has no 'interface'")
            .help("write interface = \"eth0\"; `ip link` lists those of this host");
    }
    if typed.vrid.is_absent() {
        errors
            .key_missing(typed.header, "this vrrp has no 'vrid'")
            .help("write vrid = 51: 1 to 255, the same on both gateways, used by nobody else");
    }
    if typed.addresses.is_absent() {
        errors
            .key_missing(typed.header, "this vrrp has no 'addresses'")
            .help("write addresses = [\"10.0.1.100/24\"]");
    }
}

/// `eth0-51`: what is missing is reported, and needs no second report.
fn default_name(typed: &Vrrp, names: &mut Names, errors: &mut Findings) -> String {
    let (Some(interface), Some(vrid)) = (typed.interface.as_given(), typed.vrid.as_given()) else {
        return String::new();
    };
    let name = format!("{}-{}", interface.value, vrid.value);
    names.claim(&name, typed.header, errors);
    name
}

/// Whether an address means something on its own link only.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Checks the addresses against each other and those of other instances. Returns whether they are
/// IPv6; `None` if nobody knows.
fn addresses(
    typed: &Field<Vec<Spanned<Floating>>>,
    interface: Option<&str>,
    taken: &mut Taken,
    errors: &mut Findings,
) -> Option<bool> {
    let typed = typed.as_given()?;
    let first = typed.value.first()?;
    let is_ipv6 = first.value.address.is_ipv6();
    for Spanned { value: Floating { address, .. }, span } in &typed.value {
        if address.is_ipv6() != is_ipv6 {
            let family = if is_ipv6 { "IPv4" } else { "IPv6" };
            let message = format!("addresses: {address} is {family}, unlike the first");
            errors
                .clash(*span, message, first.span)
                .help("write a [[vrrp]] of its own for each family; they may share a vrid");
        }
        let key = (interface.filter(|_| is_link_local(*address)).map(str::to_owned), *address);
        if let Some(&other) = taken.addresses.get(&key) {
            errors.clash(*span, format!("addresses: {address} is already listed"), other);
        } else {
            taken.addresses.insert(key, *span);
        }
    }
    let most = if is_ipv6 { MOST_V6 } else { MOST_V4 };
    if typed.value.len() > most {
        errors
            .wrong(typed.span, format!("addresses: {} are more than {most}", typed.value.len()))
            .help("write several [[vrrp]], in one sync_group if they belong together");
    }
    Some(is_ipv6)
}

/// An owner has the addresses whenever it can: nothing that would take them away applies to it.
fn report_owner(typed: &Vrrp, is_owner: bool, errors: &mut Findings) {
    if !is_owner {
        return;
    }
    if let Some(preempt) = typed.preempt.as_given().filter(|preempt| !preempt.value) {
        errors.wrong(preempt.span, "preempt: the owner (priority 255) always preempts");
    }
    if let Some(first) = typed.track_pools.first() {
        errors
            .wrong(first.span, "track_pools: the priority of an owner (255) never changes")
            .help("write a priority of 254 or less");
    }
}

fn report_priority(typed: &Vrrp, nodes: &Nodes, errors: &mut Findings) {
    let from_node = match &typed.priority {
        Field::Absent => Some(typed.header),
        Field::Given(priority) if priority.value == 0 => Some(priority.span),
        Field::Given(_) | Field::Wrong => None,
    };
    if let Some(span) = from_node
        && nodes.plan.is_empty()
        && nodes.are_known
    {
        errors
            .section_missing(
                span,
                "this vrrp has no 'priority', and there is no node to take it from",
            )
            .help("write priority = 150, or [node.NAME] with a 'priority' for each gateway");
    }
}

fn report_checksum(typed: &Vrrp, family: Option<bool>, errors: &mut Findings) {
    let Some(checksum) = typed.checksum.as_given().filter(|sum| sum.value != Checksum::Auto) else {
        return;
    };
    let is_v2 = typed.version.as_given().is_some_and(|version| version.value == Version::V2);
    if is_v2 || family == Some(true) {
        let what = if is_v2 { "version 2" } else { "IPv6" };
        errors
            .wrong(checksum.span, format!("checksum: {what} has only one form of it"))
            .help("leave it out; only version 3 over IPv4 has two");
    }
}

/// Adverts travel in the family of the addresses, and every node needs somebody to send them to.
fn report_peers(typed: &Vrrp, is_ipv6: bool, nodes: &Nodes, errors: &mut Findings) {
    let Some(peers) = typed.unicast_peers.as_given().filter(|peers| !peers.value.is_empty()) else {
        return;
    };
    let family = if is_ipv6 { "IPv6" } else { "IPv4" };
    for Spanned { value: peer, span } in &peers.value {
        match peer {
            Peer::Address(address) if address.is_ipv6() != is_ipv6 => {
                let message =
                    format!("unicast_peers: {address} is not {family}, unlike 'addresses'");
                errors.wrong(*span, message);
            }
            Peer::Nodes if nodes.are_known => {
                if nodes.plan.len() < 2 {
                    errors
                        .section_missing(*span, "unicast_peers: there is no other [node.NAME]")
                        .help("write a [node.NAME] with an 'address' for each gateway");
                }
                for (node, place) in nodes.plan.iter().zip(&nodes.places) {
                    let name = quote(&node.name);
                    match node.address {
                        None => drop(errors.clash(
                            *span,
                            format!("unicast_peers: node {name} has no 'address'"),
                            *place,
                        )),
                        Some(address) if address.is_ipv6() != is_ipv6 => drop(errors.clash(
                            *span,
                            format!("unicast_peers: the address of node {name} is not {family}"),
                            *place,
                        )),
                        Some(_) => {}
                    }
                }
            }
            Peer::Address(_) | Peer::Nodes => {}
        }
    }
    // Whoever is left with nobody would fall back to multicast, unlike the others.
    if let [Spanned { value: Peer::Address(only), span }] = &peers.value[..]
        && let Some(node) = nodes.plan.iter().find(|node| node.address == Some(*only))
    {
        let message = format!("unicast_peers: node {} has no peer but itself", quote(&node.name));
        errors.wrong(*span, message).help("write \"node\" for the addresses of all other nodes");
    }
}

/// Adverts come from one address of the host's own, which is the one that peers expect.
fn report_source(typed: &Vrrp, is_ipv6: bool, errors: &mut Findings) {
    let Some(Spanned { value: Some(source), span }) = typed.source.as_given() else { return };
    if source.is_ipv6() != is_ipv6 {
        let family = if is_ipv6 { "IPv6" } else { "IPv4" };
        errors.wrong(*span, format!("source: {source} is not {family}, unlike 'addresses'"));
        return;
    }
    let peers = typed.unicast_peers.as_given();
    let nodes = peers.and_then(|peers| peers.value.iter().find(|peer| peer.value == Peer::Nodes));
    if let Some(nodes) = nodes {
        let message = "source: adverts to nodes come from the 'address' of each node";
        errors.clash(*span, message, nodes.span).help("leave it out");
    }
    let is_owner = typed.priority.as_given().is_some_and(|priority| priority.value == OWNER);
    let shared = typed.addresses.as_given().and_then(|addresses| {
        addresses.value.iter().find(|shared| shared.value.address == *source)
    });
    if let Some(shared) = shared.filter(|_| !is_owner) {
        let message = format!("source: {source} is one of 'addresses', which a backup has not");
        errors.clash(*span, message, shared.span);
    }
}

fn interval(typed: &Vrrp, errors: &mut Findings) -> Duration {
    const STEP: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(40_950);
    let version = match &typed.version {
        Field::Absent => Version::V3,
        Field::Wrong => return STEP,
        Field::Given(version) => version.value,
    };
    let Some(Spanned { value, span }) = typed.advert_interval.as_given() else {
        return match version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => Duration::from_millis(100),
        };
    };
    let shown = format_duration(*value);
    match version {
        Version::V2 if value.subsec_nanos() != 0 || !(1..=255).contains(&value.as_secs()) => {
            errors
                .wrong(*span, format!("advert_interval: {shown} is not 1 to 255 whole seconds"))
                .note("version 2 sends its interval in seconds")
                .help("write \"1s\", or version = 3");
        }
        Version::V3 if *value > LONGEST || *value < STEP => {
            let message = format!(
                "advert_interval: {shown} is out of range (10ms to {})",
                format_duration(LONGEST)
            );
            errors.wrong(*span, message);
        }
        Version::V3 if value.as_micros() % STEP.as_micros() != 0 => {
            let message = format!("advert_interval: {shown} is not in steps of 10ms");
            errors.wrong(*span, message);
        }
        Version::V2 | Version::V3 => {}
    }
    *value
}

fn track_pools(
    typed: Vec<TrackedPool>,
    pools: &Pools,
    errors: &mut Findings,
) -> Vec<plan::TrackedPool> {
    let mut first: HashMap<usize, Span> = HashMap::new();
    let mut tracked = Vec::new();
    for typed in typed {
        if typed.pool.is_absent() {
            errors
                .key_missing(typed.span, "track_pools: this has no 'pool'")
                .help("write { pool = \"NAME\", weight = -60 }");
        }
        if typed.weight.is_absent() {
            errors
                .key_missing(typed.span, "track_pools: this has no 'weight'")
                .help("write weight = -60: what the priority changes by while nothing is usable");
        }
        let Some(pool) = pools.find("track_pools", typed.pool.as_given(), errors) else {
            continue;
        };
        if let Some(first) = first.insert(pool, typed.span) {
            errors.clash(typed.span, "track_pools: this pool is already listed", first);
        }
        tracked.push(plan::TrackedPool { pool, weight: typed.weight.or(-1) });
    }
    tracked
}
