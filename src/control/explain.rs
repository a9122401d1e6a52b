//! Where a connection would go, and why: what `lockgate explain` tells.
//!
//! It has no opinion of its own. The rule is found by [`Routes::first`], which is what workers route
//! by, and the backend by [`Pool::peek`](crate::pool::Pool::peek), which is their choice with
//! another hand: nothing is taken, and nobody's turn is lost.

use std::net::{IpAddr, Ipv4Addr};

use super::compile::{Member, Ours, compile_route};
use super::*;
use crate::admin::explanation::{Candidate, Explanation, Question};
use crate::admin::order::{Refusal, RefusalKind};
use crate::balance::Unavailable;
use crate::balance::maglev::hash_client;
use crate::health::{State as Health, Vitals};
use crate::proto::first_bytes::FirstBytes;
use crate::proto::name::HostName;
use crate::route::{Asked, Routes};

/// A client of nowhere (RFC 5737), for when it does not matter.
const ANYBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A question that has been understood.
struct Client {
    address: IpAddr,
    name: Option<HostName>,
    protocols: Vec<String>,
    first_bytes: Option<FirstBytes>,
}

impl Client {
    fn of(question: &Question) -> Result<Self, Refusal> {
        let invalid = |error: String| Refusal::new(RefusalKind::Invalid, error);
        let address = question.client.as_deref().map_or(Ok(ANYBODY), |text| {
            text.parse().map_err(|_| invalid(format!("client: '{text}' is no IP address")))
        })?;
        let name = question.sni.as_deref().map(|text| {
            let name = HostName::parse(text.as_bytes());
            name.ok_or_else(|| {
                invalid(format!("sni: '{text}' is no name that a client can ask for"))
            })
        });
        let protocols = question.alpn.iter().flat_map(|list| list.split(','));
        let protocols =
            protocols.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        let (name, protocols) = (name.transpose()?, protocols.collect::<Vec<_>>());
        let says_hello = name.is_some() || !protocols.is_empty();
        let first_bytes = question.first_bytes.as_deref().map(|word| {
            let kind = FirstBytes::ALL.into_iter().find(|kind| kind.name() == word);
            kind.ok_or_else(|| invalid(unknown_first_bytes(word)))
        });
        let first_bytes =
            first_bytes.transpose()?.or_else(|| says_hello.then_some(FirstBytes::Tls));
        if let Some(kind) = first_bytes.filter(|kind| says_hello && *kind != FirstBytes::Tls) {
            return Err(invalid(format!(
                "first_bytes: '{kind}' has no sni or alpn, only 'tls' has"
            )));
        }
        Ok(Self { address, name, protocols, first_bytes })
    }

    /// As routes are asked.
    fn ask<T>(&self, found: impl FnOnce(&Asked<'_>) -> T) -> T {
        let protocols: Vec<_> = self.protocols.iter().map(String::as_bytes).collect();
        let server_name = self.name.as_ref().map(HostName::as_str);
        found(&Asked {
            server_name,
            protocols: &protocols,
            client: self.address,
            first_bytes: self.first_bytes,
        })
    }
}

fn unknown_first_bytes(word: &str) -> String {
    let words = FirstBytes::ALL.map(FirstBytes::name);
    let help = match config::nearest(word, words) {
        Some(meant) => format!("did you mean '{meant}'?"),
        None => format!("one of {}", words.join(", ")),
    };
    format!("first_bytes: unknown value '{word}' ({help})")
}

impl Control {
    /// Where a connection would go at this moment.
    pub(super) fn explain(&self, question: &Question) -> Result<Explanation, Refusal> {
        let client = Client::of(question)?;
        let index = find(&self.world.plan, &question.listener)?;
        let plan = &self.world.plan.listeners[index];
        let listener = &self.world.snapshot.listeners[index];
        let route = client.ask(|asked| listener.routes.first(asked).map(|(index, _)| index));
        let mut told = begin(&client, plan, route);
        told.live = true;
        if let Some(guard) = &listener.guard {
            if guard.awaits_header(client.address) {
                told.notes.push(
                    "accept_proxy_from has this address: the PROXY header of the connection says \
                     whom it is from"
                        .to_owned(),
                );
            }
            if question.client.is_some() && !guard.admits(client.address) {
                "refuse".clone_into(&mut told.outcome);
                "it is denied: in deny, or not in allow".clone_into(&mut told.why);
                return Ok(told);
            }
            if guard.limiter.is_some() {
                told.notes.push("the listener limits each source: see limited_total".to_owned());
            }
        }
        let active = listener.meters.active.load(std::sync::atomic::Ordering::Relaxed);
        if listener.max_connections > 0 && active >= listener.max_connections {
            told.notes.push(format!(
                "the listener has its maximum of {active} connections: more wait in the kernel"
            ));
        }
        let pool = match plan.protocol {
            plan::Protocol::Redirect(_) => return Ok(told),
            plan::Protocol::Tcp | plan::Protocol::Tls(_) | plan::Protocol::TlsPassthrough => {
                client.ask(|asked| listener.route(asked))
            }
        };
        let Some(pool) = pool else { return Ok(told) };
        let of_plan = self.world.plan.pools.iter().zip(&self.world.pools);
        if let Some((plan, ours)) =
            of_plan.into_iter().find(|(_, ours)| ours.pool.name == pool.name)
        {
            self.choose(&mut told, &client, plan, ours);
        }
        Ok(told)
    }

