//! The life of a connection, from accept to its record.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use crate::balance::Unavailable;
use crate::balance::maglev::hash_client;
use crate::event_loop::{EventLoop, Interest, Watched};
use crate::pool::{Backend, Lease, Pool, Report, Tried};
use crate::record::{Id, Record};
use crate::relay::{End, Limits, Plain, Relay};
use crate::snapshot::Listener;
use crate::socket::{self, ResetOnDrop};
use crate::stats::{ConnectFailure, Reason};
use crate::worker::{Local, Place};

/// A connection that the kernel has handed out.
#[derive(Debug)]
pub struct Accepted {
    /// The client's socket, non-blocking.
    pub socket: TcpStream,
    /// The client's address.
    pub client: SocketAddr,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// Its place among the process' connections.
    pub place: Place,
    /// When.
    pub at: Instant,
    /// Name of the connection.
    pub id: Id,
}

/// Serves a connection to its end. It leaves a record even if the future is never polled.
pub fn serve(local: Rc<Local>, accepted: Accepted) -> impl Future<Output = ()> {
    live(Session::new(local, accepted))
}

async fn live(mut session: Session) {
    let listener = Arc::clone(&session.listener);
    let Some(pool) = &listener.pool else {
        return session.end(Reason::NoRoute);
    };
    session.pool = Some(Arc::clone(pool));
    let Some(client) = session.socket.take() else {
        return session.end(Reason::ClientReset);
    };
    let client = session.local.events.hold(client);
    // A client that got no service, or not all of it, is told so by a reset: an orderly end would
    // look like an empty answer.
    let reset_client = ResetOnDrop::new(&client);

    let mut relay = Relay::default();
    if relay.listen(&mut Plain(&client)).is_err() {
        return session.end(Reason::ClientReset);
    }
    // Only now: what has been read is no event any more.
    if let Err(error) = client.watch(Interest::Read) {
        tracing::error!(%error, "cannot watch a socket");
        return session.end(Reason::ClientReset);
    }
    let (lease, backend) = match session.reach(pool, &client, &mut relay).await {
        Ok(reached) => reached,
        Err(reason) => return session.end(reason),
    };
    let reset_backend = ResetOnDrop::new(&backend);
    let limits = Limits { idle: listener.idle_timeout, half_close: listener.half_close_timeout };
    let (local, worker) = (Rc::clone(&session.local), session.local.index);
    let of_listener = listener.meters.stats.of(worker);
    let of_backend = lease.backend().stats.of(worker);
    let bytes = &mut session.bytes;
    let end = relay
        .run(&local.events, &mut Plain(&client), &mut Plain(&backend), limits, |up, down| {
            bytes.0 += up;
            bytes.1 += down;
            of_listener.bytes_in.add(up);
            of_listener.bytes_out.add(down);
            of_backend.bytes_in.add(up);
            of_backend.bytes_out.add(down);
        })
        .await;
    if end == End::Closed {
        reset_client.disarm();
        reset_backend.disarm();
    } else {
        drop((reset_client, reset_backend));
    }
    drop((client, backend));
    session.end(end.into());
}

impl From<End> for Reason {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self::Closed,
            End::ClientReset => Self::ClientReset,
            End::BackendReset => Self::BackendReset,
            End::Idle => Self::IdleTimeout,
            End::HalfClosed => Self::HalfCloseTimeout,
        }
    }
}

/// What is known of a connection so far. Dropped before [`Session::end`], by a stop or a panic,
/// it still leaves its record.
struct Session {
    local: Rc<Local>,
    listener: Arc<Listener>,
    socket: Option<TcpStream>,
    client: SocketAddr,
    pool: Option<Arc<Pool>>,
    backend: Option<Arc<Backend>>,
    attempts: u32,
    queue: Duration,
    connect: Option<Duration>,
    bytes: (u64, u64),
    reason: Reason,
    at: Instant,
    id: Id,
    _place: Place,
}

impl Session {
    fn new(local: Rc<Local>, accepted: Accepted) -> Self {
        Self {
            local,
            listener: accepted.listener,
            socket: Some(accepted.socket),
            client: accepted.client,
            pool: None,
            backend: None,
            attempts: 0,
            queue: Duration::ZERO,
            connect: None,
            bytes: (0, 0),
            reason: Reason::Drained,
            at: accepted.at,
            id: accepted.id,
            _place: accepted.place,
        }
    }

    fn end(mut self, reason: Reason) {
        self.reason = reason;
    }

    /// Finds a backend that answers, and sends it what the client has sent first. Says why if there
    /// is none.
    async fn reach(
        &mut self,
        pool: &Arc<Pool>,
        client: &Watched<TcpStream>,
        relay: &mut Relay,
    ) -> Result<(Lease, Watched<TcpStream>), Reason> {
        let mut tried = Tried::default();
        let mut connecting = Duration::ZERO;
        loop {
            let lease = match self.lease(pool, client, &tried).await {
                Ok(lease) => lease,
                // Each that could be tried has been.
                Err(Reason::NoBackend) if self.attempts > 0 => return Err(Reason::ConnectFailed),
                Err(reason) => return Err(reason),
            };
            let backend = lease.backend();
            self.backend = Some(Arc::clone(backend));
            if self.attempts > 0 {
                pool.stats.of(self.local.index).retries.add(1);
            }
            self.attempts += 1;
            let began = Instant::now();
            let connected = connect(&self.local.events, pool, backend, client, relay).await;
            let took = began.elapsed();
            connecting += took;
            self.connect = Some(connecting);
            let stats = backend.stats.of(self.local.index);
            let failure = match connected {
                Ok(backend) => {
                    stats.connections.add(1);
                    pool.connect_seconds.record(took);
                    return Ok((lease, backend));
                }
                Err(Unconnected::Failed(failure)) => failure,
                Err(Unconnected::ClientGone) => return Err(Reason::ClientReset),
            };
            stats.connect_failures.of(failure as usize).add(1);
            if failure.is_backends() {
                // The control plane may be busy; then it learns of it from the next one.
                let _ = pool.reports.try_send(Report { backend: backend.id, failure });
            }
            if self.attempts > pool.retries {
                return Err(Reason::ConnectFailed);
            }
            tried.push(backend);
        }
    }

