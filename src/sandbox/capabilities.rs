//! Which capabilities (capabilities(7)) a thread keeps of those that the process was given.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::{Error, Role};

/// What the control thread keeps, and with it the next binary of an upgrade:
///
/// | capability | for |
/// | --- | --- |
/// | `CAP_NET_BIND_SERVICE` | ports below 1024, also those that a reload adds |
/// | `CAP_NET_ADMIN` | the threads of VRRP, which a reload may start: addresses, virtual MACs |
/// | `CAP_NET_RAW` | the same: adverts, gratuitous ARP |
/// | `CAP_SYS_NICE` | the same: their real-time priority |
/// | `CAP_IPC_LOCK` | the same: memory that is never paged out |
/// | `CAP_DAC_READ_SEARCH` | certificates and keys that belong to another user, at each renewal |
///
/// Not among them, though root has them: writing files of others, changing users, killing,
/// tracing, mounting, modules, raw disks.
pub const CONTROL: [Capability; 6] = [
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_NICE,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_DAC_READ_SEARCH,
];

/// What speaks VRRP keeps.
const NETWORK: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

fn of(role: Role) -> &'static [Capability] {
    match role {
        Role::Control => &CONTROL,
        Role::Vrrp | Role::Keeper | Role::Links | Role::Notify | Role::Guard => &NETWORK,
        Role::Worker | Role::Log | Role::Events => &[],
    }
}

/// Takes from the calling thread what its role has no need for.
///
/// The bounding set stays as it is: what matters at an `execve` is that, with `no_new_privs`, it
/// never adds to what was permitted before.
pub fn keep(role: Role) -> Result<(), Error> {
    let wanted: CapsHashSet = of(role).iter().copied().collect();
    let failed = |error| Error::new("drop capabilities", error);
    // In this order: each is a part of the next.
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        let held = caps::read(None, set).map_err(failed)?;
        let kept: CapsHashSet = held.intersection(&wanted).copied().collect();
        if kept != held {
            caps::set(None, set, &kept).map_err(failed)?;
        }
    }
    Ok(())
}

/// Lets processes that this one starts lock their memory, if it may say so: guards have no
/// `CAP_IPC_LOCK`. Without it they are as good, but for a host that is short of memory.
pub fn lift_memory_lock() {
    let resource = Resource::RLIMIT_MEMLOCK;
    if getrlimit(resource).is_ok_and(|(soft, _)| soft != RLIM_INFINITY)
        && let Err(error) = setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY)
    {
        // Before there is a log to tell it to: the guard does, at its level.
        let _not_permitted = error;
    }
}
