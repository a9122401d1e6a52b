//! What goes wrong before a gateway serves: the exit code says whose fault it is, standard error
//! says what and where.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::harness::lab::Lab;
use crate::harness::{Config, Server, lockgate, output_of, unused_address};

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const OS_ERROR: i32 = 71;
const NOT_PERMITTED: i32 = 77;
const CONFIG: i32 = 78;

fn run(arguments: &[&str]) -> Output {
    output_of(Command::new(lockgate()).args(arguments))
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A configuration file that ends with the test.
struct Written {
    directory: TempDir,
}

impl Written {
    fn new(text: impl ToString) -> Self {
        let directory = TempDir::with_prefix("lockgate-").unwrap();
        let written = Self { directory };
        let socket = written.path().with_file_name("admin.sock");
        let preamble = format!("admin = {{ socket = {socket:?}, http = \"\" }}\n");
        fs::write(written.path(), preamble + &text.to_string()).unwrap();
        written
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("lockgate.toml")
    }

    /// Runs a command with `-c` and this file.
    fn with(&self, command: &str) -> Output {
        output_of(Command::new(lockgate()).arg(command).arg("-c").arg(self.path()))
    }
}

#[test]
fn wrong_usage() {
    for arguments in [&["fly"][..], &["run", "--fast"], &["status", "now"], &[]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(USAGE), "{arguments:?}: {}", error_of(&output));
        assert!(error_of(&output).contains("Usage"), "{}", error_of(&output));
    }
}

#[test]
fn every_command_has_help() {
    for arguments in
        [&["--help"][..], &["run", "--help"], &["check", "--help"], &["status", "--help"]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage"));
        assert_eq!(error_of(&output), "");
    }
}

#[test]
fn a_status_of_no_gateway() {
    let a = Server::named("a");
    let written = Written::new(Config::new(unused_address()).backend(&a, ""));
    for arguments in [&["status"][..], &["status", "--json"]] {
        let config = written.path();
        let output = output_of(Command::new(lockgate()).args(arguments).arg("-c").arg(&config));
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{}", error_of(&output));
        assert!(error_of(&output).contains("admin.sock"), "{}", error_of(&output));
        assert!(output.stdout.is_empty());
    }
}

/// Listens there; `share`: with `SO_REUSEPORT`, as a second gateway would.
fn occupy(address: SocketAddr, share: bool) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(share).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1).unwrap();
    socket
}

#[test]
fn an_address_in_use() {
    let a = Server::named("a");
    for share in [false, true] {
        let address = unused_address();
        let _other = occupy(address, share);
        let written = Written::new(Config::new(address).backend(&a, ""));
        let output = written.with("run");
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(OS_ERROR), "{error}");
        assert!(error.contains("listener web") && error.contains(&address.to_string()), "{error}");
    }
}

#[test]
fn an_admin_address_in_use() {
    let (a, address) = (Server::named("a"), unused_address());
    let _other = occupy(address, false);
    let config = Config::new(unused_address()).backend(&a, "").to_string();
    let written = Written::new(&config);
    let text = fs::read_to_string(written.path()).unwrap();
    fs::write(written.path(), text.replace("http = \"\"", &format!("http = \"{address}\"")))
        .unwrap();
    let output = written.with("run");
    assert_eq!(output.status.code(), Some(OS_ERROR), "{}", error_of(&output));
    assert!(error_of(&output).contains("admin.http"), "{}", error_of(&output));
}

/// Runs the gateway with this configuration as a user who may do nothing, in a namespace in which
/// ports below 1024 are kept for root, whatever the host's setting is.
fn run_as_nobody(config: impl ToString) -> Output {
    const NOBODY: &str = "65534";
    let lab = Lab::new();
    let written = Written::new(config);
    let readable = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    readable(written.directory.path(), 0o777);
    readable(&written.path(), 0o644);
    // Where the binary was built may be closed to others.
    let binary = written.directory.path().join("lockgate");
    fs::copy(lockgate(), &binary).unwrap();
    readable(&binary, 0o755);
    let mut command = Command::new("ip");
    command.args(&lab.gateway.enter()[1..]);
    command.args(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    output_of(command.arg(binary).args(["run", "-c"]).arg(written.path()))
}

#[test]
fn a_port_for_root() {
    let a = Server::named("a");
    let config = Config::new("127.0.0.1:80".parse().unwrap()).backend(&a, "");
    let output = run_as_nobody(config);
    let error = error_of(&output);
    assert_eq!(output.status.code(), Some(NOT_PERMITTED), "{error}");
    assert!(error.contains("127.0.0.1:80") && error.contains("CAP_NET_BIND_SERVICE"), "{error}");
}

#[test]
fn no_file() {
    for command in ["run", "check", "status"] {
        let output = run(&[command, "-c", "/nowhere/lockgate.toml"]);
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(CONFIG), "{error}");
        assert!(error.contains("/nowhere/lockgate.toml"), "{error}");
    }
}

#[test]
fn a_directory() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_str().unwrap();
    for command in ["run", "check"] {
        let output = run(&[command, "-c", path]);
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(CONFIG), "{error}");
        assert!(error.contains(path) && error.contains("directory"), "{error}");
    }
}

/// A configuration without a fault.
const SOUND: &str = r#"
[[listener]]
name = "web"
bind = ["127.0.0.1:8080"]
pool = "app"

[[pool.app.backend]]
name = "a"
address = "127.0.0.1:3000"
"#;

