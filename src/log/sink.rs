//! Where lines are written: a stream of the process, or a file that may be rotated under it.
//!
//! Only the thread that writes uses a sink, but for opening it the first time. Writing may take as
//! long as a disk takes; nothing here is ever done by a worker or by the control thread.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::safe_file;

/// How long a stream that takes nothing, and does not block, is left alone.
const PAUSE: Duration = Duration::from_millis(10);

/// What has changed about a sink.
#[derive(Debug)]
pub enum News {
    /// Lines are lost from now on.
    Failing(io::Error),
    /// They are written again; so many were lost.
    Recovered(u64),
}

/// Where lines are written.
#[derive(Debug)]
pub struct Sink {
    /// For people: `standard output`, or the key and the path of a file.
    name: String,
    /// Of a file that is opened again when it was rotated.
    path: Option<PathBuf>,
    open: Option<File>,
    /// The last byte written was not the end of a line.
    torn: bool,
    /// Lines lost since it began to fail; `None` = all is well.
    lost: Option<u64>,
    news: Option<News>,
}

impl Sink {
    /// A stream that the process was started with.
    ///
    /// Fails if the process has no descriptor left.
    pub fn stream(name: &str, stream: BorrowedFd<'_>) -> io::Result<Self> {
        let open = File::from(stream.try_clone_to_owned()?);
        Ok(Self::new(name.to_owned(), None, open))
    }

    /// The file at `path`, which the configuration has under `key`; made if it is not there.
    ///
    /// Fails if it cannot be opened for appending, is a directory, a FIFO or a socket, or a link or a
    /// file that somebody else may have put there (see [`safe_file::append`]).
    pub fn file(key: &str, path: &Path) -> io::Result<Self> {
        let name = format!("{key} {}", path.display());
        Ok(Self::new(name, Some(path.to_owned()), safe_file::append(path)?))
    }

