//! Other settings while virtual routers run.

use std::time::Duration;

use lockgate_vrrp::linux::{self, Options, State, Vrrp};
use lockgate_vrrp::settings::Settings;

use super::lab::{Host, Lab, advert, eventually};
use super::process::settings;

fn member(arguments: &str) -> Settings {
    Settings { sync_group: Some("group".into()), ..settings(arguments) }
}

fn start(host: &Host, settings: Vec<Settings>) -> Vrrp {
    host.run(|| linux::start(settings, Options::default()).unwrap())
}

fn all_are(vrrp: &Vrrp, state: State) -> bool {
    vrrp.status().iter().all(|instance| instance.state == state)
}

#[test]
fn a_group_stays_master_while_members_come_and_change_their_identifier() {
    let group = |host: u8, third: Option<&str>, second: u8| {
        let priority = 250 - 50 * host;
        let first = format!("eth0 51 {priority} 100ms 10.0.0.100/24");
        let second = format!("eth0 {second} {priority} 100ms 10.0.0.101/24");
        let third = third.map(|third| format!("eth0 53 {priority} 100ms 10.0.0.102/24 {third}"));
        let all = [Some(first), Some(second), third].into_iter().flatten();
        all.map(|arguments| member(&arguments)).collect::<Vec<_>>()
    };
    let lab = Lab::new();
    let one = start(&lab.one, group(1, None, 52));
    eventually("a master", || all_are(&one, State::Master));
    let two = start(&lab.two, group(2, None, 52));
    eventually("a backup", || all_are(&two, State::Backup));

    // The third has an interface that has to be made first.
    let mut capture = lab.client.capture();
    for (host, vrrp) in [(1, &one), (2, &two)] {
        vrrp.reconfigure(group(host, Some("mac"), 52)).unwrap();
    }
    eventually("all are master", || one.status().len() == 3 && all_are(&one, State::Master));
    eventually("the address", || lab.one.has("10.0.0.102"));
    // The second goes by another identifier.
    for (host, vrrp) in [(1, &one), (2, &two)] {
        vrrp.reconfigure(group(host, Some("mac"), 99)).unwrap();
    }
    eventually("all are master", || all_are(&one, State::Master));
    let adverts = capture.during(Duration::from_secs(1), |frame| advert(frame).is_some());
    let ends = adverts.iter().map(|(_, frame)| advert(frame).unwrap());
    let ends: Vec<_> = ends.filter(|it| it[2] == 0).map(|it| it[1]).collect();
    assert!(!ends.is_empty() && ends.iter().all(|vrid| *vrid == 52), "{ends:?}");
    let of_new = |frame: &[u8]| advert(frame).is_some_and(|it| (it[1], it[2]) == (99, 200));
    assert!(adverts.iter().any(|(_, frame)| of_new(frame)));
    // To backup and to master, when it began, and never again.
    assert_eq!(one.status()[0].transitions, 2);
    assert!(all_are(&two, State::Backup));
    assert!(["10.0.0.100", "10.0.0.101", "10.0.0.102"].iter().all(|vip| lab.one.has(vip)));
}
