//! Pipes for `splice(2)`, pooled by worker.
//!
//! A pipe is held only while it has bytes in it, so that idle connections cost none and a worker
//! needs few. Making one costs more than moving a message through it, hence the pool.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

/// Capacity that is asked for. A pipe counts pages, not bytes: segments of 1448 bytes fill this
/// one with 370 KiB.
const WANTED: usize = 1 << 20;

/// Smallest capacity worth having. Once a user has `fs.pipe-user-pages-soft` pages in pipes, the
/// kernel hands out pipes of two pages.
const LEAST: usize = 64 << 10;

/// Pipes that one worker keeps for later.
const KEPT: usize = 32;

/// Pipes that one worker has at most, each with bytes that somebody is slow to take. Beyond that
/// a stream is copied.
pub const MOST: usize = 128;

thread_local! {
    static POOL: Pool = const {
        Pool { free: RefCell::new(Vec::new()), made: Cell::new(0), refused: Cell::new(0) }
    };
}

struct Pool {
    free: RefCell<Vec<Pipe>>,
    made: Cell<usize>,
    /// How often not to ask the kernel for another, since it had none worth having.
    refused: Cell<u32>,
}

/// Streams are copied this often before the kernel is asked for a pipe again.
const REFUSED: u32 = 10_000;

/// A pipe, empty or not.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
    _counted: Counted,
}

/// Stands for one pipe in the worker's count of them.
#[derive(Debug)]
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        // When a worker ends, its count may be gone before its last pipe.
        let _ = POOL.try_with(|pool| pool.made.set(pool.made.get() - 1));
    }
}

impl Pipe {
    /// An empty pipe; `None` if this worker has enough of them, or the kernel gives no more.
    pub fn take() -> Option<Self> {
        POOL.with(|pool| {
            let free = pool.free.borrow_mut().pop();
            match free {
                None if pool.refused.get() > 0 => {
                    pool.refused.set(pool.refused.get() - 1);
                    None
                }
                None if pool.made.get() < MOST => {
                    let made = Self::new(pool).ok().flatten();
                    if made.is_none() {
                        pool.refused.set(REFUSED);
                    }
                    made
                }
                free => free,
            }
        })
    }

    /// Gives an empty pipe back. One with bytes in it is closed: they are another stream's.
    pub fn put_back(self) {
        POOL.with(|pool| {
            let mut free = pool.free.borrow_mut();
            if self.held == 0 && free.len() < KEPT {
                free.push(self);
            }
        });
    }

    fn new(pool: &Pool) -> nix::Result<Option<Self>> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let capacity = match fcntl(&writer, FcntlArg::F_SETPIPE_SZ(WANTED as libc::c_int)) {
            Ok(capacity) => capacity,
            Err(_) => fcntl(&writer, FcntlArg::F_GETPIPE_SZ)?,
        };
        let capacity = usize::try_from(capacity).unwrap_or(0);
        if capacity < LEAST {
            return Ok(None);
        }
        pool.made.set(pool.made.get() + 1);
        Ok(Some(Self { reader, writer, held: 0, _counted: Counted }))
    }

    /// Bytes in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves what a socket has into the pipe, which must be empty: so
    /// [`io::ErrorKind::WouldBlock`] always means that the socket is dry, never that the pipe is
    /// full. At most `limit` bytes; 0 = end of stream, or the
    /// mark of urgent data.
    pub fn fill(&mut self, socket: &impl AsFd, limit: usize) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0);
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let moved = splice(socket, None, &self.writer, None, limit, flags)?;
        self.held = moved;
        Ok(moved)
    }

    /// Moves bytes from the pipe, which must hold some, into a socket.
    pub fn drain(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let moved = splice(&self.reader, None, socket, None, self.held, flags)?;
        self.held -= moved;
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_pipes_are_used_again_and_others_closed() {
        let pipe = Pipe::take().unwrap();
        let first = format!("{:?}", pipe.reader);
        pipe.put_back();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(format!("{:?}", pipe.reader), first);
        pipe.held = 1;
        pipe.put_back();
        assert_eq!(POOL.with(|pool| (pool.made.get(), pool.free.borrow().len())), (0, 0));
    }

    #[test]
    fn a_worker_has_a_bounded_number_of_them() {
        let pipes: Vec<_> = std::iter::from_fn(Pipe::take).take(MOST + 1).collect();
        assert!(pipes.len() <= MOST);
        pipes.into_iter().for_each(Pipe::put_back);
        assert!(POOL.with(|pool| pool.free.borrow().len() <= KEPT));
    }
}
