//! Upgrades of a gateway that has the floating address: it stays where it is, and nobody else
//! notices.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::capture::Capture;
use crate::harness::lan::{FLOATING, GATEWAYS, Lan, SERVICE, await_vrrp, config, pair, public};
use crate::harness::{Events, Gateway, StopAtEnd, eventually, until, visit};

/// Pings the floating address every few milliseconds while `change` does its work. Returns the
/// longest time between two answers.
fn pinged(lan: &Lan, change: impl FnOnce()) -> Duration {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let pings = scope.spawn(|| {
            lan.client.run(|| {
                let socket = ping_socket();
                let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
                let mut sequence = 0_u16;
                while !stop.load(Ordering::SeqCst) {
                    sequence = sequence.wrapping_add(1);
                    ping(&socket, sequence);
                    if is_answered(&socket) {
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                longest.max(last.elapsed())
            })
        });
        {
            let _stop = StopAtEnd(&stop);
            change();
        }
        pings.join().unwrap()
    })
}

fn ping_socket() -> socket2::Socket {
    let icmp = Some(socket2::Protocol::ICMPV4);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, icmp).unwrap();
    socket.connect(&std::net::SocketAddr::new(FLOATING, 0).into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// An echo request (RFC 792).
fn ping(socket: &socket2::Socket, sequence: u16) {
    let mut packet = vec![8, 0, 0, 0, 0x77, 0x77];
    packet.extend(sequence.to_be_bytes());
    let sum = !crate::harness::capture::sum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    // Who does not answer shows in the gap.
    let _ = socket.send(&packet);
}

fn is_answered(socket: &socket2::Socket) -> bool {
    use std::io::Read;
    let mut buffer = [0; 256];
    let mut socket = socket;
    // After the header of IPv4: an echo reply.
    matches!(socket.read(&mut buffer), Ok(length) if length >= 28 && buffer[20] == 0)
}

fn transitions(gateway: &Gateway) -> u64 {
    public(gateway)["transitions"].as_u64().unwrap()
}

#[test]
fn the_backup_never_takes_over_and_every_ping_is_answered() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().runtime("drain_timeout = \"2s\"").backend(&server, "").to_string()
        + &pair("advert_interval = \"100ms\"");
    let [mut gw1, gw2] = lan.pair(text);
    until("the address answers", || lan.client.run(|| visit(SERVICE).ok()));
    let before = (transitions(&gw1), transitions(&gw2));
    let events = Events::of(&gw2);
    let capture = Capture::start(&lan.client);
    let since = public(&gw1)["since_seconds"].as_f64();

    let longest = pinged(&lan, || {
        for _ in 0..20 {
            gw1.upgrade();
            assert_eq!(public(&gw1)["state"], "master");
        }
    });
    assert!(longest < Duration::from_millis(500), "no ping was answered for {longest:?}");
    assert_eq!((transitions(&gw1), transitions(&gw2)), before);
    assert_eq!(public(&gw2)["state"], "backup");
    assert!(events.all().is_empty(), "{:?}", events.all());
    assert!(public(&gw1)["since_seconds"].as_f64() > since, "it has been master all the time");
    // All adverts were the master's, and none gave up.
    let adverts = capture.adverts();
    assert!(adverts.len() > 10);
    for advert in &adverts {
        assert_eq!((advert.source, advert.priority), (IpAddr::V4(GATEWAYS[0]), 150), "{advert:?}");
    }
    assert!(lan.has(0, FLOATING) && !lan.has(1, FLOATING));

    assert!(!gw1.stderr().contains("something removed the address"), "it was never gone");

    // The last one is as good a master as the first was: it dies, and the address moves.
    gw1.signal(Signal::SIGKILL);
    await_vrrp(&gw2, "master");
    eventually("the address is gone", || !lan.has(0, FLOATING));
    assert_eq!(until("it answers", || lan.client.run(|| visit(SERVICE).ok())), "a");
}

/// Upgrades the master of a pair with these lines a few times: nothing changes hands.
fn stays_master(lan: &Lan, lines: &str, floating: IpAddr) {
    let server = lan.server("a", 7000);
    let text = config().backend(&server, "").to_string() + &pair(lines);
    let [mut gw1, gw2] = lan.pair(text);
    let before = (transitions(&gw1), transitions(&gw2));
    let heard = |gateway: &Gateway| public(gateway)["heard"][0]["adverts"].as_u64();
    for _ in 0..3 {
        gw1.upgrade();
        assert_eq!(public(&gw1)["state"], "master");
        assert!(lan.has(0, floating) && !lan.has(1, floating));
        let so_far = heard(&gw2);
        eventually("the next process is heard", || heard(&gw2) > so_far);
    }
    assert_eq!((transitions(&gw1), transitions(&gw2)), before);
    gw1.signal(Signal::SIGKILL);
    await_vrrp(&gw2, "master");
    eventually("the address moves", || !lan.has(0, floating) && lan.has(1, floating));
}

#[test]
fn a_master_of_version_2_stays_master() {
    stays_master(&Lan::new(), "version = 2\nadvert_interval = \"1s\"", FLOATING);
}

#[test]
fn a_master_over_ipv6_stays_master() {
    let floating = "fd07::100".parse().unwrap();
    let lan = Lan::new();
    for (host, end) in [(11, &lan.gateways[0]), (12, &lan.gateways[1])] {
        end.ip(&format!("addr add fd07::{host}/64 dev eth0 nodad"));
    }
    stays_master(&lan, "addresses = [\"fe80::51/64\", \"fd07::100/64\"]", floating);
}

