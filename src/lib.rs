//! lockgate: a Layer-4 load balancer for a pair of gateways.
//!
//! The library is what the binary is made of, for its tests and benchmarks; it promises no
//! stability of its own. `ARCHITECTURE.md` tells how the modules fit together; reading
//! [`connection`] from top to bottom tells what happens to a connection.

pub mod access;
pub mod admin;
pub mod balance;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod event_loop;
pub mod guard;
pub mod health;
pub mod import;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod pool;
pub mod proto;
pub mod record;
pub mod redirect;
pub mod relay;
pub mod route;
pub mod safe_file;
pub mod sandbox;
pub mod snapshot;
pub mod socket;
pub mod stats;
pub mod systemd;
pub mod tls;
pub mod worker;
