//! The process between the elder and the heir.
//!
//! A service manager waits for its own children, and an heir that the elder has started is not one:
//! systemd 252 ends a main process that was somebody else's child when it became that with SIGKILL,
//! right after SIGTERM, so that a stop after an upgrade would cut all connections. What the elder
//! starts therefore starts itself again, as the heir, and leaves when the elder says so: an orphan
//! is its manager's child from then on (prctl(2), `PR_SET_CHILD_SUBREAPER`).
//!
//! Until then the two live and die together. The end of the heir is the end of its escort, with the
//! same status, which is what the elder waits for; and when the escort is killed the heir is.

use std::convert::Infallible;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio, exit, id};
use std::thread;

use nix::sys::prctl;
use nix::sys::signal::{Signal, raise};

use crate::control::inherit::{ELDER, OWNER};

/// Starts this program again, with the descriptors and the arguments that it was started with, and
/// ends as that does, or when a byte comes on standard input. `elder` is who has started this one.
///
/// Fails if it cannot be started.
pub(in crate::control) fn accompany(elder: u32) -> io::Result<Infallible> {
    let mut arguments = std::env::args_os();
    // Not the file at its path, which may be another one by now.
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(OWNER, id().to_string()).env(ELDER, elder.to_string());
    let mut heir = command.stdin(Stdio::null()).spawn()?;
    thread::Builder::new().spawn(|| {
        // At its end the elder is gone: the heir goes on alone, and is accompanied as before.
        if matches!(io::stdin().read(&mut [0]), Ok(1..)) {
            exit(0);
        }
    })?;
    end_like(heir.wait()?)
}

fn end_like(status: ExitStatus) -> ! {
    if let Some(signal) = status.signal().and_then(|number| Signal::try_from(number).ok()) {
        // Of most it is the end. What is left is as a shell would have it.
        let _ = raise(signal);
    }
    exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

/// Lets the kernel end this process with its parent (`PR_SET_PDEATHSIG`).
///
/// Fails if the kernel does not know of that.
pub(in crate::control) fn follow_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// From here on this process outlives its parent.
///
/// Fails if the kernel does not know of that.
pub(in crate::control) fn outlive_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(None)?)
}
