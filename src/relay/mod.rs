//! Bytes between a client and a backend, in both directions, by one task.
//!
//! Called by [`crate::connection`] once both sockets are connected. FIN is passed on after the
//! last byte, in each direction by itself; a reset is passed on as a reset. Nothing is held for a
//! connection that is silent but its two sockets, a timer, and this future.

mod flow;
mod pipe;

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::socket;
use flow::{Broken, Flow, Turn};
pub use pipe::MOST as MOST_PIPES;

/// A connection that lasts this long gets keepalive probes towards its backend. (Towards the
/// client it has them from the listener.) Most connections end earlier, and save the calls.
const SETTLED: Duration = Duration::from_secs(10);

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// Without a byte after one side has sent FIN.
    pub half_close: Duration,
}

/// How a relayed connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides have sent FIN and every byte is delivered.
    Closed,
    /// The client's side broke.
    ClientReset,
    /// The backend's side broke.
    BackendReset,
    /// [`Limits::idle`] passed.
    Idle,
    /// [`Limits::half_close`] passed.
    HalfClosed,
}

/// Relays until the end. `meter(up, down)` is told of bytes delivered to the backend and to the
/// client. The caller closes the sockets; if the end was not [`End::Closed`], or the future is
/// dropped before its end, that resets them.
pub async fn relay(
    client: &TcpStream,
    backend: &TcpStream,
    limits: Limits,
    mut meter: impl FnMut(u64, u64),
) -> End {
    let mut reset = ResetOnDrop { client, backend, armed: true };
    let mut both = Both { client, backend, up: Flow::default(), down: Flow::default() };
    let mut client_failure = pin!(client.ready(Interest::ERROR));
    let mut backend_failure = pin!(backend.ready(Interest::ERROR));
    let began = Instant::now();
    let mut active = began;
    let mut settled = false;
    let mut timer = pin!(sleep_until(began + SETTLED.min(limits.idle)));
    let mut armed = false;

    let end = poll_fn(|context| {
        let finished = both.finished();
        let polled = both.poll(context);
        let (up, down) = (both.up.delivered(), both.down.delivered());
        if up + down > 0 {
            meter(up as u64, down as u64);
        }
        if let Poll::Ready(end) = polled {
            return Poll::Ready(end);
        }
        // A side whose bytes are not asked for is still heard when it breaks.
        if both.up.is_deaf() && client_failure.as_mut().poll(context).is_ready() {
            return Poll::Ready(End::ClientReset);
        }
        if both.down.is_deaf() && backend_failure.as_mut().poll(context).is_ready() {
            return Poll::Ready(End::BackendReset);
        }

        let now = Instant::now();
        if up + down > 0 || both.finished() != finished {
            active = now;
        }
        let (limit, end) = match both.finished() {
            0 => (limits.idle, End::Idle),
            _ => (limits.half_close, End::HalfClosed),
        };
        let deadline = active + limit;
        if now >= deadline {
            return Poll::Ready(end);
        }
        // The timer is touched only when it fires or has become too late: activity alone moves
        // the deadline, and the next firing finds that out.
        if armed && now < timer.deadline() && timer.deadline() <= deadline {
            return Poll::Pending;
        }
        if armed && !settled && now >= began + SETTLED {
            settled = true;
            if let Err(error) = socket::keep_alive(backend) {
                tracing::debug!(%error, "keepalive towards the backend");
            }
        }
        if armed {
            let next = if settled { deadline } else { deadline.min(began + SETTLED) };
            timer.as_mut().reset(next);
        }
        armed = true;
        if timer.as_mut().poll(context).is_ready() {
            // Due since the clock was read: the next turn reads it again.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;

    reset.armed = end != End::Closed;
    end
}

/// Turns the coming close of both sockets into a reset, unless everything was delivered: also if
/// the relay is dropped half-way.
struct ResetOnDrop<'a> {
    client: &'a TcpStream,
    backend: &'a TcpStream,
    armed: bool,
}

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            socket::reset_on_close(self.client);
            socket::reset_on_close(self.backend);
        }
    }
}

struct Both<'a> {
    client: &'a TcpStream,
    backend: &'a TcpStream,
    up: Flow,
    down: Flow,
}

impl Both<'_> {
    /// How many of the two directions have finished.
    fn finished(&self) -> u8 {
        u8::from(self.up.is_finished()) + u8::from(self.down.is_finished())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let up = self.poll_up(context);
        let down = self.poll_down(context);
        let broken = match (&up, &down) {
            (Poll::Ready(Err(Broken::Sender)), _) => Some(End::ClientReset),
            (Poll::Ready(Err(Broken::Receiver)), _) => Some(End::BackendReset),
            (_, Poll::Ready(Err(Broken::Sender))) => Some(End::BackendReset),
            (_, Poll::Ready(Err(Broken::Receiver))) => Some(End::ClientReset),
            _ => None,
        };
        let unfinished = |turn: &Poll<_>| matches!(turn, Poll::Ready(Ok(Turn::Unfinished)));
        if unfinished(&up) || unfinished(&down) {
            // Also if the other way is broken: what has come this way by now is the receiver's.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match broken {
            Some(end) => Poll::Ready(end),
            None if self.finished() == 2 => Poll::Ready(End::Closed),
            None => Poll::Pending,
        }
    }

    fn poll_up(&mut self, context: &mut Context<'_>) -> Poll<Result<Turn, Broken>> {
        self.up.poll(context, self.client, self.backend, self.down.is_finished())
    }

    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<Result<Turn, Broken>> {
        self.down.poll(context, self.backend, self.client, self.up.is_finished())
    }
}
