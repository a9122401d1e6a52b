//! What a process before left behind, as one does that was killed along with its guard.

use std::io;

use super::links::{Interface, interfaces};
use super::netlink::{Netlink, Request, was_gone};
use super::vmac::{self, Wanted};
use super::{Error, Leftover};
use crate::settings::Settings;

/// See [`super::release_leftovers`].
pub fn release(settings: &[Settings]) -> Result<Vec<Leftover>, Error> {
    let system = |what| move |source: io::Error| Error::System { what, source };
    let mut netlink = Netlink::open().map_err(system("open netlink"))?;
    let interfaces = interfaces(&mut netlink).map_err(system("look at addresses"))?;
    let mut leftovers = Vec::new();
    let mut requests = Vec::new();
    for settings in settings {
        let virtual_mac = Wanted::of(settings).map(|wanted| wanted.name);
        let on = |interface: &&Interface| {
            interface.name == settings.interface || Some(&interface.name) == virtual_mac.as_ref()
        };
        for interface in interfaces.iter().filter(on) {
            for found in interface.addresses.iter().filter(|found| found.is_ours()) {
                if settings.addresses.iter().any(|address| address.ip == found.address.ip) {
                    requests.push(Request::delete(found.index, found.address));
                    let interface = interface.name.clone();
                    leftovers.push(Leftover { interface, address: Some(found.address) });
                }
            }
        }
    }
    let outcomes = netlink.apply(requests).map_err(system("delete addresses"))?;
    for (outcome, leftover) in outcomes.into_iter().zip(&leftovers) {
        match outcome {
            // With a primary address the kernel deletes its secondaries.
            Ok(()) => {}
            Err(error) if was_gone(&error) => {
                tracing::debug!(%leftover, "was gone before it was deleted");
            }
            Err(error) => return Err(system("delete an address")(error)),
        }
    }
    // A rule outlives its address, and the interface that it led to.
    let rules = netlink.rules().map_err(system("look at rules"))?;
    let ips: Vec<_> = settings.iter().flat_map(|it| &it.addresses).map(|it| it.ip).collect();
    let rules = rules.into_iter().filter(|rule| vmac::is_rule_for(rule, &ips));
    let gone = rules.map(vmac::rule_gone).collect::<Vec<_>>();
    for outcome in netlink.apply(gone).map_err(system("delete rules"))? {
        if let Err(error) = outcome {
            tracing::warn!(%error, "a rule for a virtual MAC cannot be deleted");
        }
    }
    for wanted in settings.iter().filter_map(Wanted::of) {
        let left =
            interfaces.iter().find(|it| it.name == wanted.name && it.mac == Some(wanted.mac));
        let Some(left) = left else { continue };
        match netlink.apply([vmac::link_gone(left.index)]).map(|mut all| all.pop()) {
            Ok(Some(Err(error))) if was_gone(&error) => {}
            Ok(Some(Err(error))) | Err(error) => {
                return Err(system("delete a virtual MAC")(error));
            }
            Ok(Some(Ok(())) | None) => {
                leftovers.push(Leftover { interface: wanted.name, address: None });
            }
        }
    }
    Ok(leftovers)
}
