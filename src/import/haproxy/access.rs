//! Rules that let clients in or keep them out: `tcp-request`, `http-request deny` and their like.

use std::time::Duration;

use super::super::Files;
use super::super::ledger::{Id, Ledger};
use super::super::model::Limit;
use super::super::networks::{Access, Networks};
use super::super::pattern;
use super::acl::{Clause, Lists, Setting};
use super::sections::Statement;
use super::settings::{MILLISECOND, Settings};

/// What the rules of a proxy come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) access: Access,
    /// Rules that keep clients out and are not understood.
    pub(super) closed: Vec<Id>,
    pub(super) limit: Limit,
    /// The first bytes are looked at for a ClientHello.
    pub(super) looks_at_hello: bool,
    /// And who says none is refused.
    pub(super) needs_hello: bool,
    /// How long they are waited for.
    pub(super) delay: Option<Duration>,
    /// Who begins with a PROXY header.
    pub(super) proxies: Vec<String>,
    /// Rules by the address that a PROXY header comes from, not by the one in it.
    pub(super) before_header: Vec<Id>,
}

/// The highest rate, and burst, that lockgate takes.
const MOST_AT_ONCE: u32 = 1_000_000;

/// In which order they are asked; an end of one phase is not that of the next.
const PHASES: [&str; 4] = ["connection", "session", "content", "http"];

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    LetIn,
    Refuse,
    /// It asks for a password or the like.
    Challenge,
}

/// Reads the rules of a proxy. `period` is that of rates of connections.
pub(super) fn rules(
    settings: &Settings<'_>,
    lists: &Lists,
    setting: Setting<'_>,
    period: Option<Duration>,
    files: &dyn Files,
    ledger: &mut Ledger,
) -> Rules {
    let mut rules = Rules::default();
    for phase in PHASES {
        let mut access = Access::default();
        let mut accepts_hello = false;
        for statement in &settings.0 {
            let Some((of_phase, action)) = action(statement) else { continue };
            if of_phase != phase {
                continue;
            }
            let at = statement.words.iter().position(|word| word == "if" || word == "unless");
            let condition = at.map_or(&[][..], |at| &statement.words[at..]);
            let (clauses, used) = lists.condition(condition, setting, files);
            for list in used {
                ledger.carried(list);
            }
            if clauses.is_empty() {
                ledger.carried(statement.id);
            }
            for clause in &clauses {
                let mut part = Part { rules: &mut rules, access: &mut access, period };
                part.rule(statement.id, action, clause, &mut accepts_hello, ledger);
            }
        }
        if phase == "connection" && !access.is_open() {
            let refusing = settings.0.iter().filter(|statement| {
                action(statement).is_some_and(|(of, what)| of == phase && what == Action::Refuse)
            });
            rules.before_header.extend(refusing.map(|statement| statement.id));
        }
        rules.access.also(&access);
    }
    others(settings, lists, setting, files, &mut rules, ledger);
    rules
}

fn action(statement: &Statement) -> Option<(&'static str, Action)> {
    Some(match (statement.word(0), statement.word(1), statement.word(2)) {
        ("tcp-request", phase, action) => {
            let phase = PHASES.into_iter().find(|known| *known == phase)?;
            match action {
                "accept" => (phase, Action::LetIn),
                "reject" | "silent-drop" => (phase, Action::Refuse),
                _ => return None,
            }
        }
        ("http-request", "allow", _) => ("http", Action::LetIn),
        ("http-request", "deny" | "tarpit" | "reject" | "silent-drop" | "block", _)
        | ("block" | "reqdeny" | "reqideny" | "reqtarpit", ..) => ("http", Action::Refuse),
        ("http-request", "auth" | "use-service" | "return", _) => ("http", Action::Challenge),
        _ => return None,
    })
}

/// A phase that is being read.
struct Part<'a> {
    rules: &'a mut Rules,
    access: &'a mut Access,
    period: Option<Duration>,
}

