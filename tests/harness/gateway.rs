//! The real binary as a child process.

mod upgrading;
mod usage;

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, eventually, fetch, until};

/// The binary that is tested.
pub fn lockgate() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lockgate"))
}

/// Runs a command to its end.
///
/// # Panics
///
/// If it does not end.
pub fn output_of(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let (stdout, out) = collect(child.stdout.take().unwrap());
    let (stderr, err) = collect(child.stderr.take().unwrap());
    let status = wait(&mut child).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{command:?} does not end");
    });
    out.join().unwrap();
    err.join().unwrap();
    let taken = |text: &Text| std::mem::take(&mut *text.lock().unwrap());
    Output { status, stdout: taken(&stdout), stderr: taken(&stderr) }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    // The demo, say, runs for a while by design.
    let give_up = Instant::now() + 2 * PATIENCE;
    while Instant::now() < give_up {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

type Text = Arc<Mutex<Vec<u8>>>;

fn collect(mut from: impl Read + Send + 'static) -> (Text, JoinHandle<()>) {
    let text = Text::default();
    let collected = Arc::clone(&text);
    let thread = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(received @ 1..) = from.read(&mut buffer) {
            collected.lock().unwrap().extend_from_slice(&buffer[..received]);
        }
    });
    (text, thread)
}

/// How a gateway is started.
pub struct Launch {
    config: String,
    http: Option<SocketAddr>,
    format: &'static str,
    log: String,
    under: Vec<String>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    descriptors: Vec<OwnedFd>,
    read_records: bool,
}

impl Launch {
    /// With this configuration, which must leave `[admin]` and `[log]` alone.
    pub fn new(config: impl ToString) -> Self {
        Self {
            config: config.to_string(),
            http: None,
            format: "json",
            log: String::new(),
            under: Vec::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
            descriptors: Vec::new(),
            read_records: true,
        }
    }

    /// With a variable in its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a descriptor: the first one is 3, and so on.
    pub fn descriptor(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.descriptors.push(fd.into());
        self
    }

    /// With the admin server on TCP as well.
    pub fn http(mut self, address: SocketAddr) -> Self {
        self.http = Some(address);
        self
    }

    /// With events and records as text.
    pub fn text(mut self) -> Self {
        self.format = "text";
        self
    }

    /// With lines of `[log]`, each a whole key: `log.file = "..."`.
    pub fn log(mut self, lines: &str) -> Self {
        self.log = lines.to_owned();
        self
    }

    /// By a command that replaces itself with the gateway, as `prlimit` does.
    pub fn under(mut self, command: &[&str]) -> Self {
        self.under.extend(command.iter().copied().map(str::to_owned));
        self
    }

    /// With further arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().copied().map(str::to_owned));
        self
    }

    /// With nobody reading its standard output.
    pub fn records_unread(mut self) -> Self {
        self.read_records = false;
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Gateway {
        let mut gateway = self.start_unready();
        gateway.answers("/readyz", 200);
        gateway
    }

    /// Starts it and waits until it answers, ready or not.
    pub fn start_unready(self) -> Gateway {
        let directory = TempDir::with_prefix("lockgate-").unwrap();
        let preamble = format!(
            "admin.socket = {:?}\nadmin.http = \"{}\"\nlog.format = \"{}\"\n{}\n",
            directory.path().join("admin.sock"),
            self.http.map(|address| address.to_string()).unwrap_or_default(),
            self.format,
            self.log,
        );
        let config = directory.path().join("lockgate.toml");
        fs::write(&config, complete(&preamble, directory.path(), &self.config)).unwrap();
        // A name of its own for the program, so that another can be put in its place.
        let binary = directory.path().join("lockgate");
        fs::hard_link(lockgate(), &binary)
            .or_else(|_other_device| fs::copy(lockgate(), &binary).map(drop))
            .unwrap();
        let mut command = match self.under.split_first() {
            None => Command::new(&binary),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&binary);
                command
            }
        };
        command.args(["run", "-c"]).arg(&config).args(&self.arguments).envs(self.variables);
        let mappings = (3..).zip(self.descriptors);
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).unwrap();
        let mut gateway = Gateway {
            process: Process::start(command, config, self.read_records),
            directory,
            preamble,
            under: self.under,
        };
        gateway.answers("/healthz", 200);
        gateway
    }
}