    fn new(name: String, path: Option<PathBuf>, open: File) -> Self {
        Self { name, path, open: Some(open), torn: false, lost: None, news: None }
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a file of its own.
    pub fn is_file(&self) -> bool {
        self.path.is_some()
    }

    /// What has changed since this was last asked.
    pub fn news(&mut self) -> Option<News> {
        self.news.take()
    }

    /// Writes whole lines. Returns how many of them are lost.
    pub fn write(&mut self, lines: &[u8]) -> u64 {
        let Some(file) = &mut self.open else {
            let lost = count(lines);
            self.lost = Some(self.lost.unwrap_or(0) + lost);
            return lost;
        };
        // The rest of a line that a full disk has cut must not swallow the next one; unless room
        // was made by taking all of it away.
        let mended = if self.torn && file.metadata().is_ok_and(|found| found.len() > 0) {
            write(file, b"\n").1
        } else {
            Ok(())
        };
        let (rest, result) = match mended {
            Ok(()) => {
                self.torn = false;
                write(file, lines)
            }
            refused => (lines, refused),
        };
        match result {
            Ok(()) => {
                if let Some(lost) = self.lost.take() {
                    self.news = Some(News::Recovered(lost));
                }
                0
            }
            Err(error) => {
                let written = &lines[..lines.len() - rest.len()];
                self.torn |= written.last().is_some_and(|&byte| byte != b'\n');
                let lost = count(rest);
                self.fail(error, lost);
                lost
            }
        }
    }

    /// Looks whether the file was renamed or removed, and opens it again if so.
    ///
    /// Where that fails the old one is written to as long as it has a name: rotated lines are not
    /// lost. Once nobody could find them there any more, they are.
    pub fn look(&mut self) {
        let Some(path) = &self.path else { return };
        let identity = |found: &std::fs::Metadata| (found.dev(), found.ino());
        let present = self.open.as_ref().and_then(|file| file.metadata().ok());
        let there = std::fs::metadata(path).ok();
        if let (Some(present), Some(there)) = (&present, &there)
            && identity(present) == identity(there)
        {
            return;
        }
        match safe_file::append(path) {
            Ok(file) => {
                self.open = Some(file);
                self.torn = false;
            }
            Err(error) => {
                if present.is_none_or(|present| present.nlink() == 0) {
                    self.open = None;
                    self.fail(error, 0);
                }
            }
        }
    }

    fn fail(&mut self, error: io::Error, lost: u64) {
        // Told once: it may fail for hours.
        if self.lost.is_none() {
            self.news = Some(News::Failing(error));
        }
        self.lost = Some(self.lost.unwrap_or(0) + lost);
    }
}

/// How many lines these are.
pub fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Writes until an error. Returns what has not been written.
fn write<'a>(file: &mut File, lines: &'a [u8]) -> (&'a [u8], io::Result<()>) {
    let mut rest = lines;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return (rest, Err(ErrorKind::WriteZero.into())),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return (rest, Err(error)),
        }
    }
    (rest, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use tempfile::TempDir;

    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_renamed_file_keeps_its_lines_and_a_new_one_gets_the_next() {
        let directory = TempDir::new().unwrap();
        let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut sink = Sink::file("log.file", &path).unwrap();
        assert_eq!(sink.write(b"one\n"), 0);
        fs::rename(&path, &old).unwrap();
        assert_eq!(sink.write(b"two\n"), 0);
        sink.look();
        assert_eq!(sink.write(b"three\n"), 0);
        assert_eq!((text(&old), text(&path)), ("one\ntwo\n".into(), "three\n".into()));
        assert!(sink.news().is_none());
    }

    #[test]
    fn a_file_that_is_there_already_is_appended_to_even_after_it_was_truncated() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "before\n").unwrap();
        let mut sink = Sink::file("log.file", &path).unwrap();
        sink.write(b"one\n");
        assert_eq!(text(&path), "before\none\n");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        sink.look();
        sink.write(b"two\n");
        assert_eq!(text(&path), "two\n");
    }

    #[test]
    fn a_directory_that_vanishes_is_told_once_counted_and_got_over() {
        let directory = TempDir::new().unwrap();
        let (inner, path) = (directory.path().join("a"), directory.path().join("a/log"));
        fs::create_dir(&inner).unwrap();
        let mut sink = Sink::file("log.file", &path).unwrap();
        fs::remove_dir_all(&inner).unwrap();
        sink.look();
        assert!(matches!(sink.news(), Some(News::Failing(_))));
        assert_eq!(sink.write(b"one\ntwo\n"), 2);
        sink.look();
        assert!(sink.news().is_none(), "told already");
        fs::create_dir(&inner).unwrap();
        sink.look();
        assert_eq!(sink.write(b"three\n"), 0);
        assert!(matches!(sink.news(), Some(News::Recovered(2))));
        assert_eq!(text(&path), "three\n");
    }

    #[test]
    fn a_renamed_file_is_written_to_as_long_as_there_can_be_no_other() {
        let directory = TempDir::new().unwrap();
        let (inner, moved) = (directory.path().join("a"), directory.path().join("b"));
        fs::create_dir(&inner).unwrap();
        let mut sink = Sink::file("log.file", &inner.join("log")).unwrap();
        fs::rename(&inner, &moved).unwrap();
        sink.look();
        assert_eq!(sink.write(b"one\n"), 0);
        assert_eq!(text(&moved.join("log")), "one\n");
    }

    #[test]
    fn what_a_full_disk_refuses_is_counted_and_told_once() {
        let mut sink = Sink::file("log.file", Path::new("/dev/full")).unwrap();
        assert_eq!(sink.write(b"one\ntwo\n"), 2);
        assert!(matches!(sink.news(), Some(News::Failing(_))));
        assert_eq!(sink.write(b"three\n"), 1);
        assert!(sink.news().is_none());
    }

    #[test]
    fn a_line_that_was_cut_is_ended_before_the_next() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("log");
        let mut sink = Sink::file("log.file", &path).unwrap();
        sink.write(b"on");
        sink.torn = true;
        sink.write(b"two\n");
        assert_eq!(text(&path), "on\ntwo\n");
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let directory = TempDir::new().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Sink::file("log.file", &fifo).is_err(), "nobody reads");
        let reader = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        assert!(Sink::file("log.file", &fifo).is_err(), "somebody reads");
        drop(reader);
        assert!(Sink::file("log.file", directory.path()).is_err());
    }
}
