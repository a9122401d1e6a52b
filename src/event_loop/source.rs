//! Sockets that a task waits for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::{EventLoop, Task};

/// What is known of a socket; each stays true until somebody finds out otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ready(u8);

impl Ready {
    const READABLE: Self = Self(1);
    const WRITABLE: Self = Self(2);
    /// FIN has come.
    const ENDED: Self = Self(4);
    /// There is an error to ask for.
    const FAILED: Self = Self(8);
    /// Urgent data was announced at some time.
    const URGENT: Self = Self(16);

    fn of(flags: EpollFlags) -> Self {
        let mut ready = Self::default();
        // After a failure both reading and writing tell of it.
        let over = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        for (flag, bit) in [
            (EpollFlags::EPOLLIN, Self::READABLE),
            (EpollFlags::EPOLLOUT, Self::WRITABLE),
            (EpollFlags::EPOLLRDHUP, Self::ENDED),
            (EpollFlags::EPOLLERR, Self::FAILED),
            (EpollFlags::EPOLLPRI, Self::URGENT),
        ] {
            let also = over && (bit == Self::READABLE || bit == Self::WRITABLE);
            if flags.contains(flag) || also {
                ready.0 |= bit.0;
            }
        }
        ready
    }
}

/// A socket that is watched on behalf of a task.
#[derive(Debug)]
struct Source {
    /// Tells events of this socket from those of the one before it in the same place.
    generation: u32,
    task: Task,
    ready: Ready,
    /// The kernel tells when it becomes writable.
    asks_to_write: bool,
}

/// All that are watched, by place.
#[derive(Debug, Default)]
pub(super) struct Sources {
    places: Vec<Source>,
    vacant: Vec<u32>,
}

impl Sources {
    fn add(&mut self, task: Task) -> u32 {
        let ready = Ready(Ready::READABLE.0 | Ready::WRITABLE.0);
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(Source { generation: 0, task, ready, asks_to_write: false });
            u32::try_from(self.places.len() - 1).expect("fewer sockets than descriptors")
        });
        let source = &mut self.places[place as usize];
        (source.task, source.ready) = (task, ready);
        place
    }

    fn remove(&mut self, place: u32) {
        let source = &mut self.places[place as usize];
        source.generation = source.generation.wrapping_add(1);
        self.vacant.push(place);
    }

    fn name(&self, place: u32) -> u64 {
        u64::from(self.places[place as usize].generation) << 32 | u64::from(place)
    }

    #[cfg(test)]
    pub(super) fn name_of<S: AsFd>(&self, watched: &Watched<S>) -> u64 {
        self.name(watched.place)
    }

    /// Notes an event. The task that is to hear of it; none if the socket was closed meanwhile.
    pub(super) fn note(&mut self, event: &EpollEvent) -> Option<Task> {
        let place = (event.data() & u64::from(u32::MAX)) as usize;
        let source = self.places.get_mut(place)?;
        if u64::from(source.generation) != event.data() >> 32 {
            return None;
        }
        source.ready.0 |= Ready::of(event.events()).0;
        Some(source.task)
    }
}

/// What a socket is first watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read. Room to write only after a write has found none.
    Read,
    /// Something to read, or room to write, of which there is none yet.
    ReadWrite,
}

/// A socket that wakes the task which holds it, once it is watched: when there is something to read, when a
/// write that found no room would find some, and when it ends or fails.
///
/// Watched edge by edge (`EPOLLET`, epoll(7)): who reads or writes says when the socket has been
/// found dry or full. It is registered with the kernel once, and never taken out: closing it does
/// that. Duplicates of its descriptor must not outlive it, therefore, unless it is taken out by
/// [`Watched::unwatch`].
#[derive(Debug)]
pub struct Watched<S: AsFd> {
    socket: S,
    place: u32,
    events: Rc<EventLoop>,
}