/// A configuration with the part that tests leave alone. Each gateway has a state of its own.
fn complete(preamble: &str, directory: &Path, config: &str) -> String {
    let state = format!("state_dir = {:?}\n", directory.join("state"));
    if config.contains("state_dir") {
        format!("{preamble}{config}")
    } else if config.contains("[runtime]\n") {
        format!("{preamble}{}", config.replacen("[runtime]\n", &format!("[runtime]\n{state}"), 1))
    } else {
        format!("{preamble}runtime.{state}{config}")
    }
}

/// A child process and what it writes.
struct Process {
    child: Child,
    stdout: Text,
    stderr: Text,
    readers: Vec<JoinHandle<()>>,
    /// Processes that have taken over, the last one last.
    heirs: Vec<u32>,
    /// By what its processes are found.
    config: Option<PathBuf>,
}

/// Processes that run a gateway of this configuration, and not `lockgate top` or the like.
fn gateways_of(config: &Path) -> Vec<i32> {
    let config = config.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let runs_it = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let has = |argument: &[u8]| line.split(|byte| *byte == 0).any(|one| one == argument);
        !config.is_empty() && has(config) && has(b"run")
    };
    pids.filter(runs_it).collect()
}

impl Process {
    fn start(mut command: Command, config: PathBuf, read_records: bool) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stderr, reader) = collect(child.stderr.take().unwrap());
        let mut readers = vec![reader];
        let mut stdout = Text::default();
        if read_records {
            let reader;
            (stdout, reader) = collect(child.stdout.take().unwrap());
            readers.push(reader);
        }
        Self { child, stdout, stderr, readers, heirs: Vec::new(), config: Some(config) }
    }

    fn text(text: &Text) -> String {
        String::from_utf8_lossy(&text.lock().unwrap()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Those that took over, and one that is about to: they have its arguments.
        for pid in self.config.iter().flat_map(|config| gateways_of(config)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.readers.drain(..).for_each(|reader| drop(reader.join()));
            let (pid, text) = (self.child.id(), Self::text(&self.stderr));
            eprintln!("--- standard error of lockgate, process {pid}\n{text}---");
        }
    }
}

/// A running gateway; killed when dropped.
pub struct Gateway {
    process: Process,
    directory: TempDir,
    /// The part of the configuration that tests leave alone.
    preamble: String,
    /// What it was started by.
    under: Vec<String>,
}

impl Gateway {
    /// Starts one and waits until it is ready.
    pub fn start(config: impl ToString) -> Self {
        Launch::new(config).start()
    }

