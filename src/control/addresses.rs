//! Backends of which one is made for each address of a name (`addresses = "all"`): which addresses
//! those are.
//!
//! Pure: control tells what look-ups have found and when, and makes backends of what this answers
//! with. An address that has come is there at once. One that has gone stays until those that have come
//! in its place are checked, so that a name that moves from one set of servers to another leaves
//! nobody without a server in between. What no look-up could tell changes nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::plan::{self, MOST_ADDRESSES};

/// How long an address that has gone waits for the checks of those that have come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Family {
    /// These are all; none, if there are none.
    Are(Vec<IpAddr>),
    /// Nobody knows, for this cause.
    Unknown(String),
}

/// What became of looking a name up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// IPv4.
    pub v4: Family,
    /// IPv6.
    pub v6: Family,
}

/// Which name, and for whom: a backend of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Name of the pool.
    pub pool: String,
    /// Name of the backend in the file.
    pub backend: String,
    /// The name that is looked up.
    pub host: String,
}

impl Key {
    /// That of a backend that is made of all addresses of its name; `None` for any other. With its
    /// port.
    pub fn of(pool: &str, backend: &plan::Backend) -> Option<(Self, u16)> {
        match (&backend.address, backend.addresses) {
            (plan::Address::Name { host, port }, plan::Addresses::All) => {
                let (pool, backend) = (pool.to_owned(), backend.name.clone());
                Some((Self { pool, backend, host: host.clone() }, *port))
            }
            _ => None,
        }
    }
}

/// What a look-up has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Addresses that are new, or there again.
    pub joined: Vec<IpAddr>,
    /// Addresses that the name has no more. They stay until [`Members::tick`] gives them up.
    pub leaving: Vec<IpAddr>,
    /// Addresses beyond [`MOST_ADDRESSES`], which are not used.
    pub beyond: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Present,
    /// The name has it no more; until then it may stay.
    Leaving(Instant),
}

/// The addresses of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(BTreeMap<IpAddr, Standing>);

impl Members {
    /// Those that were known before.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self(addresses.into_iter().map(|ip| (ip, Standing::Present)).collect())
    }

    /// All of them in order, those that are leaving among them.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }

    /// Takes over what a look-up has found. A family that nobody knows anything of stays as it is,
    /// and so does everything if there would be nothing left.
    pub fn found(&mut self, found: &Found, now: Instant) -> Changes {
        let present = |of_v4: bool| {
            let all = self.0.iter().filter(|(_, standing)| **standing == Standing::Present);
            all.map(|(ip, _)| *ip).filter(|ip| ip.is_ipv4() == of_v4).collect::<Vec<_>>()
        };
        let mut wanted: Vec<IpAddr> = Vec::new();
        for (family, is_v4) in [(&found.v4, true), (&found.v6, false)] {
            match family {
                Family::Are(list) => wanted.extend(list),
                Family::Unknown(_) => wanted.extend(present(is_v4)),
            }
        }
        // Sorted before it is cut, so that two gateways choose the same.
        wanted.sort_unstable();
        wanted.dedup();
        let beyond = wanted.len().saturating_sub(MOST_ADDRESSES);
        wanted.truncate(MOST_ADDRESSES);
        let mut changes = Changes { beyond, ..Changes::default() };
        if wanted.is_empty() {
            return changes;
        }
        for (ip, standing) in &mut self.0 {
            if *standing == Standing::Present && wanted.binary_search(ip).is_err() {
                *standing = Standing::Leaving(now + PATIENCE);
                changes.leaving.push(*ip);
            }
        }
        for ip in wanted {
            if self.0.insert(ip, Standing::Present) != Some(Standing::Present) {
                changes.joined.push(ip);
            }
        }
        changes
    }

    /// Gives up the addresses that have gone, if all others are `judged` by now or have had their
    /// time. Returns them.
    pub fn tick(&mut self, judged: impl Fn(IpAddr) -> bool, now: Instant) -> Vec<IpAddr> {
        if self.next().is_none() {
            return Vec::new();
        }
        let mut present = self.0.iter().filter(|(_, standing)| **standing == Standing::Present);
        let settled = present.all(|(ip, _)| judged(*ip));
        let goes = |standing: &Standing| match standing {
            Standing::Present => false,
            Standing::Leaving(until) => settled || *until <= now,
        };
        let gone: Vec<_> =
            self.0.iter().filter(|(_, standing)| goes(standing)).map(|(ip, _)| *ip).collect();
        self.0.retain(|_, standing| !goes(standing));
        gone
    }

    /// When [`Members::tick`] has something to do at the latest.
    pub fn next(&self) -> Option<Instant> {
        let leaving = self.0.values().filter_map(|standing| match standing {
            Standing::Present => None,
            Standing::Leaving(until) => Some(*until),
        });
        leaving.min()
    }
}

/// The addresses of all names that are watched so.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(from = "Vec<Row>", into = "Vec<Row>")]
pub struct Known(BTreeMap<Key, Members>);

/// As one process tells it the next.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Row {
    pool: String,
    backend: String,
    host: String,
    addresses: Vec<IpAddr>,
}

