//! What holds for any bytes whatever, for tests and for fuzzing: as a packet, and as the history
//! of a host.

use std::net::IpAddr;
use std::time::Duration;

use lockgate_vrrp::Router;
use lockgate_vrrp::advert::{Addresses, Advert, Checksum, LONGEST, Packet, Scope};
use lockgate_vrrp::instance::{Actions, Role};
use lockgate_vrrp::router::{InstanceId, Obstacle, Sink, VirtualRouter};
use lockgate_vrrp::settings::{Address, ChecksumPolicy, Settings};
use lockgate_vrrp::types::{Family, Interval, Moment, Priority, Vrid};

/// The ends of a packet's way.
fn ends(ipv6: bool, unicast: bool) -> (IpAddr, IpAddr) {
    let ip = |text: &str| text.parse().expect("an address");
    match (ipv6, unicast) {
        (false, false) => (ip("10.0.0.3"), Family::V4.group()),
        (false, true) => (ip("10.0.0.3"), ip("10.0.0.2")),
        (true, false) => (ip("fe80::3"), Family::V6.group()),
        (true, true) => (ip("fe80::3"), ip("fe80::2")),
    }
}

/// A packet is refused, or is an advert that can be sent again. The first byte says how it came;
/// the rest is the packet.
pub fn packet(bytes: &[u8]) {
    let Some((&how, payload)) = bytes.split_first() else { return };
    let (source, destination) = ends(how & 1 != 0, how & 2 != 0);
    let (ttl, scope) = match how & 12 {
        0 => (255, Scope::Routed),
        4 => (how, Scope::Routed),
        8 => (how, Scope::Link),
        _ => (255, Scope::Link),
    };
    let packet = Packet { source, destination, ttl, payload };
    let Ok((advert, checksum)) = Advert::decode(&packet, scope) else { return };
    assert!(ttl == 255 || scope == Scope::Routed);
    assert_eq!(advert.octets(), payload.len());
    assert!(!advert.addresses.is_empty());
    assert_eq!(advert.addresses.iter().count(), advert.addresses.len());
    assert!(advert.addresses.iter().all(|ip| Family::of(ip) == Family::of(source)));
    let mut buffer = [0xff; LONGEST];
    let length = advert.encode(source, destination, checksum, &mut buffer).expect("room");
    let again = Packet { payload: &buffer[..length], ..packet };
    let (decoded, _) = Advert::decode(&again, scope).expect("what we send");
    assert_eq!(decoded, advert);
    assert_eq!(advert.encode(source, destination, checksum, &mut buffer[..length - 1]), None);
}

/// Bytes, one after the other; zeros at the end.
struct Tape<'a>(&'a [u8]);

impl Tape<'_> {
    fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn bit(&mut self) -> bool {
        self.next() & 1 != 0
    }
}

fn settings(name: &str, vrid: u8, tape: &mut Tape<'_>) -> Settings {
    let how = tape.next();
    let shared: &[&str] = if how & 1 == 0 { &["10.0.0.100"] } else { &["10.0.0.100", "10.0.0.7"] };
    let centis = if how & 2 == 0 { 1 } else { 10 };
    let interval =
        if how & 4 == 0 { Interval::from_centis(centis) } else { Interval::from_secs(1) };
    Settings {
        name: name.into(),
        interface: "lan".into(),
        vrid: Vrid::new(vrid).expect("not 0"),
        addresses: shared
            .iter()
            .map(|ip| Address { ip: ip.parse().expect("an address"), prefix: 24 })
            .collect(),
        priority: Priority::new(tape.next().max(1)),
        interval: interval.expect("in range"),
        preempt: how & 8 == 0,
        preempt_delay: Duration::from_millis(if how & 16 == 0 { 0 } else { 50 }),
        unicast_peers: if how & 96 == 96 { vec![ends(false, true).0] } else { Vec::new() },
        source: None,
        checksum: ChecksumPolicy::Auto,
        sync_group: (how & 128 != 0).then(|| "group".into()),
        virtual_mac: false,
        garp_repeat: 5,
        garp_refresh: Duration::ZERO,
        track_interfaces: Vec::new(),
        notify: None,
    }
}

struct Host {
    router: Router,
    now: Moment,
    roles: Vec<(InstanceId, Role)>,
    actions: usize,
}

