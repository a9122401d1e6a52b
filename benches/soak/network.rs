//! The network that the soak has to itself, and what cuts a backend off in it.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::{fs, io};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;

/// Where clients find the gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(127, 20, 0, 1);

/// The backend of this number, from 0.
pub fn backend(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 20, 1, 1 + number as u8)
}

/// Moves this thread, which is to be the only one yet, into a network of its own, if it may.
pub fn isolate() -> io::Result<bool> {
    if !Uid::effective().is_root() {
        return Ok(false);
    }
    unshare(CloneFlags::CLONE_NEWNET)?;
    run("ip link set lo up")?;
    // All networks share the kernel's memory for TCP (`net.ipv4.tcp_mem`). With the buffers that some
    // machines allow, a hundred connections that nobody reads would take all of it, and what was
    // measured would be the kernel without memory.
    for buffers in ["tcp_rmem", "tcp_wmem"] {
        fs::write(format!("/proc/sys/net/ipv4/{buffers}"), "4096 65536 1048576")?;
    }
    for line in [
        "nft add table inet soak",
        "nft add chain inet soak out { type filter hook output priority 0 ; }",
    ] {
        run(line)?;
    }
    Ok(true)
}

/// Nothing goes to or comes from this address any more, and nobody is told.
pub fn cut_off(ip: Ipv4Addr) -> io::Result<()> {
    run(&format!("nft add rule inet soak out ip daddr {ip} drop"))?;
    run(&format!("nft add rule inet soak out ip saddr {ip} drop"))
}

/// All is as before.
pub fn reconnect() -> io::Result<()> {
    run("nft flush chain inet soak out")
}

fn run(line: &str) -> io::Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    // Debian puts it into sbin, which only root's logins have in PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).env("PATH", path);
    let output = command.output().map_err(|error| io::Error::other(format!("{line}: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(io::Error::other(format!("{line}: {said}")))
        }
    }
}
