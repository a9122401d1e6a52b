//! Failover, measured: what a client sees when a master's link is cut, when it is stopped, killed,
//! paused or starved; lockgate beside keepalived, in the same run.
//!
//! Run by `cargo bench --bench failover` as root, and by `scripts/bench failover`, which installs
//! keepalived first. `cargo bench --bench failover -- --help` lists the options.
//!
//! # How it is measured
//!
//! Each trial has a LAN of its own, made of network namespaces (`network.rs` has a drawing), and
//! fresh processes. Both gateways are started, the first with the higher priority; when it alone has
//! advertised for four intervals and the client has been served for a while, the trial begins. When
//! it begins between two adverts decides how long it takes: trials are spread evenly over the
//! interval, and each subject has the same share of it in the same round.
//!
//! Time zero is taken just before the one system call that does the thing: a netlink message that
//! disables the master's switch port (its carrier stays), or `kill`. Packets have the moment at
//! which the kernel received them, so that it does not matter when this program got to read them.
//!
//! | row | what is done | what is measured |
//! | --- | --- | --- |
//! | `cut` | the master's port is disabled | hole: the longest that a client had to wait for the answer to a ping (one each 2 ms), and for a new TCP connection (one each 5 ms), whenever it began; the other's first advert and first gratuitous ARP, from time zero |
//! | `stop` | SIGTERM | the same |
//! | `kill` | SIGKILL to the process that speaks VRRP: keepalived's child, lockgate itself | when the other answers ARP and the killed one does not any more, from time zero; how long both answered (a question each 5 ms); the holes |
//! | `kill-all` | SIGKILL to all processes of the master, whatever guards it as well | the same |
//! | `pause` | the port is disabled and all processes are stopped (SIGSTOP); after 6 s the port is enabled and they go on | in how many trials the client is not served at the end of the 5 s after; the largest hole in them |
//! | `busy` | four busy loops for a minute | how often the backup took over from a master that was well; the gaps between the master's adverts |
//! | `many` | as `cut`, with 200 addresses | from the other's first advert to the last address's first announcement; the largest gap between its adverts in the first seconds |
//!
//! `never` is longer than 10 s. Who answers the connections is the same small acceptor for both
//! programs: what is measured is where the address is. Subjects take turns, in an order that turns
//! around from trial to trial; in `kill`, `kill-all` and `pause`, in which seconds count, all
//! subjects run at the same time.
//!
//! # What the numbers do not say
//!
//! * The switch learns and forwards at once, and clients are Linux. A switch that is slow to learn,
//!   or a client that ignores gratuitous ARP, sees longer holes with either program.
//! * All hosts share the cores of one machine, and its kernel. A pause of the machine is in the
//!   worst value; the median is what protocol and program do.
//! * A master that is really cut off has nobody to answer to. Its own half of the story, in which it
//!   still holds the address, has no client here.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report is what it is for")]

mod client;
mod clock;
mod network;
mod options;
mod port;
mod report;
mod rows;
mod site;
mod stamped;
mod subject;
mod watcher;
mod wire;

use std::process::ExitCode;
use std::{env, io, thread};

use options::{Command, Options};
use report::{Report, Table};
use rows::Row;

fn main() -> ExitCode {
    match Options::parse(env::args().skip(1)) {
        Ok(Command::Measure(options)) => match measure(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("failover: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(Command::Help) => {
            print!("{}", options::USAGE);
            ExitCode::SUCCESS
        }
        // `cargo test --all-targets` runs benches too, and must not take minutes.
        Ok(Command::Nothing) => {
            println!("failover: nothing to do without --bench (see --help)");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("failover: {error}\n\n{}", options::USAGE);
            ExitCode::from(64)
        }
    }
}

/// Measures and reports everything; `false` if any trial failed.
fn measure(options: &Options) -> io::Result<bool> {
    let mut report = Report::new(options)?;
    report.print_heading();
    for row in &options.rows {
        report.push(trials(*row, options));
        if let Some(path) = &options.json {
            report.write_json(path)?;
        }
    }
    Ok(report.is_clean())
}

/// A row: every subject once per round, in an order that turns around from round to round.
fn trials(row: Row, options: &Options) -> Table {
    let subjects = options.subjects(row);
    let mut table = Table::new(row, &subjects);
    let trials = options.trials(row);
    for round in 0..trials {
        let share = (round as f64 + 0.5) / trials as f64;
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        if row.side_by_side() {
            thread::scope(|scope| {
                let all: Vec<_> = order
                    .iter()
                    .map(|&line| {
                        let subject = subjects[line];
                        (line, scope.spawn(move || row.run(subject, share, options)))
                    })
                    .collect();
                for (line, trial) in all {
                    let outcome = trial.join();
                    table.record(line, outcome.unwrap_or_else(|_| Err(io::Error::other("panic"))));
                }
            });
        } else {
            for line in order {
                table.record(line, row.run(subjects[line], share, options));
            }
        }
    }
    table
}
