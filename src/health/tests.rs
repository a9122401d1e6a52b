//! In virtual time: `at(n)` is n milliseconds after the beginning.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(millis: u64) -> Instant {
    *BEGINNING + Duration::from_millis(millis)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const CHECKS: Checks = Checks {
    rise: 2,
    fall: 3,
    interval: Duration::from_secs(2),
    fast_interval: Duration::from_millis(500),
};

const PASSIVE: Passive =
    Passive { max_fails: 3, window: Duration::from_secs(30), eject_for: Duration::from_secs(30) };

fn settings(checks: Option<Checks>, passive: Option<Passive>, slow_start: Duration) -> Settings {
    Settings { weight: 100, checks, passive, slow_start }
}

fn ward(count: usize, settings: &Settings) -> Ward {
    let members = (0..count).map(|_| Vitals::new(settings.clone(), false, false, at(0))).collect();
    Ward::new(Rules { max_ejected: 50, try_all: false }, members, at(0))
}

fn state(ward: &Ward, member: usize) -> State {
    ward.members()[member].state()
}

fn weights(ward: &Ward, now: u64) -> Vec<u32> {
    ward.weights(0..ward.members().len(), 1, at(now)).collect()
}

fn failed() -> Event {
    Event::CheckFailed("refused".into())
}

fn connect_failed() -> Event {
    Event::ConnectFailed("refused".into())
}

#[test]
fn the_first_check_decides_alone() {
    let mut ward = ward(2, &settings(Some(CHECKS), None, Duration::ZERO));
    assert_eq!((state(&ward, 0), weights(&ward, 0)), (State::Unchecked, vec![0, 0]));
    assert!(!ward.is_settled());
    let up = ward.handle(0, Event::CheckPassed, at(1)).unwrap();
    assert_eq!((up.from, up.to), (State::Unchecked, State::Up));
    let down = ward.handle(1, failed(), at(1)).unwrap();
    assert_eq!((down.to, &*down.reason), (State::Down, "first check failed: refused"));
    assert_eq!(weights(&ward, 1), [100, 0]);
    assert!(ward.is_settled());
}

#[test]
fn rise_and_fall_count_in_a_row() {
    let mut ward = ward(1, &settings(Some(CHECKS), None, Duration::ZERO));
    ward.handle(0, Event::CheckPassed, at(0));
    let events = [failed(), failed(), Event::CheckPassed, failed(), failed()];
    for event in events {
        assert_eq!(ward.handle(0, event, at(1)), None);
    }
    assert_eq!(ward.handle(0, failed(), at(1)).unwrap().to, State::Down);
    for event in [Event::CheckPassed, failed(), Event::CheckPassed] {
        assert_eq!(ward.handle(0, event, at(2)), None);
    }
    let up = ward.handle(0, Event::CheckPassed, at(2)).unwrap();
    assert_eq!((up.to, &*up.reason), (State::Up, "2 checks in a row passed"));
}

#[test]
fn checks_are_fast_while_a_verdict_is_pending() {
    let mut ward = ward(1, &settings(Some(CHECKS), Some(PASSIVE), Duration::ZERO));
    let interval = |ward: &Ward| ward.members()[0].check_interval().unwrap();
    assert_eq!(interval(&ward), CHECKS.fast_interval);
    ward.handle(0, Event::CheckPassed, at(0));
    assert_eq!(interval(&ward), CHECKS.interval);
    ward.handle(0, failed(), at(0));
    assert_eq!(interval(&ward), CHECKS.fast_interval);
    ward.handle(0, Event::CheckPassed, at(0));
    assert_eq!(interval(&ward), CHECKS.interval);
    ward.handle(0, connect_failed(), at(0));
    assert_eq!(interval(&ward), CHECKS.fast_interval, "live traffic failed");
    ward.handle(0, Event::CheckPassed, at(0));
    assert_eq!(interval(&ward), CHECKS.interval);
}

