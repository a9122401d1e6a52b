//! The other side of an upgrade: this process takes over from the one that started it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::link::Link;
use super::message::{Handed, Hello, Message, Serving};
use super::{Elder, News, PATIENCE, Upgrades, Whom, escort};
use crate::control::failover::Legacy;
use crate::control::*;
use crate::socket;

/// The way to the elder, and what it said first.
pub(in crate::control) struct Succession {
    elder: u32,
    link: Link,
    pub(in crate::control) hello: Hello,
    stderr: Option<OwnedFd>,
}

impl Succession {
    /// Begins to talk with the elder.
    ///
    /// Fails if it says nothing.
    pub(in crate::control) async fn begin(
        elder: u32,
        stream: UnixStream,
        upgrades: &mut Upgrades,
    ) -> Result<Self, Failure> {
        let failed = |error| Failure::system("cannot take over from the process before")(error);
        let link = Link::open(stream, Whom::Elder, upgrades.sender.clone()).map_err(failed)?;
        let hello = loop {
            match timeout(PATIENCE, upgrades.next()).await {
                Ok(News::Said(Whom::Elder, message)) => match *message {
                    Message::Hello(hello) => break hello,
                    _ => continue,
                },
                Ok(_) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Err(_elapsed) => return Err(failed(io::ErrorKind::TimedOut.into())),
            }
        };
        let stderr = hello.stderr.map(socket::inherited).transpose().map_err(failed)?;
        Ok(Self { elder, link, hello, stderr })
    }

    /// What the elder has carried under a name, if it did, and if it is understood here.
    pub(in crate::control) fn carried<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.hello.carry.get(name)?.clone()).ok()
    }

    /// What tickets are made with, if the elder says so.
    pub(in crate::control) fn ticket_seed(&self) -> Option<[u8; 32]> {
        let digits = self.hello.ticket_secret.as_deref()?.as_bytes();
        let mut seed = [0; 32];
        if digits.len() != 2 * seed.len() {
            return None;
        }
        for (byte, pair) in seed.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(seed)
    }
}

impl Control {
    /// Takes over what only one can have. This process accepts connections by now.
    ///
    /// Fails if the elder does not go on, or VRRP does not.
    pub(in crate::control) async fn succeed(
        &mut self,
        succession: Succession,
        listens: Vec<SocketAddr>,
    ) -> Result<(), Failure> {
        let Succession { elder, link, hello, stderr } = succession;
        self.failover.prepare(&self.world.plan, self.node.as_ref())?;
        self.track_pools(Instant::now());
        if let Some(stderr) = stderr {
            // What was logged so far is the elder's to repeat, should this fail.
            self.output
                .replace_stderr(stderr, places(&self.world.plan))
                .map_err(Failure::system("standard error"))?;
        }
        link.say(Message::Serving(Serving {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listens,
            admin_socket: self.admin.socket.as_ref().is_some_and(|server| server.is_inherited()),
            instances: Failover::identities(&self.world.plan, self.node.as_ref())?,
        }));
        let legacy = self.await_legacy().await?;
        let is_alone = legacy.is_none();
        self.failover.adopt(legacy)?;
        self.admin.serve(&self.senders.asks);
        self.admin.inherit(hello.removes_admin_socket);
        escort::outlive_parent()
            .map_err(Failure::system("cannot take over from the process before"))?;
        link.say(Message::Ready);
        if !is_alone {
            self.upgrades.elder = Some(Elder {
                pid: elder,
                _link: link,
                since: Instant::now(),
                connections: 0,
                previous: Vec::new(),
            });
        }
        Ok(())
    }

    /// What the elder hands on of VRRP; `None` if the elder is gone, and this process goes on alone.
    async fn await_legacy(&mut self) -> Result<Option<Legacy>, Failure> {
        loop {
            match timeout(PATIENCE, self.upgrades.next()).await {
                Ok(News::Said(Whom::Elder, message)) => match *message {
                    Message::Counts(counts) => {
                        self.add(&counts.totals);
                        self.registry.add_histograms(&counts.histograms);
                    }
                    Message::Vrrp(Handed { legacy }) => {
                        return Ok(Some(legacy.unwrap_or_default()));
                    }
                    _ => {}
                },
                Ok(News::Gone(Whom::Elder)) => {
                    tracing::warn!("the process before this one is gone; going on without it");
                    return Ok(None);
                }
                Ok(_) => {}
                Err(_elapsed) => {
                    let source = io::Error::from(io::ErrorKind::TimedOut);
                    return Err(Failure::system("the process before does not hand over")(source));
                }
            }
        }
    }
}
