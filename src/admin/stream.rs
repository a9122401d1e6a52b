//! `GET /v1/events`: what changes, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::{Ask, Asks, ask};

/// Answers with a stream that lasts until the client or the gateway goes away, or the client falls
/// too far behind.
pub async fn events(asks: Asks) -> Result<Response, StatusCode> {
    let Some(events) = ask(asks, Ask::Events).await? else {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "too many listeners\n").into_response());
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
