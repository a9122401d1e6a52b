//! Addresses and their announcements.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::lab::{Lab, advert, announced, eventually, is_advert};

const VIP: &str = "10.0.0.100";

#[test]
fn an_address_is_announced_byte_by_byte() {
    let lab = Lab::new();
    let mut capture = lab.client.capture();
    let _one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24");
    capture.next(|frame| is_advert(frame, 200));
    let (_, request) = capture.next(|frame| frame[12..14] == [0x08, 0x06]);
    // The address was there before anybody was told.
    assert!(lab.one.has(VIP));
    let (_, reply) = capture.next(|frame| frame[12..14] == [0x08, 0x06]);
    let mac = [2, 0, 0, 0, 0, 1];
    let expected = |operation: u8, target: [u8; 6]| {
        let ethernet = [&[0xff; 6][..], &mac, &[0x08, 0x06]].concat();
        let arp = [0, 1, 8, 0, 6, 4, 0, operation];
        [&ethernet[..], &arp, &mac, &[10, 0, 0, 100], &target, &[10, 0, 0, 100]].concat()
    };
    assert_eq!(request[..42], expected(1, [0xff; 6]));
    assert_eq!(reply[..42], expected(2, mac));
}

#[test]
fn an_ipv6_address_moves_and_is_announced() {
    let lab = Lab::new();
    let mut capture = lab.client.capture();
    let one = lab.one.router("eth0 51 200 100ms fe80::5e:100/64 2001:db8::100/64");
    one.wait_for("transition backup master");
    capture.next(|frame| is_advert(frame, 200));
    let is_na = |frame: &[u8], last: u8| {
        frame.get(20) == Some(&58) && frame.get(54) == Some(&136) && frame[77] == last
    };
    let (_, frame) = capture.next(|frame| is_na(frame, 0) && frame[62] == 0x20);
    // To all nodes, from the address, hop limit 255, override flag, with the hardware address.
    assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
    assert_eq!((frame[21], frame[58]), (255, 0x20));
    assert_eq!(frame[22..38], frame[62..78]);
    assert_eq!(frame[78..86], [2, 1, 2, 0, 0, 0, 0, 1]);
    let two = lab.two.router("eth0 51 100 100ms fe80::5e:100/64 2001:db8::100/64");
    let addresses = lab.one.ip("-o addr show dev eth0");
    assert!(addresses.contains("2001:db8::100") && !addresses.contains("tentative"), "{addresses}");
    one.stop();
    two.wait_for("transition backup master master_released");
    eventually("the address on the second", || lab.two.has("2001:db8::100"));
    assert!(!lab.one.has("2001:db8::100"));
}

#[test]
fn what_removes_an_address_finds_it_back() {
    let lab = Lab::new();
    let one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24 10.0.0.101/24");
    eventually("the addresses", || lab.one.has(VIP) && lab.one.has("10.0.0.101"));
    lab.one.ip("addr del 10.0.0.100/24 dev eth0");
    one.wait_for("restored 10.0.0.100/24");
    assert!(lab.one.has(VIP));
    // Losing the primary address takes all of its subnet away, and the source of adverts.
    lab.one.ip("addr del 10.0.0.1/24 dev eth0");
    one.wait_for("transition master init no_address");
    lab.one.ip("addr add 10.0.0.1/24 dev eth0");
    one.wait_for("transition init backup");
    one.wait_for_count("transition backup master", 2);
    eventually("the addresses", || lab.one.has(VIP) && lab.one.has("10.0.0.101"));
    // In a fight, each has its turns.
    for round in 0..8 {
        eventually("the address is back", || lab.one.has(VIP));
        assert!(round < 8);
        lab.one.ip("addr del 10.0.0.100/24 dev eth0");
    }
    eventually("the address is back", || lab.one.has(VIP));
    assert_eq!(one.count("transition backup master"), 2);
}

#[test]
fn two_hundred_addresses_do_not_disturb_adverts() {
    let lab = Lab::new();
    let vips: BTreeSet<IpAddr> = (0..200).map(|number| IpAddr::from([10, 9, 0, number])).collect();
    let list: Vec<_> = vips.iter().map(|vip| format!("{vip}/32")).collect();
    let mut capture = lab.client.capture();
    let one = lab.one.router(&format!("eth0 51 200 20ms {}", list.join(" ")));
    capture.next(|frame| is_advert(frame, 200));
    let frames = capture.during(Duration::from_secs(2), |_| true);
    let told: BTreeSet<_> = frames.iter().filter_map(|(_, frame)| announced(frame)).collect();
    assert_eq!(told, vips);
    let adverts = frames.iter().filter(|(_, frame)| is_advert(frame, 200)).count();
    // A hundred would be all, and no backup would have had reason to take over.
    assert!(adverts > 50, "{adverts} adverts");
    assert_eq!(one.count("transition master"), 0);
    // Longer than the kernel's lifetime: they were renewed.
    std::thread::sleep(Duration::from_secs(2));
    let there = lab.one.ip("-o -4 addr show dev eth0");
    assert_eq!(there.lines().filter(|line| line.contains("10.9.0.")).count(), 200);
    one.stop();
    assert!(!lab.one.ip("-o -4 addr show dev eth0").contains("10.9.0."));
}

#[test]
fn addresses_come_and_go_while_it_runs() {
    let lab = Lab::new();
    let mut one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24");
    eventually("the address", || lab.one.has(VIP));
    let mut capture = lab.client.capture();
    one.say("addresses 10.0.0.101/24");
    one.wait_for("reconfigured");
    eventually("the other address", || lab.one.has("10.0.0.101") && !lab.one.has(VIP));
    capture.next(|frame| announced(frame) == Some("10.0.0.101".parse().unwrap()));
    assert_eq!(one.count("transition"), 2, "it did not blink");
    one.say("addresses nonsense");
    one.wait_for("refused");
    assert!(lab.one.has("10.0.0.101"));
}