impl From<Vec<Row>> for Known {
    fn from(rows: Vec<Row>) -> Self {
        let key = |row: &Row| {
            let (pool, backend, host) = (row.pool.clone(), row.backend.clone(), row.host.clone());
            Key { pool, backend, host }
        };
        let members = |row: Row| Members::new(row.addresses.into_iter().take(MOST_ADDRESSES));
        Self(rows.into_iter().map(|row| (key(&row), members(row))).collect())
    }
}

impl From<Known> for Vec<Row> {
    fn from(known: Known) -> Self {
        let rows = known.0.into_iter().map(|(key, members)| Row {
            pool: key.pool,
            backend: key.backend,
            host: key.host,
            addresses: members.all().collect(),
        });
        rows.collect()
    }
}

impl Known {
    /// What is known of a name.
    pub fn of(&self, key: &Key) -> Option<&Members> {
        self.0.get(key)
    }

    /// The same, to be changed; nothing is known of a new one.
    pub fn members(&mut self, key: Key) -> &mut Members {
        self.0.entry(key).or_default()
    }

    /// All names, each with its addresses.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Key, &mut Members)> {
        self.0.iter_mut()
    }

    /// When the next address has had its time.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(Members::next).min()
    }

    /// Forgets names that a plan does not have.
    pub fn keep(&mut self, plan: &plan::Plan) {
        let backends = plan.pools.iter().flat_map(|pool| {
            pool.backends.iter().filter_map(|backend| Key::of(&pool.name, backend))
        });
        let keys: std::collections::BTreeSet<Key> = backends.map(|(key, _)| key).collect();
        self.0.retain(|key, _| keys.contains(key));
    }

    /// What is to be made of a backend of the file: itself, or one for each address, which it comes
    /// with. If none is known yet, itself as well, without any.
    pub fn expand(
        &self,
        pool: &str,
        backend: &plan::Backend,
    ) -> Vec<(plan::Backend, Option<SocketAddr>)> {
        let found = Key::of(pool, backend).and_then(|(key, port)| Some((self.of(&key)?, port)));
        let each = found.into_iter().flat_map(|(members, port)| {
            members.all().map(move |ip| {
                let backend = plan::Backend { name: named(&backend.name, ip), ..backend.clone() };
                (backend, Some(SocketAddr::new(ip, port)))
            })
        });
        let each: Vec<_> = each.collect();
        if each.is_empty() { vec![(backend.clone(), None)] } else { each }
    }
}

/// What the backend is called that is made of one address of another.
pub fn named(backend: &str, ip: IpAddr) -> String {
    format!("{backend}/{ip}")
}

