//! The demo, which needs nothing but the binary.

use std::io::{BufRead, BufReader};
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
        std::fs::read_dir("/proc").unwrap().flatten().all(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            !line.windows(ours.len()).any(|part| part == ours)
        })
    });
}
