//! What the steps of reading a file find wrong, by byte position, until it becomes a [`Report`].
//!
//! Every step adds to the same [`Findings`]. At the end they are put in order and given lines and
//! columns, and those that a syntax error has made doubtful are dropped.

use super::diagnostics::{Diagnostic, Report};
use super::syntax::Repaired;

/// Byte positions in the text that is read, end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A value and where it is written.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// Why a value cannot be taken; the caller knows where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Text from the file as a message shows it: in quotes, on one line, not too long.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", shorten(text))
}

/// The same without the quotes.
pub(super) fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let shown = text.chars().take(MAX_CHARS);
    let mut shown: String =
        shown.map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// Findings while a file is read.
#[derive(Debug, Default)]
pub(super) struct Findings {
    findings: Vec<Finding>,
}

/// One finding, by position.
#[derive(Debug)]
pub(super) struct Finding {
    span: Span,
    message: Message,
    note: Option<String>,
    help: Option<String>,
    certainty: Certainty,
}

/// A message may name the line of another place, which is known only at the end.
#[derive(Debug)]
enum Message {
    Plain(String),
    WithLineOf(String, Span),
}

/// What a finding rests on, and so what a syntax error elsewhere makes doubtful: text that could
/// not be read must not be called missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    /// The text is not TOML.
    Syntax,
    /// On what is written in this place.
    Written,
    /// On the absence of a key from the section that begins here.
    KeyMissing,
    /// On the absence of a section from the file.
    SectionMissing,
}

impl Finding {
    pub(super) fn note(&mut self, note: impl Into<String>) -> &mut Self {
        self.note = Some(note.into());
        self
    }

    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }
}

impl Findings {
    /// The text at `span`, counted in the file before its repair, is not TOML.
    pub(super) fn syntax(&mut self, span: Span, message: impl Into<String>) -> &mut Finding {
        self.push(span, Message::Plain(message.into()), Certainty::Syntax)
    }

    /// What is written at `span` is wrong.
    pub(super) fn wrong(&mut self, span: Span, message: impl Into<String>) -> &mut Finding {
        self.push(span, Message::Plain(message.into()), Certainty::Written)
    }

    /// What is written at `span` clashes with the text at `other`: ` on line N` is appended.
    pub(super) fn clash(
        &mut self,
        span: Span,
        message: impl Into<String>,
        other: Span,
    ) -> &mut Finding {
        let message = Message::WithLineOf(message.into(), other);
        self.push(span, message, Certainty::Written)
    }

    /// A problem with the value of `key`, written at `span`.
    pub(super) fn problem(&mut self, span: Span, key: &str, problem: Problem) {
        self.wrong(span, format!("{key}: {}", problem.message)).help = problem.help;
    }

    /// The section whose header is at `span` lacks a key.
    pub(super) fn key_missing(&mut self, span: Span, message: impl Into<String>) -> &mut Finding {
        self.push(span, Message::Plain(message.into()), Certainty::KeyMissing)
    }

    /// The file lacks a section that `span` is about.
    pub(super) fn section_missing(
        &mut self,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.push(span, Message::Plain(message.into()), Certainty::SectionMissing)
    }

    /// The report on `source`, the file before its repair; `None` when nothing was found.
    pub(super) fn into_report(
        mut self,
        file: &str,
        source: &str,
        text: &Repaired<'_>,
    ) -> Option<Report> {
        if self.findings.is_empty() {
            return None;
        }
        let lines = Lines::new(source);
        for finding in &mut self.findings {
            if finding.certainty != Certainty::Syntax {
                finding.span = text.original(finding.span);
            }
            if let Message::WithLineOf(_, other) = &mut finding.message {
                *other = text.original(*other);
            }
        }
        // Stable, so that findings on the same text stay in the order in which they were made.
        self.findings.sort_by_key(|finding| (finding.span.start, finding.span.end));
        let syntax = SyntaxErrors::new(&self.findings, &lines);
        let mut place = Place::default();
        let mut errors = Vec::with_capacity(self.findings.len());
        for finding in self.findings {
            if !syntax.cast_doubt_on(&finding, &lines) {
                errors.push(lines.locate(finding, &mut place));
            }
        }
        Some(Report { file: file.to_owned(), source: source.to_owned(), errors })
    }

