//! Every input in every state, and the rules that go beyond one input.

extern crate std;

use core::net::IpAddr;
use core::time::Duration;
use std::format;
use std::string::String;

use super::*;

/// What each state does with each input. A deadline is in milliseconds from the input on.
const TABLE: &str = include_str!("table.txt");

const OWN: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 5));
const LOW: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 4));
const HIGH: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 6));

const SECOND: Interval = Interval::from_secs(1).expect("not 0");
const TENTH: Interval = Interval::from_centis(10).expect("in range");

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Moment {
    Moment::new(ms(1_000_000 + millis))
}

const PARAMETERS: Parameters = Parameters {
    priority: Priority::DEFAULT,
    interval: TENTH,
    preempt: true,
    preempt_delay: Duration::ZERO,
    grouped: false,
};

fn advert(from: IpAddr, priority: u8) -> Input {
    Input::Advert { from, priority: Priority::new(priority), interval: TENTH }
}

fn reconfigured(parameters: Parameters) -> Input {
    Input::Reconfigure { parameters, addresses: false }
}

/// A backup that has just begun.
fn newcomer(parameters: Parameters) -> Instance {
    let mut instance = Instance::new(parameters);
    let actions = instance.handle(Input::Able(OWN), at(0));
    assert_eq!(actions.transition.map(|transition| transition.to), Some(Role::Backup));
    instance
}

/// A backup that goes by its own interval, as one does that was master; the moment at which its wait
/// began.
fn backup(parameters: Parameters) -> (Instance, Moment) {
    let mut instance = newcomer(parameters);
    let State::Backup(backup) = &mut instance.state else { panic!("it is a backup") };
    backup.wait = Wait::Silence;
    (instance, at(0))
}

/// A master that sent its second advert just now, and announced with the first.
fn master(parameters: Parameters) -> (Instance, Moment) {
    let (mut instance, _) = backup(parameters);
    let now = instance.poll_timeout().unwrap();
    assert!(instance.handle(Input::Timer, now).announce);
    let now = instance.poll_timeout().unwrap();
    let actions = instance.handle(Input::Timer, now);
    assert_eq!(actions, Actions { send: Some(parameters.priority), ..Actions::NONE });
    (instance, now)
}

fn listening(parameters: Parameters) -> (Instance, Moment) {
    let (mut instance, now) = master(parameters);
    let now = now + parameters.interval.duration() * 3 + Duration::from_nanos(1);
    assert!(instance.handle(Input::Timer, now).is_none());
    assert!(matches!(instance.state, State::Listening(_)));
    (instance, now)
}

