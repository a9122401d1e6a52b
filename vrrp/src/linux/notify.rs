//! Programs that are run at transitions: in order, one at a time, each with a time limit.
//!
//! Arguments are those of keepalived: `INSTANCE`, the name, `MASTER`, `BACKUP`, `FAULT` or `STOP`,
//! and the priority; the environment is `PATH` and nothing else. Several for one virtual router that
//! wait are no reason to skip any: a program may count on seeing each.
//!
//! The end is different. What has yet to be run by then is out of date, except for the last of each
//! virtual router, which is `STOP` if it ran. These are run at once, side by side, however long
//! another one hangs, and have [`LAST`]; one that was running when the end came has [`GRACE`].

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a program may run before it is killed.
const LIMIT: Duration = Duration::from_secs(30);

/// How long one may go on that was running when the end came.
const GRACE: Duration = Duration::from_millis(500);

/// How long the last programs may run, from the end on.
pub const LAST: Duration = Duration::from_secs(10);

/// Programs that may wait to be run; as many again for [`STOP`].
const WAITING: usize = 256;

/// The state of a virtual router that is given up for good.
pub const STOP: &str = "STOP";

/// Between two looks at a program that runs: at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];

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

/// Where programs are handed in, and run by a thread of their own.
#[derive(Clone, Debug, Default)]
pub struct Programs(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    end: End,
}

/// Whether, and how, it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// Nothing more is handed in; what waits is run.
    Closed,
    /// The end of all: only the last are run.
    Cut,
}

impl Programs {
    /// Has a program run after those that wait.
    pub fn run(&self, job: Job) {
        let mut state = self.lock();
        let room = if job.state == STOP { WAITING * 2 } else { WAITING };
        if state.end != End::Open {
            tracing::debug!(program = job.program, "not run: the end has come");
        } else if state.waiting.len() >= room {
            let Job { program, instance, state, .. } = job;
            tracing::error!(program, instance, state, "too many programs wait; not run");
        } else {
            state.waiting.push_back(job);
            self.0.changed.notify_all();
        }
    }

    /// Nothing more is handed in: [`Programs::work`] ends when all that waits has been run.
    pub fn close(&self) {
        self.end(End::Closed);
    }

    /// The same at the end of all: the last programs are run at once, and no others.
    pub fn cut(&self) {
        self.end(End::Cut);
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end == End::Open {
            state.end = end;
        }
        self.0.changed.notify_all();
    }

