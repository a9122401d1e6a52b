//! What runs the pure core on Linux: sockets, addresses, announcements, and the threads for them.
//!
//! [`start`] is called by a program that has parsed its configuration. It makes these threads:
//!
//! | thread | does | priority |
//! | --- | --- | --- |
//! | `vrrp` | adverts in and out, time, the core's decisions | real-time 50 |
//! | `vrrp-keeper` | addresses by netlink, announcements, the beat for the guard | real-time 49 |
//! | `vrrp-links` | what becomes of interfaces and their own addresses | normal |
//! | `vrrp-events` | the log, the embedding program's events | normal |
//! | `vrrp-notify` | programs that are run at transitions, one at a time | normal |
//!
//! Arrows go one way: `vrrp` never waits for any of the others. It tells the keeper by atomics and
//! a wake-up, and events by a bounded queue that drops and counts.
//!
//! # An address dies with the process
//!
//! Three fences stand behind each other, since two hosts with one address are worse than none:
//!
//! 1. *The lease.* Each advert that is sent makes mastership good for a while. The keeper adds,
//!    renews and puts back addresses only while it is.
//! 2. *The guard.* A small process of the same program knows what is held, and has the adverts of
//!    priority 0 ready. When the program dies, or stands still (no beat for three intervals, but
//!    0.5 to 1.5 s), it sends them and deletes the addresses.
//! 3. *The kernel's lifetime.* Addresses are added with `IFA_CACHEINFO` of [`LIFETIME`] and renewed
//!    four times as often. With nobody left to renew them, the kernel deletes them.
//!
//! # From one process to the next
//!
//! A program that is upgraded hands its virtual routers on. The next process has everything ready by
//! then ([`succeed`]): threads, sockets, a guard with nothing to guard. The one before lets go
//! ([`Vrrp::let_go`]): it falls silent, its guard is told to guard nothing, and addresses are left
//! as they are. The next one goes on from what it is handed ([`Vrrp::adopt`]): a master speaks at
//! once, and has its addresses renewed, which takes nothing away; a backup's wait goes on. Between
//! the last advert of one and the first of the other lies little more than a message's way. Should
//! the next process die, [`Vrrp::take_back`]; in any case, who may have a successor listens first.
//! While neither guards, the kernel's lifetime does.
//!
//! # What the kernel does with lifetimes
//!
//! Measured on Linux 6.18, 20 trials each, from the last renewal to the notification that the
//! address is gone; whole seconds are all that can be asked for:
//!
//! | lifetime | IPv4 | IPv6 |
//! | --- | --- | --- |
//! | 1 s | 1.00 to 1.39 s | 1.00 to 1.74 s |
//! | 2 s | 2.02 to 2.59 s | 2.02 to 2.70 s |
//! | 3 s | 3.04 to 3.98 s | 3.02 to 3.55 s |
//!
//! It is never early, and less than a second late; four busy loops on two processors make no
//! difference. A renewal by `NLM_F_REPLACE` makes one
//! `RTM_NEWADDR` notification, no detection of duplicates, and does not disturb connections. An
//! established TCP connection outlives the address: taken away and put back, it goes on, and what
//! was sent meanwhile is sent again. 200 addresses are added, renewed or deleted in one message
//! within 5 to 10 ms. A preferred lifetime of 0 keeps IPv6 from choosing the address as a source;
//! IPv4 takes no notice of it.
//!
//! # How fast it is
//!
//! On the same host of two processors, medians, from the signal on:
//!
//! | event | priority 0 | at 10 ms: successor announces | at 100 ms |
//! | --- | --- | --- | --- |
//! | [`Vrrp::stop`] | 0.1 ms | 6.5 ms | 61 ms |
//! | SIGKILL | 0.1 ms | 6.7 ms | 62 ms |
//! | SIGSTOP | (0.5 s) | 35 ms | 292 ms |
//!
//! The successor's part is its skew, or its patience with silence, and 0.4 ms from its first advert
//! to its first announcement. 200 addresses are all announced within 3 ms, while adverts go out on
//! time. What remains is the hypervisor: when it takes the processors away for 40 ms, which no
//! priority and no deadline scheduling prevents, an interval of 10 ms is too short.

mod driver;
mod ears;
mod events;
mod frames;
mod guard;
mod held;
mod keeper;
mod lease;
mod leftovers;
mod legacy;
mod links;
mod netlink;
mod notify;
mod report;
mod running;
mod sockets;
mod sys;
mod thread;
mod vmac;
mod voice;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::driver::Command;
pub use self::legacy::{Legacy, Share, identity};
pub use self::running::LastPrograms;
use self::running::Threads;
pub use crate::router::{Flaw, Texts};
use crate::settings::{self, Address, Settings};
use crate::types::{Moment, Version, Vrid};

