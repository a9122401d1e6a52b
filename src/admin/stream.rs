//! `GET /v1/events`: what changes, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::Ask;
use super::api::{Asks, ask};
use super::order::{Refusal, RefusalKind};

/// What a listener wants to be told of what has happened already.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Replay {
    /// What is newer than the event with this id; all that is remembered if there was none such.
    pub since: Option<u64>,
    /// So many, the latest.
    pub last: Option<usize>,
}

/// Answers with a stream that lasts until the client or the gateway goes away, or the client falls
/// too far behind.
pub(super) async fn events(
    asks: Asks,
    wanted: Result<Query<Replay>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let wrong = |error: QueryRejection| Refusal::new(RefusalKind::Invalid, error.body_text());
    let Query(mut replay) = wanted.map_err(wrong)?;
    // What a browser sends when it connects again. One that is no number is not from here.
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok());
    replay.since = seen.or(replay.since);
    let Some(events) = ask(&asks, |sender| Ask::Events(replay, sender)).await? else {
        let error = "too many are listening already";
        return Err(Refusal::new(RefusalKind::Stopping, error));
    };
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Stream(events))).into_response())
}

/// Events as they come.
struct Stream(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
