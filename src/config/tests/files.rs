//! Files on disk: read, or refused with the reason.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{Error, MAX_FILE_SIZE, load, parse};
use super::MINIMAL;

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("lockgate-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, content: &[u8]) -> PathBuf {
        let path = self.0.join("t.toml");
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to do about a failure, and no reason to fail a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unreadable(path: &Path) -> String {
    let error = load(path).unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }));
    let shown = error.to_string();
    assert!(!shown.contains('\n'));
    let prefix = format!("cannot read {}: ", path.display());
    shown.strip_prefix(&prefix).unwrap().to_owned()
}

#[test]
fn are_loaded() {
    let scratch = Scratch::new("load");
    let path = scratch.file(MINIMAL.as_bytes());
    assert_eq!(load(&path).unwrap(), parse("t.toml", MINIMAL).unwrap());

    let path = scratch.file(b"x = 1\n");
    let shown = load(&path).unwrap_err().to_string();
    assert!(shown.contains(&format!("{}:1:1", path.display())), "{shown}");
}

#[test]
fn that_cannot_be_read_say_why() {
    let scratch = Scratch::new("unreadable");
    assert_eq!(unreadable(&scratch.0.join("none.toml")), "no such file");
    assert_eq!(unreadable(&scratch.0), "it is a directory");
    assert_eq!(unreadable(&scratch.file(b"a = 1\nb = '\xff'\n")), "not UTF-8 (line 2)");
    let large = vec![b'#'; usize::try_from(MAX_FILE_SIZE).unwrap() + 1];
    assert_eq!(unreadable(&scratch.file(&large)), "larger than 4 MiB");
    assert_eq!(
        load(&scratch.file(&large[1..])).unwrap_err().to_string().lines().last(),
        Some(format!("1 error in {}", scratch.0.join("t.toml").display()).as_str())
    );
}