/// Lifetime that addresses are given in the kernel. Renewals come four times as often, so that
/// one, or two, may come late on a busy host.
pub const LIFETIME: Duration = Duration::from_secs(2);

/// May the addresses be on this host at this moment? Else why not.
///
/// The driver asks before each advert, on its real-time thread: an answer is read, not worked out.
pub type Service = Arc<dyn Fn(Moment) -> Result<(), String> + Send + Sync>;

/// Takes events, on a thread of its own. While it works, later ones wait.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// What one of the threads is there for, and what it needs of the system to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `vrrp`: opens sockets (raw, packet, netlink), and nothing else.
    Driver,
    /// `vrrp-keeper`: changes addresses, opens packet sockets, starts guards. They inherit what it
    /// is left with.
    Keeper,
    /// `vrrp-links`: makes interfaces, and writes their settings below `/proc/sys/net`.
    Links,
    /// `vrrp-events`: calls [`Options::events`].
    Events,
    /// `vrrp-notify`: starts programs, which inherit what it is left with.
    Notify,
}

/// Called on each of the threads before it begins, so that it can give up what it does not need. A
/// thread has its real-time priority by then.
pub type Confine = Arc<dyn Fn(Role) + Send + Sync>;

/// What the embedding program gives besides settings.
#[derive(Clone)]
pub struct Options {
    /// Arguments that make this very program call [`guard_main`] and nothing else; none = no
    /// guard, and only the kernel's lifetime stands behind a killed process.
    pub guard: Option<Vec<OsString>>,
    /// Whether what the addresses are for works.
    pub service: Service,
    /// Who hears of changes.
    pub events: Events,
    /// What threads give up; none = nothing.
    pub confine: Option<Confine>,
}

impl Default for Options {
    /// No guard, always in service, nobody hears, nothing is given up.
    fn default() -> Self {
        let (service, events) = (Arc::new(|_| Ok(())), Arc::new(|_| ()));
        Self { guard: None, service, events, confine: None }
    }
}

/// Why VRRP cannot run, or not with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// They contradict themselves.
    #[error("{0}")]
    Settings(#[from] settings::Error),
    /// The program lacks this capability.
    #[error("{capability} is needed to {purpose}")]
    Capability {
        /// Its name, as capabilities(7) has it.
        capability: &'static str,
        /// What for.
        purpose: &'static str,
    },
    /// The system refused.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// Two virtual routers with virtual MACs have the same VRID, on different interfaces: the
    /// interfaces for them would have the same name.
    #[error("{name} cannot be on both {} and {}: give one another VRID", interfaces[0], interfaces[1])]
    VirtualMac {
        /// The name.
        name: String,
        /// The interfaces below.
        interfaces: [String; 2],
    },
    /// The driver does not answer, or has stopped.
    #[error("the VRRP driver does not answer")]
    Unresponsive,
}

/// State of a virtual router as people know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It cannot take part, or was stopped.
    Init,
    /// Another router has the addresses, or may have them.
    Backup,
    /// The addresses are here.
    Master,
}

impl State {
    /// As interfaces spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one virtual router has counted since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Adverts sent, to all destinations.
    pub sent: u64,
    /// Good adverts received.
    pub received: u64,
    /// Adverts of priority 0 sent.
    pub priority_zero_sent: u64,
    /// Adverts of priority 0 received.
    pub priority_zero_received: u64,
    /// Adverts that could not be sent.
    pub send_failures: u64,
    /// Adverts with a flaw, by [`Flaw::as_str`]; those that never came are not there. All but the
    /// `…_mismatch` ones were refused.
    pub flaws: Vec<(&'static str, u64)>,
}

/// What is the case with one virtual router.
#[derive(Clone, Debug)]
pub struct Status {
    /// What people call it.
    pub name: String,
    /// Its identifier.
    pub vrid: Vrid,
    /// Its version.
    pub version: Version,
    /// The interface.
    pub interface: String,
    /// Its state.
    pub state: State,
    /// Configured priority.
    pub priority: u8,
    /// Priority with the weights of what is tracked.
    pub effective_priority: u8,
    /// The shared addresses.
    pub addresses: Vec<Address>,
    /// Who is master, as far as known; this host's address when it is.
    pub master: Option<IpAddr>,
    /// Since when it is in this state.
    pub since: SystemTime,
    /// Transitions so far.
    pub transitions: u64,
    /// The cause of the last transition (RFC 8347, `last-event`), snake_case.
    pub cause: &'static str,
    /// Why it cannot be master, or why its priority is not the configured one, in words.
    pub reason: Option<String>,
    /// What it has counted.
    pub counts: Counts,
    /// Other routers that were heard, the last heard first: 16 at most.
    pub heard: Vec<Heard>,
    /// The last advert with a flaw.
    pub last_flaw: Option<LastFlaw>,
    /// Whether the driver has real-time priority.
    pub realtime: bool,
}

/// An advert that was refused, or taken though it differs from what is configured here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFlaw {
    /// What is wrong: [`Flaw::as_str`].
    pub reason: &'static str,
    /// Whether it was refused.
    pub refused: bool,
    /// The sender.
    pub from: IpAddr,
    /// How long ago it came.
    pub ago: Duration,
    /// What was received and expected, when it was last said of this sender; `None` if it has not been
    /// since the settings changed.
    pub texts: Option<Texts>,
}

