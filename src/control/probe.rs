//! One active check: the I/O to the decisions of [`crate::health`].

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::exchange::{Exchange, Next};
use crate::config::plan::{Check, Health, Step};
use crate::pool::Addresses;
use crate::proto::proxy_protocol::{Version, local};
use crate::socket;
use crate::stats::ConnectFailure;
use crate::tls::client::Prober;

/// The longest head of an answer, in bytes: what is longer is no answer. With as many checks at once
/// as there may be, it bounds their memory.
const LONGEST_HEAD: usize = 32 << 10;

/// So much of an answer is read at most, in bytes. A body is not asked for: what of it has come with
/// the head is less than [`LONGEST_HEAD`].
const MOST: u64 = 4 * LONGEST_HEAD as u64;

/// How long one address of several is waited for before the next is tried beside it (RFC 8305,
/// section 8).
const STAGGER: Duration = Duration::from_millis(250);

/// A check that did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPassed {
    /// The backend failed it, for this cause.
    Failed(String),
    /// This host lacks ports, files or memory, and says so in these words: of the backend it says
    /// nothing.
    Inconclusive(String),
}

impl From<String> for NotPassed {
    fn from(cause: String) -> Self {
        Self::Failed(cause)
    }
}

impl NotPassed {
    /// What an error says that came up on the way.
    fn of(error: &(impl Error + 'static), cause: String) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = next {
            let system = error.downcast_ref::<io::Error>();
            if system.is_some_and(|e| socket::is_shortage(e) || socket::is_port_shortage(e)) {
                return Self::Inconclusive(cause);
            }
            // An error of `io` that wraps another has that one's source as its own.
            next = match system.and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        Self::Failed(cause)
    }
}

/// What a check is made of, the same for all backends of a pool.
#[derive(Clone)]
pub struct Probe {
    /// What is done.
    pub health: Arc<Health>,
    /// The port to check; `None` = the backend's own.
    pub port: Option<u16>,
    /// Local address to connect from.
    pub source: Option<IpAddr>,
    /// The PROXY protocol that the backends expect. A port that serves something else, and is only
    /// checked, is not spoken to in it.
    pub send_proxy: Option<Version>,
    /// For checks over TLS.
    pub tls: Prober,
}

impl Probe {
    /// Checks a backend whose own address is `backend`, configured as `named`.
    ///
    /// Fails with a cause for people to read.
    pub async fn check(&self, backend: SocketAddr, named: &str) -> Result<(), NotPassed> {
        let port = self.port.unwrap_or_else(|| backend.port());
        let address = SocketAddr::new(backend.ip(), port);
        let limit = self.health.timeout;
        let preface = self.send_proxy.filter(|_| port == backend.port()).map(local);
        match timeout(limit, self.try_check(address, named, preface)).await {
            Ok(result) => result,
            Err(_elapsed) => {
                Err(format!("no answer within {}", humantime::format_duration(limit)).into())
            }
        }
    }

    /// The same for a name with several addresses: passes if one of them serves, and prefers that one
    /// from then on. They are begun in turn, the next as soon as one has failed, or is slow (RFC 8305,
    /// section 5).
    pub async fn check_any(
        &self,
        addresses: &Arc<Addresses>,
        named: &str,
    ) -> Result<(), NotPassed> {
        let limit = self.health.timeout;
        let count = u32::try_from(addresses.all().len()).unwrap_or(u32::MAX);
        // All of them get their turn.
        let stagger = STAGGER.min(limit / count.saturating_add(1));
        let mut left = addresses.in_turn();
        // What is under way ends with this.
        let mut running = JoinSet::new();
        let mut failures: Vec<String> = Vec::new();
        let mut inconclusive = false;
        let trying = async {
            loop {
                let begun = left.next().map(|address| {
                    let (probe, named) = (self.clone(), named.to_owned());
                    running.spawn(async move { (address, probe.check(address, &named).await) })
                });
                let ended = match begun {
                    Some(_) => match timeout(stagger, running.join_next()).await {
                        Ok(ended) => ended,
                        Err(_slow) => continue,
                    },
                    None => running.join_next().await,
                };
                match ended {
                    Some(Ok((address, Ok(())))) => {
                        addresses.prefer(address);
                        return Ok(());
                    }
                    Some(Ok((address, Err(NotPassed::Failed(cause))))) => {
                        failures.push(format!("{address}: {cause}"));
                    }
                    Some(Ok((address, Err(NotPassed::Inconclusive(cause))))) => {
                        inconclusive = true;
                        failures.push(format!("{address}: {cause}"));
                    }
                    Some(Err(error)) => failures.push(error.to_string()),
                    None => {
                        let cause = failures.join("; ");
                        return Err(match inconclusive {
                            true => NotPassed::Inconclusive(cause),
                            false => NotPassed::Failed(cause),
                        });
                    }
                }
            }
        };
        match timeout(limit, trying).await {
            Ok(result) => result,
            Err(_elapsed) => {
                Err(format!("no answer within {}", humantime::format_duration(limit)).into())
            }
        }
    }

