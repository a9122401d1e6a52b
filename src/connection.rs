//! The life of a connection, from accept to its record.

mod entry;
mod reach;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use metrics::Histogram;

use crate::event_loop::{Interest, Watched};
use crate::pool::{Backend, Pool};
use crate::proto::client_hello;
use crate::proto::first_bytes::{self, FirstBytes};
use crate::proto::proxy_protocol::Version;
use crate::record::{Id, Record, TlsFacts};
use crate::redirect::{self, Challenges, Outcome};
use crate::relay::{End, Plain, Relay, Side, Unheard, gather, take_leave};
use crate::route::Asked;
use crate::snapshot::{Listener, Protocol};
use crate::socket::{self, ResetOnDrop};
use crate::stats::{HandshakeFailure, Hello, Reason};
use crate::tls::refusal::Refused;
use crate::tls::server::Server;
use crate::tls::session::{Hello as ReceivedHello, ServerSession, Tls};
use crate::worker::{Cut, Local, Place, Seat};
use entry::Entry;

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
    if let Some(guard) = &listener.guard
        && let Err(reason) = session.enter(&listener, guard).await
    {
        return session.end(reason);
    }
    let reason = match &listener.protocol {
        Protocol::Tcp => match listener.first_bytes_timeout {
            None => session.pass(&listener).await,
            Some(patience) => Box::pin(session.pass_by_first_bytes(&listener, patience)).await,
        },
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
    close_notify: Option<bool>,
    reason: Reason,
    /// What it has said first, where a route asks for it.
    first_bytes: Option<FirstBytes>,
    at: Instant,
    id: Id,
    /// How it came in, where there is something to tell of it.
    entry: Option<Box<Entry>>,
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
            close_notify: None,
            reason: Reason::Drained,
            first_bytes: None,
            at: accepted.at,
            id: accepted.id,
            entry: None,
            _place: accepted.place,
        }
    }

    fn end(mut self, reason: Reason) {
        self.reason = reason;
    }

    /// The client's socket, which is to say something before it is served.
    fn watch_client(&mut self) -> Option<Watched<TcpStream>> {
        if let Some(client) = self.entry.as_mut().and_then(|entry| entry.client.take()) {
            return Some(client);
        }
        let watched = self.local.events.watch(self.socket.take()?, Interest::Read);
        watched.inspect_err(|error| tracing::error!(%error, "cannot watch a socket")).ok()
    }

    /// What the client has said by now, if that was read.
    fn said(&mut self) -> Vec<u8> {
        self.entry.as_mut().map(|entry| std::mem::take(&mut entry.first)).unwrap_or_default()
    }

    /// Relays what the client sends as it is.
    async fn pass(&mut self, listener: &Listener) -> Reason {
        let Some(pool) = pool_by_address(listener, self.client.ip()) else {
            return Reason::NoRoute;
        };
        if self.entry.as_ref().is_some_and(|entry| entry.client.is_some()) {
            return Box::pin(self.pass_on(listener, pool)).await;
        }
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
        self.carry(listener, pool, &mut Plain(&client), &mut relay, reset).await
    }

    /// The same after a PROXY header.
    async fn pass_on(&mut self, listener: &Listener, pool: &Arc<Pool>) -> Reason {
        let Some(client) = self.watch_client() else {
            return Reason::ClientReset;
        };
        let reset = ResetOnDrop::new(&client);
        let mut relay = Relay::starting_with(self.said(), false);
        self.carry(listener, pool, &mut Plain(&client), &mut relay, reset).await
    }

    /// Relays what the client sends as it is, to where the first of it leads.
    async fn pass_by_first_bytes(&mut self, listener: &Listener, patience: Duration) -> Reason {
        let Some(client) = self.watch_client() else {
            return Reason::ClientReset;
        };
        let reset = ResetOnDrop::new(&client);
        let mut first = self.said();
        let Ok((kind, ended)) = self.tell_apart(&client, &mut first, patience).await else {
            return Reason::ClientReset;
        };
        let from = Whence { client: self.client.ip(), first_bytes: Some(kind) };
        let Some(pool) = listener.route(&from.asking(None, &[])) else {
            return Reason::NoRoute;
        };
        let mut relay = Relay::starting_with(first, ended);
        self.carry(listener, pool, &mut Plain(&client), &mut relay, reset).await
    }

    /// Reads until it is settled what the client says first, for `patience` at most, and whether
    /// nothing follows.
    ///
    /// Fails if the client is gone.
    async fn tell_apart(
        &mut self,
        client: &Watched<TcpStream>,
        first: &mut Vec<u8>,
        patience: Duration,
    ) -> io::Result<(FirstBytes, bool)> {
        let mut reader = first_bytes::Reader::new();
        let deadline = self.local.events.now() + patience;
        let reading = gather(client, first, |bytes, ended| match reader.advance(bytes) {
            None if ended => Some((FirstBytes::unsettled(bytes), true)),
            kind => kind.map(|kind| (kind, ended)),
        });
        let told = self.local.events.until(deadline, reading).await.transpose()?;
        let (kind, ended) = told.unwrap_or_else(|| (FirstBytes::unsettled(first), false));
        self.first_bytes = Some(kind);
        Ok((kind, ended))
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
        // Boxed: what a handshake holds is given back before the connection falls silent.
        let handshake = Box::pin(self.shake_hands(listener, &client, server));
        let (mut tls, pool) = match handshake.await {
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
        self.carry(listener, pool, &mut client, &mut relay, reset).await
    }

    /// Relays TLS as it is, to where its ClientHello wants to go.
    async fn pass_by_name(&mut self, listener: &Listener) -> Reason {
        let Some(client) = self.watch_client() else {
            return Reason::ClientReset;
        };
        let reset = ResetOnDrop::new(&client);
        let mut first = self.said();
        let told = match listener.first_bytes_timeout {
            None => None,
            Some(patience) => match self.tell_apart(&client, &mut first, patience).await {
                Ok(told) => Some(told),
                Err(_gone) => return Reason::ClientReset,
            },
        };
        let is_tls = told.is_none_or(|(kind, _)| kind == FirstBytes::Tls);
        let from = Whence { client: self.client.ip(), first_bytes: told.map(|(kind, _)| kind) };
        let heard = if is_tls {
            let mut reader = client_hello::Reader::new();
            let reading = gather(&client, &mut first, |bytes, ended| {
                hear(listener, from, &reader.advance(bytes), ended)
            });
            let deadline = self.at + listener.client_timeout;
            match self.local.events.until(deadline, reading).await {
                Some(Ok(heard)) => Some(heard),
                Some(Err(_gone)) => return Reason::ClientReset,
                None => None,
            }
        } else {
            // It is something else, and no ClientHello is worth waiting for.
            let ended = told.is_some_and(|(_, ended)| ended);
            hear(listener, from, &client_hello::parse(&first), ended)
        };
        let heard = heard.unwrap_or_else(|| {
            let pool = listener.route(&from.asking(None, &[])).cloned();
            Heard { what: Hello::TooSlow, name: None, pool, ended: false }
        });
        listener.meters.stats.of(self.local.index).hellos.of(heard.what as usize).add(1);
        self.tls = heard
            .name
            .map(|name| Box::new(TlsFacts { server_name: Some(name), ..TlsFacts::default() }));
        let Some(pool) = heard.pool else {
            return match heard.what {
                _ if !is_tls => Reason::NoRoute,
                Hello::Named | Hello::Unnamed => Reason::NoRoute,
                Hello::TooSlow => Reason::ClientTimeout,
                _ => Reason::BadClientHello,
            };
        };
        let mut relay = Relay::starting_with(first, heard.ended);
        self.carry(listener, &pool, &mut Plain(&client), &mut relay, reset).await
    }

    /// Answers a request of HTTP with the way to HTTPS.
    async fn redirect(&mut self, listener: &Listener, challenges: Option<&Challenges>) -> Reason {
        let Some(client) = self.watch_client() else {
            return Reason::ClientReset;
        };
        let reset = ResetOnDrop::new(&client);
        let (said, deadline) = (self.said(), self.at + listener.client_timeout);
        let served = redirect::serve(&self.local.events, &client, said, challenges, deadline).await;
        let (reason, read, written) = match served {
            Outcome::Gone => return Reason::ClientReset,
            Outcome::Answered(read, written) => (Reason::Closed, read, written),
            Outcome::TooSlow(read, written) => (Reason::ClientTimeout, read, written),
            Outcome::Pool(pool, asked, ended) => {
                let mut relay = Relay::starting_with(asked, ended);
                // That one request is all that the pool gets.
                let mut client = Unheard::new(&client);
                return self.carry(listener, &pool, &mut client, &mut relay, reset).await;
            }
        };
        reset.disarm();
        self.bytes = (read as u64, written as u64);
        let stats = listener.meters.stats.of(self.local.index);
        stats.bytes_in.add(self.bytes.0);
        stats.bytes_out.add(self.bytes.1);
        reason
    }

    /// The handshake with a client, and where it is to go.
    async fn shake_hands(
        &mut self,
        listener: &Listener,
        client: &Watched<TcpStream>,
        server: &Server,
    ) -> Result<(ServerSession, Option<Arc<Pool>>, Duration), Reason> {
        let (local, began) = (Rc::clone(&self.local), Instant::now());
        let (from, said) = (self.client.ip(), self.said());
        let handshake = async {
            let hello = ReceivedHello::receive(client, said).await?;
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
                    certificate: wants_certificate(pool.as_deref())
                        .then(|| session.client_certificate())
                        .flatten(),
                }));
                return Ok((session, pool, took));
            }
            Some(Err(refused)) => refused,
            None => Refused::timeout(),
        };
        stats.handshake_failures.of(refused.failure as usize).add(1);
        if let Some(withheld) = local.complaints.take(local.events.now()) {
            tracing::info!(
                listener = &*listener.name,
                client = %self.client,
                server_name = refused.server_name,
                reason = refused.failure.name(),
                detail = refused.detail,
                withheld = (withheld > 0).then_some(withheld),
                "TLS handshake failed"
            );
        }
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
        reset_client: ResetOnDrop<'_, Watched<TcpStream>>,
    ) -> Reason {
        self.pool = Some(Arc::clone(pool));
        let (lease, backend, tls) = match self.reach(pool, client.socket(), relay).await {
            Ok(reached) => reached,
            Err(reason) => return reason,
        };
        // Its place among those of its source is all that is still of use.
        self.entry.take_if(|entry| entry.share.is_none());
        let reset_backend = ResetOnDrop::new(&backend);
        let limits = &listener.limits;
        let (events, worker) = (&self.local.events, self.local.index);
        let seat = self.local.roster.join(lease.backend().id, self.at, events.current());
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
            None => {
                let mut backend = Plain(&backend);
                let end = {
                    let relaying = pin!(relay.run(
                        events,
                        client,
                        &mut backend,
                        limits,
                        pool.user_timeout,
                        meter
                    ));
                    unless_cut(&seat, relaying).await
                };
                conclude(end, relay, client, &backend, (&mut self.bytes, &mut self.close_notify));
                end
            }
            Some(mut session) => {
                let mut backend = Tls { socket: &backend, session: &mut session };
                let mut relaying = Box::pin(relay.run(
                    events,
                    client,
                    &mut backend,
                    limits,
                    pool.user_timeout,
                    meter,
                ));
                let end = unless_cut(&seat, relaying.as_mut()).await;
                drop(relaying);
                conclude(end, relay, client, &backend, (&mut self.bytes, &mut self.close_notify));
                end
            }
        };
        let end = match end {
            Ok(end) => end,
            Err(Cut::Drained) => return Reason::Drained,
            Err(Cut::BackendDown) => return Reason::BackendDown,
        };
        if end == End::Closed {
            reset_client.disarm();
            reset_backend.disarm();
        }
        end.into()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nobody has looked at it.
        if let Some(socket) = &self.socket {
            socket::reset_on_close(socket);
        }
        if let Some(client) = self.entry.as_ref().and_then(|entry| entry.client.as_ref()) {
            socket::reset_on_close(client);
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
            close_notify: self.close_notify,
            reason: self.reason,
            id: self.id,
        });
    }
}

