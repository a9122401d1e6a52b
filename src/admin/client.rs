//! Asks a running gateway over its unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers there.
    #[error("no gateway answers on {}: {cause}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The socket is another user's.
    #[error("{}: permission denied; run as the user that the gateway runs as, or as root", path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
    },
    /// It answers, but not what was asked for.
    #[error("the gateway answers {status}: {body}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says.
        body: String,
    },
}

/// Gets `target` from the gateway that listens on the socket at `path`.
pub async fn get(path: &Path, target: &str) -> Result<Bytes, Error> {
    let unreachable = |cause: String| Error::Unreachable { path: path.to_owned(), cause };
    let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Error::NotPermitted { path: path.to_owned() },
        _ => unreachable(error.to_string()),
    })?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(target).header(HOST, "lockgate").body(Empty::<Bytes>::new());
        let answer = async {
            let request = match request {
                Ok(request) => request,
                Err(_) => Request::new(Empty::new()),
            };
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, body))
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error),
            },
        }
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok((StatusCode::OK, body))) => Ok(body),
        Ok(Ok((status, body))) => {
            let body = String::from_utf8_lossy(&body).trim_end().to_owned();
            Err(Error::Refused { status, body })
        }
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_elapsed) => Err(unreachable(format!("no answer within {PATIENCE:?}"))),
    }
}
