//! A pair with keepalived 2.2.7, in both roles.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lab::{Host, Lab, eventually, is_advert};

const VIP: &str = "10.0.0.100";

struct Keepalived {
    child: Child,
    directory: PathBuf,
}

impl Keepalived {
    fn start(host: &Host, priority: u8) -> Self {
        Self::start_at(host, priority, "0.1")
    }

    /// One that speaks every so many seconds.
    fn start_at(host: &Host, priority: u8, interval: &str) -> Self {
        let directory = std::env::temp_dir().join(&host.name);
        fs::create_dir_all(&directory).unwrap();
        let file = |name: &str| directory.join(name).display().to_string();
        let text = format!(
            "global_defs {{\n vrrp_version 3\n}}\nvrrp_instance pair {{\n state BACKUP\n \
             interface eth0\n virtual_router_id 51\n priority {priority}\n advert_int {interval}\n \
             virtual_ipaddress {{\n {VIP}/24\n }}\n}}\n"
        );
        fs::write(file("conf"), text).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &host.name, "keepalived", "-n", "-P", "-f", &file("conf")])
            .args(["-p", &file("pid"), "-r", &file("vrrp.pid"), "-l"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn stop(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.stop();
            for _ in 0..200 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn keepalived_takes_over_from_us_and_yields_to_us() {
    let lab = Lab::new();
    let one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24");
    one.wait_for("transition backup master");
    let peer = Keepalived::start(&lab.two, 100);
    // Once heard, its form of checksum is ours, and one of both is master.
    eventually("the address is here alone", || lab.one.has(VIP) && !lab.two.has(VIP));
    thread::sleep(Duration::from_secs(1));
    assert!(lab.one.has(VIP) && !lab.two.has(VIP));
    assert_eq!(one.count("transition master"), 0, "{:#?}", one.lines());
    // It takes over when we die, since the guard tells it, and it yields when we are back.
    one.signal(Signal::SIGKILL);
    eventually("keepalived is master", || lab.two.has(VIP) && !lab.one.has(VIP));
    let one = lab.one.router("eth0 51 200 100ms 10.0.0.100/24");
    one.wait_for("transition backup master preempt");
    eventually("keepalived yields", || lab.one.has(VIP) && !lab.two.has(VIP));
    one.stop();
    eventually("keepalived is master", || lab.two.has(VIP));
    drop(peer);
}

#[test]
fn we_take_over_from_keepalived_and_yield_to_it() {
    let lab = Lab::new();
    let peer = Keepalived::start(&lab.two, 200);
    eventually("keepalived is master", || lab.two.has(VIP));
    let one = lab.one.router("eth0 51 100 100ms 10.0.0.100/24");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(one.count("transition backup master"), 0);
    let mut capture = lab.client.capture();
    peer.stop();
    one.wait_for("transition backup master master_released");
    eventually("the address is here", || lab.one.has(VIP) && !lab.two.has(VIP));
    drop(peer);
    capture.next(|frame| is_advert(frame, 100));
    let peer = Keepalived::start(&lab.two, 200);
    one.wait_for("transition master backup higher_priority");
    eventually("keepalived is master", || lab.two.has(VIP) && !lab.one.has(VIP));
    drop(peer);
}

/// It takes no advert whose checksum has the form of RFC 9568, one that it does not take keeps it from
/// sending its own, and its first one may be heard after a second.
#[test]
fn with_a_keepalived_at_a_second_there_is_one_master_whoever_comes_first() {
    let mut trials = Vec::new();
    for (theirs, ours) in [(200, 100), (100, 200)] {
        trials.push((theirs, ours, None));
        // At any time between two of its adverts.
        trials.extend([0, 300, 600, 900].map(|wait| (theirs, ours, Some(wait))));
    }
    thread::scope(|scope| {
        for (theirs, ours, wait) in trials {
            scope.spawn(move || with_a_keepalived_at_a_second(theirs, ours, wait));
        }
    });
}

/// `wait`: so many milliseconds after keepalived has become master we start; `None`: before it.
fn with_a_keepalived_at_a_second(theirs: u8, ours: u8, wait: Option<u64>) {
    let lab = Lab::new();
    let arguments = format!("eth0 51 {ours} 100ms {VIP}/24");
    let (peer, one);
    if let Some(wait) = wait {
        peer = Keepalived::start_at(&lab.two, theirs, "1");
        eventually("keepalived is master", || lab.two.has(VIP));
        thread::sleep(Duration::from_millis(wait));
        one = lab.one.router(&arguments);
    } else {
        one = lab.one.router(&arguments);
        eventually("we are master", || lab.one.has(VIP));
        peer = Keepalived::start_at(&lab.two, theirs, "1");
        // Long enough for it to have become master, if it does not hear us.
        thread::sleep(Duration::from_secs(4));
    }
    let (better, other) = if ours > theirs { (&lab.one, &lab.two) } else { (&lab.two, &lab.one) };
    eventually("the better one alone is master", || better.has(VIP) && !other.has(VIP));
    for _ in 0..25 {
        thread::sleep(Duration::from_millis(200));
        assert!(better.has(VIP) && !other.has(VIP), "{wait:?}: {:#?}", one.lines());
    }
    if wait.is_some() && ours < theirs {
        let lines = one.lines();
        assert_eq!(one.count("transition backup master"), 0, "{wait:?}: {lines:#?}");
    }
    drop(peer);
    one.stop();
}
