//! Tasks: futures in places, and who wakes them.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A place for a task. Whoever holds one may wake its task, or a later one in the same place:
/// tasks are used to being woken for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task(pub(super) u32);

/// In the place of a time: never.
pub(super) const NEVER: u64 = u64::MAX;

/// What runs in a place.
pub(super) struct Body {
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) waker: Waker,
}

struct Place {
    /// None while it is vacant, and while its task is being polled.
    body: Option<Body>,
    /// The waker of a vacant place, for the next task there.
    waker: Option<Waker>,
    /// It is in the queue of tasks to be polled.
    queued: bool,
    /// When its task wants to be polled, in milliseconds.
    deadline: u64,
    /// When the wheel has it due.
    timer: u64,
}

/// All tasks, by place.
#[derive(Default)]
pub(super) struct Tasks {
    places: Vec<Place>,
    vacant: Vec<u32>,
}

impl Tasks {
    /// Puts a task into a place. It is not queued yet.
    pub(super) fn add(
        &mut self,
        future: Pin<Box<dyn Future<Output = ()>>>,
        bell: &Arc<Bell>,
    ) -> Task {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(Place {
                body: None,
                waker: None,
                queued: false,
                deadline: NEVER,
                timer: NEVER,
            });
            u32::try_from(self.places.len() - 1).expect("fewer tasks than descriptors")
        });
        let slot = &mut self.places[place as usize];
        let waker = slot.waker.take().unwrap_or_else(|| {
            Waker::from(Arc::new(Ring { task: Task(place), bell: Arc::clone(bell) }))
        });
        slot.body = Some(Body { future, waker });
        slot.deadline = NEVER;
        Task(place)
    }

    /// Whether it is to be put into the queue: it is not in it yet.
    pub(super) fn queue(&mut self, task: Task) -> bool {
        let place = self.places.get_mut(task.0 as usize);
        place.is_some_and(|place| !std::mem::replace(&mut place.queued, true))
    }

    /// Takes a task out of the queue, to poll it. None if its place is vacant.
    pub(super) fn begin(&mut self, task: Task) -> Option<Body> {
        let slot = &mut self.places[task.0 as usize];
        slot.queued = false;
        slot.body.take()
    }

    /// Puts a task that is not finished back. The wheel must have it at `deadline`, if this says
    /// so.
    pub(super) fn suspend(&mut self, task: Task, body: Body, deadline: u64) -> bool {
        let slot = &mut self.places[task.0 as usize];
        slot.body = Some(body);
        slot.deadline = deadline;
        deadline < slot.timer
    }

    /// Notes when the wheel has it.
    pub(super) fn timed(&mut self, task: Task, timer: u64) {
        self.places[task.0 as usize].timer = timer;
    }

    /// The wheel has it no more. Its deadline; [`NEVER`] if nobody waits.
    pub(super) fn expired(&mut self, task: Task, now: u64) -> u64 {
        let slot = &mut self.places[task.0 as usize];
        // An entry that an earlier one has overtaken.
        if slot.timer > now {
            return NEVER;
        }
        slot.timer = NEVER;
        slot.deadline
    }

    /// Makes the place of a finished task vacant.
    pub(super) fn end(&mut self, task: Task, waker: Waker) {
        let slot = &mut self.places[task.0 as usize];
        slot.waker = Some(waker);
        slot.deadline = NEVER;
        self.vacant.push(task.0);
    }

    /// Takes all futures out.
    pub(super) fn clear(&mut self) -> Vec<Body> {
        let places = std::mem::take(&mut self.places);
        self.vacant.clear();
        places.into_iter().filter_map(|place| place.body).collect()
    }
}

/// Where wakers leave word, from whichever thread: what the loop is not told by sockets.
#[derive(Debug)]
pub(super) struct Bell {
    woken: Mutex<Vec<Task>>,
    /// Nobody looks at `woken` before the descriptor is readable.
    asleep: AtomicBool,
    pub(super) descriptor: EventFd,
}

impl Bell {
    pub(super) fn new() -> nix::Result<Arc<Self>> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let descriptor = EventFd::from_value_and_flags(0, flags)?;
        Ok(Arc::new(Self { woken: Mutex::default(), asleep: AtomicBool::new(false), descriptor }))
    }

    fn ring(&self, task: Task) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        // Pairs with `fall_asleep`: either this sees that the loop is asleep, or that sees the task.
        if self.asleep.swap(false, Ordering::SeqCst) {
            // It is watched edge by edge and never read; the one error is a full counter, 2^64 - 2
            // rings away.
            let _ = self.descriptor.write(1);
        }
    }

    /// Announces that nobody looks here until the descriptor says so. False if there is something
    /// to look at already.
    pub(super) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let quiet = self.woken.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !quiet {
            self.wake_up();
        }
        quiet
    }

    pub(super) fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Moves the tasks that were woken since this was last asked to `woken`.
    pub(super) fn collect(&self, woken: &mut Vec<Task>) {
        woken.append(&mut self.woken.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The waker of a place.
struct Ring {
    task: Task,
    bell: Arc<Bell>,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.ring(self.task);
    }
}