/// Notes what the two sides have to say in the end, into what was delivered both ways and whether the
/// ends were announced.
fn conclude(
    end: Result<End, Cut>,
    relay: &Relay,
    client: &impl Side,
    backend: &impl Side,
    (bytes, close_notify): (&mut (u64, u64), &mut Option<bool>),
) {
    *close_notify = match (client.end_was_announced(), backend.end_was_announced()) {
        (Some(client), Some(backend)) => Some(client && backend),
        (one, other) => one.or(other),
    };
    if !matches!(end, Ok(End::Closed)) {
        // The reset that comes throws it away. After an orderly end the kernel still delivers it.
        let (up, down) = relay.unacknowledged(client, backend);
        bytes.0 = bytes.0.saturating_sub(up);
        bytes.1 = bytes.1.saturating_sub(down);
    }
}

/// What a future comes to, unless the connection is cut before. The future stays where it is: moving
/// it here would make room for it twice.
fn unless_cut<'a, T>(
    seat: &'a Seat<'_>,
    mut future: Pin<&'a mut (impl Future<Output = T> + ?Sized)>,
) -> impl Future<Output = Result<T, Cut>> {
    poll_fn(move |context| match seat.cut() {
        Some(cut) => Poll::Ready(Err(cut)),
        None => future.as_mut().poll(context).map(Ok),
    })
}

