//! Virtual routers that go from one process to the next, here from one set of threads to another: nobody
//! outside notices.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lockgate_vrrp::linux::{self, Options, State, Vrrp, identity};

use super::lab::{Host, Lab, advert, eventually};
use super::process::settings;

const VIP: &str = "10.0.0.100";

fn start(host: &Host, arguments: &str) -> Vrrp {
    host.run(|| linux::start(vec![settings(arguments)], Options::default()).unwrap())
}

fn heir(host: &Host, arguments: &str) -> Vrrp {
    host.run(|| linux::succeed(vec![settings(arguments)], Options::default()).unwrap())
}

fn state(vrrp: &Vrrp) -> State {
    vrrp.status()[0].state
}

/// Hands on to another, which goes on with these settings.
fn hand_on(host: &Host, elder: Vrrp, arguments: &str) -> Vrrp {
    let heir = heir(host, arguments);
    let legacy = elder.let_go(vec![identity(&settings(arguments))]).unwrap();
    heir.adopt(Some(legacy)).unwrap();
    elder.leave();
    heir
}

/// What becomes of addresses on a host.
struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    fn new(host: &Host) -> Self {
        let mut command = Command::new("ip");
        command.args(["-n", &host.name, "monitor", "address"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (read, all) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        thread::spawn(move || {
            read.lines().map_while(Result::ok).for_each(|line| all.lock().unwrap().push(line));
        });
        Self { child, lines }
    }

    fn count(&self, text: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_master_is_handed_on_and_its_address_is_never_removed() {
    const ROUTER: &str = "eth0 51 200 100ms 10.0.0.100/24";
    let lab = Lab::new();
    let mut vrrp = start(&lab.one, ROUTER);
    let backup = lab.two.router("eth0 51 100 100ms 10.0.0.100/24");
    eventually("a master", || state(&vrrp) == State::Master && lab.one.has(VIP));
    let before = vrrp.status().remove(0);
    let watch = Watch::new(&lab.one);
    eventually("renewals are seen", || watch.count(VIP) > 0);
    let mut capture = lab.client.capture();
    for _ in 0..20 {
        vrrp = hand_on(&lab.one, vrrp, ROUTER);
        assert_eq!(state(&vrrp), State::Master);
    }
    let adverts = capture.during(Duration::from_secs(3), |frame| advert(frame).is_some());
    assert!(lab.one.has(VIP), "it is renewed");
    assert_eq!(watch.count("Deleted"), 0);
    assert_eq!(backup.count("transition backup master"), 0);
    let after = vrrp.status().remove(0);
    assert_eq!((after.transitions, after.cause), (before.transitions, before.cause));
    assert!(after.counts.sent > before.counts.sent + 20);
    // Nobody but it has spoken, and never of an end.
    let all = adverts.iter().map(|(_, frame)| advert(frame).unwrap()[2]);
    assert!(all.clone().count() > 20 && all.clone().all(|priority| priority == 200));
    // It gives up like any other.
    vrrp.stop();
    backup.wait_for("transition backup master master_released");
    eventually("the address is gone", || !lab.one.has(VIP));
}

#[test]
fn adverts_go_on_without_a_gap() {
    const ROUTER: &str = "eth0 51 200 100ms 10.0.0.100/24";
    let lab = Lab::new();
    let vrrp = start(&lab.one, ROUTER);
    eventually("a master", || state(&vrrp) == State::Master);
    let mut capture = lab.client.capture();
    let times: Vec<Instant> = thread::scope(|scope| {
        let seen = scope.spawn(|| capture.during(Duration::from_secs(4), |f| advert(f).is_some()));
        let mut vrrp = vrrp;
        for _ in 0..20 {
            vrrp = hand_on(&lab.one, vrrp, ROUTER);
            thread::sleep(Duration::from_millis(50));
        }
        seen.join().unwrap().into_iter().map(|(at, _)| at).collect()
    });
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    println!("{} adverts, {longest:?} apart at most", times.len());
    assert!(times.len() > 40, "{} adverts", times.len());
    // A backup takes over after more than three intervals.
    assert!(longest < Duration::from_millis(300), "{longest:?}");
}

#[test]
fn what_nobody_goes_on_with_is_taken_back_or_given_up() {
    const ROUTER: &str = "eth0 51 200 500ms 10.0.0.100/24";
    let lab = Lab::new();
    let vrrp = start(&lab.one, ROUTER);
    let backup = lab.two.router("eth0 51 100 500ms 10.0.0.100/24");
    eventually("a master", || state(&vrrp) == State::Master && lab.one.has(VIP));
    let watch = Watch::new(&lab.one);
    for _ in 0..3 {
        drop(heir(&lab.one, ROUTER));
        vrrp.let_go(vec![identity(&settings(ROUTER))]).unwrap();
        vrrp.take_back();
        assert_eq!(state(&vrrp), State::Master);
    }
    thread::sleep(Duration::from_secs(3));
    assert_eq!((watch.count("Deleted"), backup.count("transition backup master")), (0, 0));
    assert!(lab.one.has(VIP));
    // Of what the next process does not want nothing is left for it.
    let legacy = vrrp.let_go(Vec::new()).unwrap();
    assert!(legacy.routers.is_empty());
    backup.wait_for("transition backup master master_released");
    eventually("the address is gone", || !lab.one.has(VIP));
    vrrp.leave();
}

#[test]
fn who_is_handed_other_settings_has_those_addresses_and_no_others() {
    let lab = Lab::new();
    let vrrp = start(&lab.one, "eth0 51 200 100ms 10.0.0.100/24");
    eventually("a master", || lab.one.has(VIP));
    let vrrp = hand_on(&lab.one, vrrp, "eth0 51 150 100ms 10.0.0.101/24 10.0.0.102/24");
    assert_eq!(state(&vrrp), State::Master);
    eventually("the new ones alone are there", || {
        !lab.one.has(VIP) && lab.one.has("10.0.0.101") && lab.one.has("10.0.0.102")
    });
    // And without a legacy it begins from the beginning.
    let next = heir(&lab.one, "eth0 51 150 100ms 10.0.0.101/24");
    assert_eq!(state(&next), State::Init);
    vrrp.stop();
    next.adopt(None).unwrap();
    eventually("it is master by itself", || state(&next) == State::Master);
}
