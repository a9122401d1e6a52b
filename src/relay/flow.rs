//! One direction of a relayed connection.
//!
//! Messages pass through a buffer that all connections of a worker share. A read that fills it
//! says that there is more where it came from: the rest of the burst is spliced. What a slow
//! receiver does not take yet is held by the flow, in a pipe or a buffer of just that size; a flow
//! that waits for its sender holds nothing.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream;
use std::task::Poll;

use super::pipe::{Pipe, Width};
use super::side::{Ended, Side, Then, room};
use crate::event_loop::Watched;
use crate::socket;

/// Messages up to this are cheaper to copy than to splice.
const BUFFER: usize = 16 << 10;

/// Size of a worker's buffer: where nothing can be spliced, a read takes this much.
const LARGE: usize = 32 << 10;

/// Bytes that a flow moves before other tasks have their turn.
const TURN: usize = 1 << 20;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGE].into());
    static BULK_FLOWS: Cell<usize> = const { Cell::new(0) };
}

/// What is known of a bulk flow; stands for one in the worker's count of them.
#[derive(Debug)]
struct Bulk {
    /// The receiver's socket spreads what it sends over time.
    paced: bool,
}

impl Bulk {
    fn begin(to: &Watched<TcpStream>) -> Self {
        BULK_FLOWS.set(BULK_FLOWS.get() + 1);
        Self { paced: socket::is_paced(to) }
    }

    /// The pipe for it. Measured with 64 streams: where BBR paces, what a turn leaves behind in the
    /// socket is sent bit by bit, by timers, and many short turns cost half the CPU of long ones;
    /// where nothing paces, they cost half as much again.
    fn width(&self) -> Width {
        if self.paced && BULK_FLOWS.get() > 1 { Width::Narrow } else { Width::Wide }
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
    burst: u32,
    /// The receiver holds bytes that it has taken and not sent.
    clogged: bool,
    /// The sender has sent FIN.
    ended: bool,
    /// And its protocol does not vouch for that.
    unannounced: bool,
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
    /// One for which `first` was read already. `ended`: and nothing follows.
    pub(super) fn starting_with(first: Vec<u8>, ended: bool) -> Self {
        let held = if first.is_empty() { Held::Nothing } else { Held::Bytes(first.into(), 0) };
        Self { held, ended, ..Self::default() }
    }

    /// Whether FIN has been passed on.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether it does not listen to its sender at present: it holds bytes, or has had them all.
    pub(super) fn is_deaf(&self) -> bool {
        self.ended || self.clogged || !matches!(self.held, Held::Nothing)
    }

    /// Whether its sender may fail unheard, and nothing that it sent in order would be lost by
    /// hearing of it now.
    pub(super) fn is_heard_failing(&self) -> bool {
        self.is_deaf() && (self.finished || !self.ended)
    }

    /// Bytes delivered since this was last asked.
    pub(super) fn delivered(&mut self) -> usize {
        std::mem::take(&mut self.delivered)
    }

    /// Takes what the sender has sent by now, as far as a buffer goes, to be delivered later.
    pub(super) fn hold_first<F: Side>(&mut self, from: &mut F) -> io::Result<()> {
        SHARED.with_borrow_mut(|buffer| {
            let size = if F::PLAIN { BUFFER } else { LARGE };
            let received = from.receive(&mut buffer[..size])?;
            self.unannounced = received.then == Then::Cut;
            self.ended = self.unannounced || received.then == Then::End;
            if received.bytes > 0 {
                self.held = Held::Bytes(buffer[..received.bytes].into(), 0);
            }
            Ok(())
        })
    }

    /// Bytes that are to be delivered next, if they are not in a pipe.
    pub(super) fn held_bytes(&self) -> &[u8] {
        match &self.held {
            Held::Bytes(bytes, sent) => &bytes[*sent..],
            Held::Nothing | Held::Pipe(_) => &[],
        }
    }

    /// Moves what can be moved. `last`: the other direction has finished, so the close of the
    /// sockets is next.
    ///
    /// Pending means that a socket will wake the task.
    pub(super) fn poll(
        &mut self,
        from: &mut impl Side,
        to: &mut impl Side,
        last: bool,
    ) -> Poll<Result<Turn, Broken>> {
        if let Some(broken) = self.broken {
            return Poll::Ready(Err(broken));
        }
        let before = self.delivered;
        while !self.finished {
            let moved = self.delivered - before;
            // Towards a pacing receiver a pipeful is enough, even a small one: what arrives
            // meanwhile makes the next one larger.
            let enough = match &self.bulk {
                Some(bulk) if bulk.paced => 1,
                _ => TURN,
            };
            if moved >= enough {
                return Poll::Ready(Ok(Turn::Unfinished));
            }
            match self.step(from, to, last) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(broken) => {
                    self.broken = Some(broken);
                    return Poll::Ready(Err(broken));
                }
            }
        }
        Poll::Ready(Ok(Turn::Finished))
    }

