//! From text to a TOML table, past syntax errors.
//!
//! The TOML parser recovers from most errors by itself. It cannot when something is left open (an
//! array without its `]` swallows the rest of the file, and with it every other mistake), and it
//! gives up at a line that is no `key = value`. [`Repaired`] closes the one where its author most
//! likely meant to, makes a comment of the other, reports both, and keeps the books that lead every
//! position back to the file as it is.

use std::borrow::Cow;

use toml::de::{DeTable, DeValue};

use super::findings::{Findings, Span, quote};

/// A file's text, with insertions that let the parser read all of it.
#[derive(Debug)]
pub(super) struct Repaired<'a> {
    source: &'a str,
    text: Cow<'a, str>,
    /// Ascending; one of the same place as another comes after those that were there before.
    insertions: Vec<Insertion>,
}

#[derive(Debug)]
struct Insertion {
    /// Where it goes in the source.
    at: usize,
    what: &'static str,
    /// Where it ends up in the text.
    start: usize,
}

impl<'a> Repaired<'a> {
    /// Repairs `source` and reports its syntax errors, the first of each line.
    pub(super) fn new(source: &'a str, errors: &mut Findings) -> Self {
        let mut this = Self { source, text: Cow::Borrowed(source), insertions: Vec::new() };
        let mut found = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let repairs = this.next_repairs();
            if repairs.is_empty() {
                break;
            }
            found.extend(this.insert(repairs));
        }
        for error in DeTable::parse_recoverable(&this.text).1 {
            let end = this.text.len();
            let span = error.span().map_or(Span { start: end, end }, Span::from);
            let (message, help) = this.explain(error.message(), span);
            found.push((this.original(span), message, help));
        }

