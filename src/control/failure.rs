//! Why the gateway cannot run, or cannot do what it is told.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::node;
use crate::config;
use crate::log;

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is not valid, or not readable.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// There is no telling which node this is.
    #[error(transparent)]
    Node(#[from] node::Unknown),
    /// A file that the configuration names is of no use.
    #[error("{0}")]
    Material(String),
    /// The system refuses something.
    #[error("{what}: {source}{hint}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
        /// What may help, in brackets, or nothing.
        hint: String,
    },
}

impl From<log::Unopened> for Failure {
    fn from(unopened: log::Unopened) -> Self {
        let log::Unopened { key, path, source } = unopened;
        Self::system(format!("{key}: cannot open {}", path.display()))(source)
    }
}

impl Failure {
    /// With the line of the configuration at `path` that names a file of no use.
    pub(super) fn with_line(self, path: &Path) -> Self {
        match self {
            Self::Material(text) => Self::Material(config::with_line(path, &text)),
            other => other,
        }
    }

    pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source, hint: String::new() }
    }

    /// A listening socket of the network is refused. `present`: what this process listens on.
    pub(super) fn listen(
        what: String,
        address: SocketAddr,
        present: &HashSet<SocketAddr>,
    ) -> impl FnOnce(io::Error) -> Self {
        let own = present.iter().find(|own| own.port() == address.port()).copied();
        move |source| {
            let hint = match (source.kind(), own) {
                (io::ErrorKind::PermissionDenied, _) if address.port() < 1_024 => {
                    " (ports below 1024 need root or CAP_NET_BIND_SERVICE)".to_owned()
                }
                (io::ErrorKind::AddrInUse, Some(own)) => {
                    format!(
                        " (this gateway itself listens on {own}; remove that first, or restart)"
                    )
                }
                (io::ErrorKind::AddrInUse, None) => {
                    " (another process listens there; `ss -ltnp` says which)".to_owned()
                }
                _ => String::new(),
            };
            Self::System { what, source, hint }
        }
    }

    /// Whether an address is taken.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}
