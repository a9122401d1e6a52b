//! The two ends of a relayed connection, as a flow sees them.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::task::Poll;
use std::time::Duration;

use crate::event_loop::{EventLoop, Watched};
use crate::socket;

/// One end of a connection: bytes from it, bytes to it, and the end of both.
pub trait Side {
    /// What passes is what the socket carries: the kernel may move it (`splice(2)`).
    const PLAIN: bool;

    /// Its protocol announces the end of a stream, and so tells it from a cut.
    const ANNOUNCES: bool = !Self::PLAIN;

    /// Its socket.
    fn socket(&self) -> &Watched<TcpStream>;

    /// Whether there may be something to receive.
    fn is_readable(&self) -> bool;

    /// Receives without waiting.
    ///
    /// Fails if the connection broke: what was received before is still good.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received>;

    /// Takes bytes to send, as many as there is room for. `more`: others, or the end, follow at
    /// once, and may share a segment.
    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize>;

    /// Sends what was taken and not sent yet. Whether nothing of it is left.
    fn flush(&mut self) -> io::Result<bool>;

    /// Tells the other end that nothing follows. `last`: the socket is about to be closed. `how`: so
    /// as the sender's stream ended. Whether that is done; else it is to be called again when there
    /// is room.
    fn finish(&mut self, last: bool, how: Ended) -> io::Result<bool>;

    /// Whether it broke, and not only by a peer that leaves after all was said.
    fn has_failed(&self) -> bool {
        self.socket().has_failed()
    }

    /// Whether an end that its protocol does not vouch for counts as a cut, where the receiver
    /// could not tell one from the other.
    fn requires_announced_end(&self) -> bool {
        false
    }

    /// Whether the end of what it received was announced; `None` = it has no end yet, or its
    /// protocol has no such thing.
    fn end_was_announced(&self) -> Option<bool> {
        None
    }

    /// Of the bytes that [`Side::send`] took, those that the other end has not acknowledged.
    /// `finished`: and FIN was sent after them. Asks the kernel.
    fn unacknowledged(&self, finished: bool) -> u64;
}

/// What [`Side::receive`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes put into the buffer.
    pub bytes: usize,
    /// What is to be expected after them.
    pub then: Then,
}

/// What comes after bytes that were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Perhaps more.
    Unknown,
    /// Nothing for now.
    Dry,
    /// Nothing any more.
    End,
    /// Nothing any more, but nobody vouches for that: FIN without TLS's `close_notify`.
    Cut,
}

/// How a stream ended, to be passed on in kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As its protocol has it.
    Announced,
    /// With FIN alone, where its protocol announces an end: [`Then::Cut`].
    Unannounced,
}

/// A socket as it is.
#[derive(Debug)]
pub struct Plain<'a>(pub &'a Watched<TcpStream>);

impl Side for Plain<'_> {
    const PLAIN: bool = true;

    fn socket(&self) -> &Watched<TcpStream> {
        self.0
    }

    fn is_readable(&self) -> bool {
        self.0.is_readable()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let (bytes, then) = match socket::receive(self.0, buffer) {
            Ok(0) => (0, Then::End),
            Ok(bytes) if bytes == buffer.len() || self.0.had_urgent_data() => {
                (bytes, Then::Unknown)
            }
            // The next read tells whether FIN or a reset has come after these bytes.
            Ok(bytes) if self.0.has_failed() => (bytes, Then::Unknown),
            // A short read says that there is no more, and if FIN had come before, that these are
            // the last bytes.
            Ok(bytes) if self.0.has_ended() => (bytes, Then::End),
            Ok(bytes) => (bytes, Then::Dry),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (0, Then::Dry),
            Err(error) if error.kind() == ErrorKind::Interrupted => (0, Then::Unknown),
            Err(error) => return Err(error),
        };
        if then == Then::Dry {
            self.0.mark_dry();
        }
        Ok(Received { bytes, then })
    }

    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        if !self.0.is_writable() {
            return Ok(0);
        }
        room(self.0, || socket::send(self.0, bytes, more))
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn finish(&mut self, last: bool, _: Ended) -> io::Result<bool> {
        // The close that is next carries the FIN.
        if !last {
            self.0.get_ref().shutdown(Shutdown::Write)?;
        }
        Ok(true)
    }

    fn unacknowledged(&self, finished: bool) -> u64 {
        in_kernel(self.0, finished)
    }
}

