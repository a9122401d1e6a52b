//! One direction of a relayed connection.
//!
//! Messages pass through a buffer that all connections of a worker share. A read that fills it
//! says that there is more where it came from: the rest of the burst is spliced. What a slow
//! receiver does not take yet is held by the flow, in a pipe or a buffer of just that size; a flow
//! that waits for its sender holds nothing.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pipe::Pipe;
use crate::socket;

/// Size of a worker's buffer: messages up to this are cheaper to copy than to splice.
const BUFFER: usize = 16 << 10;

/// Bytes that a worker's bulk flows move together before other tasks have their turn, and the
/// least that one of them moves. Measured: with 64 streams, taking turns of 128 KiB costs two
/// thirds of the CPU that turns of 1 MiB do; with one stream it costs a fifth more.
const ROUND: usize = 1 << 20;
const LEAST_TURN: usize = 128 << 10;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
    static BULK_FLOWS: Cell<usize> = const { Cell::new(0) };
}

/// Bytes that one flow moves before others have their turn.
fn turn() -> usize {
    (ROUND / BULK_FLOWS.get().max(1)).max(LEAST_TURN)
}

/// Stands for one bulk flow in the worker's count of them.
#[derive(Debug)]
struct Bulk;

impl Bulk {
    fn begin() -> Self {
        BULK_FLOWS.set(BULK_FLOWS.get() + 1);
        Self
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        BULK_FLOWS.set(BULK_FLOWS.get() - 1);
    }
}

/// Bytes from one socket to another, and then the end of them.
#[derive(Debug, Default)]
pub(super) struct Flow {
    held: Held,
    /// The last bursts were worth splicing from their first byte.
    bulk: Option<Bulk>,
    /// Bytes moved since the sender was last dry.
    burst: usize,
    /// The sender has sent FIN.
    ended: bool,
    /// FIN has been passed on, or is left to the close.
    finished: bool,
    /// It ended otherwise. A socket tells its error only once: after a reset, the next read would
    /// see an orderly end.
    broken: Option<Broken>,
    /// Bytes that the receiving socket took, to be collected by [`Flow::delivered`].
    delivered: usize,
}

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Bytes(Box<[u8]>, usize),
    Pipe(Pipe),
}

/// Which socket failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Broken {
    Sender,
    Receiver,
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All bytes and FIN are delivered.
    Finished,
    /// There is more to move at once.
    Unfinished,
}

impl Flow {
    /// Whether FIN has been passed on.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether it does not listen to its sender at present: it holds bytes, or has had them all.
    pub(super) fn is_deaf(&self) -> bool {
        self.ended || !matches!(self.held, Held::Nothing)
    }

    /// Bytes delivered since this was last asked.
    pub(super) fn delivered(&mut self) -> usize {
        std::mem::take(&mut self.delivered)
    }

    /// Moves what can be moved. `last`: the other direction has finished, so the close of the
    /// sockets, which is next, carries the FIN.
    ///
    /// Pending means that a socket will wake the task.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        last: bool,
    ) -> Poll<Result<Turn, Broken>> {
        if let Some(broken) = self.broken {
            return Poll::Ready(Err(broken));
        }
        let (before, turn) = (self.delivered, turn());
        while !self.finished {
            // A bulk flow gives way after each pipeful, even a small one: what arrives meanwhile
            // makes the next one larger.
            let moved = self.delivered - before;
            if moved >= turn || (moved > 0 && self.bulk.is_some()) {
                return Poll::Ready(Ok(Turn::Unfinished));
            }
            let step = if !matches!(self.held, Held::Nothing) {
                ready!(self.deliver(context, to))
            } else if self.ended {
                self.finish(to, last)
            } else {
                ready!(self.fetch(context, from, to, turn))
            };
            if let Err(broken) = step {
                self.broken = Some(broken);
                return Poll::Ready(Err(broken));
            }
        }
        Poll::Ready(Ok(Turn::Finished))
    }

    /// Hands on what is held.
    fn deliver(&mut self, context: &mut Context<'_>, to: &TcpStream) -> Poll<Result<(), Broken>> {
        loop {
            let written = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes(bytes, sent) => to.try_write(&bytes[*sent..]),
                Held::Pipe(pipe) => to.try_io(Interest::WRITABLE, || pipe.drain(to)),
            };
            match written {
                Ok(written) => {
                    self.delivered += written;
                    self.taken(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(to.poll_write_ready(context)).is_err() {
                        return Poll::Ready(Err(Broken::Receiver));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Poll::Ready(Err(Broken::Receiver)),
            }
        }
    }

    /// Notes that the receiver took `written` bytes of what is held.
    fn taken(&mut self, written: usize) {
        self.held = match std::mem::take(&mut self.held) {
            Held::Bytes(bytes, sent) if sent + written < bytes.len() => {
                Held::Bytes(bytes, sent + written)
            }
            Held::Pipe(pipe) if pipe.held() > 0 => Held::Pipe(pipe),
            Held::Pipe(pipe) => {
                pipe.put_back();
                Held::Nothing
            }
            Held::Bytes(..) | Held::Nothing => Held::Nothing,
        };
    }

    /// Takes from the sender and hands on at once what the receiver takes.
    fn fetch(
        &mut self,
        context: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        turn: usize,
    ) -> Poll<Result<(), Broken>> {
        let fetched = match self.bulk.as_ref().and_then(|_| Pipe::take()) {
            Some(pipe) => self.splice(pipe, from, turn),
            None => self.copy(from, to),
        };
        match fetched {
            // A splice also stops at the mark of urgent data. A copy knows the end when it sees it.
            Ok(Ok(0)) if self.bulk.is_some() => self.bulk = None,
            Ok(Ok(0)) => self.ended = true,
            Ok(Ok(fetched)) => self.burst += fetched,
            Ok(Err(broken)) => return Poll::Ready(Err(broken)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.burst < BUFFER {
                    self.bulk = None;
                }
                self.burst = 0;
                if ready!(from.poll_read_ready(context)).is_err() {
                    return Poll::Ready(Err(Broken::Sender));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Poll::Ready(Err(Broken::Sender)),
        }
        Poll::Ready(Ok(()))
    }

    fn splice(
        &mut self,
        mut pipe: Pipe,
        from: &TcpStream,
        turn: usize,
    ) -> io::Result<Result<usize, Broken>> {
        let fetched = from.try_io(Interest::READABLE, || pipe.fill(from, turn));
        if pipe.held() > 0 {
            self.held = Held::Pipe(pipe);
        } else {
            pipe.put_back();
        }
        fetched.map(Ok)
    }

    fn copy(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<Result<usize, Broken>> {
        SHARED.with_borrow_mut(|buffer| {
            let fetched = from.try_io(Interest::READABLE, || socket::receive(from, buffer))?;
            if fetched == 0 {
                return Ok(Ok(0));
            }
            if fetched == buffer.len() && self.bulk.is_none() {
                self.bulk = Some(Bulk::begin());
            }
            let bytes = &buffer[..fetched];
            let sent = match to.try_write(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(_) => return Ok(Err(Broken::Receiver)),
            };
            self.delivered += sent;
            if sent < fetched {
                self.held = Held::Bytes(bytes[sent..].into(), 0);
            }
            Ok(Ok(fetched))
        })
    }

    fn finish(&mut self, to: &TcpStream, last: bool) -> Result<(), Broken> {
        self.finished = true;
        if last {
            return Ok(());
        }
        shutdown(to.as_raw_fd(), Shutdown::Write).map_err(|_| Broken::Receiver)
    }
}
