//! Files that the gateway makes, in directories where others may have been before it.
//!
//! Whoever may write to a directory can put anything under a name in it: a symbolic link to a file of
//! somebody else, a FIFO that is waited for, a file of their own. So nothing here follows a link whose
//! directory is not the gateway's own or root's, nothing waits for the other end of a FIFO, and modes
//! are those that are asked for, whatever the umask (which may only take away).

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Never followed where it is the last part of a path, nor waited for.
const CAREFUL: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;

/// Permission bits.
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// Who else may put files into a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Everybody: the mode of this directory, which is it or one above it, lets others write.
    Everybody(PathBuf),
    /// Its owner, who is neither root nor the user of this process.
    Owner(u32),
    /// The members of its group.
    Group(u32),
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody(at) => {
                write!(f, "{} is writable by all users (chmod o-w {0})", at.display())
            }
            Self::Owner(uid) => write!(
                f,
                "it belongs to uid {uid}, who is neither root nor the user of this process"
            ),
            Self::Group(gid) => write!(f, "it is writable by the group with gid {gid}"),
        }
    }
}

/// Who else may put files into `directory`, the most dangerous first; `None` = root and this process
/// only.
///
/// Fails if it cannot be looked at.
pub fn exposure(directory: &Path) -> io::Result<Option<Exposure>> {
    // Where it really is: a link of the operator's on the way is as good as the path behind it.
    let real = fs::canonicalize(directory)?;
    let own = nix::unistd::geteuid().as_raw();
    let found = fs::metadata(&real)?;
    if found.mode() & OTHERS_WRITE != 0 {
        return Ok(Some(Exposure::Everybody(real)));
    }
    for above in real.ancestors().skip(1) {
        // Of a sticky directory, like /tmp, nobody can take away what is somebody else's.
        let mode = fs::metadata(above)?.mode();
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            return Ok(Some(Exposure::Everybody(above.to_owned())));
        }
    }
    if !is_trusted(found.uid(), own) {
        return Ok(Some(Exposure::Owner(found.uid())));
    }
    let group = found.mode() & GROUP_WRITES != 0;
    Ok(group.then(|| Exposure::Group(found.gid())))
}

fn is_trusted(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// Makes a directory with this mode, and those above it that are not there with mode 0755.
///
/// Fails as mkdir(2) does, or if something else is there.
pub fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_directory(above, 0o755)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        // Another process was quicker.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(error) => return Err(error),
    }
    // The umask of who started this may have taken away what the owner needs.
    let made = OpenOptions::new().read(true).custom_flags(CAREFUL | libc::O_DIRECTORY).open(path);
    match made {
        Ok(made) => made.set_permissions(fs::Permissions::from_mode(mode)),
        // Only root opens what it may not read.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        }
        Err(error) => Err(error),
    }
}

/// Reads a file that this process, or root, has made: at most `largest` bytes of it.
///
/// Fails with `InvalidData` if it is anything but a regular file (a symbolic link is none), belongs to
/// another user than root, this one or the owner of its directory, may be written to by everybody, or
/// is larger.
pub fn read(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let invalid = |text: String| io::Error::new(ErrorKind::InvalidData, text);
    let opened = OpenOptions::new().read(true).custom_flags(CAREFUL).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => invalid("it is a symbolic link".to_owned()),
        // A socket.
        Some(libc::ENXIO) => invalid("it is no regular file".to_owned()),
        _ => error,
    })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(invalid("it is no regular file".to_owned()));
    }
    if let Some(doubt) = ownership(path, &found) {
        return Err(invalid(doubt));
    }
    if found.len() > largest {
        return Err(invalid(format!("it is larger than {} MiB", largest >> 20)));
    }
    let mut bytes = Vec::new();
    file.take(largest).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Why somebody else may have written what is in a file.
