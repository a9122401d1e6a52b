//! Files that may change while they are in use.
//!
//! They are looked at, not subscribed to: a Certbot renewal switches a symbolic link, Kubernetes
//! one that is two levels up, others rewrite a file in place, and all three change what `stat(2)`
//! says of the path.
//!
//! Threads of their own look: where a file system hangs, `stat(2)` does, and the control plane must
//! not. One that is stuck is left to itself, and another goes on with the other files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::material::LOOK;

/// How long a look at files that belong together may take before their file system is said to hang.
const LONGEST: Duration = Duration::from_secs(5);

/// Files that belong together, and how they looked when they were read.
#[derive(Debug)]
pub(super) struct Files {
    watched: Arc<Watched>,
    read: Stamps,
    /// How they looked last time, if that was different.
    seen: Option<Stamps>,
}

/// Files as those see them who look.
#[derive(Debug)]
struct Watched {
    paths: Box<[PathBuf]>,
    /// How they look, until [`Files::have_changed`] has heard of it.
    present: Mutex<Option<Stamps>>,
    /// Somebody is looking.
    busy: AtomicBool,
}

/// Device, inode, size and time of the last change of each; `None` = not there.
type Stamps = Vec<Option<(u64, u64, u64, i64, i64)>>;

/// All files that are looked at.
static WATCHED: Mutex<Vec<Weak<Watched>>> = Mutex::new(Vec::new());

impl Files {
    /// These files as they are, which are about to be read.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let read = stamps(&paths);
        let watched = Arc::new(Watched {
            paths: paths.into(),
            present: Mutex::new(None),
            busy: AtomicBool::new(false),
        });
        let mut all = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::downgrade(&watched));
        Self { watched, read, seen: None }
    }

    /// Whether they have changed, and should be read again. Never waits for a file.
    ///
    /// That is when they have looked the same twice in a row, so that a certificate and its key
    /// are both there. Read or refused, they have not changed then before they change again.
    pub(super) fn have_changed(&mut self) -> bool {
        static LOOKING: Once = Once::new();
        LOOKING.call_once(|| {
            if let Err(error) = thread::Builder::new().name("files".to_owned()).spawn(look) {
                tracing::error!(%error, "no thread to look at files: changes go unnoticed");
            }
        });
        let present = self.watched.present.lock().unwrap_or_else(PoisonError::into_inner).take();
        present.is_some_and(|present| self.are_now(present))
    }

    fn are_now(&mut self, present: Stamps) -> bool {
        if present == self.read {
            self.seen = None;
            return false;
        }
        if self.seen.as_ref() != Some(&present) {
            self.seen = Some(present);
            return false;
        }
        self.read = present;
        self.seen = None;
        true
    }
}

/// Has all files looked at, again and again.
fn look() {
    let mut looker = Looker::start();
    loop {
        thread::sleep(LOOK);
        let all = {
            let mut all = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|watched| watched.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect::<Vec<_>>()
        };
        for watched in all {
            // A thread is stuck with them.
            if watched.busy.swap(true, Ordering::AcqRel) {
                continue;
            }
            if !looker.look_at(&watched) {
                looker = Looker::start();
            }
        }
    }
}

/// A thread that looks at files.
struct Looker {
    jobs: Sender<Arc<Watched>>,
    done: Receiver<()>,
}

impl Looker {
    fn start() -> Self {
        let (jobs, taken) = channel::<Arc<Watched>>();
        let (tell, done) = channel();
        let started = thread::Builder::new().name("files-look".to_owned()).spawn(move || {
            for watched in taken {
                let present = stamps(&watched.paths);
                *watched.present.lock().unwrap_or_else(PoisonError::into_inner) = Some(present);
                watched.busy.store(false, Ordering::Release);
                if tell.send(()).is_err() {
                    // It has been stuck, and replaced.
                    let files = shown(&watched.paths);
                    return tracing::info!(files, "these files can be looked at again");
                }
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread to look at files");
        }
        Self { jobs, done }
    }

    /// Whether it has done so in time. If not, another is to be started.
    fn look_at(&self, watched: &Arc<Watched>) -> bool {
        if self.jobs.send(Arc::clone(watched)).is_err() {
            watched.busy.store(false, Ordering::Release);
            return false;
        }
        match self.done.recv_timeout(LONGEST) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => {
                tracing::error!(
                    files = shown(&watched.paths),
                    "the file system of one of these files hangs: what is in use stays, and changes \
                     go unnoticed"
                );
                false
            }
            Err(RecvTimeoutError::Disconnected) => {
                watched.busy.store(false, Ordering::Release);
                false
            }
        }
    }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn stamps(paths: &[PathBuf]) -> Stamps {
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path as &Path).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    paths.iter().map(stamp).collect()
}
