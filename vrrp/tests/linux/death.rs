//! Whatever becomes of the process, in the end one host has the address.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lab::{Lab, Router, announced, eventually, is_advert};

const VIP: &str = "10.0.0.100";

fn pair(lab: &Lab) -> (Router, Router) {
    let one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24");
    one.wait_for("transition backup master");
    let two = lab.two.router("eth0 51 100 100ms 10.0.0.100/24");
    eventually("the address of the first", || lab.one.has(VIP));
    (one, two)
}

#[test]
fn a_killed_router_has_its_guard_give_the_address_up() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    assert!(!lab.two.has(VIP));
    let guard = one.guard().expect("a guard");
    let mut capture = lab.client.capture();
    one.signal(Signal::SIGKILL);
    capture.next(|frame| is_advert(frame, 0));
    // The successor heard it: it did not wait for silence.
    two.wait_for("transition backup master master_released");
    capture.next(|frame| announced(frame) == Some(VIP.parse().unwrap()));
    eventually("no address on the first", || !lab.one.has(VIP));
    eventually("the address on the second", || lab.two.has(VIP));
    eventually("the guard is gone", || kill(Pid::from_raw(guard), None).is_err());
    // And back, when it comes back.
    let one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24");
    one.wait_for("transition backup master preempt");
    two.wait_for("transition master backup higher_priority");
    eventually("the address is back", || lab.one.has(VIP) && !lab.two.has(VIP));
    one.stop();
    two.wait_for_count("transition backup master master_released", 2);
    assert!(!lab.one.has(VIP), "the address is gone before the process is");
}

#[test]
fn a_stopped_router_has_its_guard_give_the_address_up_and_listens_when_it_goes_on() {
    let lab = Lab::new();
    let (one, mut two) = pair(&lab);
    let mut capture = lab.client.capture();
    one.signal(Signal::SIGSTOP);
    capture.next(|frame| is_advert(frame, 0));
    eventually("the address moves", || !lab.one.has(VIP) && lab.two.has(VIP));
    let sent = one.count("transition");
    one.signal(Signal::SIGCONT);
    // It has the higher priority, so it takes over again: as a backup that preempts.
    one.wait_for_count("transition", sent + 2);
    one.wait_for("transition master backup paused");
    one.wait_for("transition backup master preempt");
    eventually("the address is back", || lab.one.has(VIP) && !lab.two.has(VIP));
    assert!(two.status().contains("Backup"));
    assert_eq!(two.count("transition master backup"), 1);
}

#[test]
fn with_the_guard_killed_as_well_the_kernel_ends_the_address() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let guard = one.guard().expect("a guard");
    // A new guard comes a second later at the earliest.
    kill(Pid::from_raw(guard), Signal::SIGKILL).unwrap();
    one.signal(Signal::SIGKILL);
    two.wait_for("transition backup master master_timeout");
    eventually("the kernel ends the address", || !lab.one.has(VIP));
    assert!(lab.two.has(VIP));
}

#[test]
fn a_killed_guard_is_replaced() {
    let lab = Lab::new();
    let (one, _two) = pair(&lab);
    let first = one.guard().expect("a guard");
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    one.wait_for("guard-died None");
    eventually("another guard", || one.guard().is_some_and(|second| second != first));
    // It knows what is held.
    one.signal(Signal::SIGKILL);
    eventually("no address on the first", || !lab.one.has(VIP));
}

#[test]
fn what_was_left_behind_is_deleted_and_what_somebody_added_stays() {
    let lab = Lab::new();
    let one = lab.one.router("eth0 51 200 10ms 10.0.0.100/24 10.0.0.101/24 noguard");
    eventually("both addresses", || lab.one.has(VIP) && lab.one.has("10.0.0.101"));
    one.signal(Signal::SIGKILL);
    drop(one);
    lab.one.ip("addr add 10.0.0.102/24 dev eth0");
    let settings = super::process::settings("eth0 51 200 10ms 10.0.0.100/24 10.0.0.102/24");
    let released = lab.one.run(|| lockgate_vrrp::linux::release_leftovers(&[settings]).unwrap());
    let released: Vec<_> = released.iter().map(ToString::to_string).collect();
    assert_eq!(released, ["10.0.0.100/24 on eth0"]);
    assert!(!lab.one.has(VIP) && lab.one.has("10.0.0.102"));
}

#[test]
fn after_a_pause_of_the_whole_host_the_client_finds_the_master() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let guard = Pid::from_raw(one.guard().expect("a guard"));
    let reach =
        || lab.client.run(|| Command::new("ping").args(["-c1", "-W1", VIP]).output().unwrap());
    let neighbour = || lab.client.ip(&format!("neigh show {VIP}"));
    assert!(reach().status.success());
    assert!(neighbour().contains("02:00:00:00:00:01"));
    for round in 1..4 {
        // The host's own kernel goes on here, and answers: worse than a pause.
        kill(guard, Signal::SIGSTOP).unwrap();
        one.signal(Signal::SIGSTOP);
        two.wait_for_count("transition backup master", round);
        one.signal(Signal::SIGCONT);
        kill(guard, Signal::SIGCONT).unwrap();
        one.wait_for_count("transition master backup paused", round);
        one.wait_for_count("transition backup master preempt", round);
        eventually("one master", || lab.one.has(VIP) && !lab.two.has(VIP));
        eventually("the client knows", || neighbour().contains("02:00:00:00:00:01"));
        assert!(reach().status.success());
    }
}