#[test]
fn a_backup_is_upgraded_and_still_takes_over_when_it_has_to() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().backend(&server, "").to_string() + &pair("advert_interval = \"100ms\"");
    let [gw1, mut gw2] = lan.pair(text);
    let before = transitions(&gw1);
    let heard = || public(&gw2)["heard"].clone();
    eventually("the master is heard", || heard()[0]["adverts"].as_u64() > Some(3));
    let adverts = heard()[0]["adverts"].as_u64();
    for _ in 0..3 {
        gw2.upgrade();
        let vrrp = public(&gw2);
        assert_eq!(
            (&vrrp["state"], &vrrp["master"]),
            (&"backup".into(), &GATEWAYS[0].to_string().into())
        );
    }
    let now = public(&gw2)["heard"][0].clone();
    assert_eq!((&now["address"], &now["priority"]), (&GATEWAYS[0].to_string().into(), &150.into()));
    assert!(now["adverts"].as_u64() >= adverts, "{now}");
    eventually("its adverts are counted on", || {
        public(&gw2)["heard"][0]["adverts"].as_u64() > adverts
    });
    assert_eq!(transitions(&gw1), before);
    gw1.signal(Signal::SIGKILL);
    await_vrrp(&gw2, "master");
}

/// It is master again at once, or after having listened; its peer never was.
#[test]
fn a_new_process_that_dies_half_way_through_leaves_the_address_where_it_was() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let text = config().backend(&server, "").to_string() + &pair("advert_interval = \"500ms\"");
    let [mut gw1, gw2] = lan.pair(text);
    until("the address answers", || lan.client.run(|| visit(SERVICE).ok()));
    let before = (transitions(&gw1), transitions(&gw2));
    let identity = "eth0 vrid 51 ipv4 v3 own";
    gw1.replace_binary(
        &format!(
            "#!/bin/bash\nfd=$LOCKGATE_UPGRADE\nread -r -u $fd hello\n\
             echo '{{\"say\":\"serving\",\"instances\":[\"{identity}\"]}}' >&$fd\n\
             read -r -u $fd counts\nread -r -u $fd vrrp\nexit 3\n"
        ),
        0o755,
    );
    for round in 1..=3 {
        gw1.signal(Signal::SIGUSR2);
        eventually("it has failed", || gw1.stderr().matches("upgrade failed").count() == round);
        assert_eq!(public(&gw1)["state"], "master");
    }
    thread::sleep(Duration::from_secs(2));
    assert_eq!((transitions(&gw1), transitions(&gw2)), before);
    assert!(lan.has(0, FLOATING) && !lan.has(1, FLOATING));
    assert_eq!(lan.client.run(|| visit(SERVICE)).unwrap(), "a");
    gw1.restore_binary();
    // The log has the failures of before.
    let old = gw1.pid();
    gw1.signal(Signal::SIGUSR2);
    let heir = until("another answers", || {
        gw1.status()["pid"].as_u64().filter(|pid| *pid != u64::from(old))
    });
    gw1.adopt(u32::try_from(heir).unwrap());
    assert_eq!(public(&gw1)["state"], "master");
    assert_eq!(transitions(&gw2), before.1);
}

#[test]
fn what_another_file_says_of_the_instances_is_so_after_the_upgrade() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let instance = |lines: &str| {
        config().backend(&server, "").to_string()
            + &pair(&format!("advert_interval = \"100ms\"\n{lines}"))
    };
    let [mut gw1, gw2] = lan.pair(instance(""));
    until("the address answers", || lan.client.run(|| visit(SERVICE).ok()));
    let before = transitions(&gw2);
    let second = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 101));
    // One address more, and then the first one gone.
    gw1.write_config(instance(&format!("addresses = [\"{FLOATING}/24\", \"{second}/24\"]")));
    gw1.upgrade();
    eventually("both are there", || lan.has(0, FLOATING) && lan.has(0, second));
    gw1.write_config(instance(&format!("addresses = [\"{second}/24\"]")));
    gw1.upgrade();
    eventually("one is left", || !lan.has(0, FLOATING) && lan.has(0, second));
    assert_eq!(transitions(&gw2), before);
    // No instance at all: it is given up as by a stop.
    gw1.write_config(config().backend(&server, ""));
    gw1.upgrade();
    await_vrrp(&gw2, "master");
    eventually("none is left", || !lan.has(0, FLOATING) && !lan.has(0, second));
}

#[test]
fn a_virtual_mac_and_a_group_are_taken_over_as_they_are() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let second = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 101));
    let text = config().backend(&server, "").to_string()
        + &pair(
            "advert_interval = \"100ms\"\nvirtual_mac = true\nsync_group = \"all\"\n\
             unicast_peers = [\"node\"]\n",
        )
        + &format!(
            "[[vrrp]]\nname = \"second\"\ninterface = \"eth0\"\nvrid = 52\n\
             addresses = [\"{second}/24\"]\nsync_group = \"all\"\nadvert_interval = \"100ms\"\n"
        );
    let [mut gw1, gw2] = lan.pair(text);
    until("the address answers", || lan.client.run(|| visit(SERVICE).ok()));
    let link = || lan.gateways[0].output("-o link show vrrp.51");
    let (before, there) = (transitions(&gw2), link());
    for _ in 0..3 {
        gw1.upgrade();
        let status = gw1.status();
        for instance in status["vrrp"].as_array().unwrap() {
            assert_eq!(instance["state"], "master", "{instance}");
        }
    }
    assert_eq!(transitions(&gw2), before);
    // The very same interface.
    assert_eq!(link().split(':').next(), there.split(':').next());
    assert_eq!(lan.client.run(|| visit(SERVICE)).unwrap(), "a");
    // And it goes with the last of them.
    gw1.signal(Signal::SIGTERM);
    await_vrrp(&gw2, "master");
    eventually("the interface is gone", || !lan.gateways[0].output("-o link").contains("vrrp.51"));
}