/// Bytes that a socket has taken and that the other end has not acknowledged. `finished`: FIN was
/// sent, which counts as one in the queue, the last to leave it.
pub fn in_kernel(socket: &Watched<TcpStream>, finished: bool) -> u64 {
    // A socket that cannot tell has nothing to wait for.
    let queued = socket::unsent(socket).unwrap_or(0);
    u64::from(queued.saturating_sub(u32::from(finished)))
}

/// A client that has been heard out: what it goes on to send is forgotten, only its end counts. One
/// that sends more than some 256 KiB is taken for broken.
#[derive(Debug)]
pub struct Unheard<'a> {
    client: Plain<'a>,
    left: usize,
}

impl<'a> Unheard<'a> {
    /// This client.
    pub fn new(client: &'a Watched<TcpStream>) -> Self {
        Self { client: Plain(client), left: LINGER_BYTES }
    }
}

impl Side for Unheard<'_> {
    // Bytes that are spliced are not forgotten.
    const PLAIN: bool = false;
    const ANNOUNCES: bool = false;

    fn socket(&self) -> &Watched<TcpStream> {
        self.client.socket()
    }

    fn is_readable(&self) -> bool {
        self.client.is_readable()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let received = self.client.receive(buffer)?;
        match self.left.checked_sub(received.bytes) {
            Some(left) => self.left = left,
            None => return Err(ErrorKind::InvalidData.into()),
        }
        Ok(Received { bytes: 0, ..received })
    }

    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        self.client.send(bytes, more)
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.client.flush()
    }

    fn finish(&mut self, last: bool, how: Ended) -> io::Result<bool> {
        self.client.finish(last, how)
    }

    fn unacknowledged(&self, finished: bool) -> u64 {
        self.client.unacknowledged(finished)
    }
}

/// Writes to a socket: bytes that it took, 0 if it has no room for now.
pub fn room(
    socket: &Watched<TcpStream>,
    mut write: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match write() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return socket.mark_full().map(|()| 0);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}

/// Bytes that are read at a time of what a client says first: most say less.
const CHUNK: usize = 2048;

/// Reads into `buffer` until `verdict` has one of all that is there; it is asked after every read,
/// and of what is there before the first, and told whether nothing follows. It must come to one then,
/// and within bounds of its own.
///
/// Fails if the client is gone.
pub async fn gather<T>(
    client: &Watched<TcpStream>,
    buffer: &mut Vec<u8>,
    mut verdict: impl FnMut(&[u8], bool) -> Option<T>,
) -> io::Result<T> {
    if !buffer.is_empty()
        && let Some(verdict) = verdict(buffer, false)
    {
        return Ok(verdict);
    }
    poll_fn(|_| {
        while client.is_readable() {
            let before = buffer.len();
            buffer.resize(before + CHUNK, 0);
            let received = Plain(client).receive(&mut buffer[before..]);
            buffer.truncate(before + received.as_ref().map_or(0, |received| received.bytes));
            if let Some(verdict) = verdict(buffer, received?.then == Then::End) {
                return Poll::Ready(Ok(verdict));
            }
        }
        Poll::Pending
    })
    .await
}

/// How long a client may go on sending after it was told that nobody listens: to close while its
/// bytes are unread resets the connection, and can overtake what it was told.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;

/// Tells a client that nothing follows, then reads what it goes on to send, and forgets it: for a
/// second at most.
pub async fn take_leave(events: &EventLoop, client: &Watched<TcpStream>) {
    if client.get_ref().shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut left = LINGER_BYTES;
    let gone = poll_fn(|_| {
        let mut buffer = [0; 4096];
        while client.is_readable() && left > 0 {
            match Plain(client).receive(&mut buffer) {
                Ok(received) if received.then != Then::End => {
                    left = left.saturating_sub(received.bytes);
                }
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    // Whether it has gone or not, this is the end.
    let _ = events.until(events.now() + LINGER, gone).await;
}
