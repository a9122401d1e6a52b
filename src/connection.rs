//! The life of a connection, from accept to its record.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use metrics::Histogram;

use crate::balance::Unavailable;
use crate::balance::maglev::hash_client;
use crate::event_loop::{EventLoop, Interest, Watched};
use crate::pool::{Backend, Lease, Pool, Report, Tried};
use crate::proto::client_hello;
use crate::record::{Id, Record, TlsFacts};
use crate::redirect::{self, Challenges, Outcome};
use crate::relay::{End, Plain, Relay, Side, Then, take_leave};
use crate::route::Asked;
use crate::snapshot::{Listener, Protocol};
use crate::socket::{self, ResetOnDrop};
use crate::stats::{ConnectFailure, HandshakeFailure, Hello, Reason};
use crate::tls::client::Client;
use crate::tls::server::Server;
use crate::tls::session::{Hello as ReceivedHello, Refused, Session as TlsSession, Tls};
use crate::worker::{Local, Place};

/// Bytes that are read at a time of a ClientHello: most have fewer.
const HELLO: usize = 2048;

/// What a connection has tried at first.
static NONE_TRIED: Tried = Tried::none();

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
    let reason = match &listener.protocol {
        Protocol::Tcp => session.pass(&listener).await,
        // Boxed: it is large, and all others would carry the room for it.
        Protocol::Tls { server, handshake_seconds } => {
            Box::pin(session.terminate(&listener, server, handshake_seconds)).await
        }
        Protocol::TlsPassthrough => Box::pin(session.pass_by_name(&listener)).await,
        Protocol::Redirect(challenges) => {
            Box::pin(session.redirect(&listener, challenges.as_ref())).await
        }
    };
    session.end(reason);
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
    tls: Option<Box<TlsFacts>>,
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
            tls: None,
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

    /// The client's socket, which is to say something before it is served.
    fn watch_client(&mut self) -> Option<Watched<TcpStream>> {
        let watched = self.local.events.watch(self.socket.take()?, Interest::Read);
        watched.inspect_err(|error| tracing::error!(%error, "cannot watch a socket")).ok()
    }

    /// Relays what the client sends as it is.
    async fn pass(&mut self, listener: &Listener) -> Reason {
        let Some(pool) = &listener.pool else {
            return Reason::NoRoute;
        };
        let Some(client) = self.socket.take() else {
            return Reason::ClientReset;
        };
        let client = self.local.events.hold(client);
        let reset = ResetOnDrop::new(&client);
        let mut relay = Relay::default();
        if relay.listen(&mut Plain(&client)).is_err() {
            return Reason::ClientReset;
        }
        // Only now: what has been read is no event any more.
        if let Err(error) = client.watch(Interest::Read) {
            tracing::error!(%error, "cannot watch a socket");
            return Reason::ClientReset;
        }
        let reason = self.carry(listener, pool, &mut Plain(&client), &mut relay).await;
        if reason == Reason::Closed {
            reset.disarm();
        }
        reason
    }

    /// Ends TLS here, and relays what is within.
    async fn terminate(
        &mut self,
        listener: &Listener,
        server: &Server,
        handshake_seconds: &Histogram,
    ) -> Reason {
        let Some(client) = self.watch_client() else {
            return Reason::ClientReset;
        };
        let reset = ResetOnDrop::new(&client);
        let (mut tls, pool) = match self.shake_hands(listener, &client, server).await {
            Ok((tls, pool, took)) => {
                handshake_seconds.record(took);
                (tls, pool)
            }
            Err(reason) => {
                // A reset would overtake the alert.
                reset.disarm();
                take_leave(&self.local.events, &client).await;
                return reason;
            }
        };
        let mut client = Tls { socket: &client, session: &mut tls };
        let Some(pool) = &pool else {
            return Reason::NoRoute;
        };
        let mut relay = Relay::default();
        if relay.listen(&mut client).is_err() {
            return Reason::ClientReset;
        }
        let reason = self.carry(listener, pool, &mut client, &mut relay).await;
        if reason == Reason::Closed {
            reset.disarm();
        }
        reason
    }

    /// Relays TLS as it is, to where its ClientHello wants to go.
    async fn pass_by_name(&mut self, listener: &Listener) -> Reason {
        let Some(client) = self.watch_client() else {
            return Reason::ClientReset;
        };
        let reset = ResetOnDrop::new(&client);
        let (mut first, mut ended) = (Vec::new(), false);
        let deadline = self.at + listener.client_timeout;
        let reading = read_hello(&client, &mut first, &mut ended);
        let seen = match self.local.events.until(deadline, reading).await {
            Some(Ok(seen)) => seen,
            Some(Err(_gone)) => return Reason::ClientReset,
            None => Hello::TooSlow,
        };
        listener.meters.stats.of(self.local.index).hellos.of(seen as usize).add(1);
        let Some(pool) = self.route(listener, seen, &first) else {
            return match seen {
                Hello::Named | Hello::Unnamed => Reason::NoRoute,
                Hello::TooSlow => Reason::ClientTimeout,
                _ => Reason::BadClientHello,
            };
        };
        let mut relay = Relay::starting_with(first, ended);
        let reason = self.carry(listener, &pool, &mut Plain(&client), &mut relay).await;
        if reason == Reason::Closed {
            reset.disarm();
        }
        reason
    }

    /// Answers a request of HTTP with the way to HTTPS.
    async fn redirect(&mut self, listener: &Listener, challenges: Option<&Challenges>) -> Reason {
        let Some(client) = self.watch_client() else {
            return Reason::ClientReset;
        };
        let reset = ResetOnDrop::new(&client);
        let deadline = self.at + listener.client_timeout;
        let served = redirect::serve(&self.local.events, &client, challenges, deadline).await;
        let (reason, read, written) = match served {
            Outcome::Gone => return Reason::ClientReset,
            Outcome::Answered(read, written) => (Reason::Closed, read, written),
            Outcome::TooSlow(read, written) => (Reason::ClientTimeout, read, written),
            Outcome::Pool(pool, first, ended) => {
                let mut relay = Relay::starting_with(first, ended);
                let reason = self.carry(listener, &pool, &mut Plain(&client), &mut relay).await;
                if reason == Reason::Closed {
                    reset.disarm();
                }
                return reason;
            }
        };
        reset.disarm();
        self.bytes = (read as u64, written as u64);
        let stats = listener.meters.stats.of(self.local.index);
        stats.bytes_in.add(self.bytes.0);
        stats.bytes_out.add(self.bytes.1);
        reason
    }

    /// Where a client goes that has sent `first`. What is no ClientHello is routed by its address
    /// alone.
    fn route(&mut self, listener: &Listener, seen: Hello, first: &[u8]) -> Option<Arc<Pool>> {
        let parsed = match seen {
            Hello::Named | Hello::Unnamed => client_hello::parse(first),
            _ => client_hello::Parsed::Incomplete,
        };
        let (server_name, protocols) = match &parsed {
            client_hello::Parsed::Hello(hello) => {
                (hello.server_name(), hello.protocols().collect())
            }
            _ => (None, Vec::new()),
        };
        self.tls = server_name.map(|name| {
            Box::new(TlsFacts { server_name: Some(name.into()), ..TlsFacts::default() })
        });
        let asked = Asked { server_name, protocols: &protocols, client: self.client.ip() };
        listener.route(&asked).cloned()
    }

    /// The handshake with a client, and where it is to go.
    async fn shake_hands(
        &mut self,
        listener: &Listener,
        client: &Watched<TcpStream>,
        server: &Server,
    ) -> Result<(TlsSession, Option<Arc<Pool>>, Duration), Reason> {
        let (local, began) = (Rc::clone(&self.local), Instant::now());
        let from = self.client.ip();
        let handshake = async {
            let hello = ReceivedHello::receive(client).await?;
            let pool = route_of(listener, &hello, from).cloned();
            local.turnstile().await;
            hello.answer(server).await.map(|session| (session, pool))
        };
        let made = self.local.events.until(self.at + listener.client_timeout, handshake).await;
        let stats = listener.meters.stats.of(self.local.index);
        let refused = match made {
            Some(Ok((session, pool))) => {
                let took = began.elapsed();
                stats.handshakes.of(session.handshake() as usize).add(1);
                self.tls = Some(Box::new(TlsFacts {
                    server_name: session.server_name().map(Into::into),
                    version: Some(session.handshake().version()),
                    cipher: session.cipher(),
                    resumed: Some(session.handshake().is_resumed()),
                    alpn: session.alpn().map(|name| String::from_utf8_lossy(name).into()),
                    handshake: Some(took),
                }));
                return Ok((session, pool, took));
            }
            Some(Err(refused)) => refused,
            None => Refused::timeout(),
        };
        stats.handshake_failures.of(refused.failure as usize).add(1);
        tracing::info!(
            listener = &*listener.name,
            client = %self.client,
            server_name = refused.server_name,
            reason = refused.failure.name(),
            detail = refused.detail,
            "TLS handshake failed"
        );
        let server_name = refused.server_name.map(Into::into);
        self.tls = Some(Box::new(TlsFacts { server_name, ..TlsFacts::default() }));
        Err(match refused.failure {
            HandshakeFailure::Timeout => Reason::ClientTimeout,
            _ => Reason::TlsFailed,
        })
    }

    /// Takes the client to a backend, and relays to the end.
    async fn carry(
        &mut self,
        listener: &Listener,
        pool: &Arc<Pool>,
        client: &mut impl Side,
        relay: &mut Relay,
    ) -> Reason {
        self.pool = Some(Arc::clone(pool));
        let (lease, backend, tls) = match self.reach(pool, client.socket(), relay).await {
            Ok(reached) => reached,
            Err(reason) => return reason,
        };
        let reset = ResetOnDrop::new(&backend);
        let limits = &listener.limits;
        let (events, worker) = (&self.local.events, self.local.index);
        let of_listener = listener.meters.stats.of(worker);
        let of_backend = lease.backend().stats.of(worker);
        let bytes = &mut self.bytes;
        let meter = |up, down| {
            bytes.0 += up;
            bytes.1 += down;
            of_listener.bytes_in.add(up);
            of_listener.bytes_out.add(down);
            of_backend.bytes_in.add(up);
            of_backend.bytes_out.add(down);
        };
        let end = match tls {
            None => relay.run(events, client, &mut Plain(&backend), limits, meter).await,
            Some(mut session) => {
                let mut backend = Tls { socket: &backend, session: &mut session };
                Box::pin(relay.run(events, client, &mut backend, limits, meter)).await
            }
        };
        if end == End::Closed {
            reset.disarm();
        }
        end.into()
    }

    /// Finds a backend that answers, and sends it what the client has sent first. Says why if there
    /// is none.
    async fn reach(
        &mut self,
        pool: &Arc<Pool>,
        client: &Watched<TcpStream>,
        relay: &mut Relay,
    ) -> Result<(Lease, Watched<TcpStream>, Option<TlsSession>), Reason> {
        // Few ever try a second one, and all others would carry the room for it.
        let mut tried: Option<Box<Tried>> = None;
        let mut connecting = Duration::ZERO;
        loop {
            let lease = match self
                .lease(pool, client, tried.as_deref().unwrap_or(&NONE_TRIED))
                .await
            {
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
            let mut connected = connect(&self.local.events, pool, backend, client, relay).await;
            let mut tls = None;
            if let (Ok(socket), Some(offer)) = (&connected, pool.tls.get(self.local.index)) {
                let deadline = began + pool.connect_timeout;
                match Box::pin(self.secure(socket, backend, offer, client, deadline)).await {
                    Ok(session) => tls = Some(session),
                    Err(error) => connected = Err(error),
                }
            }
            let took = began.elapsed();
            connecting += took;
            self.connect = Some(connecting);
            let stats = backend.stats.of(self.local.index);
            let failure = match connected {
                Ok(backend) => {
                    stats.connections.add(1);
                    pool.connect_seconds.record(took);
                    return Ok((lease, backend, tls));
                }
                Err(Unconnected::Failed(failure)) => failure,
                Err(Unconnected::Misnamed) => {
                    stats.connect_failures.of(ConnectFailure::Tls as usize).add(1);
                    return Err(Reason::ConnectFailed);
                }
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
            tried.get_or_insert_default().push(backend);
        }
    }

    /// The handshake with a backend.
    async fn secure(
        &self,
        socket: &Watched<TcpStream>,
        backend: &Backend,
        offer: &Client,
        client: &Watched<TcpStream>,
        deadline: Instant,
    ) -> Result<TlsSession, Unconnected> {
        let asked = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let handshake = async {
            let Some(own) = &backend.peer else {
                return Err(Refused::nameless());
            };
            TlsSession::connect(socket, offer, offer.peer(own, asked)).await
        };
        let handshake = unless_gone(client, handshake);
        let refused = match self.local.events.until(deadline, handshake).await {
            Some(Some(Ok(session))) => return Ok(session),
            Some(None) => return Err(Unconnected::ClientGone),
            Some(Some(Err(refused))) => refused,
            None => Refused::timeout(),
        };
        tracing::warn!(
            pool = &*backend.pool,
            backend = &*backend.name,
            reason = refused.failure.name(),
            detail = refused.detail,
            "TLS handshake with a backend failed"
        );
        Err(match refused.failure {
            HandshakeFailure::Timeout => Unconnected::Failed(ConnectFailure::Timeout),
            // No fault of the backend's, and no other would do better.
            HandshakeFailure::BadCertificate | HandshakeFailure::Alert
                if asked.is_some() && offer.asks_as_client() =>
            {
                Unconnected::Misnamed
            }
            _ => Unconnected::Failed(ConnectFailure::Tls),
        })
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
            tls: self.tls.as_deref(),
            duration,
            bytes_in: self.bytes.0,
            bytes_out: self.bytes.1,
            reason: self.reason,
            id: self.id,
        });
    }
}