    /// Kills the process, and those that took over from it, and starts another with the same
    /// configuration where it was.
    pub fn start_again(mut self) -> Self {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
        for pid in gateways_of(&self.config_path()) {
            // One may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        eventually("they have ended", || gateways_of(&self.config_path()).is_empty());
        let mut words = self.under.iter().map(String::as_str).chain([lockgate().to_str().unwrap()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        command.args(["run", "-c"]).arg(self.config_path());
        // What is dropped then is not to end what has begun.
        self.process.config = None;
        self.process = Process::start(command, self.config_path(), true);
        self.answers("/readyz", 200);
        self
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("lockgate.toml")
    }

    /// Replaces the lines of [`Launch::log`], from the next reload on.
    pub fn change_log(&mut self, lines: &str) {
        let own = |line: &&str| line.starts_with("admin.") || line.starts_with("log.format");
        let kept: Vec<_> = self.preamble.lines().filter(own).collect();
        self.preamble = format!("{}\n{lines}\n", kept.join("\n"));
    }

    /// The process that serves: after upgrades, the last one.
    pub fn pid(&self) -> u32 {
        self.process.heirs.last().copied().unwrap_or_else(|| self.process.child.id())
    }

    /// Writes another configuration to the file, and nothing else.
    pub fn write_config(&self, config: impl ToString) {
        // Replaced as a whole, so that a half-written file is never read.
        let new = self.directory.path().join("new.toml");
        fs::write(&new, self.complete(config)).unwrap();
        fs::rename(&new, self.config_path()).unwrap();
    }

    fn answers(&mut self, path: &str, status: u16) {
        let give_up = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < give_up {
            if let Some(status) = self.process.child.try_wait().unwrap() {
                panic!("the gateway ended with {status} while starting:\n{}", self.stderr());
            }
            match self.request("GET", path) {
                Ok((found, _)) if found == status => return,
                answer => last = format!("{answer:?}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("{path} does not answer {status}; last: {last}");
    }

    /// Connects to the unix socket.
    pub fn connect_admin(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.directory.path().join("admin.sock"))
    }

    /// Asks over the unix socket.
    pub fn request(&self, method: &str, path: &str) -> io::Result<(u16, String)> {
        let stream = self.connect_admin()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        fetch(stream, method, path)
    }

    /// Gets what is expected to be there.
    pub fn get(&self, path: &str) -> String {
        let (status, body) = self.request("GET", path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// `GET /v1/status`
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.get("/v1/status")).unwrap()
    }

    /// What the status says of a backend of the pool `app`.
    pub fn backend(&self, name: &str) -> Value {
        let status = self.status();
        let pools = status["pools"].as_array().unwrap();
        let app = pools.iter().find(|pool| pool["name"] == "app").unwrap();
        let backends = app["backends"].as_array().unwrap();
        let found = backends.iter().find(|backend| backend["name"] == name);
        found.unwrap_or_else(|| panic!("no backend {name} in {status:#}")).clone()
    }

    /// Waits until a backend of the pool `app` is in a state. Returns what is said of it.
    #[track_caller]
    pub fn await_state(&self, backend: &str, state: &str) -> Value {
        until(&format!("backend {backend} becomes {state}"), || {
            let found = self.backend(backend);
            (found["state"] == state).then_some(found)
        })
    }

    /// The sum of all series of this name that have these labels.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.get("/metrics");
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let values: Vec<f64> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| {
                let (found, rest) = series.split_once('{').unwrap_or((series, ""));
                found == name && labels.iter().all(|label| rest.contains(label.as_str()))
            })
            .map(|(_, value)| value.parse().unwrap())
            .collect();
        assert!(!values.is_empty(), "no series {name} {labels:?} in:\n{text}");
        values.iter().sum()
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub fn await_idle(&self) {
        eventually("all connections have ended", || {
            self.metric("lockgate_connections_active", &[]) == 0.0
                && self.metric("lockgate_backend_connections_active", &[]) == 0.0
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Has it read a new configuration, and waits until it has. Returns whether it took it over.
    pub fn try_reload(&self, config: impl ToString) -> bool {
        let count =
            |result| self.metric("lockgate_config_reloads_total", &[("result", result)]) as u64;
        let before = (count("ok"), count("failed"));
        self.write_config(config);
        self.signal(Signal::SIGHUP);
        until("the configuration is read again", || {
            let now = (count("ok"), count("failed"));
            (now != before).then_some(now.0 > before.0)
        })
    }

    /// The text of a configuration file for it.
    pub fn complete(&self, config: impl ToString) -> String {
        complete(&self.preamble, self.directory.path(), &config.to_string())
    }

    /// Where it keeps what operators set.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Has it take over a new configuration.
    #[track_caller]
    pub fn reload(&self, config: impl ToString) {
        assert!(self.try_reload(config), "the reload was refused:\n{}", self.stderr());
    }

    /// Waits for its end. Its output is complete then.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait(&mut self.process.child).expect("the gateway ends");
        self.process.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.process.child.try_wait().unwrap().is_none()
    }

    /// Closes the end of the pipe from which nobody has read its records.
    pub fn close_stdout(&mut self) {
        drop(self.process.child.stdout.take());
    }

    /// What it has logged.
    pub fn stderr(&self) -> String {
        Process::text(&self.process.stderr)
    }

    /// Waits until it has logged something with this text in it.
    #[track_caller]
    pub fn await_log(&self, text: &str) {
        eventually(&format!("{text:?} is logged"), || self.stderr().contains(text));
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> String {
        Process::text(&self.process.stdout)
    }

    /// The access records so far.
    pub fn records(&self) -> Vec<Value> {
        let text = self.stdout();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// Waits for the access record of the connection that a client made from `client`.
    #[track_caller]
    pub fn record_of(&self, client: SocketAddr) -> Value {
        until(&format!("the record of {client}"), || {
            self.records().into_iter().find(|record| {
                record["client"] == client.ip().to_string()
                    && record["client_port"] == client.port()
            })
        })
    }

    /// Waits for so many access records with this reason.
    #[track_caller]
    pub fn await_records(&self, count: usize, reason: &str) -> Vec<Value> {
        until(&format!("{count} records with the reason {reason}"), || {
            let mut records = self.records();
            records.retain(|record| record["reason"] == reason);
            (records.len() >= count).then_some(records)
        })
    }
}
