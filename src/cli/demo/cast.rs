//! The processes of the demo: servers and the gateway, ended with it.

use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::network::Namespace;

/// A process that is killed when it is no longer wanted.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        // A group of its own: an interrupt from the keyboard is for the demo, which ends them.
        command.process_group(0).spawn().map(Self)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) -> io::Result<()> {
        let pid = i32::try_from(self.0.id()).map_err(io::Error::other)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, dead or alive.
#[derive(Debug)]
pub struct Server {
    /// What it calls itself.
    pub name: &'static str,
    /// Where it listens, also while it is dead.
    pub port: u16,
    process: Option<Process>,
}

impl Server {
    /// Starts a server.
    pub fn start(name: &'static str) -> io::Result<Self> {
        let mut server = Self { name, port: 0, process: None };
        server.restart()?;
        Ok(server)
    }

    /// Starts one in a network, at an address there.
    pub fn start_in(
        name: &'static str,
        namespace: &Namespace,
        address: IpAddr,
    ) -> io::Result<Self> {
        let mut server = Self { name, port: 0, process: None };
        let mut command = namespace.command()?;
        command.args(["demo-server", name, "0", &address.to_string()]);
        server.run(&mut command)?;
        Ok(server)
    }

    /// Starts it again, where it was.
    pub fn restart(&mut self) -> io::Result<()> {
        let mut command = Command::new(env::current_exe()?);
        self.run(command.args(["demo-server", self.name, &self.port.to_string()]))
    }

    fn run(&mut self, command: &mut Command) -> io::Result<()> {
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let output = process.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        self.port = line.trim().parse().map_err(io::Error::other)?;
        self.process = Some(process);
        Ok(())
    }

    /// One that has never run.
    #[cfg(test)]
    pub fn dead(name: &'static str, port: u16) -> Self {
        Self { name, port, process: None }
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }
}

/// A directory that is removed when it is no longer wanted.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes one for a part of the demo.
    pub fn new(part: &str) -> io::Result<Self> {
        let path = env::temp_dir().join(format!("lockgate-demo-{}{part}", std::process::id()));
        // For nobody else, whatever the umask: configurations and admin sockets are in it.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left of a demo is not worth a word.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A gateway in front of the servers: `lockgate run` with a configuration of its own.
#[derive(Debug)]
pub struct Gateway {
    /// Where it takes connections.
    pub address: SocketAddr,
    /// Its admin socket.
    pub socket: PathBuf,
    /// Its configuration.
    pub config: String,
    /// The process.
    pub process: Process,
    _directory: Directory,
}

impl Gateway {
    /// Starts a gateway.
    pub fn start(servers: &[Server]) -> io::Result<Self> {
        let directory = Directory::new("")?;
        let socket = directory.0.join("admin.sock");
        let address = free_address()?;
        let config = config(&socket, address, servers);
        let file = directory.0.join("lockgate.toml");
        fs::write(&file, &config)?;
        let mut command = Command::new(env::current_exe()?);
        command.arg("run").arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::start(&mut command)?;
        Ok(Self { address, socket, config, process, _directory: directory })
    }
}

/// An address that nobody has at present.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn config(socket: &Path, address: SocketAddr, servers: &[Server]) -> String {
    let backends: String = servers
        .iter()
        .map(|Server { name, port, .. }| {
            format!("\n[[pool.web.backend]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n")
        })
        .collect();
    format!(
        r#"[runtime]
state_dir = ""

[admin]
socket = {socket:?}
http = ""

[log]
level = "warn"

[[listener]]
name = "http"
bind = ["{address}"]
pool = "web"

[pool.web]
balance = "least_connections"

[pool.web.health]
type = "http"
path = "/healthz"
interval = "1s"
fast_interval = "200ms"
{backends}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_valid() {
        let servers = [Server::dead("web-1", 1_001), Server::dead("web-2", 1_002)];
        let text = config("/tmp/a \"b\"/admin.sock".as_ref(), ([127, 0, 0, 1], 1).into(), &servers);
        let plan = crate::config::parse("demo", &text).unwrap();
        assert_eq!(plan.pools[0].backends.len(), 2);
    }
}
