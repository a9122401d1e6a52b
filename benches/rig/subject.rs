//! The proxies that are measured: where they are, how they are configured, how they start and end.
//!
//! `main` finds each [`Program`] once; each run starts it afresh as a [`Proxy`].

#![allow(unsafe_code, reason = "what a child does between fork and exec")]

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::floor;
use crate::machine::pin;

/// Where proxies listen. Connections to the backends have 127.0.0.1 as their source, so on this
/// address none of them can take the port of a listener, although both are ephemeral.
const LISTEN: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

/// How long a proxy may take until it accepts connections.
const STARTUP: Duration = Duration::from_secs(10);

/// Debian builds nginx's stream module as a loadable one; others build it in.
const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Lockgate,
    Floor,
    Haproxy,
    HaproxySplice,
    Nginx,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Lockgate, Self::Floor, Self::Haproxy, Self::HaproxySplice, Self::Nginx];

    fn name(self) -> &'static str {
        match self {
            Self::Lockgate => "lockgate",
            Self::Floor => "floor",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Nginx => "nginx",
        }
    }

    /// Whether the ratios may be against it.
    pub fn is_reference(self) -> bool {
        matches!(self, Self::Haproxy | Self::HaproxySplice)
    }

    fn config(self, directory: &Path, listen: SocketAddr, backends: &[SocketAddr]) -> String {
        match self {
            Self::Lockgate => lockgate_config(directory, listen, backends),
            Self::Floor => floor_config(listen, backends),
            Self::Haproxy => haproxy_config(false, listen, backends),
            Self::HaproxySplice => haproxy_config(true, listen, backends),
            Self::Nginx => nginx_config(directory, listen, backends),
        }
    }

    fn arguments(self, config: &Path) -> Vec<&OsStr> {
        let config = config.as_os_str();
        match self {
            Self::Lockgate => vec!["run".as_ref(), "-c".as_ref(), config],
            Self::Floor => vec![floor::ARGUMENT.as_ref(), config],
            Self::Haproxy | Self::HaproxySplice => vec!["-db".as_ref(), "-f".as_ref(), config],
            Self::Nginx => vec!["-e".as_ref(), "stderr".as_ref(), "-c".as_ref(), config],
        }
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

fn lockgate_config(directory: &Path, listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let mut config = format!(
        "[runtime]\n\
         workers = 1\n\
         pin = false\n\
         [admin]\n\
         socket = \"{}/admin.sock\"\n\
         http = \"\"\n\
         [log]\n\
         level = \"warn\"\n\
         access = false\n\
         [[listener]]\n\
         name = \"rig\"\n\
         bind = [\"{listen}\"]\n\
         pool = \"rig\"\n\
         [pool.rig]\n",
        directory.display()
    );
    for backend in backends {
        let _ = write!(config, "[[pool.rig.backend]]\naddress = \"{backend}\"\n");
    }
    config
}

fn floor_config(listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let mut config = format!("{listen}\n");
    for backend in backends {
        let _ = writeln!(config, "{backend}");
    }
    config
}

fn haproxy_config(splice: bool, listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let (pipes, options) = if splice {
        ("tune.pipesize 1048576\n", "option splice-request\noption splice-response\n")
    } else {
        ("", "")
    };
    // `strict-limits` would refuse to start where this process may not open two files per
    // connection of `maxconn`. The rig opens far fewer.
    let mut config = format!(
        "global\n\
         nbthread 1\n\
         maxconn 10000\n\
         no strict-limits\n\
         {pipes}\
         defaults\n\
         mode tcp\n\
         timeout connect 5s\n\
         timeout client 1h\n\
         timeout server 1h\n\
         {options}\
         listen rig\n\
         bind {listen}\n\
         balance roundrobin\n"
    );
    for (index, backend) in backends.iter().enumerate() {
        let _ = writeln!(config, "server backend{index} {backend}");
    }
    config
}

fn nginx_config(directory: &Path, listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let load = if Path::new(NGINX_STREAM_MODULE).exists() {
        format!("load_module {NGINX_STREAM_MODULE};\n")
    } else {
        String::new()
    };
    // Without a master, the process that is started is the one that works.
    let mut config = format!(
        "{load}\
         daemon off;\n\
         master_process off;\n\
         worker_processes 1;\n\
         error_log stderr warn;\n\
         pid {}/nginx.pid;\n\
         events {{ worker_connections 16384; }}\n\
         stream {{\n\
         server {{\n\
         listen {listen} backlog=4096;\n\
         proxy_pass rig;\n\
         proxy_buffer_size 16k;\n\
         proxy_connect_timeout 5s;\n\
         proxy_timeout 1h;\n\
         access_log off;\n\
         }}\n\
         upstream rig {{\n",
        directory.display()
    );
    for backend in backends {
        let _ = writeln!(config, "server {backend};");
    }
    config.push_str("}\n}\n");
    config
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
    pub fn find(kind: Kind, lockgate: Option<&Path>) -> Result<Self, String> {
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
                let path = lockgate.ok_or("say where it is with --lockgate PATH")?;
                (path.to_owned(), "--version")
            }
            Kind::Haproxy | Kind::HaproxySplice => (installed("haproxy")?, "-v"),
            Kind::Nginx => (installed("nginx")?, "-v"),
        };
        let output = Command::new(&path)
            .arg(flag)
            .output()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        // nginx answers on stderr.
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        let version = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
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
    /// Starts it on the given core, and returns when it accepts connections.
    pub fn start(program: &Program, backends: &[SocketAddr], core: usize) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rig-").tempdir()?;
        let address = TcpListener::bind((LISTEN, 0))?.local_addr()?;
        let config = directory.path().join("config");
        fs::write(&config, program.kind.config(directory.path(), address, backends))?;
        let log = File::create(directory.path().join("log"))?;

        let mut command = Command::new(&program.path);
        command
            .args(program.kind.arguments(&config))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: between fork and exec this makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                // Drop does not run if the rig is killed.
                set_pdeathsig(Signal::SIGKILL)?;
                pin(core)
            });
        }
        let mut proxy = Self { child: command.spawn()?, address, directory };
        proxy.wait_until_ready()?;
        Ok(proxy)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
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
        // Either fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
