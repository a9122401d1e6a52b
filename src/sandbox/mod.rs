//! What each thread may do: its capabilities, and what the kernel refuses it from then on.
//!
//! [`begin`] is called once, by the control plane, before any other thread is there, so that the
//! start needs no more than a reload will. Each thread calls [`enter`] when it has what it needs;
//! there is no way back. All of it acts on the calling thread alone, and on what that starts
//! afterwards. Threads share their memory: this bounds what a flaw lets a thread *do*, not what it
//! lets it read of the process.
//!
//! Never stricter than what the role's code does, on any path: what is refused here is refused to a
//! gateway that carries traffic.
//!
//! | thread | capabilities | refused beside [`filter::MACHINE`] | Landlock |
//! | --- | --- | --- | --- |
//! | control, and what it starts | [`capabilities::CONTROL`] | | |
//! | `worker-N` | none | starting programs, doors into the kernel, changing files, sockets but IPv4 and IPv6, listening | no writing, no programs, no signals |
//! | `log-*` | none | starting programs, doors into the kernel, sockets | no programs, no signals |
//! | `vrrp` | network | starting programs, doors into the kernel, changing files | no writing, no programs, no signals |
//! | `vrrp-links` | network | starting programs, doors into the kernel | no writing but `/proc/sys/net`, no programs, no signals |
//! | `vrrp-keeper` | network | doors into the kernel | no writing; it starts guards |
//! | `vip-guard` (a process) | network | as `vrrp` | as `vrrp` |
//! | `vrrp-events` | none | as `worker-N` | as `worker-N` |
//! | `vrrp-notify`, and the programs that it starts | network | | |
//!
//! "network" is `CAP_NET_ADMIN` and `CAP_NET_RAW`. Whatever starts a program starts it with
//! `no_new_privs`: nobody gains by it what the thread did not have. So the next binary of an upgrade
//! has what the control thread has, which is what it needs, and a notify program has the network.

mod capabilities;
mod files;
mod filter;

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether what is not needed is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    On,
    /// Capabilities are dropped; the rest is done, and the kernel's log tells of it.
    Log,
    /// Threads keep what the process was started with.
    Off,
}

impl Mode {
    /// As `runtime.sandbox` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Log => "log",
            Self::Off => "off",
        }
    }

    /// The mode that is spelled so.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::On, Self::Log, Self::Off].into_iter().find(|mode| mode.as_str() == word)
    }
}

/// What a thread is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything that changes passes through it; it opens, binds, and starts threads and programs.
    Control,
    /// Connections.
    Worker,
    /// Writes lines to files.
    Log,
    /// Sends and receives adverts.
    Vrrp,
    /// Has the addresses, and starts guards.
    Keeper,
    /// Watches interfaces, and makes those of virtual MACs.
    Links,
    /// Tells others what has happened.
    Events,
    /// Runs programs at transitions.
    Notify,
    /// The process that gives addresses up when the keeper cannot.
    Guard,
}

/// Why a thread has more privileges than it should: it must not go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {why} (runtime.sandbox = \"off\" does without)")]
pub struct Error {
    what: &'static str,
    why: String,
}

impl Error {
    fn new(what: &'static str, why: impl fmt::Display) -> Self {
        Self { what, why: why.to_string() }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Set once, when the process begins to drop privileges.
static MODE: OnceLock<Mode> = OnceLock::new();

/// Sets the mode of this process, and drops what the control thread does not need. Threads that are
/// started from now on have no more than that.
///
/// # Errors
///
/// If the kernel does not take capabilities away, or knows none of it.
pub fn begin(mode: Mode) -> Result<(), Error> {
    if mode != Mode::Off {
        // Guards lock their memory, and have no capability for it.
        capabilities::lift_memory_lock();
    }
    begin_as(Role::Control, mode)
}

/// The same for a process whose first thread has another role.
///
/// # Errors
///
/// As [`begin`].
pub fn begin_as(role: Role, mode: Mode) -> Result<(), Error> {
    confine(role, *MODE.get_or_init(|| mode))
}

/// Drops what a thread of this role does not need. Does nothing in a process that never called
/// [`begin`], as tests of a single part do not.
///
/// # Errors
///
/// As [`begin`]. A kernel that lacks Landlock or seccomp is no error, and told of once.
pub fn enter(role: Role) -> Result<(), Error> {
    confine(role, MODE.get().copied().unwrap_or(Mode::Off))
}

/// The arguments that make this program the guard `command` in the present mode.
pub fn guard(command: &str) -> Vec<std::ffi::OsString> {
    let mode = MODE.get().copied().unwrap_or(Mode::Off);
    [command, mode.as_str()].map(Into::into).into()
}

/// Does to the calling thread what [`enter`] does in a process of this mode.
///
/// # Errors
///
/// As [`begin`].
pub fn confine(role: Role, mode: Mode) -> Result<(), Error> {
    if mode == Mode::Off {
        return Ok(());
    }
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| Error::new("give up gaining privileges", error))?;
    capabilities::keep(role)?;
    if mode == Mode::On && !files::restrict(role)? {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "this kernel has no Landlock (since 5.13, and in its list of security modules): \
                 only seccomp keeps threads from files"
            );
        }
    }
    // Last: it refuses what the others need.
    if !filter::install(role, mode)? {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "this kernel has no seccomp: threads have no capabilities that they do not need, \
                 and are refused nothing else"
            );
        }
    }
    Ok(())
}