        // What follows on the same line is mostly the parser looking for its feet.
        found.sort_by_key(|(span, ..)| span.start);
        let mut next_line = 0;
        for (span, message, help) in found {
            if span.start < next_line {
                continue;
            }
            let rest = source.get(span.start..).unwrap_or_default();
            next_line = span.start + rest.find('\n').unwrap_or(rest.len()) + 1;
            let finding = errors.syntax(span, message);
            if let Some(help) = help {
                finding.help(help);
            }
        }
        this
    }

    /// What can be read of the file.
    pub(super) fn table(&self) -> DeTable<'_> {
        DeTable::parse_recoverable(&self.text).0.into_inner()
    }

    /// Where `span` of the repaired text is in the file.
    pub(super) fn original(&self, span: Span) -> Span {
        Span { start: self.original_position(span.start), end: self.original_position(span.end) }
    }

    fn original_position(&self, at: usize) -> usize {
        let next = self.insertions.partition_point(|insertion| insertion.start < at);
        let Some(last) = next.checked_sub(1).map(|last| &self.insertions[last]) else {
            return at;
        };
        last.at + (at - last.start).saturating_sub(last.what.len())
    }

    /// Carries out the repairs, and returns what to say about them.
    fn insert(&mut self, repairs: Vec<Repair>) -> Vec<(Span, String, Option<String>)> {
        let mut said = Vec::with_capacity(repairs.len());
        let mut new = Vec::with_capacity(repairs.len());
        for repair in repairs {
            said.push((self.original(repair.blamed), repair.message, None));
            let at = self.original_position(repair.at);
            new.push(Insertion { at, what: repair.insert, start: 0 });
        }
        self.insertions.append(&mut new);
        self.insertions.sort_by_key(|insertion| insertion.at);

        let mut text = String::with_capacity(self.source.len() + self.insertions.len());
        let mut copied = 0;
        for insertion in &mut self.insertions {
            text.push_str(&self.source[copied..insertion.at]);
            copied = insertion.at;
            insertion.start = text.len();
            text.push_str(insertion.what);
        }
        text.push_str(&self.source[copied..]);
        self.text = Cow::Owned(text);
        said
    }

    /// How to get past what stops the parser: the first value left open, or else what comes before
    /// it. What is left open changes the meaning of all that follows.
    fn next_repairs(&self) -> Vec<Repair> {
        let (table, mut errors) = DeTable::parse_recoverable(&self.text);
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        let mut repairs: Vec<Repair> = Vec::new();
        for error in errors {
            let Some(span) = error.span() else { continue };
            let Some(repair) = self.repair(table.get_ref(), error.message(), span.start) else {
                continue;
            };
            if !repair.is_local {
                if repairs.is_empty() {
                    repairs.push(repair);
                }
                break;
            }
            if repairs.last().is_none_or(|last| last.at != repair.at) {
                repairs.push(repair);
            }
        }
        repairs
    }

    /// What to do about an error at `at` that the parser does not recover from.
    fn repair(&self, table: &DeTable<'_>, message: &str, at: usize) -> Option<Repair> {
        match message {
            "unclosed table, expected `]`" | "unclosed array table, expected `]`" => {
                Some(Repair::local(at, "]", at, message))
            }
            "unclosed array table, expected `]]`" => Some(Repair::local(at, "]]", at, message)),
            // An array or inline table is closed on a line of its own: the last one that belongs to
            // it may end in a comment.
            "unclosed array, expected `]`" => self.close(table, "\n]", at, message),
            "unclosed inline table, expected `}`" => self.close(table, "\n}", at, message),
            "missing key for inline table element, expected key"
                if self.text[at..].starts_with('[') =>
            {
                self.close(table, "\n}", at, "unclosed inline table, expected `}`")
            }
            "invalid multi-line basic string, expected `\"`" => {
                self.close(table, "\"\"\"", at, "unclosed multi-line string")
            }
            "invalid multi-line literal string, expected `'`" => {
                self.close(table, "'''", at, "unclosed multi-line string")
            }
            // The parser gives up on the whole file here.
            _ if message.starts_with("key with no value")
                || message.starts_with("invalid unquoted key")
                || message.starts_with("keys cannot be multi-line") =>
            {
                self.comment_out(at, message)
            }
            _ => None,
        }
    }

    /// Closes the value that is still open at `at`.
    fn close(
        &self,
        table: &DeTable<'_>,
        closer: &'static str,
        at: usize,
        message: &str,
    ) -> Option<Repair> {
        let start = self.opening(table, at)?;
        let end = self.end_of_statement(start).min(at);
        Some(Repair { is_local: false, ..Repair::local(end, closer, start, message) })
    }

    /// Makes a comment of the line around `at`, unless it is a header: that would put the keys of
    /// one section into another.
    fn comment_out(&self, at: usize, message: &str) -> Option<Repair> {
        let line = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let is_header = self.text[line..].trim_start().starts_with('[');
        (!is_header).then(|| Repair::local(line, "#", at, message))
    }

    /// Start of the outermost value that is open at `at`.
    fn opening(&self, table: &DeTable<'_>, at: usize) -> Option<usize> {
        table.values().find_map(|value| self.opening_of(value, at))
    }

    fn opening_of(&self, value: &toml::Spanned<DeValue<'_>>, at: usize) -> Option<usize> {
        let span = value.span();
        let is_open = span.start < at && at <= span.end;
        if is_open && self.text[span.start..].starts_with(['[', '{', '"', '\'']) {
            return Some(span.start);
        }
        match value.get_ref() {
            DeValue::Table(table) => self.opening(table, at),
            DeValue::Array(array) => array.iter().find_map(|value| self.opening_of(value, at)),
            _ => None,
        }
    }

    /// End of the last line before the one on which the next key or section begins.
    fn end_of_statement(&self, start: usize) -> usize {
        let rest = &self.text[start..];
        rest.match_indices('\n')
            .find(|(newline, _)| begins_statement(&rest[newline + 1..]))
            .map_or(self.text.len(), |(newline, _)| {
                start + newline - usize::from(rest[..newline].ends_with('\r'))
            })
    }

    /// The parser's message, or a better one where it guesses at what an unquoted word should be.
    fn explain(&self, message: &str, span: Span) -> (String, Option<String>) {
        if message == "duplicate key" {
            let key = self.text.get(span.start..span.end).unwrap_or_default();
            return (format!("{} is already defined", quote(key)), None);
        }
        let guesses = ["string values must be quoted", "invalid boolean", "invalid float"];
        if !guesses.iter().any(|guess| message.starts_with(guess)) {
            return (message.to_owned(), None);
        }
        let word = self.word_at(span.start);
        let help = match word {
            "" => return ("a value is missing".to_owned(), None),
            "yes" | "on" | "True" | "TRUE" => "write true".to_owned(),
            "no" | "off" | "False" | "FALSE" => "write false".to_owned(),
            _ if word.contains(['"', '\'', '\\']) || word.parse::<f64>().is_ok() => {
                return (message.to_owned(), None);
            }
            _ => format!("write \"{word}\""),
        };
        (format!("{} is not a value; text is written in quotes", quote(word)), Some(help))
    }

    /// The unquoted word around byte `at`.
    fn word_at(&self, at: usize) -> &str {
        let ends_word = |c: char| c.is_whitespace() || c.is_control() || "=,[]{}#".contains(c);
        let start = self.text[..at].rfind(ends_word).map_or(0, |before| {
            before + self.text[before..].chars().next().map_or(0, char::len_utf8)
        });
        let end = self.text[at..].find(ends_word).map_or(self.text.len(), |length| at + length);
        &self.text[start..end]
    }
}