#[test]
fn a_check_that_came_to_nothing_counts_neither_way_and_is_made_again_soon() {
    let nothing = || Event::CheckInconclusive("too many open files".into());
    let mut ward = ward(1, &settings(Some(CHECKS), None, Duration::ZERO));
    assert_eq!(ward.handle(0, nothing(), at(0)), None);
    assert!(!ward.is_settled(), "the first verdict is still to come");
    assert_eq!(ward.members()[0].reason(), "first check pending: too many open files");
    assert_eq!(ward.handle(0, Event::CheckPassed, at(0)).unwrap().reason, "first check passed");

    for _ in 0..9 {
        assert_eq!(ward.handle(0, nothing(), at(1)), None);
    }
    assert_eq!(ward.members()[0].check_interval(), Some(CHECKS.fast_interval));
    assert_eq!(ward.members()[0].reason(), "first check passed");
    // A row goes on as if it had not been.
    for event in [failed(), nothing(), failed(), nothing()] {
        assert_eq!(ward.handle(0, event, at(2)), None);
    }
    assert_eq!(ward.handle(0, failed(), at(3)).unwrap().to, State::Down);
    for event in [Event::CheckPassed, nothing()] {
        assert_eq!(ward.handle(0, event, at(4)), None);
    }
    assert_eq!(ward.handle(0, Event::CheckPassed, at(5)).unwrap().to, State::Up);
}

#[test]
fn live_failures_eject_and_the_time_doubles() {
    let mut ward = ward(2, &settings(None, Some(PASSIVE), Duration::ZERO));
    assert_eq!(ward.handle(0, connect_failed(), at(0)), None);
    assert_eq!(ward.handle(0, connect_failed(), at(31_000)), None, "the first is too old");
    assert_eq!(ward.handle(0, connect_failed(), at(31_001)), None);
    let out = ward.handle(0, connect_failed(), at(31_002)).unwrap();
    assert_eq!((out.from, out.to), (State::Unchecked, State::Ejected));
    assert_eq!(weights(&ward, 31_002), [0, 100]);
    assert_eq!(ward.poll_timeout(), Some(at(61_002)));
    assert_eq!(ward.tick(at(61_001)), []);
    assert_eq!(ward.tick(at(61_002)).len(), 1);

    // On probation one failure is enough; each time it is out for twice as long, up to ten times.
    let mut now = 61_002;
    for out_for in [60, 120, 240, 300, 300] {
        now += 1;
        assert_eq!(ward.handle(0, connect_failed(), at(now)).unwrap().to, State::Ejected);
        now += out_for * 1_000;
        assert_eq!(state(&ward, 0), State::Ejected);
        ward.tick(at(now));
        assert_eq!(state(&ward, 0), State::Unchecked);
    }

    // Well for as long as it was out: it begins anew.
    now += 300_001;
    for _ in 0..3 {
        ward.handle(0, connect_failed(), at(now));
    }
    assert_eq!(ward.poll_timeout(), Some(at(now + 30_000)));
}

#[test]
fn passing_checks_end_an_ejection() {
    let mut ward = ward(2, &settings(Some(CHECKS), Some(PASSIVE), Duration::ZERO));
    for member in 0..2 {
        ward.handle(member, Event::CheckPassed, at(0));
    }
    for _ in 0..3 {
        ward.handle(0, connect_failed(), at(1));
    }
    assert_eq!(state(&ward, 0), State::Ejected);
    for event in [Event::CheckPassed, failed(), Event::CheckPassed] {
        assert_eq!(ward.handle(0, event, at(2)), None, "not two in a row");
    }
    assert_eq!(ward.handle(0, Event::CheckPassed, at(3)).unwrap().to, State::Up);
}

/// A pool of two whose first member has been ejected by live traffic at 1 ms.
fn one_ejected(slow_start: Duration) -> Ward {
    let mut ward = ward(2, &settings(Some(CHECKS), Some(PASSIVE), slow_start));
    for member in 0..2 {
        ward.handle(member, Event::CheckPassed, at(0));
    }
    for _ in 0..3 {
        ward.handle(0, connect_failed(), at(1));
    }
    assert_eq!(state(&ward, 0), State::Ejected);
    ward
}

