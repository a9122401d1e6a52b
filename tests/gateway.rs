//! Black-box tests: the real binary between real clients and real servers.
//!
//! Each test starts a gateway of its own, in most cases on loopback:
//!
//! ```text
//!   clients ──────────────► gateway ──────────────► servers
//!   (threads of the test)   (a child process)       (threads of the test)
//!                              ▲
//!                              └── admin socket, signals, standard output and error
//! ```
//!
//! Everybody has an address of their own in 127.0.0.0/8 (see [`harness::unused_address`]), so that
//! tests run in parallel without meeting. Where loopback will not do, the test makes network
//! namespaces (see [`harness::lab`]) and needs root.
//!
//! What is asserted are counts, order and bytes. Times only have generous upper bounds: the
//! machine is shared with other tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "what a failed test has to say")]

mod harness;

mod access;
mod balancing;
mod dashboard;
mod demo;
mod ecmp;
mod errors;
mod failover;
mod faults;
mod grafana;
mod health;
mod hostile;
mod importing;
mod limiting;
mod limits;
mod logging;
mod metrics;
mod names;
mod networks;
mod observing;
mod operating;
mod overload;
mod packaging;
mod prometheus;
mod proxying;
mod relaying;
mod reloading;
mod routing;
mod sandbox;
mod scale;
mod stopping;
mod systems;
mod tls;
mod top;
mod upgrading;
mod vrrp;
