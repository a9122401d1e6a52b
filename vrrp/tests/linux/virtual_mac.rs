//! The hardware address of a virtual router: neighbours never see another one with its address.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::lab::{Lab, announced, eventually, is_advert};

const VIP: &str = "10.0.0.100";
const MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];

#[test]
fn the_physical_address_never_leaves_with_the_shared_one() {
    let lab = Lab::new();
    let mut capture = lab.client.capture();
    let one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24 mac");
    one.wait_for("transition backup master");
    let (_, advert) = capture.next(|frame| is_advert(frame, 200));
    assert_eq!(advert[6..12], MAC);
    capture.next(|frame| announced(frame) == Some(VIP.parse().unwrap()));
    let listener = lab.one.run(|| TcpListener::bind((VIP, 7_000)).unwrap());
    for _ in 0..3 {
        // Each time, both learn each other's hardware address anew.
        lab.client.ip("neigh flush dev eth0");
        lab.one.ip("neigh flush all");
        let ip: IpAddr = VIP.parse().unwrap();
        lab.client.run(|| {
            TcpStream::connect_timeout(&(ip, 7_000).into(), Duration::from_secs(10)).unwrap()
        });
        listener.accept().unwrap();
    }
    let vip = [10, 0, 0, 100];
    let frames = capture.during(Duration::from_millis(300), |frame| {
        let ip = frame[12..14] == [0x08, 0x00] && frame[26..30] == vip;
        let arp = frame[12..14] == [0x08, 0x06] && frame[28..32] == vip;
        ip || arp
    });
    assert!(frames.len() > 6, "{} frames", frames.len());
    for (_, frame) in &frames {
        assert_eq!(frame[6..12], MAC, "{frame:02x?}");
    }
    let neighbours = lab.client.ip("neigh show 10.0.0.100");
    assert!(neighbours.contains("00:00:5e:00:01:33"), "{neighbours}");
    // A peer of the same kind hears it, and takes over.
    let two = lab.two.router("eth0 51 100 100ms 10.0.0.100/24 mac");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(two.count("transition backup master"), 0, "{:#?}", two.lines());
    one.stop();
    two.wait_for("transition backup master master_released");
    eventually("the address moves", || lab.two.has(VIP) && !lab.one.has(VIP));
    assert!(!lab.one.ip("link show").contains("vrrp.51"), "the interface is taken away");
    let rules = lab.one.ip("rule show");
    assert!(!rules.contains(VIP), "{rules}");
}

#[test]
fn nothing_of_a_killed_router_stays() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let lab = Lab::new();
    let arguments = "eth0 51 200 100ms 10.0.0.100/24 mac";
    let clean = || {
        let (links, rules) = (lab.one.ip("link show"), lab.one.ip("rule show"));
        !links.contains("vrrp.51") && !rules.contains(VIP)
    };
    let started = || {
        let one = lab.one.router(arguments);
        one.wait_for("transition backup master");
        eventually("the rule", || lab.one.ip("rule show").contains(VIP));
        one
    };
    // The guard does it.
    started().signal(Signal::SIGKILL);
    eventually("all is taken away", clean);
    // It is gone too, and the kernel has ended the address.
    let kill_both = || {
        let one = started();
        let guard = Pid::from_raw(one.guard().unwrap());
        // Or it starts another one in time.
        one.signal(Signal::SIGSTOP);
        kill(guard, Signal::SIGKILL).unwrap();
        one.signal(Signal::SIGKILL);
        drop(one);
        eventually("no address", || !lab.one.has(VIP));
        assert!(!clean());
    };
    kill_both();
    let settings = super::process::settings(arguments);
    let released = lab.one.run(|| lockgate_vrrp::linux::release_leftovers(&[settings]).unwrap());
    let released: Vec<_> = released.iter().map(ToString::to_string).collect();
    assert_eq!(released, ["the virtual MAC vrrp.51"]);
    assert!(clean());
    // Or the next that starts there.
    kill_both();
    started().stop();
    assert!(clean());
}
