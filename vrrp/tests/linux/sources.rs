//! Where adverts come from: peers take them from one address alone.

use super::lab::{Lab, eventually, is_advert};

#[test]
fn adverts_come_from_the_address_that_peers_expect_or_from_none() {
    let lab = Lab::new();
    // The kernel has it behind the first of the subnet.
    lab.one.ip("addr add 10.0.0.9/24 dev eth0");
    let mut one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24 peer=10.0.0.2 source=10.0.0.9");
    one.wait_for("transition backup master");
    let mut two = lab.two.router("eth0 51 100 100ms 10.0.0.100/24 peer=10.0.0.9");
    eventually("it is heard", || two.status().contains("10.0.0.9"));
    assert_eq!(two.count("transition backup master"), 0);
    // Without it there is no other way.
    lab.one.ip("addr del 10.0.0.9/24 dev eth0");
    one.wait_for("transition master init no_address");
    assert!(one.status().contains("no address 10.0.0.9 on eth0"), "{}", one.status());
    two.wait_for("transition backup master");
    lab.one.ip("addr add 10.0.0.9/24 dev eth0");
    one.wait_for_count("transition backup master", 2);
    two.wait_for("transition master backup");
}

#[test]
fn a_master_that_is_renumbered_stays_master() {
    let lab = Lab::new();
    for vip in ["10.0.0.100/24", "fe80::5e:100/64"] {
        let one = lab.one.router(&format!("eth0 51 200 500ms {vip}"));
        one.wait_for("transition backup master");
        let two = lab.two.router(&format!("eth0 51 100 500ms {vip}"));
        let link = lab.one.ip("-o -6 addr show dev eth0 scope link");
        let own = link
            .split_whitespace()
            .find(|word| word.starts_with("fe80::") && !vip.starts_with(word));
        let (old, new) = match vip.starts_with("fe80") {
            true => (own.unwrap(), "fe80::99/64 nodad"),
            false => ("10.0.0.1/24", "10.0.0.99/24"),
        };
        let last = |frame: &[u8]| if frame[12] == 8 { frame[29] } else { frame[37] };
        let mut capture = lab.client.capture();
        capture.next(|frame| is_advert(frame, 200) && last(frame) != 0x99 && last(frame) != 99);
        lab.one.ip(&format!("addr del {old} dev eth0"));
        lab.one.ip(&format!("addr add {new} dev eth0"));
        for _ in 0..5 {
            capture.next(|frame| is_advert(frame, 200) && matches!(last(frame), 0x99 | 99));
        }
        assert_eq!(one.count("transition"), 2, "{:#?}", one.lines());
        assert_eq!(two.count("transition backup master"), 0, "{:#?}", two.lines());
        one.stop();
    }
}

#[test]
fn the_source_towards_peers_stays_when_other_addresses_come() {
    let lab = Lab::new();
    let mut capture = lab.client.capture();
    // To the client, so that it sees them.
    let arguments = "eth0 51 200 100ms 2001:db8::100/64 peer=2001:db8::3";
    let one = lab.one.router(arguments);
    one.wait_for("transition backup master");
    let from = |frame: &[u8]| frame.get(37).copied();
    let (_, first) = capture.next(|frame| is_advert(frame, 200));
    assert_eq!(from(&first), Some(1));
    // The kernel lists the newest first.
    lab.one.ip("addr add 2001:db8::77/64 dev eth0 nodad");
    lab.one.ip("addr add 2001:db8::78/64 dev eth0 nodad");
    std::thread::sleep(std::time::Duration::from_millis(500));
    for (_, frame) in capture.during(std::time::Duration::from_secs(1), |it| is_advert(it, 200)) {
        assert_eq!(from(&frame), Some(1));
    }
    assert_eq!(one.count("transition"), 2);
    one.stop();
}

#[test]
fn an_owner_that_comes_back_is_heard_by_who_has_its_address() {
    let lab = Lab::new();
    let setting = "/proc/sys/net/ipv4/conf/eth0/accept_local";
    let accepts = || lab.two.run(|| std::fs::read_to_string(setting).unwrap());
    for option in ["", " mac"] {
        let owner = format!("eth0 51 255 100ms 10.0.0.1/24{option}");
        let backup = format!("eth0 51 100 100ms 10.0.0.1/24{option}");
        let two = lab.two.router(&backup);
        eventually("the backup has it", || lab.two.has("10.0.0.1"));
        let one = lab.one.router(&owner);
        two.wait_for("transition master backup higher_priority");
        eventually("the owner alone has it", || !lab.two.has("10.0.0.1"));
        assert!(lab.one.has("10.0.0.1"));
        assert_eq!(one.count("transition master"), 0);
        one.stop();
        two.wait_for_count("transition backup master", 2);
        two.stop();
        assert_eq!(accepts(), "0\n");
    }
}
