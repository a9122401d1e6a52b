//! haproxy.cfg into its sections, and who inherits what.

use std::path::PathBuf;

use super::super::ledger::{Id, Ledger};
use super::super::{Error, Files, named};
use super::lex::{self, Variables};

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) id: Id,
    /// Never empty.
    pub(super) words: Vec<String>,
}

impl Statement {
    /// Word `index`, or nothing.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// All words.
    pub(super) fn all(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }
}

/// A section.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) id: Id,
    pub(super) statements: Vec<Statement>,
    /// Index of the `defaults` that it takes over.
    pub(super) defaults: Option<usize>,
}

/// What begins a section.
const KINDS: [&str; 20] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "resolvers",
    "peers",
    "userlist",
    "mailers",
    "cache",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "crt-list",
    "traces",
    "acme",
    "log-profile",
];

/// Reads files, in order, as one.
pub(super) fn read(
    paths: &[PathBuf],
    files: &dyn Files,
    ledger: &mut Ledger,
) -> Result<Vec<Section>, Error> {
    let mut sections: Vec<Section> = Vec::new();
    let mut variables = Variables::default();
    for path in paths {
        let name = path.display().to_string();
        let text = named(files, path)?;
        let file = ledger.file(name.clone());
        let mut conditions = 0_usize;
        // A section does not go on in the next file.
        let mut is_open = false;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let known = |name: &str| variables.get(name, files);
            let words = lex::words(line, &mut { known });
            let words = match words.and_then(|words| with_addresses(words, &mut { known })) {
                Ok(words) => words,
                Err(message) if message.ends_with("is not set") => {
                    let id = ledger.enter(file, number, number, line);
                    ledger.lost(id, format!("{message}: set it for `lockgate import`"));
                    continue;
                }
                Err(message) => return Err(Error::Syntax { file: name, line: number, message }),
            };
            let Some(first) = words.first() else { continue };
            let id = ledger.enter(file, number, number, line);
            if is_condition(first, &mut conditions) {
                ledger.lost(
                    id,
                    "conditions on variables are not evaluated: keep the lines that hold",
                );
                continue;
            }
            if conditions > 0 {
                ledger.lost(id, "it depends on an .if that is not evaluated");
                continue;
            }
            if KINDS.contains(&first.as_str()) {
                is_open = true;
                sections.push(section(&words, id, &sections));
                continue;
            }
            let Some(section) = sections.last_mut().filter(|_| is_open) else {
                let message = format!("'{first}' stands before the first section");
                return Err(Error::Syntax { file: name, line: number, message });
            };
            if section.kind == "global" && variables.apply(&words, files) {
                ledger.needless(id, "variables are replaced by what they stand for");
            }
            section.statements.push(Statement { id, words });
        }
    }
    Ok(sections)
}

/// Replaces variables where an address is expected.
fn with_addresses(
    mut words: Vec<String>,
    variable: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let of_addresses = match words.first().map(String::as_str) {
        Some("bind" | "source") => 1..2,
        Some("server") => 2..3,
        Some("server-template") => 3..4,
        _ => return Ok(words),
    };
    let rest = words.iter().enumerate().skip(of_addresses.end);
    let mut places: Vec<usize> = of_addresses.collect();
    // Addresses among the words of a server.
    places.extend(
        rest.filter(|(at, _)| matches!(words[at - 1].as_str(), "source" | "addr"))
            .map(|(at, _)| at),
    );
    for at in places {
        if let Some(word) = words.get_mut(at) {
            *word = lex::expand_address(word, variable)?;
        }
    }
    Ok(words)
}

fn is_condition(word: &str, depth: &mut usize) -> bool {
    match word {
        ".if" => *depth += 1,
        ".endif" => *depth = depth.saturating_sub(1),
        ".elif" | ".else" | ".notice" | ".warning" | ".alert" | ".diag" => {}
        _ => return false,
    }
    true
}

fn section(words: &[String], id: Id, before: &[Section]) -> Section {
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    let kind = word(0).to_owned();
    let (name, from) = match (word(1), word(2)) {
        ("from", from) => ("", Some(from)),
        (name, "from") => (name, Some(word(3))),
        (name, _) => (name, None),
    };
    let is_defaults = |section: &&(usize, &Section)| section.1.kind == "defaults";
    let before: Vec<(usize, &Section)> = before.iter().enumerate().collect();
    let mut defaults = before.iter().rev().filter(is_defaults);
    let defaults = match from {
        Some(from) => defaults.find(|(_, section)| section.name == from),
        // A section of defaults begins anew, unless it says otherwise.
        None if kind == "defaults" => None,
        None => defaults.next(),
    };
    let defaults = defaults.map(|(index, _)| *index);
    Section { kind, name: name.to_owned(), id, statements: Vec::new(), defaults }
}

/// The statements that hold in a section: those that it takes over, then its own.
pub(super) fn in_force(sections: &[Section], index: usize) -> Vec<&Statement> {
    let mut chain = vec![&sections[index]];
    let mut next = sections[index].defaults;
    while let Some(defaults) = next {
        chain.push(&sections[defaults]);
        // They only ever refer to what stands before them.
        next = sections[defaults].defaults.filter(|&earlier| earlier < defaults);
    }
    chain.into_iter().rev().flat_map(|section| &section.statements).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::tests::Memory;

    #[test]
    fn sections_take_over_the_defaults_before_them_or_those_they_name() {
        let text = "defaults a\n mode tcp\ndefaults b from a\n retries 1\nfrontend x\n bind :1\n\
                    backend y from a\n server s 1.1.1.1:1\n";
        let files = Memory::of(&[("h", text)]);
        let mut ledger = Ledger::default();
        let sections = read(&[PathBuf::from("h")], &files, &mut ledger).unwrap();
        let words = |index| -> Vec<String> {
            in_force(&sections, index).iter().map(|statement| statement.words.join(" ")).collect()
        };
        assert_eq!(words(2), ["mode tcp", "retries 1", "bind :1"]);
        assert_eq!(words(3), ["mode tcp", "server s 1.1.1.1:1"]);
    }

    #[test]
    fn what_stands_before_the_first_section_is_an_error_with_its_line() {
        let files = Memory::of(&[("h", "\n\nuser x {\n")]);
        let error = read(&[PathBuf::from("h")], &files, &mut Ledger::default()).unwrap_err();
        assert_eq!(error.to_string(), "h:3: 'user' stands before the first section");
    }
}