    async fn lease(
        &mut self,
        pool: &Arc<Pool>,
        socket: &Watched<TcpStream>,
        tried: &Tried,
    ) -> Result<Lease, Reason> {
        let client = hash_client(self.client.ip());
        let entropy = self.local.entropy();
        let patience = pool.queue_timeout.saturating_sub(self.queue);
        // Who comes while others wait goes to the end of the queue.
        if pool.queue.depth() == 0 || patience.is_zero() {
            match pool.lease(client, entropy, tried) {
                Ok(lease) => return Ok(lease),
                Err(Unavailable::Down) => return Err(Reason::NoBackend),
                Err(Unavailable::Full) if patience.is_zero() => return Err(Reason::QueueTimeout),
                Err(Unavailable::Full) => {}
            }
        } else if !pool.has_candidate(tried) {
            return Err(Reason::NoBackend);
        }
        let began = Instant::now();
        let events = Rc::clone(&self.local.events);
        let deadline = events.now() + patience;
        // Boxed: few wait, and all others would carry the room for it.
        let granted = unless_gone(socket, pool.queued(client, entropy, tried));
        let granted = Box::pin(events.until(deadline, granted)).await;
        self.queue += began.elapsed();
        match granted {
            Some(Some(Some(lease))) => Ok(lease),
            Some(Some(None)) => Err(Reason::NoBackend),
            Some(None) => Err(Reason::ClientReset),
            None => Err(Reason::QueueTimeout),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nobody has looked at it.
        if let Some(socket) = &self.socket {
            socket::reset_on_close(socket);
        }
        let duration = self.at.elapsed();
        let meters = &self.listener.meters;
        meters.stats.of(self.local.index).closed.of(self.reason as usize).add(1);
        meters.duration_seconds.record(duration);
        self.local.record(|| Record {
            time: SystemTime::now(),
            listener: &self.listener.name,
            client: self.client,
            pool: self.pool.as_deref().map(|pool| &*pool.name),
            backend: self.backend.as_deref().map(|backend| &*backend.name),
            attempts: self.attempts,
            queue: self.queue,
            connect: self.connect,
            duration,
            bytes_in: self.bytes.0,
            bytes_out: self.bytes.1,
            reason: self.reason,
            id: self.id,
        });
    }
}

/// What `future` comes to; `None` if the client breaks off before.
async fn unless_gone<F: Future>(client: &Watched<TcpStream>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if client.has_failed() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Why there is no connection to a backend.
enum Unconnected {
    Failed(ConnectFailure),
    /// The client has broken off meanwhile.
    ClientGone,
}

impl From<io::Error> for Unconnected {
    fn from(error: io::Error) -> Self {
        Self::Failed(ConnectFailure::of(&error))
    }
}

async fn connect(
    events: &Rc<EventLoop>,
    pool: &Pool,
    backend: &Backend,
    client: &Watched<TcpStream>,
    relay: &mut Relay,
) -> Result<Watched<TcpStream>, Unconnected> {
    // A name that was never resolved has no weight and is not picked.
    let unresolved = Unconnected::Failed(ConnectFailure::Unreachable);
    let address = backend.address().ok_or(unresolved)?;
    let deadline = events.now() + pool.connect_timeout;
    let first = relay.first();
    let socket = events.hold(socket::connect(address, pool.source, !first.is_empty())?);
    // Whatever it is going to send, it comes by an event.
    socket.mark_dry();
    if !first.is_empty() {
        // On a quick network the handshake is over by now.
        match socket::send(&socket, first, false) {
            Ok(sent) => {
                relay.sent(sent);
                socket.watch(Interest::Read)?;
                return Ok(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    socket.watch(Interest::ReadWrite)?;
    let connected = poll_fn(|_| {
        if socket.is_writable() {
            return Poll::Ready(Ok(()));
        }
        if client.has_failed() {
            return Poll::Ready(Err(Unconnected::ClientGone));
        }
        if events.now() >= deadline {
            return Poll::Ready(Err(Unconnected::Failed(ConnectFailure::Timeout)));
        }
        events.wake_at(deadline);
        Poll::Pending
    });
    connected.await?;
    // Only a socket that failed has an error to ask for.
    if socket.has_failed()
        && let Some(error) = socket::take_error(&socket)?
    {
        return Err(error.into());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// It is what a silent connection costs, and malloc is quickest up to 1032 bytes.
    #[test]
    fn a_connection_is_small() {
        let size = size_of_output(serve);
        assert!(size <= 900, "{size} bytes");
    }
}
