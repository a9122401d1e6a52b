//! The admin server: on a unix socket, and for reading on TCP.
//!
//! Runs on the control thread. It asks the control loop and waits for the answer; it never
//! touches the world itself.

pub mod api;
pub mod client;
mod dashboard;
pub mod explanation;
pub mod order;
pub mod server;
pub mod status;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::body::Bytes;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Renderer;
use explanation::{Explanation, Question};
use order::{Candidate, Difference, Order, Reply};
use server::{Entrance, Who};
use status::Status;
pub use stream::Replay;

/// A question to the control loop.
#[derive(Debug)]
pub enum Ask {
    /// Everything there is to show.
    Status(oneshot::Sender<Status>),
    /// Why the process is not well; nothing if it is.
    Health(oneshot::Sender<Vec<String>>),
    /// Why the gateway is not ready; nothing if it is.
    Readiness(oneshot::Sender<Vec<String>>),
    /// What happens from now on, and what is to be repeated of what has happened; `None` if too many
    /// listen already.
    Events(Replay, oneshot::Sender<Option<mpsc::Receiver<Bytes>>>),
    /// All series, up to date.
    Metrics(oneshot::Sender<Renderer>),
    /// Where a connection would go.
    Explain(Question, Reply<Explanation>),
    /// What a reload of this would change.
    Compare(Candidate, Reply<Difference>),
    /// A change, and who wants it.
    Order(Who, Order),
}

/// Opens the unix socket, for its owner alone. A socket that a dead process left behind is
/// replaced.
///
/// Fails with [`io::ErrorKind::AddrInUse`] if a process answers on it.
pub fn open_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            std::fs::remove_file(path)?;
        }
        // Whatever else is there is not ours: binding fails and says so.
        Ok(_) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
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