/// A file that leaves more open than this is read as far as it goes.
const MAX_ROUNDS: usize = 100;

/// What to insert where, and what to say about it.
struct Repair {
    at: usize,
    insert: &'static str,
    blamed: Span,
    message: String,
    /// Whether other lines mean the same with it and without.
    is_local: bool,
}

impl Repair {
    fn local(at: usize, insert: &'static str, blamed: usize, message: &str) -> Self {
        let blamed = Span { start: blamed, end: blamed };
        Self { at, insert, blamed, message: message.to_owned(), is_local: true }
    }
}

/// Whether `text` begins with a section header or with `key =`.
fn begins_statement(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default().trim_start();
    if let Some(header) = line.strip_prefix('[') {
        let name = header.trim_start_matches(['[', ' ']);
        return name.starts_with(|c: char| c.is_ascii_alphabetic());
    }
    line.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim_end();
        let bare = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !key.is_empty() && key.chars().all(bare)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_the_parser_is_repaired() {
        for (source, expected) in [
            ("[log\na = 1\n", "[log]\na = 1\n"),
            ("[[x # why\na = 1\n", "[[x]] # why\na = 1\n"),
            ("[[x]\na = 1\n", "[[x]]\na = 1\n"),
            ("a = [1,\n  2, # two\nb = 2\n", "a = [1,\n  2, # two\n]\nb = 2\n"),
            ("a = [1\r\n[x]\n", "a = [1\n]\r\n[x]\n"),
            ("a = [{ b = 1\n[[x]]\n", "a = [{ b = 1\n}\n]\n[[x]]\n"),
            ("a = \"\"\"text\nb = 2", "a = \"\"\"text\"\"\"\nb = 2"),
            ("a = '''", "a = ''''''"),
            ("a = [1", "a = [1\n]"),
            ("a = [1]\n", "a = [1]\n"),
            ("a = {\n[x]\n", "a = {\n}\n[x]\n"),
            ("a\nb = 1\n", "#a\nb = 1\n"),
            ("<<<<<<< HEAD\nb = 1\n", "#<<<<<<< HEAD\nb = 1\n"),
        ] {
            let mut errors = Findings::default();
            let repaired = Repaired::new(source, &mut errors);
            assert_eq!(repaired.text, expected, "{source:?}");
            assert!(DeTable::parse(&repaired.text).is_ok(), "{source:?}");
            assert_eq!(repaired.insertions.is_empty(), source == expected);
        }
    }

    #[test]
    fn positions_lead_back_to_the_file() {
        let source = "[a\nx = [1\n[b\ny = 2\n";
        let repaired = Repaired::new(source, &mut Findings::default());
        for word in ["a", "x", "1", "b", "y", "2"] {
            let at = repaired.text.find(word).unwrap();
            let original = repaired.original(Span { start: at, end: at + 1 });
            assert_eq!(&source[original.start..original.end], word);
        }
    }
}
