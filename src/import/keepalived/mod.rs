//! keepalived.conf: `lex` reads it, `instance` says what an instance is on one host, and here the
//! hosts of a pair are put together. `lvs` makes listeners and pools of virtual servers.

use std::path::PathBuf;
use std::time::Duration;

use super::ledger::{Id, Ledger};
use super::model::{Model, Node as Member, Vrrp};
use super::tree::Node;
use super::{Error, Files, names};
use instance::{Defaults, Instance, instance};

mod instance;
mod known;
mod lex;
mod lvs;

/// What is configured on one host.
struct Host {
    name: String,
    from: Id,
    instances: Vec<Instance>,
    /// Groups, and the names of their instances.
    groups: Vec<(String, Vec<String>)>,
}

/// Adds what these files say, one for each host.
pub(super) fn import(
    paths: &[PathBuf],
    files: &dyn Files,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Result<(), Error> {
    let mut hosts = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let lines = lex::lines(path, files, ledger)?;
        let names = lex::hosts(&lines);
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
        if names.is_empty() {
            let tree = lex::tree(&lines, None)?;
            let wish = if paths.len() > 1 { format!("{stem}-{}", index + 1) } else { stem };
            hosts.extend(host(&tree, &wish, index == 0, model, ledger));
        }
        for (which, name) in names.iter().enumerate() {
            let tree = lex::tree(&lines, Some(name))?;
            let is_first = index == 0 && which == 0;
            let mut found = host(&tree, name, is_first, model, ledger);
            if let Some(host) = &mut found {
                host.name.clone_from(name);
            }
            hosts.extend(found);
        }
    }
    join(hosts, model, ledger);
    Ok(())
}

