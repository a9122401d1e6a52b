//! `vrrp_instance`: what it says about one host.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::super::ledger::{Id, Ledger};
use super::super::tree::Node;
use super::known;
use crate::config::accepts;

/// What `global_defs` says that matters to instances.
#[derive(Clone, Debug, Default)]
pub(super) struct Defaults {
    pub(super) version: Option<u8>,
    pub(super) garp_repeat: Option<u8>,
    pub(super) garp_refresh: Option<Duration>,
    pub(super) interface: Option<String>,
    pub(super) router_id: Option<(String, Id)>,
}

/// An instance on one host.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) id: Id,
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) vrid: u8,
    pub(super) version: u8,
    pub(super) addresses: Vec<String>,
    /// Addresses of the other family, which go with them.
    pub(super) excluded: Vec<String>,
    pub(super) priority: u8,
    pub(super) advert_interval: Duration,
    pub(super) no_preempt: bool,
    pub(super) preempt_delay: Option<Duration>,
    pub(super) source: Option<(String, Id)>,
    pub(super) peers: Vec<String>,
    pub(super) virtual_mac: bool,
    pub(super) garp_repeat: Option<u8>,
    pub(super) garp_refresh: Option<Duration>,
    pub(super) track_interfaces: Vec<String>,
    pub(super) notify: Option<PathBuf>,
}

/// Reads an instance. `None` if it cannot be carried over.
pub(super) fn instance(
    node: &Node,
    defaults: &Defaults,
    scripts: &[&Node],
    ledger: &mut Ledger,
) -> Option<Instance> {
    let mut found = Instance {
        id: node.id,
        name: node.word(1).to_owned(),
        interface: defaults.interface.clone().unwrap_or_default(),
        vrid: 0,
        version: defaults.version.unwrap_or(2),
        addresses: Vec::new(),
        excluded: Vec::new(),
        priority: 100,
        advert_interval: Duration::from_secs(1),
        no_preempt: false,
        preempt_delay: None,
        source: None,
        peers: Vec::new(),
        virtual_mac: false,
        garp_repeat: defaults.garp_repeat,
        garp_refresh: defaults.garp_refresh,
        track_interfaces: Vec::new(),
        notify: None,
    };
    // What addresses are compared with has to be known first.
    if let Some(interface) = node.child("interface") {
        found.interface = interface.word(1).to_owned();
    }
    for child in node.children() {
        if !found.read(child, scripts, ledger) {
            known::account(child, ledger);
        }
    }
    let missing = match (found.vrid, found.interface.as_str(), found.addresses.as_slice()) {
        (0, ..) => "virtual_router_id is missing, or not 1 to 255",
        (_, "", _) => "interface is missing",
        (_, _, []) => "no address is left of it",
        _ => {
            ledger.carried(node.id);
            found.settle_families(ledger);
            return Some(found);
        }
    };
    ledger.lost(node.id, missing);
    None
}

