//! TLS. The only folder that names rustls.

pub mod client;
