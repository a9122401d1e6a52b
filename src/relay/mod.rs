//! Bytes between a client and a backend, in both directions, by one task.
//!
//! Called by [`crate::connection`]: before it connects, for what the client has sent already, and
//! once both sockets are connected. FIN is passed on after the last byte, in each direction by
//! itself; a reset is passed on as a reset. Nothing is held for a connection that is silent but
//! its two sockets and this future.

mod flow;
mod pipe;
mod side;
mod vanished;

use std::future::poll_fn;
use std::net::TcpStream;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::event_loop::{EventLoop, Watched};
use crate::socket;
use flow::{Broken, Flow, Turn};
use vanished::{Unacknowledged, pace};

pub use pipe::MOST as MOST_PIPES;
pub use side::{Plain, Received, Side, Then, Unheard, gather, room, take_leave};

/// A connection that lasts this long gets keepalive probes towards its backend. (Towards the
/// client it has them from the listener.) Most connections end earlier, and save the calls.
const SETTLED: Duration = Duration::from_secs(10);

/// When one side has broken, what it sent before is still the other's: as long as the kernel gets
/// rid of it. It is looked at this often, and given up when nothing moves for so long.
const LOOK: Duration = Duration::from_millis(20);
const STUCK: Duration = Duration::from_secs(5);

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// Without a byte after one side has sent FIN.
    pub half_close: Duration,
    /// How long what was sent to the client may stay unacknowledged; `None` = as long as the system
    /// has it.
    pub user_timeout: Option<Duration>,
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

/// Both directions of a connection.
#[derive(Debug, Default)]
pub struct Relay {
    /// From the client to the backend.
    up: Flow,
    down: Flow,
}

impl Relay {
    /// Takes what the client has sent by now. [`Relay::first`] says what that is.
    ///
    /// Fails if the client is gone.
    pub fn listen(&mut self, client: &mut impl Side) -> Result<(), End> {
        self.up.hold_first(client).map_err(|_| End::ClientReset)
    }

    /// A relay for which `first` was read from the client already. `ended`: and nothing follows.
    pub fn starting_with(first: Vec<u8>, ended: bool) -> Self {
        Self { up: Flow::starting_with(first, ended), down: Flow::default() }
    }

    /// What the backend is to get first.
    pub fn first(&self) -> &[u8] {
        self.up.held_bytes()
    }

    /// The backend took `bytes` of [`Relay::first`].
    pub fn sent(&mut self, bytes: usize) {
        self.up.taken(bytes);
    }

    /// Relays until the end. `user_timeout` is [`Limits::user_timeout`] of the backend. `meter(up, down)` is told of bytes delivered to the backend and to the
    /// client. The caller closes the sockets, as a reset unless the end was [`End::Closed`].
    pub fn run(
        &mut self,
        events: &EventLoop,
        client: &mut impl Side,
        backend: &mut impl Side,
        limits: &Limits,
        user_timeout: Option<Duration>,
        mut meter: impl FnMut(u64, u64),
    ) -> impl Future<Output = End> {
        let mut active = events.now();
        let mut settling = Some(active + SETTLED);
        // When to look whether what was sent is acknowledged; `None` = nothing has been sent since
        // all was.
        let mut look = pace(limits.user_timeout, user_timeout).map(|pace| active + pace);
        let mut unacknowledged = [Unacknowledged::default(); 2];
        // What the sockets had not got rid of when it was last looked at.
        let mut unsent = (0, 0);
        let mut broken: Option<End> = None;
        // All of it is held once, and no reference to it: it is most of a silent connection.
        poll_fn(move |_| {
            if let Some(end) = broken {
                return linger(end, events, client, backend, &mut unsent, &mut active);
            }
            let finished = self.finished();
            let polled = self.poll(events, client, backend);
            let (up, down) = (self.up.delivered(), self.down.delivered());
            if up + down > 0 {
                meter(up as u64, down as u64);
            }
            if let Poll::Ready(end) = polled {
                if end == End::Closed {
                    return Poll::Ready(end);
                }
                broken = Some(end);
                active = events.now();
                return linger(end, events, client, backend, &mut unsent, &mut active);
            }
            // A side whose bytes are not asked for is still heard when it breaks.
            if self.up.is_deaf() && client.socket().has_failed() {
                return Poll::Ready(End::ClientReset);
            }
            if self.down.is_deaf() && backend.socket().has_failed() {
                return Poll::Ready(End::BackendReset);
            }

            let now = events.now();
            if up + down > 0 || self.finished() != finished {
                active = now;
                look =
                    look.or_else(|| pace(limits.user_timeout, user_timeout).map(|pace| now + pace));
            }
            if let (Some(time), Some(pace)) = (look, pace(limits.user_timeout, user_timeout)) {
                if now >= time {
                    let peers = [
                        (client.socket(), limits.user_timeout, End::ClientReset),
                        (backend.socket(), user_timeout, End::BackendReset),
                    ];
                    let passed = (pace, now.saturating_duration_since(time) + pace);
                    if let Some(end) = vanished(&mut unacknowledged, peers, passed) {
                        broken = Some(end);
                        active = now;
                        return linger(end, events, client, backend, &mut unsent, &mut active);
                    }
                    let pending = unacknowledged.iter().any(|peer| peer.is_pending());
                    look = pending.then(|| now + pace);
                }
                look.into_iter().for_each(|time| events.wake_at(time));
            }
            let (limit, end) = match self.finished() {
                0 => (limits.idle, End::Idle),
                _ => (limits.half_close, End::HalfClosed),
            };
            if now >= active + limit {
                // What the kernel still delivers is no silence.
                let queued = (queued(client.socket()), queued(backend.socket()));
                if queued == unsent || queued == (0, 0) {
                    return Poll::Ready(end);
                }
                (unsent, active) = (queued, now);
            }
            events.wake_at(active + limit);
            settle(&mut settling, now, events, backend.socket());
            Poll::Pending
        })
    }

