//! The commands. Each is a thin client of the control plane, of a running gateway, or of the
//! configuration.

mod check;
mod demo;
mod release;
mod status;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::control::{self, Failure, failover};
use crate::{admin, config};

/// Where the configuration is unless `-c` says otherwise.
const CONFIG: &str = "/etc/lockgate/lockgate.toml";

/// Exit codes, those of sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Usage = 64,
    Unavailable = 69,
    Software = 70,
    System = 71,
    NotPermitted = 77,
    Config = 78,
}

/// What went wrong with a command, and how the process ends for it.
#[derive(Debug)]
struct Error {
    exit: Exit,
    /// Ready to be shown.
    message: String,
}

impl Error {
    fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: format!("lockgate: {message}") }
    }

    fn of_system(what: impl Display, error: &io::Error) -> Self {
        Self::new(exit_of(error), format_args!("{what}: {error}"))
    }
}

/// A Layer-4 load balancer for a pair of gateways
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway in the foreground
    ///
    /// SIGTERM and SIGINT stop it: it accepts no more and waits up to runtime.drain_timeout for
    /// connections to end; a second one stops it at once. SIGHUP makes it read its configuration
    /// again; what is wrong with that is logged and changes nothing.
    Run(Source),
    /// Report every error of a configuration at once
    Check {
        #[command(flatten)]
        source: Source,
        /// Also try the machine: addresses, names, limits
        #[arg(long)]
        preflight: bool,
    },
    /// Show the whole product at work, with no configuration
    ///
    /// Starts servers and a gateway on loopback, sends requests through it, kills a server on
    /// the way, and tells what became of the requests. As root, goes on with a pair of gateways in
    /// network namespaces, and kills the one that has the floating address. Exits with 0 if no
    /// request of the first part failed and the address of the second part moved.
    Demo {
        /// How long
        #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=3600))]
        seconds: u64,
    },
    /// Show the running gateway: floating addresses, listeners, pools and backends
    Status {
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON, the same as GET /v1/status
        #[arg(long)]
        json: bool,
    },
    /// Remove floating addresses that a killed gateway left behind
    ///
    /// For systemd's ExecStopPost, and for hands: those of the instances in the configuration that a
    /// gateway had added. An address that somebody else added stays.
    ReleaseVip(Source),
    /// What sees to it that addresses end with the gateway that has them
    #[command(hide = true, name = failover::GUARD)]
    VipGuard,
    /// A server of the demo: answers HTTP requests until its standard input ends
    #[command(hide = true)]
    DemoServer {
        /// What it calls itself
        name: String,
        /// Where it listens; 0 = anywhere
        port: u16,
        /// And at which address
        #[arg(default_value = "127.0.0.1")]
        address: IpAddr,
    },
}

/// Which configuration.
#[derive(Args)]
struct Source {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Which [node.*] of the configuration this host is; by default LOCKGATE_NODE says so, its host
    /// name, or an address of its own
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Which running gateway.
#[derive(Args)]
struct Gateway {
    /// Configuration file, for its admin.socket
    #[arg(short, long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// The gateway's admin socket, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let command = std::env::args().nth(1).unwrap_or_default();
            // A reader that went away needs no help.
            let _ = if TO_COME.contains(&command.as_str()) {
                writeln!(io::stderr(), "lockgate: '{command}' is not supported yet")
            } else {
                error.print()
            };
            let helped = !error.use_stderr();
            return if helped { ExitCode::SUCCESS } else { ExitCode::from(Exit::Usage as u8) };
        }
    };
    let done = match cli.command {
        Command::Run(source) => run(&source),
        Command::Check { source, preflight } => check::check(&source, preflight),
        Command::Demo { seconds } => demo::demo(Duration::from_secs(seconds)),
        Command::Status { gateway, json } => status::status(&gateway, json),
        Command::ReleaseVip(source) => release::release(&source),
        Command::VipGuard => return lockgate_vrrp::linux::guard_main(),
        Command::DemoServer { name, port, address } => demo::server::serve(&name, port, address),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}", error.message.trim_end());
            ExitCode::from(error.exit as u8)
        }
    }
}

/// Commands that a later version will have.
const TO_COME: [&str; 10] = [
    "top", "reload", "drain", "enable", "disable", "weight", "upgrade", "handover", "explain",
    "import",
];

fn run(source: &Source) -> Result<(), Error> {
    control::run(&source.config, source.node.as_deref()).map_err(Error::from)
}

impl Gateway {
    /// Where the gateway listens.
    fn socket(&self) -> Result<PathBuf, Error> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let loaded = match config::load(&self.config) {
            // Without a file at the usual place, the gateway is where it is by default.
            Err(config::Error::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound && self.config == Path::new(CONFIG) =>
            {
                return Ok(PathBuf::from(config::plan::ADMIN_SOCKET));
            }
            loaded => loaded,
        };
        let plan = loaded.map_err(|error| {
            let mut error = Error::from(Failure::from(error));
            error
                .message
                .push_str("\nlockgate: --socket PATH asks the gateway whatever the file says");
            error
        })?;
        plan.admin.socket.ok_or_else(|| {
            Error::new(Exit::Config, format_args!("{}: admin.socket is off", self.config.display()))
        })
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Config(config::Error::Invalid(report)) => {
                let color = io::IsTerminal::is_terminal(&io::stderr());
                Self { exit: Exit::Config, message: report.render(color) }
            }
            Failure::Config(config::Error::Unreadable { ref source, .. }) => {
                let exit = match source.kind() {
                    io::ErrorKind::PermissionDenied => Exit::NotPermitted,
                    _ => Exit::Config,
                };
                Self::new(exit, failure)
            }
            Failure::Material(_) | Failure::Node(_) => Self::new(Exit::Config, failure),
            Failure::System { ref source, .. } => Self::new(exit_of(source), &failure),
        }
    }
}

impl From<admin::client::Error> for Error {
    fn from(error: admin::client::Error) -> Self {
        let exit = match error {
            admin::client::Error::Unreachable { .. } => Exit::Unavailable,
            admin::client::Error::NotPermitted { .. } => Exit::NotPermitted,
            admin::client::Error::Refused { .. } => Exit::Software,
        };
        Self::new(exit, error)
    }
}

fn exit_of(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NotPermitted,
        _ => Exit::System,
    }
}

/// Prints to standard output; a reader that goes away ends nothing but the printing.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::of_system("cannot print", &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A runtime for commands that ask or try something.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::of_system("cannot make an event queue", &error))
}
