//! The proxies that are measured: where they are, how they are configured, how they start and end.
//!
//! `main` finds each [`Program`] once; each run starts it afresh as a [`Proxy`].

#![allow(unsafe_code, reason = "what a child does between fork and exec")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};
use std::{env, fmt, io, iter, thread};

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::floor;
use crate::machine::pin;
use crate::network::Network;
use crate::options::Options;
use crate::site::Plan;

mod config;

use config::{Files, Setup};

/// How long a proxy may take until it accepts connections.
const STARTUP: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Lockgate,
    Floor,
    Haproxy,
    HaproxySplice,
    Nginx,
    Envoy,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Lockgate, Self::Floor, Self::Haproxy, Self::HaproxySplice, Self::Nginx, Self::Envoy];

    fn name(self) -> &'static str {
        match self {
            Self::Lockgate => "lockgate",
            Self::Floor => "floor",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
        }
    }

    /// Whether the ratios may be against it.
    pub fn is_reference(self) -> bool {
        matches!(self, Self::Haproxy | Self::HaproxySplice)
    }

    /// Whether it can relay with so many threads or processes, and end TLS if it must. There,
    /// splicing is out of the question, and one HAProxy enough.
    pub fn can_have(self, workers: usize, tls: bool) -> bool {
        match self {
            Self::Floor => workers == 1 && !tls,
            Self::HaproxySplice => !tls,
            Self::Lockgate | Self::Haproxy | Self::Nginx | Self::Envoy => true,
        }
    }

    fn config(self, setup: &Setup<'_>) -> String {
        match self {
            Self::Lockgate => config::lockgate(setup),
            Self::Floor => config::floor(setup),
            Self::Haproxy => config::haproxy(false, setup),
            Self::HaproxySplice => config::haproxy(true, setup),
            Self::Nginx => config::nginx(setup),
            Self::Envoy => config::envoy(setup),
        }
    }

    fn arguments(self, config: &Path, workers: usize) -> Vec<OsString> {
        let workers = workers.to_string();
        let (before, after): (&[&str], &[&str]) = match self {
            Self::Lockgate => (&["run", "-c"], &[]),
            Self::Floor => (&[floor::ARGUMENT], &[]),
            Self::Haproxy | Self::HaproxySplice => (&["-db", "-f"], &[]),
            Self::Nginx => (&["-e", "stderr", "-c"], &[]),
            Self::Envoy => {
                (&["-c"], &["-l", "error", "--disable-hot-restart", "--concurrency", &workers])
            }
        };
        let mut arguments: Vec<OsString> = before.iter().map(OsString::from).collect();
        arguments.push(config.into());
        arguments.extend(after.iter().map(OsString::from));
        arguments
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| format!("no subject is called {name}"))
    }
}

/// A proxy that is installed.
pub struct Program {
    pub kind: Kind,
    /// Unique among the subjects.
    pub label: String,
    /// As it calls itself.
    pub version: String,
    path: PathBuf,
}

impl Program {
    /// Finds the binary and asks its version; an error says why it cannot be measured.
    pub fn find(kind: Kind, options: &Options) -> Result<Self, String> {
        let label = kind.to_string();
        let (path, flag) = match kind {
            Kind::Floor => {
                let path = env::current_exe().map_err(|error| error.to_string())?;
                return Ok(Self {
                    kind,
                    label,
                    version: "the least that a relay can be".to_owned(),
                    path,
                });
            }
            Kind::Lockgate => {
                let path = options.lockgate.clone();
                (path.ok_or("say where it is with --lockgate PATH")?, "--version")
            }
            Kind::Haproxy | Kind::HaproxySplice => (installed("haproxy")?, "-v"),
            Kind::Nginx => (installed("nginx")?, "-v"),
            Kind::Envoy => {
                let path = options.envoy.clone();
                (path.map_or_else(|| installed("envoy"), Ok)?, "--version")
            }
        };
        let output = Command::new(&path)
            .arg(flag)
            .output()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        // nginx answers on stderr.
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        let version = String::from_utf8_lossy(&text)
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or_default()
            .to_owned();
        // Envoy says how it was called, and then which it is.
        let version = version.rsplit_once(" version: ").map_or(&*version, |(_, it)| it).to_owned();
        Ok(Self { kind, label, version, path })
    }
}

/// Looks where root finds programs, even if it is not root who runs the rig.
fn installed(name: &str) -> Result<PathBuf, String> {
    let search = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&search)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// A running proxy; dropping it kills it.
pub struct Proxy {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Proxy {
    /// Starts it on the given cores, and returns when it accepts connections.
    pub fn start(
        program: &Program,
        backends: &[SocketAddr],
        plan: &Plan<'_>,
        network: &Network,
        cores: &[usize],
    ) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rig-").tempdir()?;
        let listen = network.listen()?;
        let config = directory.path().join("config.json");
        let tls = plan.tls.map(|tls| Files::write(directory.path(), tls)).transpose()?;
        let workers = plan.workers;
        let setup =
            Setup { directory: directory.path(), listen, backends, workers, tls: tls.as_ref() };
        fs::write(&config, program.kind.config(&setup))?;
        let log = File::create(directory.path().join("log"))?;

        let mut command = Command::new(&program.path);
        command
            .args(program.kind.arguments(&config, workers))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let namespace = network.namespace();
        let cores = cores.to_vec();
        // SAFETY: between fork and exec this makes system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                // Drop does not run if the rig is killed. This ends nginx's workers as well.
                set_pdeathsig(Signal::SIGTERM)?;
                if let Some(namespace) = namespace {
                    setns(BorrowedFd::borrow_raw(namespace), CloneFlags::CLONE_NEWNET)?;
                }
                pin(&cores)
            });
        }
        let mut proxy = Self { child: command.spawn()?, address: listen, directory };
        proxy.wait_until_ready()?;
        Ok(proxy)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its process and the children of that, where the workers are.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children.split_whitespace().map(|child| child.parse());
        iter::once(Ok(pid)).chain(children).collect::<Result<_, _>>().map_err(io::Error::other)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + STARTUP;
        loop {
            if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            let exited = self.child.try_wait()?;
            if exited.is_none() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            let fate = exited.map_or_else(
                || format!("no connection accepted within {STARTUP:?}"),
                |status| format!("ended at once ({status})"),
            );
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            return Err(io::Error::other(format!("{fate}; it said:\n{}", log.trim_end())));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // They fail only if it has ended already.
        if let Ok(pid) = self.pid().try_into() {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
