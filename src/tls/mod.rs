//! TLS: certificates, cipher suites, tickets, and what listeners and pools make of them.
//!
//! The only folder that names rustls: what others see are types of our own. The control plane reads
//! files and makes a [`server::Server`] of a listener's settings and a [`client::Client`] of a
//! pool's; workers do handshakes with them. The cryptography is aws-lc's.

pub mod certificate;
pub mod certificates;
pub mod client;
pub mod clock;
pub mod inspect;
pub mod pem;
mod records;
pub mod refusal;
pub mod server;
pub mod session;
pub mod suites;
pub mod tickets;
pub mod trust;
mod verify;

#[cfg(test)]
mod tests;
