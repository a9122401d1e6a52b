//! What the process was started with: listening sockets that systemd has opened, or the process
//! that this one is to take over from.
//!
//! Both hand descriptors on in the same way (sd_listen_fds(3)): they begin at 3, `LISTEN_FDS` says
//! how many there are, and `LISTEN_PID` whom they are for. A process that is upgraded cannot know the
//! number of the next one before it is there, so it gives its own, and in `LOCKGATE_UPGRADE` the
//! descriptor by which the two talk ([`super::upgrade`]). What it starts does the same for the next
//! one, with `LOCKGATE_ELDER`, which says whom that takes over from. Sockets are told apart by what
//! they are bound to, not by their names (`LISTEN_FDNAMES`), which are for people.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::{Failure, upgrade};
use crate::log::Reader;
use crate::socket;
use crate::worker::Sockets;

/// The descriptor by which an upgraded process talks to the next one.
pub(super) const UPGRADE: &str = "LOCKGATE_UPGRADE";
/// The process that is upgraded.
pub(super) const ELDER: &str = "LOCKGATE_ELDER";
/// Who reads what the next process logs before it takes over: `journal`, if the one before repeats
/// it to that.
pub(super) const READER: &str = "LOCKGATE_READER";
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
    /// The process that this one takes over from, and the way to it.
    pub(super) elder: Option<(u32, UnixStream)>,
    /// Who reads its standard error, which is not what it will be.
    pub(super) reader: Option<Reader>,
}

impl Inheritance {
    /// Takes it: once, before anything else is started.
    ///
    /// Fails if what the environment says is not so.
    pub(super) fn take() -> Result<Self, Failure> {
        let (count, owner) = (number(COUNT)?.unwrap_or(0), number(OWNER)?);
        let upgrade = match (number(UPGRADE)?, number(ELDER)?) {
            (Some(link), Some(elder)) => Self::follow(link, owner)?.then_some((link, elder)),
            _ => None,
        };
        let mut inheritance = Self::default();
        if upgrade.is_none() && owner != Some(std::process::id()) {
            return Ok(inheritance);
        }
        for index in 0..count {
            inheritance.add(take(FIRST.saturating_add(index))?)?;
        }
        if let Some((link, elder)) = upgrade {
            inheritance.elder = Some((elder, UnixStream::from(take(link)?)));
            let of_journal = std::env::var_os(READER).is_some_and(|reader| reader == "journal");
            inheritance.reader = of_journal.then_some(Reader::Journal);
        }
        Ok(inheritance)
    }

    /// From here on this process ends with its escort. Returns whether it has one: what is left
    /// over from an upgrade before is none of ours.
    ///
    /// Fails if the escort is gone: the process before knows nothing of this one any more.
    fn follow(link: RawFd, escort: Option<u32>) -> Result<bool, Failure> {
        let failed = Failure::system("cannot take over from the process before");
        if let Err(error) = upgrade::follow_parent() {
            return Err(failed(error));
        }
        if escort == Some(parent_id()) {
            return Ok(true);
        }
        if take(link).is_ok_and(|link| UnixStream::from(link).peer_addr().is_ok()) {
            return Err(failed(io::ErrorKind::NotConnected.into()));
        }
        upgrade::outlive_parent().map_err(failed)?;
        Ok(false)
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

/// The process that is upgraded, if it has started this one, and only to start the next one.
///
/// Fails if what the environment says is not so.
pub(super) fn escorted() -> Result<Option<u32>, Failure> {
    let (link, elder) = (number::<RawFd>(UPGRADE)?, number::<u32>(ELDER)?);
    let parent = parent_id();
    let is_escort = link.is_some() && elder.is_none() && number(OWNER)? == Some(parent);
    Ok(is_escort.then_some(parent))
}

/// A number that the environment has.
fn number<T: FromStr>(name: &str) -> Result<Option<T>, Failure> {
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    let number = value.to_str().and_then(|value| value.parse().ok());
    number.map(Some).ok_or_else(|| {
        let source = io::Error::other(format!("{} is no number", value.display()));
        Failure::system(format!("the environment variable {name}"))(source)
    })
}

fn take(number: RawFd) -> Result<OwnedFd, Failure> {
    socket::inherited(number)
        .map_err(Failure::system(format!("descriptor {number}, which was handed on")))
}
