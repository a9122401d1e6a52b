//! The load rig: what a proxied connection costs lockgate, next to what it costs HAProxy, nginx,
//! Envoy and a relay that does only what it must.
//!
//! Run by `cargo bench --bench rig`, and by `scripts/bench`, which installs the others first.
//! `cargo bench --bench rig -- --help` lists the options.
//!
//! # How it is measured
//!
//! Every run starts a fresh proxy process with a generated configuration, pinned to one core. The
//! load is this process, pinned to another: client and backends in a single thread that polls
//! without ever sleeping, so that the proxy is what limits, and pays for no wake-up of a sleeping
//! core. It sends large data with `sendfile` and discards it with `MSG_TRUNC`, to stay ahead.
//!
//! What counts is not throughput but the *CPU time of the proxy process*, user and system, as the
//! kernel accounts it, for a fixed amount of work in the middle of a run: a window opens after a
//! warm-up and closes with load still flowing, so neither start nor end is in it. It is divided by
//! the units of work that the client saw completed:
//!
//! | scenario | one unit |
//! | --- | --- |
//! | `short` | connect, 64 bytes there, 64 bytes back, close; 32 connections in flight |
//! | `bulk1`, `bulk64` | a gigabyte (10⁹ bytes) from the backends, over 1 or 64 connections |
//! | `ping64`, `ping1k` | a round trip of 64 or 1024 bytes, over 64 connections that stay |
//! | `conns100`, `conns1k`, `conns9k` | a round trip as in `ping64`, over so many connections |
//! | `short9k` | as `short`, while 9000 other connections are open and silent |
//! | `backends1`, `backends100`, `backends1000` | as `short`, over so many backends instead of 8 |
//! | `latency-kept`, `latency-new` | the wait for a reply at a fixed rate, on 64 connections or a new one each: its 99th percentile |
//! | `workers1`, `workers2` | as `short`, with one or two workers; see below |
//! | `idle` | a connection that did one round trip and is now silent: its memory, not its CPU |
//! | `tls-full-…`, `tls12-full-…` | as `short`, with a full handshake of TLS 1.3 or 1.2, the certificate with an ECDSA (P-256) or RSA (2048 bits) key |
//! | `tls-resumed`, `tls12-resumed` | as `short`, with a handshake that resumes a session |
//! | `tls-bulk1`, `tls-bulk16` | as `bulk1`, with TLS 1.3 |
//! | `tls-idle` | as `idle`, with TLS 1.3 |
//! | `tls-storm` | 99th percentile of a round trip on kept connections, while 2,000 new ones a second shake hands; `tls-calm`: the same without them |
//! | `tls-hostile` | the same beside 2,000 clients that say a `ClientHello` at a byte a second, and 500 a second that are reset as soon as they are there |
//!
//! In the scenarios of latency, requests come by a clock (a Poisson process, the same in each run)
//! at two fifths of the rate that a HAProxy reached just before, and each is timed from when it was
//! due, not from when the load got round to sending it. A window is divided into ten slices, and a
//! percentile is the median of theirs, and a run in which the load lost some of its core is repeated
//! (twice at most, and the least disturbed one counts), so that a pause of the machine itself is not everybody's
//! tail; a pause that a proxy makes less often than once a slice is not seen either.
//!
//! In `workers1` and `workers2` proxy and load may use both cores, and the load sleeps when it has
//! nothing to do. That compares what a connection costs, with what the second worker adds to it.
//! It does not show what two workers can do, since the load is what limits: on two cores it takes
//! about half of what there is. The floor has one thread, and is left out with two.
//!
//! With TLS, the proxy ends it, and backends speak plain TCP. The client is rustls, and offers
//! AES-128-GCM and X25519 alone (in TLS 1.2 it must offer the curve of the certificate as well), so
//! that all proxies do the same cryptography. It counts the kinds of handshakes: a run that should
//! resume sessions and does not fails, as does one with another group. In 1.3 each ticket is used
//! once, and the proxy gives a new one each time; how many it gives after a full handshake is its
//! own choice (lockgate one, OpenSSL two), and part of the cost. The client verifies signatures,
//! but compares the certificate with the one it knows instead of verifying that. A handshake costs
//! it about as much as the proxy, and bulk data has to be decrypted, so it can be what limits: then
//! `busy` is below 100 %. The floor and the HAProxy that splices take no part.
//!
//! The client checks every reply except bulk data, and counts the connections that failed. There
//! must be none: a proxy that drops work does not do it cheaply, and the rig exits with 1.
//!
//! `busy` is how much of its core the proxy used. Below 100 %, the load was what limited, which is
//! common in bulk with `splice`. The load itself uses all of its core unless something else runs
//! there; the rig says so if that happened, and such numbers are better measured again.
//!
//! Rounds are interleaved (A B C, then C B A, …), so that a slow minute of the machine hits all
//! subjects. Reported are median, minimum and maximum over the rounds, and the ratio of medians to
//! HAProxy. HAProxy runs with and without `splice`, as each is the better one somewhere; the ratio
//! is against whichever has the lower median in that table. To see how much of a difference is
//! noise, measure a subject against itself: `--subjects haproxy,haproxy`.
//!
//! # What the numbers do not say
//!
//! * Loopback has no driver, no interrupts and segments of 64 KB. On a network card every segment
//!   is 1.5 KB (until GRO merges them): bulk costs more for everyone, and the gain from `splice`
//!   is smaller.
//! * Part of what the kernel does for the *receiver* of a loopback segment runs in the `send` of
//!   its sender, so some of the client's and the backends' TCP is charged to the proxy, and the
//!   reverse. This is the same for all subjects and pulls the ratios towards 1.
//! * The value of `idle` is user memory. The column `kernel` is how much the kernel's objects and
//!   page tables grew on the whole machine: two of the four sockets per connection in it are the
//!   load's, and anything else that runs is in it too. Only differences between subjects mean
//!   something, and below 1 KB little.
//! * On virtual or busy machines, clock rate and cache contention change from minute to minute.
//!   Trust the ratios, not the absolute numbers, and only compare numbers from one invocation.
//! * With `--network veth` there are devices, but no interrupts, and segments are as large as on
//!   loopback. What the kernel does with a packet in the background is then charged to whoever it
//!   interrupts, on the core of the sender.
//! * A proxy that is asked for more than it can do has the latency of its queue: that is a lot, and
//!   means nothing beyond that it could not.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report is what it is for")]

