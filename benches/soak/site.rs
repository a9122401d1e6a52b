//! The gateway, what it is configured with, and how it is asked.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::backend::{Backend, PORTS};
use crate::client::Way;
use crate::harness::fetch;
use crate::harness::tls::{Authority, Files, Store, credulous};
use crate::ledger::Ledger;
use crate::network::{self, GATEWAY};
use crate::options::Options;
use crate::process::State;

/// What clients ask for.
pub const NAME: &str = "soak.example";

/// Where checked clients go to: TCP, TLS ended here, TLS on both sides, TLS passed through.
pub const LISTENERS: [&str; 4] = ["plain", "tls", "sealed", "passed"];

/// Where HTTP clients are sent to HTTPS.
pub const REDIRECT: &str = "redirect";

/// How many backends there are.
pub const BACKENDS: usize = 4;

/// Longest wait for what should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lines of the log that are kept.
const LINES: usize = 60;

/// A gateway and its backends.
pub struct Site {
    process: Mutex<Child>,
    /// Which process serves: not the first one any more, after an upgrade.
    pid: AtomicU64,
    readers: Mutex<Vec<JoinHandle<()>>>,
    log: Arc<Mutex<Vec<String>>>,
    records: Arc<AtomicU64>,
    pub backends: Vec<Mutex<Backend>>,
    store: Store,
    authority: Authority,
    pub files: Files,
    tls: Way,
    passed: Way,
}

/// How it ended.
pub struct End {
    pub summary: String,
    pub wrong: Vec<String>,
    pub log: String,
}

