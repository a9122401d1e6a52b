//! Virtual routers of one host, told what arrives and what changes.

extern crate std;

use core::time::Duration;
use std::borrow::ToOwned;
use std::string::String;
use std::vec;

use super::*;
use crate::advert::{Addresses, Advert, Checksum, LONGEST};
use crate::instance::{Cause, Role};
use crate::settings::ChecksumPolicy;
use crate::types::{Interval, Vrid};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Moment {
    Moment::new(ms(1_000_000 + millis))
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

const OWN: &str = "10.0.0.2";
const PEER: &str = "10.0.0.3";

fn settings(name: &str, vrid: u8, address: &str) -> Settings {
    Settings {
        name: name.into(),
        interface: "eth0".into(),
        vrid: Vrid::new(vrid).unwrap(),
        addresses: vec![Address { ip: ip(address), prefix: 24 }],
        priority: Priority::DEFAULT,
        interval: Interval::from_centis(10).unwrap(),
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast_peers: Vec::new(),
        source: None,
        checksum: ChecksumPolicy::Auto,
        sync_group: None,
        virtual_mac: false,
        garp_repeat: 5,
        garp_refresh: Duration::from_secs(60),
        track_interfaces: Vec::new(),
        notify: None,
    }
}

/// A router, and what it said.
struct Host {
    router: Router,
    said: Vec<(String, Actions)>,
    now: Moment,
}

impl Host {
    fn new(settings: Vec<Settings>) -> Self {
        let mut host = Self { router: Router::new(), said: Vec::new(), now: at(0) };
        host.reconfigure(settings).unwrap();
        for id in host.ids() {
            host.set_source(id, Some(OWN));
        }
        host.said.clear();
        host
    }

    fn ids(&self) -> Vec<InstanceId> {
        self.router.iter().map(VirtualRouter::id).collect()
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Router, Moment, &mut Sink<'_>) -> T) -> T {
        let said = &mut self.said;
        call(&mut self.router, self.now, &mut |router, actions| {
            said.push((router.settings().name.clone(), actions));
        })
    }

    fn reconfigure(&mut self, settings: Vec<Settings>) -> Result<Vec<Change>, settings::Error> {
        self.call(|router, now, sink| router.reconfigure(settings, now, sink))
    }

    fn set_source(&mut self, id: InstanceId, source: Option<&str>) {
        self.call(|router, now, sink| router.set_source(id, source.map(ip), now, sink));
    }

    fn set_obstacle(&mut self, id: InstanceId, obstacle: Obstacle, is_there: bool) {
        self.call(|router, now, sink| router.set_obstacle(id, obstacle, is_there, now, sink));
    }

    fn track(&mut self, id: InstanceId, name: &str, weight: i16) {
        self.call(|router, now, sink| router.track(id, name, weight, now, sink));
    }

    /// Lets time pass, tick by tick.
    fn pass(&mut self, length: Duration) {
        let end = self.now + length;
        while let Some(due) = self.router.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.call(|router, now, sink| router.tick(now, sink));
        }
        self.now = end;
    }

    fn receive(&mut self, from: &str, to: &str, payload: &[u8]) -> Result<InstanceId, Rejected> {
        let packet = Packet { source: ip(from), destination: ip(to), ttl: 255, payload };
        self.call(|router, now, sink| router.receive("eth0", &packet, now, sink))
    }

    fn role(&self, id: InstanceId) -> Role {
        self.router.get(id).unwrap().role()
    }

    /// The transitions since last asked, as `name: cause`.
    fn transitions(&mut self) -> Vec<String> {
        let said = core::mem::take(&mut self.said).into_iter();
        let changes = said.filter_map(|(name, actions)| Some((name, actions.transition?)));
        changes.map(|(name, it)| std::format!("{name}: {} {}", it.to, it.cause)).collect()
    }
}

