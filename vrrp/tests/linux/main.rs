//! What runs the core on Linux, on real interfaces: hosts are network namespaces, so these tests
//! need root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the example within")]

mod addresses;
mod death;
mod handing_on;
mod keepalived;
mod lab;
mod notify;
mod packets;
mod process;
mod reload;
mod sources;
mod virtual_mac;
