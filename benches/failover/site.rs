//! Where a trial takes place: a LAN with a pair on it that has come to rest, a client that is served
//! and a watcher.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::client::{Acceptor, Client, longest_wait};
use crate::clock::{Stamp, now};
use crate::network::{FLOATING, Lan};
use crate::subject::{Node, Programs, Subject, signal};
use crate::watcher::Watcher;

/// Longest wait for a pair to come to rest: keepalived's adverts of a second take it four.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long all has to be well before a trial begins.
const REST: Duration = Duration::from_millis(300);
/// A wait for an answer that is none.
const SERVED: Duration = Duration::from_millis(60);

/// What a trial needs.
#[derive(Clone, Copy)]
pub struct Plan {
    pub addresses: u32,
    /// Whether the watcher asks by ARP who has the address.
    pub asks: bool,
    /// Whether there is a client.
    pub client: bool,
}

impl Plan {
    pub const USUAL: Self = Self { addresses: 1, asks: false, client: true };
}

// In the order of their end: what is measured ends before what measures, and that before the LAN.
pub struct Site<'a> {
    pub nodes: Vec<Node<'a>>,
    pub client: Option<Client>,
    pub watcher: Watcher,
    _acceptors: Vec<Acceptor>,
    _directory: TempDir,
    pub subject: Subject,
}

impl<'a> Site<'a> {
    /// Starts everything and waits until the first gateway is master and the client is served.
    pub fn open(
        lan: &'a Lan,
        programs: &Programs,
        subject: Subject,
        plan: Plan,
    ) -> io::Result<Self> {
        let directory = TempDir::with_prefix("lockgate-failover-")?;
        let mut site = Self {
            nodes: Vec::new(),
            client: None,
            watcher: Watcher::start(&lan.watcher, plan.asks)?,
            _acceptors: lan.gateways.iter().map(Acceptor::start).collect::<Result<_, _>>()?,
            _directory: directory,
            subject,
        };
        let addresses: Vec<_> = (0..plan.addresses)
            .map(|number| Ipv4Addr::from_bits(FLOATING.to_bits() + number))
            .collect();
        let directory = site._directory.path().to_owned();
        let start = |gateway: usize, directory: &Path| {
            let space = &lan.gateways[gateway];
            Node::start(programs, subject, gateway, &addresses, space, directory)
        };
        for gateway in 0..2 {
            let begun = now();
            site.nodes.push(start(gateway, &directory)?);
            site.wait("the group is joined", || lan.gateways[gateway].listens_to_vrrp())?;
            if gateway == 0 {
                let watcher = &site.watcher;
                let announced = || Ok(!watcher.announcements(0, begun).is_empty());
                wait(&mut site.nodes, "the first is master", announced)?;
            }
        }
        if plan.client {
            site.client = Some(Client::start(&lan.client)?);
        }
        site.rest(0)?;
        Ok(site)
    }

    fn wait(&mut self, what: &str, condition: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
        wait(&mut self.nodes, what, condition)
    }

    /// Waits until one gateway alone has advertised for a while, and the client has been served.
    fn rest(&mut self, master: usize) -> io::Result<()> {
        let (watcher, client) = (&self.watcher, &self.client);
        let silence = REST.max(self.subject.interval() * 4);
        let begun = now();
        wait(&mut self.nodes, "the pair comes to rest", || {
            let since = now().saturating_sub(silence);
            let advertisers = watcher.advertisers(since);
            let alone = !advertisers.is_empty() && advertisers.iter().all(|who| *who == master);
            let served = client.as_ref().is_none_or(|client| served(client, REST));
            Ok(now() >= begun + silence && alone && served)
        })
    }

    /// Waits until a share of the interval, 0 to 1, has gone by since the master's last advert.
    pub fn phase(&self, share: f64) -> io::Result<()> {
        let begun = now();
        loop {
            if let Some(advert) = self.watcher.adverts(0, begun).first() {
                let moment = *advert + self.subject.interval().mul_f64(share);
                sleep(moment.saturating_sub(now()));
                return Ok(());
            }
            if now() > begun + PATIENCE {
                return Err(io::Error::other("the master does not advertise"));
            }
            sleep(Duration::from_micros(500));
        }
    }

    /// The client.
    pub fn client(&self) -> io::Result<&Client> {
        self.client.as_ref().ok_or_else(|| io::Error::other("this trial has no client"))
    }

    /// Waits, at most so long, until the client is served again after something that happened at
    /// `zero`. Returns the end of observation.
    pub fn served_again(&self, zero: Stamp, at_most: Duration) -> io::Result<Stamp> {
        let client = self.client()?;
        // The gap begins some while after the event; nothing takes longer to begin than this.
        let earliest = zero + 5 * REST;
        while now() < zero + at_most && (now() < earliest || !served(client, REST)) {
            sleep(Duration::from_millis(5));
        }
        Ok(now())
    }

    /// Lets processes that were stopped run again, so that they can be killed in order.
    pub fn wake(&self) -> io::Result<()> {
        for node in &self.nodes {
            signal(&node.all()?, Signal::SIGCONT)?;
        }
        Ok(())
    }
}

/// Whether pings and connections have been answered all the time for so long.
fn served(client: &Client, long: Duration) -> bool {
    let since = now().saturating_sub(long);
    [client.pings(since), client.connections(since)].iter().all(|asked| {
        // What was asked just now may be answered yet.
        let last = asked.iter().rev().find_map(|asked| asked.answered);
        last.is_some_and(|last| last + SERVED > now())
            && longest_wait(asked).is_some_and(|wait| wait < SERVED)
    })
}

fn wait(
    nodes: &mut [Node<'_>],
    what: &str,
    mut condition: impl FnMut() -> io::Result<bool>,
) -> io::Result<()> {
    let give_up = now() + PATIENCE;
    while !condition()? {
        nodes.iter_mut().try_for_each(Node::is_running)?;
        if now() > give_up {
            return Err(io::Error::other(format!("waited {PATIENCE:?} in vain: {what}")));
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}
