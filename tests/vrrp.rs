//! The pair: lockgate with lockgate, and with the real keepalived, on a LAN of network namespaces
//! (see [`crate::harness::pair`]).

mod both_ways;
mod crafted;
mod faults;
mod script;
mod traffic;

use std::collections::BTreeMap;

use crate::harness::Gateway;
use crate::harness::capture::{Advert, Capture, Checksum};
use crate::harness::pair::GATEWAYS;
use crate::harness::routers::{Mode, VRID};

/// Packets that were refused, by reason, over all instances.
fn errors(gateway: &Gateway) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for line in gateway.get("/metrics").lines() {
        let Some(labels) = line.strip_prefix("lockgate_vrrp_advert_errors_total{") else {
            continue;
        };
        let (_, reason) = labels.split_once("reason=\"").unwrap();
        let (reason, _) = reason.split_once('"').unwrap();
        let (_, count) = line.rsplit_once(' ').unwrap();
        *errors.entry(reason.to_owned()).or_default() += count.parse::<u64>().unwrap();
    }
    // A reason may be shown before anything was refused for it.
    errors.retain(|_, count| *count > 0);
    errors
}

/// How often the instance has changed its state.
fn transitions(gateway: &Gateway) -> f64 {
    gateway.metric("lockgate_vrrp_transitions_total", &[("instance", "public")])
}

/// The instance's state, as `lockgate status` has it.
fn state(gateway: &Gateway) -> String {
    gateway.status()["vrrp"][0]["state"].as_str().unwrap().to_owned()
}

/// Adverts that a gateway has sent.
fn adverts_of(capture: &Capture, gateway: usize) -> Vec<Advert> {
    let mut adverts = capture.adverts();
    adverts.retain(|advert| advert.source_mac == [2, 0, 0, 0, 0, 2 + gateway as u8]);
    adverts
}

/// Fails unless an advert is what the RFCs ask for (9568, 5; 3768, 5), byte by byte.
#[track_caller]
fn assert_well_formed(advert: &Advert, mode: Mode) {
    let (version, interval, rest) = match mode {
        Mode::V2 => (2, 1, 8),
        _ => (3, 10, 0),
    };
    assert_eq!((advert.version, advert.kind, advert.vrid), (version, 1, VRID), "{advert:?}");
    assert_eq!((advert.ttl, advert.interval), (255, interval), "{advert:?}");
    assert_eq!(advert.addresses, mode.addresses(), "{advert:?}");
    assert_eq!(usize::from(advert.count), advert.addresses.len(), "{advert:?}");
    assert_eq!(advert.rest, vec![0; rest], "{advert:?}");
    match mode {
        Mode::V2 => assert_eq!(advert.checksum, Some(Checksum::Message), "{advert:?}"),
        Mode::Ipv6 => assert_eq!(advert.checksum, Some(Checksum::PseudoHeader), "{advert:?}"),
        Mode::V3 | Mode::Unicast => assert!(advert.checksum.is_some(), "{advert:?}"),
    }
    let destination = match mode {
        Mode::Ipv6 => Some(("ff02::12".parse().unwrap(), [0x33, 0x33, 0, 0, 0, 0x12])),
        Mode::V2 | Mode::V3 => {
            Some(("224.0.0.18".parse().unwrap(), [0x01, 0x00, 0x5e, 0, 0, 0x12]))
        }
        Mode::Unicast => None,
    };
    match destination {
        Some(group) => assert_eq!((advert.destination, advert.destination_mac), group),
        None => assert!(GATEWAYS.iter().any(|own| advert.destination == *own), "{advert:?}"),
    }
}