/// Where a client goes that asks for this.
fn route_of<'a>(
    listener: &'a Listener,
    hello: &ReceivedHello<'_>,
    client: IpAddr,
) -> Option<&'a Arc<Pool>> {
    if listener.routes.is_empty() {
        return listener.pool.as_ref();
    }
    let (server_name, protocols) = (hello.server_name(), hello.protocols());
    let protocols: Vec<_> = protocols.iter().map(Vec::as_slice).collect();
    listener.route(&Asked { server_name: server_name.as_deref(), protocols: &protocols, client })
}

/// Reads until it is known what comes first. All bytes are in `first`, whatever they are; `ended`
/// if nothing follows them.
///
/// Fails if the client is gone.
async fn read_hello(
    client: &Watched<TcpStream>,
    first: &mut Vec<u8>,
    ended: &mut bool,
) -> io::Result<Hello> {
    let mut reader = client_hello::Reader::new();
    poll_fn(|_| {
        while client.is_readable() && !*ended {
            let before = first.len();
            first.resize(before + HELLO, 0);
            let received = Plain(client).receive(&mut first[before..]);
            let bytes = received.as_ref().map_or(0, |received| received.bytes);
            first.truncate(before + bytes);
            *ended = received?.then == Then::End;
            let seen = match reader.advance(first) {
                client_hello::Parsed::Incomplete if *ended => Hello::Cut,
                client_hello::Parsed::Incomplete => continue,
                client_hello::Parsed::Hello(hello) if hello.server_name().is_some() => Hello::Named,
                client_hello::Parsed::Hello(_) => Hello::Unnamed,
                client_hello::Parsed::Invalid(reason) => match reason {
                    client_hello::Reason::NotTls | client_hello::Reason::Sslv2 => Hello::NotTls,
                    client_hello::Reason::Malformed => Hello::Malformed,
                    client_hello::Reason::TooLarge => Hello::TooLarge,
                },
            };
            return Poll::Ready(Ok(seen));
        }
        Poll::Pending
    })
    .await
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
    /// The backend is not who the client asked for.
    Misnamed,
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
    // Where TLS comes first, nothing is sent before.
    let first = if pool.tls.is_empty() { relay.first() } else { &[] };
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
        assert!(size <= 1032, "{size} bytes");
    }
}
