//! The guard's own process.
//!
//! It waits for messages and for silence. Silence for as long as a holding has patience, the end of
//! the thread that started it, or of the connection, without a good-bye, means that nobody else
//! will: adverts of priority 0 go out first, since a backup then takes over at once, and the
//! addresses are deleted right after. It knows no configuration, and must do nothing that can wait
//! for anything.
//!
//! A connection ends only after the kernel has closed all that a killed process had open before
//! it, which took 8 to 10 ms here and may take much longer with many connections. The signal for
//! the end of the starting thread (`PR_SET_PDEATHSIG`) comes before that.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::setsid;

use super::{BEAT, Holding, Message};
use crate::linux::netlink::{Netlink, Request, was_gone};
use crate::linux::sockets::Sender;
use crate::linux::{sys, thread, vmac};
use crate::types::Moment;

/// Below the driver and the keeper: it only acts when they do not.
const PRIORITY: i32 = 48;

/// What is held, and the socket to give it up with.
struct Held {
    holding: Holding,
    sender: io::Result<Sender>,
    /// It has been given up since the last beat.
    given_up: bool,
}

/// The signal for the end of the starting thread: one that does nothing when nobody waits for it.
const ORPHANED: Signal = Signal::SIGURG;

/// Guards until the other end of standard input is gone.
pub fn run() -> ExitCode {
    // What stops a service, or interrupts it from a terminal, is meant for the process that
    // holds the addresses: this one goes when that one has.
    let mut signals = SigSet::empty();
    for signal in [
        ORPHANED,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
    ] {
        signals.add(signal);
    }
    let outcomes = [
        ("ignore signals", signals.thread_block().map_err(io::Error::from)),
        ("hear of its parent's end", prctl::set_pdeathsig(ORPHANED).map_err(io::Error::from)),
        // It may be the leader of its group already.
        ("leave the session", setsid().map(drop).map_err(io::Error::from)),
        ("set a name", prctl::set_name(c"vip-guard").map_err(io::Error::from)),
        ("have real-time priority", sys::set_realtime(PRIORITY, false)),
        ("lock memory", thread::lock_memory(false)),
    ];
    for (what, outcome) in outcomes {
        if let Err(error) = outcome {
            tracing::debug!(%error, "the guard cannot {what}");
        }
    }
    let orphaned = SigSet::from(ORPHANED);
    let orphaned = SignalFd::with_flags(&orphaned, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
    let (mut netlink, orphaned) = match (Netlink::open(), orphaned) {
        (Ok(netlink), Ok(orphaned)) => (netlink, orphaned),
        (netlink, orphaned) => {
            let errors = (netlink.err(), orphaned.err());
            tracing::error!(?errors, "the guard cannot guard");
            return ExitCode::FAILURE;
        }
    };
    let mut guarded = BTreeMap::new();
    let mut buffer = vec![0; 1 << 20];
    let mut last_beat = thread::now();
    loop {
        let deadline = deadline(&guarded, last_beat);
        if !wait(deadline, &orphaned) {
            let now = thread::now();
            // If we ourselves stood still, so did the whole host, and the beat may be on its way.
            if deadline.is_some_and(|deadline| now - deadline > BEAT * 3) {
                last_beat = now;
            } else {
                give_up(&mut guarded, &mut netlink, |held| {
                    now - last_beat >= held.holding.patience
                });
            }
            continue;
        }
        let message = match recv(0, &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => None,
            Ok(length) => match Message::decode(&buffer[..length]) {
                Some(message) => Some(message),
                None => continue,
            },
            // What was said before the end, a good-bye for one, has been read by now.
            Err(nix::errno::Errno::EAGAIN) if is_orphaned(&orphaned) => None,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
            Err(_) => None,
        };
        match message {
            Some(Message::Beat) => {
                last_beat = thread::now();
                for held in guarded.values_mut() {
                    held.given_up = false;
                }
            }
            Some(Message::Hold(holding)) => {
                last_beat = thread::now();
                let sender = Sender::open(&holding.interface, holding.index, holding.source);
                guarded.insert(holding.id, Held { holding, sender, given_up: false });
            }
            Some(Message::Release(id)) => drop(guarded.remove(&id)),
            Some(Message::GoodBye) => return ExitCode::SUCCESS,
            None => {
                give_up(&mut guarded, &mut netlink, |_| true);
                clean_up(&guarded, &mut netlink);
                return ExitCode::SUCCESS;
            }
        }
    }
}

/// When silence has lasted for too long.
fn deadline(guarded: &BTreeMap<u32, Held>, last_beat: Moment) -> Option<Moment> {
    let held = guarded.values().filter(|held| !held.given_up);
    held.map(|held| last_beat + held.holding.patience).min()
}

/// Whether the signal has come.
fn is_orphaned(signal: &SignalFd) -> bool {
    signal.read_signal().is_ok_and(|signal| signal.is_some())
}

/// Waits for a message, or the end: `false` if the deadline comes instead.
fn wait(deadline: Option<Moment>, orphaned: &SignalFd) -> bool {
    let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
        // Rounded up, so that it does not end too early and spin.
        let millis = (deadline - thread::now()).as_millis() + 1;
        PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
    });
    let stdin = io::stdin();
    let mut fds = [stdin.as_fd(), orphaned.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, timeout) {
        Ok(0) => false,
        // An interruption is looked into by reading, which does not wait.
        Ok(_) | Err(_) => true,
    }
}

/// Gives up what is held and fits.
fn give_up(guarded: &mut BTreeMap<u32, Held>, netlink: &mut Netlink, fits: impl Fn(&Held) -> bool) {
    let mut lost: Vec<_> =
        guarded.values_mut().filter(|held| !held.given_up && fits(held)).collect();
    for held in &mut lost {
        held.given_up = true;
        for (to, advert) in &held.holding.farewells {
            let sent = match &held.sender {
                Ok(sender) => sender.send(advert, *to).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = sent {
                tracing::warn!(%error, %to, "the guard cannot send priority 0");
            }
        }
    }
    let addresses = lost.iter().flat_map(|held| {
        held.holding.addresses.iter().map(|address| (held.holding.index, *address))
    });
    let addresses: Vec<_> = addresses.collect();
    let requests = addresses.iter().map(|(index, address)| Request::delete(*index, *address));
    match netlink.apply(requests) {
        Ok(outcomes) => {
            for ((_, address), outcome) in addresses.iter().zip(outcomes) {
                if let Err(error) = outcome
                    && !was_gone(&error)
                {
                    tracing::warn!(%error, %address, "the guard cannot delete the address");
                }
            }
        }
        Err(error) => tracing::warn!(%error, "the guard cannot delete addresses"),
    }
}

/// Takes away what was made for virtual MACs: the process does not come back.
fn clean_up(guarded: &BTreeMap<u32, Held>, netlink: &mut Netlink) {
    let made = guarded.values().map(|held| &held.holding).filter(|holding| holding.virtual_mac);
    let requests: Vec<_> = made
        .flat_map(|holding| {
            let index = holding.index;
            let rules = holding.addresses.iter().map(move |it| vmac::source_rule_gone(index, *it));
            rules.chain([vmac::link_gone(index)])
        })
        .collect();
    match netlink.apply(requests) {
        Ok(outcomes) => {
            let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            // Link-local addresses have no rules.
            tracing::debug!(done, of = outcomes.len(), "virtual MACs are taken away");
        }
        Err(error) => tracing::warn!(%error, "the guard cannot take virtual MACs away"),
    }
}
