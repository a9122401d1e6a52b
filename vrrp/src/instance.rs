//! The state machine of one virtual router: RFC 9568, section 6.4, with its errata, and RFC 3768,
//! section 6.4, for version 2.
//!
//! [`crate::Router`] tells it what happened and when, and has done what it answers. It must never
//! look at a clock, allocate, or know what an address is on an interface.
//!
//! It goes beyond the RFCs where routers fail in ways that those do not speak of:
//!
//! - A master that was paused (a stopped process, a suspended machine) may have a successor. It is
//!   late when three of its intervals have passed since its last advert, which is before any backup
//!   takes over; it then listens before it speaks, and yields to whomever it hears.
//! - A backup that wakes up late listens as well: what it missed it cannot hear any more.
//! - One that has heard nobody yet does not know how often a master speaks that is already there. It
//!   waits for one at the default interval of a second, however short its own is.
//! - A master that yields says so in a last advert of lower priority. It is the winner's sign to
//!   announce the addresses again, or clients would go on sending to the loser.
//! - What strangers send is bounded in effect: answers, announcements, and how short an interval is
//!   learned. A long one is learned as it is, or a slow master would make its backups flap.

use core::net::IpAddr;

use crate::types::{Interval, Moment, Priority, Version};

mod backup;
mod course;
mod master;
mod parameters;
mod words;

use backup::{Backup, Wait};
pub use course::{Awaits, Course};
use master::Master;
pub use parameters::Parameters;
pub use words::{Cause, Role, Transition};

/// What can happen to a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It can run: the interface is up, and this is its primary address. Also sent when that
    /// changes, or is back after it was missing.
    Able(IpAddr),
    /// It cannot, for this cause.
    Unable(Cause),
    /// It is to end, for good.
    Stop,
    /// [`Instance::poll_timeout`] has come. All that had arrived by then has been told before.
    Timer,
    /// A valid advert of another router.
    Advert {
        /// Its primary address.
        from: IpAddr,
        /// Its priority; [`Priority::RELEASE`] if it steps down.
        priority: Priority,
        /// The interval that it sends at.
        interval: Interval,
    },
    /// It has other parameters; `addresses`: and other addresses, or another way to send adverts.
    Reconfigure {
        /// What it goes by from now on.
        parameters: Parameters,
        /// Whether addresses came or went.
        addresses: bool,
    },
    /// All of its group are to be master.
    Lead,
    /// None of its group is to be master.
    Yield,
    /// Whoever else is there is to be master. The addresses stay until somebody is: nobody may be
    /// there.
    Offer,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Actions {
    /// Send an advert of this priority, now.
    pub send: Option<Priority>,
    /// The role has changed: take the addresses as it becomes master, release them as it ceases to
    /// be.
    pub transition: Option<Transition>,
    /// Tell the neighbours whose the addresses are. Always so when it becomes master.
    pub announce: bool,
}

impl Actions {
    const NONE: Self = Self { send: None, transition: None, announce: false };

    /// Whether there is nothing to do.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// The state of one virtual router.
#[derive(Clone, Debug)]
pub struct Instance {
    parameters: Parameters,
    /// The primary address; known in each state but `Init` and `Stopped`, if not there.
    source: Option<IpAddr>,
    state: State,
    /// It listens for who takes what it has offered.
    offering: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It cannot run, for this cause.
    Init(Cause),
    /// It never runs again.
    Stopped,
    Backup(Backup),
    /// To the world outside a master: it was paused, or has offered the addresses, and is silent
    /// until then to hear whether it has a successor.
    Listening(Moment),
    Master(Master),
}

impl Instance {
    /// A virtual router that has yet to be told that it is [`Input::Able`].
    pub const fn new(parameters: Parameters) -> Self {
        Self { parameters, source: None, state: State::Init(Cause::Startup), offering: false }
    }

    /// What it goes by.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What it is to the world outside.
    pub const fn role(&self) -> Role {
        match self.state {
            State::Init(_) | State::Stopped => Role::Init,
            State::Backup(_) => Role::Backup,
            State::Listening(_) | State::Master(_) => Role::Master,
        }
    }

    /// The primary address of the master: our own, or that of whoever was heard last.
    pub const fn master(&self) -> Option<IpAddr> {
        match self.state {
            State::Init(_) | State::Stopped => None,
            State::Backup(backup) => backup.master,
            State::Listening(_) | State::Master(_) => self.source,
        }
    }

    /// Whether it would be master by now but for its group.
    pub const fn is_ready(&self) -> bool {
        match self.state {
            State::Backup(backup) => backup.ready.is_some(),
            State::Master(_) | State::Listening(_) => true,
            State::Init(_) | State::Stopped => false,
        }
    }

    /// When [`Input::Timer`] has something to do.
    pub fn poll_timeout(&self) -> Option<Moment> {
        match self.state {
            State::Init(_) | State::Stopped => None,
            State::Backup(backup) if backup.ready.is_some() => None,
            State::Backup(backup) => Some(backup.deadline(&self.parameters)),
            State::Listening(until) => Some(until),
            State::Master(master) => Some(master.next),
        }
    }

