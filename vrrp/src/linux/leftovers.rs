//! Addresses that a process before left behind, as one does that was killed along with its guard.

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
    let mut besides = Vec::new();
    for settings in settings {
        let virtual_mac = Wanted::of(settings).map(|wanted| wanted.name);
        let on = |interface: &&Interface| {
            interface.name == settings.interface || Some(&interface.name) == virtual_mac.as_ref()
        };
        for interface in interfaces.iter().filter(on) {
            for found in interface.addresses.iter().filter(|found| found.is_ours()) {
                if settings.addresses.iter().any(|address| address.ip == found.address.ip) {
                    requests.push(Request::delete(found.index, found.address));
                    besides.push(vmac::source_rule_gone(found.index, found.address));
                    let interface = interface.name.clone();
                    leftovers.push(Leftover { interface, address: found.address });
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
    // Most had none, which is no trouble.
    let rules = netlink.apply(besides).map_err(system("delete rules"))?;
    tracing::debug!(rules = rules.iter().filter(|gone| gone.is_ok()).count(), "rules deleted");
    Ok(leftovers)
}
