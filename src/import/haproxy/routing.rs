//! Where the clients of a listener go: `use_backend` and `default_backend`.

use std::path::Path;

use super::super::ledger::{Id, Ledger};
use super::super::model::Route;
use super::access::Rules;
use super::acl::{Clause, Setting};
use super::frontend::Front;
use super::sections::Statement;
use crate::config::accepts;

impl Front<'_> {
    /// Where clients go.
    pub(super) fn routing(
        &self,
        setting: Setting<'_>,
        rules: &mut Rules,
        ledger: &mut Ledger,
    ) -> Routing {
        let mut routing = Routing::default();
        for statement in self.settings.all(&["use_backend"]) {
            if routing.default.is_some() {
                ledger.lost_unless_told(statement.id, "the one before it is for every client");
                continue;
            }
            let at = statement.words.iter().position(|word| word == "if" || word == "unless");
            let condition = at.map_or(&[][..], |at| &statement.words[at..]);
            let (clauses, used) = self.lists.condition(condition, setting, self.context.files);
            for list in used {
                ledger.carried(list);
            }
            if clauses.is_empty() {
                // It never holds here; in another listener of the section it may.
                ledger
                    .needless(statement.id, "its condition never holds for some of the listeners");
            }
            for clause in clauses {
                self.route(statement, clause, setting, &mut routing, rules, ledger);
            }
        }
        if let Some(statement) = self.settings.last(&["default_backend"])
            && routing.default.is_none()
        {
            routing.default = Some((statement.word(1).to_owned(), statement.id));
        }
        for statement in self.settings.all(&["default_backend"]) {
            ledger.carried(statement.id);
        }
        routing
    }

    fn route(
        &self,
        statement: &Statement,
        clause: Clause,
        setting: Setting<'_>,
        routing: &mut Routing,
        rules: &mut Rules,
        ledger: &mut Ledger,
    ) {
        let (id, name) = (statement.id, statement.word(1));
        if clause.challenge == Some(true) && clause.unknown.is_none() {
            routing.challenges = Some((name.to_owned(), id));
            return;
        }
        if let Some(why) = &clause.unknown {
            if self.context.targets.get(name).is_some_and(|target| target.pool.is_none()) {
                ledger.closed(id, format!("{why}; and the backend has no servers, so it refuses"));
                rules.closed.push(id);
            } else {
                routing.lost.push((id, format!("{why}: these clients go where the rest goes")));
            }
            return;
        }
        if clause.connections.is_some() || clause.rate.is_some() {
            let why = "a route does not look at counts: these clients go where the rest goes";
            routing.lost.push((id, why.to_owned()));
            return;
        }
        if clause.by_host {
            if !setting.is_tls {
                let why = "without TLS a client does not say which name it wants before its \
                           request: give each name an address of its own";
                routing.lost.push((id, why.to_owned()));
                return;
            }
            ledger.changed(id, "the name is that of TLS (SNI), not that of the Host header");
        }
        if name.contains("%[") {
            self.map(statement, routing, ledger);
            return;
        }
        let is_for_all =
            clause.source.is_all() && clause.names.is_none() && clause.protocols.is_none();
        if is_for_all && clause.hello != Some(false) && clause.hello.is_none() {
            routing.default = Some((name.to_owned(), id));
            return;
        }
        if clause.hello == Some(false) {
            // Who says no ClientHello goes to the default of a listener that looks for one.
            routing.without_hello = Some((name.to_owned(), id));
            routing.looks_at_hello = true;
            return;
        }
        routing.looks_at_hello |=
            clause.names.is_some() || clause.protocols.is_some() || clause.hello.is_some();
        routing.routes.push((name.to_owned(), id, clause));
    }

    /// `use_backend %[req.ssl_sni,lower,map(FILE,DEFAULT)]`
    fn map(&self, statement: &Statement, routing: &mut Routing, ledger: &mut Ledger) {
        let id = statement.id;
        let name = statement.word(1);
        let mut lost = |why: &str| {
            routing.lost.push((id, format!("{why}: these clients go where the rest goes")));
        };
        let parsed = name.split_once("%[").and_then(|(before, rest)| {
            let (inner, after) = rest.rsplit_once(']')?;
            let (fetch, map) =
                inner.split_once(",map").or_else(|| inner.split_once(",lower,map"))?;
            let fetch = fetch.trim_end_matches(",lower");
            let (kind, arguments) = map.split_once('(')?;
            let arguments = arguments.strip_suffix(')')?;
            let is_name = matches!(fetch, "req.ssl_sni" | "req_ssl_sni" | "ssl_fc_sni");
            (is_name && after.is_empty()).then_some((before, kind, arguments))
        });
        let Some((before, kind, arguments)) = parsed else {
            return lost("it is not a map of names in TLS");
        };
        let (file, default) = arguments.split_once(',').unwrap_or((arguments, ""));
        if !matches!(kind, "" | "_str" | "_dom" | "_end") {
            return lost("of maps only those of whole names are read");
        }
        let text = self.context.files.read(Path::new(file)).unwrap_or_else(|_| {
            lost(&format!("{file} cannot be read"));
            String::new()
        });
        routing.looks_at_hello = true;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let Some((key, value)) = line.split_once(char::is_whitespace) else { continue };
            let key = key.trim_start_matches('.').to_ascii_lowercase();
            let mut names = vec![key.clone()];
            if !kind.is_empty() && kind != "_str" {
                names.push(format!("*.{key}"));
            }
            let clause = Clause::of_names(names);
            routing.routes.push((format!("{before}{}", value.trim()), id, clause));
        }
        if !default.is_empty() {
            routing.default = Some((format!("{before}{default}"), id));
        }
        if !text.is_empty() {
            ledger
                .changed(id, format!("{file} is copied: later changes of it change nothing here"));
        }
    }
}

/// Where the clients of a listener go.
#[derive(Debug, Default)]
pub(super) struct Routing {
    pub(super) routes: Vec<(String, Id, Clause)>,
    pub(super) default: Option<(String, Id)>,
    pub(super) challenges: Option<(String, Id)>,
    pub(super) without_hello: Option<(String, Id)>,
    pub(super) looks_at_hello: bool,
    /// What could not be carried over.
    pub(super) lost: Vec<(Id, String)>,
}

/// A route for everybody.
pub(super) fn any(pool: String, from: Id) -> Route {
    Route { from, sni: Vec::new(), alpn: Vec::new(), client: Vec::new(), pool }
}

/// A route for those that a clause is for.
pub(super) fn to_route(pool: String, from: Id, clause: &Clause, ledger: &mut Ledger) -> Route {
    let mut sni: Vec<String> = Vec::new();
    for name in clause.names.iter().flatten() {
        match accepts::sni(name) {
            Ok(pattern) => {
                let name = pattern.to_string();
                if name.starts_with("*.") {
                    ledger.changed(from, "a '*' is one label: deeper names do not match");
                }
                if !sni.contains(&name) {
                    sni.push(name);
                }
            }
            Err(why) => ledger.lost(from, why),
        }
    }
    ledger.carried(from);
    let client = if clause.source.is_all() { Vec::new() } else { clause.source.to_list() };
    Route { from, sni, alpn: clause.protocols.clone().unwrap_or_default(), client, pool }
}
