//! scripts/lab, which people play with.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{eventually, lockgate, output_of};

#[test]
fn the_lab_fails_over_and_leaves_nothing_behind() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab");
    let mut lab = Command::new(script)
        .env("LOCKGATE", lockgate())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let commands = "get\nstop gw1\nwatch 1\nget\nstart gw1\nkill gw2\nno such command\nstatus\n";
    // What is open then ends with the commands.
    lab.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let output = lab.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");

    let (name, _) = text.strip_prefix("lab: ").unwrap().split_once(" is up").unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), 2, "{text}");
    assert!(text.contains("connections were made"), "{text}");
    assert!(text.contains("gw2: not running"), "{text}");
    let namespaces = || output_of(Command::new("ip").args(["netns", "list"])).stdout;
    eventually("its namespaces are gone", || {
        !String::from_utf8_lossy(&namespaces()).contains(name)
    });
    assert!(!Path::new("/run/lockgate-labs").join(name).exists());
}