impl Instance {
    fn read(&mut self, node: &Node, scripts: &[&Node], ledger: &mut Ledger) -> bool {
        let id = node.id;
        match node.name() {
            "interface" => {}
            "virtual_router_id" => self.vrid = node.number().unwrap_or(0),
            "priority" => match node.number::<u8>().filter(|&number| number > 0) {
                Some(priority) => self.priority = priority,
                None => ledger.lost(id, "it is not 1 to 255: 100 holds"),
            },
            "version" => match node.number() {
                Some(version @ 2..=3) => self.version = version,
                _ => ledger.lost(id, "there are versions 2 and 3"),
            },
            "advert_int" => match seconds(node.word(1)).filter(|time| !time.is_zero()) {
                Some(time) => self.advert_interval = time,
                None => ledger.lost(id, "it is no number of seconds: 1 holds"),
            },
            "nopreempt" => self.no_preempt = true,
            "preempt" => self.no_preempt = false,
            "preempt_delay" => self.preempt_delay = seconds(node.word(1)),
            "unicast_src_ip" => self.source = Some((node.word(1).to_owned(), id)),
            "unicast_peer" => {
                for peer in node.children() {
                    self.peers.push(peer.name().to_owned());
                    ledger.carried(peer.id);
                    if peer.words.len() > 1 {
                        ledger.needless(peer.id, "limits of hops are those of the protocol");
                    }
                }
            }
            "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                for entry in node.children() {
                    self.address(entry, node.name() == "virtual_ipaddress_excluded", ledger);
                }
            }
            "use_vmac" | "use_vmac_addr" => self.virtual_mac = true,
            "garp_master_repeat" => {
                self.garp_repeat = node.number().filter(|n| (1..=100).contains(n));
            }
            "garp_master_refresh" => self.garp_refresh = seconds(node.word(1)),
            "track_interface" => self.track_interfaces(node, ledger),
            "track_script" | "track_process" => track_scripts(node, scripts, ledger),
            "notify" => return self.notify(node, ledger),
            _ => return false,
        }
        ledger.carried(id);
        true
    }

    fn address(&mut self, entry: &Node, is_excluded: bool, ledger: &mut Ledger) {
        let text = entry.name();
        let with_prefix = match text.split_once('/') {
            Some(_) => text.to_owned(),
            // The default of keepalived.
            None if text.contains(':') => format!("{text}/128"),
            None => format!("{text}/32"),
        };
        let address = match accepts::floating(&with_prefix) {
            Ok(address) => address.to_string(),
            Err(why) => {
                ledger.lost(entry.id, why);
                return;
            }
        };
        let mut words = entry.rest().iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "dev" => {
                    let device = words.next().unwrap_or_default();
                    if device != self.interface {
                        let why = format!(
                            "dev {device}: addresses go to the interface of their instance: write \
                             a [[vrrp]] for {device}, in the same sync_group"
                        );
                        ledger.lost(entry.id, why);
                        return;
                    }
                }
                "label" => {
                    let label = words.next().unwrap_or_default();
                    ledger.needless(entry.id, format!("label {label}: addresses have no labels"));
                }
                "brd" | "broadcast" | "scope" | "peer" | "metric" => {
                    let value = words.next().unwrap_or_default();
                    if word == "peer" {
                        ledger.lost(entry.id, format!("peer {value}: addresses have no peers"));
                        return;
                    }
                }
                "no_track" | "track_group" | "home" | "noprefixroute" | "-nodad" | "nodad"
                | "mngtmpaddr" => {}
                other => ledger.lost(entry.id, format!("{other}: addresses have no such option")),
            }
        }
        if self.addresses.contains(&address) || self.excluded.contains(&address) {
            ledger.needless(entry.id, "it is there already");
            return;
        }
        ledger.carried(entry.id);
        let is_ipv6 = |address: &String| address.contains(':');
        let family = self.addresses.first().map(is_ipv6);
        if family.is_none_or(|family| family == is_ipv6(&address)) {
            if is_excluded {
                ledger.changed(entry.id, "adverts name it as well: let both gateways be lockgate");
            }
            self.addresses.push(address);
        } else {
            ledger.changed(
                entry.id,
                "addresses of the other family are an instance of their own, in the same \
                 sync_group",
            );
            self.excluded.push(address);
        }
    }

    /// Version 2 has no IPv6.
    fn settle_families(&mut self, ledger: &mut Ledger) {
        if self.version == 2 && self.addresses.iter().any(|address| address.contains(':')) {
            self.version = 3;
            ledger.changed(self.id, "IPv6 is spoken in version 3");
        }
        if self.version == 2 && self.advert_interval.subsec_nanos() != 0 {
            let seconds = self.advert_interval.as_secs().max(1);
            self.advert_interval = Duration::from_secs(seconds);
            ledger.changed(self.id, "version 2 has whole seconds: advert_interval is rounded");
        }
        if self.version == 3 {
            let steps = (self.advert_interval.as_millis() / 10).clamp(1, 4095);
            let steps = u64::try_from(steps).unwrap_or(100);
            self.advert_interval = Duration::from_millis(steps * 10);
        }
        let longest = Duration::from_secs(255);
        self.advert_interval = self.advert_interval.min(longest);
    }

    fn track_interfaces(&mut self, node: &Node, ledger: &mut Ledger) {
        for entry in node.children() {
            if entry.rest().iter().any(|word| word == "weight") {
                ledger.lost(
                    entry.id,
                    "an interface that is down gives up the addresses, or nothing: there is no \
                     weight",
                );
                continue;
            }
            ledger.carried(entry.id);
            let name = entry.name().to_owned();
            // The instance's own is watched anyway.
            if name != self.interface && !self.track_interfaces.contains(&name) {
                self.track_interfaces.push(name);
            }
        }
    }

    fn notify(&mut self, node: &Node, ledger: &mut Ledger) -> bool {
        let program = node.word(1);
        if program.starts_with('/') && !program.contains(char::is_whitespace) {
            if node.words.len() > 2 {
                ledger.needless(node.id, "it runs as the user that lockgate runs as");
            }
            self.notify = Some(PathBuf::from(program));
            ledger.carried(node.id);
        } else {
            ledger.lost(
                node.id,
                "notify is the path of a program, which gets \"INSTANCE\" NAME STATE PRIORITY: \
                 write one that has the other arguments in it",
            );
        }
        true
    }

    /// Whether its addresses are IPv6.
    pub(super) fn is_ipv6(&self) -> bool {
        self.addresses.first().is_some_and(|address| address.contains(':'))
    }

    /// Its peers, without what is no address.
    pub(super) fn peer_addresses(&self) -> Vec<String> {
        let is_fit = |peer: &&String| {
            peer.parse::<IpAddr>().is_ok_and(|peer| peer.is_ipv6() == self.is_ipv6())
        };
        self.peers.iter().filter(is_fit).cloned().collect()
    }
}

/// Seconds, perhaps with a fraction.
fn seconds(text: &str) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    (0.0..=1_000_000.0).contains(&number).then(|| {
        // Hundredths are the finest that the protocol has.
        Duration::from_millis((number * 100.0).round() as u64 * 10)
    })
}

/// Scripts that see whether a proxy runs are not needed: the gateway knows that of itself.
fn track_scripts(node: &Node, scripts: &[&Node], ledger: &mut Ledger) {
    for entry in node.children() {
        let script = scripts.iter().find(|script| script.word(1) == entry.name());
        let is_of_proxy = script.is_some_and(|script| {
            let words = script.children().iter().flat_map(|child| &child.words);
            let text = words.cloned().collect::<Vec<_>>().join(" ");
            let asks = ["killall -0", "pidof", "pgrep", "systemctl is-active", "process", "pid"];
            ["haproxy", "nginx", "lockgate"].iter().any(|name| text.contains(name))
                && asks.iter().any(|ask| text.contains(ask))
        });
        if is_of_proxy {
            let why = "a gateway whose workers do not serve gives its addresses away by itself";
            ledger.needless(entry.id, why);
            if let Some(script) = script {
                script.all_needless(why, ledger);
            }
        } else {
            let why = "no scripts decide: use track_pools, which changes the priority while a \
                       pool has no usable backend";
            ledger.lost(entry.id, why);
            if let Some(script) = script {
                script.all_lost(why, ledger);
            }
        }
    }
}
