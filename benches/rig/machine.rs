//! The machine that measures: which cores play which part, and what it says about itself.
//!
//! `main` prepares it before anything else; the report prints it, since numbers without their
//! machine mean nothing.

use std::{fs, io};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;
use nix::unistd::Pid;

use crate::network::{Network, Wanted};

/// Core numbers, as the kernel counts them.
#[derive(Clone, Copy)]
pub struct Cores {
    /// Runs the client and the backends.
    pub load: usize,
    /// Runs the proxy.
    pub subject: usize,
}

pub struct Machine {
    pub cores: Cores,
    pub network: Network,
    pub kernel: String,
    pub cpu: String,
    pub congestion_control: String,
}

impl Machine {
    /// Pins this thread, and allows this process and its children as many files as it may.
    pub fn prepare(network: Wanted) -> io::Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut usable = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
        let (Some(load), Some(subject)) = (usable.next(), usable.next()) else {
            return Err(io::Error::other("needs two cores: one for the load, one for the proxy"));
        };
        pin(&[load])?;

        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;

        let name = uname()?;
        Ok(Self {
            cores: Cores { load, subject },
            network: match network {
                Wanted::Loopback => Network::Loopback,
                Wanted::Veth => Network::veth()?,
            },
            kernel: format!(
                "{} {}",
                name.sysname().to_string_lossy(),
                name.release().to_string_lossy()
            ),
            cpu: cpu_model(),
            congestion_control: fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
        })
    }
}

/// Confines the calling thread, and what it starts, to some cores. Async-signal-safe.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut only = CpuSet::new();
    for &core in cores {
        only.set(core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

fn cpu_model() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
