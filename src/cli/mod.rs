//! The commands. Each is a thin client of the control plane, of a running gateway, or of the
//! configuration.

mod change;
mod check;
mod demo;
mod explain;
mod generate;
mod import;
mod release;
mod reload;
mod status;
mod text;
mod top;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::admin::explanation::Question;
use crate::admin::order::{BackendChange, Handover, Wish};
use crate::control::{self, Failure, failover};
use crate::{config, sandbox};

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
        /// Also say what a reload would change in the running gateway
        #[arg(long)]
        diff: bool,
        /// The admin socket of the running gateway, for --diff; by default the file says where it is
        #[arg(long, value_name = "PATH", requires = "diff")]
        socket: Option<PathBuf>,
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
    /// Have the running gateway read its configuration again
    ///
    /// Prints what changed, or all that is wrong with the file; then the running configuration stays.
    Reload {
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON, the same as POST /v1/reload
        #[arg(long)]
        json: bool,
    },
    /// Send a backend no new connections, and let it run empty
    ///
    /// With --node the gateway as a whole is drained, before maintenance: /readyz says so, and the
    /// floating addresses go to the peer, if one is there. Connections that come here all the same are
    /// served. What is drained stays so, over restarts too, until it is enabled.
    Drain {
        /// POOL/BACKEND
        #[arg(required_unless_present = "node", conflicts_with = "node")]
        backend: Option<change::Target>,
        /// The gateway as a whole
        #[arg(long, conflicts_with_all = ["timeout", "wait"])]
        node: bool,
        /// Cut the connections that are left after this, each by a reset; without it they are waited
        /// for without an end
        #[arg(long, value_name = "60s")]
        timeout: Option<String>,
        /// Return when the last connection has ended
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Use a backend again that was drained or disabled; with --node, the gateway as a whole
    Enable {
        /// POOL/BACKEND
        #[arg(required_unless_present = "node", conflicts_with = "node")]
        backend: Option<change::Target>,
        /// The gateway as a whole: ends a drain and a handover
        #[arg(long)]
        node: bool,
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a backend out: no new connections; those that it has go on
    Disable {
        /// POOL/BACKEND
        backend: change::Target,
        /// Cut the connections that are left after this, each by a reset
        #[arg(long, value_name = "60s")]
        timeout: Option<String>,
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a backend another weight, until it is given the one of the file again
    Weight {
        /// POOL/BACKEND
        backend: change::Target,
        /// The weight, 0 to 65535; "file" = the one of the configuration
        #[arg(value_name = "N", value_parser = weight)]
        weight: Weight,
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give the floating addresses to the peer
    ///
    /// Waits until the peer has them, and then leaves them to it, whatever the priorities say: until
    /// --back, or until the peer goes away. If nobody takes them they stay, and the exit code is 69.
    Handover {
        /// End an earlier handover: from now on priorities decide again
        #[arg(long, conflicts_with = "force")]
        back: bool,
        /// Go on although nobody takes the addresses: they stay here until a peer does
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Have the binary that is on disk now take over from the running gateway
    ///
    /// The new process gets the listening sockets, the floating addresses and the counters; the old one
    /// serves its connections until they end, or until runtime.drain_timeout. If the new one does not
    /// come up, the old one goes on as if nothing had happened, and says why. SIGUSR2 does the same.
    Upgrade {
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON, the same as POST /v1/upgrade
        #[arg(long)]
        json: bool,
    },
    /// Say which rule, pool and backend a connection would get at this moment, and why
    ///
    /// Without a running gateway, the file alone says what it can.
    Explain {
        /// Name of the listener
        #[arg(long, value_name = "L")]
        listener: String,
        /// Address of the client
        #[arg(long, value_name = "IP")]
        client: Option<String>,
        /// The name that it asks for
        #[arg(long, value_name = "NAME")]
        sni: Option<String>,
        /// The application protocols that it offers, separated by commas
        #[arg(long, value_name = "P")]
        alpn: Option<String>,
        /// What it says first: tls, http, ssh, proxy, other or none, as in first_bytes of a route
        #[arg(long, value_name = "KIND")]
        first_bytes: Option<String>,
        #[command(flatten)]
        gateway: Gateway,
        /// As JSON, the same as GET /v1/explain
        #[arg(long)]
        json: bool,
    },
    /// Show the running gateway live, in the terminal
    ///
    /// Listeners and backends with their rates, sortable and filterable: press ? for the keys. While
    /// the gateway does not answer it says so, and goes on when it does again. --batch prints
    /// instead, for pipes and files.
    Top {
        #[command(flatten)]
        gateway: Gateway,
        #[command(flatten)]
        options: top::Options,
    },
    /// Write a configuration out of those of HAProxy, nginx and keepalived
    ///
    /// The result is valid; what could not be carried over is listed on standard error, by file and
    /// line, and at the top of the result. A listener whose rules about who is kept out could not be
    /// carried over is closed until somebody opens it.
    Import(import::Import),
    /// Remove floating addresses that a killed gateway left behind
    ///
    /// For systemd's ExecStopPost, and for hands: those of the instances in the configuration that a
    /// gateway had added. An address that somebody else added stays.
    ReleaseVip(Source),
    /// Print what a shell needs to complete commands
    ///
    /// For bash, `lockgate completions bash > /usr/share/bash-completion/completions/lockgate`.
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a directory
    #[command(hide = true)]
    Man {
        /// Which; it is made
        directory: PathBuf,
    },
    /// What sees to it that addresses end with the gateway that has them
    #[command(hide = true, name = failover::GUARD)]
    VipGuard {
        /// runtime.sandbox of the gateway
        #[arg(value_parser = |word: &str| sandbox::Mode::parse(word).ok_or("on, log or off"))]
        sandbox: sandbox::Mode,
    },
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
            // A reader that went away needs no help.
            let _ = error.print();
            let helped = !error.use_stderr();
            return if helped { ExitCode::SUCCESS } else { ExitCode::from(Exit::Usage as u8) };
        }
    };
    let done = match cli.command {
        Command::Run(source) => run(&source),
        Command::Check { source, preflight, diff, socket } => check::check(&source, preflight)
            .and_then(|()| match diff {
                false => Ok(()),
                true => {
                    let gateway = Gateway { config: source.config.clone(), socket };
                    gateway.socket().and_then(|socket| reload::difference(&source.config, &socket))
                }
            }),
        Command::Demo { seconds } => demo::demo(Duration::from_secs(seconds)),
        Command::Status { gateway, json } => status::status(&gateway, json),
        Command::Reload { gateway, json } => reload::reload(&gateway, json),
        Command::Drain { backend, timeout, wait, gateway, json, node: _ } => {
            let change = BackendChange { state: Some(Wish::Draining), weight: None, timeout };
            match backend {
                None => change::node(&gateway, true, json),
                Some(target) => change::backend(&gateway, &target, &change, wait, json),
            }
        }
        Command::Enable { backend, gateway, json, node: _ } => {
            let change = BackendChange { state: Some(Wish::Enabled), weight: None, timeout: None };
            match backend {
                None => change::node(&gateway, false, json),
                Some(target) => change::backend(&gateway, &target, &change, false, json),
            }
        }
        Command::Disable { backend, timeout, gateway, json } => {
            let change = BackendChange { state: Some(Wish::Disabled), weight: None, timeout };
            change::backend(&gateway, &backend, &change, false, json)
        }
        Command::Weight { backend, weight: Weight(weight), gateway, json } => {
            let change = BackendChange { state: None, weight: Some(weight), timeout: None };
            change::backend(&gateway, &backend, &change, false, json)
        }
        Command::Handover { back, force, gateway, json } => {
            change::handover(&gateway, Handover { back, force }, json)
        }
        Command::Upgrade { gateway, json } => change::upgrade(&gateway, json),
        Command::Explain { listener, client, sni, alpn, first_bytes, gateway, json } => {
            let question = Question { listener, client, sni, alpn, first_bytes };
            explain::explain(&gateway, &question, json)
        }
        Command::Top { gateway, options } => top::top(&gateway, options),
        Command::Import(wish) => import::import(&wish),
        Command::ReleaseVip(source) => release::release(&source),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { directory } => generate::manual(&directory),
        Command::VipGuard { sandbox } => return guard(sandbox),
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

fn guard(mode: sandbox::Mode) -> ExitCode {
    // A guard with too many privileges is better than none.
    let confined = sandbox::begin_as(sandbox::Role::Guard, mode);
    if let Err(error) = confined {
        let _ = writeln!(io::stderr(), "lockgate: the guard keeps its privileges: {error}");
    }
    lockgate_vrrp::linux::guard_main()
}

/// A weight as it is written on the command line; `None` = that of the file.
#[derive(Clone, Copy, Debug)]
struct Weight(Option<u16>);

fn weight(text: &str) -> Result<Weight, String> {
    match text {
        "file" => Ok(Weight(None)),
        number => number
            .parse()
            .map(|weight| Weight(Some(weight)))
            .map_err(|_| "write a number from 0 to 65535, or \"file\"".to_owned()),
    }
}

fn run(source: &Source) -> Result<(), Error> {
    control::run(&source.config, source.node.as_deref()).map_err(Error::from)
}

impl Gateway {
    /// Where the gateway listens, although the file may be wrong: the gateway is to say how. If the
    /// file does not say where it is, it is where it is by default.
    fn socket_whatever_the_file_says(&self) -> Result<PathBuf, Error> {
        if self.socket.is_some() {
            return self.socket();
        }
        match config::load(&self.config) {
            Err(config::Error::Invalid(_)) => {
                let written = config::admin_socket(&self.config);
                Ok(written.unwrap_or_else(|| PathBuf::from(config::plan::ADMIN_SOCKET)))
            }
            _ => self.socket(),
        }
    }

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
