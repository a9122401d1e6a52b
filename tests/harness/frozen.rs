//! A thread of another process that stands still, as one that hangs in a system call or a bug does.

use std::fs;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Stands still until this is dropped.
pub struct Frozen {
    release: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Frozen {
    /// Stops the thread of this name in a process, and no other.
    ///
    /// # Panics
    ///
    /// If there is no such thread, or the test may not trace it.
    pub fn thread(process: u32, name: &str) -> Self {
        let named = |entry: &fs::DirEntry| {
            let comm = fs::read_to_string(entry.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        };
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let task = tasks.flatten().find(named).unwrap_or_else(|| panic!("no thread {name}"));
        let task = Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap());
        let (release, released) = channel();
        let (is_frozen, frozen) = channel();
        // Only the thread that has attached can let go again.
        let tracer = thread::spawn(move || {
            ptrace::attach(task).unwrap();
            waitpid(task, Some(WaitPidFlag::__WALL)).unwrap();
            is_frozen.send(()).unwrap();
            // Dropped, it is released as well.
            let _ = released.recv();
            // The process may have been killed meanwhile.
            let _ = ptrace::detach(task, None);
        });
        frozen.recv().unwrap();
        Self { release: Some(release), tracer: Some(tracer) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(Err(_)) = self.tracer.take().map(JoinHandle::join) {
            eprintln!("the tracer has failed");
        }
    }
}
