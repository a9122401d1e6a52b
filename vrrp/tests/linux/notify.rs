//! Programs that are run at transitions.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::lab::{Lab, eventually};

#[test]
fn the_program_for_the_end_runs_though_the_one_before_hangs() {
    let directory = std::env::temp_dir().join(format!("lockgate-hangs-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (program, seen) = (directory.join("notify"), directory.join("seen"));
    let text = format!(
        "#!/bin/sh\n[ $3 = STOP ] && sleep 1\necho $3 >> {}\n[ $3 = MASTER ] && sleep 1000\ntrue\n",
        seen.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let lab = Lab::new();
    let program = program.display();
    let one = lab.one.router(&format!("eth0 51 200 10ms 10.0.0.100/24 notify={program}"));
    let read = || fs::read_to_string(&seen).unwrap_or_default();
    eventually("it is told of the master", || read() == "BACKUP\nMASTER\n");
    one.stop();
    assert_eq!(read(), "BACKUP\nMASTER\nSTOP\n");
    fs::remove_dir_all(&directory).unwrap();
}
