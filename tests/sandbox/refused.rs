//! What threads are refused: each try is made by a thread of the test that has entered the same
//! sandbox as a thread of the gateway, by the same function; and by one that has not, so that it is
//! the sandbox that refuses.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use lockgate::sandbox::{Mode, Role, confine};
use nix::sys::signal::kill;
use nix::unistd::getppid;
use socket2::{Domain, Socket, Type};

use super::{CONTROL, Powers, assert_confined};

/// Whether a try is refused; else what came of it.
type Outcome = io::Result<()>;

/// Does it in a thread of this role, or in an ordinary one.
fn as_role<T: Send>(role: Option<(Role, Mode)>, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let confined = scope.spawn(|| {
            if let Some((role, mode)) = role {
                confine(role, mode).unwrap();
            }
            work()
        });
        confined.join().unwrap()
    })
}

/// A system call with arguments that do nothing, should it be let through.
#[allow(unsafe_code, reason = "no library has them all, and some have no harmless form")]
fn call(number: i64, arguments: [i64; 3]) -> Outcome {
    let [one, two, three] = arguments;
    // SAFETY: no argument is a pointer to memory of this process: addresses are 0 or 1, where
    // nothing is mapped, and the calls that are made either change nothing or fail.
    let outcome = unsafe { libc::syscall(number, one, two, three, 0, 0, 0) };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A page of memory with code in it.
#[allow(unsafe_code, reason = "the try itself")]
fn map_code() -> Outcome {
    let (kind, size) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, 4096);
    // SAFETY: the kernel chooses where, nobody uses the page, and it stays mapped.
    let page = unsafe {
        libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_EXEC, kind, -1, 0)
    };
    if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open_socket(family: i32) -> Outcome {
    Socket::new(Domain::from(family), Type::DGRAM.cloexec(), None).map(drop)
}

fn run_program() -> Outcome {
    Command::new("/bin/true").stdin(Stdio::inherit()).status().map(drop)
}

/// Tries of what concerns the machine, or other processes.
fn machine() -> Vec<(&'static str, Outcome)> {
    let nowhere = 1;
    let parent = i64::from(std::process::id());
    vec![
        ("mount", call(libc::SYS_mount, [0, 0, 0])),
        ("umount2", call(libc::SYS_umount2, [nowhere, 0, 0])),
        ("pivot_root", call(libc::SYS_pivot_root, [nowhere, nowhere, 0])),
        ("fsopen", call(libc::SYS_fsopen, [nowhere, 0, 0])),
        ("init_module", call(libc::SYS_init_module, [0, 0, 0])),
        ("finit_module", call(libc::SYS_finit_module, [-1, 0, 0])),
        ("delete_module", call(libc::SYS_delete_module, [nowhere, 0, 0])),
        ("kexec_load", call(libc::SYS_kexec_load, [0, 0, 0])),
        ("reboot", call(libc::SYS_reboot, [0, 0, 0])),
        ("settimeofday", call(libc::SYS_settimeofday, [nowhere, 0, 0])),
        ("clock_settime", call(libc::SYS_clock_settime, [0, nowhere, 0])),
        ("sethostname", call(libc::SYS_sethostname, [nowhere, 4, 0])),
        ("swapon", call(libc::SYS_swapon, [nowhere, 0, 0])),
        ("open_by_handle_at", call(libc::SYS_open_by_handle_at, [-1, nowhere, 0])),
        ("ptrace", call(libc::SYS_ptrace, [16, -1, 0])),
        ("process_vm_readv", call(libc::SYS_process_vm_readv, [parent, 0, 0])),
        ("process_vm_writev", call(libc::SYS_process_vm_writev, [parent, 0, 0])),
        ("pidfd_getfd", call(libc::SYS_pidfd_getfd, [-1, 0, 0])),
        // All calls again, by the numbers of the x32 interface: write to no file.
        #[cfg(target_arch = "x86_64")]
        ("x32", call(0x4000_0000 + libc::SYS_write, [-1, 0, 0])),
    ]
}

