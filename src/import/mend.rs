//! Sees to it that the result is valid: the reader of configurations has the last word.
//!
//! What it does not take is left out and noted, key by key or table by table. A key that keeps
//! clients out takes its whole section with it: nothing gets more open by being mended.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::document::{Table, Target, Weight};
use super::ledger::{Kind, Ledger, Note, shorten};
use super::{Error, Imported};
use crate::config;

/// Rounds of mending. A round removes all that is wrong; another is needed for what that breaks.
const MOST_ROUNDS: usize = 16;

/// Writes the document, and leaves out what is not valid.
pub(super) fn finish(mut document: Table, mut ledger: Ledger) -> Result<Imported, Error> {
    for _ in 0..MOST_ROUNDS {
        // Without either there is nothing to do, which would be an error of its own.
        let has_purpose =
            |table: &Table| table.header == "[[listener]]" || table.header == "[[vrrp]]";
        if !document.tables.iter().any(has_purpose) {
            return Err(Error::Nothing { notes: ledger.close().0 });
        }
        let (text, targets) = document.render();
        let report = match config::parse("lockgate.toml", &text) {
            Ok(_) => {
                let files = ledger.files().to_vec();
                let (notes, lines) = ledger.close();
                let toml = format!("{}{text}", heading(&files, &notes));
                // The heading shows what others have written.
                return match config::parse("lockgate.toml", &toml) {
                    Ok(_) => Ok(Imported { toml, notes, lines }),
                    Err(error) => Err(Error::Internal { toml, report: error.to_string() }),
                };
            }
            Err(config::Error::Invalid(report)) => report,
            Err(config::Error::Unreadable { source, .. }) => {
                return Err(Error::Internal { toml: text, report: source.to_string() });
            }
        };
        let mut removals = BTreeSet::new();
        for error in report.errors() {
            let target = targets.get(error.line.saturating_sub(1)).cloned();
            let Some(removal) = target.and_then(|target| removal(&document, target)) else {
                return Err(Error::Internal { toml: text, report: report.render(false) });
            };
            note(&document, &removal, &error.message, &mut ledger);
            removals.insert(removal);
        }
        // From the end, so that indices stay true.
        for removal in removals.into_iter().rev() {
            remove(&mut document, &removal);
        }
    }
    let (toml, _) = document.render();
    Err(Error::Internal { toml, report: "there is no end to mending it".to_owned() })
}

/// What goes with a line that is wrong. `None` for what is of no section.
fn removal(document: &Table, mut target: Target) -> Option<Target> {
    if target.tables.is_empty() {
        return None;
    }
    let table = document.find(&target.tables)?;
    match target.key.and_then(|key| table.keys.get(key)).map(|key| key.weight) {
        Some(Weight::Optional) => {}
        Some(Weight::Guard) => {
            target.tables.truncate(1);
            target.key = None;
        }
        Some(Weight::Needed) | None => {
            target.key = None;
            if table.guard {
                target.tables.truncate(1);
            }
        }
    }
    Some(target)
}

fn note(document: &Table, removal: &Target, message: &str, ledger: &mut Ledger) {
    let Some(table) = document.find(&removal.tables) else { return };
    let around = removal.tables.get(..1).and_then(|first| document.find(first));
    let Some(from) = table.from.or_else(|| around.and_then(|table| table.from)) else { return };
    let what = match removal.key.and_then(|key| table.keys.get(key)) {
        Some(key) => format!("{} = {} is left out", key.name, shorten(&key.value)),
        None => format!("{} is left out", table.header),
    };
    ledger.lost(from, format!("{what}: {message}"));
}

fn remove(document: &mut Table, removal: &Target) {
    let (Some((last, around)), None) = (removal.tables.split_last(), removal.key) else {
        if let Some((table, key)) = document.find_mut(&removal.tables).zip(removal.key)
            && key < table.keys.len()
        {
            table.keys.remove(key);
        }
        return;
    };
    if let Some(table) = document.find_mut(around)
        && *last < table.tables.len()
    {
        table.tables.remove(*last);
    }
}

/// What stands at the top of the file.
fn heading(files: &[String], notes: &[Note]) -> String {
    let mut text = String::from("# Made by `lockgate import` of\n");
    for file in files {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "#   {}", shorten(file));
    }
    for kind in [Kind::Closed, Kind::Lost, Kind::Changed] {
        let mut of_kind = notes.iter().filter(|note| note.kind == kind).peekable();
        if of_kind.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, "#\n# {}:", kind.heading());
        for note in of_kind {
            let file = note.file.rsplit('/').next().unwrap_or(&note.file);
            let _ = writeln!(text, "#   {file}:{}: {}: {}", note.line, note.text, note.reason);
        }
    }
    text
}
