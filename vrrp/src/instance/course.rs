//! What one process hands on to the next of a virtual router's state, and how the next goes on.

use core::net::IpAddr;

use super::{Actions, Backup, Cause, Instance, Master, Parameters, Role, State, Wait};
use crate::types::{Interval, Moment};

/// How far a virtual router is: enough for another process of the same host to go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// What it is. The rest is of no meaning in [`Role::Init`].
    pub role: Role,
    /// When a master sent its last advert, or the wait of a backup began.
    pub since: Moment,
    /// What a backup waits for.
    pub wait: Awaits,
    /// The master that a backup has heard last.
    pub master: Option<IpAddr>,
    /// That master's interval.
    pub learned: Option<Interval>,
    /// Until when a backup leaves a master of lower priority alone.
    pub tolerant_until: Option<Moment>,
    /// The last that a backup heard was of lower priority, and did not count.
    pub preempting: bool,
    /// A backup would be master but for its group.
    pub ready: bool,
}

/// What a backup waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// Anybody to be heard, for the first time.
    First,
    /// The master's silence.
    Silence,
    /// Its turn, as the master has stepped down.
    Turn,
    /// A sign of the master, after a pause.
    Sign,
}

impl Instance {
    /// How far it is.
    pub fn course(&self) -> Course {
        let role = self.role();
        let course = Course {
            role,
            since: Moment::default(),
            wait: Awaits::Silence,
            master: None,
            learned: None,
            tolerant_until: None,
            preempting: false,
            ready: false,
        };
        match self.state {
            // One that listens has not spoken for long, which the next one finds out by itself.
            State::Init(_) | State::Stopped | State::Listening(_) => course,
            State::Master(master) => Course { since: master.sent, ..course },
            State::Backup(backup) => Course {
                since: backup.since,
                wait: match backup.wait {
                    Wait::First => Awaits::First,
                    Wait::Silence => Awaits::Silence,
                    Wait::Turn => Awaits::Turn,
                    Wait::Sign => Awaits::Sign,
                },
                master: backup.master,
                learned: backup.learned,
                tolerant_until: backup.tolerant_until,
                preempting: backup.preempting,
                ready: backup.ready.is_some(),
                ..course
            },
        }
    }

