//! What is measured: the CPU time and the memory of a process, and the spread of a series.
//!
//! The loads open a [`Window`] over the proxy; the report summarises with [`Spread`].

#![allow(unsafe_code, reason = "a CPU clock: in nix, a feature that only this would need")]

use std::time::{Duration, Instant};
use std::{fs, io, mem, process};

/// The kernel's clock of the CPU time, user and system, of all threads of another process.
///
/// The same sum can be read from `/proc/PID/task/*/schedstat`, but those files lag behind by up to
/// a scheduler tick (4 ms at 250 Hz) for a thread that is running, and forget threads that ended.
struct CpuClock(libc::clockid_t);

impl CpuClock {
    fn of(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        let mut id = 0;
        // SAFETY: `id` is a valid place for the answer.
        match unsafe { libc::clock_getcpuclockid(pid, &raw mut id) } {
            0 => Ok(Self(id)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn read(&self) -> io::Result<Duration> {
        // SAFETY: a `timespec` may be all zero, and it is a valid place for the answer.
        let time = unsafe {
            let mut time: libc::timespec = mem::zeroed();
            if libc::clock_gettime(self.0, &raw mut time) != 0 {
                return Err(io::Error::last_os_error());
            }
            time
        };
        Ok(Duration::from_secs(time.tv_sec.cast_unsigned())
            + Duration::from_nanos(time.tv_nsec.cast_unsigned()))
    }
}

/// A stretch of a run: it opens after the warm-up and closes when enough was done.
pub struct Window {
    subject: Vec<CpuClock>,
    load: CpuClock,
    opens_at: u64,
    length: u64,
    done: u64,
    opening: Option<Reading>,
}

/// All that a window compares between its opening and its closing.
struct Reading {
    subject: Duration,
    load: Duration,
    time: Instant,
    done: u64,
}

/// What happened in a [`Window`].
pub struct Measured {
    /// CPU time of the proxy.
    pub subject: Duration,
    /// CPU time of the load, which never sleeps: less than `wall` means that others ran there.
    pub load: Duration,
    pub wall: Duration,
    /// What was really done: the last step may have gone past the length of the window.
    pub units: u64,
}

impl Window {
    /// A window over the CPU time of the processes `subject`.
    pub fn over(subject: &[u32], warm_up: u64, length: u64) -> io::Result<Self> {
        Ok(Self {
            subject: subject.iter().map(|&pid| CpuClock::of(pid)).collect::<io::Result<_>>()?,
            load: CpuClock::of(process::id())?,
            opens_at: warm_up,
            length,
            done: 0,
            opening: None,
        })
    }

    /// Counts units of work; an answer closes the window.
    pub fn advance(&mut self, units: u64) -> io::Result<Option<Measured>> {
        self.done += units;
        match &self.opening {
            None if self.done >= self.opens_at => {
                self.opening = Some(self.read()?);
                Ok(None)
            }
            Some(opening) if self.done - opening.done >= self.length => {
                let closing = self.read()?;
                Ok(Some(Measured {
                    subject: closing.subject.saturating_sub(opening.subject),
                    load: closing.load.saturating_sub(opening.load),
                    wall: closing.time - opening.time,
                    units: closing.done - opening.done,
                }))
            }
            _ => Ok(None),
        }
    }

    fn read(&self) -> io::Result<Reading> {
        Ok(Reading {
            subject: self.subject.iter().map(CpuClock::read).sum::<io::Result<_>>()?,
            load: self.load.read()?,
            time: Instant::now(),
            done: self.done,
        })
    }
}

/// Bytes of memory of a process, and of the kernel.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Resident, pages that other processes also map included.
    pub rss: u64,
    /// Resident, each page divided among those who map it.
    pub pss: u64,
    /// Resident and in no other process.
    pub private: u64,
    /// The kernel's objects and page tables, on behalf of whomever.
    pub kernel: u64,
}

impl Memory {
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let machine = fs::read_to_string("/proc/meminfo")?;
        Ok(Self {
            rss: kilobytes(&status, "VmRSS:")?,
            pss: kilobytes(&rollup, "Pss:")?,
            private: kilobytes(&rollup, "Private_Clean:")? + kilobytes(&rollup, "Private_Dirty:")?,
            kernel: kilobytes(&machine, "Slab:")? + kilobytes(&machine, "PageTables:")?,
        })
    }
}

/// The value of a line such as `VmRSS:    1234 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kilobytes| kilobytes * 1024)
        .ok_or_else(|| io::Error::other(format!("the kernel did not report {key}")))
}

/// Median and extremes of a series.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` for an empty series.
    pub fn of(series: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = series.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}
