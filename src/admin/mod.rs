//! The admin server: on a unix socket, and for reading on TCP.
//!
//! Runs on the control thread. It asks the control loop and waits for the answer; it never
//! touches the world itself.

pub mod api;
pub mod client;
mod dashboard;
pub mod explanation;
pub mod order;
pub mod rendering;
pub mod server;
pub mod status;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use axum::body::Bytes;
use nix::sys::stat::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

use crate::safe_file;
use explanation::{Explanation, Question};
use order::{BackendTarget, Candidate, Difference, Order, Reply};
use rendering::Rendering;
use server::{Entrance, Who};
use status::Backend;
pub use stream::Replay;

/// Connections to the unix socket that wait to be accepted; the kernel takes no more than
/// `net.core.somaxconn`.
const BACKLOG: i32 = 1_024;

/// A question to the control loop.
#[derive(Debug)]
pub enum Ask {
    /// Everything there is to show, as JSON.
    Status(oneshot::Sender<Rendering>),
    /// One backend.
    Backend(BackendTarget, Reply<Backend>),
    /// Why the process is not well; nothing if it is.
    Health(oneshot::Sender<Vec<String>>),
    /// Why the gateway is not ready; nothing if it is.
    Readiness(oneshot::Sender<Vec<String>>),
    /// What happens from now on, and what is to be repeated of what has happened; `None` if too many
    /// listen already.
    Events(Replay, oneshot::Sender<Option<mpsc::Receiver<Bytes>>>),
    /// All series, up to date, in the text format of Prometheus.
    Metrics(oneshot::Sender<Rendering>),
    /// Where a connection would go.
    Explain(Question, Reply<Explanation>),
    /// What a reload of this would change.
    Compare(Candidate, Reply<Difference>),
    /// A change, and who wants it.
    Order(Who, Order),
}

/// Opens the unix socket, for its owner alone. A socket that a dead process left behind is
/// replaced; the directory is made if it is not there.
///
/// Fails with [`io::ErrorKind::AddrInUse`] if a process answers on it, and with
/// [`io::ErrorKind::AlreadyExists`] if something other than a socket is there, which stays untouched.
pub fn open_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        safe_file::create_directory(directory, 0o755)?;
    }
    let address = SockAddr::unix(path)?;
    let open = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        io::Result::Ok(socket)
    };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // Binding would call it an address in use.
    if let Some(kind) = found.filter(|found| !found.is_socket()) {
        let what = match () {
            () if kind.is_file() => "a regular file",
            () if kind.is_dir() => "a directory",
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_fifo() => "a FIFO",
            () => "a device",
        };
        let message = format!("it is {what}, not a socket");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    match open()?.connect(&address) {
        Ok(()) => return Err(io::ErrorKind::AddrInUse.into()),
        // It has no time for this one, and so is alive.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // Left behind by a process that is gone.
        Err(_) if found.is_some() => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let socket = open()?;
    // Before it has a name (unix(7)): whoever may change names in the directory could have the mode of
    // another file changed afterwards.
    nix::sys::stat::fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&address)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Opens the TCP socket.
pub async fn open_http(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until dropped, or until `stopped`: then it finishes what has been asked.
pub async fn serve(
    entrance: impl Entrance,
    asks: mpsc::Sender<Ask>,
    stopped: impl Future<Output = ()> + Send,
) {
    server::serve(entrance, api::router(asks), stopped).await;
}