/// Each state, by name, and the moment at which inputs come.
fn states() -> [(&'static str, Instance, Moment); 9] {
    let grouped = Parameters { grouped: true, ..PARAMETERS };
    let (waiting, begin) = backup(PARAMETERS);
    let waiting = ("backup", waiting, begin + ms(150));
    let (mut ready, begin) = backup(grouped);
    let due = ready.poll_timeout().unwrap();
    assert!(ready.handle(Input::Timer, due).is_none() && begin < due && ready.is_ready());
    let (mut released, begin) = backup(PARAMETERS);
    assert!(released.handle(advert(HIGH, 0), begin + ms(10)).is_none());
    let (leading, sent) = master(PARAMETERS);
    let late = (leading.clone(), sent + ms(300) + Duration::from_nanos(1));
    let (listens, since) = listening(PARAMETERS);
    let mut stopped = Instance::new(PARAMETERS);
    assert!(stopped.handle(Input::Stop, at(0)).is_none());
    [
        ("init", Instance::new(PARAMETERS), at(0)),
        ("stopped", stopped, at(0)),
        ("newcomer", newcomer(PARAMETERS), at(150)),
        waiting,
        ("released", released, begin + ms(20)),
        ("ready", ready, due + ms(10)),
        ("master", leading, sent + ms(50)),
        ("late", late.0, late.1),
        ("listening", listens, since + ms(50)),
    ]
}

/// Each input, by name, and whether it comes now, when the timer is due, or an interval later.
fn inputs() -> [(&'static str, Input, u32); 17] {
    let raised = Parameters { priority: Priority::new(200), ..PARAMETERS };
    [
        ("able", Input::Able(LOW), 0),
        ("unable", Input::Unable(Cause::InterfaceDown), 0),
        ("stop", Input::Stop, 0),
        ("timer early", Input::Timer, 0),
        ("timer", Input::Timer, 1),
        ("timer overdue", Input::Timer, 2),
        ("release", advert(HIGH, 0), 0),
        ("lower", advert(HIGH, 99), 0),
        ("tie, won", advert(LOW, 100), 0),
        ("tie, lost", advert(HIGH, 100), 0),
        ("higher", advert(LOW, 101), 0),
        ("owner", advert(LOW, 255), 0),
        ("same settings", reconfigured(PARAMETERS), 0),
        ("priority 200", reconfigured(raised), 0),
        ("addresses", Input::Reconfigure { parameters: PARAMETERS, addresses: true }, 0),
        ("lead", Input::Lead, 0),
        ("yield", Input::Yield, 0),
    ]
}

fn outcome(instance: &Instance, actions: Actions, now: Moment) -> String {
    let state = match instance.state {
        State::Init(cause) => format!("init:{cause}"),
        State::Stopped => "stopped".into(),
        State::Backup(backup) if backup.ready.is_some() => "ready".into(),
        State::Backup(_) => "backup".into(),
        State::Listening(_) => "listening".into(),
        State::Master(_) => "master".into(),
    };
    let deadline = match instance.poll_timeout() {
        None => "-".into(),
        Some(at) if at < now => "now".into(),
        Some(at) => format!("{:.3}", (at - now).as_secs_f64() * 1e3),
    };
    let send = actions.send.map_or_else(|| "-".into(), |priority| format!("send {priority}"));
    let transition = match actions.transition {
        None => "-".into(),
        Some(Transition { from, to, cause }) => {
            assert_eq!(to, instance.role());
            format!("{from}>{to} {cause}")
        }
    };
    let announce = if actions.announce { "announce" } else { "-" };
    format!("{state:<20} {deadline:>8}  {send:<9} {transition:<30} {announce}")
}

#[test]
fn every_input_in_every_state() {
    let mut found = String::new();
    for (name, state, now) in states() {
        for (input_name, input, when) in inputs() {
            let mut instance = state.clone();
            let due = instance.poll_timeout().unwrap_or(now).max(now);
            let now = match when {
                0 => now,
                1 => due,
                _ => due + ms(100) + Duration::from_nanos(1),
            };
            let actions = instance.handle(input, now);
            let outcome = outcome(&instance, actions, now);
            found.push_str(&format!("{name:<10} {input_name:<14} {outcome}\n"));
        }
    }
    for (expected, found) in TABLE.lines().zip(found.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), TABLE.lines().count(), "{found}");
}

fn send(priority: u8) -> Actions {
    Actions { send: Some(Priority::new(priority)), ..Actions::NONE }
}

#[test]
fn an_owner_waits_for_nobody() {
    let owner = Parameters { priority: Priority::OWNER, preempt: false, ..PARAMETERS };
    let mut instance = Instance::new(owner);
    let actions = instance.handle(Input::Able(OWN), at(0));
    let (to, cause) = (Role::Master, Cause::Owner);
    let transition = Some(Transition { from: Role::Init, to, cause });
    assert_eq!(actions, Actions { transition, announce: true, ..send(255) });
    // Of two owners one yields, or neither ever would.
    assert_eq!(instance.handle(advert(LOW, 255), at(50)).transition, None);
    let actions = instance.handle(advert(HIGH, 255), at(99));
    assert_eq!((actions.send, instance.role()), (Some(Priority::new(254)), Role::Backup));
    assert!(instance.handle(advert(HIGH, 254), at(200)).is_none());
    assert_eq!(instance.poll_timeout(), Some(at(99) + TENTH.down(Priority::OWNER)));
}

#[test]
fn a_backup_that_is_late_gives_the_master_time_for_a_sign_but_once() {
    let (mut instance, _) = master(PARAMETERS);
    let heard = at(1_000);
    let _ = instance.handle(advert(HIGH, 200), heard);
    let due = instance.poll_timeout().unwrap();
    let almost = Duration::from_micros(12_500);
    assert_eq!(instance.clone().handle(Input::Timer, due + almost).send, Some(Priority::DEFAULT));
    let late = due + almost + Duration::from_nanos(1);
    assert!(instance.handle(Input::Timer, late).is_none());
    // As long as a master listens that stood still with us, and then some.
    assert_eq!(instance.poll_timeout(), Some(late + ms(200)));
    let mut saved = instance.clone();
    assert!(saved.handle(advert(HIGH, 200), late + ms(150)).is_none());
    assert_eq!(saved.role(), Role::Backup);
    // Late again, as on a busy host: that is no reason to wait for ever.
    assert_eq!(instance.handle(Input::Timer, late + ms(290)).send, Some(Priority::DEFAULT));
}

#[test]
fn own_adverts_do_not_drift_and_come_in_no_burst() {
    let (mut instance, sent) = master(PARAMETERS);
    for late in [0, 30, 99, 0] {
        let due = instance.poll_timeout().unwrap();
        assert_eq!(instance.handle(Input::Timer, due + ms(late)), send(100));
        assert_eq!(instance.poll_timeout(), Some(due + ms(100)));
    }
    let now = sent + ms(400) + ms(250);
    assert_eq!(instance.handle(Input::Timer, now), send(100));
    assert_eq!(instance.poll_timeout(), Some(now + ms(100)));
}

#[test]
fn answers_and_announcements_are_few_and_none_is_left_out() {
    let (mut instance, sent) = master(PARAMETERS);
    let lower = advert(HIGH, 1);
    assert_eq!(instance.handle(lower, sent + ms(1)), Actions { announce: true, ..Actions::NONE });
    assert_eq!(instance.poll_timeout(), Some(sent + Duration::from_micros(12_500)));
    let now = sent + Duration::from_micros(12_500);
    assert_eq!(instance.handle(Input::Timer, now), send(100));
    // From here on a flood: eight adverts and one announcement an interval.
    let (mut sent, mut announced) = (0, 0);
    for millis in 20..1_020 {
        let now = at(460) + ms(millis) + Duration::from_micros(937);
        for input in [lower, lower, Input::Timer] {
            let actions = instance.handle(input, now);
            sent += u32::from(actions.send.is_some());
            announced += u32::from(actions.announce);
        }
    }
    assert!((70..=80).contains(&sent), "{sent}");
    assert!((9..=10).contains(&announced), "{announced}");
    // The last contention is followed by an announcement, though nobody says anything more.
    let mut last = false;
    for _ in 0..3 {
        let due = instance.poll_timeout().unwrap();
        last |= instance.handle(Input::Timer, due).announce;
    }
    assert!(last);
}

#[test]
fn in_version_2_a_master_is_silent_about_lower_priorities() {
    let parameters = Parameters { interval: SECOND, ..PARAMETERS };
    let (mut instance, sent) = master(parameters);
    let heard = |priority| Input::Advert {
        from: HIGH,
        priority: Priority::new(priority),
        interval: SECOND,
    };
    let announce = Actions { announce: true, ..Actions::NONE };
    assert_eq!(instance.handle(heard(99), sent + ms(500)), announce);
    assert_eq!(instance.poll_timeout(), Some(sent + ms(1_000)));
    assert_eq!(instance.handle(heard(0), sent + ms(600)), send(100));
    assert_eq!(instance.poll_timeout(), Some(sent + ms(1_600)));
    assert_eq!(instance.handle(heard(101), sent + ms(700)).send, Some(Priority::DEFAULT));
    assert_eq!(instance.poll_timeout(), Some(sent + ms(700) + SECOND.down(Priority::DEFAULT)));
}

#[test]
fn intervals_are_learned_unless_they_are_far_shorter_than_ours() {
    let learned = |own, heard| {
        let interval = Interval::from_centis(own).unwrap();
        let parameters = Parameters { interval, ..PARAMETERS };
        parameters.learned(Interval::from_centis(heard).unwrap()).centis()
    };
    for (own, heard, expected) in [
        (10, 1, 1),
        (10, 100, 100),
        (10, 101, 101),
        (10, 4_095, 4_095),
        (1, 4_095, 4_095),
        (100, 1, 10),
        (100, 1_000, 1_000),
        (100, 4_095, 4_095),
        (4_095, 1, 409),
        (4_095, 4_095, 4_095),
    ] {
        assert_eq!(learned(own, heard), expected, "own {own}, heard {heard}");
    }
    let (mut instance, begin) = backup(PARAMETERS);
    let interval = Interval::from_centis(50).unwrap();
    let input = Input::Advert { from: LOW, priority: Priority::DEFAULT, interval };
    assert!(instance.handle(input, begin).is_none());
    assert_eq!(instance.poll_timeout(), Some(begin + interval.down(Priority::DEFAULT)));
    assert_eq!(instance.master(), Some(LOW));
}

#[test]
fn who_has_heard_nobody_waits_for_a_master_at_a_second() {
    let second = Interval::from_centis(100).unwrap();
    for centis in [1, 10, 100, 500] {
        let interval = Interval::from_centis(centis).unwrap();
        let mut instance = newcomer(Parameters { interval, ..PARAMETERS });
        let down = interval.down(Priority::DEFAULT).max(second.down(Priority::DEFAULT));
        let due = at(0) + down;
        assert_eq!(instance.poll_timeout(), Some(due), "{interval}");
        assert_eq!(instance.handle(Input::Timer, due).send, Some(Priority::DEFAULT));
    }
    // Version 2 hears nobody with another interval.
    let instance = newcomer(Parameters { interval: SECOND, ..PARAMETERS });
    assert_eq!(instance.poll_timeout(), Some(at(0) + SECOND.down(Priority::DEFAULT)));
    // Whoever is heard says at what interval.
    for (priority, down) in [(200, TENTH), (100, TENTH), (99, TENTH)] {
        let mut instance = newcomer(PARAMETERS);
        assert!(instance.handle(advert(HIGH, priority), at(2_000)).is_none());
        let due = at(2_000) + down.down(Priority::DEFAULT);
        assert_eq!(instance.poll_timeout(), Some(due), "{priority}");
    }
    // One that steps down leaves its place as quickly as to anybody.
    let mut instance = newcomer(PARAMETERS);
    assert!(instance.handle(advert(HIGH, 0), at(500)).is_none());
    assert_eq!(instance.poll_timeout(), Some(at(500) + TENTH.skew(Priority::DEFAULT)));
}

#[test]
fn a_newcomer_that_slept_begins_its_wait_again() {
    let mut instance = newcomer(PARAMETERS);
    let due = instance.poll_timeout().unwrap();
    let late = due + ms(1_001);
    assert!(instance.handle(Input::Timer, late).is_none());
    let again = instance.poll_timeout().unwrap();
    assert_eq!(again - late, due - at(0));
    // A busy host is late as well.
    assert_eq!(instance.handle(Input::Timer, again + ms(900)).send, Some(Priority::DEFAULT));
}

#[test]
fn a_delay_of_preemption_runs_from_the_first_lower_advert() {
    let (mut instance, begin) = backup(Parameters { preempt_delay: ms(1_000), ..PARAMETERS });
    let mut last = begin;
    for tenth in 1..=20 {
        let now = begin + ms(tenth * 100);
        assert!(instance.handle(advert(LOW, 50), now).is_none());
        if tenth <= 10 {
            last = now;
        }
        if instance.poll_timeout() <= Some(now + ms(100)) {
            break;
        }
    }
    let due = instance.poll_timeout().unwrap();
    assert_eq!(due, last + TENTH.down(Priority::DEFAULT));
    let transition = instance.handle(Input::Timer, due).transition.unwrap();
    assert_eq!(transition.cause, Cause::Preempt);
    // Silence is no master to be patient with.
    let (mut instance, begin) = backup(Parameters { preempt_delay: ms(60_000), ..PARAMETERS });
    assert!(instance.handle(advert(LOW, 50), begin).is_none());
    let transition = instance.handle(Input::Timer, instance.poll_timeout().unwrap()).transition;
    assert_eq!(transition.map(|transition| transition.cause), Some(Cause::MasterTimeout));
}

#[test]
fn without_preempt_any_master_is_followed() {
    let (mut instance, begin) = backup(Parameters { preempt: false, ..PARAMETERS });
    for tenth in 1..100 {
        let now = begin + ms(tenth * 100);
        assert!(instance.handle(advert(LOW, 1), now).is_none());
        assert_eq!(instance.poll_timeout(), Some(now + TENTH.down(Priority::DEFAULT)));
    }
}

#[test]
fn repeated_releases_do_not_put_off_the_turn() {
    let (mut instance, begin) = backup(PARAMETERS);
    assert!(instance.handle(advert(LOW, 0), begin).is_none());
    let due = instance.poll_timeout().unwrap();
    for millis in 1..60 {
        assert!(instance.handle(advert(LOW, 0), begin + ms(millis)).is_none());
    }
    assert_eq!(instance.poll_timeout(), Some(due));
}

#[test]
fn a_new_interval_of_a_master_is_no_pause() {
    let slow = Parameters { interval: Interval::from_centis(100).unwrap(), ..PARAMETERS };
    let (mut instance, sent) = master(slow);
    let fast = reconfigured(PARAMETERS);
    assert_eq!(instance.handle(fast, sent + ms(900)), send(100));
    assert_eq!(instance.handle(Input::Timer, sent + ms(1_000)), send(100));
    assert_eq!(instance.good_until(), Some(sent + ms(1_300)));
}

#[test]
fn a_group_leads_when_it_is_told_to() {
    let grouped = Parameters { grouped: true, ..PARAMETERS };
    let (mut instance, _) = backup(grouped);
    let due = instance.poll_timeout().unwrap();
    assert!(!instance.is_ready() && instance.handle(Input::Timer, due).is_none());
    assert!(instance.is_ready());
    assert_eq!((instance.role(), instance.poll_timeout()), (Role::Backup, None));
    let mut owner = Instance::new(Parameters { priority: Priority::OWNER, ..grouped });
    assert_eq!(owner.handle(Input::Able(OWN), at(0)).send, None);
    assert!(owner.is_ready());
    let transition = owner.handle(Input::Lead, at(1)).transition.unwrap();
    assert_eq!(transition.cause, Cause::Owner);
}

#[test]
fn who_offers_the_addresses_keeps_them_until_somebody_takes_them() {
    let (mut instance, now) = master(PARAMETERS);
    let actions = instance.handle(Input::Offer, now);
    assert_eq!(actions, Actions { send: Some(Priority::RELEASE), ..Actions::NONE });
    assert_eq!(instance.role(), Role::Master);
    assert_eq!(instance.good_until(), instance.poll_timeout(), "they may stay that long");
    assert!(instance.handle(Input::Offer, now).is_none(), "once is enough");

    // Nobody is there: it goes on as if nothing had been.
    let mut alone = instance.clone();
    let resumed = alone.poll_timeout().unwrap();
    let actions = alone.handle(Input::Timer, resumed);
    assert_eq!((actions.send, actions.transition), (Some(Priority::DEFAULT), None));
    assert!(actions.announce);

    // Somebody of whatever priority: the addresses are theirs.
    let actions = instance.handle(advert(HIGH, 50), now + ms(60));
    let transition = actions.transition.unwrap();
    assert_eq!((transition.to, transition.cause), (Role::Backup, Cause::HandedOver));
    assert!(actions.send.unwrap() < Priority::new(50));
    assert!(instance.handle(Input::Offer, now + ms(70)).is_none(), "a backup has nothing to offer");

    // A pause later is told as one.
    let (mut paused, now) = listening(PARAMETERS);
    let transition = paused.handle(advert(LOW, 50), now + ms(1)).transition.unwrap();
    assert_eq!(transition.cause, Cause::Paused);
}
