//! Files that may change while they are in use.
//!
//! They are looked at, not subscribed to: a Certbot renewal switches a symbolic link, Kubernetes
//! one that is two levels up, others rewrite a file in place, and all three change what `stat(2)`
//! says of the path.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that belong together, and how they looked when they were read.
#[derive(Debug)]
pub(super) struct Files {
    paths: Box<[PathBuf]>,
    read: Stamps,
    /// How they looked last time, if that was different.
    seen: Option<Stamps>,
}

/// Device, inode, size and time of the last change of each; `None` = not there.
type Stamps = Vec<Option<(u64, u64, u64, i64, i64)>>;

impl Files {
    /// These files as they are, which are about to be read.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let read = stamps(&paths);
        Self { paths: paths.into(), read, seen: None }
    }

    /// Whether they have changed, and should be read again.
    ///
    /// That is when they have looked the same twice in a row, so that a certificate and its key
    /// are both there. Read or refused, they have not changed then before they change again.
    pub(super) fn have_changed(&mut self) -> bool {
        let present = stamps(&self.paths);
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

fn stamps(paths: &[PathBuf]) -> Stamps {
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path as &Path).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    paths.iter().map(stamp).collect()
}
