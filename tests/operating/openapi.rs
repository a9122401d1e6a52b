//! `docs/openapi.yaml` says what the server does: schemathesis compares them, call by call.
//!
//! ```text
//!   schemathesis ──TCP──► a thread of the test ──unix socket──► gateway
//! ```
//!
//! It is installed from PyPI into the target directory, once.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::harness::{Config, Gateway, Server, unused_address};

const VERSION: &str = "4.32.5";

/// What is compared. What is left out asks for more than the file promises: that each call which has
/// the right form succeeds, and that no answer is a 503.
const CHECKS: &str = "status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,\
                      negative_data_rejection,unsupported_method,allow_header_conformance";

/// A program that may take longer than anything else that tests run, but not for ever.
fn patiently(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("300").arg(program);
    command
}

fn schemathesis() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("schemathesis-{VERSION}"));
    let program = home.join("bin/schemathesis");
    if !home.join("complete").exists() {
        let made =
            patiently("python3").args(["-m", "venv", "--clear"]).arg(&home).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let package = format!("schemathesis=={VERSION}");
        let pip = home.join("bin/pip");
        let made = patiently(pip).args(["install", "--quiet", &package]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(home.join("complete"), "").unwrap();
    }
    program
}

/// Passes connections on to a unix socket, until the test ends.
fn proxy(socket: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind(unused_address()).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(gateway)) = (client, UnixStream::connect(&socket)) else { return };
            let (mut from, mut to) = (client.try_clone().unwrap(), gateway.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let (mut from, mut to) = (gateway, client);
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// Whether the server does what `description` says; and what is said of that.
fn compare(
    program: &Path,
    description: &Path,
    address: SocketAddr,
    phases: &str,
) -> (bool, String) {
    let mut command = patiently(program);
    command.current_dir(description.parent().unwrap());
    command.args(["run", "--no-color", "--checks", CHECKS, "--phases", phases]);
    command.args(["--max-examples", "15", "--seed", "1", "--generation-database", "none"]);
    command.args(["--suppress-health-check", "all", "--request-timeout", "20"]);
    // It does not end; what it says is compared by other tests.
    command.args(["--exclude-path", "/v1/events", "--continue-on-failure"]);
    command.args(["--url", &format!("http://{address}")]).arg(description);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {text}{errors}", output.status);
    (output.status.success(), text)
}

#[test]
fn the_server_does_what_its_description_says() {
    let server = Server::named("a");
    let config =
        Config::new(unused_address()).pool("health = { type = 'tcp' }").backend(&server, "");
    let gateway = Gateway::start(config);
    let address = proxy(gateway.config_path().with_file_name("admin.sock"));
    let program = schemathesis();
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.yaml"))
        .unwrap();
    let file = directory.path().join("openapi.yaml");
    fs::write(&file, &text).unwrap();
    let (is_same, told) = compare(&program, &file, address, "examples,coverage,fuzzing");
    assert!(is_same, "{told}");

    // A difference is found, wherever it is: something missing, something unknown, another type,
    // another answer.
    let kept =
        [("        kept: { type: boolean }\n", ""), ("changed, kept, notes", "changed, notes")];
    for edits in [
        &[("required: [version, pid, uptime_seconds,", "required: [version, pid, uptime,")][..],
        &kept,
        &[("weight: { type: integer, minimum: 0, maximum: 65535 }", "weight: { type: string }")],
        &[("        \"422\": { $ref: \"#/components/responses/Unprocessable\" }\n", "")],
    ] {
        let mut other = text.clone();
        for (there, instead) in edits {
            assert!(other.contains(there), "{there}");
            other = other.replace(there, instead);
        }
        fs::write(&file, other).unwrap();
        let (is_same, told) = compare(&program, &file, address, "examples,coverage");
        assert!(!is_same, "{edits:?} goes unnoticed: {told}");
    }
}
