//! What stands before a listener: whose PROXY headers are believed, who may come in, and how much of
//! it.
//!
//! Part of a published [`crate::snapshot::Snapshot`]; asked by [`crate::connection`] before anything
//! else. A listener without one does not pay for it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::access::{Access, Set};
use crate::limit::Limiter;

/// The guard of a listener.
#[derive(Debug)]
pub struct Guard {
    /// Whose connections begin with a PROXY header; `None` = nobody's.
    pub proxies: Option<Set>,
    /// Who may come in, by the address that counts; `None` = everybody.
    pub access: Option<Arc<Access>>,
    /// What each source may do; `None` = anything.
    pub limiter: Option<Limiter>,
}

impl Guard {
    /// Whether a connection from this address has to begin with a PROXY header. From any other one,
    /// such a header is what the client says, and nothing else.
    #[inline]
    pub fn awaits_header(&self, socket: IpAddr) -> bool {
        self.proxies.as_ref().is_some_and(|proxies| proxies.contains(socket))
    }

    /// Whether a client may come in at all.
    #[inline]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.access.as_ref().is_none_or(|access| access.admit(client))
    }
}
