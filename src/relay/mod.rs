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
pub use side::{Ended, Plain, Received, Side, Then, Unheard, gather, in_kernel, room, take_leave};

/// A connection that lasts this long gets keepalive probes towards its backend. (Towards the
/// client it has them from the listener.) Most connections end earlier, and save the calls.
const SETTLED: Duration = Duration::from_secs(10);

/// When one side has broken, what it sent before is still the other's. The kernel's queue is looked
/// at this often while it moves, and less and less often while it does not.
const LOOK: Duration = Duration::from_millis(20);
const SELDOM: Duration = Duration::from_secs(1);

/// Nothing is given up sooner than this after a side has broken, however short the timeouts are.
const STUCK: Duration = Duration::from_secs(5);

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// Without a byte after one side has sent FIN, and the other has acknowledged it.
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
        let mut quiet = Quiet::since(events.now());
        let mut settling = Some(events.now() + SETTLED);
        // When to look whether what was sent is acknowledged; `None` = nothing has been sent since
        // all was.
        let mut look = pace(limits.user_timeout, user_timeout).map(|pace| events.now() + pace);
        let mut unacknowledged = [Unacknowledged::default(); 2];
        let mut broken: Option<End> = None;
        // All of it is held once, and no reference to it: it is most of a silent connection.
        poll_fn(move |_| {
            if let Some(end) = broken {
                return self.linger(end, events, client, backend, limits, &mut quiet);
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
                quiet = Quiet::since(events.now());
                return self.linger(end, events, client, backend, limits, &mut quiet);
            }
            // A side whose bytes are not asked for is still heard when it breaks. But all that it
            // sent before its FIN is the other's, and is delivered first.
            let failed = match () {
                () if self.up.is_heard_failing() && client.has_failed() => {
                    Some((End::ClientReset, self.up.is_finished()))
                }
                () if self.down.is_heard_failing() && backend.has_failed() => {
                    Some((End::BackendReset, self.down.is_finished()))
                }
                () => None,
            };
            match failed {
                Some((end, true)) => {
                    broken = Some(end);
                    quiet = Quiet::since(events.now());
                    return self.linger(end, events, client, backend, limits, &mut quiet);
                }
                Some((end, false)) => return Poll::Ready(end),
                None => {}
            }

            let now = events.now();
            if up + down > 0 || self.finished() != finished {
                quiet.heard(now);
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
                        quiet = Quiet::since(now);
                        return self.linger(end, events, client, backend, limits, &mut quiet);
                    }
                    let pending = unacknowledged.iter().any(|peer| peer.is_pending());
                    look = pending.then(|| now + pace);
                }
                look.into_iter().for_each(|time| events.wake_at(time));
            }
            let half_closed = self.finished() > 0;
            if now >= quiet.next_look(half_closed, limits) {
                let queued = queued(client.socket()).saturating_add(queued(backend.socket()));
                if let Some(end) = quiet.look(now, queued, half_closed, limits) {
                    return Poll::Ready(end);
                }
            }
            events.wake_at(quiet.next_look(half_closed, limits));
            settle(&mut settling, now, events, backend.socket());
            Poll::Pending
        })
    }

    /// Bytes that were handed to the backend's and to the client's socket and that they have not
    /// acknowledged: after an end other than [`End::Closed`], these did not arrive.
    pub fn unacknowledged(&self, client: &impl Side, backend: &impl Side) -> (u64, u64) {
        (
            backend.unacknowledged(self.up.is_finished()),
            client.unacknowledged(self.down.is_finished()),
        )
    }

    /// One side has broken. The end comes when the other has what was sent to it, or takes no more.
    fn linger(
        &self,
        end: End,
        events: &EventLoop,
        client: &impl Side,
        backend: &impl Side,
        limits: &Limits,
        quiet: &mut Quiet,
    ) -> Poll<End> {
        let receiver = if end == End::ClientReset { backend.socket() } else { client.socket() };
        // One that has sent all, and only not said so, is no more urgent than others.
        let limit = match self.up.is_unannounced() || self.down.is_unannounced() {
            true => limits.idle,
            false => limits.half_close,
        };
        let (left, now) = (queued(receiver), events.now());
        match quiet.drain(now, left, limit.max(STUCK)) {
            Some(look) if !receiver.has_failed() => {
                events.wake_at(look);
                Poll::Pending
            }
            _ => Poll::Ready(end),
        }
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

/// For how long nothing has moved: neither between the two sockets nor out of the kernel's queues.
#[derive(Debug)]
struct Quiet {
    /// When something last moved, as far as is known.
    active: Instant,
    /// Milliseconds from then to the last look at the queues.
    waited: u32,
    /// Bytes that both queues held then. While none are handed to them, the sum only gets smaller.
    unsent: u32,
}

impl Quiet {
    fn since(now: Instant) -> Self {
        Self { active: now, waited: 0, unsent: 0 }
    }

    /// Bytes have moved, or FIN.
    fn heard(&mut self, now: Instant) {
        (self.active, self.waited) = (now, 0);
    }

    /// When the queues are to be looked at.
    fn next_look(&self, half_closed: bool, limits: &Limits) -> Instant {
        let limit = if half_closed { limits.half_close } else { limits.idle };
        self.active + Duration::from_millis(self.waited.into()) + limit
    }

    /// Looks at the queues when the time for it has come: why the connection is over, if it is.
    ///
    /// What leaves a queue has been acknowledged, so the peer is there. While bytes are in it, so is
    /// the FIN behind them: the peer does not know of it, and `half_close` is not for it yet.
    fn look(
        &mut self,
        now: Instant,
        queued: u32,
        half_closed: bool,
        limits: &Limits,
    ) -> Option<End> {
        if queued == 0 {
            return Some(if half_closed { End::HalfClosed } else { End::Idle });
        }
        if queued != self.unsent {
            self.unsent = queued;
            self.heard(now);
        } else if now >= self.active + limits.idle {
            return Some(End::Idle);
        }
        // Rounded up, for a look to be later than the one before.
        let waited = (now - self.active).as_millis().saturating_add(1);
        self.waited = if now == self.active { 0 } else { waited.try_into().unwrap_or(u32::MAX) };
        None
    }

    /// The same where nothing but what one queue still holds, `left`, is waited for, for `limit`
    /// without progress: when to look again, if at all.
    fn drain(&mut self, now: Instant, left: u32, limit: Duration) -> Option<Instant> {
        if left != self.unsent {
            self.unsent = left;
            self.heard(now);
        }
        let over = self.active + limit;
        if left == 0 || now >= over {
            return None;
        }
        let patience = (now - self.active) / 4;
        Some(over.min(now + patience.clamp(LOOK, SELDOM)))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        idle: Duration::from_secs(100),
        half_close: Duration::from_secs(10),
        user_timeout: None,
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn silence_with_nothing_queued_is_over_at_the_first_look() {
        let start = Instant::now();
        for (half_closed, after, end) in [(false, 100, End::Idle), (true, 10, End::HalfClosed)] {
            let mut quiet = Quiet::since(start);
            let look = quiet.next_look(half_closed, &LIMITS);
            assert_eq!(look, start + seconds(after));
            assert_eq!(quiet.look(look, 0, half_closed, &LIMITS), Some(end));
        }
    }

    #[test]
    fn a_queue_that_gets_shorter_is_no_silence() {
        for half_closed in [false, true] {
            let mut quiet = Quiet::since(Instant::now());
            for left in (1..50).rev() {
                let look = quiet.next_look(half_closed, &LIMITS);
                assert_eq!(quiet.look(look, left, half_closed, &LIMITS), None);
            }
            let look = quiet.next_look(half_closed, &LIMITS);
            assert!(quiet.look(look, 0, half_closed, &LIMITS).is_some());
        }
    }

    #[test]
    fn fin_that_is_queued_behind_bytes_is_waited_for_as_those_are() {
        let start = Instant::now();
        let mut quiet = Quiet::since(start);
        let (mut looks, mut now) = (0, start);
        let end = loop {
            now = quiet.next_look(true, &LIMITS).max(now);
            looks += 1;
            if let Some(end) = quiet.look(now, 5, true, &LIMITS) {
                break end;
            }
        };
        // The first look is what later ones are compared with.
        assert_eq!(end, End::Idle);
        assert!(now >= start + seconds(110) && now < start + seconds(111));
        assert_eq!(looks, 11);
        // Once FIN has arrived, the shorter limit counts.
        let mut quiet = Quiet::since(start);
        let look = quiet.next_look(true, &LIMITS);
        assert_eq!(quiet.look(look, 5, true, &LIMITS), None);
        let look = quiet.next_look(true, &LIMITS);
        assert_eq!(quiet.look(look, 0, true, &LIMITS), Some(End::HalfClosed));
    }

    #[test]
    fn what_a_broken_side_sent_is_waited_for_while_it_moves() {
        let start = Instant::now();
        let mut quiet = Quiet::since(start);
        let mut now = start;
        for left in (1..1_000).rev() {
            let look = quiet.drain(now, left, seconds(60)).unwrap();
            assert_eq!(look, now + LOOK, "a queue that moves is looked at soon");
            now = look;
        }
        let (stuck, mut looks) = (now, 0);
        while let Some(look) = quiet.drain(now, 1, seconds(60)) {
            assert!(look > now);
            (now, looks) = (look, looks + 1);
        }
        assert!(now >= stuck + seconds(60) - LOOK && looks < 200, "{looks}");
        assert_eq!(quiet.drain(now, 0, seconds(60)), None);
    }
}
