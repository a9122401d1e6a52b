//! Whether single values would be taken, for those who write configurations instead of reading
//! them. The answers are those of the reader, by the same functions.

use std::net::SocketAddr;

use super::findings::Problem;
use super::plan::vrrp::Floating;
use super::plan::{Address, CipherSuite, Network, SniPattern};
use super::{address, cipher, vrrp};

/// The address of a listening socket, `IP:PORT`.
///
/// # Errors
///
/// What `lockgate check` would say.
pub fn bind(text: &str) -> Result<SocketAddr, String> {
    address::parse_bind(text).map_err(said)
}

/// The address of a backend, `IP:PORT` or `HOST:PORT`.
///
/// # Errors
///
/// What `lockgate check` would say.
pub fn backend(text: &str) -> Result<Address, String> {
    address::parse_backend(text).map_err(said)
}

/// Whether this is the address of a backend that is given by name, `HOST:PORT`.
pub fn is_name(text: &str) -> bool {
    matches!(address::parse_backend(text), Ok(Address::Name { .. }))
}

/// A name that a route is for.
///
/// # Errors
///
/// What `lockgate check` would say.
pub fn sni(text: &str) -> Result<SniPattern, String> {
    address::parse_sni_pattern(text).map_err(said)
}

/// A network, whose address has no bits beyond its prefix.
///
/// # Errors
///
/// What `lockgate check` would say.
pub fn network(text: &str) -> Result<Network, String> {
    address::parse_network(text).map_err(said)
}

/// An address that floats, with the length of its network's prefix.
///
/// # Errors
///
/// What `lockgate check` would say.
pub fn floating(text: &str) -> Result<Floating, String> {
    vrrp::parse_floating(text).map_err(said)
}

/// The cipher suite of this name, IANA's or OpenSSL's.
pub fn cipher_suite(name: &str) -> Option<CipherSuite> {
    cipher::parse(name).ok()
}

fn said(problem: Problem) -> String {
    problem.message
}