fn ownership(path: &Path, found: &Metadata) -> Option<String> {
    let own = nix::unistd::geteuid().as_raw();
    let directory = path.parent().and_then(|directory| fs::metadata(directory).ok());
    // Whose directory it is may put there what it likes: a volume of a container, say.
    let of_directory = directory.is_some_and(|directory| directory.uid() == found.uid());
    if !is_trusted(found.uid(), own) && !of_directory {
        return Some(format!("it belongs to uid {}", found.uid()));
    }
    (found.mode() & OTHERS_WRITE != 0).then(|| "it is writable by all users".to_owned())
}

/// Replaces a file as a whole, for good: it survives a crash of the host from here on. Its mode is
/// 0600. A symbolic link in its place is replaced, not followed.
///
/// Fails if the new one cannot be written beside it; then the old one is as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut file, new) = beside(path)?;
    let written = (|| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    })();
    if written.is_err() {
        // If it cannot be removed, the next change does.
        let _ = fs::remove_file(&new);
    }
    written
}

/// A new, empty file beside `path`, and where it is. What has been left under its name is removed.
fn beside(path: &Path) -> io::Result<(File, PathBuf)> {
    /// Names to try: what others have put there may be no file, or come again.
    const NAMES: u32 = 8;
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let mut refused = io::Error::from(ErrorKind::AlreadyExists);
    for number in 0..NAMES {
        let mut new = name.to_owned();
        new.push(".new");
        if number > 0 {
            new.push(format!("-{number}"));
        }
        let new = path.with_file_name(new);
        // It removes a link, not what that leads to.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                refused = error;
                continue;
            }
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).custom_flags(CAREFUL).open(&new) {
            Ok(file) => {
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                return Ok((file, new));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// Opens a file for appending, made with mode 0640 if it is not there; a character device will do.
/// One that was truncated meanwhile goes on at its beginning.
///
/// A symbolic link is followed only where nobody but root and this process could have made it.
/// Fails with `InvalidInput` if there is a link that others may have made, a file that another user
/// has put there, or what is neither a file nor a character device.
pub fn append(path: &Path) -> io::Result<File> {
    let invalid = |text: String| io::Error::new(ErrorKind::InvalidInput, text);
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let exposed = match exposure(directory)? {
        // A group of people who look after logs, as `adm` is; they may read them anyway.
        Some(Exposure::Group(_)) | None => None,
        Some(exposed) => Some(exposed),
    };
    let links = if exposed.is_some() { libc::O_NOFOLLOW } else { 0 };
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC | links;
    let opened =
        OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match (error.raw_os_error(), &exposed) {
        (Some(libc::ELOOP), Some(exposed)) => {
            let directory = directory.display();
            invalid(format!(
                "it is a symbolic link, which is not followed: of its directory {directory}, \
                 {exposed}"
            ))
        }
        _ => error,
    })?;
    let found = file.metadata()?;
    if !found.is_file() && !found.file_type().is_char_device() {
        return Err(invalid("not a regular file".to_owned()));
    }
    if exposed.is_some() && found.is_file() {
        if let Some(doubt) = ownership(path, &found) {
            return Err(invalid(format!("somebody else has put it there: {doubt}")));
        }
        if found.nlink() > 1 {
            return Err(invalid("it has another name (a hard link), made by whoever".to_owned()));
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use tempfile::TempDir;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn who_else_may_write_is_told_of_a_directory_and_of_those_above_it() {
        let root = TempDir::new().unwrap();
        let inner = root.path().join("a/b");
        create_directory(&inner, 0o700).unwrap();
        let above = inner.parent().unwrap();
        let of = |path: &Path| exposure(path).unwrap();
        assert_eq!(of(&inner), None);
        set_mode(&inner, 0o770);
        assert!(matches!(of(&inner), Some(Exposure::Group(_))));
        set_mode(above, 0o777);
        assert_eq!(of(&inner), Some(Exposure::Everybody(above.canonicalize().unwrap())));
        set_mode(above, 0o1777);
        assert!(matches!(of(&inner), Some(Exposure::Group(_))), "nobody can replace it");
        set_mode(&inner, 0o1777);
        assert!(matches!(of(&inner), Some(Exposure::Everybody(_))), "names can be taken");
        let link = root.path().join("link");
        symlink(&inner, &link).unwrap();
        assert_eq!(of(&link), of(&inner), "behind a link");
        assert!(exposure(&root.path().join("nowhere")).is_err());
        if nix::unistd::geteuid().is_root() {
            set_mode(&inner, 0o700);
            std::os::unix::fs::chown(&inner, Some(12345), None).unwrap();
            assert_eq!(of(&inner), Some(Exposure::Owner(12345)));
        }
    }

    #[test]
    fn directories_get_their_modes_and_stay_as_they_are() {
        let root = TempDir::new().unwrap();
        let inner = root.path().join("a/b");
        create_directory(&inner, 0o700).unwrap();
        assert_eq!((mode_of(&inner), mode_of(&root.path().join("a"))), (0o700, 0o755));
        set_mode(&inner, 0o750);
        create_directory(&inner, 0o700).unwrap();
        assert_eq!(mode_of(&inner), 0o750);
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(create_directory(&file, 0o700).is_err());
        assert!(create_directory(&file.join("below"), 0o700).is_err());
    }

    #[test]
    fn what_is_replaced_is_never_followed_and_what_was_left_is_no_hindrance() {
        let root = TempDir::new().unwrap();
        let (path, other) = (root.path().join("state"), root.path().join("other"));
        fs::write(&other, "other").unwrap();
        symlink(&other, &path).unwrap();
        symlink(&other, root.path().join("state.new")).unwrap();
        replace(&path, b"one").unwrap();
        assert_eq!(read(&path, 100).unwrap(), b"one");
        assert_eq!(mode_of(&path), 0o600);
        // What cannot be removed in its place: another name is taken.
        fs::create_dir(root.path().join("state.new")).unwrap();
        mkfifo(&root.path().join("state.new-1"), Mode::S_IRWXU).unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path, 100).unwrap(), b"two");
        assert_eq!(fs::read(&other).unwrap(), b"other");
        assert!(read(&path, 2).is_err(), "larger");
        assert!(replace(&root.path().join("no/state"), b"").is_err());
    }

    #[test]
    fn only_a_regular_file_is_read_and_nothing_is_waited_for() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("state");
        type Spoil = fn(&Path);
        let spoilt: [(Spoil, &str); 5] = [
            (|path| mkfifo(path, Mode::S_IRWXU).unwrap(), "no regular file"),
            (|path| symlink("/etc/passwd", path).unwrap(), "symbolic link"),
            (|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), "regular file"),
            (|path| fs::create_dir(path).unwrap(), "no regular file"),
            (
                |path| {
                    fs::write(path, "").unwrap();
                    set_mode(path, 0o666);
                },
                "writable by all users",
            ),
        ];
        for (spoil, said) in spoilt {
            spoil(&path);
            let error = read(&path, 100).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            assert!(error.to_string().contains(said), "{error}: {said}");
            if path.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
        assert_eq!(read(&path, 100).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_log_follows_a_link_only_where_nobody_else_could_have_made_it() {
        let root = TempDir::new().unwrap();
        let (path, other) = (root.path().join("log"), root.path().join("other"));
        fs::write(&other, "").unwrap();
        symlink(&other, &path).unwrap();
        append(&path).unwrap().write_all(b"line\n").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"line\n");

        let shared = root.path().join("shared");
        create_directory(&shared, 0o1777).unwrap();
        let path = shared.join("log");
        symlink(&other, &path).unwrap();
        let error = append(&path).unwrap_err().to_string();
        assert!(error.contains("symbolic link, which is not followed"), "{error}");
        fs::remove_file(&path).unwrap();
        fs::hard_link(&other, &path).unwrap();
        assert!(append(&path).unwrap_err().to_string().contains("hard link"));
        fs::remove_file(&path).unwrap();
        append(&path).unwrap().write_all(b"own\n").unwrap();
        append(&path).unwrap().write_all(b"again\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"own\nagain\n");
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(append(&path).unwrap_err().to_string().contains("uid 12345"));
        }
        assert_eq!(fs::read(&other).unwrap(), b"line\n");
    }
}
