//! A `frontend`, or the front of a `listen`: listeners, one for each kind of `bind`.

use std::collections::HashMap;
use std::time::Duration;

use super::super::Files;
use super::super::ledger::Ledger;
use super::super::model::{Listener, Model, Protocol, Route};
use super::super::networks::Access;
use super::access::{self, Rules};
use super::acl::{Clause, Lists, Setting};
use super::bind::{self, Bind};
use super::routing::{Routing, any, to_route};
use super::sections::Section;
use super::settings::{Global, Settings};

/// What a frontend has to know of a `backend`.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    /// `None` = it has no servers, and so answers by itself.
    pub(super) pool: Option<String>,
    /// `timeout server`
    pub(super) server: Option<Duration>,
    /// `timeout tunnel`
    pub(super) tunnel: Option<Duration>,
    /// Its own rules.
    pub(super) rules: Rules,
}

/// All that frontends refer to.
pub(super) struct Context<'a> {
    pub(super) global: &'a Global,
    pub(super) targets: &'a HashMap<String, Target>,
    /// The period of rates of connections.
    pub(super) period: Option<Duration>,
    pub(super) files: &'a dyn Files,
}

/// Makes the listeners of a section.
pub(super) fn listeners(
    section: &Section,
    settings: &Settings<'_>,
    context: &Context<'_>,
    model: &mut Model,
    ledger: &mut Ledger,
) {
    let is_http = settings.is_http(ledger);
    let mut lists = Lists::default();
    for statement in settings.all(&["acl"]) {
        lists.add(statement, context.files);
    }
    let mut groups: Vec<Vec<Bind>> = Vec::new();
    for statement in settings.all(&["bind"]) {
        let bind = bind::bind(statement, is_http, context.global, context.files, ledger);
        let Some(bind) = bind else { continue };
        let is_alike = |group: &&mut Vec<Bind>| {
            group[0].tls == bind.tls
                && group[0].accept_proxy == bind.accept_proxy
                && group[0].max_connections == bind.max_connections
                && group[0].user_timeout == bind.user_timeout
        };
        match groups.iter_mut().find(is_alike) {
            Some(group) => group.push(bind),
            None => groups.push(vec![bind]),
        }
    }
    if groups.is_empty() {
        ledger.lost(section.id, "there is no bind that can be carried over");
        for statement in &section.statements {
            ledger.lost_unless_told(statement.id, "its section has no bind");
        }
    }
    // What a redirect has a use for is not missing elsewhere.
    groups.sort_by_key(|group| group[0].tls.is_some());
    let many = groups.len() > 1;
    for group in groups {
        let front = Front { section, settings, context, lists: &lists, is_http, many };
        front.listener(group, model, ledger);
    }
    for statement in settings.all(&["acl"]) {
        ledger.lost_unless_told(statement.id, "no rule that is carried over asks for it");
    }
    for statement in settings.all(&["use_backend"]) {
        if !ledger.is_accounted_for(statement.id) {
            ledger.needless(statement.id, "everything is redirected");
        }
    }
}

/// A section, and one listener of it after another.
pub(super) struct Front<'a> {
    pub(super) section: &'a Section,
    pub(super) settings: &'a Settings<'a>,
    pub(super) context: &'a Context<'a>,
    pub(super) lists: &'a Lists,
    pub(super) is_http: bool,
    /// Whether there are several listeners of this section.
    pub(super) many: bool,
}

