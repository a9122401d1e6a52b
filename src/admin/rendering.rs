//! A text that many clients are sent, and that is in memory once.
//!
//! With ten thousand backends the metrics and the status are tens of megabytes each. A client that
//! reads slowly, or not at all, must not keep one of its own for as long as it likes: how many texts
//! there are is bounded by places, and each gives up its place after a while.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes that are copied for a client at a time. Copied, so that what waits to be sent is this and
/// not the whole text.
const PART: usize = 64 << 10;

/// A text with its place among those that there may be at once.
#[derive(Clone, Debug)]
pub struct Rendering {
    text: Arc<Text>,
    length: usize,
}

type Text = Mutex<Option<(Vec<u8>, OwnedSemaphorePermit)>>;

/// A text as somebody knows it who does not need it.
#[derive(Clone, Debug)]
pub struct Known(Weak<Text>);

impl Known {
    /// Whether somebody still reads it.
    pub fn is_read(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Ends it: whoever has not read all of it yet is cut off.
    pub fn end(&self) {
        if let Some(text) = self.0.upgrade() {
            drop(text.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl Rendering {
    /// This text; the place is given back when nobody reads it any more, or when it ends.
    pub fn new(text: Vec<u8>, place: OwnedSemaphorePermit) -> Self {
        let length = text.len();
        Self { text: Arc::new(Mutex::new(Some((text, place)))), length }
    }

    /// The same, without keeping it.
    pub fn known(&self) -> Known {
        Known(Arc::downgrade(&self.text))
    }

    /// What comes after so many bytes, as far as it is sent at once. `None` if it has ended.
    fn part(&self, after: usize) -> Option<Bytes> {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, _) = text.as_ref()?;
        let end = text.len().min(after + PART);
        Some(Bytes::copy_from_slice(text.get(after..end).unwrap_or_default()))
    }

    /// The body of an answer.
    pub fn into_body(self) -> Body {
        Body::new(Parts { rendering: self, sent: 0 })
    }
}

/// A text that is being sent.
struct Parts {
    rendering: Rendering,
    sent: usize,
}

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let Some(part) = self.rendering.part(self.sent) else {
            let error = io::Error::new(io::ErrorKind::TimedOut, "it was read too slowly");
            return Poll::Ready(Some(Err(error)));
        };
        self.sent += part.len();
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent >= self.rendering.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.rendering.length - self.sent) as u64)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn it_is_read_by_many_and_its_place_is_free_when_they_have() {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let text: Vec<u8> = (0..PART * 2 + 100).map(|byte| byte as u8).collect();
        let rendering = Rendering::new(text.clone(), place);
        let (one, other) = (rendering.clone().into_body(), rendering.into_body());
        assert_eq!(to_bytes(one, usize::MAX).await.unwrap(), text);
        assert_eq!(places.available_permits(), 0, "one still reads");
        assert_eq!(to_bytes(other, usize::MAX).await.unwrap(), text);
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn whoever_is_too_slow_is_cut_off_and_keeps_no_place() {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let rendering = Rendering::new(vec![b'x'; PART * 2], place);
        let known = rendering.known();
        let body = rendering.into_body();
        assert!(known.is_read());
        known.end();
        assert_eq!(places.available_permits(), 1);
        assert!(to_bytes(body, usize::MAX).await.is_err());
        assert!(!known.is_read());
    }
}
