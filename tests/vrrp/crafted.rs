//! What a stranger on the LAN can send: packets that are wrong in one way each, and random ones.
//!
//! The gateway under attack is master; each crafted advert claims a higher priority, so that the
//! gateway would yield to it if it believed it. That it would is shown at the end, by a right one.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::capture::sum;
use crate::harness::pair::{GATEWAYS, Pair, STRANGER, set};
use crate::harness::routers::{Mode, VRID, lockgate};
use crate::harness::{Events, Gateway, Noise, eventually, lockgate as program, output_of};

use super::{errors, state, transitions};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const FLOATING: [u8; 4] = [10, 9, 0, 100];
/// Each is sent so often.
const TIMES: u64 = 5;

/// A packet over IPv4.
#[derive(Clone)]
struct Crafted {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    /// What VRRP has in it; the checksum is made right when it is sent.
    message: Vec<u8>,
    /// What is done to the checksum then.
    spoil: u8,
    /// What follows the message.
    trailer: Vec<u8>,
}

impl Crafted {
    /// A right advert of version 3, of a router that is to be master.
    fn version_3() -> Self {
        let mut message = vec![0x31, VRID, 200, 1, 0, 10, 0, 0];
        message.extend(FLOATING);
        Self { source: STRANGER, destination: GROUP, ttl: 255, message, spoil: 0, trailer: vec![] }
    }

    /// The same of version 2.
    fn version_2() -> Self {
        let mut message = vec![0x21, VRID, 200, 1, 0, 1, 0, 0];
        message.extend(FLOATING);
        message.extend([0; 8]);
        Self { message, ..Self::version_3() }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The packet; the kernel fills in what is zero of its header: length, number, checksum.
    fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, self.ttl, 112, 0, 0];
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        let mut message = self.message.clone();
        // In both versions the checksum is the fourth word.
        if message.len() >= 8 {
            message[6..8].fill(0);
            let checksum = (!sum(&message)).to_be_bytes();
            message[6..8].copy_from_slice(&checksum);
            message[7] ^= self.spoil;
        }
        packet.extend(message);
        packet.extend(&self.trailer);
        packet
    }
}

/// A socket from which the stranger sends.
fn stranger(lan: &Pair) -> Socket {
    lan.stranger.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        socket.set_header_included_v4(true).unwrap();
        socket.set_multicast_if_v4(&STRANGER).unwrap();
        socket
    })
}

fn send(socket: &Socket, crafted: &Crafted) {
    let to = SocketAddr::from((crafted.destination, 0));
    socket.send_to(&crafted.packet(), &to.into()).unwrap();
}

/// A gateway that is master, before a stranger.
struct Scene {
    gateway: Gateway,
    socket: Socket,
    lan: Pair,
    mode: Mode,
}

impl Scene {
    fn new(mode: Mode) -> Self {
        let lan = Pair::new();
        // What comes from one's own address is dropped by the kernel, unless this is set.
        set(&lan.gateways[0], "ipv4/conf/all/accept_local", 1);
        set(&lan.gateways[0], "ipv4/conf/all/rp_filter", 0);
        set(&lan.gateways[0], "ipv4/conf/eth0/rp_filter", 0);
        let gateway = lockgate(&lan, 0, mode, "", &[]);
        lan.await_owner(mode.floating(), 0);
        Self { gateway, socket: stranger(&lan), lan, mode }
    }

    /// Sends it some times, and expects it to be counted for this reason, and nothing else to be.
    #[track_caller]
    fn is_refused(&self, reason: &str, crafted: &Crafted) {
        let (before, changes) = (errors(&self.gateway), transitions(&self.gateway));
        let mut expected = before;
        *expected.entry(reason.to_owned()).or_default() += TIMES;
        for _ in 0..TIMES {
            send(&self.socket, crafted);
        }
        let what = format!("{TIMES} more are refused: {reason}");
        eventually(&what, || errors(&self.gateway).get(reason) >= expected.get(reason));
        assert_eq!(errors(&self.gateway), expected, "{reason}");
        assert_eq!(transitions(&self.gateway), changes, "{reason}");
        assert_eq!(state(&self.gateway), "master", "{reason}");
    }

