//! Keeps the backends of a pool in step with names that a backend is made of each address of.
//!
//! What is decided is decided in [`super::addresses`]. Here the world is made anew with that, as for
//! weights that operators change: nothing that stays notices, what is new is checked first, and what
//! has gone keeps the connections that it has.

use std::net::IpAddr;

use super::addresses::{self, Family, Found, Key, Known};
use super::*;

/// What is known of the names.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Their addresses.
    pub(super) known: Known,
    /// There are some that the world has no backend of yet.
    joined: bool,
    /// What was said last of a look-up that failed: it goes on failing in silence.
    told: HashMap<Key, String>,
}

impl Control {
    /// A name has been looked up that there is to be a backend of each address of.
    pub(super) fn found(&mut self, key: Key, found: &Found) {
        if !self.watch.resolves(&key) {
            return;
        }
        let Some(pool) = self.world.pools.iter().position(|ours| *ours.pool.name == *key.pool)
        else {
            return;
        };
        let ours = &self.world.pools[pool];
        let mut members = self.members.known.of(&key).cloned().unwrap_or_default();
        let changes = members.found(found, Instant::now());
        let (name, backend, host) = (&key.pool, &key.backend, &key.host);
        let mut doubt = cause(&key, found);
        let backup = ours.members.iter().any(|one| one.of == key.backend && one.plan.backup);
        if changes.joined.len() > ours.room(backup) {
            // Their connections would have to be over first.
            doubt = Some(format!("{host}: too many backends that were removed still serve"));
        } else {
            for ip in &changes.joined {
                let cause = format!("{host} has this address");
                tell_of(&mut self.events, "added", (&key, *ip), &cause);
            }
            self.members.joined |= !changes.joined.is_empty();
            *self.members.known.members(key.clone()) = members;
        }
        if changes.beyond > 0 {
            let most = plan::MOST_ADDRESSES;
            let more =
                format!("{host} has more than {most} addresses: {} are not used", changes.beyond);
            doubt = Some(doubt.into_iter().chain([more]).collect::<Vec<_>>().join("; "));
        }
        let awaiting = |one: &compile::Member| one.of == key.backend && one.awaits_addresses();
        let awaiting = ours.members.iter().position(awaiting);
        match doubt {
            None => drop(self.members.told.remove(&key)),
            Some(doubt) => {
                let kept = self.members.known.of(&key).map_or(0, |members| members.all().count());
                if self.members.told.get(&key) != Some(&doubt) {
                    tracing::warn!(pool = %name, %backend, addresses = kept, "{doubt}");
                    self.members.told.insert(key, doubt.clone());
                }
                if let (0, Some(index)) = (kept, awaiting) {
                    self.tell(pool, index, Event::Unresolved(doubt));
                }
            }
        }
    }

    /// Has the world have the backends that names have addresses for by now, and no others.
    pub(super) fn follow_names(&mut self, now: Instant) {
        // Whoever takes over asks for itself.
        if self.stopping.is_some() || self.upgrades.is_under_way() {
            return;
        }
        let is_published = self.world.is_published();
        let mut is_new = false;
        if std::mem::take(&mut self.members.joined) {
            self.remake();
            is_new = true;
        }
        let gone = self.give_up(now);
        if !gone.is_empty() {
            self.remake();
            is_new = true;
        }
        // Else the one who is about to publish it does.
        if is_new && is_published {
            self.publish(Sockets::new());
        }
        for (key, ip) in gone {
            let cause = format!("{} has this address no more", key.host);
            tell_of(&mut self.events, "removed", (&key, ip), &cause);
        }
    }

    /// The addresses that have had their time.
    fn give_up(&mut self, now: Instant) -> Vec<(Key, IpAddr)> {
        if self.members.known.next().is_none() {
            return Vec::new();
        }
        let awaited: HashSet<(&str, &str)> = self
            .world
            .pools
            .iter()
            .flat_map(|ours| ours.members.iter().zip(ours.ward.members()))
            .filter(|(_, vitals)| !vitals.is_settled())
            .map(|(member, _)| (&*member.backend.pool, &*member.backend.name))
            .collect();
        let mut gone = Vec::new();
        for (key, members) in self.members.known.iter_mut() {
            let judged = |ip| {
                let name = addresses::named(&key.backend, ip);
                !awaited.contains(&(key.pool.as_str(), name.as_str()))
            };
            let given_up = members.tick(judged, now);
            gone.extend(given_up.into_iter().map(|ip| (key.clone(), ip)));
        }
        gone
    }

    /// Makes the world anew with the addresses that are known by now.
    fn remake(&mut self) {
        let plan = self.world.plan.clone();
        self.recompile(plan);
        self.watch_world();
        self.apply_wishes();
    }

    /// Forgets names that `plan` does not have.
    pub(super) fn forget_names(&mut self, plan: &plan::Plan) {
        self.members.known.keep(plan);
        let known = &self.members.known;
        self.members.told.retain(|key, _| known.of(key).is_some());
    }
}

/// Says that a backend was added or removed, to people and programs.
fn tell_of(events: &mut Events, what: &str, (key, ip): (&Key, IpAddr), cause: &str) {
    let (pool, backend) = (&*key.pool, addresses::named(&key.backend, ip));
    tracing::info!(pool, backend, "{what}: {cause}");
    let fields = [
        ("event", what.into()),
        ("pool", pool.into()),
        ("backend", backend.into()),
        ("cause", cause.into()),
    ];
    events.tell(Kind::Backend, SystemTime::now(), &fields);
}

/// Why there may be other addresses than those that were found; `None` if there are none.
fn cause(key: &Key, found: &Found) -> Option<String> {
    let causes = [&found.v4, &found.v6].into_iter().filter_map(|family| match family {
        Family::Are(_) => None,
        Family::Unknown(cause) => Some(cause.as_str()),
    });
    let mut causes: Vec<&str> = causes.collect();
    causes.dedup();
    match (causes.is_empty(), &found.v4, &found.v6) {
        (false, ..) => Some(causes.join("; ")),
        (true, Family::Are(v4), Family::Are(v6)) if v4.is_empty() && v6.is_empty() => {
            Some(format!("cannot resolve {}: no such name, or it has no address", key.host))
        }
        (true, ..) => None,
    }
}