    async fn try_check(
        &self,
        address: SocketAddr,
        named: &str,
        preface: Option<Vec<u8>>,
    ) -> Result<(), NotPassed> {
        let mut stream = self.connect(address).await?;
        if let Some(preface) = &preface {
            stream.write_all(preface).await.map_err(told)?;
        }
        let host_name = named.rsplit_once(':').map_or(named, |(host, _port)| host);
        match &self.health.check {
            Check::Tcp => {
                // A reset, so that the check leaves no TIME_WAIT behind; but it would take back what
                // was said.
                if preface.is_none() {
                    socket::reset_on_close(&stream);
                }
                Ok(())
            }
            Check::Tls => self.handshake(host_name, stream).await.map(drop),
            Check::Http { tls, path, host, expect_status } => {
                let host = host.as_deref().unwrap_or(named);
                let status = if *tls {
                    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
                    get(self.handshake(name, stream).await?, path, host).await?
                } else {
                    get(stream, path, host).await?
                };
                match expect_status.iter().any(|range| range.contains(&status)) {
                    true => Ok(()),
                    false => Err(format!("status {status}").into()),
                }
            }
            Check::SendExpect(steps) => converse(stream, steps).await,
        }
    }

    async fn connect(&self, address: SocketAddr) -> Result<TcpStream, NotPassed> {
        let connected = async {
            let stream = TcpStream::from_std(socket::connect(address, self.source, false)?)?;
            stream.writable().await?;
            match stream.take_error()? {
                Some(error) => Err(error),
                None => Ok(stream),
            }
        };
        connected.await.map_err(|error| match ConnectFailure::of(&error) {
            // Which of these it is the error tells.
            ConnectFailure::Other | ConnectFailure::Local => told(error),
            failure => NotPassed::of(&error, failure.to_string()),
        })
    }

    async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, NotPassed> {
        let connected = self.tls.connect(host, stream).await;
        connected.map_err(|error| NotPassed::of(&error, format!("TLS: {error}")))
    }
}

/// Sends a GET request and returns the status of the answer.
async fn get(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
    host: &str,
) -> Result<u16, NotPassed> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("lockgate/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| NotPassed::Failed(error.to_string()))?;
    // Early answers (1xx) count as well: who sends them without end is not listened to for long.
    let (read, write) = tokio::io::split(stream);
    let stream = tokio::io::join(read.take(MOST), write);
    let exchange = async {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LONGEST_HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        // The head is all that is asked for: when it is here the connection is dropped.
        tokio::select! {
            response = sender.send_request(request) => response.map(|r| r.status().as_u16()),
            Err(error) = connection => Err(error),
        }
    };
    exchange.await.map_err(|error: hyper::Error| NotPassed::of(&error, format!("HTTP: {error}")))
}

/// Sends what is to be sent, and waits for what is expected.
async fn converse(mut stream: TcpStream, steps: &[Step]) -> Result<(), NotPassed> {
    let mut exchange = Exchange::new(steps);
    let mut buffer = [0; 4096];
    loop {
        match exchange.next() {
            Next::Send(bytes) => stream.write_all(bytes).await.map_err(told)?,
            Next::Receive => match stream.read(&mut buffer).await.map_err(told)? {
                0 => return Err(exchange.ended().into()),
                received => exchange.received(&buffer[..received]),
            },
            Next::Passed => return Ok(()),
            Next::Failed(why) => return Err(why.into()),
        }
    }
}

/// What an error of a socket says.
fn told(error: io::Error) -> NotPassed {
    NotPassed::of(&error, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_lacks_is_no_fault_of_a_backend_s() {
        let wrapped = |error: io::Error| io::Error::new(error.kind(), error);
        let lacking =
            [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
        for number in lacking {
            let error = || io::Error::from_raw_os_error(number);
            assert!(matches!(told(error()), NotPassed::Inconclusive(_)), "{number}");
            assert!(matches!(told(wrapped(error())), NotPassed::Inconclusive(_)), "{number}");
        }
        for number in [libc::ECONNREFUSED, libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::EACCES] {
            let error = || io::Error::from_raw_os_error(number);
            assert!(matches!(told(error()), NotPassed::Failed(_)), "{number}");
            assert!(matches!(told(wrapped(error())), NotPassed::Failed(_)), "{number}");
        }
        assert!(matches!(told(io::ErrorKind::AddrNotAvailable.into()), NotPassed::Failed(_)));
    }
}