/// Another router that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its address.
    pub address: IpAddr,
    /// The priority in its last advert.
    pub priority: u8,
    /// How long ago that came.
    pub ago: Duration,
    /// Adverts of it.
    pub adverts: u64,
}

/// Something that people or programs may want to know. Each is in the log too.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A virtual router changed its state.
    Transition {
        /// Its name.
        instance: String,
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// Why (RFC 8347, `last-event`), snake_case.
        cause: &'static str,
        /// Effective priority.
        priority: u8,
        /// When.
        at: SystemTime,
    },
    /// Another router said it is master while this one was.
    Contention {
        /// The virtual router.
        instance: String,
        /// Who said so.
        from: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// An advert was refused, or taken though it differs from what is configured here: each flaw of
    /// a sender once a minute.
    AdvertFlawed {
        /// The virtual router.
        instance: String,
        /// What is wrong: [`Flaw::as_str`].
        reason: &'static str,
        /// Whether it was refused.
        refused: bool,
        /// The sender.
        from: IpAddr,
        /// What was received, in words.
        received: String,
        /// What was expected, in words.
        expected: String,
        /// Such adverts of this sender since it was told last, without this one.
        more: u64,
    },
    /// Something else removed an address, and it was put back.
    AddressRestored {
        /// The virtual router.
        instance: String,
        /// The address.
        address: Address,
    },
    /// An address could not be added, or not be put back.
    AddressFailed {
        /// The virtual router.
        instance: String,
        /// The address.
        address: Address,
        /// Why.
        error: String,
    },
    /// The guard process is gone, and another was started, or could not be.
    GuardDied {
        /// Why no other could be started.
        error: Option<String>,
    },
    /// So many events were lost since the queue was full.
    Lost {
        /// How many.
        count: u64,
    },
}

/// What something before us left behind, and that is gone now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The interface.
    pub interface: String,
    /// The address on it; `None` = the interface itself, made for a virtual MAC.
    pub address: Option<Address>,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{address} on {}", self.interface),
            None => write!(f, "the virtual MAC {}", self.interface),
        }
    }
}

/// Runs virtual routers. Dropping it stops them as [`Vrrp::stop`] does.
pub struct Vrrp {
    threads: Threads,
}

/// Runs virtual routers with these settings, in the network namespace of the calling thread.
/// Interfaces need not be there yet. Addresses that a process before left behind are deleted.
///
/// An address that somebody added by hand stays as it is as long as this host is not master; its
/// presence is logged, since it would answer for the master. A host that becomes master takes it
/// over, and deletes it when it is no longer master. The owner (priority 255) leaves it alone: it
/// is the owner's own, and is only announced.
///
/// Needs `CAP_NET_ADMIN` and `CAP_NET_RAW`, and is better with `CAP_SYS_NICE` (real-time priority)
/// and `CAP_IPC_LOCK` (locked memory). Guards are started at any time, so that a program that is
/// not root needs the first two as ambient capabilities, or as capabilities of its file.
///
/// # Errors
///
/// If settings contradict themselves, a capability is missing, or the system refuses sockets or
/// threads. Then nothing runs.
pub fn start(settings: Vec<Settings>, options: Options) -> Result<Vrrp, Error> {
    Ok(Vrrp { threads: Threads::start(settings, options, false)? })
}

/// The same, where another process of this host runs virtual routers, and will hand them on:
/// everything is made ready, and nothing is sent or changed before [`Vrrp::adopt`].
///
/// # Errors
///
/// As [`start`].
pub fn succeed(settings: Vec<Settings>, options: Options) -> Result<Vrrp, Error> {
    Ok(Vrrp { threads: Threads::start(settings, options, true)? })
}

