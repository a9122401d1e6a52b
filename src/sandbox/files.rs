//! Landlock: a thread that writes no files and starts no programs cannot.
//!
//! Reading stays free: a worker serves the files of `acme_dir`, which a reload may move anywhere,
//! and what is restricted once is so for good.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::{Error, Role};

/// The newest interface that this was written for. An older kernel does what it can.
const KNOWN: ABI = ABI::V6;

/// Where VRRP makes settings of interfaces with virtual MACs.
const NETWORK_SETTINGS: &str = "/proc/sys/net";

/// Restricts the calling thread, as its role allows. `false`: the kernel has no Landlock.
pub fn restrict(role: Role) -> Result<bool, Error> {
    let programs = AccessFs::Execute.into();
    let writing = AccessFs::from_write(KNOWN);
    let (denied, writable) = match role {
        // What they start may write wherever its user may.
        Role::Control | Role::Notify => return Ok(true),
        Role::Log => (programs, None),
        Role::Keeper => (writing, None),
        Role::Links => (writing | programs, Some(NETWORK_SETTINGS)),
        Role::Worker | Role::Vrrp | Role::Events | Role::Guard => (writing | programs, None),
    };
    let restricted = || {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(denied)?
            // No signals to other processes but those that it starts.
            .scope(Scope::from_all(KNOWN))?
            .create()?;
        // Standard streams of a process that is started may be nothing.
        for (path, allowed) in
            [(Some("/dev/null"), AccessFs::from_file(KNOWN)), (writable, writing)]
        {
            let allowed = allowed & denied & writing;
            if let Some(Ok(path)) = path.map(PathFd::new)
                && !allowed.is_empty()
            {
                rules = rules.add_rule(PathBeneath::new(path, allowed))?;
            }
        }
        rules.restrict_self()
    };
    restricted()
        .map(|status| status.ruleset != RulesetStatus::NotEnforced)
        .map_err(|error: landlock::RulesetError| Error::new("restrict access to files", error))
}