/// Tries of what opens doors into the kernel.
fn doors() -> Vec<(&'static str, Outcome)> {
    let nowhere = 1;
    vec![
        ("bpf", call(libc::SYS_bpf, [0, nowhere, 4])),
        ("perf_event_open", call(libc::SYS_perf_event_open, [nowhere, 0, -1])),
        ("userfaultfd", call(libc::SYS_userfaultfd, [1 << 30, 0, 0])),
        ("io_uring_setup", call(libc::SYS_io_uring_setup, [0, nowhere, 0])),
        ("keyctl", call(libc::SYS_keyctl, [-1, 0, 0])),
        ("add_key", call(libc::SYS_add_key, [nowhere, 0, 0])),
        ("unshare", call(libc::SYS_unshare, [0, 0, 0])),
        ("setns", call(libc::SYS_setns, [-1, 0, 0])),
        ("chroot", call(libc::SYS_chroot, [nowhere, 0, 0])),
        ("personality", call(libc::SYS_personality, [0xffff_ffff, 0, 0])),
        ("memfd_create", call(libc::SYS_memfd_create, [nowhere, 0, 0])),
    ]
}

/// Tries of starting programs, and of making code.
fn programs() -> Vec<(&'static str, Outcome)> {
    vec![
        ("a program", run_program()),
        ("execve", call(libc::SYS_execve, [0, 0, 0])),
        ("execveat", call(libc::SYS_execveat, [-1, 0, 0])),
        ("a thread", thread::Builder::new().spawn(|| ()).map(drop)),
        ("code", map_code()),
        ("memory made code", call(libc::SYS_mprotect, [0, 0, i64::from(libc::PROT_EXEC)])),
    ]
}

/// Tries of changing files, in a directory where there are `kept` and `empty`.
fn files(directory: &std::path::Path) -> Vec<(&'static str, Outcome)> {
    let [kept, empty, new] = ["kept", "empty", "new"].map(|name| directory.join(name));
    let file = || OpenOptions::new().write(true).open(&kept);
    vec![
        ("writing", file().map(drop)),
        ("appending", OpenOptions::new().append(true).open(&kept).map(drop)),
        ("creating", File::create(&new).map(drop)),
        ("truncating", nix::unistd::truncate(&kept, 1).map_err(Into::into)),
        ("linking", symlink("/etc/shadow", directory.join("link"))),
        ("making a directory", fs::create_dir(directory.join("directory"))),
        ("changing the mode", fs::set_permissions(&kept, Permissions::from_mode(0o600))),
        ("changing the owner", chown(&kept, Some(0), None)),
        ("renaming", fs::rename(&empty, directory.join("renamed"))),
        ("removing", fs::remove_file(&kept)),
    ]
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for name in ["kept", "empty"] {
        fs::write(directory.path().join(name), "four").unwrap();
    }
    let path = directory.path().to_owned();
    (directory, path)
}