impl Vrrp {
    /// Goes on with these settings, all or none. Virtual routers that are unchanged do not notice.
    ///
    /// # Errors
    ///
    /// If they contradict themselves: then nothing changes. If the driver does not answer.
    pub fn reconfigure(&self, settings: Vec<Settings>) -> Result<(), Error> {
        self.threads.reconfigure(settings)
    }

    /// Adds a weight to the priority of a virtual router for as long as it is not 0. `name` says
    /// what for: it is what [`Status::reason`] shows, and a later call with it replaces the
    /// weight. An unknown instance is no error: it may have just been configured away.
    pub fn track(&self, instance: &str, name: &str, weight: i16) {
        let (instance, name) = (instance.to_owned(), name.to_owned());
        if self.threads.command(Command::Track { instance, name, weight }).is_err() {
            tracing::error!("the VRRP driver does not take weights");
        }
    }

    /// Has a virtual router, with its group, offer its addresses to whoever else is there: it sends
    /// priority 0, keeps them until another router says that it is master (within an interval, if one
    /// is there), and goes on as before if none does. A weight of [`Vrrp::track`] keeps it from taking
    /// them back at once. An unknown instance is no error: it may have just been configured away.
    pub fn offer(&self, instance: &str) {
        if self.threads.command(Command::Offer(instance.to_owned())).is_err() {
            tracing::error!("the VRRP driver takes no orders");
        }
    }

    /// What is the case with all virtual routers. Waits for the driver for a fifth of a second at
    /// most; then the answer is the previous one.
    pub fn status(&self) -> Vec<Status> {
        self.threads.report().routers
    }

    /// Packets refused that no virtual router owns, by reason (wrong TTL, version, checksum,
    /// VRID, …).
    pub fn rejected(&self) -> Vec<(&'static str, u64)> {
        self.threads.report().strays
    }

    /// Goes on where another process of this host was, which has let go: a master speaks at once, or
    /// listens, if so much time has passed that it may have a successor; its addresses stay where
    /// they are. What is not handed on begins from the beginning. Without a legacy, as the other
    /// process died, all does.
    ///
    /// To be called once, and only after [`succeed`].
    ///
    /// # Errors
    ///
    /// If the driver does not answer.
    pub fn adopt(&self, legacy: Option<Legacy>) -> Result<(), Error> {
        self.threads.adopt(legacy)
    }

    /// Lets go of the virtual routers whose [`identity`] is wanted, for another process to adopt:
    /// nothing is sent from now on, and addresses are left as they are, neither renewed nor
    /// guarded. All others are given up, as by [`Vrrp::stop`]. The other process has a second or two,
    /// then the kernel ends the addresses; and far less until backups become restless. Follow this by
    /// [`Vrrp::leave`] or [`Vrrp::take_back`].
    ///
    /// # Errors
    ///
    /// If the driver does not answer: then nothing is let go.
    pub fn let_go(&self, wanted: Vec<String>) -> Result<Legacy, Error> {
        self.threads.let_go(wanted)
    }

    /// Goes on with what was let go, as the other process did not; it has to be gone. Where a
    /// successor may have taken over meanwhile, virtual routers listen before they speak.
    pub fn take_back(&self) {
        self.threads.take_back();
    }

    /// Ends what was let go: threads end, and the guard, and addresses stay as they are, since another
    /// process has them.
    pub fn leave(mut self) {
        self.threads.leave();
    }

    /// Gives the addresses up: priority 0 is sent, addresses are deleted, the guard is told, and
    /// threads end. Takes a second or two at most, and usually a few milliseconds. Returns what was
    /// the case with all virtual routers then, and the programs that still run for them.
    pub fn stop(mut self) -> (Vec<Status>, LastPrograms) {
        let last = self.threads.stop();
        (last.routers, self.threads.last_programs())
    }
}

/// Deletes addresses of these settings that a process before left behind: those which bear the
/// mark of this program (`IFA_PROTO` 112), or, where the kernel knows no marks (before 5.18), end
/// within [`LIFETIME`]. One that somebody added by hand, or got by DHCP, stays.
///
/// # Errors
///
/// If netlink cannot be spoken, or the kernel refuses to delete.
pub fn release_leftovers(settings: &[Settings]) -> Result<Vec<Leftover>, Error> {
    leftovers::release(settings)
}

/// What the process does that [`Options::guard`] starts: it returns when its parent is gone and
/// the addresses are too. Nothing else may run in it, and its standard input is not to be touched.
pub fn guard_main() -> ExitCode {
    guard::process::run()
}
