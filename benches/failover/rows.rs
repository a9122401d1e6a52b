//! What is done to a pair, and what is read off: one row of the report each.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::longest_wait;
use crate::clock::{Stamp, milliseconds, now};
use crate::network::Lan;
use crate::options::Options;
use crate::port::Port;
use crate::site::{Plan, Site};
use crate::subject::{Subject, signal};

/// Addresses on one instance in the row `many`.
const MANY: u32 = 200;
/// How long a master has been one when it is paused: what it announces for some time after it has
/// become one is then over. Half of it is left undone otherwise, and comes when it goes on, by
/// chance when it is needed: keepalived announces again after five seconds.
const SETTLED: Duration = Duration::from_secs(6);
/// How long a master is paused.
const PAUSE: Duration = Duration::from_secs(6);
/// How long the client is watched after that.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// How long a killed gateway's answers are waited for: "for ever" is longer than this.
const FOR_EVER: Duration = Duration::from_secs(10);
/// Once it has not answered for so long, it will not any more.
const SILENT: Duration = Duration::from_secs(2);
const BUSY_LOOPS: usize = 4;

/// What is measured in a trial, in the order of [`Row::columns`].
pub type Values = Vec<f64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    Cut,
    Stop,
    Kill,
    KillAll,
    Pause,
    Busy,
    Many,
}

impl Row {
    pub const ALL: [Self; 7] =
        [Self::Cut, Self::Stop, Self::Kill, Self::KillAll, Self::Pause, Self::Busy, Self::Many];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::KillAll => "kill-all",
            Self::Pause => "pause",
            Self::Busy => "busy",
            Self::Many => "many",
        }
    }

    pub const fn what(self) -> &'static str {
        match self {
            Self::Cut => "the master's switch port is cut, silently",
            Self::Stop => "SIGTERM to the master",
            Self::Kill => "SIGKILL to the master's process that speaks VRRP",
            Self::KillAll => "SIGKILL to all the master's processes",
            Self::Pause => "the master is paused for 6 s with its port cut, then both are undone",
            Self::Busy => "four busy loops on all cores, nothing is done to the pair",
            Self::Many => "200 addresses on one instance, the master's port is cut",
        }
    }

    /// The names of the values.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Cut | Self::Stop => {
                &["ping hole ms", "connect hole ms", "first advert ms", "first announcement ms"]
            }
            Self::Kill | Self::KillAll => {
                &["one owner again ms", "two owners ms", "ping hole ms", "connect hole ms"]
            }
            Self::Pause => &["black-holed", "ping hole ms", "connect hole ms"],
            Self::Busy => &["false takeovers", "advert gap p50 ms", "p99 ms", "largest ms"],
            Self::Many => {
                &["last announcement ms", "all announced", "largest advert gap ms", "ping hole ms"]
            }
        }
    }

    /// Who takes part.
    pub const fn subjects(self) -> &'static [Subject] {
        use Subject::{
            Keepalived, Keepalived10ms, Keepalived100ms, KeepalivedTuned, Lockgate, Lockgate10ms,
        };
        match self {
            Self::Cut | Self::Stop => {
                &[Keepalived, Keepalived100ms, KeepalivedTuned, Lockgate, Lockgate10ms]
            }
            Self::Kill | Self::KillAll | Self::Pause => {
                &[Keepalived, KeepalivedTuned, Lockgate, Lockgate10ms]
            }
            Self::Busy => &[Keepalived10ms, KeepalivedTuned, Lockgate10ms],
            Self::Many => &[Keepalived100ms, KeepalivedTuned, Lockgate, Lockgate10ms],
        }
    }

    /// Whether its subjects can be measured at the same time, each on a LAN of its own: where
    /// seconds are what matters, or whether something comes back at all.
    pub const fn side_by_side(self) -> bool {
        matches!(self, Self::Kill | Self::KillAll | Self::Pause)
    }

    /// How many trials there are unless the options say otherwise.
    pub const fn trials(self) -> usize {
        match self {
            // Each takes a minute.
            Self::Busy => 1,
            _ => 20,
        }
    }

    /// One trial, which begins when a share of the interval, 0 to 1, has gone by since the master's
    /// last advert.
    pub fn run(self, subject: Subject, share: f64, options: &Options) -> io::Result<Values> {
        let lan = Lan::new()?;
        let plan = match self {
            Self::Cut | Self::Stop | Self::Pause => Plan::USUAL,
            Self::Kill | Self::KillAll => Plan { asks: true, ..Plan::USUAL },
            Self::Busy => Plan { client: false, ..Plan::USUAL },
            Self::Many => Plan { addresses: MANY, ..Plan::USUAL },
        };
        let site = Site::open(&lan, &options.programs, subject, plan)?;
        let port = lan.port(0)?;
        if self == Self::Pause {
            sleep(SETTLED);
        }
        site.phase(share)?;
        match self {
            Self::Cut => failover(&site, || port.cut()),
            Self::Stop => failover(&site, || strike(&site, Signal::SIGTERM, Victims::Main)),
            Self::Kill => owners(&site, Victims::Speaker),
            Self::KillAll => owners(&site, Victims::All),
            Self::Pause => pause(&site, &port),
            Self::Busy => busy(&site, options.busy),
            Self::Many => many(&site, &port),
        }
    }
}