/// Whether a backend of this name is, or may become, one that is made of `backend`. Not that one
/// itself, if it is made of all addresses of its name.
pub fn is_made_of(name: &str, backend: &plan::Backend) -> bool {
    match backend.addresses {
        plan::Addresses::One => name == backend.name,
        plan::Addresses::All => {
            let rest = name.strip_prefix(&*backend.name).and_then(|rest| rest.strip_prefix('/'));
            rest.is_some_and(|rest| rest.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| ip(text)).collect()
    }

    fn found(v4: &[&str], v6: &[&str]) -> Found {
        Found { v4: Family::Are(ips(v4)), v6: Family::Are(ips(v6)) }
    }

    fn unknown() -> Family {
        Family::Unknown("timed out".to_owned())
    }

    fn all(members: &Members) -> Vec<String> {
        members.all().map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn addresses_come_at_once_and_go_when_those_in_their_place_are_judged() {
        let now = Instant::now();
        let mut members = Members::default();
        let changes = members.found(&found(&["10.0.0.2", "10.0.0.1"], &["2001:db8::1"]), now);
        assert_eq!(changes.joined, ips(&["10.0.0.1", "10.0.0.2", "2001:db8::1"]));
        assert_eq!((changes.leaving.len(), changes.beyond, members.next()), (0, 0, None));

        let changes = members.found(&found(&["10.0.0.2", "10.0.0.3"], &[]), now);
        assert_eq!(changes.joined, ips(&["10.0.0.3"]));
        assert_eq!(changes.leaving, ips(&["10.0.0.1", "2001:db8::1"]));
        let new = ip("10.0.0.3");
        assert!(members.tick(|ip| ip != new, now).is_empty(), "the new one is not judged yet");
        assert_eq!(all(&members), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1"]);
        assert_eq!(members.tick(|_| true, now), ips(&["10.0.0.1", "2001:db8::1"]));
        assert_eq!(all(&members), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(members.next(), None);
        assert!(members.tick(|_| true, now + PATIENCE).is_empty());
    }

    #[test]
    fn what_has_gone_does_not_wait_for_ever_and_may_come_back() {
        let start = Instant::now();
        let mut members = Members::new(ips(&["10.0.0.1", "10.0.0.2"]));
        members.found(&found(&["10.0.0.3"], &[]), start);
        let later = start + PATIENCE / 2;
        // The first is back; the other waits no longer for that.
        let changes = members.found(&found(&["10.0.0.1", "10.0.0.3"], &[]), later);
        assert_eq!((changes.joined, changes.leaving), (ips(&["10.0.0.1"]), vec![]));
        assert_eq!(members.next(), Some(start + PATIENCE));
        assert!(members.tick(|_| false, later).is_empty());
        assert_eq!(members.tick(|_| false, start + PATIENCE), ips(&["10.0.0.2"]));
        assert_eq!(all(&members), ["10.0.0.1", "10.0.0.3"]);
        // With nothing in its place it goes at once.
        members.found(&found(&["10.0.0.3"], &[]), later);
        assert_eq!(members.tick(|_| true, later), ips(&["10.0.0.1"]));
    }

    #[test]
    fn what_no_look_up_could_tell_changes_nothing() {
        let now = Instant::now();
        let before = Members::new(ips(&["10.0.0.1", "2001:db8::1"]));
        let none = [
            Found { v4: unknown(), v6: unknown() },
            // There is nothing any more: rather a mistake than a wish.
            found(&[], &[]),
            Found { v4: unknown(), v6: Family::Are(ips(&["2001:db8::1"])) },
            Found { v4: Family::Are(ips(&["10.0.0.1"])), v6: unknown() },
        ];
        for found in none {
            let mut members = before.clone();
            assert_eq!(members.found(&found, now), Changes::default(), "{found:?}");
            assert_eq!(members, before, "{found:?}");
        }
        // One family is known to have gone, and the other is not.
        let mut members = before;
        let gone = Found { v4: Family::Are(vec![]), v6: unknown() };
        assert_eq!(members.found(&gone, now).leaving, ips(&["10.0.0.1"]));
        // One that is leaving is not kept by a look-up that knows nothing of it.
        assert_eq!(members.tick(|_| true, now), ips(&["10.0.0.1"]));
        let nothing = Found { v4: unknown(), v6: unknown() };
        assert_eq!(members.found(&nothing, now), Changes::default());
        assert_eq!(all(&members), ["2001:db8::1"]);
    }

    #[test]
    fn there_are_so_many_at_most_and_the_same_everywhere() {
        let now = Instant::now();
        let mut many: Vec<_> = (0..MOST_ADDRESSES + 7)
            .map(|n| IpAddr::from(((10 << 24) + n as u32).to_be_bytes()))
            .collect();
        let mut members = Members::default();
        let forwards = Found { v4: Family::Are(many.clone()), v6: Family::Are(vec![]) };
        let changes = members.found(&forwards, now);
        assert_eq!((changes.joined.len(), changes.beyond), (MOST_ADDRESSES, 7));
        many.reverse();
        let backwards = Found { v4: Family::Are(many), v6: Family::Are(vec![]) };
        let changes = members.found(&backwards, now);
        assert_eq!(changes, Changes { beyond: 7, ..Changes::default() });
    }

    fn plan(addresses: &str) -> plan::Plan {
        let text = format!(
            "[[listener]]\nname = 'a'\nbind = ['127.0.0.1:1']\npool = 'p'\n\
             [[pool.p.backend]]\nname = 'app'\naddress = 'app.test:80'\n\
             addresses = '{addresses}'\nweight = 7\n"
        );
        crate::config::parse("t.toml", &text).unwrap()
    }

    #[test]
    fn a_backend_is_made_of_each_address() {
        let (one, many) = (plan("one"), plan("all"));
        let backend = &many.pools[0].backends[0];
        let mut known = Known::default();
        assert_eq!(known.expand("p", backend), [(backend.clone(), None)]);
        let (key, port) = Key::of("p", backend).unwrap();
        assert_eq!((&*key.host, port), ("app.test", 80));
        known.members(key.clone()).found(&found(&["10.0.0.3"], &["2001:db8::3"]), Instant::now());
        let made = known.expand("p", backend);
        let names: Vec<_> = made.iter().map(|(made, at)| (&*made.name, at.unwrap())).collect();
        let expected = [
            ("app/10.0.0.3", "10.0.0.3:80".parse().unwrap()),
            ("app/2001:db8::3", "[2001:db8::3]:80".parse().unwrap()),
        ];
        assert_eq!(names, expected);
        assert!(made.iter().all(|(made, _)| made.weight == 7 && made.address == backend.address));
        assert!(names.iter().all(|(name, _)| is_made_of(name, backend)));
        assert_eq!(known.expand("other", backend).len(), 1, "of another pool nothing is known");

        let single = &one.pools[0].backends[0];
        assert_eq!(known.expand("p", single), [(single.clone(), None)]);
        assert!(is_made_of("app", single) && !is_made_of("app", backend));
        for name in ["app/10.0.0.3", "app/", "app/x", "app/010.0.0.3", "apple/10.0.0.3"] {
            assert!(!is_made_of(name, single), "{name}");
            assert_eq!(is_made_of(name, backend), name == "app/10.0.0.3", "{name}");
        }

        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Known>(&text).unwrap(), known);
        known.keep(&many);
        assert!(known.of(&key).is_some());
        known.keep(&one);
        assert_eq!(known, Known::default());
    }
}
