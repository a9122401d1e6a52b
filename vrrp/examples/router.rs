//! One virtual router on the command line, to try it out and for tests. Needs root.
//!
//! ```text
//! router INTERFACE VRID PRIORITY INTERVAL ADDRESS/PREFIX... [option...]
//!
//! INTERVAL    10ms to 40950ms for version 3; 1s to 255s for version 2
//! option      v2 | nopreempt | delay=MILLIS | peer=IP | source=IP | mac | rfc9568 | pseudo |
//!             track=INTERFACE | notify=PROGRAM | repeat=N | refresh=MILLIS | noguard
//! ```
//!
//! Events are lines on standard output. Lines on standard input are commands: `status`,
//! `weight N`, `service up`, `service down`, `addresses ADDRESS/PREFIX...`, `stop`; its end means
//! nothing. SIGTERM and SIGINT are `stop`.

#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use lockgate_vrrp::linux::{self, Event, Options, Vrrp};
use lockgate_vrrp::settings::{Address, ChecksumPolicy, Settings};
use lockgate_vrrp::types::{Interval, Priority, Version, Vrid};
use nix::sys::signal::{SigSet, Signal};

const GUARD: &str = "--guard";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == GUARD) {
        return linux::guard_main();
    }
    let Some((settings, guard)) = settings(&arguments) else {
        eprintln!("usage: router INTERFACE VRID PRIORITY INTERVAL ADDRESS/PREFIX... [option...]");
        return ExitCode::from(2);
    };
    match run(settings, guard.then(|| vec![GUARD.into()])) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("router: {error}");
            ExitCode::FAILURE
        }
    }
}

fn address(text: &str) -> Option<Address> {
    let (ip, prefix) = text.split_once('/')?;
    Some(Address { ip: ip.parse().ok()?, prefix: prefix.parse().ok()? })
}

pub fn settings(arguments: &[String]) -> Option<(Settings, bool)> {
    let [interface, vrid, priority, interval, rest @ ..] = arguments else { return None };
    let version = if rest.iter().any(|option| option == "v2") { Version::V2 } else { Version::V3 };
    let interval = match interval.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(millis.parse().ok()?),
        None => Duration::from_secs(interval.strip_suffix('s')?.parse().ok()?),
    };
    let mut settings = Settings {
        name: format!("{interface}-{vrid}"),
        interface: interface.clone(),
        vrid: Vrid::new(vrid.parse().ok()?)?,
        addresses: Vec::new(),
        priority: Priority::new(priority.parse().ok()?),
        interval: Interval::from_duration(version, interval)?,
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast_peers: Vec::new(),
        source: None,
        checksum: ChecksumPolicy::Auto,
        sync_group: None,
        virtual_mac: false,
        garp_repeat: 5,
        garp_refresh: Duration::from_secs(60),
        track_interfaces: Vec::new(),
        notify: None,
    };
    let mut guard = true;
    for option in rest {
        match option.split_once('=') {
            Some(("delay", millis)) => {
                settings.preempt_delay = Duration::from_millis(millis.parse().ok()?);
            }
            Some(("peer", peer)) => settings.unicast_peers.push(peer.parse().ok()?),
            Some(("source", source)) => settings.source = Some(source.parse().ok()?),
            Some(("track", name)) => settings.track_interfaces.push(name.to_owned()),
            Some(("notify", program)) => settings.notify = Some(program.to_owned()),
            Some(("repeat", times)) => settings.garp_repeat = times.parse().ok()?,
            Some(("refresh", millis)) => {
                settings.garp_refresh = Duration::from_millis(millis.parse().ok()?);
            }
            Some(_) => return None,
            None => match option.as_str() {
                "v2" => {}
                "nopreempt" => settings.preempt = false,
                "mac" => settings.virtual_mac = true,
                "rfc9568" => settings.checksum = ChecksumPolicy::Rfc9568,
                "pseudo" => settings.checksum = ChecksumPolicy::PseudoHeader,
                "noguard" => guard = false,
                text => settings.addresses.push(address(text)?),
            },
        }
    }
    Some((settings, guard))
}

/// Lines appear whole and at once. If nobody reads them any more, that is all right.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn describe(event: &Event) -> String {
    match event {
        Event::Transition { from, to, cause, priority, at, .. } => {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            format!("transition {from} {to} {cause} {priority} {:.6}", at.as_secs_f64())
        }
        Event::Contention { from, priority, .. } => format!("contention {from} {priority}"),
        Event::AddressRestored { address, .. } => format!("restored {address}"),
        Event::AddressFailed { address, error, .. } => format!("failed {address} {error}"),
        Event::GuardDied { error } => format!("guard-died {error:?}"),
        other => format!("{other:?}"),
    }
}

fn show(vrrp: &Vrrp) {
    for status in vrrp.status() {
        say(&format!("status {status:?}"));
    }
    say(&format!("strays {:?}", vrrp.rejected()));
}

pub fn run(mut settings: Settings, guard: Option<Vec<OsString>>) -> Result<(), linux::Error> {
    // Before there are threads, so that only the one below gets them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    if let Err(error) = signals.thread_block() {
        eprintln!("router: signals end it without a good-bye: {error}");
    }
    let service = Arc::new(AtomicBool::new(true));
    let works = Arc::clone(&service);
    let options = Options {
        guard,
        service: Arc::new(move |_| match works.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("told so".to_owned()),
        }),
        events: Arc::new(|event| say(&describe(&event))),
        confine: None,
    };
    let vrrp = linux::start(vec![settings.clone()], options)?;
    say(&format!("started {}", std::process::id()));
    let (sender, lines) = mpsc::channel();
    thread::spawn({
        let sender = sender.clone();
        move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        }
    });
    // The end of input means nothing: this one keeps the channel open.
    thread::spawn(move || {
        if signals.wait().is_ok() {
            let _ended = sender.send("stop".to_owned());
        }
    });
    while let Ok(line) = lines.recv() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["status"] => show(&vrrp),
            ["weight", weight] => {
                vrrp.track(&settings.name, "console", weight.parse().unwrap_or_default());
            }
            ["service", state] => service.store(*state == "up", Ordering::Relaxed),
            ["addresses", addresses @ ..] => {
                settings.addresses = addresses.iter().filter_map(|text| address(text)).collect();
                match vrrp.reconfigure(vec![settings.clone()]) {
                    Ok(()) => say("reconfigured"),
                    Err(error) => say(&format!("refused {error}")),
                }
            }
            ["stop"] => break,
            _ => say("unknown command"),
        }
    }
    let (_, programs) = vrrp.stop();
    programs.wait();
    say("stopped");
    Ok(())
}