mod backend;
mod bulk;
mod chart;
mod crowd;
mod exchange;
mod floor;
mod histogram;
mod hostile;
mod idle;
mod latency;
mod machine;
mod measure;
mod network;
mod options;
mod poller;
mod report;
mod scenario;
mod site;
mod subject;
mod tls;

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use machine::Machine;
use options::{Command, Options};
use report::{Report, Table};
use scenario::Scenario;
use subject::Program;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == floor::ARGUMENT) {
        let Err(error) = floor::run(Path::new(&arguments.next().unwrap_or_default()));
        eprintln!("floor: {error}");
        return ExitCode::FAILURE;
    }
    match Options::parse(env::args().skip(1)) {
        Ok(Command::Measure(options)) => match measure(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("rig: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(Command::Help) => {
            print!("{}", options::USAGE);
            ExitCode::SUCCESS
        }
        // `cargo test --all-targets` runs benches too, and must not take minutes.
        Ok(Command::Nothing) => {
            println!("rig: nothing to do without --bench (see --help)");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rig: {error}\n\n{}", options::USAGE);
            ExitCode::from(64)
        }
    }
}

/// Measures and reports everything; `false` if any run or connection failed.
fn measure(options: &Options) -> io::Result<bool> {
    let machine = Machine::prepare(options.network)?;
    let mut programs: Vec<Program> = Vec::new();
    for &kind in &options.subjects {
        match Program::find(kind, options) {
            Ok(mut program) => {
                let twins = programs.iter().filter(|other| other.kind == kind).count();
                if twins > 0 {
                    program.label = format!("{}#{}", program.label, twins + 1);
                }
                programs.push(program);
            }
            Err(reason) => eprintln!("rig: SKIPPED {kind}: {reason}"),
        }
    }
    if programs.is_empty() {
        return Err(io::Error::other("no subject to measure"));
    }

    let mut report = Report::new(machine, &programs, options);
    report.print_heading();
    for mut scenario in Scenario::all(options)? {
        let reference = programs.iter().find(|program| program.kind.is_reference());
        scenario.calibrate(reference.unwrap_or(&programs[0]), report.machine())?;
        let table = run_rounds(&scenario, &programs, report.machine(), options.rounds());
        table.print();
        report.push(table);
    }
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    if let Some(path) = &options.chart {
        fs::write(path, chart::draw(&report))?;
    }
    Ok(report.is_clean())
}

/// One scenario: every subject once per round, in an order that turns around from round to round.
fn run_rounds(
    scenario: &Scenario,
    programs: &[Program],
    machine: &Machine,
    rounds: usize,
) -> Table {
    let mut table = Table::new(scenario, programs);
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..programs.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            if table.has_failed(index) || !scenario.is_for(programs[index].kind) {
                continue;
            }
            match scenario.run_undisturbed(&programs[index], machine) {
                Ok(outcome) => table.record(index, outcome),
                Err(error) => {
                    eprintln!("rig: {}, {}: {error}", scenario.name, programs[index].label);
                    table.record_failed_run(index);
                }
            }
        }
    }
    table
}