impl EventLoop {
    /// Holds a socket for the task that is running, which is to watch it before it waits for it. It
    /// counts as having bytes and room until a read or a write finds otherwise.
    pub fn hold<S: AsFd>(self: &Rc<Self>, socket: S) -> Watched<S> {
        let place = self.sources.borrow_mut().add(self.current());
        Watched { socket, place, events: Rc::clone(self) }
    }

    /// Watches a socket, which counts as dry, for the task that is running. See [`Watched::watch`].
    pub fn watch<S: AsFd>(
        self: &Rc<Self>,
        socket: S,
        interest: Interest,
    ) -> io::Result<Watched<S>> {
        let held = self.hold(socket);
        held.mark_dry();
        held.watch(interest)?;
        Ok(held)
    }
}

fn flags(writing: bool) -> EpollFlags {
    let reading =
        EpollFlags::EPOLLET | EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI;
    if writing { reading | EpollFlags::EPOLLOUT } else { reading }
}

impl<S: AsFd> Watched<S> {
    /// Begins to watch. Should there be something to read already, the next turn of the loop finds
    /// that out, even if the socket counts as dry.
    ///
    /// Fails if the kernel is short of memory, or of watches (`fs.epoll.max_user_watches`).
    pub fn watch(&self, interest: Interest) -> io::Result<()> {
        let writing = interest == Interest::ReadWrite;
        let name = {
            let mut sources = self.events.sources.borrow_mut();
            let source = &mut sources.places[self.place as usize];
            source.asks_to_write = writing;
            if writing {
                source.ready.0 &= !Ready::WRITABLE.0;
            }
            sources.name(self.place)
        };
        Ok(self.events.epoll.add(&self.socket, EpollEvent::new(flags(writing), name))?)
    }

    /// Watches it no longer. Needed only for a socket that others have as well: this process's last
    /// descriptor of it is not the last there is, and the kernel would go on telling.
    ///
    /// Fails if it is not watched.
    pub fn unwatch(&self) -> io::Result<()> {
        Ok(self.events.epoll.delete(&self.socket)?)
    }

    /// The socket.
    pub fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Whether there may be something to read.
    pub fn is_readable(&self) -> bool {
        self.is(Ready::READABLE)
    }

    /// Whether there may be room to write.
    pub fn is_writable(&self) -> bool {
        self.is(Ready::WRITABLE)
    }

    /// Whether FIN has come; there may be bytes before it.
    pub fn has_ended(&self) -> bool {
        self.is(Ready::ENDED)
    }

    /// Whether it broke: there is an error to ask for.
    pub fn has_failed(&self) -> bool {
        self.is(Ready::FAILED)
    }

    /// Whether urgent data was ever announced on it. Reads then stop short at a mark (tcp(7)), and
    /// a short read does not prove that there is no more.
    pub fn had_urgent_data(&self) -> bool {
        self.is(Ready::URGENT)
    }

    /// Notes that there is no more to read for now.
    pub fn mark_dry(&self) {
        self.change(|source| source.ready.0 &= !Ready::READABLE.0);
    }

    /// Notes that a write found no room. From now on the kernel is asked to tell of it.
    ///
    /// Fails if it can not be asked.
    pub fn mark_full(&self) -> io::Result<()> {
        let asked = self.change(|source| {
            source.ready.0 &= !Ready::WRITABLE.0;
            std::mem::replace(&mut source.asks_to_write, true)
        });
        if !asked {
            let name = self.events.sources.borrow().name(self.place);
            self.events.epoll.modify(&self.socket, &mut EpollEvent::new(flags(true), name))?;
        }
        Ok(())
    }

    fn is(&self, what: Ready) -> bool {
        self.events.sources.borrow().places[self.place as usize].ready.0 & what.0 != 0
    }

    fn change<T>(&self, change: impl FnOnce(&mut Source) -> T) -> T {
        change(&mut self.events.sources.borrow_mut().places[self.place as usize])
    }
}

impl<S: AsFd> AsFd for Watched<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S: AsFd> Drop for Watched<S> {
    fn drop(&mut self) {
        self.events.sources.borrow_mut().remove(self.place);
    }
}
