//! What runs the core on Linux, on real interfaces: hosts are network namespaces, so these tests
//! need root.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod addresses;
mod death;
mod keepalived;
mod lab;
mod packets;
mod process;
mod virtual_mac;
