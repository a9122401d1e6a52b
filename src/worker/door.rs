//! Accepting: what a worker does at each of its listening sockets.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Command, Local, Place, admit};
use crate::connection::Accepted;
use crate::event_loop::{EventLoop, Interest, Task};
use crate::snapshot::{Listener, Snapshot};
use crate::socket;

/// Connections that are accepted before others have their turn.
const BATCH: usize = 64;

/// How long a worker waits when there is no room, or the system lacks something.
const PAUSE: Duration = Duration::from_millis(20);

/// An accepting socket, and the listener that it belongs to at present.
#[derive(Debug)]
pub(super) struct Door {
    listener: RefCell<Arc<Listener>>,
    limit: Cell<u32>,
    closing: Cell<bool>,
    /// It closes at once: another process accepts what waits in the queue.
    leaving: Cell<bool>,
    /// When it closes although connections wait in its queue.
    deadline: Cell<Option<Instant>>,
    /// What accepts.
    task: Cell<Option<Task>>,
}

impl Door {
    pub(super) fn open(
        local: &Rc<Local>,
        listener: &Arc<Listener>,
        snapshot: &Snapshot,
        socket: Arc<TcpListener>,
    ) -> Rc<Self> {
        let door = Rc::new(Self {
            listener: RefCell::new(Arc::clone(listener)),
            limit: Cell::new(snapshot.max_connections),
            closing: Cell::new(false),
            leaving: Cell::new(false),
            deadline: Cell::new(None),
            task: Cell::new(None),
        });
        local.post().doors.fetch_add(1, Ordering::Relaxed);
        let (of_task, door_of_task) = (Rc::clone(local), Rc::clone(&door));
        local.events.spawn(async move {
            accept_all(Rc::clone(&of_task), door_of_task, socket).await;
            of_task.post().doors.fetch_sub(1, Ordering::Relaxed);
        });
        door
    }

    /// From now on what it accepts is this listener's.
    pub(super) fn belong_to(&self, listener: &Arc<Listener>, snapshot: &Snapshot) {
        *self.listener.borrow_mut() = Arc::clone(listener);
        self.limit.set(snapshot.max_connections);
    }

    /// Accepts no more: what waits in the queue is for another process, which has the socket too.
    pub(super) fn leave(&self, events: &EventLoop) {
        self.leaving.set(true);
        self.close(events, None);
    }

    /// Accepts what is waiting, then no more. While there is no room for it, it waits, for as long
    /// as `patience` says.
    pub(super) fn close(&self, events: &EventLoop, patience: Option<Duration>) {
        self.deadline.set(patience.map(|patience| events.now() + patience));
        self.closing.set(true);
        if let Some(task) = self.task.get() {
            events.wake(task);
        }
    }
}

/// What accepting came to.
enum Next {
    /// There may be more.
    Accepted,
    /// The accept queue is empty.
    Empty,
    /// There is no room, or the system lacks something.
    Pause,
}

async fn accept_all(local: Rc<Local>, door: Rc<Door>, socket: Arc<TcpListener>) {
    let events = &local.events;
    door.task.set(Some(events.current()));
    let socket = match events.watch(socket, Interest::Read) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, worker = local.index, "cannot watch a listening socket");
            return;
        }
    };
    let mut batch = 0;
    while !door.leaving.get() {
        match accept_one(&local, &door, socket.get_ref()) {
            Next::Accepted => {
                batch += 1;
                if batch == BATCH {
                    batch = 0;
                    events.give_way().await;
                }
            }
            Next::Empty if door.closing.get() => break,
            Next::Empty => {
                batch = 0;
                socket.mark_dry();
                poll_fn(|_| match socket.is_readable() || door.closing.get() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
            }
            Next::Pause => {
                if door.deadline.get().is_some_and(|deadline| deadline <= events.now()) {
                    break;
                }
                events.sleep_until(events.now() + PAUSE).await;
            }
        }
    }
    // Other workers, the control plane and other processes may have it as well.
    if let Err(error) = socket.unwatch() {
        tracing::error!(%error, worker = local.index, "a listening socket is still watched");
    }
}

fn accept_one(local: &Rc<Local>, door: &Door, socket: &TcpListener) -> Next {
    let listener = Arc::clone(&door.listener.borrow());
    // At a maximum the rest waits in the kernel's accept queue.
    let Some(place) = Place::take(&local.crew, door.limit.get(), &listener) else {
        return Next::Pause;
    };
    match socket::accept(socket.as_fd()) {
        Ok((socket, client)) => {
            listener.meters.stats.of(local.index).opened.add(1);
            let worker = local.crew.relief(local.index).unwrap_or(local.index);
            let accepted = Accepted {
                socket,
                client,
                listener,
                place: place.assigned_to(worker),
                at: local.events.now(),
                id: local.name_connection(),
            };
            if worker == local.index {
                admit(local, accepted);
            } else {
                local.crew.posts[worker].tell(Command::Adopt(accepted));
            }
            Next::Accepted
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Empty,
        Err(error) => match error.raw_os_error() {
            // accept(2): errors of the connection, not of the listener. It is gone, the next may
            // be well.
            Some(
                libc::ECONNABORTED
                | libc::EINTR
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::EPERM,
            ) => Next::Accepted,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM, and what nobody has thought of.
            _ => {
                local.tell_of_shortage(
                    "cannot accept for now; connections wait in the kernel",
                    &error,
                );
                Next::Pause
            }
        },
    }
}
