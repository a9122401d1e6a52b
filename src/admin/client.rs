//! Asks a running gateway over its unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest wait for an answer to a question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for something to be done: a reload waits for first checks, a handover for the peer.
const PATIENCE_OF_ORDERS: Duration = Duration::from_mins(2);

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
    #[error("{error}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says, ready to be shown.
        error: String,
    },
}

/// How errors are worded.
#[derive(Deserialize)]
struct Words {
    error: String,
}

/// Gets `target` from the gateway that listens on the socket at `path`.
pub async fn get(path: &Path, target: &str) -> Result<Bytes, Error> {
    exchange(path, Method::GET, target, Bytes::new(), PATIENCE).await
}

/// Has the gateway that listens on the socket at `path` do something.
pub async fn order<T: DeserializeOwned>(
    path: &Path,
    method: Method,
    target: &str,
    body: &impl serde::Serialize,
) -> Result<T, Error> {
    let unreachable = |cause: String| Error::Unreachable { path: path.to_owned(), cause };
    let body = serde_json::to_vec(body).map_err(|error| unreachable(error.to_string()))?;
    let answer = exchange(path, method, target, body.into(), PATIENCE_OF_ORDERS).await?;
    serde_json::from_slice(&answer)
        .map_err(|error| unreachable(format!("unexpected answer: {error}")))
}

/// A name as a part of a path.
pub fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                text.push(byte.into());
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

async fn exchange(
    path: &Path,
    method: Method,
    target: &str,
    body: Bytes,
    patience: Duration,
) -> Result<Bytes, Error> {
    let unreachable = |cause: String| Error::Unreachable { path: path.to_owned(), cause };
    let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Error::NotPermitted { path: path.to_owned() },
        _ => unreachable(error.to_string()),
    })?;
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "lockgate")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| unreachable(error.to_string()))?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
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
    match timeout(patience, exchange).await {
        Ok(Ok((StatusCode::OK, body))) => Ok(body),
        Ok(Ok((status, body))) => {
            let error = match serde_json::from_slice(&body) {
                Ok(Words { error }) => error,
                Err(_) => {
                    let body = String::from_utf8_lossy(&body);
                    format!("the gateway answers {status}: {}", body.trim_end())
                }
            };
            Err(Error::Refused { status, error })
        }
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_elapsed) => Err(unreachable(format!("no answer within {patience:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_paths() {
        assert_eq!(escape("10.0.0.1:80"), "10.0.0.1:80");
        assert_eq!(escape("ä b?#%/"), "%C3%A4%20b%3F%23%25%2F");
    }
}
