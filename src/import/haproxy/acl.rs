//! Conditions: what lockgate can tell apart of what HAProxy can.

use std::collections::HashMap;

use super::super::Files;
use super::super::ledger::Id;
use super::super::networks::Networks;
use super::sections::Statement;
use super::term::{Term, predefined, term};

/// What is the same for all clients of a listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    pub(super) is_tls: bool,
    pub(super) ports: &'a [u16],
}

/// Tests that must all hold. What is absent holds for all.
#[derive(Clone, Debug)]
pub(super) struct Clause {
    pub(super) source: Networks,
    pub(super) names: Option<Vec<String>>,
    /// Whether these are names of HTTP, which a TLS listener takes for those of TLS.
    pub(super) by_host: bool,
    pub(super) protocols: Option<Vec<String>>,
    pub(super) hello: Option<bool>,
    pub(super) challenge: Option<bool>,
    pub(super) connections: Option<u32>,
    pub(super) rate: Option<u32>,
    pub(super) unknown: Option<String>,
}

impl Clause {
    fn all() -> Self {
        Self {
            source: Networks::all(),
            names: None,
            by_host: false,
            protocols: None,
            hello: None,
            challenge: None,
            connections: None,
            rate: None,
            unknown: None,
        }
    }

    /// Asks for one of these names.
    pub(super) fn of_names(names: Vec<String>) -> Self {
        Self { names: Some(names), ..Self::all() }
    }

    /// Whether it asks for nothing but an address.
    pub(super) fn is_source_only(&self) -> bool {
        self.names.is_none()
            && self.protocols.is_none()
            && self.hello.is_none()
            && self.challenge.is_none()
            && self.connections.is_none()
            && self.rate.is_none()
            && self.unknown.is_none()
    }