    /// What `lockgate status` prints.
    fn screen(&self) -> String {
        let config = self.gateway.config_path();
        let output = output_of(Command::new(program()).args(["status", "-c"]).arg(config));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends it, and expects the gateway to yield to it.
    fn is_believed(&self, crafted: &Crafted) {
        let changes = transitions(&self.gateway);
        eventually("the gateway yields", || {
            send(&self.socket, crafted);
            // Of the two transitions, one may have been undone when it is looked at.
            transitions(&self.gateway) > changes
        });
        // And it takes over again when nothing more comes.
        self.lan.await_owner(self.mode.floating(), 0);
    }
}

#[test]
fn what_is_wrong_in_version_3_is_refused_and_counted() {
    let scene = Scene::new(Mode::V3);
    let right = Crafted::version_3();
    let refused = |reason, change: fn(&mut Crafted)| {
        scene.is_refused(reason, &right.clone().with(change));
    };
    refused("ttl", |packet| packet.ttl = 254);
    refused("ttl", |packet| packet.ttl = 1);
    refused("version", |packet| packet.message[0] = 0x41);
    refused("version", |packet| packet.message = Crafted::version_2().message);
    refused("checksum", |packet| packet.spoil = 1);
    refused("type", |packet| packet.message[0] = 0x32);
    refused("length", |packet| packet.message.truncate(7));
    refused("length", |packet| packet.message.truncate(11));
    refused("length", |packet| packet.message.extend([0; 4]));
    refused("length", |packet| packet.message[3] = 2);
    refused("auth", |packet| packet.trailer = vec![0x5a; 28]);
    refused("vrid", |packet| packet.message[1] = VRID + 1);
    refused("address_count", |packet| {
        packet.message[3] = 0;
        packet.message.truncate(8);
    });
    refused("interval", |packet| packet.message[5] = 0);
    refused("own_source", |packet| packet.source = GATEWAYS[0]);
    refused("destination", |packet| packet.destination = GATEWAYS[0]);
    scene.is_believed(&right);
}

#[test]
fn what_is_wrong_in_version_2_is_refused_and_counted() {
    let scene = Scene::new(Mode::V2);
    let right = Crafted::version_2();
    let refused = |reason, change: fn(&mut Crafted)| {
        scene.is_refused(reason, &right.clone().with(change));
    };
    refused("version", |packet| packet.message = Crafted::version_3().message);
    refused("checksum", |packet| packet.spoil = 1);
    refused("type", |packet| packet.message[0] = 0x22);
    // Without the eight bytes of authentication that version 2 always has.
    refused("length", |packet| packet.message.truncate(12));
    refused("vrid", |packet| packet.message[1] = VRID + 1);
    refused("interval", |packet| packet.message[5] = 2);
    refused("auth", |packet| packet.message[4] = 1);
    refused("auth", |packet| packet.trailer = vec![0x5a; 28]);
    scene.is_believed(&right);
}

#[test]
fn who_is_no_peer_is_refused_and_counted() {
    let scene = Scene::new(Mode::Unicast);
    let to_us = Crafted::version_3().with(|packet| packet.destination = GATEWAYS[0]);
    scene.is_refused("not_a_peer", &to_us);
    scene.is_refused(
        "destination",
        &Crafted::version_3().with(|packet| packet.source = GATEWAYS[1]),
    );
    scene.is_believed(&to_us.with(|packet| packet.source = GATEWAYS[1]));
}

/// What is seen of refused adverts, whatever they are refused for.
#[test]
fn what_is_refused_is_in_the_log_once_in_status_in_an_event_and_in_metrics() {
    const PACKETS: u64 = 30;
    let scene = Scene::new(Mode::V3);
    let events = Events::of(&scene.gateway);
    let right = Crafted::version_3();
    let hmac = |packet: &mut Crafted| packet.trailer = vec![0x5a; 28];
    let cases: [(_, fn(&mut Crafted), _, _); 8] = [
        ("ttl", |packet| packet.ttl = 64, "TTL 64", "TTL 255"),
        ("version", |packet| *packet = Crafted::version_2(), "version 2", "version 3"),
        ("checksum", |packet| packet.spoil = 1, "checksum 0x", "(rfc9568)"),
        ("length", |packet| packet.message.truncate(11), "11 octets", "12 octets"),
        ("auth", hmac, "28 octets of authentication", "no authentication"),
        ("own_source", |packet| packet.source = GATEWAYS[0], "10.9.0.2", "another address"),
        ("destination", |packet| packet.destination = GATEWAYS[0], "10.9.0.2", "224.0.0.18"),
        ("interval", |packet| packet.message[5] = 0, "advert_interval 0s", "100ms"),
    ];
    for (reason, change, received, expected) in cases {
        let packet = right.clone().with(change);
        for _ in 0..PACKETS {
            send(&scene.socket, &packet);
        }
        eventually(&format!("{reason} is counted"), || {
            errors(&scene.gateway).get(reason) == Some(&PACKETS)
        });
        let from = packet.source.to_string();
        let event = events.await_event(&[("event", "advert_refused"), ("reason", reason)]);
        for (field, value) in [("kind", "vrrp"), ("instance", "public"), ("from", &from)] {
            assert_eq!(event[field], value, "{event}");
        }
        for (field, text) in [("received", received), ("expected", expected)] {
            assert!(event[field].as_str().unwrap().contains(text), "{text}: {event}");
        }
        let instance = &scene.gateway.status()["vrrp"][0];
        assert_eq!(instance["advert_errors"][reason], PACKETS, "{instance:#}");
        let last = &instance["last_advert_error"];
        assert_eq!((&last["reason"], &last["from"]), (&reason.into(), &from.clone().into()));
        assert_eq!((&last["refused"], &last["received"]), (&true.into(), &event["received"]));
        assert!(last["ago_seconds"].as_f64().unwrap() < 60.0, "{last}");

        scene.gateway.await_log(&format!("\"reason\":\"{reason}\""));
        let log = scene.gateway.stderr();
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains(&format!("\"reason\":\"{reason}\""))).collect();
        let [line] = lines.as_slice() else { panic!("{lines:#?}") };
        for text in ["WARN", "an advert was refused", "public", &from, received, expected] {
            assert!(line.contains(text), "{text}: {line}");
        }
        let screen = scene.screen();
        let line = screen.lines().find(|line| line.contains("adverts refused")).expect(&screen);
        for text in [&format!("{reason} {PACKETS}"), &from, received, expected] {
            assert!(line.contains(text), "{text}: {line}");
        }
    }
    // Other virtual routers on the same link are nobody's mistake.
    send(&scene.socket, &right.clone().with(|packet| packet.message[1] = VRID + 1));
    eventually("it is counted", || errors(&scene.gateway).contains_key("vrid"));
    let log = scene.gateway.stderr();
    assert!(!log.contains("\"reason\":\"vrid\""), "{log}");
    assert_eq!(scene.gateway.status()["vrrp"][0]["advert_errors"].get("vrid"), None);
    // Labels are words of lockgate's own.
    let metrics = scene.gateway.get("/metrics");
    let of_sender = |line: &&str| line.contains("_advert_errors_total") && line.contains("10.9.");
    assert_eq!(metrics.lines().find(of_sender), None);
    scene.is_believed(&right);
}

