//! What goes wrong on a host, between hosts and between people, and what is left of it afterwards.

use nix::sys::signal::{Signal, kill};

use crate::harness::capture::Capture;
use crate::harness::eventually;
use crate::harness::pair::Pair;
use crate::harness::routers::{Mode, Program, Router, lockgate};

use super::{adverts_of, state, transitions};

/// A pair of lockgates on a LAN, of which the first is master.
fn pair(lan: &Pair, mode: Mode) -> [crate::harness::Gateway; 2] {
    let both = [0, 1].map(|gateway| lockgate(lan, gateway, mode, "", &[]));
    lan.await_owner(mode.floating(), 0);
    both
}

#[test]
fn an_address_that_is_removed_by_hand_comes_back() {
    for mode in [Mode::V3, Mode::Ipv6] {
        let lan = Pair::new();
        let [first, second] = pair(&lan, mode);
        let before = transitions(&first) + transitions(&second);
        for address in mode.addresses() {
            let prefix = if address.is_ipv4() { 24 } else { 64 };
            lan.gateways[0].ip(&format!("addr del {address}/{prefix} dev eth0"));
            eventually("the address is back", || lan.gateways[0].has(address));
        }
        lan.await_owner(mode.floating(), 0);
        assert_eq!(transitions(&first) + transitions(&second), before);
    }
}

#[test]
fn a_link_that_is_down_gives_mastership_up_until_it_is_up() {
    for mode in [Mode::V3, Mode::Ipv6] {
        let lan = Pair::new();
        let [first, second] = pair(&lan, mode);
        lan.gateways[0].ip("link set eth0 down");
        lan.await_owner(mode.floating(), 1);
        eventually("the first knows", || state(&first) == "init" && state(&second) == "master");
        lan.gateways[0].ip("link set eth0 up");
        lan.await_owner(mode.floating(), 0);
        eventually("both know", || state(&first) == "master" && state(&second) == "backup");
    }
}

#[test]
fn a_killed_gateway_leaves_no_address_behind() {
    for mode in [Mode::V3, Mode::Ipv6] {
        let lan = Pair::new();
        let [first, _second] = pair(&lan, mode);
        first.signal(Signal::SIGKILL);
        lan.await_owner(mode.floating(), 1);
        let left = |address| lan.gateways[0].has(address);
        assert!(!mode.addresses().into_iter().any(left));
    }
}

/// The kernel takes them away when nobody renews them.
#[test]
fn a_gateway_that_is_killed_with_its_guard_leaves_no_address_behind() {
    for mode in [Mode::V3, Mode::Ipv6] {
        let lan = Pair::new();
        let [_first, _second] = pair(&lan, mode);
        let all = lan.processes(0);
        assert!(all.len() > 1, "there is no guard: {all:?}");
        all.iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
        lan.await_owner(mode.floating(), 1);
        let left = |address| lan.gateways[0].has(address);
        eventually("nothing is left", || !mode.addresses().into_iter().any(left));
    }
}

/// A gateway that is killed comes back as if nothing was, and finds its address gone or free.
#[test]
fn a_killed_gateway_can_start_again_at_once() {
    let lan = Pair::new();
    let [first, _second] = pair(&lan, Mode::V3);
    drop(first);
    let _first = lockgate(&lan, 0, Mode::V3, "", &[]);
    lan.await_owner(Mode::V3.floating(), 0);
}

/// Pauses a whole host while it is cut off, as a hypervisor does.
fn paused(mode: Mode, other: Program) {
    let lan = Pair::new();
    let first = lockgate(&lan, 0, mode, "", &[]);
    let _second = Router::start(other, &lan, 1, mode, "");
    let floating = mode.floating();
    lan.await_owner(floating, 0);
    let capture = Capture::start(&lan.gateways[1]);

    let host = lan.processes(0);
    lan.cut(0);
    host.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
    lan.await_answer(floating, 1);
    let before = adverts_of(&capture, 0).len();
    lan.heal(0);
    host.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).unwrap());

    // It preempts, by an election: until then it does as the other says. The client, which believes
    // what it is told and asks nobody, has to be told.
    lan.await_owner(floating, 0);
    eventually("the first knows", || state(&first) == "master");
    assert!(adverts_of(&capture, 0).len() > before);
}

#[test]
fn a_paused_master_does_not_black_hole_the_address() {
    paused(Mode::V3, Program::Lockgate);
}

#[test]
fn a_paused_master_does_not_black_hole_the_address_over_ipv6() {
    paused(Mode::Ipv6, Program::Lockgate);
}

#[test]
fn a_paused_master_does_not_black_hole_the_address_beside_keepalived() {
    paused(Mode::V3, Program::Keepalived);
}

/// Both believe that they are master, and the client's entry may be either's.
#[test]
fn a_partition_ends_with_one_owner_that_the_client_knows() {
    let lan = Pair::new();
    let floating = Mode::V3.floating();
    let [first, second] = pair(&lan, Mode::V3);
    for _ in 0..3 {
        lan.cut(0);
        lan.await_answer(floating, 1);
        assert_eq!((state(&first), state(&second)), ("master".to_owned(), "master".to_owned()));
        lan.heal(0);
        lan.await_owner(floating, 0);
    }
}

/// Its macvlan carries the floating address: clients never have to learn another hardware address,
/// and never see that of the host in its stead.
#[test]
fn a_virtual_mac_stays_and_the_hosts_own_does_not_leak() {
    const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
    let lan = Pair::new();
    let floating = Mode::V3.floating();
    let both = [0, 1].map(|gateway| lockgate(&lan, gateway, Mode::V3, "virtual_mac = true", &[]));
    let capture = Capture::start(&lan.client);
    let believed = || lan.believed(floating).contains("00:00:5e:00:01:33");
    lan.await_owner(floating, 0);
    assert!(believed());
    both[0].signal(Signal::SIGKILL);
    lan.await_owner(floating, 1);
    assert!(believed());

    let floating = match floating {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(_) => unreachable!("version 3 over IPv4"),
    };
    let mut seen = 0;
    for frame in capture.frames() {
        let from_floating = match frame[12..14] {
            [0x08, 0x00] => frame[26..30] == floating,
            [0x08, 0x06] => frame[28..32] == floating,
            _ => false,
        };
        if from_floating {
            assert_eq!(frame[6..12], VIRTUAL, "{frame:02x?}");
            seen += 1;
        }
    }
    assert!(seen > 0);
}
