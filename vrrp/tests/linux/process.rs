//! The example's router and its guard as processes: this test program again, told what to be.

#[path = "../../examples/router.rs"]
#[allow(dead_code)]
mod example;

use std::env;

/// The router's arguments, separated by spaces.
pub const ARGUMENTS: &str = "LOCKGATE_TEST_ROUTER";

/// No test: the process that [`crate::lab::Host::router`] starts.
#[test]
#[ignore = "a process that other tests start"]
fn router() {
    let Ok(arguments) = env::var(ARGUMENTS) else { return };
    let arguments: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
    let guard = ["--exact", "process::guard", "--ignored", "--nocapture"];
    let (settings, guarded) = example::settings(&arguments).unwrap();
    let guard = guarded.then(|| guard.iter().map(Into::into).collect());
    example::run(settings, guard).unwrap();
}

/// No test: the process that the router starts.
#[test]
#[ignore = "a process that other tests start"]
fn guard() {
    if env::var(ARGUMENTS).is_ok() {
        lockgate_vrrp::linux::guard_main();
    }
}

/// What these arguments of a router mean.
pub fn settings(arguments: &str) -> lockgate_vrrp::settings::Settings {
    let arguments: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
    example::settings(&arguments).unwrap().0
}
