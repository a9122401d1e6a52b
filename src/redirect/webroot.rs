//! Files that answer challenges, read by threads of their own.
//!
//! A file system may hang (NFS whose server is gone, FUSE whose daemon is), and then whoever opens a
//! file on it hangs as well, for as long as it does. A worker that did would serve nobody; so each
//! directory has a few threads that read for all workers, and a bounded queue before them. When they
//! are all stuck, or the queue is full, challenges of that directory are answered with 503, and nobody
//! else notices. The threads are never waited for, at the end of the process neither.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::event_loop::EventLoop;
use crate::sandbox;

/// A key authorization has some 90 bytes (RFC 8555, 8.1).
const LONGEST_ANSWER: u64 = 4096;

/// Threads that read files of one directory, and requests that may wait for them.
const READERS: usize = 4;
const WAITING: usize = 64;

/// How long a request waits for its file. Certificate authorities give up after some ten seconds.
const READING: Duration = Duration::from_secs(5);

/// A directory with the answers to challenges.
#[derive(Debug)]
pub struct Webroot {
    directory: PathBuf,
    jobs: SyncSender<Job>,
    /// Files are not read in time; told of once, until one is.
    is_stuck: Arc<AtomicBool>,
}

/// A file to read.
#[derive(Debug)]
struct Job {
    token: String,
    /// `None` = there is no such file.
    answer: oneshot::Sender<Option<Vec<u8>>>,
}

/// The files of a directory were not read in time.
#[derive(Debug)]
pub(super) struct NotInTime;

impl Webroot {
    /// The files of this directory. Whoever asks for the same directory gets the same threads: a
    /// reload starts no more of them while others are stuck.
    pub fn of(directory: &Path) -> Arc<Self> {
        static KNOWN: Mutex<Vec<Weak<Webroot>>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|webroot| webroot.strong_count() > 0);
        let found = known.iter().filter_map(Weak::upgrade);
        if let Some(webroot) = found.into_iter().find(|found| found.directory == directory) {
            return webroot;
        }
        let webroot = Arc::new(Self::start(directory));
        known.push(Arc::downgrade(&webroot));
        webroot
    }

    fn start(directory: &Path) -> Self {
        let (jobs, queue) = sync_channel(WAITING);
        let (queue, is_stuck) = (Arc::new(Mutex::new(queue)), Arc::new(AtomicBool::new(false)));
        for _ in 0..READERS {
            let (queue, is_stuck) = (Arc::clone(&queue), Arc::clone(&is_stuck));
            let path = directory.to_owned();
            let reader = thread::Builder::new().name("acme-files".to_owned());
            let started = reader.spawn(move || {
                // It reads what clients ask for: no more is granted than to a worker.
                if let Err(error) = sandbox::enter(sandbox::Role::Worker) {
                    return tracing::error!(%error, "challenges cannot be read");
                }
                serve(&path, &queue, &is_stuck);
            });
            if let Err(error) = started {
                tracing::error!(%error, acme_dir = %directory.display(), "no thread to read challenges");
            }
        }
        Self { directory: directory.to_owned(), jobs, is_stuck }
    }

    /// The file of this token; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it is not read in time.
    pub(super) async fn read(
        &self,
        events: &EventLoop,
        token: String,
    ) -> Result<Option<Vec<u8>>, NotInTime> {
        let (answer, answered) = oneshot::channel();
        if self.jobs.try_send(Job { token, answer }).is_ok()
            && let Some(Ok(file)) = events.until(events.now() + READING, answered).await
        {
            return Ok(file);
        }
        if !self.is_stuck.swap(true, Ordering::Relaxed) {
            tracing::error!(
                acme_dir = %self.directory.display(),
                "files are not read in time (does its file system hang?): challenges are answered \
                 with 503"
            );
        }
        Err(NotInTime)
    }
}