/// In version 3 they are taken, which is no reason to be silent.
#[test]
fn another_interval_and_other_addresses_are_told_though_they_are_taken() {
    let scene = Scene::new(Mode::V3);
    let events = Events::of(&scene.gateway);
    let differs = Crafted::version_3().with(|packet| {
        packet.message[5] = 20;
        packet.message[11] = 101;
    });
    scene.is_believed(&differs);
    let cases = [
        ("interval_mismatch", "advert_interval 200ms", "advert_interval 100ms"),
        ("address_list_mismatch", "addresses 10.9.0.101", "addresses 10.9.0.100"),
    ];
    for (reason, received, expected) in cases {
        let event = events.await_event(&[("event", "advert_mismatch"), ("reason", reason)]);
        assert_eq!((&event["received"], &event["expected"]), (&received.into(), &expected.into()));
        assert_eq!(event["from"], STRANGER.to_string());
        let count = errors(&scene.gateway)[reason];
        assert!(count > 0);
        assert_eq!(scene.gateway.status()["vrrp"][0]["advert_errors"][reason], count);
        scene.gateway.await_log(&format!("\"reason\":\"{reason}\""));
        let log = scene.gateway.stderr();
        let is_it = |line: &&str| line.contains(&format!("\"reason\":\"{reason}\""));
        let lines: Vec<_> = log.lines().filter(is_it).collect();
        let [line] = lines.as_slice() else { panic!("{lines:#?}") };
        for text in ["an advert differs from what is configured here", received, expected] {
            assert!(line.contains(text), "{text}: {line}");
        }
    }
    let last = &scene.gateway.status()["vrrp"][0]["last_advert_error"];
    assert_eq!((&last["reason"], &last["refused"]), (&cases[1].0.into(), &false.into()));
}

