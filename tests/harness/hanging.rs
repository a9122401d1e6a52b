//! A file system that hangs, as one over the network does whose server is gone: FUSE, and nobody who
//! answers.

use std::path::Path;
use std::process::Command;

/// Mounts it at its first argument, and becomes the program that the others are. It has the device:
/// when it ends, whoever still hangs is released.
const MOUNT: &str = r#"
import ctypes, os, sys
device = os.open("/dev/fuse", os.O_RDWR)
os.set_inheritable(device, True)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"hanging", os.fsencode(sys.argv[1]), b"fuse", 0, options) != 0:
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
"#;

/// The beginning of a command whose program, and nobody else, sees such a file system at `path`, a
/// directory. Needs root.
pub fn hanging(path: &Path) -> [&str; 6] {
    let path = path.to_str().expect("a path that is text");
    ["unshare", "--mount", "python3", "-c", MOUNT, path]
}

/// The beginning of a command that does the same to a process which began so, and becomes the program
/// that follows: when that ends, whoever hangs is released.
pub fn begin_to_hang(process: u32, path: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.args([&format!("--mount=/proc/{process}/ns/mnt"), "python3", "-c", MOUNT]).arg(path);
    command
}