/// An advert of the peer with these settings.
fn advert(settings: &Settings, priority: u8, checksum: Checksum) -> Vec<u8> {
    let octets = |address: &Address| match address.ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let wire: Vec<u8> = settings.addresses.iter().flat_map(octets).collect();
    let advert = Advert {
        vrid: settings.vrid,
        priority: Priority::new(priority),
        interval: settings.interval,
        addresses: Addresses::from_wire(settings.family(), &wire).unwrap(),
    };
    let mut buffer = vec![0; LONGEST];
    let length = advert.encode(ip(PEER), ip("224.0.0.18"), checksum, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

#[test]
fn packets_find_their_virtual_router_and_are_counted() {
    let one = settings("one", 51, "10.0.0.100");
    let two = settings("two", 52, "10.0.0.101");
    let mut host = Host::new(vec![one, two.clone()]);
    let ids = host.ids();
    let heard = advert(&two, 200, Checksum::Rfc9568);
    assert_eq!(host.receive(PEER, "224.0.0.18", &heard), Ok(ids[1]));
    let counts = |host: &Host, id| *host.router.get(id).unwrap().counts();
    assert_eq!((counts(&host, ids[0]).received, counts(&host, ids[1]).received), (0, 1));
    assert_eq!(host.router.get(ids[1]).unwrap().master(), Some(ip(PEER)));
    let release = advert(&two, 0, Checksum::Rfc9568);
    assert_eq!(host.receive(PEER, "224.0.0.18", &release), Ok(ids[1]));
    assert_eq!(counts(&host, ids[1]).priority_zero_received, 1);

    let foreign = advert(&settings("x", 53, "10.0.0.102"), 200, Checksum::Rfc9568);
    let mut broken = heard.clone();
    broken[2] ^= 1;
    for (payload, from, to, expected) in [
        (&foreign, PEER, "224.0.0.18", Rejected::Vrid),
        (&broken, PEER, "224.0.0.18", Rejected::Checksum),
        (&heard, OWN, "224.0.0.18", Rejected::OwnSource),
        (&heard, PEER, "10.0.0.2", Rejected::Destination),
        (&vec![0x31], PEER, "224.0.0.18", Rejected::Length),
    ] {
        assert_eq!(host.receive(from, to, payload), Err(expected));
    }
    let rejected = |reason| counts(&host, ids[1]).rejected.get(reason);
    assert_eq!(counts(&host, ids[1]).rejected.total(), 3);
    assert!(rejected(Rejected::Checksum) == 1 && rejected(Rejected::OwnSource) == 1);
    let strays = host.router.strays();
    assert!(strays.get(Rejected::Vrid) == 1 && strays.get(Rejected::Length) == 1);
    let packet =
        Packet { source: ip(PEER), destination: ip("224.0.0.18"), ttl: 254, payload: &heard };
    let routed = host.call(|router, now, sink| router.receive("eth0", &packet, now, sink));
    assert_eq!(routed, Err(Rejected::Ttl));
    let packet = Packet { ttl: 255, ..packet };
    let elsewhere = host.call(|router, now, sink| router.receive("eth1", &packet, now, sink));
    assert_eq!(elsewhere, Err(Rejected::Vrid));
    assert_eq!(host.transitions(), Vec::<String>::new());
}

#[test]
fn peers_are_those_that_are_configured() {
    let mut one = settings("one", 51, "10.0.0.100");
    one.unicast_peers = vec![ip(PEER), ip("192.0.2.9")];
    let mut host = Host::new(vec![one.clone()]);
    let id = host.ids()[0];
    let bytes = advert(&one, 200, Checksum::Rfc9568);
    assert_eq!(host.receive(PEER, OWN, &bytes), Ok(id));
    assert_eq!(host.receive("10.0.0.9", OWN, &bytes), Err(Rejected::NotAPeer));
    assert_eq!(host.receive(PEER, "224.0.0.18", &bytes), Err(Rejected::Destination));
    let source = ip("192.0.2.9");
    let packet = Packet { source, destination: ip(OWN), ttl: 60, payload: &bytes };
    let receive =
        |host: &mut Host| host.call(|router, now, sink| router.receive("eth0", &packet, now, sink));
    assert_eq!(receive(&mut host), Err(Rejected::Ttl));
    host.router.set_routed_peers(id, vec![source]);
    assert_eq!(receive(&mut host), Ok(id));
}

#[test]
fn version_2_is_strict_about_interval_and_addresses() {
    let mut one = settings("one", 51, "10.0.0.100");
    one.interval = Interval::from_secs(1).unwrap();
    let mut host = Host::new(vec![one.clone()]);
    let id = host.ids()[0];
    let mut receive = |settings: &Settings, priority| {
        host.receive(PEER, "224.0.0.18", &advert(settings, priority, Checksum::Rfc9568))
    };
    assert_eq!(receive(&one, 200), Ok(id));
    let slow = Settings { interval: Interval::from_secs(2).unwrap(), ..one.clone() };
    assert_eq!(receive(&slow, 200), Err(Rejected::Interval));
    let other = settings("one", 51, "10.0.0.101");
    let other = Settings { interval: one.interval, ..other };
    assert_eq!(receive(&other, 200), Err(Rejected::AddressList));
    assert_eq!(receive(&other, 255), Ok(id));
    let v3 = settings("one", 51, "10.0.0.100");
    assert_eq!(receive(&v3, 200), Err(Rejected::Version));
}

/// Or adding an address to one node first would make two masters.
#[test]
fn version_3_counts_other_addresses_and_intervals() {
    let one = settings("one", 51, "10.0.0.100");
    let mut host = Host::new(vec![one]);
    let mut other = settings("one", 51, "10.0.0.101");
    other.interval = Interval::from_centis(4_095).unwrap();
    let bytes = advert(&other, 200, Checksum::Rfc9568);
    let id = host.receive(PEER, "224.0.0.18", &bytes).unwrap();
    let counts = host.router.get(id).unwrap().counts();
    assert_eq!((counts.address_list_mismatch, counts.interval_mismatch), (1, 1));
    assert_eq!(counts.interval_out_of_bounds, 0);
    // However slow it is, it is waited for.
    let down = other.interval.down(Priority::DEFAULT);
    assert_eq!(host.router.poll_timeout(), Some(at(0) + down));
    other.interval = Interval::from_centis(1).unwrap();
    let one = Settings { interval: Interval::from_centis(200).unwrap(), ..other.clone() };
    let mut host = Host::new(vec![one]);
    let id = host.receive(PEER, "224.0.0.18", &advert(&other, 200, Checksum::Rfc9568)).unwrap();
    assert_eq!(host.router.get(id).unwrap().counts().interval_out_of_bounds, 1);
}

#[test]
fn the_checksum_is_that_of_the_peer_if_it_may_be() {
    let one = settings("one", 51, "10.0.0.100");
    let group = ip("224.0.0.18");
    for (policy, heard, expected) in [
        (ChecksumPolicy::Auto, Some(Checksum::PseudoHeader), Checksum::PseudoHeader),
        (ChecksumPolicy::Rfc9568, None, Checksum::Rfc9568),
        (ChecksumPolicy::Rfc9568, Some(Checksum::PseudoHeader), Checksum::Rfc9568),
        (ChecksumPolicy::PseudoHeader, Some(Checksum::Rfc9568), Checksum::PseudoHeader),
    ] {
        let one = Settings { checksum: policy, ..one.clone() };
        let mut host = Host::new(vec![one.clone()]);
        if let Some(heard) = heard {
            host.receive(PEER, "224.0.0.18", &advert(&one, 50, heard)).unwrap();
        }
        let mut buffer = [0; LONGEST];
        let router = host.router.iter().next().unwrap();
        let [checksum] = router.checksums(Priority::RELEASE).collect::<Vec<_>>()[..] else {
            panic!("both")
        };
        let length = router.encode(Priority::DEFAULT, group, checksum, &mut buffer).unwrap();
        let payload = &buffer[..length];
        let packet = Packet { source: ip(OWN), destination: group, ttl: 255, payload };
        assert_eq!(Advert::decode(&packet, Scope::Link).unwrap().1, expected, "{policy:?}");
    }
}

/// The forms of checksum of so many adverts, one after the other, of the first virtual router.
fn forms(host: &mut Host, adverts: usize) -> Vec<Vec<Checksum>> {
    let mut forms = Vec::new();
    while forms.len() < adverts {
        let due = host.router.poll_timeout().unwrap();
        host.now = host.now.max(due);
        let now = host.now;
        host.router.tick(now, &mut |router, actions| {
            forms.extend(actions.send.map(|priority| router.checksums(priority).collect()));
        });
    }
    forms
}

#[test]
fn as_long_as_nobody_is_heard_both_forms_of_the_checksum_are_tried() {
    use Checksum::{PseudoHeader, Rfc9568};
    let one = settings("one", 51, "10.0.0.100");
    let mut host = Host::new(vec![one.clone()]);
    let turns = [[Rfc9568], [PseudoHeader], [Rfc9568], [PseudoHeader]];
    assert_eq!(forms(&mut host, 4), turns);
    let last: Vec<_> = host.router.iter().next().unwrap().checksums(Priority::RELEASE).collect();
    assert_eq!(last, [Rfc9568, PseudoHeader]);
    // Who speaks is understood, and takes what it sends.
    host.receive(PEER, "224.0.0.18", &advert(&one, 50, PseudoHeader)).unwrap();
    assert_eq!(forms(&mut host, 3), [[PseudoHeader], [PseudoHeader], [PseudoHeader]]);
    let last: Vec<_> = host.router.iter().next().unwrap().checksums(Priority::RELEASE).collect();
    assert_eq!(last, [PseudoHeader]);
    // One that stays master beside us does not take it after all.
    for _ in 0..3 {
        host.receive(PEER, "224.0.0.18", &advert(&one, 50, PseudoHeader)).unwrap();
        host.pass(ms(100));
    }
    let mut some = forms(&mut host, 2);
    some.sort_by_key(|forms| forms[0] as u8);
    assert_eq!(some, [[Rfc9568], [PseudoHeader]]);
}

#[test]
fn only_what_has_two_forms_of_checksum_has_them_in_turn() {
    let two = Interval::from_secs(1).unwrap();
    for one in [
        Settings { interval: two, ..settings("one", 51, "10.0.0.100") },
        settings("one", 51, "fe80::100"),
        Settings { checksum: ChecksumPolicy::Rfc9568, ..settings("one", 51, "10.0.0.100") },
    ] {
        let mut host = Host::new(vec![one]);
        let id = host.ids()[0];
        if host.router.get(id).unwrap().settings().family() == Family::V6 {
            host.set_source(id, Some("fe80::2"));
        }
        assert_eq!(forms(&mut host, 3), [[Checksum::Rfc9568]; 3]);
    }
}

#[test]
fn link_local_addresses_are_sent_first() {
    let mut one = settings("one", 51, "2001:db8::1");
    one.addresses.push(Address { ip: ip("fe80::1"), prefix: 64 });
    let mut host = Host::new(vec![one]);
    let id = host.ids()[0];
    host.set_source(id, Some("fe80::2"));
    let mut buffer = [0; LONGEST];
    let router = host.router.get(id).unwrap();
    let to = ip("ff02::12");
    let length = router.encode(Priority::DEFAULT, to, Checksum::Rfc9568, &mut buffer).unwrap();
    assert_eq!((length, &buffer[8..10]), (40, &[0xfe, 0x80][..]));
}

#[test]
fn obstacles_and_the_source_decide_whether_it_runs() {
    let mut host = Host::new(vec![settings("one", 51, "10.0.0.100")]);
    let id = host.ids()[0];
    host.pass(ms(3_650));
    assert_eq!(host.transitions(), ["one: master master_timeout"]);
    host.set_obstacle(id, Obstacle::Service, true);
    assert_eq!(host.said[0].1.send, Some(Priority::RELEASE));
    assert_eq!(host.transitions(), ["one: init service_down"]);
    host.set_obstacle(id, Obstacle::Interface, true);
    host.set_source(id, None);
    host.set_obstacle(id, Obstacle::Service, false);
    assert_eq!(host.router.get(id).unwrap().cause(), Cause::InterfaceDown);
    host.set_obstacle(id, Obstacle::Interface, false);
    assert_eq!(host.router.get(id).unwrap().cause(), Cause::NoAddress);
    assert_eq!(host.transitions(), Vec::<String>::new());
    host.set_source(id, Some(OWN));
    assert_eq!(host.transitions(), ["one: backup address"]);
    let counts = *host.router.get(id).unwrap().counts();
    assert_eq!((counts.to_master, counts.to_init, counts.to_backup), (1, 1, 2));
    assert_eq!(counts.priority_zero_sent, 1);
}

#[test]
fn a_master_whose_source_is_gone_for_good_still_releases() {
    let mut host = Host::new(vec![settings("one", 51, "10.0.0.100")]);
    let id = host.ids()[0];
    host.pass(ms(3_700));
    host.said.clear();
    host.set_source(id, None);
    host.pass(ms(199));
    assert_eq!(host.transitions(), Vec::<String>::new());
    host.set_source(id, None);
    host.pass(ms(1));
    assert_eq!(host.said[0].1.send, Some(Priority::RELEASE));
    assert_eq!(host.transitions(), ["one: init no_address"]);
    let router = host.router.get(id).unwrap();
    let (to, form) = (ip("224.0.0.18"), Checksum::Rfc9568);
    assert!(router.encode(Priority::RELEASE, to, form, &mut [0; LONGEST]).is_some());
    host.set_source(id, Some(OWN));
    assert_eq!(host.transitions(), ["one: backup address"]);
}

#[test]
fn a_master_with_another_address_speaks_from_it_at_once_and_stays_master() {
    const OTHER: &str = "10.0.0.9";
    let mut host = Host::new(vec![settings("one", 51, "10.0.0.100")]);
    let id = host.ids()[0];
    host.pass(ms(3_700));
    for (gap, to) in [(150, OTHER), (0, OWN), (150, OWN), (199, OTHER)] {
        host.pass(ms(30));
        host.said.clear();
        if gap > 0 {
            host.set_source(id, None);
            assert!(host.router.get(id).unwrap().misses_source());
            host.pass(ms(gap));
            host.said.clear();
        }
        host.set_source(id, Some(to));
        let speaks = Actions { send: Some(Priority::DEFAULT), transition: None, announce: false };
        assert_eq!(host.said, [("one".to_owned(), speaks)], "{to}");
        let router = host.router.get(id).unwrap();
        assert_eq!((router.source(), router.master()), (Some(ip(to)), Some(ip(to))));
        assert!(!router.misses_source());
        assert_eq!(host.router.poll_timeout(), Some(host.now + ms(100)));
    }
    host.pass(ms(1_000));
    assert_eq!(host.transitions(), Vec::<String>::new());
    // It does not wait twice as long because something else has changed meanwhile.
    host.set_source(id, None);
    host.pass(ms(150));
    host.set_obstacle(id, Obstacle::Interface, true);
    host.set_obstacle(id, Obstacle::Interface, false);
    host.set_source(id, None);
    host.pass(ms(50));
    assert_eq!(host.router.get(id).unwrap().cause(), Cause::NoAddress);
}

#[test]
fn a_backup_and_a_group_outlive_a_change_of_address() {
    let (mut host, inside, outside) = group();
    let id = host.ids()[0];
    let hear = |host: &mut Host| {
        for settings in [&inside, &outside] {
            host.receive(PEER, "224.0.0.18", &advert(settings, 200, Checksum::Rfc9568)).unwrap();
        }
        host.pass(ms(90));
    };
    hear(&mut host);
    host.set_source(id, None);
    hear(&mut host);
    host.set_source(id, Some("10.0.0.9"));
    hear(&mut host);
    assert_eq!(host.said, []);
    host.pass(ms(3_700));
    host.said.clear();
    host.set_source(id, None);
    host.pass(ms(150));
    host.set_source(id, Some(OWN));
    assert_eq!(host.transitions(), Vec::<String>::new());
    // And give up together when there is none.
    host.set_source(id, None);
    host.pass(ms(200));
    assert_eq!(host.transitions(), ["inside: init no_address", "outside: init group"]);
}

#[test]
fn tracking_moves_the_priority_but_not_that_of_an_owner() {
    let mut host = Host::new(vec![settings("one", 51, "10.0.0.100")]);
    let id = host.ids()[0];
    host.pass(ms(3_650));
    host.said.clear();
    let priority = |host: &Host| host.router.get(id).unwrap().priority().get();
    host.track(id, "pool", -60);
    assert_eq!((priority(&host), host.said[0].1.send), (40, Some(Priority::new(40))));
    host.track(id, "pool", -60);
    assert_eq!(host.said.len(), 1, "nothing has changed");
    host.track(id, "other", -60);
    assert_eq!(priority(&host), 1);
    host.track(id, "pool", i16::MAX);
    assert_eq!(priority(&host), 254);
    host.track(id, "pool", 0);
    host.track(id, "other", 0);
    assert_eq!((priority(&host), host.router.get(id).unwrap().tracked().count()), (100, 0));
    assert_eq!(effective(Priority::OWNER, -100), Priority::OWNER);
}

#[test]
fn settings_that_are_the_same_are_not_noticed() {
    let all = vec![settings("one", 51, "10.0.0.100"), settings("two", 52, "10.0.0.101")];
    let mut host = Host::new(all.clone());
    host.pass(ms(3_700));
    let (due, since) = (host.router.poll_timeout(), host.router.iter().next().unwrap().since());
    host.said.clear();
    host.pass(ms(5));
    assert_eq!(host.reconfigure(all), Ok(vec![]));
    assert_eq!(host.router.poll_timeout(), due);
    assert_eq!(host.router.iter().next().unwrap().since(), since);
    assert_eq!(host.said, []);
}

#[test]
fn other_settings_are_taken_in_place() {
    let one = settings("one", 51, "10.0.0.100");
    let mut host = Host::new(vec![one, settings("two", 52, "10.0.0.101")]);
    let ids = host.ids();
    host.pass(ms(3_700));
    host.said.clear();
    let mut changed = settings("renamed", 51, "10.0.0.100");
    let (old, new) = (changed.addresses[0], Address { ip: ip("10.0.0.7"), prefix: 24 });
    changed.addresses.push(new);
    let result = host.reconfigure(vec![changed.clone()]);
    let added = Change::Changed { id: ids[0], acquired: vec![new], released: vec![] };
    assert_eq!(result, Ok(vec![Change::Removed(ids[1]), added]));
    let (name, actions) = host.said.pop().unwrap();
    assert_eq!((&*name, actions.send), ("renamed", Some(Priority::DEFAULT)));
    assert!(actions.announce && actions.transition.is_none());
    assert_eq!(host.transitions(), ["two: init shutdown"]);

    changed.addresses.remove(0);
    changed.preempt = false;
    let result = host.reconfigure(vec![changed.clone()]);
    let removed = Change::Changed { id: ids[0], acquired: vec![], released: vec![old] };
    assert_eq!(result, Ok(vec![removed]));
    assert_eq!(host.transitions(), Vec::<String>::new());
    assert_eq!(host.role(ids[0]), Role::Master);

    // Of another version it is another virtual router.
    changed.interval = Interval::from_secs(1).unwrap();
    let Ok(changes) = host.reconfigure(vec![changed.clone()]) else { panic!("refused") };
    let [Change::Removed(gone), Change::Added(new)] = changes[..] else { panic!("{changes:?}") };
    assert!(gone == ids[0] && !ids.contains(&new));
    assert_eq!(host.transitions(), ["renamed: init shutdown"]);
    assert_eq!(host.role(new), Role::Init);

    changed.addresses.clear();
    let refused = host.reconfigure(vec![changed]);
    assert_eq!(refused, Err(settings::Error::NoAddress("renamed".to_owned())));
    assert_eq!(host.ids(), [new]);
}

/// Two virtual routers of a group, each on its own link.
fn group() -> (Host, Settings, Settings) {
    let sync_group = Some("pair".to_owned());
    let inside = Settings { sync_group, ..settings("inside", 51, "10.0.0.100") };
    let outside =
        Settings { vrid: Vrid::new(52).unwrap(), name: "outside".into(), ..inside.clone() };
    (Host::new(vec![inside.clone(), outside.clone()]), inside, outside)
}

#[test]
fn a_group_becomes_master_when_all_of_it_would() {
    let (mut host, _, outside) = group();
    // One link has a master that is better: all wait.
    for _ in 0..20 {
        let bytes = advert(&outside, 200, Checksum::Rfc9568);
        host.receive(PEER, "224.0.0.18", &bytes).unwrap();
        host.pass(ms(100));
    }
    assert_eq!(host.transitions(), Vec::<String>::new());
    host.pass(ms(3_650));
    assert_eq!(
        host.transitions(),
        ["inside: master master_timeout", "outside: master master_timeout"]
    );
}

#[test]
fn a_group_gives_up_together() {
    let (mut host, inside, _) = group();
    let ids = host.ids();
    host.pass(ms(3_700));
    host.said.clear();
    host.receive(PEER, "224.0.0.18", &advert(&inside, 200, Checksum::Rfc9568)).unwrap();
    assert_eq!(host.said[1].1.send, Some(Priority::RELEASE), "its peer need not wait");
    assert_eq!(host.transitions(), ["inside: backup higher_priority", "outside: backup group"]);
    host.pass(ms(3_700));
    assert_eq!(host.role(ids[1]), Role::Master);
    host.said.clear();
    host.set_obstacle(ids[1], Obstacle::Interface, true);
    let causes = ["inside: init group", "outside: init interface_down"];
    assert_eq!(host.transitions(), causes);
    host.set_obstacle(ids[1], Obstacle::Interface, false);
    assert_eq!(host.transitions(), ["inside: backup group", "outside: backup interface_up"]);
}

/// One more member of the group of [`group`].
fn newcomer(inside: &Settings) -> Settings {
    let mut more = settings("more", 53, "10.0.0.102");
    more.sync_group.clone_from(&inside.sync_group);
    more
}

#[test]
fn a_new_member_of_a_master_group_is_master_at_once_and_the_others_stay() {
    let (mut host, inside, outside) = group();
    host.pass(ms(3_700));
    host.said.clear();
    let changes = host.reconfigure(vec![inside.clone(), outside, newcomer(&inside)]).unwrap();
    let [Change::Added(new)] = changes[..] else { panic!("{changes:?}") };
    assert_eq!(host.transitions(), Vec::<String>::new());
    // Packets and timers may come before the shell has looked at its interface.
    host.receive(PEER, "224.0.0.18", &advert(&inside, 50, Checksum::Rfc9568)).unwrap();
    host.pass(ms(250));
    assert_eq!(host.transitions(), Vec::<String>::new());
    host.set_source(new, Some(OWN));
    let last = host.said.last().unwrap();
    assert_eq!((&*last.0, last.1.send, last.1.announce), ("more", Some(Priority::DEFAULT), true));
    assert_eq!(host.transitions(), ["more: backup startup", "more: master group"]);
    host.pass(ms(5_000));
    assert_eq!(host.transitions(), Vec::<String>::new());
}

#[test]
fn a_new_member_of_a_backup_group_is_backup() {
    let (mut host, inside, outside) = group();
    let hear = |host: &mut Host, count: usize| {
        for _ in 0..count {
            for settings in [&inside, &outside] {
                host.receive(PEER, "224.0.0.18", &advert(settings, 200, Checksum::Rfc9568))
                    .unwrap();
            }
            host.pass(ms(100));
        }
    };
    hear(&mut host, 5);
    host.reconfigure(vec![inside.clone(), outside.clone(), newcomer(&inside)]).unwrap();
    let new = host.ids()[2];
    host.set_source(new, Some(OWN));
    assert_eq!(host.transitions(), ["more: backup startup"]);
    // Nobody is master of it, and it waits for the others.
    hear(&mut host, 40);
    assert_eq!(host.transitions(), Vec::<String>::new());
    host.pass(ms(400));
    assert_eq!(
        host.transitions(),
        [
            "inside: master master_timeout",
            "outside: master master_timeout",
            "more: master master_timeout"
        ]
    );
}

#[test]
fn a_new_member_that_cannot_run_takes_its_group_along() {
    let (mut host, inside, outside) = group();
    host.pass(ms(3_700));
    host.said.clear();
    host.reconfigure(vec![inside.clone(), outside, newcomer(&inside)]).unwrap();
    let new = host.ids()[2];
    host.set_obstacle(new, Obstacle::Interface, true);
    assert_eq!(host.transitions(), ["inside: init group", "outside: init group"]);
    host.set_source(new, Some(OWN));
    host.set_obstacle(new, Obstacle::Interface, false);
    let causes = ["inside: backup group", "outside: backup group", "more: backup interface_up"];
    assert_eq!(host.transitions(), causes);
}

#[test]
fn a_member_of_a_master_group_with_another_identifier_ends_the_old_one_and_is_master_at_once() {
    let (mut host, inside, mut outside) = group();
    host.pass(ms(3_700));
    host.said.clear();
    outside.vrid = Vrid::new(99).unwrap();
    let changes = host.reconfigure(vec![inside, outside]).unwrap();
    let [Change::Removed(_), Change::Added(new)] = changes[..] else { panic!("{changes:?}") };
    assert_eq!(host.said[0].1.send, Some(Priority::RELEASE));
    assert_eq!(host.transitions(), ["outside: init shutdown"]);
    host.set_source(new, Some(OWN));
    assert_eq!(host.transitions(), ["outside: backup startup", "outside: master group"]);
    assert!(host.router.iter().all(|router| router.role() == Role::Master));
}

/// A better master of the new member's identifier has the group, as ever.
#[test]
fn a_new_member_that_hears_a_better_master_yields_with_its_group() {
    let (mut host, inside, outside) = group();
    host.pass(ms(3_700));
    let more = newcomer(&inside);
    host.reconfigure(vec![inside, outside, more.clone()]).unwrap();
    let new = host.ids()[2];
    host.set_source(new, Some(OWN));
    host.said.clear();
    host.receive(PEER, "224.0.0.18", &advert(&more, 200, Checksum::Rfc9568)).unwrap();
    let causes = ["more: backup higher_priority", "inside: backup group", "outside: backup group"];
    assert_eq!(host.transitions(), causes);
}

/// Another process hands on a group that it did not have the new member of.
#[test]
fn a_group_that_is_handed_on_has_its_new_member_join() {
    let (mut elder, inside, outside) = group();
    elder.pass(ms(3_700));
    let shares: Vec<_> = elder.router.iter().map(VirtualRouter::bequeath).collect();
    let now = elder.now;
    let mut heir = Host { router: Router::new(), said: Vec::new(), now };
    heir.reconfigure(vec![newcomer(&inside), inside, outside]).unwrap();
    let ids = heir.ids();
    for id in &ids {
        heir.set_obstacle(*id, Obstacle::Predecessor, true);
        heir.set_source(*id, Some(OWN));
    }
    let inheritances = [ids[1], ids[2]].into_iter().zip(shares).collect();
    heir.call(|router, now, sink| router.take_up(inheritances, now, sink));
    assert_eq!(heir.transitions(), ["more: backup startup", "more: master group"]);
    assert!(heir.router.iter().all(|router| router.role() == Role::Master));
}

#[test]
fn tracking_counts_for_the_whole_group() {
    let (mut host, _, _) = group();
    let ids = host.ids();
    let priorities =
        |host: &Host| host.router.iter().map(|it| it.priority().get()).collect::<Vec<_>>();
    host.track(ids[0], "pool", -10);
    assert_eq!(priorities(&host), [90, 90]);
    // It is the same pool, and counts once.
    host.track(ids[1], "pool", -10);
    assert_eq!(priorities(&host), [90, 90]);
    host.track(ids[1], "pool", -20);
    assert_eq!(priorities(&host), [80, 80]);
    host.track(ids[1], "other", 5);
    assert_eq!(priorities(&host), [85, 85]);
    host.track(ids[0], "pool", 0);
    assert_eq!(priorities(&host), [85, 85]);
    host.track(ids[1], "pool", 0);
    assert_eq!(priorities(&host), [105, 105]);
}

#[test]
fn a_stop_is_for_good() {
    let mut host = Host::new(vec![settings("one", 51, "10.0.0.100")]);
    let id = host.ids()[0];
    host.pass(ms(3_700));
    host.said.clear();
    host.call(Router::stop);
    assert_eq!(host.said[0].1.send, Some(Priority::RELEASE));
    assert_eq!(host.transitions(), ["one: init shutdown"]);
    host.set_source(id, None);
    host.set_source(id, Some(OWN));
    host.pass(ms(1_000));
    assert_eq!((host.transitions(), host.role(id)), (vec![], Role::Init));
}

/// What is said of a packet, as `reason: received; expected`.
fn said_of(host: &mut Host, from: &str, to: &str, ttl: u8, payload: &[u8]) -> Vec<String> {
    let packet = Packet { source: ip(from), destination: ip(to), ttl, payload };
    let _counted = host.call(|router, now, sink| router.receive("eth0", &packet, now, sink));
    let text = |notice: &Notice| {
        assert_eq!(notice.from, ip(from));
        let Texts { received, expected } = &notice.texts;
        std::format!("{}: {received}; {expected}", notice.flaw.as_str())
    };
    host.router.notices().iter().map(text).collect()
}

#[test]
fn what_is_wrong_with_an_advert_is_said_with_what_was_expected() {
    const GROUP: &str = "224.0.0.18";
    let one = settings("one", 51, "10.0.0.100");
    let mut host = Host::new(vec![one.clone()]);
    let right = advert(&one, 200, Checksum::Rfc9568);
    let checksum = std::format!("{:#06x}", u16::from_be_bytes([right[6], right[7]]));
    let mut of_stranger = |change: &dyn Fn(&mut Vec<u8>), to: &str, ttl| {
        let mut payload = right.clone();
        change(&mut payload);
        said_of(&mut host, PEER, to, ttl, &payload)
    };
    let as_it_is = |_: &mut Vec<u8>| ();
    assert_eq!(of_stranger(&as_it_is, GROUP, 255), Vec::<String>::new());
    assert_eq!(
        of_stranger(&as_it_is, GROUP, 64),
        ["ttl: TTL 64; TTL 255, which nobody beyond a router can send"]
    );
    assert_eq!(
        of_stranger(&|it| it[0] = 0x21, GROUP, 255),
        ["length: 12 octets; 20 octets for a count of 1 addresses in version 2"]
    );
    let version = of_stranger(&|it| it[0] = 0x41, GROUP, 255);
    assert_eq!(version, ["version: version 4; version 3"]);
    let of_checksum = of_stranger(&|it| (it[6], it[7]) = (0x12, 0x34), GROUP, 255);
    let [line] = of_checksum.as_slice() else { panic!("{of_checksum:?}") };
    assert!(line.starts_with("checksum: checksum 0x1234; "), "{line}");
    assert!(line.contains(&std::format!("{checksum} (rfc9568) or ")), "{line}");
    assert!(line.ends_with(" (pseudo_header)"), "{line}");
    let destination = of_stranger(&as_it_is, OWN, 255);
    assert_eq!(
        destination,
        ["destination: sent to 10.0.0.2; sent to the group 224.0.0.18, as no unicast_peers are \
          configured"]
    );
    assert_eq!(of_stranger(&as_it_is, OWN, 255), Vec::<String>::new(), "it was said just now");
    let own = said_of(&mut host, OWN, GROUP, 255, &right);
    assert!(own[0].starts_with("own_source: sent from this gateway's own address 10.0.0.2; "));
    // Another virtual router on the same link is nobody's mistake.
    let other = advert(&settings("x", 52, "10.0.0.101"), 200, Checksum::Rfc9568);
    assert_eq!(said_of(&mut host, PEER, GROUP, 255, &other), Vec::<String>::new());
}

#[test]
fn what_differs_and_is_taken_is_said_too_and_both_are_counted() {
    let one = settings("one", 51, "10.0.0.100");
    let mut host = Host::new(vec![one.clone()]);
    let id = host.ids()[0];
    let mut other = settings("one", 51, "10.0.0.101");
    other.interval = Interval::from_centis(100).unwrap();
    let bytes = advert(&other, 200, Checksum::Rfc9568);
    let heard = said_of(&mut host, PEER, "224.0.0.18", 255, &bytes);
    assert_eq!(
        heard,
        [
            "interval_mismatch: advert_interval 1s, so that its silence is noticed after 3.6s; \
             advert_interval 100ms",
            "address_list_mismatch: addresses 10.0.0.101; addresses 10.0.0.100",
        ]
    );
    assert!(said_of(&mut host, PEER, "224.0.0.18", 255, &bytes).is_empty());
    let router = host.router.get(id).unwrap();
    assert_eq!(router.master(), Some(ip(PEER)));
    let counts: Vec<_> = router.counts().flaws().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, [(Flaw::Interval, 2), (Flaw::AddressList, 2)]);
    let last = router.last_flaw().unwrap();
    assert_eq!((last.flaw, last.from, last.at), (Flaw::AddressList, ip(PEER), host.now));
    assert_eq!(last.texts.unwrap().expected, "addresses 10.0.0.100");

    // A minute later it is said again, and after a reload at once, with what is expected by then.
    host.now = host.now + PERIOD;
    assert_eq!(said_of(&mut host, PEER, "224.0.0.18", 255, &bytes).len(), 2);
    assert_eq!(host.router.notices()[0].more, 1);
    let mut changed = one;
    changed.interval = other.interval;
    changed.addresses.push(Address { ip: ip("10.0.0.101"), prefix: 24 });
    host.reconfigure(vec![changed]).unwrap();
    assert_eq!(
        said_of(&mut host, PEER, "224.0.0.18", 255, &bytes),
        ["address_list_mismatch: addresses 10.0.0.101; addresses 10.0.0.100, 10.0.0.101"]
    );
}

#[test]
fn a_mismatch_of_version_2_is_a_refusal_that_is_said() {
    let mut one = settings("one", 51, "10.0.0.100");
    one.interval = Interval::from_secs(1).unwrap();
    let mut host = Host::new(vec![one.clone()]);
    let mut other = one.clone();
    other.interval = Interval::from_secs(3).unwrap();
    let bytes = advert(&other, 200, Checksum::Rfc9568);
    assert_eq!(
        said_of(&mut host, PEER, "224.0.0.18", 255, &bytes),
        ["interval: advert_interval 3s; advert_interval 1s"]
    );
    let mut password = advert(&one, 200, Checksum::Rfc9568);
    password[4] = 1;
    password[12..20].copy_from_slice(b"secret\0\0");
    // Both change the sum of 16-bit words; the checksum takes that back.
    let sum = password.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let sum = sum.sum::<u32>() - (u32::from(password[6]) << 8 | u32::from(password[7]));
    let sum = (sum & 0xffff) + (sum >> 16);
    password[6..8].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let texts = said_of(&mut host, PEER, "224.0.0.18", 255, &password);
    assert_eq!(texts, ["auth: authentication type 1, a password; no authentication"]);
}

/// An IPv6 advert of the peer with these addresses in this order.
fn advert_v6(addresses: &[&str]) -> Vec<u8> {
    let wire: Vec<u8> = addresses
        .iter()
        .flat_map(|it| it.parse::<core::net::Ipv6Addr>().unwrap().octets())
        .collect();
    let advert = Advert {
        vrid: Vrid::new(51).unwrap(),
        priority: Priority::new(200),
        interval: Interval::from_centis(10).unwrap(),
        addresses: Addresses::from_wire(Family::V6, &wire).unwrap(),
    };
    let mut buffer = vec![0; LONGEST];
    let (source, group) = (ip("fe80::3"), Family::V6.group());
    let length = advert.encode(source, group, Checksum::Rfc9568, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

#[test]
fn adverts_of_ipv6_begin_with_a_link_local_address() {
    let mut one = settings("one", 51, "2001:db8::1");
    let link_local = Address { ip: ip("fe80::51"), prefix: 64 };
    one.addresses.push(link_local);
    let mut host = Host::new(vec![one.clone()]);
    let id = host.ids()[0];
    host.set_source(id, Some("fe80::2"));
    host.said.clear();
    let wrong = advert_v6(&["2001:db8::1", "fe80::51"]);
    assert_eq!(
        said_of(&mut host, "fe80::3", "ff02::12", 255, &wrong),
        ["first_address: first address 2001:db8::1; a link-local address first"]
    );
    let none = advert_v6(&["2001:db8::1"]);
    assert!(said_of(&mut host, "fe80::3", "ff02::12", 255, &none).is_empty(), "it was said");
    let router = host.router.get(id).unwrap();
    assert_eq!(router.counts().rejected.get(Rejected::FirstAddress), 2);
    assert_eq!(router.master(), None);
    let right = advert_v6(&["fe80::51", "2001:db8::1"]);
    assert_eq!(host.receive("fe80::3", "ff02::12", &right), Ok(id));
    assert_eq!(host.router.get(id).unwrap().master(), Some(ip("fe80::3")));
    // A pair that is configured without one is warned, and still has one master.
    one.addresses.pop();
    let mut host = Host::new(vec![one]);
    let id = host.ids()[0];
    host.set_source(id, Some("fe80::2"));
    assert_eq!(host.receive("fe80::3", "ff02::12", &none), Ok(id));
}

#[test]
fn who_is_no_peer_is_said_with_those_who_are() {
    let mut one = settings("one", 51, "10.0.0.100");
    one.unicast_peers = vec![ip(PEER), ip("10.0.0.4")];
    let mut host = Host::new(vec![one.clone()]);
    let bytes = advert(&one, 200, Checksum::Rfc9568);
    assert_eq!(
        said_of(&mut host, "10.0.0.9", OWN, 255, &bytes),
        ["not_a_peer: sent from 10.0.0.9; one of unicast_peers: 10.0.0.3, 10.0.0.4"]
    );
    assert_eq!(
        said_of(&mut host, PEER, "224.0.0.18", 255, &bytes),
        ["destination: sent to 224.0.0.18; sent to this gateway alone, as unicast_peers are \
          configured"]
    );
}
