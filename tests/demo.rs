//! The demo, which needs nothing but the binary.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{eventually, lockgate, output_of};

#[test]
fn the_demo_loses_no_request() {
    let output = output_of(Command::new(lockgate()).args(["demo", "--seconds", "5"]));
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{error}");
    assert!(text.contains("0 failed"), "{text}");
    assert!(text.contains("gw1 is killed (SIGKILL): gw2 answers "), "{text}");
    assert!(text.contains("gw1 is started again, and takes the address back"), "{text}");
    assert!(text.contains("connections over the floating address"), "{text}");
}

fn namespaces() -> String {
    let output = output_of(Command::new("ip").args(["netns", "list"]));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn without_root_the_demo_goes_without_the_pair_and_says_so() {
    // Somewhere that everybody may read.
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
    let binary = scratch.path().join("lockgate");
    fs::copy(lockgate(), &binary).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut demo = Command::new("setpriv");
    demo.args(nobody).arg(&binary).args(["demo", "--seconds", "3"]).current_dir("/");
    let output = output_of(&mut demo);
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{error}");
    assert!(text.contains("run the demo as root to see it"), "{text}");
    assert!(!text.contains("gw1"), "{text}");
}

#[test]
fn an_interrupted_pair_leaves_nothing_behind() {
    let mut demo = Command::new(lockgate())
        .args(["demo", "--seconds", "3"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let ours = format!("lockgate-demo-{}-", demo.id());
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("gw1 has 10.213.0.100")));
    assert!(namespaces().contains(&ours));

    let pid = Pid::from_raw(demo.id().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    assert_ne!(demo.wait().unwrap().code(), Some(0));
    eventually("the network is gone", || !namespaces().contains(&ours));
    eventually("its gateways and their guards have ended", || {
        fs::read_dir("/proc").unwrap().flatten().all(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            !line.windows(ours.len()).any(|part| part == ours.as_bytes())
        })
    });
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let mut demo = Command::new(lockgate())
        .args(["demo", "--seconds", "60"])
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("clients send it requests")));

    let pid = Pid::from_raw(demo.id().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    assert_ne!(demo.wait().unwrap().code(), Some(0));
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0);
    let ours = scratch.path().as_os_str().as_encoded_bytes().to_owned();
    eventually("its gateway has ended", || {
        fs::read_dir("/proc").unwrap().flatten().all(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            !line.windows(ours.len()).any(|part| part == ours)
        })
    });
}
