//! What the process was started with: listening sockets that systemd has opened, or the process
//! that this one is to take over from.
//!
//! Both hand descriptors on in the same way (sd_listen_fds(3)): they begin at 3, `LISTEN_FDS` says
//! how many there are, and `LISTEN_PID` whom they are for. A process that is upgraded cannot know the
//! number of the next one before it is there, so it gives its own, and in `LOCKGATE_UPGRADE` the
//! descriptor by which the two talk ([`super::upgrade`]). Sockets are told apart by what they are
//! bound to, not by their names (`LISTEN_FDNAMES`), which are for people.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Failure;
use crate::socket;
use crate::worker::Sockets;

/// The descriptor by which an upgraded process talks to the next one.
pub(super) const UPGRADE: &str = "LOCKGATE_UPGRADE";
/// How many sockets are handed on.
pub(super) const COUNT: &str = "LISTEN_FDS";
/// Whom they are for.
pub(super) const OWNER: &str = "LISTEN_PID";
/// What they are called.
pub(super) const NAMES: &str = "LISTEN_FDNAMES";
/// The first of them (`SD_LISTEN_FDS_START`).
pub(super) const FIRST: RawFd = 3;

/// What the process was started with. What is not taken out of it is closed when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    /// Sockets of the network.
    pub(super) sockets: Sockets,
    unix: HashMap<PathBuf, UnixListener>,
    /// The way to the process that this one takes over from.
    pub(super) elder: Option<UnixStream>,
}

impl Inheritance {
    /// Takes it: once, before anything else is started.
    ///
    /// Fails if what the environment says is not so.
    pub(super) fn take() -> Result<Self, Failure> {
        let number = |name: &str| -> Result<Option<i64>, Failure> {
            let Some(value) = std::env::var_os(name) else { return Ok(None) };
            let number = value.to_str().and_then(|value| value.parse().ok());
            number.map(Some).ok_or_else(|| {
                let source = io::Error::other(format!("{} is no number", value.display()));
                Failure::system(format!("the environment variable {name}"))(source)
            })
        };
        let (count, owner) = (number(COUNT)?.unwrap_or(0), number(OWNER)?);
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        // What is left over from a process before, and was for that, is none of ours.
        let upgrade = match number(UPGRADE)? {
            Some(number) if owner == Some(parent.into()) => Some(number),
            _ => None,
        };
        let mut inheritance = Self::default();
        if upgrade.is_none() && owner != Some(own.into()) {
            return Ok(inheritance);
        }
        for index in 0..count {
            inheritance.add(take(i64::from(FIRST) + index)?)?;
        }
        inheritance.elder = upgrade.map(take).transpose()?.map(UnixStream::from);
        Ok(inheritance)
    }

    fn add(&mut self, fd: OwnedFd) -> Result<(), Failure> {
        let failed = Failure::system("a socket that was handed on");
        if let Err(error) = socket::adopt(&fd) {
            return Err(failed(error));
        }
        let socket = socket2::Socket::from(fd);
        let address = match socket.local_addr() {
            Ok(address) => address,
            Err(error) => return Err(failed(error)),
        };
        if let Some(address) = address.as_socket() {
            self.sockets.entry(address).or_default().push(Arc::new(TcpListener::from(socket)));
        } else if let Some(path) = address.as_pathname() {
            self.unix.insert(path.to_owned(), UnixListener::from(OwnedFd::from(socket)));
        } else {
            tracing::warn!(?address, "a socket was handed on that nothing here listens on");
        }
        Ok(())
    }

    /// The socket of the network at this address, if there is just one to take: for the admin server.
    pub(super) fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let socket = self.sockets.remove(&address)?.into_iter().next()?;
        Arc::into_inner(socket)
    }

    /// The unix socket of this path.
    pub(super) fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        // Relative paths are what they were, since the directory is.
        self.unix.remove(path)
    }

    /// What nothing was found for.
    pub(super) fn rest(&self) -> impl Iterator<Item = String> {
        let paths = self.unix.keys().map(|path| path.display().to_string());
        self.sockets.keys().map(ToString::to_string).chain(paths)
    }
}

fn take(number: i64) -> Result<OwnedFd, Failure> {
    let number = RawFd::try_from(number).unwrap_or(-1);
    socket::inherited(number)
        .map_err(Failure::system(format!("descriptor {number}, which was handed on")))
}