/// `None` if there is no instance on it.
fn host(
    tree: &[Node],
    wish: &str,
    is_first: bool,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Option<Host> {
    let mut defaults = Defaults::default();
    for node in tree.iter().filter(|node| node.name() == "global_defs") {
        ledger.structure(node.id);
        globals(node, &mut defaults, ledger);
    }
    let is_script = |node: &&Node| {
        matches!(node.name(), "vrrp_script" | "vrrp_track_process" | "track_process")
    };
    let scripts: Vec<&Node> = tree.iter().filter(is_script).collect();
    let mut instances = Vec::new();
    let mut groups = Vec::new();
    for node in tree {
        match node.name() {
            "vrrp_instance" => {
                ledger.structure(node.id);
                instances.extend(instance(node, &defaults, &scripts, ledger));
            }
            "vrrp_sync_group" => {
                ledger.structure(node.id);
                groups.push(group(node, ledger));
            }
            // The servers are the same on all hosts.
            "virtual_server" if is_first => lvs::virtual_server(node, tree, model, ledger),
            "virtual_server" | "virtual_server_group" if !is_first => {
                node.all_needless("virtual servers are those of the first file", ledger);
            }
            _ => {}
        }
    }
    for node in tree {
        known::account(node, ledger);
    }
    let from = defaults.router_id.as_ref().map(|(_, id)| *id);
    let from = from.or_else(|| instances.first().map(|instance| instance.id))?;
    let name = defaults.router_id.map_or_else(|| wish.to_owned(), |(name, _)| name);
    (!instances.is_empty()).then(|| Host { name: names::fit(&name), from, instances, groups })
}

fn globals(node: &Node, defaults: &mut Defaults, ledger: &mut Ledger) {
    for child in node.children() {
        match child.name() {
            "router_id" => {
                defaults.router_id = Some((child.word(1).to_owned(), child.id));
                ledger.needless(child.id, "it names a [node.NAME], where there are several");
            }
            "vrrp_version" => {
                defaults.version = child.number().filter(|version| matches!(version, 2 | 3));
                ledger.carried(child.id);
            }
            "vrrp_garp_master_repeat" => {
                defaults.garp_repeat = child.number().filter(|n| (1..=100).contains(n));
                ledger.carried(child.id);
            }
            "vrrp_garp_master_refresh" => {
                defaults.garp_refresh = child.number().map(Duration::from_secs);
                ledger.carried(child.id);
            }
            "default_interface" => {
                defaults.interface = Some(child.word(1).to_owned());
                ledger.carried(child.id);
            }
            _ => known::account(child, ledger),
        }
    }
}

fn group(node: &Node, ledger: &mut Ledger) -> (String, Vec<String>) {
    let mut members = Vec::new();
    for child in node.children() {
        match child.name() {
            "group" => {
                ledger.carried(child.id);
                for entry in child.children() {
                    members.extend(entry.words.iter().cloned());
                    ledger.carried(entry.id);
                }
            }
            "global_tracking" | "sync_group_tracking_weight" | "track_interface" => {
                child.all_lost("what is tracked is tracked by each instance", ledger);
            }
            _ => known::account(child, ledger),
        }
    }
    (names::fit(node.word(1)), members)
}

/// Makes one configuration of what is on the hosts.
fn join(hosts: Vec<Host>, model: &mut Model, ledger: &mut Ledger) {
    let Some((first, others)) = hosts.split_first() else { return };
    let nodes = if others.is_empty() { Vec::new() } else { members(&hosts, ledger) };
    for instance in &first.instances {
        let twins: Vec<&Instance> = others
            .iter()
            .filter_map(|host| {
                host.instances.iter().find(|other| {
                    (other.vrid, other.is_ipv6()) == (instance.vrid, instance.is_ipv6())
                        && (other.interface == instance.interface || other.name == instance.name)
                })
            })
            .collect();
        let mut vrrp = made(instance, model);
        vrrp.sync_group = first
            .groups
            .iter()
            .find(|(_, members)| members.contains(&instance.name))
            .map(|(name, _)| name.clone());
        settle_priority(&mut vrrp, instance, &twins, &nodes, &hosts, ledger);
        settle_peers(&mut vrrp, instance, &nodes, ledger);
        for twin in &twins {
            compare(instance, twin, ledger);
        }
        if let Some((_, id)) = &instance.source {
            if nodes.is_empty() {
                ledger.changed(*id, "adverts come from the address that the route to a peer has");
            } else {
                ledger.carried(*id);
            }
        }
        add(vrrp, instance, model);
    }
    for host in others {
        for instance in &host.instances {
            let is_known = first.instances.iter().any(|other| other.vrid == instance.vrid);
            if !is_known {
                ledger.lost(instance.id, "the first host does not have it: a file is for all");
            }
            if let Some((_, id)) = &instance.source {
                ledger.carried(*id);
            }
        }
    }
    for node in nodes {
        ledger.carried(node.from);
        model.nodes.push(node);
    }
}

/// `[node.*]`: names, addresses and priorities of the hosts.
fn members(hosts: &[Host], ledger: &mut Ledger) -> Vec<Member> {
    let mut names = names::Names::default();
    let mut members: Vec<Member> = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let own = host.instances.iter().find_map(|one| one.source.as_ref()).map(|(ip, _)| ip);
        // Of two, the other says how it reaches this one.
        let told = hosts.iter().enumerate().find(|(other, _)| hosts.len() == 2 && *other != index);
        let told = told.and_then(|(_, other)| match other.instances.first()?.peers.as_slice() {
            [only] => Some(only),
            _ => None,
        });
        let address = own.or(told).cloned();
        let address = address.filter(|ip| !members.iter().any(|m| m.address.as_ref() == Some(ip)));
        let priority = host.instances.first().map_or(100, |instance| instance.priority);
        if priority == 255 {
            ledger.changed(host.from, "an owner of addresses has 255 in its [[vrrp]]; 254 holds");
        }
        members.push(Member {
            from: host.from,
            name: names.claim(&host.name),
            address,
            priority: priority.min(254),
        });
    }
    members
}

fn made(instance: &Instance, model: &mut Model) -> Vrrp {
    Vrrp {
        from: instance.id,
        name: model.vrrp_names.claim(&instance.name),
        interface: instance.interface.clone(),
        vrid: instance.vrid,
        version: instance.version,
        addresses: instance.addresses.clone(),
        priority: Some(instance.priority),
        advert_interval: instance.advert_interval,
        // An owner always preempts.
        no_preempt: instance.no_preempt && instance.priority != 255,
        preempt_delay: instance.preempt_delay.filter(|delay| !delay.is_zero()),
        unicast_peers: instance.peer_addresses(),
        virtual_mac: instance.virtual_mac,
        garp_repeat: instance.garp_repeat.filter(|&number| number != 5),
        garp_refresh: instance.garp_refresh.filter(|&time| time != Duration::from_secs(60)),
        track_interfaces: instance.track_interfaces.clone(),
        sync_group: None,
        notify: instance.notify.clone(),
    }
}

