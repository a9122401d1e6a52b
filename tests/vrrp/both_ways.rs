//! A master and a backup, of either program, through everything that is to move the address: the
//! end of the master, its return, a cut, and its healing.

use std::process::Command;

use crate::harness::capture::{Capture, Checksum};
use crate::harness::output_of;
use crate::harness::pair::Pair;
use crate::harness::routers::{Mode, PRIORITIES, Program, Router};

use super::{adverts_of, assert_well_formed, errors};

const LOCKGATES: [Program; 2] = [Program::Lockgate; 2];
const LOCKGATE_FIRST: [Program; 2] = [Program::Lockgate, Program::Keepalived];
const KEEPALIVED_FIRST: [Program; 2] = [Program::Keepalived, Program::Lockgate];

/// The first is the one with the higher priority.
fn goes_both_ways(mode: Mode, programs: [Program; 2]) {
    let lan = Pair::new();
    let floating = mode.floating();
    let capture = Capture::start(&lan.gateways[1]);
    // keepalived yields without a word: if the advert to which it does was the first that got
    // through again, the winner cannot know that the client has to be told, but by the clock.
    let lines = if programs.contains(&Program::Keepalived) { "garp_refresh = \"2s\"" } else { "" };
    let start = |gateway: usize| Router::start(programs[gateway], &lan, gateway, mode, lines);

    // Alone, the one with the lower priority is master; it yields to the other one.
    let second = start(1);
    lan.await_owner(floating, 1);
    let first = start(0);
    lan.await_owner(floating, 0);

    // The first says that it goes, the second takes over, and yields again.
    first.stop();
    lan.await_owner(floating, 1);
    assert!(adverts_of(&capture, 0).iter().any(|advert| advert.priority == 0));
    let first = start(0);
    lan.await_owner(floating, 0);

    // The first is cut off, and comes back without having noticed.
    lan.cut(0);
    lan.await_answer(floating, 1);
    lan.heal(0);
    lan.await_owner(floating, 0);

    for router in [&first, &second] {
        if let Router::Lockgate(gateway) = router {
            assert_eq!(errors(gateway), [].into());
        }
    }

    // The second is the last to go.
    first.stop();
    lan.await_owner(floating, 1);
    let before = adverts_of(&capture, 1).len();
    second.stop();
    let last = &adverts_of(&capture, 1)[before..];
    assert!(last.iter().any(|advert| advert.priority == 0), "{last:?}");
    assert_eq!(lan.owners(floating), [false; 2]);

    for (gateway, program) in programs.iter().enumerate() {
        let adverts = adverts_of(&capture, gateway);
        // Beside those it always sends, a master that yields may concede with one below the
        // winner's.
        assert!(adverts.iter().any(|advert| advert.priority == PRIORITIES[gateway]));
        for advert in &adverts {
            assert!(advert.priority <= PRIORITIES[gateway], "{advert:?}");
            assert_well_formed(advert, mode);
        }
        // keepalived 2.2.7 knows no other checksum, and lockgate must have adopted it.
        if *program == Program::Lockgate && programs.contains(&Program::Keepalived) {
            let checksum = adverts.last().and_then(|advert| advert.checksum);
            let expected =
                if mode == Mode::V2 { Checksum::Message } else { Checksum::PseudoHeader };
            assert_eq!(checksum, Some(expected));
        }
    }
}

#[test]
fn two_lockgates_with_version_2() {
    goes_both_ways(Mode::V2, LOCKGATES);
}

#[test]
fn two_lockgates_with_version_3() {
    goes_both_ways(Mode::V3, LOCKGATES);
}

#[test]
fn two_lockgates_by_unicast() {
    goes_both_ways(Mode::Unicast, LOCKGATES);
}

#[test]
fn two_lockgates_over_ipv6() {
    goes_both_ways(Mode::Ipv6, LOCKGATES);
}

#[test]
fn lockgate_before_keepalived_with_version_2() {
    goes_both_ways(Mode::V2, LOCKGATE_FIRST);
}

#[test]
fn lockgate_before_keepalived_with_version_3() {
    goes_both_ways(Mode::V3, LOCKGATE_FIRST);
}

#[test]
fn lockgate_before_keepalived_by_unicast() {
    goes_both_ways(Mode::Unicast, LOCKGATE_FIRST);
}

#[test]
fn lockgate_before_keepalived_over_ipv6() {
    goes_both_ways(Mode::Ipv6, LOCKGATE_FIRST);
}

#[test]
fn keepalived_before_lockgate_with_version_2() {
    goes_both_ways(Mode::V2, KEEPALIVED_FIRST);
}

#[test]
fn keepalived_before_lockgate_with_version_3() {
    goes_both_ways(Mode::V3, KEEPALIVED_FIRST);
}

#[test]
fn keepalived_before_lockgate_by_unicast() {
    goes_both_ways(Mode::Unicast, KEEPALIVED_FIRST);
}

#[test]
fn keepalived_before_lockgate_over_ipv6() {
    goes_both_ways(Mode::Ipv6, KEEPALIVED_FIRST);
}

/// What tcpdump says of some adverts of a lockgate that is alone.
fn tcpdump(mode: Mode, lines: &str) -> String {
    let lan = Pair::new();
    let _gateway = crate::harness::routers::lockgate(&lan, 0, mode, lines, &[]);
    lan.await_owner(mode.floating(), 0);
    let family = if mode == Mode::Ipv6 { "ip6" } else { "ip" };
    let [enter, arguments @ ..] = lan.stranger.enter();
    let mut command = Command::new(enter);
    command.args(arguments).args(["tcpdump", "-vv", "-n", "-i", "eth0", "-c", "4", family]);
    command.args(["proto", "112"]);
    let output = output_of(&mut command);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("vrid 51"), "{text}");
    text
}

/// tcpdump 4.99 expects the pseudo header in version 3, as RFC 5798 can be read.
#[test]
fn tcpdump_finds_nothing_wrong() {
    for (mode, lines) in
        [(Mode::V2, ""), (Mode::V3, "checksum = \"pseudo_header\""), (Mode::Ipv6, "")]
    {
        let text = tcpdump(mode, lines);
        for word in ["bad", "wrong", "truncated", "invalid", "[|"] {
            assert!(!text.contains(word), "{text}");
        }
    }
    // It would say so: RFC 9568 has no pseudo header.
    let text = tcpdump(Mode::V3, "checksum = \"rfc9568\"");
    assert!(text.contains("bad vrrp cksum"), "{text}");
}