    /// The body of the thread `vrrp-notify`.
    pub fn work(&self) {
        let mut running: Vec<Running> = Vec::new();
        let mut limit = LIMIT;
        let mut pause = PAUSES[0];
        loop {
            running.retain_mut(Running::goes_on);
            let mut state = self.lock();
            let is_cut = state.end == End::Cut;
            if is_cut && limit != LAST {
                limit = LAST;
                supersede(&mut state.waiting);
                running.iter_mut().for_each(Running::hurry);
            }
            let may_begin = |job: &Job| {
                let mut others = running.iter().filter(|running| !running.killed);
                !others.any(|running| !is_cut || running.job.instance == job.instance)
            };
            let next = state.waiting.iter().position(may_begin);
            if let Some(job) = next.and_then(|index| state.waiting.remove(index)) {
                drop(state);
                running.extend(Running::begin(job, limit));
                pause = PAUSES[0];
                continue;
            }
            let is_idle = running.iter().all(|running| running.killed);
            if is_idle && state.end != End::Open {
                return;
            }
            let changed = &self.0.changed;
            if running.is_empty() {
                drop(changed.wait(state).unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner));
                pause = (pause * 2).min(PAUSES[1]);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves the last job of each virtual router.
fn supersede(waiting: &mut VecDeque<Job>) {
    let before = waiting.len();
    let mut later = BTreeSet::new();
    let last: Vec<_> =
        waiting.drain(..).rev().filter(|job| later.insert(job.instance.clone())).collect();
    waiting.extend(last.into_iter().rev());
    let skipped = before - waiting.len();
    if skipped > 0 {
        tracing::warn!(skipped, "the end has come: programs for earlier changes are not run");
    }
}

/// A program that runs.
struct Running {
    job: Job,
    child: Child,
    until: Instant,
    /// It has been killed, and has yet to be gone.
    killed: bool,
}

impl Running {
    fn begin(job: Job, limit: Duration) -> Option<Self> {
        let Job { program, instance, state, priority } = &job;
        let child = Command::new(program)
            .args(["INSTANCE", instance, state, &priority.to_string()])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            // What it has started goes with it when it is killed.
            .process_group(0)
            .spawn();
        match child {
            Ok(child) => Some(Self { job, child, until: Instant::now() + limit, killed: false }),
            Err(error) => {
                tracing::error!(program, instance, state, %error, "cannot run the program");
                None
            }
        }
    }

    /// The end has come.
    fn hurry(&mut self) {
        let limit = if self.job.state == STOP { LAST } else { GRACE };
        self.until = self.until.min(Instant::now() + limit);
    }

    /// Whether it still runs; if it has for too long, it is killed.
    fn goes_on(&mut self) -> bool {
        let Job { program, instance, state, .. } = &self.job;
        match self.child.try_wait() {
            Ok(None) if self.killed || Instant::now() < self.until => true,
            Ok(None) => {
                tracing::warn!(program, instance, state, "program took too long; killed");
                if let Err(error) = kill(&self.child) {
                    tracing::error!(program, %error, "cannot kill the program");
                }
                self.killed = true;
                true
            }
            Ok(Some(status)) => {
                if !status.success() && !self.killed {
                    tracing::warn!(program, instance, state, %status, "program failed");
                }
                false
            }
            Err(error) => {
                tracing::error!(program, %error, "cannot wait for the program");
                false
            }
        }
    }
}

/// Kills a program and what it has started.
fn kill(child: &Child) -> io::Result<()> {
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    Ok(killpg(group, Signal::SIGKILL)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::thread;

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
        let programs = Programs::default();
        let (program, instance) = (script.display().to_string(), "public".to_owned());
        programs.run(Job { program, instance, state: "MASTER", priority: 200 });
        programs.close();
        programs.work();
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
        let programs = Programs::default();
        for state in ["BACKUP", "MASTER", "FAULT"] {
            programs.run(Job {
                program: script.display().to_string(),
                instance: "public".to_owned(),
                state,
                priority: 200,
            });
        }
        programs.close();
        programs.work();
        let expected = "INSTANCE public BACKUP 200\nINSTANCE public MASTER 200\n\
                        INSTANCE public FAULT 200\n";
        assert_eq!(fs::read_to_string(&seen).unwrap(), expected);
        fs::remove_dir_all(&directory).unwrap();
    }

    /// A directory with a program that runs `body`, and the file that the body calls `$seen`.
    fn scene(name: &str, body: &str) -> (PathBuf, String, PathBuf) {
        let directory =
            std::env::temp_dir().join(format!("lockgate-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (script, seen) = (directory.join("notify"), directory.join("seen"));
        fs::write(&script, format!("#!/bin/sh\nseen={}\n{body}\n", seen.display())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        (directory, script.display().to_string(), seen)
    }

    fn job(program: &str, instance: &str, state: &'static str) -> Job {
        Job { program: program.to_owned(), instance: instance.to_owned(), state, priority: 100 }
    }

    fn eventually(what: &str, check: impl Fn() -> bool) {
        let begin = Instant::now();
        while !check() {
            assert!(begin.elapsed() < Duration::from_secs(20), "not in time: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_last_programs_run_though_an_earlier_one_hangs_and_the_queue_is_full() {
        let body = "echo \"$2 $3\" >> $seen; [ $3 != MASTER ] || sleep 1000";
        let (directory, program, seen) = scene("last", body);
        let read = || fs::read_to_string(&seen).unwrap_or_default();
        let programs = Programs::default();
        thread::scope(|scope| {
            let worker = scope.spawn(|| programs.work());
            programs.run(job(&program, "one", "MASTER"));
            eventually("it runs", || read() == "one MASTER\n");
            for _ in 0..WAITING {
                programs.run(job(&program, "one", "BACKUP"));
                programs.run(job(&program, "three", "FAULT"));
            }
            for instance in ["one", "two"] {
                programs.run(job(&program, instance, STOP));
            }
            programs.cut();
            worker.join().unwrap();
        });
        let seen_by_then = read();
        let mut lines: Vec<_> = seen_by_then.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["one MASTER", "one STOP", "three FAULT", "two STOP"]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_last_program_has_time() {
        let body = "echo begin $2 >> $seen; sleep 1.5; echo end $2 >> $seen";
        let (directory, program, seen) = scene("time", body);
        let read = || fs::read_to_string(&seen).unwrap_or_default();
        let programs = Programs::default();
        thread::scope(|scope| {
            let worker = scope.spawn(|| programs.work());
            programs.run(job(&program, "one", STOP));
            // One has begun before the end comes, the other has not.
            eventually("it runs", || read() == "begin one\n");
            programs.run(job(&program, "two", STOP));
            programs.cut();
            worker.join().unwrap();
        });
        let seen_by_then = read();
        let mut lines: Vec<_> = seen_by_then.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["begin one", "begin two", "end one", "end two"]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_is_closed_and_not_cut_runs_all() {
        let (directory, program, seen) = scene("close", "echo $3 >> $seen; sleep 0.7");
        let programs = Programs::default();
        for state in ["BACKUP", "MASTER"] {
            programs.run(job(&program, "one", state));
        }
        programs.close();
        programs.cut();
        programs.work();
        assert_eq!(fs::read_to_string(&seen).unwrap(), "BACKUP\nMASTER\n");
        fs::remove_dir_all(&directory).unwrap();
    }
}