    /// Adds what the pool would do.
    fn choose(&self, told: &mut Explanation, client: &Client, plan: &plan::Pool, ours: &Ours) {
        told.pool = Some(plan.name.clone());
        told.balance = Some(plan.balance.name().to_owned());
        let waiting = ours.pool.queue.depth();
        let entropy = self.began.elapsed().as_nanos() as u64;
        let chosen = ours.pool.peek(hash_client(client.address), entropy);
        let queues = !plan.queue_timeout.is_zero();
        let (outcome, why) = match &chosen {
            Ok(_) if waiting > 0 && queues => {
                ("queue", format!("{waiting} connections wait already, and it goes to their end"))
            }
            Ok(backend) if backend.backup => {
                let why = match ours.pool.ordinary.group.has_candidate(&[]) {
                    true => "every other backend is at its maximum: backups take the overflow",
                    false => "no other backend is usable: backups serve",
                };
                ("connect", why.to_owned())
            }
            Ok(_) => ("connect", by_policy(plan.balance, client.address)),
            Err(Unavailable::Down) => ("refuse", "no backend is usable".to_owned()),
            Err(Unavailable::Full) if queues => {
                let patience = plan.queue_timeout;
                ("queue", format!("every usable backend is at its maximum; it waits {patience:?}"))
            }
            Err(Unavailable::Full) => (
                "refuse",
                "every usable backend is at its maximum, and queue_timeout is 0".to_owned(),
            ),
        };
        // Whether it is the backups' turn.
        let backups = match &chosen {
            Ok(backend) => backend.backup,
            Err(Unavailable::Full) if plan.backup_overflow => true,
            Err(_) => !ours.pool.ordinary.group.has_candidate(&[]),
        };
        let picked = chosen.ok().filter(|_| outcome == "connect");
        outcome.clone_into(&mut told.outcome);
        told.why = why;
        told.backend = picked.as_ref().map(|backend| backend.name.to_string());
        let candidate = |(member, vitals): (&Member, &Vitals)| {
            let is_it = picked.as_ref().is_some_and(|backend| backend.id == member.backend.id);
            let reason = match is_it {
                true => told.why.clone(),
                false => self.why_not(plan, member, vitals, backups),
            };
            Candidate {
                name: member.backend.name.to_string(),
                state: vitals.state().name().to_owned(),
                picked: is_it,
                reason,
            }
        };
        told.candidates = ours.members.iter().zip(ours.ward.members()).map(candidate).collect();
    }

