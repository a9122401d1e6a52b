//! What a reload changes, in one line.

use std::collections::HashMap;
use std::fmt;

use crate::config::plan::{Backend, Challenges, Listener, Node, Plan, Protocol, Vrrp};

/// Added, changed and removed things of each kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    listeners: Changes,
    pools: Changes,
    backends: Changes,
    nodes: Changes,
    instances: Changes,
    /// Settings outside listeners and pools that take effect.
    settings: Vec<&'static str>,
    /// Settings that a running process cannot take over.
    restart: Vec<&'static str>,
    /// Connections of removed backends that go on.
    draining: u32,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

/// Those that one way to change concerns.
type Concerned = fn(&Changes) -> &[String];

/// How each way to change is written.
const SIGNS: [(&str, Concerned); 3] =
    [("+", |c| &c.added), ("~", |c| &c.changed), ("-", |c| &c.removed)];

impl Changes {
    fn between<'a, T: PartialEq + 'a, K: std::hash::Hash + Eq + Named>(
        before: impl IntoIterator<Item = (K, &'a T)>,
        after: impl IntoIterator<Item = (K, &'a T)>,
    ) -> Self {
        let mut before: HashMap<_, _> = before.into_iter().collect();
        let mut changes = Self::default();
        for (key, after) in after {
            match before.remove(&key) {
                None => changes.added.push(key.named()),
                Some(before) if before != after => changes.changed.push(key.named()),
                Some(_) => {}
            }
        }
        changes.removed = before.into_keys().map(|key| key.named()).collect();
        for names in [&mut changes.added, &mut changes.changed, &mut changes.removed] {
            names.sort_unstable();
        }
        changes
    }
}

/// What a change is called by.
trait Named {
    fn named(&self) -> String;
}

impl Named for &str {
    fn named(&self) -> String {
        (*self).to_owned()
    }
}

impl Named for &&str {
    fn named(&self) -> String {
        (**self).to_owned()
    }
}

/// A backend, in its pool.
impl Named for (&str, &str) {
    fn named(&self) -> String {
        format!("{}/{}", self.0, self.1)
    }
}

impl Summary {
    /// What changes from one plan to another, in a process that was started with a third.
    pub fn between(before: &Plan, after: &Plan, started: &Plan) -> Self {
        let mut summary = Self {
            listeners: Changes::between(listeners(before).iter(), listeners(after).iter()),
            pools: Changes::between(pools(before).iter(), pools(after).iter()),
            backends: Changes::between(backends(before), backends(after)),
            nodes: Changes::between(nodes(before), nodes(after)),
            instances: Changes::between(instances(before).iter(), instances(after).iter()),
            ..Self::default()
        };
        let (old, new) = (&before.runtime, &after.runtime);
        if started.runtime.workers != new.workers {
            summary.restart.push("runtime.workers");
        }
        if started.runtime.pin != new.pin {
            summary.restart.push("runtime.pin");
        }
        if started.runtime.sandbox != new.sandbox {
            summary.restart.push("runtime.sandbox");
        }
        if started.log.format != after.log.format {
            summary.restart.push("log.format");
        }
        let live = [
            ("runtime.max_connections", old.max_connections != new.max_connections),
            ("runtime.drain_timeout", old.drain_timeout != new.drain_timeout),
            ("runtime.state_dir", old.state_dir != new.state_dir),
            ("admin", before.admin != after.admin),
            ("log.level", before.log.level != after.log.level),
            ("log.access", before.log.access != after.log.access),
            ("log.file", before.log.file != after.log.file),
            ("log.access_file", before.log.access_file != after.log.access_file),
        ];
        summary.settings.extend(live.iter().filter(|(_, differs)| *differs).map(|(name, _)| name));
        summary
    }

    /// Each change by itself: `+ listener https`.
    pub fn changes(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (sign, names) in SIGNS {
            for (noun, changes) in self.kinds() {
                all.extend(names(changes).iter().map(|name| format!("{sign} {noun} {name}")));
            }
        }
        all.extend(self.settings.iter().map(|name| format!("~ {name}")));
        all
    }

    /// Settings that only a restart takes over.
    pub fn restart(&self) -> &[&'static str] {
        &self.restart
    }

    fn kinds(&self) -> [(&'static str, &Changes); 5] {
        [
            ("listener", &self.listeners),
            ("pool", &self.pools),
            ("backend", &self.backends),
            ("node", &self.nodes),
            ("VRRP instance", &self.instances),
        ]
    }

    /// Adds what goes on at removed backends.
    pub fn draining(mut self, connections: u32) -> Self {
        self.draining = connections;
        self
    }
}

/// Listeners by name, with the pools that they name: the index of a pool says nothing.
fn listeners(plan: &Plan) -> HashMap<&str, (Listener, Vec<&str>)> {
    let compared = |listener: &Listener| {
        let mut listener = listener.clone();
        let mut named = Vec::new();
        let mut name = |pool: &mut usize| named.push(&*plan.pools[std::mem::take(pool)].name);
        listener.pool.iter_mut().for_each(&mut name);
        listener.routes.iter_mut().for_each(|route| name(&mut route.pool));
        if let Protocol::Redirect(redirect) = &mut listener.protocol
            && let Some(Challenges::Pool(pool)) = &mut redirect.challenges
        {
            name(pool);
        }
        (listener, named)
    };
    plan.listeners.iter().map(|listener| (&*listener.name, compared(listener))).collect()
}

/// Pools by name, without their backends, which count for themselves.
fn pools(plan: &Plan) -> HashMap<&str, crate::config::plan::Pool> {
    plan.pools
        .iter()
        .map(|pool| {
            let alone = crate::config::plan::Pool { backends: Vec::new(), ..pool.clone() };
            (pool.name.as_str(), alone)
        })
        .collect()
}

fn nodes(plan: &Plan) -> impl Iterator<Item = (&str, &Node)> {
    plan.nodes.iter().map(|node| (&*node.name, node))
}

/// VRRP instances by name, with the pools that they name: the index of a pool says nothing.
fn instances(plan: &Plan) -> HashMap<&str, (Vrrp, Vec<&str>)> {
    let compared = |instance: &Vrrp| {
        let mut instance = instance.clone();
        let tracked = instance.track_pools.iter_mut();
        let named = tracked.map(|tracked| &*plan.pools[std::mem::take(&mut tracked.pool)].name);
        let named = named.collect();
        (instance, named)
    };
    plan.vrrp.iter().map(|instance| (&*instance.name, compared(instance))).collect()
}

fn backends(plan: &Plan) -> impl Iterator<Item = ((&str, &str), &Backend)> {
    plan.pools.iter().flat_map(|pool| {
        pool.backends.iter().map(|backend| ((&*pool.name, &*backend.name), backend))
    })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (sign, names) in SIGNS {
            for (noun, changes) in self.kinds() {
                match names(changes).len() {
                    0 => {}
                    1 => parts.push(format!("{sign}1 {noun}")),
                    n => parts.push(format!("{sign}{n} {noun}s")),
                }
            }
        }
        parts.extend(self.settings.iter().map(|name| format!("~{name}")));
        let what = if parts.is_empty() { "no change".to_owned() } else { parts.join(", ") };
        f.write_str(&what)?;
        match self.draining {
            0 => {}
            1 => f.write_str(": 1 connection draining")?,
            n => write!(f, ": {n} connections draining")?,
        }
        if !self.restart.is_empty() {
            write!(f, " ({} only after a restart)", self.restart.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const BEFORE: &str = r#"
        [[listener]]
        name = "a"
        bind = ["127.0.0.1:1"]
        pool = "p"
        [[listener]]
        name = "b"
        bind = ["127.0.0.1:2"]
        pool = "q"
        [[pool.p.backend]]
        address = "127.0.0.1:11"
        [[pool.p.backend]]
        address = "127.0.0.1:12"
        [[pool.q.backend]]
        address = "127.0.0.1:21"
    "#;

    fn summary(edit: impl Fn(&str) -> String) -> String {
        let before = config::parse("before", BEFORE).unwrap();
        let after = config::parse("after", &edit(BEFORE)).unwrap();
        Summary::between(&before, &after, &before).to_string()
    }

    #[test]
    fn changes_are_counted_by_kind() {
        assert_eq!(summary(str::to_owned), "no change");
        let edit = |text: &str| {
            text.replace("127.0.0.1:2\"", "127.0.0.1:3\"")
                .replace("address = \"127.0.0.1:12\"", "address = \"127.0.0.1:11\"\nweight = 5")
                .replace("name = \"a\"", "name = \"c\"")
                .replacen("127.0.0.1:11", "127.0.0.1:13", 1)
        };
        assert_eq!(
            summary(edit),
            "+1 listener, +1 backend, ~1 listener, ~1 backend, -1 listener, -1 backend"
        );
    }

    #[test]
    fn a_listener_counts_as_changed_when_its_pool_is_another_not_when_pools_are_reordered() {
        assert_eq!(summary(|text| text.replace("pool = \"q\"", "pool = \"p\"")), "~1 listener");
        let reordered =
            |text: &str| format!("pool.z.backend = [{{ address = \"10.0.0.1:1\" }}]\n{text}");
        assert_eq!(summary(reordered), "+1 pool, +1 backend");
    }

    #[test]
    fn settings_are_named() {
        assert_eq!(
            summary(|text| format!("log.level = \"debug\"\nruntime.workers = 3\n{text}")),
            "~log.level (runtime.workers only after a restart)"
        );
        let before = config::parse("before", BEFORE).unwrap();
        let summary = Summary::between(&before, &before, &before).draining(14);
        assert_eq!(summary.to_string(), "no change: 14 connections draining");
    }
}
