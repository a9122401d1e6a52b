//! What people run behind the gateway, for real: the examples of config/examples, with the servers
//! that their READMEs name, real certificates of a test's authority, and real clients.
//!
//! Each has a network namespace of its own, in which all of it listens at the addresses and ports that
//! the example says. Only paths are others: what is in /etc and /var/www is in the test's directory.

mod chat;
mod gateway_pair;
mod site;
mod socket_api;
mod webhook;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::lab::Namespace;
use crate::harness::tls::{Authority, Issued};
use crate::harness::{Gateway, Launch, eventually, output_of};

/// A host with an example on it.
struct Host {
    namespace: Namespace,
    /// A copy of the example's folder.
    folder: PathBuf,
    directory: TempDir,
    authority: Authority,
}

impl Host {
    fn new(example: &str) -> Self {
        let directory = TempDir::with_prefix("lockgate-system-").unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(example);
        let folder = directory.path().join("example");
        copy(&from, &folder);
        let authority = Authority::new("test");
        let host = Self { namespace: Namespace::new("host"), folder, directory, authority };
        fs::write(host.path("ca.pem"), host.authority.pem()).unwrap();
        fs::create_dir_all(host.path("www/.well-known/acme-challenge")).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a certificate where Certbot has it: links in `live` to files in `archive`. Once more for the
    /// same name is a renewal.
    fn certify(&self, name: &str, issued: &Issued) {
        let (live, archive) = (self.path("live").join(name), self.path("archive").join(name));
        fs::create_dir_all(&live).unwrap();
        fs::create_dir_all(&archive).unwrap();
        let number = fs::read_dir(&archive).unwrap().count() / 2 + 1;
        for (file, text) in [("fullchain", &issued.certificate), ("privkey", &issued.key)] {
            let kept = archive.join(format!("{file}{number}.pem"));
            fs::write(&kept, text).unwrap();
            make_private(&kept);
            let (link, new) = (live.join(format!("{file}.pem")), live.join(format!("{file}.new")));
            symlink(&kept, &new).unwrap();
            fs::rename(new, link).unwrap();
        }
    }

    /// The example's configuration, with the paths of this host.
    fn config(&self) -> String {
        let text = fs::read_to_string(self.folder.join("lockgate.toml")).unwrap();
        let there = |name: &str| self.path(name).to_str().unwrap().to_owned();
        text.replace("/etc/letsencrypt/live", &there("live"))
            .replace("/var/www/letsencrypt", &there("www"))
            .replace("/etc/lockgate/certs", &there("certs"))
    }

    /// Runs the gateway with the example's configuration until all of it is well.
    fn gateway(&self) -> Gateway {
        Launch::new(self.config()).under(&self.namespace.enter()).start()
    }

    /// Starts a program in the example's folder.
    fn start(&self, words: &[&str], environment: &[(&str, &str)]) -> Service {
        let log = self.path(&format!("{}.log", words[0].rsplit('/').next().unwrap()));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.command(words);
        command.envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // It may have children, which end with it.
        command.process_group(0);
        Service(command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}")))
    }

    fn command(&self, words: &[&str]) -> Command {
        let [program, arguments @ ..] = self.namespace.enter();
        let mut command = Command::new(program);
        command.args(arguments).args(words).current_dir(&self.folder);
        command
    }

    /// Runs a program in the example's folder to its end.
    fn run(&self, words: &[&str]) -> Output {
        output_of(&mut self.command(words))
    }

    /// What curl gets, if it gets anything: as a client of this name, on this host.
    fn curl(&self, url: &str, arguments: &[&str]) -> Result<String, String> {
        let name = url.split('/').nth(2).unwrap();
        let resolve = ["443", "80"].map(|port| format!("{name}:{port}:127.0.0.1"));
        let ca = self.path("ca.pem");
        let mut words = vec!["curl", "-sS", "-m", "20", "--cacert", ca.to_str().unwrap()];
        resolve.iter().for_each(|resolve| words.extend(["--resolve", resolve]));
        words.extend(arguments);
        words.push(url);
        let output = self.run(&words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The JSON that curl gets.
    #[track_caller]
    fn get(&self, url: &str) -> Value {
        let text = self.curl(url, &["--fail-with-body"]).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
    }

    /// Runs a client in Python, which is given the host's name and the authority's file. Returns what it
    /// prints.
    #[track_caller]
    fn client(&self, script: &str, arguments: &[&str]) -> String {
        let (python, file) = (python("python"), self.path("client.py"));
        fs::write(&file, script).unwrap();
        let ca = self.path("ca.pem");
        let mut words = vec![python.as_str(), file.to_str().unwrap(), ca.to_str().unwrap()];
        words.extend(arguments);
        let output = self.run(&words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until something listens.
    fn await_port(&self, port: u16) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually(&format!("something listens at {address}"), || {
            self.namespace.run(|| std::net::TcpStream::connect(address).is_ok())
        });
    }
}

/// A program of the environment that scripts/setup makes for the examples.
fn python(program: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin").join(program);
    assert!(path.exists(), "{}: scripts/setup installs what the examples run on", path.display());
    path.into_os_string().into_string().unwrap()
}

/// The state of a backend of the pool.
fn state(gateway: &Gateway, pool: &str, backend: &str) -> String {
    let status = gateway.status();
    let named = |list: &Value, name: &str| {
        let found = list.as_array().unwrap().iter().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {list:#}")).clone()
    };
    let backend = named(&named(&status["pools"], pool)["backends"], backend);
    backend["state"].as_str().unwrap().to_owned()
}

/// A program that ends with the test.
struct Service(Child);

impl Service {
    fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn make_private(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
