//! The example's router and its guard as processes: this test program again, told what to be.

#[path = "../../examples/router.rs"]
#[allow(dead_code)]
mod example;

use std::env;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The router's arguments, separated by spaces.
pub const ARGUMENTS: &str = "LOCKGATE_TEST_ROUTER";

/// Also the process that [`crate::lab::Host::router`] starts.
#[test]
fn router() {
    let Ok(arguments) = env::var(ARGUMENTS) else {
        for wrong in ["", "eth0 0 100 10ms 10.0.0.100/24", "eth0 51 100 10ms nowhere"] {
            let wrong: Vec<_> = wrong.split_whitespace().map(str::to_owned).collect();
            assert!(example::settings(&wrong).is_none(), "{wrong:?}");
        }
        return;
    };
    let arguments: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
    let (settings, guarded) = example::settings(&arguments).unwrap();
    let guard = guarded.then(|| GUARD.iter().map(Into::into).collect());
    example::run(settings, guard).unwrap();
}

/// No test has this name: among the arguments it tells that this is the guard. The environment can't,
/// because a guard inherits none.
const IS_GUARD: &str = "is-guard";
const GUARD: [&str; 5] = ["--exact", "process::guard", "--nocapture", "--skip", IS_GUARD];

/// Also the process that the router starts.
#[test]
fn guard() {
    if env::args().any(|argument| argument == IS_GUARD) {
        lockgate_vrrp::linux::guard_main();
        return;
    }
    // Started by nobody that it could guard, it ends.
    let mut orphan = Command::new(env::current_exe().unwrap());
    orphan.args(GUARD).stdin(Stdio::null()).stdout(Stdio::null());
    let mut orphan = orphan.spawn().unwrap();
    let begun = Instant::now();
    while orphan.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(20) {
            orphan.kill().unwrap();
            panic!("it goes on");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// What these arguments of a router mean.
pub fn settings(arguments: &str) -> lockgate_vrrp::settings::Settings {
    let arguments: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
    example::settings(&arguments).unwrap().0
}
