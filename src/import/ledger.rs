//! What has become of every statement of the sources.
//!
//! A statement is entered when it is read. Whoever understands it says what becomes of it, several
//! times if it has a part in several things. What is silent at the end was not understood.

use std::fmt;

use serde::Serialize;

/// What became of a statement, or of a part of it; the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It keeps clients out, and could not be carried over: its listener is closed instead.
    Closed,
    /// It is not in the result.
    Lost,
    /// It is in the result with another meaning, near the old one.
    Changed,
    /// lockgate has no need of it.
    Needless,
}

impl Kind {
    /// What is said before all notes of this kind.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Closed => {
                "Closed to clients, because who is kept out or sent elsewhere could not be carried \
                 over (look for deny)"
            }
            Self::Lost => "Not carried over",
            Self::Changed => "Carried over with a difference",
            Self::Needless => "Not needed",
        }
    }
}

/// What there is to know about a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The file, as it was named or found.
    pub file: String,
    /// The first line of the statement, from 1.
    pub line: usize,
    /// The statement, shortened.
    pub text: String,
    /// What became of it.
    pub kind: Kind,
    /// Why, and what to do instead where there is something.
    pub reason: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.text, self.reason)
    }
}

/// What became of a statement, all in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in the result, with or without a difference.
    Carried,
    /// There is a note that says why it is not.
    Noted,
    /// It only groups others.
    Structure,
}

/// A statement, and what became of it.
#[derive(Clone, Debug)]
pub struct Line {
    /// The file.
    pub file: String,
    /// Its first line, from 1.
    pub first: usize,
    /// Its last line.
    pub last: usize,
    /// What became of it.
    pub fate: Fate,
}

/// Names a statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(usize);

#[derive(Debug)]
struct Entry {
    file: usize,
    first: usize,
    last: usize,
    text: String,
    carried: bool,
    structure: bool,
    notes: Vec<(Kind, String)>,
}

/// All statements.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    files: Vec<String>,
    entries: Vec<Entry>,
}

impl Ledger {
    /// Enters a file, by the name that notes show.
    pub(super) fn file(&mut self, name: impl Into<String>) -> usize {
        self.files.push(name.into());
        self.files.len() - 1
    }

    /// Enters a statement.
    pub(super) fn enter(&mut self, file: usize, first: usize, last: usize, text: &str) -> Id {
        self.entries.push(Entry {
            file,
            first,
            last,
            text: shorten(&without_secrets(text)),
            carried: false,
            structure: false,
            notes: Vec::new(),
        });
        Id(self.entries.len() - 1)
    }

    /// It is in the result.
    pub(super) fn carried(&mut self, id: Id) {
        self.entries[id.0].carried = true;
    }

    /// It only groups others.
    pub(super) fn structure(&mut self, id: Id) {
        self.entries[id.0].structure = true;
    }

    /// It is in the result, with a difference.
    pub(super) fn changed(&mut self, id: Id, why: impl Into<String>) {
        self.entries[id.0].carried = true;
        self.note(id, Kind::Changed, why.into());
    }

    /// It, or a part of it, is not in the result.
    pub(super) fn lost(&mut self, id: Id, why: impl Into<String>) {
        self.note(id, Kind::Lost, why.into());
    }

    /// It keeps clients out, and is not in the result.
    pub(super) fn closed(&mut self, id: Id, why: impl Into<String>) {
        self.note(id, Kind::Closed, why.into());
    }

    /// lockgate has no need of it.
    pub(super) fn needless(&mut self, id: Id, why: impl Into<String>) {
        self.note(id, Kind::Needless, why.into());
    }

    fn note(&mut self, id: Id, kind: Kind, why: String) {
        let why: String = why
            .chars()
            .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
            .collect();
        let notes = &mut self.entries[id.0].notes;
        if !notes.iter().any(|(_, known)| *known == why) {
            notes.push((kind, why));
        }
    }

    /// Whether anything has been said of it.
    pub(super) fn is_accounted_for(&self, id: Id) -> bool {
        let entry = &self.entries[id.0];
        entry.carried || entry.structure || !entry.notes.is_empty()
    }

    /// Whether it is in the result.
    pub(super) fn is_carried(&self, id: Id) -> bool {
        self.entries[id.0].carried
    }

    /// It is not in the result after all: what it belongs to is not.
    pub(super) fn forsake(&mut self, id: Id, why: &str) {
        self.entries[id.0].carried = false;
        if self.entries[id.0].notes.is_empty() {
            self.lost(id, why);
        }
    }

    /// Says `why` of a statement that nothing has been said of.
    pub(super) fn lost_unless_told(&mut self, id: Id, why: impl Into<String>) {
        if !self.is_accounted_for(id) {
            self.lost(id, why);
        }
    }

    /// `FILE:LINE TEXT`, as comments show where something comes from.
    pub(super) fn origin(&self, id: Id) -> String {
        let entry = &self.entries[id.0];
        format!("{} {}", self.place(id), entry.text)
    }

    /// `FILE:LINE`
    pub(super) fn place(&self, id: Id) -> String {
        let entry = &self.entries[id.0];
        let file = &self.files[entry.file];
        let name = file.rsplit('/').next().unwrap_or(file);
        format!("{name}:{}", entry.first)
    }

    /// All files.
    pub(super) fn files(&self) -> &[String] {
        &self.files
    }

    /// Everything that was said, in the order of the files; what nothing was said of is lost.
    pub(super) fn close(mut self) -> (Vec<Note>, Vec<Line>) {
        self.entries.sort_by_key(|entry| (entry.file, entry.first));
        let (mut notes, mut lines) = (Vec::new(), Vec::new());
        for mut entry in self.entries {
            if !entry.carried && !entry.structure && entry.notes.is_empty() {
                let why = "lockgate import does not know this".to_owned();
                entry.notes.push((Kind::Lost, why));
            }
            let file = self.files[entry.file].clone();
            let fate = match (entry.carried, entry.notes.is_empty()) {
                (true, _) => Fate::Carried,
                (false, false) => Fate::Noted,
                (false, true) => Fate::Structure,
            };
            lines.push(Line { file: file.clone(), first: entry.first, last: entry.last, fate });
            for (kind, reason) in entry.notes {
                notes.push(Note {
                    file: file.clone(),
                    line: entry.first,
                    text: entry.text.clone(),
                    kind,
                    reason,
                });
            }
        }
        (notes, lines)
    }
}

/// The statement without the passwords in it: notes are shown to people, and end up in files.
fn without_secrets(text: &str) -> String {
    const SECRETS: [&str; 6] =
        ["auth_pass", "password", "insecure-password", "stats auth", "admin-pass", "secret"];
    for secret in SECRETS {
        if let Some((before, _)) = text.split_once(&format!("{secret} ")) {
            return format!("{before}{secret} …");
        }
    }
    text.trim_end_matches(|c: char| c.is_whitespace() || c == '{').to_owned()
}

/// On one line, without control characters, and not too long.
pub(super) fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 72;
    let mut shown = String::new();
    for word in text.split_whitespace() {
        if !shown.is_empty() {
            shown.push(' ');
        }
        shown.extend(word.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        if shown.chars().nth(MAX_CHARS).is_some() {
            shown = shown.chars().take(MAX_CHARS - 1).collect();
            shown.push('…');
            break;
        }
    }
    shown
}
