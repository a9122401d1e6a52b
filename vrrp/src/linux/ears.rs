//! The sockets that the driver hears adverts with: one for each interface and family.

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::events::Outbox;
use super::links::Interface;
use super::sockets::Receiver;
use crate::router::Router;
use crate::types::Family;

/// Tokens of these sockets begin here.
pub const FIRST: u64 = 16;

/// A socket, and what it hears.
pub struct Listening {
    /// Name of the interface.
    pub interface: String,
    index: u32,
    family: Family,
    /// The socket.
    pub receiver: Receiver,
}

/// All of them.
#[derive(Default)]
pub struct Ears(Vec<Option<Listening>>);

impl Ears {
    /// The one with this token.
    pub fn get(&mut self, token: u64) -> Option<&mut Listening> {
        let slot = usize::try_from(token.checked_sub(FIRST)?).ok()?;
        self.0.get_mut(slot)?.as_mut()
    }

    /// Hears on each interface, for each family, that a virtual router is on.
    /// Says whether all of them could be opened.
    pub fn listen(
        &mut self,
        router: &Router,
        interfaces: &[Interface],
        epoll: &Epoll,
        outbox: &Outbox,
    ) -> bool {
        let mut all = true;
        let mut wanted: Vec<(&Interface, Family)> = Vec::new();
        for router in router.iter() {
            let settings = router.settings();
            let interface = interfaces.iter().find(|one| one.name == settings.interface);
            let Some(interface) = interface else { continue };
            let known = |(other, family): &(&Interface, Family)| {
                other.index == interface.index && *family == settings.family()
            };
            if !wanted.iter().any(known) {
                wanted.push((interface, settings.family()));
            }
        }
        let fits = |listening: &Listening, (interface, family): &(&Interface, Family)| {
            listening.index == interface.index
                && listening.interface == interface.name
                && listening.family == *family
        };
        for slot in &mut self.0 {
            // The system forgets what is closed.
            slot.take_if(|listening| !wanted.iter().any(|wanted| fits(listening, wanted)));
        }
        for wanted in &wanted {
            let (interface, family) = *wanted;
            if self.0.iter().flatten().any(|listening| fits(listening, wanted)) {
                continue;
            }
            let name = interface.name.clone();
            let opened = Receiver::open(family, &name, interface.index).and_then(|receiver| {
                let slot = self.0.iter().position(Option::is_none);
                let slot = slot.unwrap_or(self.0.len());
                let event = EpollEvent::new(EpollFlags::EPOLLIN, FIRST + slot as u64);
                epoll.add(&receiver, event)?;
                Ok((slot, receiver))
            });
            match opened {
                Ok((slot, receiver)) => {
                    let listening =
                        Listening { interface: name, index: interface.index, family, receiver };
                    if slot == self.0.len() {
                        self.0.push(None);
                    }
                    self.0[slot] = Some(listening);
                }
                Err(error) => {
                    outbox.warn(&format!("cannot hear adverts on {name}"), &error);
                    all = false;
                }
            }
        }
        all
    }
}