/// The body of a thread: until the directory is configured no more.
fn serve(directory: &Path, queue: &Mutex<Receiver<Job>>, is_stuck: &AtomicBool) {
    loop {
        // Held while waiting for a job, never while a file is read.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { token, answer }) = job else {
            return;
        };
        // Who asked has given up.
        if answer.is_closed() {
            continue;
        }
        let file = find(directory, &token);
        // Who asked may have given up meanwhile.
        if answer.send(file).is_ok() && is_stuck.swap(false, Ordering::Relaxed) {
            tracing::info!(acme_dir = %directory.display(), "files are read in time again");
        }
    }
}

/// The file of a token, as clients of a directory of challenges or as Certbot's of its webroot has it.
fn find(directory: &Path, token: &str) -> Option<Vec<u8>> {
    // A token is base64url: no dot, no slash, no way to another directory.
    read(directory, token).or_else(|_| read(&directory_within(directory)?, token)).ok()
}

/// Where Certbot puts challenges when `directory` is its webroot; not if a link leads out of it.
fn directory_within(directory: &Path) -> io::Result<PathBuf> {
    let root = directory.canonicalize()?;
    let within = root.join(".well-known/acme-challenge").canonicalize()?;
    if within.starts_with(&root) { Ok(within) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Reads a small ordinary file; a symbolic link is none, nor is a pipe, which would be waited for.
fn read(directory: &Path, token: &str) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(directory.join(token))?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_ANSWER + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        0..=LONGEST_ANSWER => Ok(bytes),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_small_files_of_the_directory_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("challenges");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(root.path().join("secret"), "secret").unwrap();
        std::fs::write(directory.join("token-1_A"), "token.thumb").unwrap();
        std::fs::write(directory.join("large"), vec![b'x'; 5000]).unwrap();
        std::os::unix::fs::symlink(root.path().join("secret"), directory.join("link")).unwrap();
        std::fs::create_dir(directory.join("folder")).unwrap();
        let ask = |token: &str| find(&directory, token);
        assert_eq!(ask("token-1_A").as_deref(), Some(&b"token.thumb"[..]));
        let certbot = directory.join(".well-known/acme-challenge");
        std::fs::create_dir_all(&certbot).unwrap();
        std::fs::write(certbot.join("webroot"), "webroot.thumb").unwrap();
        assert_eq!(ask("webroot").as_deref(), Some(&b"webroot.thumb"[..]));
        std::fs::remove_dir_all(&certbot).unwrap();
        std::os::unix::fs::symlink(root.path(), &certbot).unwrap();
        for other in ["secret", "none", "large", "link", "folder"] {
            assert_eq!(ask(other), None, "{other}");
        }
    }

    #[test]
    fn a_directory_has_its_threads_once() {
        let root = tempfile::tempdir().unwrap();
        let first = Webroot::of(root.path());
        assert!(Arc::ptr_eq(&first, &Webroot::of(root.path())));
        assert!(!Arc::ptr_eq(&first, &Webroot::of(&root.path().join("other"))));
    }

    #[test]
    fn a_queue_that_is_full_or_a_reader_that_is_stuck_is_no_answer_and_holds_nobody_up() {
        // Nobody reads.
        let (jobs, _queue) = sync_channel(1);
        let is_stuck = Arc::new(AtomicBool::new(false));
        let webroot = Arc::new(Webroot { directory: "/".into(), jobs, is_stuck });
        let events = EventLoop::new().unwrap();
        let (loop_of_tasks, told) = (std::rc::Rc::clone(&events), Arc::clone(&webroot));
        events
            .run(async move {
                assert!(
                    told.jobs
                        .try_send(Job { token: String::new(), answer: oneshot::channel().0 })
                        .is_ok()
                );
                assert!(told.read(&loop_of_tasks, "token".to_owned()).await.is_err());
            })
            .unwrap();
        assert!(webroot.is_stuck.load(Ordering::Relaxed));
    }
}