/// Whether a pool tells its backends of clients' certificates.
fn wants_certificate(pool: Option<&Pool>) -> bool {
    pool.is_some_and(|pool| pool.send_proxy == Some(Version::V2))
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
    let from = Whence { client, first_bytes: None };
    listener.route(&from.asking(hello.server_name(), &hello.protocols()))
}

/// Where a client goes of which nothing but its address is looked at.
fn pool_by_address(listener: &Listener, client: IpAddr) -> Option<&Arc<Pool>> {
    if listener.routes.is_empty() {
        return listener.pool.as_ref();
    }
    listener.route(&Whence { client, first_bytes: None }.asking(None, &[]))
}

/// What is known of a client before its ClientHello.
#[derive(Clone, Copy)]
struct Whence {
    client: IpAddr,
    first_bytes: Option<FirstBytes>,
}

impl Whence {
    /// A client that asks for this.
    fn asking<'a>(self, server_name: Option<&'a str>, protocols: &'a [&'a [u8]]) -> Asked<'a> {
        Asked { server_name, protocols, client: self.client, first_bytes: self.first_bytes }
    }
}

/// What a client has said where a ClientHello was due, and what of it decides where it goes.
struct Heard {
    what: Hello,
    name: Option<Box<str>>,
    pool: Option<Arc<Pool>>,
    /// Nothing follows.
    ended: bool,
}