#[test]
fn failing_checks_take_an_ejected_backend_down_and_the_end_of_the_time_does_not_bring_it_back() {
    let mut ward = one_ejected(Duration::ZERO);
    for _ in 0..2 {
        assert_eq!(ward.handle(0, failed(), at(2)), None);
    }
    let down = ward.handle(0, failed(), at(3)).unwrap();
    assert_eq!((down.from, down.to), (State::Ejected, State::Down));
    assert_eq!(down.reason, "3 checks in a row failed: refused");
    assert_eq!(ward.tick(at(40_000)), [], "the ejection would have been over");
    assert_eq!((state(&ward, 0), weights(&ward, 40_000)), (State::Down, vec![0, 100]));
    assert_eq!(ward.members()[0].reason(), "3 checks in a row failed: refused");
    ward.handle(0, Event::CheckPassed, at(40_001));
    let up = ward.handle(0, Event::CheckPassed, at(40_002)).unwrap();
    assert_eq!((up.to, &*up.reason), (State::Up, "2 checks in a row passed"));
}

#[test]
fn failures_count_across_both_ends_of_an_ejection() {
    // Two failures before it, one within.
    let mut ward = ward(2, &settings(Some(CHECKS), Some(PASSIVE), Duration::ZERO));
    for member in 0..2 {
        ward.handle(member, Event::CheckPassed, at(0));
    }
    for _ in 0..2 {
        ward.handle(0, failed(), at(1));
    }
    for _ in 0..3 {
        ward.handle(0, connect_failed(), at(2));
    }
    assert_eq!(state(&ward, 0), State::Ejected);
    assert_eq!(ward.handle(0, failed(), at(3)).unwrap().to, State::Down);

    // Two within, one after it.
    let mut ward = one_ejected(Duration::ZERO);
    for _ in 0..2 {
        ward.handle(0, failed(), at(2));
    }
    assert_eq!(ward.tick(at(30_001)).len(), 1);
    assert_eq!(ward.handle(0, failed(), at(30_002)).unwrap().to, State::Down);
}

#[test]
fn what_happens_to_a_drained_backend_shows_when_the_drain_ends() {
    let mut ward = one_ejected(Duration::ZERO);
    ward.handle(0, Event::Admin(Admin::Draining), at(2));
    for _ in 0..3 {
        ward.handle(0, failed(), at(3));
    }
    assert_eq!(state(&ward, 0), State::Draining);
    assert_eq!(ward.members()[0].reason(), "drained by the operator");
    let down = ward.handle(0, Event::Admin(Admin::Enabled), at(4)).unwrap();
    assert_eq!((down.to, &*down.reason), (State::Down, "3 checks in a row failed: refused"));

    let mut ward = one_ejected(Duration::ZERO);
    ward.handle(0, Event::Admin(Admin::Disabled), at(2));
    for _ in 0..2 {
        ward.handle(0, Event::CheckPassed, at(3));
    }
    let up = ward.handle(0, Event::Admin(Admin::Enabled), at(4)).unwrap();
    assert_eq!((up.to, &*up.reason), (State::Up, "enabled by the operator"));
}

#[test]
fn a_drained_one_that_is_ejected_counts_among_the_ejected() {
    let mut ward = ward(4, &settings(None, Some(PASSIVE), Duration::ZERO));
    let eject = |ward: &mut Ward, member| {
        for _ in 0..3 {
            ward.handle(member, connect_failed(), at(1));
        }
    };
    eject(&mut ward, 0);
    eject(&mut ward, 1);
    ward.handle(0, Event::Admin(Admin::Draining), at(2));
    eject(&mut ward, 2);
    assert_eq!(state(&ward, 2), State::Unchecked, "50 % of 4 is 2");
    ward.handle(0, Event::Admin(Admin::Enabled), at(3));
    assert_eq!(weights(&ward, 3), [0, 0, 100, 100]);
}

#[test]
fn never_more_than_max_ejected_and_never_the_last() {
    let mut ward = ward(5, &settings(None, Some(PASSIVE), Duration::ZERO));
    for member in 0..5 {
        for _ in 0..9 {
            ward.handle(member, connect_failed(), at(0));
        }
    }
    assert_eq!(weights(&ward, 0), [0, 0, 100, 100, 100], "50 % of 5 is 2");

    let rules = Rules { max_ejected: 100, try_all: false };
    let members = ward.into_members();
    let mut ward = Ward::new(rules, members, at(1));
    for member in 2..5 {
        for _ in 0..3 {
            ward.handle(member, connect_failed(), at(1));
        }
    }
    assert_eq!(weights(&ward, 1), [0, 0, 0, 0, 100]);
}