/// The priority of an instance is that of its node where that is true on all of them.
fn settle_priority(
    vrrp: &mut Vrrp,
    instance: &Instance,
    twins: &[&Instance],
    nodes: &[Member],
    hosts: &[Host],
    ledger: &mut Ledger,
) {
    if nodes.is_empty() {
        return;
    }
    let all: Vec<&Instance> = std::iter::once(instance).chain(twins.iter().copied()).collect();
    let is_of_nodes = all.len() == nodes.len()
        && all.iter().zip(nodes).all(|(one, node)| one.priority == node.priority);
    if is_of_nodes {
        vrrp.priority = None;
        return;
    }
    for (twin, host) in twins.iter().zip(hosts.iter().skip(1)) {
        if twin.priority != instance.priority {
            let why = format!(
                "a node has one priority for all its instances: on {} write priority = {} here",
                host.name, twin.priority
            );
            ledger.changed(twin.id, why);
        }
    }
}

fn settle_peers(vrrp: &mut Vrrp, instance: &Instance, nodes: &[Member], ledger: &mut Ledger) {
    let is_known = |peer: &String| nodes.iter().any(|node| node.address.as_ref() == Some(peer));
    let is_of_family = |node: &Member| {
        node.address.as_ref().is_some_and(|address| address.contains(':') == instance.is_ipv6())
    };
    if nodes.len() > 1 && !vrrp.unicast_peers.is_empty() {
        if nodes.iter().all(is_of_family) && vrrp.unicast_peers.iter().all(is_known) {
            vrrp.unicast_peers = vec!["node".to_owned()];
        } else {
            ledger.changed(instance.id, "unicast_peers are those of the first host");
        }
    }
    if vrrp.unicast_peers.is_empty() && !instance.peers.is_empty() {
        ledger.lost(instance.id, "unicast_peer: no address of the right family: multicast");
    }
}

/// What is not the same on two hosts, other than what nodes are for.
fn compare(first: &Instance, other: &Instance, ledger: &mut Ledger) {
    let mut differs = Vec::new();
    for (what, is_same) in [
        ("interface", first.interface == other.interface),
        ("version", first.version == other.version),
        ("virtual_ipaddress", first.addresses == other.addresses),
        ("virtual_ipaddress_excluded", first.excluded == other.excluded),
        ("advert_int", first.advert_interval == other.advert_interval),
        ("nopreempt", first.no_preempt == other.no_preempt),
        ("preempt_delay", first.preempt_delay == other.preempt_delay),
        ("use_vmac", first.virtual_mac == other.virtual_mac),
        ("track_interface", first.track_interfaces == other.track_interfaces),
        ("notify", first.notify == other.notify),
    ] {
        if !is_same {
            differs.push(what);
        }
    }
    if !differs.is_empty() {
        let why =
            format!("not the same on both hosts: {}; that of the first holds", differs.join(", "));
        ledger.changed(other.id, why);
    }
}

/// Adds an instance, and another for the addresses of the other family.
fn add(mut vrrp: Vrrp, instance: &Instance, model: &mut Model) {
    if instance.excluded.is_empty() {
        model.vrrp.push(vrrp);
        return;
    }
    let group = vrrp.sync_group.clone().unwrap_or_else(|| names::fit(&instance.name));
    vrrp.sync_group = Some(group);
    let suffix = if instance.is_ipv6() { "v4" } else { "v6" };
    let twin = Vrrp {
        name: model.vrrp_names.claim(&format!("{}-{suffix}", instance.name)),
        addresses: instance.excluded.clone(),
        // Peers are of the other family.
        unicast_peers: Vec::new(),
        version: if instance.is_ipv6() { vrrp.version } else { 3 },
        ..vrrp.clone()
    };
    model.vrrp.push(vrrp);
    model.vrrp.push(twin);
}
