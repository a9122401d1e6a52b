//! Connections to the admin servers: who they are of, and what they may cost.
//!
//! Runs on the control thread, beside the checks. It must never let a client hold more than a place
//! among [`MOST_CLIENTS`], a head of [`HEAD`] bytes and the body that a route allows, each for a while
//! only: whoever is slow loses its connection, and nobody else notices.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};

/// Connections at once to each of the servers; others wait in the kernel.
pub const MOST_CLIENTS: usize = 128;

/// A request has to be here in full, but for its body, within this; so long may a connection be idle
/// as well.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long a server that stops waits for the first word of those who have connected.
const MOMENT: Duration = Duration::from_millis(200);

/// Largest head of a request, in bytes.
const HEAD: usize = 16 << 10;

/// Longest wait for a client to take a part of an answer.
const WRITE_TIME: Duration = Duration::from_secs(20);

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process of this host, over the unix socket.
    Local(Who),
    /// Somebody on TCP, who may only read.
    Remote,
}

/// A process that asks for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its user.
    pub uid: u32,
    /// Its number; `None` if it is in another namespace.
    pub pid: Option<i32>,
}

impl Who {
    /// Whether it may ask at all: root, and whoever the gateway runs as.
    pub fn is_permitted(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}

impl fmt::Display for Who {
    /// `uid 0 (root), pid 1234`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Looked up once: a name service may take its time.
        static OWN: OnceLock<Option<String>> = OnceLock::new();
        let own = nix::unistd::geteuid();
        let name = match self.uid {
            0 => Some("root"),
            uid if uid == own.as_raw() => {
                OWN.get_or_init(|| Some(nix::unistd::User::from_uid(own).ok()??.name)).as_deref()
            }
            _ => None,
        };
        write!(f, "uid {}", self.uid)?;
        if let Some(name) = name {
            write!(f, " ({name})")?;
        }
        match self.pid {
            Some(pid) => write!(f, ", pid {pid}"),
            None => Ok(()),
        }
    }
}

/// Where clients come in.
pub trait Entrance: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// The next one, and who it is of.
    fn enter(&self) -> impl Future<Output = io::Result<(Self::Stream, Caller)>> + Send;
}

impl Entrance for UnixListener {
    type Stream = UnixStream;

    async fn enter(&self) -> io::Result<(UnixStream, Caller)> {
        let (stream, _) = self.accept().await?;
        let peer = stream.peer_cred()?;
        Ok((stream, Caller::Local(Who { uid: peer.uid(), pid: peer.pid() })))
    }
}

impl Entrance for TcpListener {
    type Stream = TcpStream;

    async fn enter(&self) -> io::Result<(TcpStream, Caller)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, Caller::Remote))
    }
}

/// Serves until dropped, or until `stopped`: then it finishes what has been asked. Connections that are
/// open when it is dropped go on to their end.
pub(super) async fn serve(
    entrance: impl Entrance,
    router: Router,
    stopped: impl Future<Output = ()> + Send,
) {
    /// What is lacking when accepting fails (files, memory) comes back by itself.
    const PAUSE: Duration = Duration::from_millis(100);
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    let (closing, closed) = watch::channel(());
    let mut stopped = pin!(stopped);
    loop {
        let entering = async {
            // It is never closed.
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, caller) = entrance.enter().await?;
            io::Result::Ok((place, stream, caller))
        };
        let entered = tokio::select! {
            entered = entering => entered,
            () = &mut stopped => break,
        };
        let (place, stream, caller) = match entered {
            Ok(entered) => entered,
            Err(error) => {
                tracing::debug!(%error, "the admin server cannot accept");
                sleep(PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone().layer(Extension(caller)));
        let mut closed = closed.clone();
        tokio::spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(HEAD)
                .serve_connection(TokioIo::new(Patient::new(stream)), service);
            let mut served = pin!(served);
            let ended = tokio::select! {
                ended = &mut served => ended,
                // Said, or dropped with the server.
                said = closed.changed() => match said {
                    // hyper closes at once where nothing has come yet: who has just connected has a
                    // moment to ask.
                    Ok(()) => match timeout(MOMENT, served.as_mut()).await {
                        Ok(ended) => ended,
                        Err(_elapsed) => {
                            served.as_mut().graceful_shutdown();
                            served.await
                        }
                    },
                    Err(_dropped) => served.await,
                },
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the admin server ended early");
            }
            drop(place);
        });
    }
    drop(entrance);
    // Nobody listens any more if no connection is open.
    let _ = closing.send(());
    let everybody = u32::try_from(MOST_CLIENTS).unwrap_or(u32::MAX);
    let _all_gone = places.acquire_many(everybody).await;
}

/// A stream whose other end must take what it is sent within [`WRITE_TIME`].
struct Patient<S> {
    stream: S,
    /// When patience ends, while something waits to be taken.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S) -> Self {
        Self { stream, limit: None }
    }

    fn wait<T>(
        &mut self,
        tried: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.limit = None;
            return tried;
        }
        let end = Instant::now() + WRITE_TIME;
        let limit = self.limit.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        match limit.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tried = pin!(&mut self.stream).poll_write(context, bytes);
        self.wait(tried, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tried = pin!(&mut self.stream).poll_write_vectored(context, parts);
        self.wait(tried, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(context)
    }
}
