//! The life of a connection, from accept to its record.

use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, timeout, timeout_at};

use crate::balance::Unavailable;
use crate::balance::maglev::hash_client;
use crate::pool::{Backend, Lease, Pool, Report, Tried};
use crate::record::{Id, Record};
use crate::relay::{End, Limits, relay};
use crate::snapshot::Listener;
use crate::socket;
use crate::stats::{ConnectFailure, Reason};
use crate::worker::{Local, Place};

/// A connection that the kernel has handed out.
#[derive(Debug)]
pub struct Accepted {
    /// The client's socket, non-blocking.
    pub socket: StdTcpStream,
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

    let (lease, backend) = match session.reach(pool).await {
        Ok(reached) => reached,
        Err(reason) => return session.end(reason),
    };
    let client = match session.client() {
        Ok(client) => client,
        Err(_gone) => return session.end(Reason::ClientReset),
    };
    let limits = Limits { idle: listener.idle_timeout, half_close: listener.half_close_timeout };
    let worker = session.local.index;
    let of_listener = listener.meters.stats.of(worker);
    let of_backend = lease.backend().stats.of(worker);
    let bytes = &mut session.bytes;
    let end = relay(&client, &backend, limits, |up, down| {
        bytes.0 += up;
        bytes.1 += down;
        of_listener.bytes_in.add(up);
        of_listener.bytes_out.add(down);
        of_backend.bytes_in.add(up);
        of_backend.bytes_out.add(down);
    })
    .await;
    drop((client, backend));
    session.end(match end {
        End::Closed => Reason::Closed,
        End::ClientReset => Reason::ClientReset,
        End::BackendReset => Reason::BackendReset,
        End::Idle => Reason::IdleTimeout,
        End::HalfClosed => Reason::HalfCloseTimeout,
    });
}

/// What is known of a connection so far. Dropped before [`Session::end`], by a stop or a panic,
/// it still leaves its record.
struct Session {
    local: Rc<Local>,
    listener: Arc<Listener>,
    socket: Option<StdTcpStream>,
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

    /// The client's socket, known to the runtime only now that there is something to relay.
    fn client(&mut self) -> std::io::Result<TcpStream> {
        let socket = self.socket.take().ok_or(std::io::ErrorKind::NotConnected)?;
        TcpStream::from_std(socket)
    }

    /// Finds a backend that answers. Says why if there is none.
    async fn reach(&mut self, pool: &Arc<Pool>) -> Result<(Lease, TcpStream), Reason> {
        let mut tried = Tried::default();
        let mut connecting = Duration::ZERO;
        loop {
            let lease = match self.lease(pool, &tried).await {
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
            let connected = connect(pool, backend).await;
            let took = began.elapsed();
            connecting += took;
            self.connect = Some(connecting);
            let stats = backend.stats.of(self.local.index);
            let failure = match connected {
                Ok(stream) => {
                    stats.connections.add(1);
                    pool.connect_seconds.record(took);
                    return Ok((lease, stream));
                }
                Err(failure) => failure,
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

    async fn lease(&mut self, pool: &Arc<Pool>, tried: &Tried) -> Result<Lease, Reason> {
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
        let granted = timeout(patience, pool.queued(client, entropy, tried)).await;
        self.queue += began.elapsed();
        match granted {
            Ok(Some(lease)) => Ok(lease),
            Ok(None) => Err(Reason::NoBackend),
            Err(Elapsed { .. }) => Err(Reason::QueueTimeout),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A client that got no service, or not all of it, is told so by a reset: an orderly end
        // would look like an empty answer.
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

async fn connect(pool: &Pool, backend: &Backend) -> Result<TcpStream, ConnectFailure> {
    // A name that was never resolved has no weight and is not picked.
    let address = backend.address().ok_or(ConnectFailure::Unreachable)?;
    let deadline = tokio::time::Instant::now() + pool.connect_timeout;
    let stream = socket::connect(address, pool.source)
        .and_then(TcpStream::from_std)
        .map_err(|error| ConnectFailure::of(&error))?;
    let ready = match timeout_at(deadline, stream.ready(Interest::WRITABLE)).await {
        Ok(ready) => ready.map_err(|error| ConnectFailure::of(&error))?,
        Err(Elapsed { .. }) => return Err(ConnectFailure::Timeout),
    };
    // Only a socket that failed is closed for writing already, and has an error to ask for.
    if !ready.is_write_closed() {
        return Ok(stream);
    }
    match stream.take_error() {
        Ok(None) => Err(ConnectFailure::Other),
        Ok(Some(error)) | Err(error) => Err(ConnectFailure::of(&error)),
    }
}
