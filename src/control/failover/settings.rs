//! What VRRP is told of a plan: the instances, as one of the nodes has them.

use lockgate_vrrp::settings::{Address, ChecksumPolicy, Settings};
use lockgate_vrrp::types::{Interval, Priority, Version, Vrid};

use super::super::Failure;
use super::super::node::Host;
use crate::config::plan;

/// The instances of a plan, as `node` runs them.
pub fn settings(plan: &plan::Plan, node: Option<&plan::Node>) -> Result<Vec<Settings>, Failure> {
    let host = Host::this();
    plan.vrrp.iter().map(|vrrp| settings_of(vrrp, plan, node, &host)).collect()
}

/// Fails if a program that is to be told of changes cannot be run.
pub(in crate::control) fn check_programs(plan: &plan::Plan) -> Result<(), Failure> {
    programs(plan).into_iter().next().map_or(Ok(()), |fault| Err(Failure::Material(fault)))
}

/// What is wrong with the programs that are to be told of changes.
pub fn programs(plan: &plan::Plan) -> Vec<String> {
    let mut faults = Vec::new();
    for vrrp in &plan.vrrp {
        let Some(program) = &vrrp.notify else { continue };
        let fault = match std::fs::metadata(program) {
            Err(error) => Some(error.to_string()),
            Ok(found) if !found.is_file() => Some("it is not a file".to_owned()),
            Ok(_) => {
                let may_run = nix::unistd::access(program, nix::unistd::AccessFlags::X_OK);
                may_run.err().map(|_| "it is not executable".to_owned())
            }
        };
        if let Some(fault) = fault {
            faults.push(format!("vrrp {}: notify: {}: {fault}", vrrp.name, program.display()));
        }
    }
    faults
}

fn settings_of(
    vrrp: &plan::Vrrp,
    plan: &plan::Plan,
    node: Option<&plan::Node>,
    host: &Host,
) -> Result<Settings, Failure> {
    let fault = |what: &str| Failure::Material(format!("vrrp {}: {what}", vrrp.name));
    // The same list serves all gateways: whoever is in it does not talk to itself.
    let mut unicast_peers = vrrp.peers(node, &plan.nodes);
    unicast_peers.retain(|peer| !host.has(*peer));
    if unicast_peers.is_empty() && !vrrp.unicast_peers.is_empty() {
        return Err(fault("unicast_peers: all of them are addresses of this host"));
    }
    let version = match vrrp.version {
        plan::vrrp::Version::V2 => Version::V2,
        plan::vrrp::Version::V3 => Version::V3,
    };
    // A plan keeps to the ranges of both, so that neither is ever missing.
    let (Some(vrid), Some(interval)) =
        (Vrid::new(vrrp.vrid.get()), Interval::from_duration(version, vrrp.advert_interval))
    else {
        return Err(fault("vrid or advert_interval is out of range"));
    };
    Ok(Settings {
        name: vrrp.name.clone(),
        interface: vrrp.interface.clone(),
        vrid,
        addresses: vrrp
            .addresses
            .iter()
            .map(|floating| Address { ip: floating.address, prefix: floating.prefix })
            .collect(),
        priority: Priority::new(vrrp.priority(node)),
        interval,
        preempt: vrrp.preempt,
        preempt_delay: vrrp.preempt_delay,
        unicast_peers,
        source: vrrp.source(node, |address| host.has(address)),
        checksum: match vrrp.checksum {
            plan::vrrp::Checksum::Auto => ChecksumPolicy::Auto,
            plan::vrrp::Checksum::Rfc9568 => ChecksumPolicy::Rfc9568,
            plan::vrrp::Checksum::PseudoHeader => ChecksumPolicy::PseudoHeader,
        },
        sync_group: vrrp.sync_group.clone(),
        virtual_mac: vrrp.virtual_mac,
        garp_repeat: vrrp.garp_repeat,
        garp_refresh: vrrp.garp_refresh,
        track_interfaces: vrrp.track_interfaces.clone(),
        notify: vrrp.notify.as_ref().map(|program| program.display().to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const ALL: &str = include_str!("../../config/tests/vrrp.toml");

    #[test]
    fn every_node_gets_settings_that_vrrp_takes() {
        let plan = config::parse("t.toml", ALL).unwrap();
        for node in &plan.nodes {
            let settings = settings(&plan, Some(node)).unwrap();
            lockgate_vrrp::settings::check(&settings).unwrap();
            assert_eq!(settings[0].interval.secs(), Some(2));
            assert_eq!(settings[1].priority.get(), node.priority.get());
            assert_eq!(settings[2].unicast_peers.len(), 1);
            assert_ne!(Some(settings[2].unicast_peers[0]), node.address);
        }
    }

    #[test]
    fn programs_have_to_be_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (path, fault) in [
            ("/nonexistent/moved", "No such file"),
            ("/etc", "it is not a file"),
            (file.path().to_str().unwrap(), "it is not executable"),
        ] {
            let text = ALL.replace("/usr/local/bin/moved", path);
            let faults = programs(&config::parse("t.toml", &text).unwrap());
            assert!(faults.len() == 1 && faults[0].contains(fault), "{path}: {faults:?}");
        }
    }
}