impl Front<'_> {
    fn listener(&self, group: Vec<Bind>, model: &mut Model, ledger: &mut Ledger) {
        let first = &group[0];
        let is_tls = first.tls.is_some();
        let ports: Vec<u16> = group
            .iter()
            .flat_map(|bind| bind.addresses.iter().map(|address| address.port()))
            .collect();
        let setting = Setting { is_tls, ports: &ports };
        let files = self.context.files;
        let period = self.context.period;
        let mut rules = access::rules(self.settings, self.lists, setting, period, files, ledger);
        rules.closed.extend(group.iter().filter(|bind| bind.is_narrower).map(|bind| bind.id));
        if first.accept_proxy {
            for id in std::mem::take(&mut rules.before_header) {
                ledger.closed(
                    id,
                    "it is about where PROXY headers come from: write those into \
                     accept_proxy_from, and deny all others",
                );
                rules.closed.push(id);
            }
            rules.proxies = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        }
        let suffix = if self.many && is_tls { "-tls" } else { "" };
        let mut listener = Listener {
            from: if self.many { first.id } else { self.section.id },
            name: model.listener_names.claim(&format!("{}{suffix}", self.section.name)),
            bind: group
                .iter()
                .flat_map(|bind| bind.addresses.iter().map(|address| (*address, bind.id)))
                .collect(),
            max_connections: self.most(&group, ledger),
            user_timeout: first.user_timeout,
            ..Listener::default()
        };
        let routing = self.routing(setting, &mut rules, ledger);
        if let Some(tls) = &first.tls {
            listener.protocol = Protocol::Tls(Box::new(tls.clone()));
        } else if let Some(redirect) = self.redirect(setting, &routing, ledger) {
            listener.protocol = redirect;
        } else if rules.looks_at_hello || routing.looks_at_hello {
            listener.protocol = Protocol::Passthrough;
        }
        self.direct(&mut listener, &mut rules, routing, model, ledger);
        self.timeouts(&mut listener, &rules, ledger);
        (listener.allow, listener.deny) = rules.access.lists();
        listener.accept_proxy_from = rules.proxies;
        listener.limit = rules.limit;
        listener.closed = rules.closed;
        ledger.carried(self.section.id);
        model.listeners.push(listener);
    }

    fn most(&self, group: &[Bind], ledger: &mut Ledger) -> Option<u32> {
        let of_section = self.settings.last(&["maxconn"]).and_then(|statement| {
            if self.many {
                ledger.changed(statement.id, "each of the listeners has this limit");
            } else {
                ledger.carried(statement.id);
            }
            statement.word(1).parse().ok().filter(|&most| most > 0)
        });
        let of_bind = group.iter().filter_map(|bind| bind.max_connections).min();
        of_section.into_iter().chain(of_bind).min()
    }

    /// What a listener without TLS that only redirects is.
    fn redirect(
        &self,
        setting: Setting<'_>,
        routing: &Routing,
        ledger: &mut Ledger,
    ) -> Option<Protocol> {
        if !self.is_http {
            return None;
        }
        for statement in &self.settings.0 {
            let words = statement.all();
            let (["http-request", "redirect", ref rest @ ..] | ["redirect", ref rest @ ..]) =
                words[..]
            else {
                continue;
            };
            let (same_host, host_kept) = match rest {
                ["scheme", "https", ..] => (true, true),
                ["location" | "prefix", to, ..] if to.starts_with("https://") => {
                    (true, to.starts_with("https://%["))
                }
                _ => (false, false),
            };
            let at = statement.words.iter().position(|word| word == "if" || word == "unless");
            let condition = at.map_or(&[][..], |at| &statement.words[at..]);
            let (clauses, used) = self.lists.condition(condition, setting, self.context.files);
            let is_for_all = |clause: &Clause| {
                clause.source.is_all()
                    && clause.names.is_none()
                    && clause.unknown.is_none()
                    && clause.challenge != Some(true)
            };
            if !same_host || !clauses.iter().any(is_for_all) {
                continue;
            }
            for list in used {
                ledger.carried(list);
            }
            if host_kept {
                ledger.carried(statement.id);
            } else {
                ledger.changed(
                    statement.id,
                    "clients are sent to https:// of the name they asked for",
                );
            }
            let acme_pool = routing.challenges.as_ref().and_then(|(name, id)| {
                ledger.carried(*id);
                self.context.targets.get(name)?.pool.clone()
            });
            return Some(Protocol::Redirect { acme_dir: None, acme_pool });
        }
        None
    }

    /// Sets the pool and the routes.
    fn direct(
        &self,
        listener: &mut Listener,
        rules: &mut Rules,
        routing: Routing,
        model: &Model,
        ledger: &mut Ledger,
    ) {
        if matches!(listener.protocol, Protocol::Redirect { .. }) {
            // A redirect gives nothing away; what it would keep out has been told.
            if self.many {
                rules.closed.clear();
            }
            return;
        }
        if let Some((_, id)) = &routing.challenges {
            ledger.lost_unless_told(*id, "only a redirect sends challenges of ACME elsewhere");
        }
        let looks_at_names = !matches!(listener.protocol, Protocol::Tcp);
        for (name, id, clause) in routing.routes {
            let pool = self.context.targets.get(&name).and_then(|target| target.pool.clone());
            match pool {
                Some(pool) if looks_at_names => {
                    self.merge(&name, rules, false, ledger);
                    listener.routes.push(to_route(pool, id, &clause, ledger));
                }
                // Only their addresses tell these clients apart, and they are not for the rest.
                _ if clause.is_source_only() => {
                    let why = if looks_at_names {
                        "its backend cannot be carried over: these clients are refused (see deny)"
                    } else {
                        "a listener of plain TCP has no routes: these clients are refused (see \
                         allow and deny); give them an address of their own"
                    };
                    ledger.closed(id, why);
                    let mut access = Access::default();
                    access.rule(&clause.source, false);
                    rules.access.also(&access);
                }
                _ => {
                    ledger.lost(id, format!("there is no pool for {name}"));
                    listener.remarks.push(format!("{} is missing here.", ledger.origin(id)));
                }
            }
        }
        for (lost, why) in routing.lost {
            listener.remarks.push(format!("{} is missing here.", ledger.origin(lost)));
            ledger.lost(lost, why);
        }
        let mut default = routing.default;
        if let Some((name, id)) = routing.without_hello {
            // Who speaks TLS has the default as a route, the others have the pool.
            if let Some(pool) = default.as_ref().and_then(|(name, _)| self.target(name)) {
                let from = default.as_ref().map_or(id, |(_, id)| *id);
                listener.routes.push(Route { from, ..any(pool, from) });
            }
            ledger.changed(id, "who says nothing for client_timeout goes here as well");
            default = Some((name, id));
        } else if rules.needs_hello && matches!(listener.protocol, Protocol::Passthrough) {
            if let Some((name, from)) = &default
                && let Some(pool) = self.target(name)
            {
                self.merge(name, rules, listener.routes.is_empty(), ledger);
                listener.routes.push(any(pool, *from));
                return;
            }
            default = None;
        }
        if let Some((name, id)) = default {
            match self.target(&name) {
                Some(pool) => {
                    self.merge(&name, rules, listener.routes.is_empty(), ledger);
                    ledger.carried(id);
                    listener.pool = Some(pool);
                }
                None => {
                    ledger.lost(id, format!("there is no pool for {name}: clients are refused"))
                }
            }
        } else if listener.routes.is_empty() {
            let own = self.target(&self.section.name).filter(|pool| model.pool(pool).is_some());
            match own.filter(|_| self.section.kind == "listen") {
                Some(pool) => {
                    self.merge(&self.section.name, rules, true, ledger);
                    listener.pool = Some(pool);
                }
                None => {
                    ledger.lost(self.section.id, "it sends nobody anywhere: clients are refused");
                }
            }
        }
        if listener.pool.is_none() && self.section.kind == "listen" && !rules.needs_hello {
            listener.pool = self.target(&self.section.name);
        }
    }

    fn target(&self, name: &str) -> Option<String> {
        self.context.targets.get(name)?.pool.clone()
    }

    /// The rules of a backend hold for who comes to it.
    fn merge(&self, name: &str, rules: &mut Rules, is_only: bool, ledger: &mut Ledger) {
        if name == self.section.name && self.section.kind == "listen" {
            return;
        }
        let Some(target) = self.context.targets.get(name) else { return };
        rules.closed.extend(&target.rules.closed);
        if let Some(from) = target.rules.limit.from
            && rules.limit.from.is_none()
        {
            ledger.changed(from, "the limit holds for the whole listener");
            rules.limit = target.rules.limit.clone();
        }
        let is_open = target.rules.access.is_open();
        if is_only && !target.rules.needs_hello {
            rules.access.also(&target.rules.access);
        } else if (!is_open || target.rules.needs_hello)
            && let Some(statement) = self.settings.0.iter().find(|s| s.word(1) == name)
        {
            ledger.closed(statement.id, "the backend keeps clients out, which a pool cannot");
            rules.closed.push(statement.id);
        }
    }

    fn timeouts(&self, listener: &mut Listener, rules: &Rules, ledger: &mut Ledger) {
        if matches!(listener.protocol, Protocol::Redirect { .. }) {
            let request = self.settings.timeout("http-request", ledger).map(|(time, _)| time);
            listener.client_timeout = request.filter(|&time| time != Duration::from_secs(10));
            return;
        }
        if matches!(listener.protocol, Protocol::Passthrough) {
            listener.client_timeout = rules.delay;
            for statement in self.settings.all(&["tcp-request", "inspect-delay"]) {
                ledger.carried(statement.id);
            }
        }
        let client = self.settings.timeout("client", ledger);
        let pools: Vec<&str> = listener
            .pool
            .iter()
            .chain(listener.routes.iter().map(|route| &route.pool))
            .map(String::as_str)
            .collect();
        let reached =
            |target: &&Target| target.pool.as_deref().is_some_and(|pool| pools.contains(&pool));
        let targets: Vec<&Target> = self.context.targets.values().filter(reached).collect();
        let own = self.settings.timeout("tunnel", ledger).map(|(time, _)| time);
        let tunnel = targets.iter().filter_map(|target| target.tunnel).chain(own).max();
        let server = targets.iter().filter_map(|target| target.server).max();
        if let Some((time, id)) = client {
            let longest = tunnel.or_else(|| server.into_iter().chain([time]).max());
            if longest.is_some_and(|longest| longest != time) {
                ledger.changed(id, "one idle_timeout holds for both sides: the longest of client and server, or tunnel");
            }
        }
        let idle = tunnel.or_else(|| client.map(|(time, _)| time).into_iter().chain(server).max());
        listener.idle_timeout = idle.filter(|&idle| idle != Duration::from_secs(3600));
        let fin = self.settings.timeout("client-fin", ledger).map(|(time, _)| time);
        listener.half_close_timeout = fin.filter(|&fin| fin != Duration::from_secs(60));
    }
}