    fn push(&mut self, span: Span, message: Message, certainty: Certainty) -> &mut Finding {
        let finding = Finding { span, message, note: None, help: None, certainty };
        self.findings.push_mut(finding)
    }
}

/// Where the syntax errors of a file are, by index of line, ascending.
struct SyntaxErrors {
    lines: Vec<usize>,
    in_a_header: bool,
}

impl SyntaxErrors {
    fn new(findings: &[Finding], lines: &Lines<'_>) -> Self {
        let lines_with_errors: Vec<usize> = findings
            .iter()
            .filter(|finding| finding.certainty == Certainty::Syntax)
            .map(|finding| lines.index(finding.span.start))
            .collect();
        let in_a_header = lines_with_errors.iter().any(|&line| lines.is_header(line));
        Self { lines: lines_with_errors, in_a_header }
    }

    /// Whether the finding may be no more than a consequence of a syntax error.
    fn cast_doubt_on(&self, finding: &Finding, lines: &Lines<'_>) -> bool {
        if self.lines.is_empty() {
            return false;
        }
        let line = lines.index(finding.span.start);
        match finding.certainty {
            Certainty::Syntax => false,
            Certainty::Written => self.any_within(line, line + 1),
            Certainty::KeyMissing => {
                self.in_a_header || self.any_within(line, lines.next_header(line + 1))
            }
            Certainty::SectionMissing => self.in_a_header || self.any_within(line, line + 1),
        }
    }

    fn any_within(&self, first: usize, end: usize) -> bool {
        let from = self.lines.partition_point(|&line| line < first);
        self.lines.get(from).is_some_and(|&line| line < end)
    }
}

/// The lines of a text, to turn byte positions into lines and columns.
struct Lines<'a> {
    source: &'a str,
    starts: Vec<usize>,
    /// Indices of the lines that hold a section header.
    headers: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(source: &'a str) -> Self {
        let after_newlines = source.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(after_newlines).collect();
        let headers = source
            .lines()
            .enumerate()
            .filter(|(_, line)| line.trim_start().starts_with('['))
            .map(|(index, _)| index)
            .collect();
        Self { source, starts, headers }
    }

    /// Index of the line that holds byte `at`, from 0.
    fn index(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at) - 1
    }

    fn is_header(&self, index: usize) -> bool {
        self.headers.binary_search(&index).is_ok()
    }

    /// Index of the first header line at or after `index`.
    fn next_header(&self, index: usize) -> usize {
        let from = self.headers.partition_point(|&header| header < index);
        self.headers.get(from).copied().unwrap_or(self.starts.len())
    }

    /// `last` is the place of the finding before this one.
    fn locate(&self, finding: Finding, last: &mut Place) -> Diagnostic {
        let Span { start, end } = finding.span;
        let index = self.index(start);
        let line_start = self.starts[index];
        let line_end = self.starts.get(index + 1).map_or(self.source.len(), |&next| next - 1);
        let excerpt = self.source[line_start..line_end].trim_end_matches('\r');
        // Only the first line of a longer text is shown; a position may be that of its newline.
        let from = excerpt.floor_char_boundary(start - line_start);
        let to = excerpt.floor_char_boundary(end.saturating_sub(line_start)).max(from);
        // A line of many mistakes is counted once, not once for each.
        if last.line != index + 1 || last.at > from {
            *last = Place { line: index + 1, at: 0, column: 1 };
        }
        last.column += excerpt[last.at..from].chars().count();
        last.at = from;
        let message = match finding.message {
            Message::Plain(message) => message,
            Message::WithLineOf(message, other) => {
                format!("{message} on line {}", self.index(other.start) + 1)
            }
        };
        Diagnostic {
            message,
            line: last.line,
            column: last.column,
            note: finding.note,
            help: finding.help,
            excerpt: Span { start: line_start, end: line_start + excerpt.len() },
            marked: Span { start: from, end: to },
        }
    }
}

/// A byte of a line, and the column that it begins. Lines and columns count from 1.
#[derive(Default)]
struct Place {
    line: usize,
    at: usize,
    column: usize,
}
