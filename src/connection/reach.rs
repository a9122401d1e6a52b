//! The way to a backend: a lease, a connection, and TLS where the pool has it.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Session, unless_cut};
use crate::balance::Unavailable;
use crate::balance::maglev::hash_client;
use crate::event_loop::{EventLoop, Interest, Watched};
use crate::pool::{Addresses, Backend, Lease, Pool, Report, Target, Tried};
use crate::proto::proxy_protocol::{self, Certificate, Ends, Version};
use crate::relay::Relay;
use crate::socket;
use crate::stats::{ConnectFailure, HandshakeFailure, Reason};
use crate::tls::client::Client;
use crate::tls::refusal::Refused;
use crate::tls::session::ClientSession;

/// How long a connection waits before it asks again for what the system lacks.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// So many addresses of one backend are tried by one connection at most.
const MOST_TURNS: usize = 4;

/// What a connection has tried at first.
static NONE_TRIED: Tried = Tried::none();

impl Session {
    /// Finds a backend that answers, and sends it what the client has sent first. Says why if there
    /// is none.
    pub(super) async fn reach(
        &mut self,
        pool: &Arc<Pool>,
        client: &Watched<TcpStream>,
        relay: &mut Relay,
    ) -> Result<(Lease, Watched<TcpStream>, Option<Box<ClientSession>>), Reason> {
        // Few ever try a second one, and all others would carry the room for it.
        let mut tried: Option<Box<Tried>> = None;
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
            let seat = self.local.roster.join(backend.id, self.at, self.local.events.current());
            let (began, mut connected) = loop {
                let began = Instant::now();
                let is_plain =
                    pool.send_proxy.is_none() && matches!(backend.target(), Some(Target::One(_)));
                let connected = match is_plain {
                    true => {
                        let events = &self.local.events;
                        let made = pin!(connect(events, pool, backend, client, relay));
                        unless_cut(&seat, made).await
                    }
                    // Boxed: all others would carry the room for it.
                    false => {
                        let mut made = self.connect_otherwise(pool, backend, client, relay);
                        unless_cut(&seat, made.as_mut()).await
                    }
                };
                match connected.unwrap_or(Err(Unconnected::Cut)) {
                    Err(Unconnected::Short(error)) if self.queue < pool.queue_timeout => {
                        self.queue += Box::pin(self.wait_for_files(client, error)).await?;
                    }
                    done => break (began, done),
                }
            };
            let mut tls = None;
            if let (Ok(socket), Some(offer)) = (&connected, pool.tls.get(self.local.index)) {
                let deadline = began + pool.connect_timeout;
                let mut securing = Box::pin(self.secure(socket, backend, offer, client, deadline));
                let secured = unless_cut(&seat, securing.as_mut()).await;
                drop(securing);
                match secured.unwrap_or(Err(Unconnected::Cut)) {
                    // Boxed: all others would carry the room for it.
                    Ok(session) => tls = Some(Box::new(session)),
                    Err(error) => connected = Err(error),
                }
            }
            let took = began.elapsed();
            self.connect = Some(self.connect.unwrap_or_default() + took);
            let stats = backend.stats.of(self.local.index);
            let failure = match connected {
                Ok(backend) => {
                    stats.connections.add(1);
                    stats.connect_nanoseconds.add(took.as_nanos() as u64);
                    pool.connect_seconds.record(took);
                    return Ok((lease, backend, tls));
                }
                Err(Unconnected::Failed(failure)) => failure,
                Err(Unconnected::Short(_)) => ConnectFailure::Local,
                Err(Unconnected::Misnamed) => {
                    stats.connect_failures.of(ConnectFailure::Tls as usize).add(1);
                    return Err(Reason::ConnectFailed);
                }
                Err(Unconnected::ClientGone) => return Err(Reason::ClientReset),
                // No failure of this connection's, so it takes none of its retries.
                Err(Unconnected::Cut) => {
                    tried.get_or_insert_default().push(backend);
                    continue;
                }
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

    /// Waits a moment for what the system lacks, as in a queue: it is no time that the backend takes.
    /// Meanwhile the client keeps what it was given, and those behind it wait in the accept queue.
    /// Returns how long that was.
    async fn wait_for_files(
        &self,
        client: &Watched<TcpStream>,
        error: io::Error,
    ) -> Result<Duration, Reason> {
        self.local.tell_of_shortage("cannot connect to backends for now; connections wait", &error);
        let (began, events) = (Instant::now(), &self.local.events);
        events.sleep_until(events.now() + SHORTAGE_PAUSE).await;
        if client.has_failed() { Err(Reason::ClientReset) } else { Ok(began.elapsed()) }
    }

    /// Connects where there is more to it than one address: a PROXY header, or several addresses.
    fn connect_otherwise<'a>(
        &'a self,
        pool: &'a Pool,
        backend: &Backend,
        client: &'a Watched<TcpStream>,
        relay: &'a mut Relay,
    ) -> Pin<Box<dyn Future<Output = Result<Watched<TcpStream>, Unconnected>> + 'a>> {
        let header = pool.send_proxy.map(|version| self.header(version, client));
        let target = backend.target();
        let events = &self.local.events;
        let deadline = events.now() + pool.connect_timeout;
        Box::pin(async move {
            match (target, header) {
                // A name that was never resolved has no weight and is not picked.
                (None, _) => Err(Unconnected::Failed(ConnectFailure::Unreachable)),
                (Some(Target::One(address)), None) => {
                    let begun = begin(pool, address, has_first(pool, relay));
                    connect_begun(events, pool, begun, deadline, client, relay).await
                }
                (Some(Target::One(address)), Some(header)) => {
                    connect_telling(events, pool, (address, deadline), client, relay, &header).await
                }
                (Some(Target::Several(addresses)), header) => {
                    let to = (&*addresses, deadline);
                    connect_in_turn(events, pool, to, client, relay, header).await
                }
            }
        })
    }