impl Site {
    /// Starts it and waits until it is ready.
    pub fn start(options: &Options, ledger: Arc<Ledger>) -> io::Result<Self> {
        let backends = start_backends()?.into_iter().map(Mutex::new).collect();
        let (store, authority) = (Store::new(), Authority::new("soak"));
        let files = store.put("soak", &authority.issue(&[NAME]));
        let config = store.path().join("lockgate.toml");
        let socket = store.path().join("admin.sock");
        fs::write(&config, text(&socket, &files, 0))?;
        // It ends with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&options.lockgate);
        command.args(["run", "-c"]).arg(&config).stdin(Stdio::null());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (log, records) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (kept, counted) = (Arc::clone(&log), Arc::clone(&records));
        let mut file = options.log.as_ref().map(fs::File::create).transpose()?;
        let (stderr, stdout) = (process.stderr.take().unwrap(), process.stdout.take().unwrap());
        let told = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(file) = &mut file {
                    let _ = writeln!(file, "{line}");
                }
                if line.contains("panicked") {
                    ledger.wrong(format!("it panicked: {line}"));
                }
                let mut kept = kept.lock().unwrap();
                if kept.len() == LINES {
                    kept.remove(0);
                }
                kept.push(line);
            }
        });
        let mut file = match &options.log {
            Some(log) => Some(fs::File::create(log.with_extension("records"))?),
            None => None,
        };
        let recorded = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(file) = &mut file {
                    let _ = writeln!(file, "{line}");
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let site = Self {
            pid: AtomicU64::new(process.id().into()),
            process: Mutex::new(process),
            readers: Mutex::new(vec![told, recorded]),
            log,
            records,
            backends,
            tls: Way::Tls(Arc::new(authority.client())),
            passed: Way::Tls(Arc::new(credulous(rustls::ALL_VERSIONS, &[]))),
            store,
            authority,
            files,
        };
        let ready = || site.ask("GET", "/readyz").is_ok_and(|(status, _)| status == 200);
        match site.until(PATIENCE, ready) {
            true => Ok(site),
            false => Err(io::Error::other(format!("it is not ready:\n{}", site.last_lines()))),
        }
    }

    /// How to get to a listener.
    pub fn way(&self, listener: &str) -> (SocketAddr, Way) {
        let way = match listener {
            "plain" | REDIRECT => Way::Plain,
            "passed" => self.passed.clone(),
            _ => self.tls.clone(),
        };
        (address(listener), way)
    }

    /// Which process serves.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed) as u32
    }

    /// Another process serves from now on.
    pub fn upgraded(&self, pid: u32) {
        self.pid.store(pid.into(), Ordering::Relaxed);
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.pid() as i32), signal)?)
    }

    /// Asks the admin socket.
    pub fn ask(&self, method: &str, path: &str) -> io::Result<(u16, String)> {
        fetch(self.connect_admin()?, method, path)
    }

    /// Asks with a body.
    pub fn post(&self, path: &str, body: &str) -> io::Result<(u16, String)> {
        let length = body.len();
        let mut stream = self.connect_admin()?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
        Ok((status.ok_or_else(|| io::Error::other(format!("no answer: {answer:?}")))?, body))
    }

    pub fn connect_admin(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(self.store.path().join("admin.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    pub fn status(&self) -> io::Result<Value> {
        let (status, body) = self.ask("GET", "/v1/status")?;
        match status {
            200 => serde_json::from_str(&body).map_err(io::Error::other),
            other => Err(io::Error::other(format!("/v1/status: {other} {body}"))),
        }
    }

    pub fn version(&self) -> String {
        let status = self.status().unwrap_or_default();
        status["version"].as_str().unwrap_or("?").to_owned()
    }

    /// The sum of the series whose line begins with this.
    pub fn metric(&self, series: &str) -> io::Result<u64> {
        let (_, text) = self.ask("GET", "/metrics")?;
        let values = text.lines().filter(|line| line.starts_with(series));
        let values = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        Ok(values.sum::<f64>() as u64)
    }

    pub fn config_path(&self) -> PathBuf {
        self.store.path().join("lockgate.toml")
    }

    /// A good configuration; a number tells it from others.
    pub fn config(&self, variant: u64) -> String {
        text(&self.store.path().join("admin.sock"), &self.files, variant)
    }

    /// Puts a configuration in the place of the present one, whatever that is.
    pub fn put_config(&self, text: &str) -> io::Result<()> {
        let new = self.store.path().join("new.toml");
        fs::write(&new, text)?;
        fs::rename(&new, self.config_path())
    }

    /// A new certificate, which is not in use yet.
    pub fn issue(&self) -> crate::harness::tls::Issued {
        self.authority.issue(&[NAME])
    }

    /// Whether `condition` comes to hold.
    pub fn until(&self, patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let give_up = Instant::now() + patience;
        while Instant::now() < give_up {
            if condition() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        condition()
    }

    /// Its size, so long after its last connection has ended: threads of the control plane that have
    /// nothing to do end after ten seconds.
    pub fn at_rest(&self, settle: Duration) -> io::Result<State> {
        // What a backend that has left the configuration had is not counted down in the metrics.
        let idle = || {
            self.status().is_ok_and(|status| {
                let listeners = status["listeners"].as_array();
                let pools = status["pools"].as_array().into_iter().flatten();
                let backends = pools.filter_map(|pool| pool["backends"].as_array()).flatten();
                let mut all = listeners.into_iter().flatten().chain(backends);
                all.all(|one| one["connections"] == 0)
            })
        };
        if !self.until(PATIENCE, idle) {
            let status = self.status()?;
            let text = format!("connections are left that nobody has any more: {status}");
            return Err(io::Error::other(text));
        }
        thread::sleep(settle);
        State::of(self.pid())
    }

    /// Stops it, and says what there is to say of its end.
    pub fn stop(&self) -> io::Result<End> {
        let accepted = self.metric("lockgate_connections_total")?;
        let dropped = self.metric("lockgate_log_dropped_total{log=\"records\"")?;
        self.signal(Signal::SIGTERM)?;
        let mut process = self.process.lock().unwrap();
        let mut status = None;
        self.until(PATIENCE, || {
            status = process.try_wait().ok().flatten();
            status.is_some()
        });
        let mut wrong = Vec::new();
        match status {
            Some(status) if status.success() => {
                for reader in self.readers.lock().unwrap().drain(..) {
                    let _ = reader.join();
                }
            }
            Some(status) => wrong.push(format!("the gateway ended with {status}")),
            None => wrong.push("the gateway does not end".to_owned()),
        }
        let records = self.records.load(Ordering::Relaxed);
        if records + dropped != accepted {
            wrong.push(format!("{records} records and {dropped} dropped of {accepted}"));
        }
        let summary = format!("{accepted} connections accepted, {records} access records");
        Ok(End { summary, wrong, log: self.last_lines() })
    }

    fn last_lines(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Both may have ended.
        if let Ok(process) = self.process.get_mut() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Starts all backends.
pub fn start_backends() -> io::Result<Vec<Backend>> {
    let start = |number| Backend::start(&format!("b{}", number + 1), network::backend(number));
    (0..BACKENDS).map(start).collect()
}

/// Where a listener is.
pub fn address(listener: &str) -> SocketAddr {
    let port = match LISTENERS.iter().position(|name| *name == listener) {
        Some(number) => 8443 + number as u16,
        None => 8080,
    };
    SocketAddr::new(GATEWAY.into(), port)
}

fn text(socket: &std::path::Path, files: &Files, variant: u64) -> String {
    let mut text =
        format!("admin = {{ socket = {socket:?}, http = \"\" }}\nlog.format = \"json\"\n");
    let idle = 600 + variant;
    for (listener, protocol) in LISTENERS.iter().zip(["tcp", "tls", "tls", "tls_passthrough"]) {
        let (bind, pool) = (address(listener), if *listener == "tls" { "plain" } else { listener });
        text += &format!(
            "[[listener]]\nname = \"{listener}\"\nbind = \"{bind}\"\nprotocol = \"{protocol}\"\n\
             pool = \"{pool}\"\nidle_timeout = \"{idle}s\"\nclient_timeout = \"15s\"\n"
        );
        if protocol == "tls" {
            let Files { cert, key } = files;
            text +=
                &format!("[listener.tls]\ncertificates = [{{ cert = {cert:?}, key = {key:?} }}]\n");
        }
    }
    let bind = address(REDIRECT);
    text += &format!(
        "[[listener]]\nname = \"{REDIRECT}\"\nbind = \"{bind}\"\nprotocol = \"redirect\"\n"
    );
    let check = PORTS[2];
    for (pool, port, balance) in [
        ("plain", PORTS[0], "least_connections"),
        ("sealed", PORTS[1], "weighted_round_robin"),
        ("passed", PORTS[1], "random"),
    ] {
        text += &format!(
            "[pool.{pool}]\nbalance = \"{balance}\"\nretries = 3\nconnect_timeout = \"1s\"\n\
             all_down = \"try_all\"\npassive = {{ max_fails = 5, window = \"5s\", eject_for = \"1s\" }}\n\
             [pool.{pool}.health]\ntype = \"http\"\nport = {check}\ninterval = \"500ms\"\n\
             fast_interval = \"100ms\"\ntimeout = \"2s\"\nrise = 1\nfall = 2\n"
        );
        if pool == "sealed" {
            text += "[pool.sealed.tls]\nverify = false\n";
        }
        for number in 0..BACKENDS {
            let (ip, weight) = (network::backend(number), 100 + (variant as usize + number) % 7);
            // Every other configuration has one less.
            if variant % 2 == 1 && number == BACKENDS - 1 {
                continue;
            }
            text += &format!(
                "[[pool.{pool}.backend]]\nname = \"b{}\"\naddress = \"{ip}:{port}\"\n\
                 weight = {weight}\n",
                number + 1
            );
        }
    }
    text
}
