//! Pipes for `splice(2)`, pooled by worker.
//!
//! A pipe is held only while it has bytes in it, so that idle connections cost none and a worker
//! needs few. Making one costs more than moving a message through it, hence the pool.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

/// How much a pipe takes. It counts pages, not bytes: segments of 1448 bytes fill a wide one with
/// 370 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 128 KiB: for one of many flows that take short turns. What a pipe passes on it leaves in
    /// the caches, if it is small; a wide one that is filled no further is as dear as a full one.
    Narrow,
    /// 1 MiB.
    Wide,
}

impl Width {
    /// The capacity that is asked for, in bytes.
    pub fn capacity(self) -> usize {
        match self {
            Self::Narrow => 128 << 10,
            Self::Wide => 1 << 20,
        }
    }
}

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
        Pool {
            free: [RefCell::new(Vec::new()), RefCell::new(Vec::new())],
            made: Cell::new(0),
            refused: Cell::new(0),
        }
    };
}

struct Pool {
    /// By width.
    free: [RefCell<Vec<Pipe>>; 2],
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
    width: Width,
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
    pub fn take(width: Width) -> Option<Self> {
        POOL.with(|pool| {
            let free = pool.free[width as usize].borrow_mut().pop();
            match free {
                None if pool.refused.get() > 0 => {
                    pool.refused.set(pool.refused.get() - 1);
                    None
                }
                None if pool.made.get() < MOST => {
                    let made = Self::new(pool, width).ok().flatten();
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
            let mut free = pool.free[self.width as usize].borrow_mut();
            if self.held == 0 && free.len() < KEPT {
                free.push(self);
            }
        });
    }

    fn new(pool: &Pool, width: Width) -> nix::Result<Option<Self>> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let capacity = match fcntl(&writer, FcntlArg::F_SETPIPE_SZ(width.capacity() as libc::c_int))
        {
            Ok(capacity) => capacity,
            Err(_) => fcntl(&writer, FcntlArg::F_GETPIPE_SZ)?,
        };
        let capacity = usize::try_from(capacity).unwrap_or(0);
        if capacity < LEAST {
            return Ok(None);
        }
        pool.made.set(pool.made.get() + 1);
        Ok(Some(Self { reader, writer, width, held: 0, _counted: Counted }))
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
        let pipe = Pipe::take(Width::Wide).unwrap();
        let first = format!("{:?}", pipe.reader);
        pipe.put_back();
        let mut pipe = Pipe::take(Width::Wide).unwrap();
        assert_eq!(format!("{:?}", pipe.reader), first);
        pipe.held = 1;
        pipe.put_back();
        assert_eq!(POOL.with(|pool| (pool.made.get(), pool.free[1].borrow().len())), (0, 0));
    }

    #[test]
    fn a_worker_has_a_bounded_number_of_them() {
        let pipes: Vec<_> =
            std::iter::from_fn(|| Pipe::take(Width::Narrow)).take(MOST + 1).collect();
        assert!(pipes.len() <= MOST);
        pipes.into_iter().for_each(Pipe::put_back);
        assert!(POOL.with(|pool| pool.free[0].borrow().len() <= KEPT));
    }
}
