//! The watcher: a host of its own that writes down adverts and announcements, and asks by ARP, many
//! times a second, who has the floating address.
//!
//! It is not the client, since an answer to a question would mend the client's ARP entry.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, SockaddrStorage, sendto};
use std::os::fd::AsRawFd;

use crate::clock::{Stamp, now};
use crate::network::{FLOATING, GATEWAYS, Mac, Space, WATCHER, mac_of};
use crate::stamped::Stamped;
use crate::wire::{Seen, arp_request};

/// How often it asks.
const ASK_EVERY: Duration = Duration::from_millis(5);

type Log = Vec<(Stamp, Seen)>;

pub struct Watcher {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches from the given namespace; asks by ARP only if told to.
    pub fn start(space: &Space, asks: bool) -> io::Result<Self> {
        let log = Arc::<Mutex<Log>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (logged, stopped) = (Arc::clone(&log), Arc::clone(&stop));
        let thread = space.run(|| {
            let frames = Stamped::frames()?;
            let device = device()?;
            Ok(thread::spawn(move || {
                if let Err(error) = watch(&frames, asks.then_some(&device), &logged, &stopped) {
                    eprintln!("failover: the watcher has stopped: {error}");
                }
            }))
        })?;
        Ok(Self { log, stop, thread: Some(thread) })
    }

    fn of<T>(&self, since: Stamp, mut pick: impl FnMut(Stamp, Seen) -> Option<T>) -> Vec<T> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let log = log.iter().filter(|(stamp, _)| *stamp >= since);
        log.filter_map(|(stamp, seen)| pick(*stamp, *seen)).collect()
    }

    /// When a gateway has sent adverts, those that give mastership away apart.
    pub fn adverts(&self, gateway: usize, since: Stamp) -> Vec<Stamp> {
        self.of(since, |stamp, seen| match seen {
            Seen::Advert { from, priority: 1.. } if from == GATEWAYS[gateway] => Some(stamp),
            _ => None,
        })
    }

    /// Who has sent adverts, in their order.
    pub fn advertisers(&self, since: Stamp) -> Vec<usize> {
        self.of(since, |_, seen| match seen {
            Seen::Advert { from, priority: 1.. } => GATEWAYS.iter().position(|own| *own == from),
            _ => None,
        })
    }

    /// When a gateway has announced that it has an address, and which.
    pub fn announcements(&self, gateway: usize, since: Stamp) -> Vec<(Stamp, Ipv4Addr)> {
        let own = mac_of(GATEWAYS[gateway]);
        self.of(since, |stamp, seen| match seen {
            Seen::Announcement { address, mac } if mac == own => Some((stamp, address)),
            _ => None,
        })
    }

    /// When a gateway has answered that it has the floating address.
    pub fn answers(&self, gateway: usize, since: Stamp) -> Vec<Stamp> {
        let own: Mac = mac_of(GATEWAYS[gateway]);
        self.of(since, |stamp, seen| match seen {
            Seen::Answer { address: FLOATING, mac } if mac == own => Some(stamp),
            _ => None,
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The device of this namespace that is no loopback.
fn device() -> io::Result<SockaddrStorage> {
    getifaddrs()?
        .filter_map(|interface| interface.address)
        .find(|address| address.as_link_addr().and_then(LinkAddr::addr) == Some(mac_of(WATCHER)))
        .ok_or_else(|| io::Error::other("the watcher has no device"))
}

fn watch(
    frames: &Stamped,
    asks: Option<&SockaddrStorage>,
    log: &Mutex<Log>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let question = arp_request(mac_of(WATCHER), WATCHER, FLOATING);
    let mut buffer = [0; 2048];
    let mut next = now();
    while !stop.load(Ordering::Relaxed) {
        frames.wait(ASK_EVERY)?;
        while let Some((stamp, length)) = frames.receive(&mut buffer)? {
            if let Some(seen) = Seen::read(&buffer[..length]) {
                log.lock().unwrap_or_else(PoisonError::into_inner).push((stamp, seen));
            }
        }
        if let Some(device) = asks
            && let Some(device) = device.as_link_addr()
            && now() >= next
        {
            next = now() + ASK_EVERY;
            let descriptor = frames.as_fd().as_raw_fd();
            sendto(descriptor, &question, device, MsgFlags::empty())?;
        }
    }
    Ok(())
}