#[test]
fn it_follows_its_interfaces() {
    let lab = Lab::new();
    lab.one.ip("link add dev up0 type veth peer name up1");
    lab.one.ip("link set dev up1 up");
    lab.one.ip("link set dev up0 up");
    let mut one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24 track=up0");
    one.wait_for("transition backup master");
    // The cable.
    lab.plug(1, false);
    one.wait_for("transition master init interface_down");
    lab.plug(1, true);
    one.wait_for("transition init backup interface_up");
    one.wait_for_count("transition backup master", 2);
    // An interface that it tracks, with the wire still there to say so.
    let mut capture = lab.client.capture();
    lab.one.ip("link set dev up1 down");
    one.wait_for("transition master init tracked_interface_down");
    capture.next(|frame| is_advert(frame, 0));
    assert!(one.status().contains("tracked interface down"));
    lab.one.ip("link set dev up1 up");
    one.wait_for_count("transition backup master", 3);
    // The service.
    one.say("service down");
    one.wait_for("transition master init service_down");
    eventually("no address", || !lab.one.has(VIP));
    assert!(one.status().contains("service: told so"));
    one.say("service up");
    one.wait_for_count("transition backup master", 4);
    // An interface that is made anew has another index.
    lab.one.ip("link set dev eth0 name eth9");
    one.wait_for_count("transition master init interface_down", 2);
    lab.one.ip("link set dev eth9 down");
    lab.one.ip("link set dev eth9 name eth0");
    lab.one.ip("link set dev eth0 up");
    one.wait_for_count("transition backup master", 5);
    eventually("the address", || lab.one.has(VIP));
    let (_, frame) = capture.next(|frame| is_advert(frame, 200));
    assert_eq!(advert(&frame).unwrap()[1], 51);
}

/// Addresses of others on one, whatever the shared address becomes.
fn keeps(lab: &Lab, others: &[&str]) {
    for other in others {
        eventually("the host's own address", || lab.one.has(other));
    }
}

#[test]
fn addresses_of_others_outlive_a_shared_one_of_their_subnet() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    // Where the host has none of the subnet, and where its own is added again behind it.
    const OTHERS: [&str; 2] = ["10.0.0.1", "10.7.0.1"];
    for end in ["stop", "kill", "kill all"] {
        let lab = Lab::new();
        let setting = "/proc/sys/net/ipv4/conf/eth0/promote_secondaries";
        let promotes = || lab.one.run(|| std::fs::read_to_string(setting).unwrap());
        lab.one.run(|| std::fs::write(setting, "0").unwrap());
        let one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24 10.7.0.100/24");
        eventually("the addresses", || lab.one.has(VIP) && lab.one.has("10.7.0.100"));
        lab.one.ip("addr add 10.7.0.1/24 dev eth0");
        for _ in 0..3 {
            lab.one.ip("addr del 10.0.0.1/24 dev eth0");
            lab.one.ip("addr add 10.0.0.1/24 dev eth0");
        }
        one.wait_for("transition backup master");
        eventually("the addresses", || lab.one.has(VIP) && lab.one.has("10.7.0.100"));
        keeps(&lab, &OTHERS);
        match end {
            "stop" => {
                one.stop();
                assert_eq!(promotes(), "0\n");
            }
            "kill" => one.signal(Signal::SIGKILL),
            _ => {
                let guard = one.guard().unwrap();
                kill(Pid::from_raw(guard), Signal::SIGKILL).unwrap();
                one.signal(Signal::SIGKILL);
            }
        }
        eventually("no shared address", || !lab.one.has(VIP) && !lab.one.has("10.7.0.100"));
        for other in OTHERS {
            assert!(lab.one.has(other), "{end}: {other} went with the shared address");
        }
    }
}

#[test]
fn one_of_several_shared_addresses_goes_alone() {
    let lab = Lab::new();
    lab.one.run(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/promote_secondaries", "0").unwrap();
    });
    let mut one = lab.one.router("eth0 51 200 100ms 10.7.0.100/24 10.7.0.101/24");
    eventually("the addresses", || lab.one.has("10.7.0.100") && lab.one.has("10.7.0.101"));
    one.say("addresses 10.7.0.101/24");
    one.wait_for("reconfigured");
    eventually("one address", || !lab.one.has("10.7.0.100"));
    assert!(lab.one.has("10.7.0.101"));
    assert_eq!(one.count("restored"), 0);
    one.stop();
}

/// Neighbours that use this host as a router take an advertisement without the flag for its end.
#[test]
fn neighbour_advertisements_say_whether_the_host_routes() {
    const FORWARDING: &str = "/proc/sys/net/ipv6/conf/eth0/forwarding";
    let lab = Lab::new();
    for (forwarding, flags) in [("0", 0x20), ("1", 0xa0)] {
        lab.one.run(|| std::fs::write(FORWARDING, forwarding).unwrap());
        let mut capture = lab.client.capture();
        let one = lab.one.router("eth0 51 200 100ms fe80::5e:100/64");
        let ours = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x5e, 1, 0];
        let (_, frame) =
            capture.next(|frame| frame.get(54) == Some(&136) && frame.get(62..78) == Some(&ours));
        assert_eq!(frame[58], flags, "forwarding {forwarding}");
        one.stop();
    }
}
