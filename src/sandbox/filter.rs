//! seccomp: system calls that a thread never makes are refused with `EPERM`.
//!
//! Lists of what is refused, not of what is allowed: a call that the C library or the runtime
//! makes tomorrow is not the end of a gateway. The calls of a connection's life are in no list and
//! looked at by no condition on their arguments, so that the kernel (since 5.11) answers for them
//! from a bitmap.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::{Error, Mode, Role};

/// What no thread of lockgate does, in any version, nor a program that it runs. Short, since a
/// filter cannot be taken off: it is inherited by the next binary of an upgrade.
///
/// The machine itself: modules, another kernel, the end, its clock, its name, swap, its file
/// systems. And other processes: their memory, their system calls.
pub const MACHINE: &[i64] = &[
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    SYS_QUOTACTL_FD,
    libc::SYS_syslog,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_open_by_handle_at,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Doors into the kernel that have let many in: a relay has no use for them.
const DOORS: &[i64] = &[
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_personality,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    SYS_MEMFD_SECRET,
    libc::SYS_memfd_create,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Starting programs, or threads.
const PROGRAMS: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// Changing files and directories. What Landlock refuses, for kernels that lack it, and what it
/// does not know: owners and modes.
const FILES: &[i64] = &[
    // Its flags are in memory, where a filter cannot look.
    libc::SYS_openat2,
    libc::SYS_truncate,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SYS_SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

// Younger than the C library's list; since 5.12 numbers are the same on all architectures.
const SYS_QUOTACTL_FD: i64 = 443;
const SYS_MEMFD_SECRET: i64 = 447;
const SYS_FCHMODAT2: i64 = 452;
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_OPEN_TREE_ATTR: i64 = 467;
const SYS_FILE_SETATTR: i64 = 469;

/// Calls, each with the conditions on its arguments of which one has to hold; none = always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Has the kernel refuse to the calling thread what its role never does. `false`: the kernel has no
/// seccomp.
pub fn install(role: Role, mode: Mode) -> Result<bool, Error> {
    let action = match mode {
        Mode::Off => return Ok(true),
        Mode::Log => SeccompAction::Log,
        Mode::On => SeccompAction::Errno(libc::EPERM as u32),
    };
    let broken = |error| Error::new("compile a filter of system calls", error);
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(false);
    };
    let rules = rules(role).map_err(broken)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action.clone(), architecture);
    let filter: BpfProgram = filter.and_then(TryInto::try_into).map_err(broken)?;
    for program in other_numbers(action).iter().chain([&filter]) {
        match apply_filter(program) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(Error::new("install a filter of system calls", error)),
        }
    }
    Ok(true)
}

/// The x32 interface of x86-64 has all calls again, under other numbers: nobody uses it, and
/// distributions have it off, but it must not be the way around the lists.
fn other_numbers(action: SeccompAction) -> Option<BpfProgram> {
    const LOAD_NUMBER: sock_filter = sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    const IF_AT_LEAST_X32: sock_filter = sock_filter { code: 0x35, jt: 0, jf: 1, k: 0x4000_0000 };
    let answer = |action| sock_filter { code: 0x06, jt: 0, jf: 0, k: u32::from(action) };
    cfg!(target_arch = "x86_64")
        .then(|| vec![LOAD_NUMBER, IF_AT_LEAST_X32, answer(action), answer(SeccompAction::Allow)])
}

fn rules(role: Role) -> Result<Rules, seccompiler::BackendError> {
    let lists: &[&[i64]] = match role {
        Role::Control | Role::Notify => &[MACHINE],
        Role::Keeper => &[MACHINE, DOORS],
        Role::Links | Role::Log => &[MACHINE, DOORS, PROGRAMS],
        Role::Worker | Role::Vrrp | Role::Events | Role::Guard => {
            &[MACHINE, DOORS, PROGRAMS, FILES]
        }
    };
    let mut rules: Rules =
        lists.iter().copied().flatten().map(|call| (*call, Vec::new())).collect();
    if !matches!(role, Role::Control | Role::Notify | Role::Keeper) {
        // Neither new code, nor old code changed; a program that is started has to be mapped.
        for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
            rules.insert(call, vec![when([has(2, libc::PROT_EXEC)?])?]);
        }
    }
    if matches!(role, Role::Worker | Role::Vrrp | Role::Events | Role::Guard) {
        rules.insert(libc::SYS_openat, opens_for_writing(2)?);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, opens_for_writing(1)?);
    }
    if matches!(role, Role::Worker | Role::Log | Role::Events) {
        // Listening sockets are given to a worker; to connect it needs no others than these.
        let condition =
            |family| SeccompCondition::new(0, Len::Dword, Op::Ne, u64::from(family as u32));
        let families = [condition(libc::AF_INET)?, condition(libc::AF_INET6)?];
        rules.insert(libc::SYS_socket, vec![when(families)?]);
        rules.insert(libc::SYS_listen, Vec::new());
    }
    Ok(rules)
}

/// One rule for each way in which an `open` with flags in this argument may change something.
fn opens_for_writing(argument: u8) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let mode = |mode: i32| {
        let mask = Op::MaskedEq(libc::O_ACCMODE as u64);
        SeccompCondition::new(argument, Len::Dword, mask, mode as u64)
    };
    [
        mode(libc::O_WRONLY)?,
        mode(libc::O_RDWR)?,
        has(argument, libc::O_CREAT)?,
        has(argument, libc::O_TRUNC)?,
    ]
    .map(|condition| when([condition]))
    .into_iter()
    .collect()
}

fn when(
    conditions: impl Into<Vec<SeccompCondition>>,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.into())
}

/// These bits of an argument are set.
fn has(argument: u8, bits: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    let bits = u64::from(bits as u32);
    SeccompCondition::new(argument, Len::Dword, Op::MaskedEq(bits), bits)
}