    /// How many of the two directions have finished.
    fn finished(&self) -> u8 {
        u8::from(self.up.is_finished()) + u8::from(self.down.is_finished())
    }

    fn poll(
        &mut self,
        events: &EventLoop,
        client: &mut impl Side,
        backend: &mut impl Side,
    ) -> Poll<End> {
        let up = self.up.poll(client, backend, self.down.is_finished());
        let down = self.down.poll(backend, client, self.up.is_finished());
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
            events.again();
            return Poll::Pending;
        }
        match broken {
            Some(end) => Poll::Ready(end),
            None if self.finished() == 2 => Poll::Ready(End::Closed),
            None => Poll::Pending,
        }
    }
}

fn queued(socket: &Watched<TcpStream>) -> u32 {
    // A socket that cannot tell has nothing to wait for.
    socket::unsent(socket).unwrap_or(0)
}

/// How the connection ends if one of its peers has vanished.
fn vanished(
    unacknowledged: &mut [Unacknowledged; 2],
    peers: [(&Watched<TcpStream>, Option<Duration>, End); 2],
    passed: (Duration, Duration),
) -> Option<End> {
    let mut peers = unacknowledged.iter_mut().zip(peers);
    peers.find_map(|(peer, (socket, patience, end))| {
        // A socket that tells nothing has failed, or will have at the next event.
        let acknowledged = || socket::acknowledged(socket).ok();
        peer.is_gone(queued(socket), acknowledged, patience?, passed).then_some(end)
    })
}

/// One side has broken. The end comes when the other has what was sent to it, or takes no more.
fn linger(
    end: End,
    events: &EventLoop,
    client: &impl Side,
    backend: &impl Side,
    unsent: &mut (u32, u32),
    active: &mut Instant,
) -> Poll<End> {
    let receiver = if end == End::ClientReset { backend.socket() } else { client.socket() };
    let (left, now) = (queued(receiver), events.now());
    if left != unsent.0 {
        (unsent.0, *active) = (left, now);
    }
    if left == 0 || receiver.has_failed() || now >= *active + STUCK {
        return Poll::Ready(end);
    }
    events.wake_at(now + LOOK);
    Poll::Pending
}

/// Turns keepalive on when the time for it has come.
fn settle(
    settling: &mut Option<Instant>,
    now: Instant,
    events: &EventLoop,
    backend: &Watched<TcpStream>,
) {
    match *settling {
        Some(time) if now < time => events.wake_at(time),
        Some(_) => {
            *settling = None;
            if let Err(error) = socket::keep_alive(backend) {
                tracing::debug!(%error, "keepalive towards the backend");
            }
        }
        None => {}
    }
}