/// Which processes of the master a signal is for.
enum Victims {
    Main,
    Speaker,
    All,
}

/// Sends a signal to the master. Returns the moment just before.
fn strike(site: &Site<'_>, which: Signal, victims: Victims) -> io::Result<Stamp> {
    let master = &site.nodes[0];
    let victims = match victims {
        Victims::Main => vec![master.main()],
        Victims::Speaker => vec![master.speaker(site.subject)?],
        // Those that watch over others first, which were started last: they are to have no time to
        // see what happens.
        Victims::All => master.all()?.into_iter().rev().collect(),
    };
    let zero = now();
    signal(&victims, which)?;
    Ok(zero)
}

/// How long, at most, a client had to wait for the answer to a ping, and for a new connection, if it
/// began after `zero`; infinite if there was no answer any more at the end.
fn holes(site: &Site<'_>, zero: Stamp, end: Stamp) -> io::Result<[f64; 2]> {
    let client = site.client()?;
    Ok([client.pings(zero), client.connections(zero)].map(|asked| {
        let last = asked.iter().filter_map(|asked| asked.answered).max();
        match longest_wait(&asked) {
            Some(wait) if last.is_some_and(|last| last + SILENT / 4 > end) => {
                1e3 * wait.as_secs_f64()
            }
            _ => f64::INFINITY,
        }
    }))
}

fn since(zero: Stamp, stamp: Option<Stamp>) -> f64 {
    stamp.map_or(f64::INFINITY, |stamp| milliseconds(zero, stamp))
}

fn failover(site: &Site<'_>, event: impl FnOnce() -> io::Result<Stamp>) -> io::Result<Values> {
    let zero = event()?;
    let end = site.served_again(zero, FOR_EVER)?;
    let [pings, connections] = holes(site, zero, end)?;
    let advert = site.watcher.adverts(1, zero).first().copied();
    let announced = site.watcher.announcements(1, zero).first().map(|(stamp, _)| *stamp);
    Ok(vec![pings, connections, since(zero, advert), since(zero, announced)])
}

fn owners(site: &Site<'_>, victims: Victims) -> io::Result<Values> {
    let zero = strike(site, Signal::SIGKILL, victims)?;
    // The other one's first answer, and the killed one's last.
    let (mut first, mut last);
    loop {
        sleep(Duration::from_millis(20));
        first = site.watcher.answers(1, zero).first().copied();
        last = site.watcher.answers(0, zero).last().copied();
        let gone = now() > last.unwrap_or(zero) + SILENT;
        if first.is_some() && gone || now() > zero + FOR_EVER {
            let end = now();
            let [pings, connections] = holes(site, zero, end)?;
            let last = last.unwrap_or(zero);
            let (again, two) = match first {
                _ if !gone => (f64::INFINITY, f64::INFINITY),
                None => (f64::INFINITY, 0.0),
                // Both the new one has it and the old one has it no more.
                Some(first) => {
                    (milliseconds(zero, first.max(last)), milliseconds(first, last).max(0.0))
                }
            };
            return Ok(vec![again, two, pings, connections]);
        }
    }
}

