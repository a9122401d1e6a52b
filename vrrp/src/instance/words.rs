//! What the state machine is spoken of in: to people, in status, logs and metrics.

use core::fmt;

/// What a virtual router is to the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It does not run.
    Init,
    /// It waits for the master to fall silent.
    Backup,
    /// It answers for the addresses.
    Master,
}

impl Role {
    /// The name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a virtual router is what it is. Names are those of RFC 8347 (`last-event`) where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The process has just started.
    Startup,
    /// It owns the addresses, and waits for nobody.
    Owner,
    /// The process ends, or the virtual router is no longer configured.
    Shutdown,
    /// A master of higher priority was heard, or of the same with a higher address.
    HigherPriority,
    /// The master fell silent, or nobody was heard.
    MasterTimeout,
    /// The master stepped down.
    MasterReleased,
    /// The master has a lower priority.
    Preempt,
    /// The interface is down or gone.
    InterfaceDown,
    /// The interface is up again.
    InterfaceUp,
    /// The interface has no address to send from.
    NoAddress,
    /// The interface has an address to send from.
    Address,
    /// An interface without which mastership is given up is down.
    TrackedInterfaceDown,
    /// It is up again.
    TrackedInterfaceUp,
    /// What the addresses are for does not work: the data plane is stuck.
    ServiceDown,
    /// It works again.
    ServiceUp,
    /// It was paused, and another router is master now.
    Paused,
    /// Another virtual router of its group changed.
    Group,
    /// It offered the addresses, and another router took them.
    HandedOver,
}

impl Cause {
    /// All there are.
    pub const ALL: [Self; 18] = [
        Self::Startup,
        Self::Owner,
        Self::Shutdown,
        Self::HigherPriority,
        Self::MasterTimeout,
        Self::MasterReleased,
        Self::Preempt,
        Self::InterfaceDown,
        Self::InterfaceUp,
        Self::NoAddress,
        Self::Address,
        Self::TrackedInterfaceDown,
        Self::TrackedInterfaceUp,
        Self::ServiceDown,
        Self::ServiceUp,
        Self::Paused,
        Self::Group,
        Self::HandedOver,
    ];

    /// The name, in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Owner => "owner",
            Self::Shutdown => "shutdown",
            Self::HigherPriority => "higher_priority",
            Self::MasterTimeout => "master_timeout",
            Self::MasterReleased => "master_released",
            Self::Preempt => "preempt",
            Self::InterfaceDown => "interface_down",
            Self::InterfaceUp => "interface_up",
            Self::NoAddress => "no_address",
            Self::Address => "address",
            Self::TrackedInterfaceDown => "tracked_interface_down",
            Self::TrackedInterfaceUp => "tracked_interface_up",
            Self::ServiceDown => "service_down",
            Self::ServiceUp => "service_up",
            Self::Paused => "paused",
            Self::Group => "group",
            Self::HandedOver => "handed_over",
        }
    }

    /// The cause of what happens when this one is no more.
    pub(super) const fn ended(self) -> Self {
        match self {
            Self::InterfaceDown => Self::InterfaceUp,
            Self::NoAddress => Self::Address,
            Self::TrackedInterfaceDown => Self::TrackedInterfaceUp,
            Self::ServiceDown => Self::ServiceUp,
            Self::Startup
            | Self::Owner
            | Self::Shutdown
            | Self::HigherPriority
            | Self::MasterTimeout
            | Self::MasterReleased
            | Self::Preempt
            | Self::InterfaceUp
            | Self::Address
            | Self::TrackedInterfaceUp
            | Self::ServiceUp
            | Self::Paused
            | Self::Group
            | Self::HandedOver => self,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A change of role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: Role,
    /// What it is.
    pub to: Role,
    /// Why.
    pub cause: Cause,
}