    /// Adds a test; `None` if it never holds.
    fn and(mut self, term: &Term, is_negated: bool, setting: Setting<'_>) -> Option<Self> {
        let constant = match term {
            Term::Always => Some(true),
            Term::Never => Some(false),
            Term::Terminated => Some(setting.is_tls),
            Term::Port(ports) => {
                let hits = setting.ports.iter().filter(|port| ports.contains(port)).count();
                match hits {
                    0 => Some(false),
                    hits if hits == setting.ports.len() => Some(true),
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some(holds) = constant {
            return (holds != is_negated).then_some(self);
        }
        let names = |old: Option<Vec<String>>, new: &[String]| match old {
            None => new.to_vec(),
            Some(old) => old.into_iter().filter(|name| new.contains(name)).collect(),
        };
        match (term, is_negated) {
            (Term::Source(of), false) => self.source = self.source.intersection(of),
            (Term::Source(of), true) => self.source = self.source.intersection(&of.complement()),
            (Term::Name(new), false) => self.names = Some(names(self.names, new)),
            (Term::Host(new), false) => {
                self.names = Some(names(self.names, new));
                self.by_host = true;
            }
            (Term::Protocol(new), false) => self.protocols = Some(names(self.protocols, new)),
            (Term::Hello, is_negated) => self.hello = Some(!is_negated),
            (Term::Challenge, is_negated) => self.challenge = Some(!is_negated),
            (Term::Connections(most), false) => self.connections = Some(*most),
            (Term::Rate(most), false) => self.rate = Some(*most),
            (Term::Unknown(why), _) => self.unknown = Some(why.clone()),
            (Term::Name(_) | Term::Host(_) | Term::Protocol(_), true) => {
                self.unknown = Some("a route cannot ask for any name but some".to_owned());
            }
            _ => self.unknown = Some("lockgate cannot tell this".to_owned()),
        }
        let is_impossible = self.source.is_empty()
            || self.names.as_ref().is_some_and(Vec::is_empty)
            || self.protocols.as_ref().is_some_and(Vec::is_empty);
        (!is_impossible).then_some(self)
    }
}

/// The lists of a section, by name.
#[derive(Debug, Default)]
pub(super) struct Lists(HashMap<String, (Vec<Term>, Vec<Id>)>);

/// Most clauses that a condition may come to.
const MOST_CLAUSES: usize = 256;

impl Lists {
    /// Adds `acl NAME …`.
    pub(super) fn add(&mut self, statement: &Statement, files: &dyn Files) {
        let entry = self.0.entry(statement.word(1).to_owned()).or_default();
        let term = term(statement.words.get(2..).unwrap_or_default(), files);
        // Lists of the same name are one list.
        match (entry.0.last_mut(), &term) {
            (Some(Term::Source(all)), Term::Source(more)) => *all = all.union(more),
            (Some(Term::Name(all)), Term::Name(more))
            | (Some(Term::Host(all)), Term::Host(more)) => all.extend(more.iter().cloned()),
            _ => entry.0.push(term),
        }
        entry.1.push(statement.id);
    }

    /// The clauses of `if …` or `unless …`, of which one has to hold, and the lists in it. Nothing
    /// is a condition that always holds.
    pub(super) fn condition(
        &self,
        words: &[String],
        setting: Setting<'_>,
        files: &dyn Files,
    ) -> (Vec<Clause>, Vec<Id>) {
        let mut lists = Vec::new();
        let Some((first, rest)) = words.split_first() else {
            return (vec![Clause::all()], lists);
        };
        let groups = self.groups(rest, &mut lists, files);
        let mut clauses = match first.as_str() {
            "if" => or(&groups, setting),
            "unless" => {
                // Not one of them: of each, one of its tests does not hold.
                let mut clauses = vec![Clause::all()];
                for group in &groups {
                    let negated: Vec<_> = group
                        .iter()
                        .map(|(terms, is_negated)| vec![(terms.clone(), !is_negated)])
                        .collect();
                    clauses = product(clauses, &or_terms(&negated), setting);
                }
                clauses
            }
            other => vec![unknown(format!("'{other}' is no condition"))],
        };
        if clauses.len() > MOST_CLAUSES {
            clauses = vec![unknown("the condition is too long".to_owned())];
        }
        (clauses, lists)
    }

    /// The tests between each `or`, each with whether it is negated.
    fn groups(&self, words: &[String], lists: &mut Vec<Id>, files: &dyn Files) -> Vec<Group> {
        let mut groups = vec![Group::new()];
        let mut words = words.iter().peekable();
        let mut is_negated = false;
        while let Some(word) = words.next() {
            let mut word = word.as_str();
            while let Some(rest) = word.strip_prefix('!') {
                is_negated = !is_negated;
                word = rest;
            }
            let terms = match word {
                "" => continue,
                "or" | "||" => {
                    groups.push(Group::new());
                    continue;
                }
                "and" | "&&" => continue,
                "{" => {
                    let inner: Vec<String> =
                        words.by_ref().take_while(|word| *word != "}").cloned().collect();
                    vec![term(&inner, files)]
                }
                name => match self.0.get(name) {
                    Some((terms, ids)) => {
                        lists.extend(ids);
                        terms.clone()
                    }
                    None => vec![predefined(name)],
                },
            };
            if let Some(group) = groups.last_mut() {
                group.push((terms, is_negated));
            }
            is_negated = false;
        }
        groups.retain(|group| !group.is_empty());
        groups
    }
}

/// Tests that must all hold: each any of some terms, or none of them.
type Group = Vec<(Vec<Term>, bool)>;

fn or(groups: &[Group], setting: Setting<'_>) -> Vec<Clause> {
    let groups = or_terms(groups);
    product(vec![Clause::all()], &groups, setting)
}

/// Every way in which one of `groups` holds, as terms that must all hold.
fn or_terms(groups: &[Group]) -> Vec<Vec<(Term, bool)>> {
    let mut ways = Vec::new();
    for group in groups {
        let mut of_group: Vec<Vec<(Term, bool)>> = vec![Vec::new()];
        for (terms, is_negated) in group {
            if *is_negated {
                for way in &mut of_group {
                    way.extend(terms.iter().map(|term| (term.clone(), true)));
                }
            } else {
                of_group = of_group
                    .iter()
                    .flat_map(|way| {
                        terms.iter().map(|term| {
                            let mut way = way.clone();
                            way.push((term.clone(), false));
                            way
                        })
                    })
                    .take(MOST_CLAUSES + 1)
                    .collect();
            }
        }
        ways.extend(of_group);
    }
    ways
}

fn product(clauses: Vec<Clause>, ways: &[Vec<(Term, bool)>], setting: Setting<'_>) -> Vec<Clause> {
    let mut all = Vec::new();
    for clause in clauses {
        for way in ways {
            let start = Some(clause.clone());
            let holds = way.iter().try_fold(start, |clause, (term, is_negated)| {
                clause.map(|clause| clause.and(term, *is_negated, setting))
            });
            all.extend(holds.flatten());
            if all.len() > MOST_CLAUSES {
                return all;
            }
        }
    }
    all
}

fn unknown(why: String) -> Clause {
    Clause { unknown: Some(why), ..Clause::all() }
}
