//! How many instructions the hot paths take, beside what they took when somebody last looked.
//!
//! `scripts/instructions`, which `scripts/check` runs: it fails when a case has come to need over
//! 2 % more than `counts.toml` says. `scripts/instructions --update` writes what is true now.
//!
//! # How it is counted
//!
//! This program runs itself under valgrind's callgrind, which counts every instruction in user
//! space, a process for each case: once with N operations and once with 2 N. Only what happens
//! inside of a loop around the operation is counted, not what prepares it. The difference, divided
//! by N, is the cost of one; what takes longer the first time is in both and drops out. The loop
//! itself is in it, at two or three instructions.
//!
//! Unlike time, the count is the same on a busy machine and, as long as the compiler is, on another
//! one. What might differ is code that looks at the processor first: the C library is kept from it,
//! and the clock of the histograms is read as the processor allows.
//!
//! # What it does not say
//!
//! Instructions are not time: a miss of the cache costs hundreds, a locked one a dozen or more.
//! What a change is worth, `pick` and `rig` tell; this tells that there was a change.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report is what it is for")]

mod cases;
mod counts;
#[path = "../picks.rs"]
mod picks;
mod valgrind;

use std::process::ExitCode;
use std::{env, io};

use cases::Case;
use counts::{Change, Counts};

const FILE: &str = "benches/instructions/counts.toml";

const USAGE: &str = "\
usage: scripts/instructions [--update | PART]

Counts the instructions of every case, or of those with PART in their name, and fails if one takes
over 2 % more than benches/instructions/counts.toml says. With --update, rewrites that file.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, name, times] = arguments.as_slice()
        && flag == valgrind::RUN
    {
        return run(name, times);
    }
    let is_own = |argument: &&str| *argument != "--bench";
    let own: Vec<&str> = arguments.iter().map(String::as_str).filter(is_own).collect();
    let done = match own.as_slice() {
        ["--help"] => {
            print!("{USAGE}");
            Ok(true)
        }
        // `cargo test --all-targets` runs benches too, built for debugging.
        _ if own.len() == arguments.len() => {
            println!("instructions: nothing to do without --bench");
            Ok(true)
        }
        ["--update"] => update(),
        [] => compare(""),
        [part] if !part.starts_with('-') => compare(part),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What valgrind is to count.
fn run(name: &str, times: &str) -> ExitCode {
    let case = cases::all().into_iter().find(|case| case.name == name);
    let (Some(case), Ok(times)) = (case, times.parse()) else {
        eprint!("{USAGE}");
        return ExitCode::from(64);
    };
    case.run(times);
    ExitCode::SUCCESS
}

/// Writes what is true now.
fn update() -> io::Result<bool> {
    let every = cases::all();
    Counts::new(valgrind::count(&every.iter().collect::<Vec<_>>())?)?.store()?;
    println!("instructions: {FILE} is up to date; the commit should say why it changed");
    Ok(true)
}

/// Compares the cases with `part` in their name; `false` if the file does not hold good.
fn compare(part: &str) -> io::Result<bool> {
    let kept = Counts::load()?;
    if kept.processor != env::consts::ARCH {
        println!("instructions: {FILE} is about {}, nothing to compare", kept.processor);
        return Ok(true);
    }
    let every = cases::all();
    let wanted: Vec<&Case> = every.iter().filter(|case| case.name.contains(part)).collect();
    if wanted.is_empty() {
        return Err(io::Error::other(format!("no case has '{part}' in its name")));
    }
    let counted = Counts::new(valgrind::count(&wanted)?)?;

    println!("{:<42}{:>10}{:>10}", "instructions per operation", "kept", "now");
    let (mut wrong, mut cheaper) = (Vec::new(), Vec::new());
    for (name, &now) in &counted.instructions {
        let Some(&before) = kept.instructions.get(name) else {
            println!("{name:<42}{:>10}{now:>10.1}", "-");
            wrong.push(format!("{name}: not in the file, takes {now:.1} instructions"));
            continue;
        };
        let change = Change { before, now };
        println!("{name:<42}{before:>10.1}{now:>10.1}   {change}");
        let line = format!("{name}: {before:.1} -> {now:.1} instructions, {change}");
        if change.is_dearer() {
            wrong.push(line);
        } else if change.is_cheaper() {
            cheaper.push(line);
        }
    }
    for name in kept.instructions.keys() {
        if !every.iter().any(|case| case.name == *name) {
            wrong.push(format!("{name}: in the file, but there is no such case"));
        }
    }
    if kept.toolchain != counted.toolchain {
        let (of, now) = (&kept.toolchain, &counted.toolchain);
        wrong.push(format!("the file belongs to rustc {of}, this is {now}"));
    }

    if !cheaper.is_empty() {
        println!("\nCheaper than in {FILE}:\n  {}", cheaper.join("\n  "));
        println!("To keep the gain from being lost again: scripts/instructions --update");
    }
    if !wrong.is_empty() {
        eprintln!("\nNot as in {FILE}:\n  {}", wrong.join("\n  "));
        eprintln!("If it has to be so: scripts/instructions --update, and say why in the commit.");
    }
    Ok(wrong.is_empty())
}