#[test]
fn a_sound_file() {
    let output = Written::new(SOUND).with("check");
    assert_eq!(output.status.code(), Some(0), "{}", error_of(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("ok (1 listener, 1 pool, 1 backend)"), "{text}");
}

#[test]
fn faults_are_shown_with_their_place() {
    // What is written instead of what, the line (the preamble is the first), and what is said.
    let more_of = "\n[[listener]]\nname = ";
    let overlap = format!("{SOUND}{more_of}\"b\"\nbind = [\"0.0.0.0:8080\"]\npool = \"app\"\n");
    let twice = format!("{SOUND}{more_of}\"web\"\nbind = [\"127.0.0.1:8081\"]\npool = \"app\"\n");
    let cases = [
        (SOUND.replace(":3000", ":70000"), 10, "70000"),
        (SOUND.replace("pool = \"app\"", "pool = \"ap\""), 6, "did you mean 'app'"),
        (twice, 13, "on line 4"),
        (overlap, 14, "0.0.0.0:8080"),
        (SOUND.replace("name = \"a\"", "naem = \"a\""), 9, "did you mean 'name'"),
        (
            SOUND.replace("pool = \"app\"", "pool = \"app\"\nprotocol = \"udp\""),
            7,
            "not supported yet",
        ),
        (SOUND.replace("pool = \"app\"", "pool = \"app"), 6, ""),
        (SOUND.replace("bind =", "idle_timeout = \"forever\"\nbind ="), 5, "forever"),
    ];
    for (text, line, said) in cases {
        let written = Written::new(text);
        let outputs = ["check", "run"].map(|command| written.with(command));
        for output in &outputs {
            let error = error_of(output);
            assert_eq!(output.status.code(), Some(CONFIG), "{error}");
            let place = format!("{}:{line}:", written.path().display());
            assert!(error.contains(&place), "{place} is not in:\n{error}");
            assert!(error.contains(said), "{said} is not in:\n{error}");
            assert!(error.contains('^'), "{error}");
        }
        assert_eq!(outputs[0].stderr, outputs[1].stderr);
    }
}

#[test]
fn all_faults_are_shown_at_once() {
    let text = SOUND
        .replace("pool = \"app\"", "pool = \"ap\"")
        .replace(":8080", ":80800")
        .replace("name = \"a\"", "naem = \"a\"\nweight = -1");
    let output = Written::new(text).with("check");
    let error = error_of(&output);
    assert_eq!(output.status.code(), Some(CONFIG));
    for said in ["80800", "'ap'", "naem", "weight", "4 errors in "] {
        assert!(error.contains(said), "{said} is not in:\n{error}");
    }
}

#[test]
fn preflight_tries_the_machine() {
    let (a, address) = (Server::named("a"), unused_address());
    let config = Config::new(address).backend(&a, "");
    let preflight = || {
        let written = Written::new(&config);
        let path = written.path();
        output_of(Command::new(lockgate()).args(["check", "--preflight", "-c"]).arg(path))
    };
    let output = preflight();
    assert_eq!(output.status.code(), Some(0), "{}", error_of(&output));

    let _other = occupy(address, true);
    let output = preflight();
    assert_eq!(output.status.code(), Some(OS_ERROR), "{}", error_of(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("cannot listen on {address}")), "{text}");
}

#[test]
fn what_is_in_the_place_of_the_admin_socket_is_named_and_left_alone() {
    let a = Server::named("a");
    type Make = fn(&Path);
    let kinds: [(&str, Make); 4] = [
        ("a regular file", |path| fs::write(path, "precious").unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a FIFO", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap()),
        ("a symbolic link", |path| std::os::unix::fs::symlink("lockgate.toml", path).unwrap()),
    ];
    for (kind, make) in kinds {
        let written = Written::new(Config::new(unused_address()).backend(&a, ""));
        let path = written.path().with_file_name("admin.sock");
        make(&path);
        let before = fs::symlink_metadata(&path).unwrap();
        let expected = format!("cannot listen on {}: it is {kind}, not a socket", path.display());
        let output = written.with("run");
        assert_eq!(output.status.code(), Some(OS_ERROR));
        let error = error_of(&output);
        assert!(error.contains(&expected) && !error.contains("another gateway"), "{error}");
        let mut check = Command::new(lockgate());
        let output = output_of(check.args(["check", "--preflight", "-c"]).arg(written.path()));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&expected), "{text}");
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!((after.ino(), after.mtime()), (before.ino(), before.mtime()), "{kind}");
    }
}

#[test]
fn too_few_file_descriptors_are_refused_with_the_number_that_is_needed() {
    let a = Server::named("a");
    let config = Config::new(unused_address()).runtime("workers = 2").backend(&a, "");
    let written = Written::new(config);
    for command in [&["run"][..], &["check", "--preflight"]] {
        let mut limited = Command::new("prlimit");
        limited.arg("--nofile=512:512").arg(lockgate()).args(command).arg("-c").arg(written.path());
        let output = output_of(&mut limited);
        assert_eq!(output.status.code(), Some(OS_ERROR), "{command:?}");
        let text = error_of(&output) + &String::from_utf8_lossy(&output.stdout);
        for said in [
            "RLIMIT_NOFILE is too low: 512 file descriptors, and 2 workers with 64 connections need ",
            "LimitNOFILE=",
        ] {
            assert!(text.contains(said), "{command:?}: {text}");
        }
    }
    // Whoever wants fewer connections needs fewer.
    let config =
        Config::new(unused_address()).runtime("workers = 2\nmax_connections = 10").backend(&a, "");
    let written = Written::new(config);
    let mut limited = Command::new("prlimit");
    let arguments = ["check", "--preflight", "-c"];
    limited.arg("--nofile=950:950").arg(lockgate()).args(arguments).arg(written.path());
    let output = output_of(&mut limited);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}