#[test]
fn slow_start_climbs_after_a_rise_but_not_at_the_first_check() {
    let mut ward = ward(1, &settings(Some(CHECKS), None, secs(20)));
    ward.handle(0, Event::CheckPassed, at(0));
    assert_eq!((state(&ward, 0), weights(&ward, 0)), (State::Up, vec![100]));
    for _ in 0..3 {
        ward.handle(0, failed(), at(0));
    }
    ward.handle(0, Event::CheckPassed, at(0));
    let up = ward.handle(0, Event::CheckPassed, at(1_000)).unwrap();
    assert_eq!(up.to, State::Starting);
    assert_eq!(weights(&ward, 1_000), [5]);
    let mut now = at(1_000);
    let mut steps = 0;
    while let Some(next) = ward.poll_timeout() {
        assert!(next > now, "a tick must make progress");
        now = next;
        ward.tick(now);
        steps += 1;
    }
    assert_eq!((steps, now), (20, at(21_000)));
    assert_eq!((state(&ward, 0), weights(&ward, 21_000)), (State::Up, vec![100]));
}

#[test]
fn a_newcomer_ramps_and_others_at_its_side_do_not() {
    let vitals = Vitals::new(settings(None, None, secs(10)), false, true, at(0));
    assert_eq!((vitals.state(), vitals.weight(256, at(0))), (State::Starting, 1280));
}

#[test]
fn the_operator_wins() {
    let mut ward = ward(2, &settings(Some(CHECKS), None, Duration::ZERO));
    ward.handle(0, Event::CheckPassed, at(0));
    ward.handle(0, Event::Admin(Admin::Draining), at(1));
    assert_eq!((state(&ward, 0), weights(&ward, 1)), (State::Draining, vec![0, 0]));
    ward.handle(0, Event::CheckPassed, at(2));
    assert_eq!(state(&ward, 0), State::Draining);
    ward.handle(0, Event::Admin(Admin::Disabled), at(3));
    assert_eq!(state(&ward, 0), State::Disabled);
    ward.handle(0, Event::Admin(Admin::Enabled), at(4));
    assert_eq!((state(&ward, 0), weights(&ward, 4)), (State::Up, vec![100, 0]));
}

#[test]
fn try_all_spares_who_the_operator_took_out() {
    let members = (0..3)
        .map(|_| Vitals::new(settings(Some(CHECKS), None, Duration::ZERO), false, false, at(0)));
    let mut ward = Ward::new(Rules { max_ejected: 50, try_all: true }, members.collect(), at(0));
    ward.handle(2, Event::Admin(Admin::Disabled), at(0));
    ward.handle(0, failed(), at(0));
    ward.handle(1, failed(), at(0));
    assert_eq!(weights(&ward, 0), [100, 100, 0]);
    ward.handle(1, Event::CheckPassed, at(1));
    ward.handle(1, Event::CheckPassed, at(1));
    assert_eq!(weights(&ward, 1), [0, 100, 0]);
}

#[test]
fn a_name_keeps_its_last_answer() {
    let vitals = Vitals::new(settings(None, None, secs(9)), true, false, at(0));
    let mut ward = Ward::new(Rules { max_ejected: 50, try_all: true }, vec![vitals], at(0));
    assert!(!ward.is_settled());
    assert_eq!(weights(&ward, 0), [0], "nowhere to connect to, all_down or not");
    ward.handle(0, Event::Unresolved("no such name".into()), at(1));
    assert!(ward.is_settled());
    assert_eq!(ward.members()[0].reason(), "no such name");
    ward.handle(0, Event::Resolved, at(2));
    assert_eq!(state(&ward, 0), State::Starting);
    ward.handle(0, Event::Unresolved("timeout".into()), at(3));
    assert_eq!(state(&ward, 0), State::Starting);
}

