//! What the driver tells the keeper about one virtual router: by atomics as often as it likes,
//! and by an order when something else changes than whether it is master.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::thread;
use crate::settings::Address;
use crate::types::Moment;

/// Whether the addresses of a virtual router are to be here, and until when that is certain.
#[derive(Debug, Default)]
pub struct Lease {
    master: AtomicBool,
    /// Nanoseconds of a [`Moment`]; 0 = it is not certain at all.
    good_until: AtomicU64,
    announcements: AtomicU32,
}

impl Lease {
    /// Says what is the case.
    pub fn set(&self, master: bool, good_until: Option<Moment>) {
        self.good_until.store(good_until.map_or(0, thread::nanos), Ordering::Release);
        self.master.store(master, Ordering::Release);
    }

    /// Asks for all addresses to be taken, if they are not there, and announced.
    pub fn announce(&self) {
        self.announcements.fetch_add(1, Ordering::Release);
    }

    /// Whether it is master; if not, addresses are to go.
    pub fn is_master(&self) -> bool {
        self.master.load(Ordering::Acquire)
    }

    /// Whether addresses may be added, renewed or put back: if not, those that are there stay
    /// until they end.
    pub fn is_good(&self, now: Moment) -> bool {
        self.is_master() && self.good_until.load(Ordering::Acquire) > thread::nanos(now)
    }

    /// How often announcements were asked for.
    pub fn announcements(&self) -> u32 {
        self.announcements.load(Ordering::Acquire)
    }
}

/// What the keeper has to know of a virtual router.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number, for keeper and guard.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Whether it is master.
    pub lease: Arc<Lease>,
    /// Index of the interface for its addresses.
    pub index: u32,
    /// Name of that interface.
    pub interface: String,
    /// Hardware address to announce; `None` where there is no Ethernet, and nothing to announce.
    pub mac: Option<[u8; 6]>,
    /// Whether that is a virtual one, on an interface of its own.
    pub virtual_mac: bool,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Those among them that an owner had before: they are announced, but neither added nor
    /// deleted.
    pub foreign: Vec<Address>,
    /// How often each is announced after it was taken.
    pub repeat: u8,
    /// Time between two later announcements; zero = none.
    pub refresh: Duration,
    /// How long the guard is to wait.
    pub patience: Duration,
    /// Where its adverts come from.
    pub source: IpAddr,
    /// Adverts of priority 0, and where they go.
    pub farewells: Vec<(IpAddr, Vec<u8>)>,
}

/// What the driver, or the end of all, wants of the keeper.
#[derive(Clone, Debug)]
pub enum Order {
    /// This is a virtual router, or what it has become.
    Keep(Arc<Member>),
    /// A process before has put these addresses on the interface of this index, for the virtual
    /// router of this number.
    Adopt(u32, u32, Vec<Address>),
    /// Another process is to have all addresses: nothing is done about them, and the guard has
    /// none, until [`Order::Resume`].
    Suspend,
    /// It does not after all.
    Resume,
    /// The end; another process has all addresses.
    Leave,
    /// There is no virtual router of this number any more.
    Forget(u32),
    /// All is to be given up.
    Stop,
}