/// Judges what has been read of a client; `None` = there is too little of it yet. What is no
/// ClientHello is routed by what is known besides.
fn hear(
    listener: &Listener,
    from: Whence,
    parsed: &client_hello::Parsed<'_>,
    ended: bool,
) -> Option<Heard> {
    use client_hello::{Parsed, Reason as Bad};
    let (mut server_name, mut protocols) = (None, Vec::new());
    let what = match parsed {
        Parsed::Incomplete if ended => Hello::Cut,
        Parsed::Incomplete => return None,
        Parsed::Hello(hello) => {
            (server_name, protocols) = (hello.server_name(), hello.protocols().collect());
            if server_name.is_some() { Hello::Named } else { Hello::Unnamed }
        }
        Parsed::Invalid(Bad::NotTls | Bad::Sslv2) => Hello::NotTls,
        Parsed::Invalid(Bad::Malformed) => Hello::Malformed,
        Parsed::Invalid(Bad::TooLarge) => Hello::TooLarge,
    };
    let pool = listener.route(&from.asking(server_name, &protocols)).cloned();
    Some(Heard { what, name: server_name.map(Into::into), pool, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// It is what a silent connection costs. malloc is quickest up to 1032 bytes, which would be worth
    /// getting back to.
    #[test]
    fn a_connection_is_small() {
        let size = size_of_output(serve);
        assert!(size <= 1056, "{size} bytes");
    }
}