#[test]
fn new_settings_keep_what_is_known() {
    let mut vitals = Vitals::new(settings(Some(CHECKS), None, secs(0)), false, false, at(0));
    vitals.handle(failed(), false, at(0));
    vitals.reconfigure(Settings { weight: 7, ..settings(Some(CHECKS), None, secs(0)) });
    assert_eq!(vitals.state(), State::Down);
    vitals.reconfigure(settings(None, None, secs(0)));
    assert_eq!((vitals.state(), vitals.weight(1, at(0))), (State::Unchecked, 100));
    vitals.reconfigure(settings(Some(CHECKS), None, secs(0)));
    assert_eq!((vitals.state(), vitals.weight(1, at(0))), (State::Up, 100));
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::CheckPassed),
        4 => Just(failed()),
        4 => Just(connect_failed()),
        2 => Just(Event::CheckInconclusive("no ports".into())),
        1 => Just(Event::Resolved),
        1 => Just(Event::Unresolved("gone".into())),
        1 => Just(Event::Admin(Admin::Enabled)),
        1 => Just(Event::Admin(Admin::Draining)),
        1 => Just(Event::Admin(Admin::Disabled)),
        2 => Just(Event::Tick),
    ]
}

proptest! {
    /// Whatever happens in whatever order: weight and state never contradict each other, the
    /// guards hold, and time makes progress.
    #[test]
    fn the_ward_is_sound(
        events in prop::collection::vec((0usize..4, any_event(), 0u64..20_000), 1..200),
        checked in any::<bool>(),
        slow_start in 0u64..5,
        try_all in any::<bool>(),
    ) {
        let settings =
            settings(checked.then_some(CHECKS), Some(PASSIVE), secs(slow_start));
        let members = ward(4, &settings).into_members();
        let mut ward = Ward::new(Rules { max_ejected: 50, try_all }, members, at(0));
        let mut now = 0;
        // Checks in a row that passed or failed, and the verdict that follows from them alone.
        let mut rows = [(0u32, 0u32); 4];
        let mut verdicts = [None; 4];
        for (member, event, passed) in events {
            now += passed;
            let (passes, failures) = &mut rows[member];
            match event {
                Event::CheckPassed => (*passes, *failures) = (*passes + 1, 0),
                Event::CheckFailed(_) => (*passes, *failures) = (0, *failures + 1),
                _ => {}
            }
            let verdict = &mut verdicts[member];
            match (*verdict, *passes, *failures) {
                (None, 0, 0) => {}
                (None, passes, _) => *verdict = Some(passes > 0),
                (Some(true), _, 3..) => *verdict = Some(false),
                (Some(false), 2.., _) => *verdict = Some(true),
                _ => {}
            }
            while let Some(next) = ward.poll_timeout().filter(|&next| next <= at(now)) {
                ward.tick(next);
                prop_assert!(ward.poll_timeout().is_none_or(|later| later > next));
            }
            let (before, weights_before) = (state(&ward, member), weights(&ward, now));
            if let Some(transition) = ward.handle(member, event, at(now)) {
                prop_assert_eq!(transition.from, before);
                prop_assert_eq!(transition.to, state(&ward, member));
                prop_assert!(!transition.reason.is_empty());
            }
            let ejected = (0..4).filter(|&m| state(&ward, m) == State::Ejected).count();
            prop_assert!(ejected <= 2);
            // Neither an ejection nor its end hides what the checks say.
            for (member, verdict) in verdicts.iter().enumerate().filter(|_| checked) {
                let (state, reason) = (state(&ward, member), ward.members()[member].reason());
                match state {
                    State::Draining | State::Disabled => {}
                    _ => prop_assert_eq!(state == State::Down, *verdict == Some(false)),
                }
                prop_assert_eq!(state == State::Down, reason.contains("failed: refused"));
            }
            let (weights, concerned) = (weights(&ward, now), ward.concerned(member));
            for other in (0..4).filter(|other| !concerned.contains(other)) {
                prop_assert_eq!(weights[other], weights_before[other]);
            }
            let panic = try_all && ward.members().iter().all(|m| m.weight(1, at(now)) == 0);
            for (member, weight) in weights.into_iter().enumerate().filter(|_| !panic) {
                let serves = match state(&ward, member) {
                    State::Up | State::Starting => true,
                    State::Unchecked => !checked,
                    State::Down | State::Draining | State::Disabled | State::Ejected => false,
                };
                prop_assert_eq!(weight > 0, serves);
                prop_assert!(weight <= 100);
            }
        }
    }
}
