//! `lockgate import`: what becomes of the configurations of HAProxy, nginx and keepalived, and
//! whether a gateway runs on it.

mod beside;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::tls::{Authority, visit_tls};
use crate::harness::{Gateway, Server, lockgate, output_of, unused_address, visit, visit_from};

/// Configurations in a directory of their own, with the files that they name.
struct Sources {
    directory: TempDir,
    authority: Authority,
}

impl Sources {
    fn new() -> Self {
        let this = Self {
            directory: TempDir::with_prefix("lockgate-").unwrap(),
            authority: Authority::new("authority"),
        };
        let certs = this.path("certs");
        fs::create_dir(&certs).unwrap();
        fs::create_dir(this.path("stream.d")).unwrap();
        let issued = this.authority.issue(&["www.example.com", "admin.example.com"]);
        let (cert, key) = (issued.certificate, issued.key);
        fs::write(certs.join("site.key"), &key).unwrap();
        // HAProxy has both in one file.
        fs::write(certs.join("site.pem"), format!("{cert}{key}")).unwrap();
        for name in ["clients.pem", "backends.pem"] {
            fs::write(certs.join(name), this.authority.pem()).unwrap();
        }
        fs::write(this.path("names.map"), "a.example.com brokers\nb.example.com legacy\n").unwrap();
        fs::write(this.path("503.http"), "HTTP/1.0 503 Service Unavailable\r\n\r\n").unwrap();
        for name in ["mime.types", "htpasswd"] {
            fs::write(this.path(name), "").unwrap();
        }
        for (directory, name) in corpus() {
            this.put(&format!("{directory}{name}"), &[]);
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a configuration, with other addresses, and files where this test has them.
    fn put(&self, name: &str, addresses: &[(&str, SocketAddr)]) -> PathBuf {
        let here = self.directory.path().display().to_string();
        let mut text = fs::read_to_string(root().join(name)).unwrap();
        for (there, files) in [
            ("/etc/haproxy/certs", format!("{here}/certs")),
            ("/etc/haproxy/ca", format!("{here}/certs")),
            ("/etc/haproxy/errors", here.clone()),
            ("/etc/haproxy/names.map", format!("{here}/names.map")),
            ("/var/log/nginx", here.clone()),
            ("/run/nginx.pid", format!("{here}/nginx.pid")),
        ] {
            text = text.replace(there, &files);
        }
        for (old, new) in addresses {
            assert!(text.contains(old), "{name} has no {old}");
            text = text.replace(old, &new.to_string());
        }
        // Only programs that are there can be told of changes.
        text = text.replace("/usr/local/bin/state-changed", "/bin/true");
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/import")
}

/// Directories, with their slash, and names of configurations.
fn corpus() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for directory in ["", "stream.d/"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_file() && !name.ends_with(".notes") {
                found.insert((directory.to_owned(), name));
            }
        }
    }
    found
}

fn kind(name: &str) -> &str {
    name.split('-').next().unwrap()
}

fn import(arguments: &[&str]) -> Output {
    output_of(Command::new(lockgate()).arg("import").args(arguments))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The configuration that becomes of these files.
#[track_caller]
fn imported(files: &[&Path]) -> String {
    let mut command = Command::new(lockgate());
    command.arg("import");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy();
        command.arg(format!("--{}", kind(&name))).arg(file);
    }
    let output = output_of(&mut command);
    assert!(output.status.success(), "{files:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn what_is_imported_passes_the_check() {
    let sources = Sources::new();
    let all = corpus();
    let main: Vec<&String> =
        all.iter().filter(|(directory, _)| directory.is_empty()).map(|(_, name)| name).collect();
    assert!(main.len() >= 12, "{main:?}");
    for name in main {
        let target = sources.path("lockgate.toml");
        fs::write(&target, imported(&[&sources.path(name)])).unwrap();
        let check = output_of(Command::new(lockgate()).args(["check", "-c"]).arg(&target));
        let said = format!("{}{}", text(&check.stdout), text(&check.stderr));
        assert!(check.status.success(), "{name}: {said}\n{}", fs::read_to_string(&target).unwrap());
    }
}

/// Those whose configurations these are take them as well.
#[test]
fn the_programs_themselves_take_the_configurations_of_the_tests() {
    let sources = Sources::new();
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    for (directory, name) in corpus() {
        let file = sources.path(&name);
        let mut command = match kind(&name) {
            _ if !directory.is_empty() => continue,
            "haproxy" => {
                let mut command = Command::new("haproxy");
                command.arg("-c").arg("-f").arg(&file);
                command
            }
            "nginx" => {
                let has_pid = fs::read_to_string(&file).unwrap().contains("pid ");
                let pid = format!("pid {};", sources.path("nginx.pid").display());
                let pid = if has_pid { "" } else { &pid };
                let mut command = Command::new("nginx");
                command.args(["-t", "-q", "-g", &format!("load_module {module}; {pid}"), "-p"]);
                command.arg(sources.directory.path()).arg("-c").arg(&file);
                command
            }
            _ => {
                let mut command = Command::new("keepalived");
                command.args(["-t", "-l", "-f"]).arg(&file);
                command
            }
        };
        let output = output_of(&mut command);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        if kind(&name) == "keepalived" {
            // The interfaces are those of another host, and ports of UDP are its own affair.
            let known = ["doesn't exist", "Non-existent interface", "ports don't match"];
            let of_other = |line: &&str| !known.iter().any(|known| line.contains(known));
            let wrong: Vec<&str> =
                said.lines().filter(|l| !l.trim().is_empty()).filter(of_other).collect();
            assert!(wrong.is_empty(), "{name}: {said}");
        } else {
            assert!(output.status.success(), "{name}: {said}");
        }
    }
}

/// Visits until each of the servers has answered.
#[track_caller]
fn all_answer(to: SocketAddr, expected: &[&str]) {
    let mut answered = BTreeSet::new();
    for _ in 0..expected.len() * 20 {
        answered.insert(visit(to).unwrap());
    }
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(answered, expected);
}

#[test]
fn a_gateway_runs_on_what_was_haproxys() {
    let sources = Sources::new();
    let (one, two) = (Server::named("one"), Server::named("two"));
    let front = unused_address();
    let file = sources.put(
        "haproxy-minimal.cfg",
        &[
            ("127.0.0.1:8080", front),
            ("127.0.0.1:9001", one.address()),
            ("127.0.0.1:9002", two.address()),
        ],
    );
    let _gateway = Gateway::start(imported(&[&file]));
    all_answer(front, &["one", "two"]);
}

#[test]
fn a_gateway_runs_on_what_was_nginxs() {
    let sources = Sources::new();
    let (one, two) = (Server::named("one"), Server::named("two"));
    let front = unused_address();
    sources.put(
        "stream.d/10-web.conf",
        &[
            ("127.0.0.1:8080", front),
            ("127.0.0.1:9001", one.address()),
            ("127.0.0.1:9002", two.address()),
        ],
    );
    let _gateway = Gateway::start(imported(&[&sources.path("nginx-included.conf")]));
    all_answer(front, &["one", "two"]);
}

#[test]
fn who_was_kept_out_is_kept_out() {
    let directory = TempDir::with_prefix("lockgate-").unwrap();
    let server = Server::named("inside");
    let (listed, closed) = (unused_address(), unused_address());
    let file = directory.path().join("haproxy-access.cfg");
    let config = format!(
        "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 30s\n    \
         timeout server 30s\n\
         frontend listed\n    bind {listed}\n    acl office src 127.0.0.8/29\n    \
         acl banned src 127.0.0.9\n    tcp-request connection reject if banned\n    \
         tcp-request connection accept if office\n    tcp-request connection reject\n    \
         default_backend inside\n\
         frontend closed\n    bind {closed}\n    \
         tcp-request content reject if {{ req.payload(0,1) -m bin 00 }}\n    \
         default_backend inside\n\
         backend inside\n    server inside {}\n",
        server.address()
    );
    fs::write(&file, config).unwrap();
    let _gateway = Gateway::start(imported(&[&file]));
    let from = |last: u8, to: SocketAddr| visit_from([127, 0, 0, last].into(), to).ok();
    assert_eq!(from(8, listed).as_deref(), Some("inside"));
    assert_eq!(from(9, listed), None);
    assert_eq!(from(20, listed), None);
    // lockgate cannot look at what clients say, so nobody comes in until somebody says so.
    assert_eq!(from(8, closed), None);
}

#[test]
fn names_in_tls_lead_where_they_led() {
    let sources = Sources::new();
    let servers = ["app1", "app2", "spare", "admin1", "static1", "certbot"].map(Server::named);
    let (http, https) = (unused_address(), unused_address());
    let file = sources.put(
        "haproxy-web.cfg",
        &[
            ("127.0.0.1:8080", http),
            ("127.0.0.1:8443", https),
            ("127.0.0.1:9001", servers[0].address()),
            ("127.0.0.1:9002", servers[1].address()),
            ("127.0.0.1:9003", servers[2].address()),
            ("127.0.0.1:9011", servers[3].address()),
            ("127.0.0.1:9021", servers[4].address()),
            ("127.0.0.1:9031", servers[5].address()),
        ],
    );
    // These servers greet; they do not speak the HTTP that the check asks for.
    let source = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        source
            .replace("option httpchk GET /healthz", "")
            .replace("http-check expect status 200", ""),
    )
    .unwrap();
    let gateway = Gateway::start(imported(&[&file]));
    let client = sources.authority.client();
    let greeting = |name: &str| visit_tls(&client, name, https).unwrap().greeting;
    assert_eq!(greeting("admin.example.com"), "admin1");
    assert!(greeting("www.example.com").starts_with("app"));
    let listeners = gateway.status()["listeners"].as_array().unwrap().len();
    assert_eq!(listeners, 2);
    let redirected =
        crate::harness::fetch(crate::harness::connect(http).unwrap(), "GET", "/x").unwrap();
    assert_eq!(redirected.0, 301);
}

#[test]
fn what_is_not_carried_over_is_told_on_standard_error_and_in_the_file() {
    let output = import(&["--haproxy", root().join("haproxy-web.cfg").to_str().unwrap()]);
    let (toml, told) = (text(&output.stdout), text(&output.stderr));
    let expected = "haproxy-web.cfg:23: option  http-server-close";
    let expected = expected.replace("  ", " ");
    assert!(told.contains(&expected), "{told}");
    assert!(toml.contains(&format!("#   {expected}")), "{toml}");
}

#[test]
fn as_json_it_is_one_object() {
    let file = root().join("haproxy-web.cfg");
    let output = import(&["--json", "--haproxy", file.to_str().unwrap()]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["toml"].as_str().unwrap().contains("[[listener]]"));
    let notes = found["notes"].as_array().unwrap();
    let closing = notes.iter().find(|note| note["line"] == 23).unwrap();
    assert_eq!(closing["kind"], "lost");
    assert_eq!(closing["text"], "option http-server-close");
    assert!(closing["file"].as_str().unwrap().ends_with("haproxy-web.cfg"));
}

#[test]
fn a_file_that_is_there_stays_unless_forced() {
    let directory = TempDir::with_prefix("lockgate-").unwrap();
    let target = directory.path().join("lockgate.toml");
    let target = target.to_str().unwrap();
    let file = root().join("haproxy-minimal.cfg");
    let arguments = ["--haproxy", file.to_str().unwrap(), "-o", target];
    let first = import(&arguments);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains("written"));
    fs::write(target, "mine").unwrap();
    let second = import(&arguments);
    assert_eq!(second.status.code(), Some(71));
    assert!(text(&second.stderr).contains("--force"));
    assert_eq!(fs::read_to_string(target).unwrap(), "mine");
    assert!(import(&[&arguments[..], &["--force"]].concat()).status.success());
    assert!(fs::read_to_string(target).unwrap().contains("[[listener]]"));
}

#[test]
fn what_cannot_be_read_or_understood_is_an_error_with_its_place() {
    let directory = TempDir::with_prefix("lockgate-").unwrap();
    let broken = directory.path().join("nginx.conf");
    fs::write(&broken, "stream {\n  server {\n").unwrap();
    let broken = broken.to_str().unwrap();
    let empty = directory.path().join("haproxy.cfg");
    fs::write(&empty, "defaults\n    mode tcp\n").unwrap();
    let empty = empty.to_str().unwrap();
    for (arguments, code, said) in [
        (&[][..], 64, "--haproxy"),
        (&["--haproxy"], 64, "--haproxy"),
        (&["--force", "--haproxy", empty], 64, "--output"),
        (&["--haproxy", "/nowhere/haproxy.cfg"], 78, "/nowhere/haproxy.cfg"),
        (&["--nginx", broken], 78, "nginx.conf:3: a block is not closed"),
        (&["--haproxy", empty], 78, "nothing in these files can be carried over"),
    ] {
        let output = import(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}