impl Part<'_> {
    fn rule(
        &mut self,
        id: Id,
        action: Action,
        clause: &Clause,
        accepts_hello: &mut bool,
        ledger: &mut Ledger,
    ) {
        if action == Action::Challenge {
            self.close(id, "lockgate answers no requests and asks for no passwords", ledger);
            return;
        }
        let lets_in = action == Action::LetIn;
        if clause.is_source_only() {
            ledger.carried(id);
            if !lets_in && *accepts_hello && clause.source.is_all() {
                self.rules.needs_hello = true;
            } else {
                self.access.rule(&clause.source, lets_in);
            }
            return;
        }
        let asks_for_hello = clause.names.is_none()
            && clause.protocols.is_none()
            && clause.challenge.is_none()
            && clause.unknown.is_none()
            && clause.source.is_all();
        match (clause.hello, lets_in) {
            (Some(true), true) if asks_for_hello => {
                self.rules.looks_at_hello = true;
                *accepts_hello = true;
                ledger.carried(id);
                return;
            }
            (Some(false), false) if asks_for_hello => {
                self.rules.looks_at_hello = true;
                self.rules.needs_hello = true;
                ledger.carried(id);
                return;
            }
            _ => {}
        }
        if lets_in {
            let why = clause.unknown.as_deref().unwrap_or("it cannot be told");
            ledger.lost(id, format!("{why}: who it let in is decided by the rules that are left"));
            return;
        }
        self.refuse_some(id, clause, ledger);
    }

    /// A rule that refuses by more than an address.
    fn refuse_some(&mut self, id: Id, clause: &Clause, ledger: &mut Ledger) {
        let is_count_only = clause.names.is_none()
            && clause.protocols.is_none()
            && clause.hello.is_none()
            && clause.challenge.is_none()
            && clause.unknown.is_none();
        if !is_count_only {
            let why = clause.unknown.as_deref().unwrap_or("clients are refused by address only");
            self.close(id, why, ledger);
            return;
        }
        if !clause.source.is_all() {
            ledger.changed(id, "the limit holds for all addresses");
        }
        let limit = &mut self.rules.limit;
        limit.from.get_or_insert(id);
        if let Some(most) = clause.connections {
            limit.connections = Some(limit.connections.map_or(most, |other| other.min(most)));
            ledger.carried(id);
        }
        if let Some(most) = clause.rate {
            let rate = rate(most, self.period.unwrap_or(Duration::from_secs(1)));
            ledger.changed(id, format!("rate = \"{rate}\", of which {most} may come at once"));
            limit.rate = Some((rate, most.min(MOST_AT_ONCE)));
        }
    }

    fn close(&mut self, id: Id, why: &str, ledger: &mut Ledger) {
        ledger.closed(id, why);
        self.rules.closed.push(id);
    }
}

/// So many in a period, in the words of lockgate: exact where that is possible.
fn rate(most: u32, period: Duration) -> String {
    let millis = period.as_millis().max(1);
    for (seconds, unit) in [(1_u128, "s"), (60, "m"), (3600, "h")] {
        let scaled = u128::from(most) * seconds * 1000;
        if scaled % millis == 0 && (1..=u128::from(MOST_AT_ONCE)).contains(&(scaled / millis)) {
            return format!("{}/{unit}", scaled / millis);
        }
    }
    let a_minute = (u128::from(most) * 60_000).div_ceil(millis);
    format!("{}/m", a_minute.clamp(1, u128::from(MOST_AT_ONCE)))
}

/// `tcp-request` that neither lets in nor refuses.
fn others(
    settings: &Settings<'_>,
    lists: &Lists,
    setting: Setting<'_>,
    files: &dyn Files,
    rules: &mut Rules,
    ledger: &mut Ledger,
) {
    for statement in settings.all(&["tcp-request"]) {
        let id = statement.id;
        match (statement.word(1), statement.word(2)) {
            ("inspect-delay", time) => {
                rules.delay = pattern::duration(time, MILLISECOND).filter(|time| !time.is_zero());
                if rules.looks_at_hello {
                    ledger.carried(id);
                }
            }
            (_, track) if track.starts_with("track-sc") => {
                if rules.limit.from.is_some() {
                    ledger.carried(id);
                } else {
                    ledger.lost(id, "lockgate counts clients for [listener.limit] only");
                }
            }
            ("connection", "expect-proxy") => {
                let condition = statement.words.get(4..).unwrap_or_default();
                let (clauses, used) = lists.condition(condition, setting, files);
                for list in used {
                    ledger.carried(list);
                }
                if clauses.iter().all(Clause::is_source_only) {
                    let all = clauses
                        .iter()
                        .fold(Networks::default(), |all, clause| all.union(&clause.source));
                    rules.proxies.extend(all.to_list());
                    ledger.carried(id);
                } else {
                    ledger.closed(id, "a PROXY header is asked for by address only");
                    rules.closed.push(id);
                }
            }
            ("connection" | "session" | "content", "accept" | "reject" | "silent-drop") => {}
            ("connection", "expect-netscaler-cip") => {
                ledger.closed(id, "only the PROXY protocol is understood");
                rules.closed.push(id);
            }
            _ => ledger.lost(id, "lockgate knows accept, reject, limits and PROXY headers"),
        }
    }
    if rules.limit.from.is_some() {
        for statement in settings.all(&["stick-table"]) {
            ledger.carried(statement.id);
        }
    }
}