impl Host {
    /// Tells the router something, and checks what it says.
    fn call<T>(&mut self, call: impl FnOnce(&mut Router, Moment, &mut Sink<'_>) -> T) -> T {
        let (roles, count) = (&mut self.roles, &mut self.actions);
        let mut sink = |router: &VirtualRouter, actions: Actions| {
            *count += 1;
            let Actions { send, transition, announce } = actions;
            let known = roles.iter_mut().find(|(id, _)| *id == router.id());
            let before = known.as_ref().map_or(Role::Init, |(_, role)| *role);
            let after = router.role();
            assert_eq!(
                transition.map(|transition| (transition.from, transition.to)),
                (before != after).then_some((before, after))
            );
            assert!(!announce || after == Role::Master);
            assert!(announce || before == after || after != Role::Master);
            match (send, before, after) {
                (None, _, _) | (Some(Priority::RELEASE), Role::Master, _) => {}
                (Some(priority), _, Role::Master) => assert_eq!(priority, router.priority()),
                // It concedes.
                (Some(priority), Role::Master, Role::Backup) => {
                    assert!(priority <= router.priority());
                }
                (Some(priority), _, _) => panic!("{priority} from {before} to {after}"),
            }
            if let Some(priority) = send {
                let mut buffer = [0; LONGEST];
                let group = Family::V4.group();
                let forms: Vec<_> = router.checksums(priority).collect();
                assert!(forms.len() == 1 || forms.len() == 2 && priority == Priority::RELEASE);
                let encode = |form| router.encode(priority, group, form, &mut buffer);
                assert!(forms.into_iter().map(encode).all(|length| length.is_some()));
            }
            match known {
                Some((_, role)) => *role = after,
                None => roles.push((router.id(), after)),
            }
        };
        let answer = call(&mut self.router, self.now, &mut sink);
        let counts = |router: &&VirtualRouter| {
            router.settings().sync_group.is_some() && !router.is_unknown()
        };
        let grouped = self.router.iter().filter(counts);
        let mut masters = grouped.map(|router| router.role() == Role::Master);
        let first = masters.next();
        assert!(masters.all(|is_master| Some(is_master) == first), "half a group");
        answer
    }

    fn advert(&mut self, tape: &mut Tape<'_>) {
        let (how, priority, centis) = (tape.next(), tape.next(), tape.next());
        let wire =
            if how & 1 == 0 { vec![10, 0, 0, 100] } else { vec![10, 0, 0, 100, 10, 0, 0, 7] };
        let interval = match how & 6 {
            0 => Interval::from_secs(1),
            2 => Interval::from_centis(4_095),
            4 => Interval::from_centis(10),
            _ => Interval::from_centis(u16::from(centis).max(1)),
        };
        let advert = Advert {
            vrid: Vrid::new(1 + (how >> 7)).expect("not 0"),
            priority: Priority::new(priority),
            interval: interval.expect("in range"),
            addresses: Addresses::from_wire(Family::V4, &wire).expect("whole"),
        };
        let (source, destination) = ends(false, how & 8 != 0);
        let mut buffer = [0; 64];
        let form = if how & 16 == 0 { Checksum::Rfc9568 } else { Checksum::PseudoHeader };
        let length = advert.encode(source, destination, form, &mut buffer).expect("room");
        self.receive(&Packet { source, destination, ttl: 255, payload: &buffer[..length] });
    }

    /// What is refused changes nothing.
    fn receive(&mut self, packet: &Packet<'_>) {
        let (timeout, actions) = (self.router.poll_timeout(), self.actions);
        let answer = self.call(|router, now, sink| router.receive("lan", packet, now, sink));
        if answer.is_err() {
            assert_eq!((self.router.poll_timeout(), self.actions), (timeout, actions));
        }
    }
}

/// Whatever happens to a host, in whatever order: its virtual routers say what they do, only a
/// master advertises and announces, a group is master as a whole, and a timer that has gone off is
/// not due again.
pub fn history(bytes: &[u8]) {
    let mut tape = Tape(bytes);
    let mut host = Host {
        router: Router::new(),
        now: Moment::new(Duration::from_secs(1_000)),
        roles: Vec::new(),
        actions: 0,
    };
    while !tape.0.is_empty() {
        let what = tape.next();
        let ids: Vec<_> = host.router.iter().map(VirtualRouter::id).collect();
        let id = ids.get(usize::from(what >> 7)).copied();
        match (what & 0x0f, id) {
            (0, _) => {
                let all = [settings("one", 1, &mut tape), settings("two", 2, &mut tape)];
                let all = all.into_iter().take(1 + usize::from(tape.bit())).collect();
                host.call(|router, now, sink| router.reconfigure(all, now, sink)).expect("valid");
            }
            (1, Some(id)) => {
                let source = ends(false, true).1;
                let source = Some(source).filter(|_| what & 0x30 != 0);
                host.call(|router, now, sink| router.set_source(id, source, now, sink));
            }
            (2, Some(id)) => {
                let obstacles =
                    [Obstacle::Interface, Obstacle::TrackedInterface, Obstacle::Service];
                let obstacle = obstacles[usize::from(tape.next() % 3)];
                let is_there = tape.next() & 3 == 0;
                host.call(|router, now, sink| {
                    router.set_obstacle(id, obstacle, is_there, now, sink);
                });
            }
            (3, Some(id)) => {
                let weight = i16::from(tape.next()) - 128;
                host.call(|router, now, sink| router.track(id, "pool", weight, now, sink));
            }
            (4, _) if what & 0x70 == 0x70 => host.call(Router::stop),
            (5, _) => {
                let length = usize::from(tape.next() & 63).min(tape.0.len());
                let (payload, rest) = tape.0.split_at(length);
                tape.0 = rest;
                let (source, destination) = ends(what & 0x10 != 0, what & 0x20 != 0);
                host.receive(&Packet { source, destination, ttl: 255, payload });
            }
            (6..=9, _) => host.advert(&mut tape),
            (10..=12, _) => {
                // To the moment when something is due, or a little later.
                let late = Duration::from_micros(u64::from(tape.next()).pow(2));
                let late = if what & 0x10 == 0 { Duration::ZERO } else { late };
                if let Some(due) = host.router.poll_timeout() {
                    host.now = host.now.max(due + late);
                }
                tick(&mut host);
            }
            _ => {
                let step = Duration::from_micros(u64::from(tape.next()).pow(3));
                host.now = host.now + step;
                if what & 0x10 != 0 {
                    tick(&mut host);
                }
            }
        }
    }
}

fn tick(host: &mut Host) {
    host.call(|router, now, sink| router.tick(now, sink));
    let due = host.router.poll_timeout();
    assert!(due.is_none_or(|due| due > host.now), "the timer is due again at once");
    // Four times the longest interval that there is.
    assert!(due.is_none_or(|due| due - host.now <= Duration::from_secs(164)));
}