    /// Until when nobody else takes over, whatever becomes of us: `None` unless it is master and
    /// has lately said so. Who offers the addresses has them until then, or until somebody takes them.
    pub fn good_until(&self) -> Option<Moment> {
        match self.state {
            State::Listening(until) if self.offering => Some(until),
            State::Init(_) | State::Stopped | State::Backup(_) | State::Listening(_) => None,
            State::Master(master) => Some(master.good_until(self.parameters.interval)),
        }
    }

    /// Tells what happened, and says what is to be done.
    pub fn handle(&mut self, input: Input, now: Moment) -> Actions {
        self.notice_pause(now);
        let own = self.parameters;
        match (self.state, input) {
            (
                State::Stopped,
                Input::Able(_)
                | Input::Unable(_)
                | Input::Stop
                | Input::Timer
                | Input::Advert { .. }
                | Input::Reconfigure { .. }
                | Input::Lead
                | Input::Yield
                | Input::Offer,
            )
            | (
                State::Init(_),
                Input::Timer | Input::Advert { .. } | Input::Lead | Input::Yield | Input::Offer,
            )
            | (State::Backup(_), Input::Yield | Input::Offer)
            | (State::Listening(_), Input::Offer)
            | (State::Listening(_) | State::Master(_), Input::Lead) => Actions::NONE,

            (State::Init(cause), Input::Able(source)) => {
                self.source = Some(source);
                let cause = cause.ended();
                match (own.priority.is_owner(), own.grouped) {
                    (true, false) => self.lead(Cause::Owner, now),
                    (true, true) => {
                        let backup = Backup::new(now, Wait::First);
                        self.follow(Backup { ready: Some(Cause::Owner), ..backup }, cause)
                    }
                    (false, true | false) => self.follow(Backup::new(now, Wait::First), cause),
                }
            }
            (State::Backup(_) | State::Listening(_), Input::Able(source)) => {
                self.source = Some(source);
                Actions::NONE
            }
            (State::Master(mut master), Input::Able(source)) => {
                self.source = Some(source);
                // Others are to hear it from there before they miss it.
                master.restart(now, own.interval);
                self.state = State::Master(master);
                Actions { send: Some(own.priority), ..Actions::NONE }
            }

            (State::Init(_), Input::Unable(cause)) => {
                self.state = State::Init(cause);
                Actions::NONE
            }
            (State::Backup(_), Input::Unable(cause)) => self.end(State::Init(cause), cause, None),
            (State::Listening(_) | State::Master(_), Input::Unable(cause)) => {
                self.end(State::Init(cause), cause, Some(Priority::RELEASE))
            }
            (State::Init(_), Input::Stop) => {
                self.state = State::Stopped;
                Actions::NONE
            }
            (State::Backup(_), Input::Stop) => self.end(State::Stopped, Cause::Shutdown, None),
            (State::Listening(_) | State::Master(_), Input::Stop) => {
                self.end(State::Stopped, Cause::Shutdown, Some(Priority::RELEASE))
            }

            (State::Backup(backup), Input::Timer) => self.wait_is_over(backup, now),
            (State::Listening(until), Input::Timer) => {
                if now >= until {
                    self.state = State::Master(Master::new(now, own.interval));
                    Actions { send: Some(own.priority), announce: true, ..Actions::NONE }
                } else {
                    Actions::NONE
                }
            }
            (State::Master(mut master), Input::Timer) => {
                if now < master.next {
                    return Actions::NONE;
                }
                master.advertise(now, own.interval);
                let announce = master.announce(now, own.interval);
                self.state = State::Master(master);
                Actions { send: Some(own.priority), announce, ..Actions::NONE }
            }

            (State::Backup(mut backup), Input::Advert { from, priority, interval }) => {
                if priority == Priority::RELEASE {
                    backup.released(&own, interval, now);
                } else {
                    backup.heard(&own, from, priority, interval, now);
                }
                self.state = State::Backup(backup);
                Actions::NONE
            }
            (State::Listening(_), Input::Advert { from, priority, interval }) => {
                if priority == Priority::RELEASE {
                    return Actions::NONE;
                }
                // Whatever its priority: it has become master meanwhile, and clients know it.
                let cause = if self.offering { Cause::HandedOver } else { Cause::Paused };
                self.concede(from, priority, interval, cause, now)
            }
            (State::Master(mut master), Input::Advert { from, priority, interval }) => {
                let tie_is_lost = priority == own.priority && Some(from) > self.source;
                if priority > own.priority || tie_is_lost {
                    return self.concede(from, priority, interval, Cause::HigherPriority, now);
                }
                let speak = match own.interval.version() {
                    // RFC 3768 has a master be silent about lower priorities.
                    Version::V2 => priority == Priority::RELEASE,
                    Version::V3 => true,
                };
                let speak = speak && master.answer(now, own.interval);
                master.contended = true;
                let announce = master.announce(now, own.interval);
                self.state = State::Master(master);
                Actions { send: speak.then_some(own.priority), announce, ..Actions::NONE }
            }

            (
                State::Init(_) | State::Listening(_),
                Input::Reconfigure { parameters, addresses: true | false },
            ) => {
                self.parameters = parameters;
                Actions::NONE
            }
            (State::Backup(mut backup), Input::Reconfigure { parameters, addresses: _ }) => {
                // The wait goes on from when it began, with the new priority.
                self.parameters = parameters;
                backup.learned = backup.learned.map(|interval| parameters.learned(interval));
                backup.ready = backup.ready.filter(|_| parameters.grouped);
                self.state = State::Backup(backup);
                Actions::NONE
            }
            (State::Master(mut master), Input::Reconfigure { parameters, addresses }) => {
                self.parameters = parameters;
                let heard_of =
                    parameters.priority != own.priority || parameters.interval != own.interval;
                if !heard_of && !addresses {
                    return Actions::NONE;
                }
                // Backups are to go by it from now on, not from the next advert on.
                master.restart(now, parameters.interval);
                if addresses {
                    (master.announced, master.contended) = (now, false);
                }
                self.state = State::Master(master);
                Actions { send: Some(parameters.priority), announce: addresses, ..Actions::NONE }
            }

            (State::Backup(backup), Input::Lead) => {
                self.lead(backup.ready.unwrap_or(Cause::Group), now)
            }
            (State::Master(_), Input::Offer) => {
                self.state = State::Listening(now + Parameters::offering(own.interval));
                self.offering = true;
                Actions { send: Some(Priority::RELEASE), ..Actions::NONE }
            }

            (State::Listening(_) | State::Master(_), Input::Yield) => {
                let actions = self.follow(Backup::new(now, Wait::Silence), Cause::Group);
                Actions { send: Some(Priority::RELEASE), ..actions }
            }
        }
    }

