//! What runs the core on Linux, on real interfaces: hosts are network namespaces, so these tests
//! need root.

mod addresses;
mod death;
mod keepalived;
mod lab;
mod packets;
mod process;
mod virtual_mac;