/// A host whose adverts come back to it, or go out by an interface of its own, has made no mistake.
#[test]
fn a_pair_that_agrees_tells_of_no_mistake() {
    for (mode, lines) in [(Mode::V3, ""), (Mode::Ipv6, ""), (Mode::V3, "virtual_mac = true")] {
        let lan = Pair::new();
        let both = [0, 1].map(|gateway| lockgate(&lan, gateway, mode, lines, &[]));
        lan.await_owner(mode.floating(), 0);
        let adverts = |gateway: &Gateway| {
            gateway.metric("lockgate_vrrp_adverts_total", &[("direction", "in")])
        };
        let before = adverts(&both[1]);
        eventually("the second hears the first", || adverts(&both[1]) > before + 5.0);
        for gateway in &both {
            assert_eq!(errors(gateway), [].into(), "{mode:?} {lines}");
            assert_eq!(gateway.status()["vrrp"][0]["last_advert_error"], serde_json::Value::Null);
        }
    }
}

/// Of all lengths; one half has the beginning of an advert that is to be believed, and a right
/// checksum, but not the right length.
fn random(noise: &mut impl Iterator<Item = u8>, right: bool) -> Crafted {
    let mut byte = || noise.next().unwrap();
    let length = usize::from(byte() % 64);
    let mut message: Vec<u8> = (0..length).map(|_| byte()).collect();
    let spoil = if right { 0 } else { byte() | 1 };
    if right && message.len() >= 8 {
        message[..3].copy_from_slice(&[0x31, VRID, 255]);
        if message.len() == 8 + 4 * usize::from(message[3]) {
            message[3] ^= 1;
        }
    }
    Crafted { ttl: 255, message, spoil, ..Crafted::version_3() }
}

#[test]
fn a_hundred_thousand_random_packets_change_nothing() {
    const PACKETS: u32 = 100_000;
    const BURST: u32 = 100;
    let scene = Scene::new(Mode::V3);
    let mut bytes = Vec::new();
    Noise::new(0x10c6).write(&mut bytes, 5 << 20).unwrap();
    let mut bytes = bytes.into_iter();
    let (changes, lines) = (transitions(&scene.gateway), scene.gateway.stderr().lines().count());

    for number in 0..PACKETS {
        send(&scene.socket, &random(&mut bytes, number % 2 == 0));
        if number % BURST == 0 {
            // So that most of them reach the gateway, and not the end of its socket's buffer.
            thread::sleep(Duration::from_millis(1));
        }
    }
    let counted = || errors(&scene.gateway).values().sum::<u64>();
    eventually("a good part of them is counted", || counted() > u64::from(PACKETS / 10));

    assert_eq!(transitions(&scene.gateway), changes);
    assert_eq!(state(&scene.gateway), "master");
    assert!(scene.lan.gateways[0].has(Mode::V3.floating()));
    let written = scene.gateway.stderr().lines().count() - lines;
    assert!(written < 500, "{written} lines were logged");
    // It is as awake as before.
    scene.is_believed(&Crafted::version_3());
}
