//! Starting the binary that is on disk now, with all sockets.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use command_fds::{CommandFdExt, FdMapping};

use crate::control::inherit::{COUNT, ELDER, FIRST, NAMES, OWNER, READER, UPGRADE};
use crate::log::{Output, Reader};

/// Of what a process wrote before it ended, so much is repeated.
const LAST_WORDS: usize = 2_000;

/// What this process was started as: the same is started again.
#[derive(Clone, Debug)]
pub(in crate::control) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// This one. To be asked at the start: later the file may be another, or gone.
    ///
    /// Fails if there is no telling where it is.
    pub(in crate::control) fn this() -> io::Result<Self> {
        let running = std::env::current_exe()?;
        let mut arguments = std::env::args_os();
        // As it was called, rather than where links led then: they are what an upgrade changes.
        let called = arguments
            .next()
            .map(PathBuf::from)
            .filter(|path| path.is_absolute() || path.components().count() > 1);
        let called = called.map(std::path::absolute).transpose()?;
        let same = |path: &PathBuf| {
            let identity = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino()));
            match (identity(path), identity(&running)) {
                (Ok(one), Ok(other)) => one == other,
                // It has been replaced since, in less than no time.
                (Ok(_), Err(_)) => true,
                (Err(_), _) => false,
            }
        };
        let path = called.filter(same).unwrap_or(running);
        Ok(Self { path, arguments: arguments.collect() })
    }

    /// Where it is.
    pub(in crate::control) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts what is there now, with these sockets. Its standard error goes through this process,
    /// which repeats it to `output`, until the new one takes the descriptor that it is given for
    /// its own.
    ///
    /// Fails if it cannot be started.
    pub(in crate::control) fn launch(
        &self,
        sockets: Vec<(String, OwnedFd)>,
        output: &Output,
    ) -> io::Result<Launched> {
        let (link, other) = UnixStream::pair()?;
        let stderr = nix::unistd::dup(io::stderr())?;
        let names: Vec<_> =
            sockets.iter().map(|(name, _)| name.replace([':', '\0'], "_")).collect();
        let count = sockets.len();
        let after = FIRST + RawFd::try_from(count).map_err(io::Error::other)?;
        let fds = sockets.into_iter().map(|(_, fd)| fd).chain([OwnedFd::from(other), stderr]);
        let mappings: Vec<_> = (FIRST..)
            .zip(fds)
            .map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd })
            .collect();
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env(COUNT, count.to_string())
            .env(OWNER, std::process::id().to_string())
            .env(NAMES, names.join(":"))
            .env(UPGRADE, after.to_string())
            // It is not the one that systemd started.
            .env_remove("WATCHDOG_PID")
            .env_remove(READER)
            .env_remove(ELDER)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        if output.reader() == Reader::Journal {
            command.env(READER, "journal");
        }
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        // By a descriptor of its own the standard library hears why a program could not be
        // executed. None of ours may take its number.
        let mut fillers = Vec::new();
        while fillers.last().is_none_or(|last: &File| last.as_raw_fd() < after + 2) {
            fillers.push(File::open("/dev/null")?);
        }
        let mut child = command.spawn()?;
        drop(fillers);
        let words = Words::default();
        if let Some(stderr) = child.stderr.take() {
            words.listen(stderr, output.clone())?;
        }
        let leash = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Launched { child, leash, link, stderr: after + 1, words })
    }
}

/// The processes that were started.
pub(in crate::control) struct Launched {
    pub(in crate::control) child: Child,
    /// What it leaves by, if it is an [`super::escort`].
    pub(in crate::control) leash: ChildStdin,
    /// The way to the heir.
    pub(in crate::control) link: UnixStream,
    /// Which of its descriptors its standard error is to be.
    pub(in crate::control) stderr: RawFd,
    /// What it says before it takes that.
    pub(in crate::control) words: Words,
}

/// What a process has written last.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Words(Arc<Mutex<Vec<u8>>>);

impl Words {
    /// Repeats what comes, to its end.
    fn listen(&self, mut from: impl Read + Send + 'static, output: Output) -> io::Result<()> {
        let words = self.clone();
        let thread = thread::Builder::new().name("words".to_owned());
        thread.spawn(move || {
            let mut buffer = [0; 4 << 10];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                output.lines(buffer[..count].to_vec());
                let mut words = words.0.lock().unwrap_or_else(PoisonError::into_inner);
                words.extend_from_slice(&buffer[..count]);
                let excess = words.len().saturating_sub(LAST_WORDS);
                words.drain(..excess);
            }
        })?;
        Ok(())
    }

    /// The last of it, without what is for the journal alone.
    pub(in crate::control) fn last(&self) -> String {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&words);
        let lines: Vec<_> = text.trim().lines().map(without_priority).collect();
        lines.join("\n")
    }
}

/// A line without the `<N>` before it (sd-daemon(3)).
fn without_priority(line: &str) -> &str {
    match line.as_bytes() {
        [b'<', b'0'..=b'7', b'>', ..] => &line[3..],
        _ => line,
    }
}