    /// Has one who was paused listen before it does anything else. It is asked first, whatever
    /// comes in: a packet may be what wakes us up.
    fn notice_pause(&mut self, now: Moment) {
        let interval = self.parameters.interval;
        let listen = now + Parameters::listening(interval);
        match self.state {
            State::Master(master) if now > master.good_until(interval) => {
                self.offering = false;
                self.state = State::Listening(listen);
            }
            // Paused again.
            State::Listening(until) if now > until + interval.duration() => {
                self.state = State::Listening(listen);
            }
            State::Init(_)
            | State::Stopped
            | State::Backup(_)
            | State::Listening(_)
            | State::Master(_) => {}
        }
    }

    /// The timer of a backup has come, or so it seems.
    fn wait_is_over(&mut self, mut backup: Backup, now: Moment) -> Actions {
        let deadline = backup.deadline(&self.parameters);
        if backup.ready.is_some() || now < deadline {
            return Actions::NONE;
        }
        if backup.was_paused(&self.parameters, now) {
            // Of a suspended machine nobody keeps the packets.
            let again = if backup.wait == Wait::First { Wait::First } else { Wait::Sign };
            (backup.since, backup.wait) = (now, again);
            self.state = State::Backup(backup);
            return Actions::NONE;
        }
        let cause = match (backup.wait, backup.preempting) {
            (Wait::Turn, true | false) => Cause::MasterReleased,
            (Wait::First | Wait::Silence | Wait::Sign, true) => Cause::Preempt,
            (Wait::First | Wait::Silence | Wait::Sign, false) => Cause::MasterTimeout,
        };
        if self.parameters.grouped {
            self.state = State::Backup(Backup { ready: Some(cause), ..backup });
            return Actions::NONE;
        }
        self.lead(cause, now)
    }

    /// Becomes master.
    fn lead(&mut self, cause: Cause, now: Moment) -> Actions {
        let from = self.role();
        self.state = State::Master(Master::new(now, self.parameters.interval));
        Actions {
            send: Some(self.parameters.priority),
            transition: Some(Transition { from, to: Role::Master, cause }),
            announce: true,
        }
    }

    /// Becomes backup.
    fn follow(&mut self, backup: Backup, cause: Cause) -> Actions {
        let from = self.role();
        self.state = State::Backup(backup);
        let transition = Some(Transition { from, to: Role::Backup, cause });
        Actions { transition, ..Actions::NONE }
    }

    /// Becomes backup to a master that was heard, and lets it know in a last advert, which it
    /// is sure to outrank.
    fn concede(
        &mut self,
        from: IpAddr,
        heard: Priority,
        interval: Interval,
        cause: Cause,
        now: Moment,
    ) -> Actions {
        let own = self.parameters;
        let mut backup = Backup::new(now, Wait::Silence);
        backup.heard(&own, from, heard, interval, now);
        // Heard from even if it is not followed: this is what its silence is measured from.
        backup.learned = Some(own.learned(interval));
        let below = Priority::new(heard.get().saturating_sub(1)).min(own.priority);
        Actions { send: Some(below), ..self.follow(backup, cause) }
    }

    fn end(&mut self, state: State, cause: Cause, send: Option<Priority>) -> Actions {
        let from = self.role();
        self.state = state;
        Actions {
            send,
            transition: Some(Transition { from, to: Role::Init, cause }),
            announce: false,
        }
    }
}

#[cfg(test)]
mod tests;