fn pause(site: &Site<'_>, port: &Port) -> io::Result<Values> {
    // A host that is paused, as a virtual machine is, has all its processes paused.
    let paused = site.nodes[0].all()?;
    let cut = port.cut()?;
    signal(&paused, Signal::SIGSTOP)?;
    site.served_again(cut, PAUSE)?;
    if site.watcher.adverts(1, cut).is_empty() {
        return Err(io::Error::other("the second has not taken over"));
    }
    sleep((cut + PAUSE).saturating_sub(now()));
    let zero = port.heal()?;
    signal(&paused, Signal::SIGCONT)?;
    sleep(AFTERWARDS);
    let end = now();
    let [pings, connections] = holes(site, zero, end)?;
    // An ARP entry that is wrong is looked into after five seconds or more, unless somebody mends
    // it: whoever is not served in the last second will not be for a while.
    let last = [site.client()?.pings(zero), site.client()?.connections(zero)];
    let served = last.iter().all(|asked| {
        let last = asked.iter().filter_map(|asked| asked.answered).max();
        last.is_some_and(|last| last + Duration::from_secs(1) > end)
    });
    site.wake()?;
    Ok(vec![f64::from(u8::from(!served)), pings, connections])
}

/// Processes that do nothing, as much as they can.
struct Loops(Vec<Child>);

impl Loops {
    fn start(count: usize) -> io::Result<Self> {
        let mut loops = Self(Vec::new());
        for _ in 0..count {
            loops.0.push(Command::new("sh").args(["-c", "while :; do :; done"]).spawn()?);
        }
        Ok(loops)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn busy(site: &Site<'_>, long: Duration) -> io::Result<Values> {
    let loops = Loops::start(BUSY_LOOPS)?;
    let zero = now();
    sleep(long);
    drop(loops);
    // What is still in the watcher's socket.
    sleep(Duration::from_millis(100));
    let who = site.watcher.advertisers(zero);
    let takeovers = who.windows(2).filter(|pair| matches!(pair, [0, 1])).count();
    let gaps = gaps(&site.watcher.adverts(0, zero));
    let at = |share: f64| {
        let index = (gaps.len() as f64 * share) as usize;
        gaps.get(index.min(gaps.len().saturating_sub(1))).copied().unwrap_or(f64::INFINITY)
    };
    Ok(vec![takeovers as f64, at(0.5), at(0.99), at(1.0)])
}

/// Times between adverts, in milliseconds, sorted.
fn gaps(adverts: &[Stamp]) -> Vec<f64> {
    let mut gaps: Vec<_> = adverts.windows(2).map(|pair| milliseconds(pair[0], pair[1])).collect();
    gaps.sort_by(f64::total_cmp);
    gaps
}

fn many(site: &Site<'_>, port: &Port) -> io::Result<Values> {
    let zero = port.cut()?;
    let end = site.served_again(zero, FOR_EVER)?;
    // keepalived announces everything once more after five seconds.
    sleep(Duration::from_secs(7).saturating_sub(now().saturating_sub(zero)));
    let [pings, _] = holes(site, zero, end)?;
    let adverts = site.watcher.adverts(1, zero);
    let mut firsts: HashMap<_, Stamp> = HashMap::new();
    for (stamp, address) in site.watcher.announcements(1, zero) {
        firsts.entry(address).or_insert(stamp);
    }
    let Some(takeover) = adverts.first() else {
        return Err(io::Error::other("the second has not taken over"));
    };
    let last = since(*takeover, firsts.values().max().copied());
    let gap = gaps(&adverts).last().copied().unwrap_or(f64::INFINITY);
    Ok(vec![last, firsts.len() as f64, gap, pings])
}