    /// The header that tells a backend whom this connection is from.
    fn header(&self, version: Version, client: &Watched<TcpStream>) -> Vec<u8> {
        let announced = self.entry.as_ref().and_then(|entry| entry.server);
        let server = announced.or_else(|| client.get_ref().local_addr().ok());
        let Some(server) = server else {
            // The socket is gone, and what comes next will find out.
            return proxy_protocol::local(version);
        };
        let tls = self.tls.as_deref().map(|facts| proxy_protocol::Tls {
            version: facts.version,
            alpn: facts.alpn.as_deref().map(str::as_bytes),
            server_name: facts.server_name.as_deref(),
            certificate: facts.certificate.as_ref().map(|certificate| Certificate {
                common_name: certificate.common_name.as_deref(),
                resumed: facts.resumed == Some(true),
            }),
        });
        let ends = Ends { client: self.client, server };
        proxy_protocol::header(version, ends, tls.as_ref())
    }

    /// The handshake with a backend.
    async fn secure(
        &self,
        socket: &Watched<TcpStream>,
        backend: &Backend,
        offer: &Client,
        client: &Watched<TcpStream>,
        deadline: Instant,
    ) -> Result<ClientSession, Unconnected> {
        let asked = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let handshake = async {
            let Some(own) = &backend.peer else {
                return Err(Refused::nameless());
            };
            self.local.turnstile().await;
            ClientSession::connect(socket, offer, offer.peer(own, asked)).await
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
            _ if refused.misnamed && asked.is_some() && offer.asks_as_client() => {
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
    /// It could not even be begun: the system lacks files or memory for now.
    Short(io::Error),
    /// The backend is not who the client asked for.
    Misnamed,
    /// The client has broken off meanwhile.
    ClientGone,
    /// Nobody is to be at this backend any more.
    Cut,
}

impl From<io::Error> for Unconnected {
    fn from(error: io::Error) -> Self {
        Self::Failed(ConnectFailure::of(&error))
    }
}

/// Connects to a backend that has one address. No `async fn`: the address would be carried while the
/// connection waits.
fn connect<'a>(
    events: &'a Rc<EventLoop>,
    pool: &'a Pool,
    backend: &Backend,
    client: &'a Watched<TcpStream>,
    relay: &'a mut Relay,
) -> impl Future<Output = Result<Watched<TcpStream>, Unconnected>> + 'a {
    let begun = match backend.target() {
        Some(Target::One(address)) => begin(pool, address, has_first(pool, relay)),
        // It was one a moment ago.
        _ => Err(Unconnected::Failed(ConnectFailure::Unreachable)),
    };
    let deadline = events.now() + pool.connect_timeout;
    connect_begun(events, pool, begun, deadline, client, relay)
}

async fn connect_begun(
    events: &Rc<EventLoop>,
    pool: &Pool,
    begun: Result<TcpStream, Unconnected>,
    deadline: Instant,
    client: &Watched<TcpStream>,
    relay: &mut Relay,
) -> Result<Watched<TcpStream>, Unconnected> {
    // Where TLS comes first, nothing is sent before.
    let first = if pool.tls.is_empty() { relay.first() } else { &[] };
    let socket = events.hold(begun?);
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
    established(events, &socket, client, deadline).await?;
    check(&socket)?;
    Ok(socket)
}

/// The same, where a PROXY header comes before all else, TLS included.
async fn connect_telling(
    events: &Rc<EventLoop>,
    pool: &Pool,
    (address, deadline): (SocketAddr, Instant),
    client: &Watched<TcpStream>,
    relay: &mut Relay,
    header: &[u8],
) -> Result<Watched<TcpStream>, Unconnected> {
    let socket = events.hold(begin(pool, address, true)?);
    socket.mark_dry();
    if tell(&socket, pool, relay, header)? {
        socket.watch(Interest::Read)?;
        return Ok(socket);
    }
    socket.watch(Interest::ReadWrite)?;
    established(events, &socket, client, deadline).await?;
    check(&socket)?;
    // A socket that is writable, and has sent nothing yet, has room for more than a header.
    match tell(&socket, pool, relay, header)? {
        true => Ok(socket),
        false => Err(Unconnected::Failed(ConnectFailure::Local)),
    }
}

/// Sends a header, and with it what the client has sent first. False if there is no room.
fn tell(
    socket: &Watched<TcpStream>,
    pool: &Pool,
    relay: &mut Relay,
    header: &[u8],
) -> Result<bool, Unconnected> {
    let first = if pool.tls.is_empty() { relay.first() } else { &[] };
    match socket::send_both(socket, header, first) {
        Ok(sent) => match sent.checked_sub(header.len()) {
            Some(sent) => {
                relay.sent(sent);
                Ok(true)
            }
            None => Err(Unconnected::Failed(ConnectFailure::Local)),
        },
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The same for a backend with several addresses: the one that worked last, and then up to
/// [`MOST_TURNS`] in all, until one has connected. The time that is left is shared evenly among those
/// that are left, so that one from which nothing comes leaves time for the others.
///
/// One after the other, and no race of all: what checks and connections have found comes first, so
/// the second is needed in the moment of a failure and hardly ever after.
async fn connect_in_turn(
    events: &Rc<EventLoop>,
    pool: &Pool,
    (addresses, deadline): (&Addresses, Instant),
    client: &Watched<TcpStream>,
    relay: &mut Relay,
    header: Option<Vec<u8>>,
) -> Result<Watched<TcpStream>, Unconnected> {
    let turns = addresses.all().len().min(MOST_TURNS);
    let mut failed = Unconnected::Failed(ConnectFailure::Unreachable);
    for (turn, address) in addresses.in_turn().take(turns).enumerate() {
        let now = events.now();
        let share = deadline.saturating_duration_since(now) / (turns - turn) as u32;
        let to = (address, now + share);
        let connected = match &header {
            None => {
                let begun = begin(pool, address, has_first(pool, relay));
                connect_begun(events, pool, begun, to.1, client, relay).await
            }
            Some(header) => connect_telling(events, pool, to, client, relay, header).await,
        };
        match connected {
            Err(error @ Unconnected::Failed(_)) => failed = error,
            Ok(socket) => {
                if turn > 0 {
                    addresses.prefer(address);
                }
                return Ok(socket);
            }
            Err(other) => return Err(other),
        }
    }
    Err(failed)
}

/// Whether something is sent as soon as a backend is connected.
fn has_first(pool: &Pool, relay: &Relay) -> bool {
    pool.tls.is_empty() && !relay.first().is_empty()
}

fn begin(pool: &Pool, address: SocketAddr, data_follows: bool) -> Result<TcpStream, Unconnected> {
    socket::connect(address, pool.source, data_follows).map_err(|error| {
        if socket::is_shortage(&error) { Unconnected::Short(error) } else { error.into() }
    })
}

/// Waits until a socket has connected, or has failed to.
fn established<'a>(
    events: &'a EventLoop,
    socket: &'a Watched<TcpStream>,
    client: &'a Watched<TcpStream>,
    deadline: Instant,
) -> impl Future<Output = Result<(), Unconnected>> + 'a {
    poll_fn(move |_| {
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
    })
}

fn check(socket: &Watched<TcpStream>) -> Result<(), Unconnected> {
    // Only a socket that failed has an error to ask for.
    if socket.has_failed()
        && let Some(error) = socket::take_error(socket)?
    {
        return Err(error.into());
    }
    Ok(())
}