    fn why_not(
        &self,
        plan: &plan::Pool,
        member: &Member,
        vitals: &Vitals,
        backups: bool,
    ) -> String {
        let load = member.backend.load();
        let limit = member.plan.max_connections.map_or(0, Into::into);
        let ago =
            humantime::format_duration(Duration::from_secs(vitals.since().elapsed().as_secs()));
        let set = self.state.kept.of(&member.backend.pool, &member.backend.name);
        let by = set.map(|set| format!(" by {} since {}", set.by, set.since)).unwrap_or_default();
        match vitals.state() {
            Health::Draining => return format!("draining{by}"),
            Health::Disabled => return format!("disabled{by}"),
            _ if member.plan.weight == 0 => return format!("its weight is 0{by}"),
            // With all_down = "try_all" one that is down may have a weight.
            Health::Down if load.weight() == 0 => {
                return format!("down since {ago}: {}", vitals.reason());
            }
            Health::Ejected if load.weight() == 0 => {
                return format!("ejected: {}", vitals.reason());
            }
            Health::Unchecked if load.weight() == 0 => return vitals.reason().to_owned(),
            _ => {}
        }
        if member.backend.backup && !backups {
            return "a backup, which is not needed".to_owned();
        }
        if !load.takes(limit) {
            return format!("at its maximum of {limit} connections");
        }
        if !member.backend.backup && backups {
            return "not usable".to_owned();
        }
        let connections = load.active();
        match plan.balance {
            plan::Balance::WeightedRoundRobin => "usable, but not next".to_owned(),
            plan::Balance::LeastConnections => {
                format!("usable, with {connections} connections at weight {}", member.plan.weight)
            }
            plan::Balance::Random => "usable, but not drawn this time".to_owned(),
            plan::Balance::SourceHash => "usable, for other clients".to_owned(),
        }
    }
}

/// What the file alone says of it.
pub fn of_file(plan: &plan::Plan, question: &Question) -> Result<Explanation, Refusal> {
    let client = Client::of(question)?;
    let listener = &plan.listeners[find(plan, &question.listener)?];
    let routes = Routes::new(listener.routes.iter().map(|route| compile_route(route, route.pool)));
    let found = client.ask(|asked| routes.first(asked).map(|(index, pool)| (index, *pool)));
    let mut told = begin(&client, listener, found.map(|(index, _)| index));
    let pool = found.map(|(_, pool)| pool).or(listener.pool);
    if let Some(pool) = pool.map(|pool| &plan.pools[pool]) {
        told.pool = Some(pool.name.clone());
        told.balance = Some(pool.balance.name().to_owned());
        "unknown".clone_into(&mut told.outcome);
        "no gateway was asked: which backend it gets is decided there".clone_into(&mut told.why);
    }
    Ok(told)
}

fn find(plan: &plan::Plan, name: &str) -> Result<usize, Refusal> {
    let found = plan.listeners.iter().position(|listener| listener.name == name);
    found.ok_or_else(|| {
        let known: Vec<_> = plan.listeners.iter().map(|listener| &*listener.name).collect();
        let more = match config::nearest(name, known.iter().copied()) {
            Some(meant) => format!("; did you mean '{meant}'?"),
            None if known.len() <= 10 => format!(" (there are: {})", known.join(", ")),
            None => String::new(),
        };
        Refusal::new(RefusalKind::Unknown, format!("there is no listener '{name}'{more}"))
    })
}

/// All that is known before a pool is asked. `route`: the index of the one that matches.
fn begin(client: &Client, listener: &plan::Listener, route: Option<usize>) -> Explanation {
    let refused = || ("refuse".to_owned(), "the listener has no pool for it".to_owned());
    let (outcome, why) = match &listener.protocol {
        plan::Protocol::Redirect(redirect) => {
            let challenges = match &redirect.challenges {
                None => "",
                Some(plan::Challenges::Directory(_)) => {
                    "; ACME challenges are answered from acme_dir"
                }
                Some(plan::Challenges::Pool(_)) => "; ACME challenges go to acme_pool",
            };
            ("redirect".to_owned(), format!("HTTP is answered with the way to HTTPS{challenges}"))
        }
        _ => refused(),
    };
    let mut notes = Vec::new();
    let reads_hello =
        matches!(listener.protocol, plan::Protocol::Tls(_) | plan::Protocol::TlsPassthrough);
    if !reads_hello && (client.name.is_some() || !client.protocols.is_empty()) {
        let protocol = listener.protocol.name();
        notes.push(format!(
            "with protocol = \"{protocol}\" no ClientHello is read: sni and alpn say nothing"
        ));
    }
    let asks_for_first_bytes = listener.routes.iter().any(|route| !route.first_bytes.is_empty());
    match client.first_bytes {
        None if asks_for_first_bytes => notes.push(
            "routes here ask for what the client says first, and match none that says nothing of \
             it: try --first-bytes"
                .to_owned(),
        ),
        Some(_) if !asks_for_first_bytes && !reads_hello => {
            notes.push("no route here asks for what the client says first".to_owned());
        }
        _ => {}
    }
    Explanation {
        listener: listener.name.clone(),
        protocol: listener.protocol.name().to_owned(),
        client: client.address.to_string(),
        sni: client.name.as_ref().map(|name| name.as_str().to_owned()),
        alpn: client.protocols.clone(),
        first_bytes: client.first_bytes.map(|kind| kind.name().to_owned()),
        rule: rule(listener, route, reads_hello),
        route: route.map(|index| index + 1),
        pool: None,
        balance: None,
        outcome,
        backend: None,
        why,
        candidates: Vec::new(),
        notes,
        live: false,
    }
}

fn rule(listener: &plan::Listener, route: Option<usize>, reads_hello: bool) -> String {
    let Some(index) = route else {
        return match (&listener.protocol, listener.routes.len()) {
            (plan::Protocol::Redirect(_), _) => "protocol = \"redirect\"".to_owned(),
            (_, 0) if reads_hello => "there are no routes: the pool of the listener".to_owned(),
            (_, 0) => "the pool of the listener".to_owned(),
            (_, count) => format!("none of the {count} routes matches: the pool of the listener"),
        };
    };
    let route = &listener.routes[index];
    let mut conditions = Vec::new();
    let mut add = |name: &str, all: Vec<String>| {
        /// A route may have thousands of names.
        const SHOWN: usize = 5;
        if !all.is_empty() {
            let more = all.len().saturating_sub(SHOWN);
            let shown = all.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            conditions.push(format!("{name} = {shown}{more}"));
        }
    };
    add("first_bytes", route.first_bytes.iter().map(ToString::to_string).collect());
    add("sni", route.sni.iter().map(ToString::to_string).collect());
    add("alpn", route.alpn.clone());
    add("client", route.client.iter().map(ToString::to_string).collect());
    match conditions.is_empty() {
        true => format!("route {} (for everybody)", index + 1),
        false => format!("route {} ({})", index + 1, conditions.join("; ")),
    }
}

fn by_policy(balance: plan::Balance, client: IpAddr) -> String {
    match balance {
        plan::Balance::WeightedRoundRobin => "its turn is next".to_owned(),
        plan::Balance::LeastConnections => "the fewest connections for its weight".to_owned(),
        plan::Balance::Random => "drawn by weight, this time".to_owned(),
        plan::Balance::SourceHash => format!("source_hash picks it for {client}"),
    }
}
