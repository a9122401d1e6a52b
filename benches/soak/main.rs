//! The soak: a gateway with everything that may happen to it at random, for as long as it is let.
//!
//! Run by `scripts/soak`, and by `cargo bench --bench soak`; `--help` lists the options. A release
//! binary stands between real backends (processes of this program) and clients that check every byte:
//! plain TCP, TLS ended at the gateway, TLS on both sides, TLS passed through, and redirects. Meanwhile
//! two actors do what their seeds say:
//!
//! * one to the backends: killed, paused, cut off by the packet filter, flapping, answering health
//!   checks with garbage;
//! * one to the gateway: good and bad configurations, SIGHUP storms, renewed and broken certificates,
//!   scrapes, live changes, upgrades, and crowds of clients that misbehave.
//!
//! # What is a failure
//!
//! A connection of a checked client that is refused, breaks, stalls or has one wrong byte. It is
//! *explained* if an action was under way that ends connections by its nature: a backend that is killed
//! takes those with it that it had; one whose listening socket is closed, those that it had not
//! accepted yet, which do not know whose they were. All others are *unexplained*, as
//! are actions that do not bring about what they should (a good configuration that is refused, a bad
//! one that is taken over, a scrape without an answer), a panic, an access record too few.
//!
//! Memory and open files are compared after the end of all traffic with what they were after a
//! warm-up: a gateway that leaks a little each time has more.
//!
//! What the two actors do, when, to whom, and what the clients ask for follows from the seed. How that
//! meets is left to the machine: a seed makes the same plan, not the same schedule.
//!
//! As root, all of it happens in a network namespace of its own, which is gone with the process.
//! Otherwise it is on loopback, and nothing is cut off.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report is what it is for")]
#![allow(clippy::unwrap_used, reason = "a soak that cannot go on fails")]

mod actions;
mod backend;
mod chance;
mod client;
mod crowd;
mod ledger;
mod measure;
mod network;
mod noise;
mod operate;
mod options;
mod process;
mod site;

#[allow(
    dead_code,
    unused_imports,
    unused_qualifications,
    reason = "made for tests, which use all of it"
)]
#[path = "../../tests/harness/mod.rs"]
mod harness;

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, io};

use actions::Arena;
use chance::Chance;
use client::Traffic;
use ledger::Ledger;
use options::{Command, Options};
use site::Site;

fn main() -> ExitCode {
    match Options::parse(env::args().skip(1)) {
        Ok(Command::Soak(options)) => match run(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("soak: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(Command::Backend { name, ip }) => backend::run(&name, ip),
        Ok(Command::Help) => {
            print!("{}", options::USAGE);
            ExitCode::SUCCESS
        }
        // `cargo test --all-targets` runs benches too, and must not take minutes.
        Ok(Command::Nothing) => {
            println!("soak: nothing to do without --bench (see --help)");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("soak: {error}\n\n{}", options::USAGE);
            ExitCode::from(64)
        }
    }
}

fn run(options: &Options) -> io::Result<bool> {
    if options.measure { measure::measure(options) } else { soak(options) }
}

/// All of it; false if something is unexplained or has leaked.
fn soak(options: &Options) -> io::Result<bool> {
    let isolated = network::isolate()?;
    let ledger = Arc::new(Ledger::new());
    let site = Arc::new(Site::start(options, Arc::clone(&ledger))?);
    println!(
        "soak: {} s, seed {}, {} clients, lockgate {} in {}",
        options.length.as_secs(),
        options.seed,
        options.clients,
        site.version(),
        if isolated { "a network namespace of its own" } else { "the network of this machine" },
    );
    let arena = Arena::new(Arc::clone(&site), Arc::clone(&ledger), isolated);

    // Everything is warm before it is measured: what is kept for later is no leak.
    let traffic = Traffic::start(&site, &ledger, options);
    arena.warm_up(&mut Chance::new(options.seed), options.length);
    traffic.rest();
    let settle = Duration::from_secs(if options.length.as_secs() < 60 { 2 } else { 12 });
    let before = site.at_rest(settle)?;
    traffic.go_on();

    let until = Instant::now() + options.length;
    thread::scope(|scope| {
        let arena = &arena;
        let backends = Chance::new(options.seed ^ 1);
        let gateway = Chance::new(options.seed ^ 2);
        scope.spawn(move || arena.play(actions::TO_BACKENDS, backends, until));
        scope.spawn(move || arena.play(actions::TO_GATEWAY, gateway, until));
        arena.poll(until);
    });
    let total = traffic.stop();
    // What the last actions have broken is well again.
    thread::sleep(Duration::from_millis(500));
    let after = site.at_rest(Duration::from_secs(12))?;
    let end = site.stop()?;
    Ok(ledger.report(options, &total, (&before, &after), &end))
}