    /// Goes on where another process was. A master speaks at once; but if so much time has passed
    /// that it may have a successor, it listens first.
    ///
    /// Only one that has not begun can: others do nothing.
    pub fn take_up(&mut self, course: Course, source: IpAddr, now: Moment) -> Actions {
        let State::Init(_) = self.state else { return Actions::NONE };
        let Parameters { interval, priority, grouped, .. } = self.parameters;
        match course.role {
            Role::Init => Actions::NONE,
            Role::Backup => {
                self.source = Some(source);
                self.state = State::Backup(Backup {
                    since: course.since.min(now),
                    wait: match course.wait {
                        Awaits::First => Wait::First,
                        Awaits::Silence => Wait::Silence,
                        Awaits::Turn => Wait::Turn,
                        Awaits::Sign => Wait::Sign,
                    },
                    learned: course.learned.map(|heard| self.parameters.learned(heard)),
                    master: course.master,
                    tolerant_until: course.tolerant_until,
                    preempting: course.preempting,
                    ready: (course.ready && grouped).then_some(Cause::Group),
                });
                Actions::NONE
            }
            Role::Master => {
                self.source = Some(source);
                let before = Master { sent: course.since, ..Master::new(course.since, interval) };
                if now > before.good_until(interval) {
                    self.state = State::Listening(now + Parameters::listening(interval));
                    return Actions::NONE;
                }
                self.state = State::Master(Master::new(now, interval));
                Actions { send: Some(priority), announce: true, ..Actions::NONE }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::instance::Input;
    use crate::types::Priority;

    const OWN: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 5));
    const OTHER: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 6));
    const TENTH: Interval = Interval::from_centis(10).expect("in range");

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_millis(1_000_000 + millis))
    }

    fn parameters(grouped: bool) -> Parameters {
        Parameters {
            priority: Priority::DEFAULT,
            interval: TENTH,
            preempt: true,
            preempt_delay: Duration::ZERO,
            grouped,
        }
    }

    fn run(instance: &mut Instance, input: Input, now: Moment) {
        let actions = instance.handle(input, now);
        assert!(actions.send.is_none_or(|priority| priority != Priority::RELEASE));
    }

    /// One that has gone on from `before` at this time, and what it does first.
    fn succeed(before: &Instance, now: Moment) -> (Instance, Actions) {
        let mut heir = Instance::new(before.parameters);
        let actions = heir.take_up(before.course(), OWN, now);
        (heir, actions)
    }

    #[test]
    fn a_master_speaks_at_once_and_then_at_its_interval() {
        let mut elder = Instance::new(parameters(false));
        run(&mut elder, Input::Able(OWN), at(0));
        let due = elder.poll_timeout().unwrap();
        run(&mut elder, Input::Timer, due);
        let now = due + Duration::from_millis(70);
        let (heir, actions) = succeed(&elder, now);
        assert_eq!((heir.role(), heir.master()), (Role::Master, Some(OWN)));
        assert_eq!((actions.send, actions.transition), (Some(Priority::DEFAULT), None));
        assert_eq!(heir.poll_timeout(), Some(now + TENTH.duration()));
    }

    #[test]
    fn a_master_that_may_have_a_successor_listens_first() {
        let mut elder = Instance::new(parameters(false));
        run(&mut elder, Input::Able(OWN), at(0));
        let due = elder.poll_timeout().unwrap();
        run(&mut elder, Input::Timer, due);
        let late = due + TENTH.duration() * 3 + Duration::from_nanos(1);
        let (mut heir, actions) = succeed(&elder, late);
        assert!(actions.is_none() && heir.good_until().is_none());
        assert_eq!(heir.role(), Role::Master);
        let heard = Input::Advert { from: OTHER, priority: Priority::new(50), interval: TENTH };
        run(&mut heir, heard, late + Duration::from_millis(20));
        assert_eq!(heir.role(), Role::Backup);
        // One that was listening has said nothing for long.
        let mut paused = elder;
        run(&mut paused, Input::Timer, late);
        let (heir, actions) = succeed(&paused, late + Duration::from_millis(1));
        assert!(actions.is_none() && heir.good_until().is_none());
    }

    #[test]
    fn a_backup_waits_no_longer_and_no_less() {
        for grouped in [false, true] {
            let mut elder = Instance::new(parameters(grouped));
            run(&mut elder, Input::Able(OWN), at(0));
            let hear = |priority| Input::Advert {
                from: OTHER,
                priority: Priority::new(priority),
                interval: Interval::from_centis(20).unwrap(),
            };
            for input in [hear(200), hear(0), hear(50)] {
                run(&mut elder, input, at(120));
                let (heir, actions) = succeed(&elder, at(150));
                assert!(actions.is_none());
                assert_eq!(heir.poll_timeout(), elder.poll_timeout());
                assert_eq!(heir.course(), elder.course());
                assert_eq!(heir.master(), Some(OTHER));
            }
        }
    }

    #[test]
    fn nobody_goes_on_who_has_begun() {
        let mut elder = Instance::new(parameters(false));
        run(&mut elder, Input::Able(OWN), at(0));
        let due = elder.poll_timeout().unwrap();
        run(&mut elder, Input::Timer, due);
        let mut other = Instance::new(parameters(false));
        run(&mut other, Input::Able(OWN), at(0));
        assert!(other.take_up(elder.course(), OWN, due).is_none());
        assert_eq!(other.role(), Role::Backup);
        let mut none = Instance::new(parameters(false));
        assert!(none.take_up(Instance::new(parameters(false)).course(), OWN, due).is_none());
        assert_eq!(none.role(), Role::Init);
    }
}
