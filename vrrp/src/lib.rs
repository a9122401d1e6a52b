//! VRRP: an address that several routers share, of which one, the master, answers for it.
//!
//! Version 3 is RFC 9568 (IPv4 and IPv6), version 2 is RFC 3768 (IPv4). So far this crate holds
//! the types that the protocol is spoken in. It depends on no runtime, no socket and no clock, and
//! knows nothing of the load balancer.

#![forbid(unsafe_code)]
#![no_std]

pub mod types;
