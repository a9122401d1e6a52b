//! The admin server: on a unix socket, and for reading on TCP.
//!
//! Runs on the control thread. It asks the control loop and waits for the answer; it never
//! touches the world itself.

pub mod client;
pub mod status;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

use status::Status;

/// A question to the control loop.
#[derive(Debug)]
pub enum Ask {
    /// Everything there is to show.
    Status(oneshot::Sender<Status>),
    /// Why the process is not well; nothing if it is.
    Health(oneshot::Sender<Vec<String>>),
    /// Why the gateway is not ready; nothing if it is.
    Readiness(oneshot::Sender<Vec<String>>),
    /// What happens from now on; `None` if too many listen already.
    Events(oneshot::Sender<Option<mpsc::Receiver<Bytes>>>),
    /// All series, up to date.
    Metrics(oneshot::Sender<PrometheusHandle>),
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

/// Serves until dropped.
pub async fn serve<L>(listener: L, asks: mpsc::Sender<Ask>)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/events", get(stream::events))
        .with_state(asks);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin server ended");
    }
}

type Asks = State<mpsc::Sender<Ask>>;

async fn ask<T>(
    State(asks): Asks,
    question: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Result<T, StatusCode> {
    let (sender, answer) = oneshot::channel();
    let gone = |_| StatusCode::SERVICE_UNAVAILABLE;
    asks.send(question(sender)).await.map_err(|error| gone(error.to_string()))?;
    answer.await.map_err(|error| gone(error.to_string()))
}

async fn healthz(asks: Asks) -> Result<Response, StatusCode> {
    Ok(verdict(&ask(asks, Ask::Health).await?))
}

async fn readyz(asks: Asks) -> Result<Response, StatusCode> {
    Ok(verdict(&ask(asks, Ask::Readiness).await?))
}

fn verdict(reasons: &[String]) -> Response {
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        let reasons: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
        (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response()
    }
}

async fn metrics(asks: Asks) -> Result<Response, StatusCode> {
    let renderer = ask(asks, Ask::Metrics).await?;
    let text = tokio::task::spawn_blocking(move || renderer.render())
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

async fn status(asks: Asks) -> Result<Json<Status>, StatusCode> {
    Ok(Json(ask(asks, Ask::Status).await?))
}
