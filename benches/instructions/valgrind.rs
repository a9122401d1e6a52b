//! Counts what a process of this program does, with valgrind's callgrind.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, io, thread};

use super::cases::{COUNTED, Case};

/// First argument of a process that is counted; name and number of operations follow.
pub const RUN: &str = "--run";

/// Instructions per operation, to one decimal, by the name of the case.
pub fn count(cases: &[&Case]) -> io::Result<BTreeMap<String, f64>> {
    // Counts do not suffer from company, so every core gets a share.
    let threads = thread::available_parallelism()?.get();
    let todo = Mutex::new(cases.iter().map(|case| (case.name.as_str(), case.times)));
    let next = || todo.lock().ok()?.next();
    let share = || -> io::Result<Vec<(String, f64)>> {
        let mut counted = Vec::new();
        while let Some((name, times)) = next() {
            let once = instructions(name, times)?;
            let twice = instructions(name, times * 2)?;
            // None at all: there was no function of that name.
            let more = twice.checked_sub(once).filter(|&more| more > 0);
            let more = more.ok_or_else(|| nothing_counted(name))?;
            let each = more as f64 / f64::from(times);
            counted.push((name.to_owned(), (each * 10.0).round() / 10.0));
        }
        Ok(counted)
    };
    thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        let mut counted = BTreeMap::new();
        for share in shares {
            let share = share.join().map_err(|_| io::Error::other("a thread panicked"))?;
            counted.extend(share?);
        }
        Ok(counted)
    })
}

/// The instructions that a process takes for so many operations.
fn instructions(name: &str, times: u32) -> io::Result<u64> {
    let profile = tempfile::NamedTempFile::new()?;
    let mut option = OsString::from("--callgrind-out-file=");
    option.push(profile.path());
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--vgdb=no", "--quiet"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(option)
        .arg(env::current_exe()?)
        .args([RUN, name, &times.to_string()])
        // No options of the caller's, and the same on every stack.
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        // The C library otherwise chooses its `memcpy` by the processor.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-ERMS")
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::new(error.kind(), "valgrind is not installed; scripts/setup does it")
            }
            _ => error,
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{name}: {}\n{said}", output.status)));
    }
    let profile = fs::read_to_string(profile.path())?;
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")?.parse().ok());
    total.ok_or_else(|| nothing_counted(name))
}

fn nothing_counted(name: &str) -> io::Error {
    io::Error::other(format!("{name}: valgrind has counted nothing"))
}
