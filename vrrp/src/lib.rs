//! VRRP: addresses that several routers share, of which one, the master, answers for them.
//!
//! Version 3 is RFC 9568 (IPv4 and IPv6), version 2 is RFC 3768 (IPv4). The core is pure: packets,
//! times and what became of the system go in, what is to be done comes out. It has no socket, no
//! clock and no runtime, needs no standard library, and knows nothing of the load balancer.
//!
//! - [`advert`] is what is said on the wire, [`types`] the values in it;
//! - [`instance`] is the state machine of one virtual router;
//! - [`router`] holds the virtual routers of a host, with their [`settings`].
//!
//! With the feature `linux` there is also `linux`, which runs it: threads, sockets and netlink.

#![cfg_attr(not(feature = "linux"), no_std, forbid(unsafe_code))]

extern crate alloc;

pub mod advert;
pub mod instance;
#[cfg(feature = "linux")]
pub mod linux;
pub mod router;
pub mod settings;
pub mod types;

pub use router::Router;