    /// Does what is to be done next. False if a socket is waited for.
    fn step(
        &mut self,
        from: &mut impl Side,
        to: &mut impl Side,
        last: bool,
    ) -> Result<bool, Broken> {
        self.clogged = !to.flush().map_err(receiver)?;
        if self.clogged {
            return Ok(false);
        }
        if !matches!(self.held, Held::Nothing) {
            return self.deliver(to);
        }
        if self.ended {
            return self.finish(from, to, last);
        }
        if !from.is_readable() {
            return Ok(false);
        }
        self.fetch(from, to).map(|()| true)
    }

    /// Passes the end on. False if there is no room for it.
    fn finish<T: Side>(
        &mut self,
        from: &impl Side,
        to: &mut T,
        last: bool,
    ) -> Result<bool, Broken> {
        let how = if self.unannounced { Ended::Unannounced } else { Ended::Announced };
        if how == Ended::Unannounced && !T::ANNOUNCES && from.requires_announced_end() {
            // FIN would look like the end of all that there was.
            return Err(Broken::Sender);
        }
        self.finished = to.finish(last, how).map_err(receiver)?;
        Ok(self.finished)
    }

    /// Whether the sender has ended without its protocol vouching for that.
    pub(super) fn is_unannounced(&self) -> bool {
        self.unannounced
    }

    /// Hands on what is held. False if there is no room for it.
    fn deliver(&mut self, to: &mut impl Side) -> Result<bool, Broken> {
        let written = match &mut self.held {
            Held::Nothing => return Ok(true),
            Held::Bytes(bytes, sent) => to.send(&bytes[*sent..], self.ended),
            Held::Pipe(_) if !to.socket().is_writable() => Ok(0),
            Held::Pipe(pipe) => room(to.socket(), || pipe.drain(to.socket())),
        };
        let written = written.map_err(receiver)?;
        self.taken(written);
        Ok(written > 0)
    }

    /// Notes that the receiver took `written` bytes of what is held.
    pub(super) fn taken(&mut self, written: usize) {
        self.delivered += written;
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

    /// Takes from the sender, and hands on at once what was copied and the receiver takes.
    fn fetch<F: Side, T: Side>(&mut self, from: &mut F, to: &mut T) -> Result<(), Broken> {
        if F::PLAIN && T::PLAIN {
            // At the mark of urgent data a splice says that there is nothing, though there is.
            let bulk = self.bulk.as_ref().filter(|_| !from.socket().had_urgent_data());
            let pipe = bulk.and_then(|bulk| Pipe::take(bulk.width()));
            if let Some(pipe) = pipe {
                return self.splice(pipe, from.socket());
            }
        }
        self.copy(from, to)
    }

    fn splice(&mut self, mut pipe: Pipe, from: &Watched<TcpStream>) -> Result<(), Broken> {
        let fetched = pipe.fill(from, TURN);
        if pipe.held() > 0 {
            self.held = Held::Pipe(pipe);
        } else {
            pipe.put_back();
        }
        match fetched {
            // A copy knows the end when it sees it.
            Ok(0) => self.bulk = None,
            Ok(fetched) => self.moved(fetched),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                from.mark_dry();
                self.pause();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Broken::Sender),
        }
        Ok(())
    }

    fn copy<F: Side, T: Side>(&mut self, from: &mut F, to: &mut T) -> Result<(), Broken> {
        SHARED.with_borrow_mut(|buffer| {
            let size = if F::PLAIN && T::PLAIN { BUFFER } else { LARGE };
            let received = from.receive(&mut buffer[..size]).map_err(|_| Broken::Sender)?;
            let bytes = &buffer[..received.bytes];
            self.moved(bytes.len());
            match received.then {
                Then::Unknown if bytes.len() >= BUFFER && self.bulk.is_none() => {
                    self.bulk = Some(Bulk::begin(to.socket()));
                }
                Then::Unknown => {}
                Then::Dry => self.pause(),
                // The last bytes leave together with the end.
                Then::End => self.ended = true,
                Then::Cut => (self.ended, self.unannounced) = (true, true),
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let sent = to.send(bytes, self.ended).map_err(receiver)?;
            self.delivered += sent;
            if sent < bytes.len() {
                self.held = Held::Bytes(bytes[sent..].into(), 0);
            }
            Ok(())
        })
    }

    fn moved(&mut self, bytes: usize) {
        self.burst = self.burst.saturating_add(bytes.try_into().unwrap_or(u32::MAX));
    }

    /// The sender has no more for now.
    fn pause(&mut self) {
        if (self.burst as usize) < BUFFER {
            self.bulk = None;
        }
        self.burst = 0;
    }
}

fn receiver(_: io::Error) -> Broken {
    Broken::Receiver
}
