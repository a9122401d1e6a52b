//! A worker's event loop: its tasks, the sockets that they wait for, and the time.
//!
//! One thread, one `epoll` instance, tasks that never leave the thread. It exists beside tokio,
//! which runs everything else, because it fits what a worker does. A task owns its sockets, so an
//! event names the task to poll and no waker is kept; a socket is registered once and closing it
//! takes it out; hang-ups, errors and urgent data are told apart from readiness; a task has one
//! deadline, which costs a comparison; and a silent connection costs its future and some 100 bytes.
//!
//! What can be waited for without a socket (the channels of [`tokio::sync`]) works here as well,
//! through the usual [`Waker`](std::task::Waker), from any thread.

mod source;
mod task;
mod wheel;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

pub use source::{Interest, Watched};
pub use task::Task;
use task::{Bell, NEVER, Tasks};
use wheel::Wheel;

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// The bell's name among the events; no socket has it, as descriptors are fewer.
const BELL: u64 = u64::MAX;

/// The loop of one thread.
pub struct EventLoop {
    epoll: Epoll,
    bell: Arc<Bell>,
    sources: RefCell<source::Sources>,
    tasks: RefCell<Tasks>,
    queue: RefCell<VecDeque<Task>>,
    wheel: RefCell<Wheel>,
    began: Instant,
    now: Cell<Instant>,
    /// Counts how often it was asked for events.
    round: Cell<u64>,
    /// The task that is being polled, and when it wants to be polled again at the latest.
    current: Cell<Task>,
    deadline: Cell<u64>,
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl EventLoop {
    /// A loop for the calling thread.
    ///
    /// Fails if the kernel gives no `epoll` instance, or no descriptor.
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = Bell::new()?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&bell.descriptor, EpollEvent::new(flags, BELL))?;
        let now = Instant::now();
        Ok(Rc::new(Self {
            epoll,
            bell,
            sources: RefCell::default(),
            tasks: RefCell::default(),
            queue: RefCell::default(),
            wheel: RefCell::new(Wheel::new()),
            began: now,
            now: Cell::new(now),
            round: Cell::new(0),
            current: Cell::new(Task(0)),
            deadline: Cell::new(NEVER),
        }))
    }

    /// Runs `main`, and all tasks that are spawned meanwhile. When `main` ends the others are
    /// dropped, wherever they are.
    ///
    /// Fails if the kernel does not let it wait for events any more.
    pub fn run(self: &Rc<Self>, main: impl Future<Output = ()> + 'static) -> io::Result<()> {
        let ended = Rc::new(Cell::new(false));
        let end = EndOnDrop(Rc::clone(&ended));
        self.spawn(async move {
            let _end = end;
            main.await;
        });
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut woken = Vec::new();
        let mut due = Vec::new();
        let outcome = loop {
            let round = self.queue.borrow().len();
            for _ in 0..round {
                let next = self.queue.borrow_mut().pop_front();
                if let Some(task) = next {
                    self.poll(task);
                }
            }
            if ended.get() {
                break Ok(());
            }
            let count = match self.wait(&mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => break Err(error),
            };
            self.now.set(Instant::now());
            self.round.set(self.round.get() + 1);
            for event in &events[..count] {
                let task = self.sources.borrow_mut().note(event);
                if let Some(task) = task {
                    self.wake(task);
                }
            }
            self.bell.collect(&mut woken);
            woken.drain(..).for_each(|task| self.wake(task));
            self.expire(&mut due);
        };
        // What tasks do when they are dropped may touch anything but the tasks.
        let unfinished = self.tasks.borrow_mut().clear();
        drop(unfinished);
        outcome
    }

    /// Starts a task. It is polled in the next round.
    ///
    /// One that panics ends, and is told of in the log; the others go on.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let task = self.tasks.borrow_mut().add(Box::pin(future), &self.bell);
        self.wake(task);
    }

    /// The time at which this round began.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Which round it is: in each, every task has one turn at most.
    pub fn round(&self) -> u64 {
        self.round.get()
    }

    /// The task that is running.
    pub fn current(&self) -> Task {
        self.current.get()
    }

    /// Has a task polled in the next round. For tasks of this loop.
    pub fn wake(&self, task: Task) {
        if self.tasks.borrow_mut().queue(task) {
            self.queue.borrow_mut().push_back(task);
        }
    }

    /// Has the running task polled in the next round.
    pub fn again(&self) {
        self.wake(self.current());
    }

    /// Has the running task polled at `time` at the latest, give or take a few milliseconds, never
    /// earlier. To be asked for in every poll that is to be followed by another.
    pub fn wake_at(&self, time: Instant) {
        let at = self.milliseconds(time, Duration::from_nanos(999_999));
        self.deadline.set(self.deadline.get().min(at));
    }

    /// Ends at `time`.
    pub async fn sleep_until(&self, time: Instant) {
        poll_fn(|_| {
            if self.now() >= time {
                return Poll::Ready(());
            }
            self.wake_at(time);
            Poll::Pending
        })
        .await;
    }

    /// Lets the other tasks have their turn.
    pub async fn give_way(&self) {
        let mut given = false;
        poll_fn(|_| {
            if given {
                return Poll::Ready(());
            }
            given = true;
            self.again();
            Poll::Pending
        })
        .await;
    }

    /// What `future` comes to; `None` if `time` comes first.
    pub async fn until<F: Future>(&self, time: Instant, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|context: &mut Context<'_>| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            if self.now() >= time {
                return Poll::Ready(None);
            }
            self.wake_at(time);
            Poll::Pending
        })
        .await
    }

    fn poll(&self, task: Task) {
        let Some(mut body) = self.tasks.borrow_mut().begin(task) else {
            return;
        };
        self.current.set(task);
        self.deadline.set(NEVER);
        let mut context = Context::from_waker(&body.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| body.future.as_mut().poll(&mut context)));
        if let Ok(Poll::Pending) = polled {
            let deadline = self.deadline.get();
            let mut tasks = self.tasks.borrow_mut();
            if tasks.suspend(task, body, deadline) {
                tasks.timed(task, self.wheel.borrow_mut().insert(deadline, task.0));
            }
            return;
        }
        let task::Body { future, waker } = body;
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        if polled.is_err() || dropped.is_err() {
            tracing::error!("a task of a worker panicked");
        }
        self.tasks.borrow_mut().end(task, waker);
    }

    /// Waits for events, if there is nothing else to do.
    fn wait(&self, events: &mut [EpollEvent]) -> io::Result<usize> {
        let idle = self.queue.borrow().is_empty() && self.bell.fall_asleep();
        let timeout = match self.wheel.borrow().due() {
            _ if !idle => EpollTimeout::ZERO,
            None => EpollTimeout::NONE,
            Some(due) => {
                let now = self.milliseconds(Instant::now(), Duration::ZERO);
                let wait = u16::try_from(due.saturating_sub(now)).unwrap_or(u16::MAX);
                EpollTimeout::from(wait)
            }
        };
        let waited = self.epoll.wait(events, timeout);
        if idle {
            self.bell.wake_up();
        }
        Ok(waited?)
    }

    /// Wakes the tasks whose time has come.
    fn expire(&self, due: &mut Vec<u32>) {
        let now = self.milliseconds(self.now(), Duration::ZERO);
        self.wheel.borrow_mut().expire(now, due);
        for task in due.drain(..).map(Task) {
            let deadline = self.tasks.borrow_mut().expired(task, now);
            if deadline <= now {
                self.wake(task);
            } else if deadline != NEVER {
                let timer = self.wheel.borrow_mut().insert(deadline, task.0);
                self.tasks.borrow_mut().timed(task, timer);
            }
        }
    }

    /// Milliseconds from the beginning to `time`, after adding `round`.
    fn milliseconds(&self, time: Instant, round: Duration) -> u64 {
        let since = time.saturating_duration_since(self.began) + round;
        u64::try_from(since.as_millis()).unwrap_or(NEVER - 1)
    }
}

struct EndOnDrop(Rc<Cell<bool>>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[cfg(test)]
mod tests;
