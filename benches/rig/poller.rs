//! Epoll.
//!
//! One [`Poller`] serves the clients and the backends of a run, which never sleep, and one the
//! floor.

#![allow(unsafe_code, reason = "epoll: in nix, a feature that only this would need")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// What to be told about a descriptor.
#[derive(Clone, Copy)]
pub enum Interest {
    /// Any change, once: for those who go on until the kernel says `EAGAIN`.
    Edges,
    /// Whenever it can be read.
    Readable,
    /// Whenever it can be written.
    Writable,
}

pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: the kernel just made it, for us.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 256],
        })
    }

    /// Watches a descriptor until it is closed.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Edges => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
            Interest::Readable => libc::EPOLLIN,
            Interest::Writable => libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: token };
        // SAFETY: both descriptors are open, and the kernel copies `event`.
        let answer = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd.as_fd().as_raw_fd(),
                &raw mut event,
            )
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The tokens of what is ready, possibly none; waits as [`Poller::wait`] does.
    pub fn ready(&mut self, tokens: &mut Vec<u64>, timeout: i32) -> io::Result<()> {
        let count = self.wait(timeout)?;
        tokens.clear();
        tokens.extend(self.events[..count].iter().map(|event| event.u64));
        Ok(())
    }

    /// Waits so many milliseconds, or without end if negative, until something is ready. Tells how
    /// many events there are.
    pub fn wait(&mut self, timeout: i32) -> io::Result<usize> {
        let capacity = i32::try_from(self.events.len()).map_err(io::Error::other)?;
        // SAFETY: the pointer and the capacity describe `self.events`.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), capacity, timeout)
        };
        usize::try_from(count).or_else(|_| {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) }
        })
    }

    /// One of the events that the last [`Poller::wait`] has found.
    pub fn event(&self, position: usize) -> libc::epoll_event {
        self.events[position]
    }
}