#[track_caller]
fn assert_refused(role: Role, tries: &[(&'static str, Outcome)]) {
    for (what, outcome) in tries {
        let refused =
            outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        assert!(refused, "{what} by {role:?}: {outcome:?}");
    }
}

#[track_caller]
fn assert_not_refused(tries: &[(&'static str, Outcome)]) {
    for (what, outcome) in tries {
        let refused =
            outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        assert!(!refused, "{what} by an ordinary thread: {outcome:?}");
    }
}

#[test]
fn what_a_relay_never_does_is_refused_to_workers_and_to_no_others() {
    let everything = |directory| {
        let mut tries = [machine(), doors(), programs(), files(directory)].concat_tries();
        tries.extend([
            ("a socket of netlink", open_socket(libc::AF_NETLINK)),
            ("a unix socket", open_socket(libc::AF_UNIX)),
            ("listening", call(libc::SYS_listen, [-1, 0, 0])),
            ("a signal to another process", kill(getppid(), None).map_err(Into::into)),
        ]);
        tries
    };
    let (_kept, path) = directory();
    assert_refused(Role::Worker, &as_role(Some((Role::Worker, Mode::On)), || everything(&path)));
    assert_refused(Role::Events, &as_role(Some((Role::Events, Mode::On)), || everything(&path)));
    // Nothing has changed, and so all of it can be tried by somebody who may.
    assert_not_refused(&as_role(None, || everything(&path)));
    assert!(path.join("renamed").exists() && !path.join("kept").exists());
}

/// Joins what is tried into one list.
trait Concat {
    fn concat_tries(self) -> Vec<(&'static str, Outcome)>;
}

impl<const N: usize> Concat for [Vec<(&'static str, Outcome)>; N] {
    fn concat_tries(self) -> Vec<(&'static str, Outcome)> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn each_role_is_refused_what_it_has_no_use_for() {
    let (_kept, path) = directory();
    for role in [Role::Vrrp, Role::Guard] {
        let tries = || [machine(), doors(), programs(), files(&path)].concat_tries();
        assert_refused(role, &as_role(Some((role, Mode::On)), tries));
    }
    // Writes below /proc/sys/net, and so not by seccomp: Landlock keeps it from the rest.
    let links = || {
        let mut tries = [machine(), doors(), programs()].concat_tries();
        tries.push(("writing", fs::write(path.join("kept"), "").map(drop)));
        tries.push(("creating", File::create(path.join("new")).map(drop)));
        tries
    };
    assert_refused(Role::Links, &as_role(Some((Role::Links, Mode::On)), links));
    let own = || fs::write("/proc/sys/net/ipv4/conf/all/accept_local", "0");
    as_role(Some((Role::Links, Mode::On)), own).unwrap();

    // Starts guards, and changes no file.
    let keeper = || {
        let mut tries = [machine(), doors()].concat_tries();
        tries.push(("creating", File::create(path.join("new")).map(drop)));
        (tries, run_program(), Command::new("/bin/true").stdout(Stdio::null()).status())
    };
    let (tries, program, silent) = as_role(Some((Role::Keeper, Mode::On)), keeper);
    assert_refused(Role::Keeper, &tries);
    assert!(program.is_ok() && silent.is_ok(), "{program:?} {silent:?}");

    // Writes files, wherever they may be.
    let log = || {
        let mut tries = [machine(), doors(), programs()].concat_tries();
        tries.push(("a socket", open_socket(libc::AF_UNIX)));
        (tries, fs::write(path.join("log"), "line"))
    };
    let (tries, written) = as_role(Some((Role::Log, Mode::On)), log);
    assert_refused(Role::Log, &tries);
    written.unwrap();

    // Opens, binds and starts, and leaves the machine alone. So do its programs.
    for role in [Role::Control, Role::Notify] {
        let tries = || (machine(), run_program(), File::create(path.join("new")));
        let (tries, program, created) = as_role(Some((role, Mode::On)), tries);
        assert_refused(role, &tries);
        assert!(program.is_ok() && created.is_ok(), "{program:?} {created:?}");
    }
}

#[test]
fn with_log_nothing_is_refused() {
    let (_kept, path) = directory();
    let tries = || [doors(), programs(), files(&path)].concat_tries();
    let tried = as_role(Some((Role::Worker, Mode::Log)), tries);
    // These are the kernel's to refuse, to who has no capabilities.
    let others = ["chroot", "setns", "bpf", "perf_event_open", "add_key", "userfaultfd"];
    let free: Vec<_> = tried.into_iter().filter(|(what, _)| !others.contains(what)).collect();
    assert_not_refused(&free);
    let powers = as_role(Some((Role::Worker, Mode::Log)), Powers::of_this_process);
    assert_confined("a worker", &powers, 0);
    let own = Powers::of_this_process();
    assert_eq!(as_role(Some((Role::Worker, Mode::Off)), Powers::of_this_process), own);
}

#[test]
fn what_a_worker_does_is_not_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let relayed = as_role(Some((Role::Worker, Mode::On)), || -> io::Result<Vec<u8>> {
        let mut client = TcpStream::connect(address)?;
        let (mut accepted, _) = listener.accept()?;
        client.write_all(b"four")?;
        let mut buffer = [0; 4];
        accepted.read_exact(&mut buffer)?;
        let (_reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(128 << 10))?;
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        bound.bind(&"127.0.0.2:0".parse::<std::net::SocketAddr>().unwrap().into())?;
        bound.set_tcp_nodelay(true)?;
        // A file of acme_dir, and memory for many connections.
        File::open("/etc/hostname")?.read_to_end(&mut Vec::new())?;
        drop(vec![1_u8; 64 << 20]);
        Ok(buffer.to_vec())
    });
    assert_eq!(relayed.unwrap(), b"four");
}

/// So does the next binary of an upgrade, which can do what this one could at its start.
#[test]
fn a_program_of_the_control_thread_has_what_that_has() {
    let own = Powers::of_this_process().effective;
    let status = as_role(Some((Role::Control, Mode::On)), || {
        Command::new("cat").arg("/proc/self/status").output()
    });
    let status = String::from_utf8(status.unwrap().stdout).unwrap();
    let powers = Powers::parse(&status);
    assert_confined("the program", &powers, own & CONTROL);
    assert_ne!(powers.effective, 0);
}
