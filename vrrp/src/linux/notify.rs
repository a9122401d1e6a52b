//! Programs that are run at transitions: in order, one at a time, each with a time limit.
//!
//! Arguments are those of keepalived: `INSTANCE`, the name, `MASTER`, `BACKUP`, `FAULT` or `STOP`,
//! and the priority; the environment is `PATH` and nothing else. Several for one virtual router that
//! wait are no reason to skip any: a program may count on seeing each.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may run before it is killed.
const LIMIT: Duration = Duration::from_secs(30);

/// Programs that may wait to be run.
const WAITING: usize = 256;

/// All that a program finds in its environment, and the daemon's is none of its business.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The program.
    pub program: String,
    /// Name of the virtual router.
    pub instance: String,
    /// State in the words of keepalived.
    pub state: &'static str,
    /// Effective priority.
    pub priority: u8,
}

/// Where programs are handed in.
#[derive(Debug)]
pub struct Programs(SyncSender<Job>);

impl Programs {
    /// The place to hand in, and what [`run`] takes.
    pub fn new() -> (Self, Receiver<Job>) {
        let (sender, receiver) = sync_channel(WAITING);
        (Self(sender), receiver)
    }

    /// Has a program run after those that wait.
    pub fn run(&self, job: Job) {
        match self.0.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => {
                tracing::error!(program = job.program, "too many programs wait; not run");
            }
            Err(TrySendError::Disconnected(job)) => {
                tracing::debug!(program = job.program, "not run: the end has come");
            }
        }
    }
}

/// The body of the thread `vrrp-notify`: until nobody can hand in any more.
pub fn run(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let Job { program, instance, state, priority } = &job;
        let child = Command::new(program)
            .args(["INSTANCE", instance, state, &priority.to_string()])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .spawn();
        match child.and_then(wait) {
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => tracing::warn!(program, instance, state, %status, "program failed"),
            Ok(None) => tracing::warn!(program, instance, state, "program took too long; killed"),
            Err(error) => tracing::error!(program, %error, "cannot run the program"),
        }
    }
}

/// Waits for a program; `None` if it had to be killed.
fn wait(mut child: Child) -> std::io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    while begin.elapsed() < LIMIT {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_environment_is_not_the_daemons() {
        let directory =
            std::env::temp_dir().join(format!("lockgate-environment-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (script, seen) = (directory.join("notify"), directory.join("seen"));
        // What it was started with: a shell adds variables of its own.
        let text = format!("#!/bin/sh\ntr '\\0' '\\n' < /proc/$$/environ > {}\n", seen.display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(std::env::vars_os().count() > 1, "there is something to inherit");
        let (programs, jobs) = Programs::new();
        let (program, instance) = (script.display().to_string(), "public".to_owned());
        programs.run(Job { program, instance, state: "MASTER", priority: 200 });
        drop(programs);
        run(&jobs);
        assert_eq!(fs::read_to_string(&seen).unwrap(), format!("PATH={PATH}\n"));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn programs_run_in_order_with_the_arguments_of_keepalived() {
        let directory =
            std::env::temp_dir().join(format!("lockgate-notify-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (script, seen) = (directory.join("notify"), directory.join("seen"));
        // The first is slow: those that follow wait for it.
        let text = format!(
            "#!/bin/sh\n[ \"$3\" = BACKUP ] && sleep 0.2\necho \"$@\" >> {}\n",
            seen.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let (programs, jobs) = Programs::new();
        for state in ["BACKUP", "MASTER", "FAULT"] {
            programs.run(Job {
                program: script.display().to_string(),
                instance: "public".to_owned(),
                state,
                priority: 200,
            });
        }
        drop(programs);
        run(&jobs);
        let expected = "INSTANCE public BACKUP 200\nINSTANCE public MASTER 200\n\
                        INSTANCE public FAULT 200\n";
        assert_eq!(fs::read_to_string(&seen).unwrap(), expected);
        fs::remove_dir_all(&directory).unwrap();
    }
}
