//! What is wrong with a configuration, where, and how it is told to a person.
//!
//! A [`Report`] is what the operator and the admin API get to see: lines, columns, and the excerpts
//! that a terminal shows. It holds all it needs, and outlives the file that it is about.

use std::fmt;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::findings::Span;

/// Every mistake of one file, in the order of the file. Never empty.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) file: String,
    pub(super) source: String,
    pub(super) errors: Vec<Diagnostic>,
}

impl Report {
    /// The mistakes, in the order of the file.
    pub fn errors(&self) -> &[Diagnostic] {
        &self.errors
    }

    /// Text for a terminal, without a newline at its end: each error with `FILE:LINE:COLUMN`, the
    /// offending line and a caret, then one line with the count. `color` adds ANSI escapes.
    ///
    /// At most 1000 errors are drawn; the count is always that of all.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for error in self.errors.iter().take(MAX_DRAWN) {
            text.push_str(&error.draw(&self.file, &self.source, &renderer));
            text.push_str("\n\n");
        }
        let (count, file) = (self.errors.len(), &self.file);
        let noun = if count == 1 { "error" } else { "errors" };
        let cut = if count > MAX_DRAWN {
            format!(" (the first {MAX_DRAWN} are shown)")
        } else {
            String::new()
        };
        format!("{text}{count} {noun} in {file}{cut}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Nobody reads further, and a file of noise would take long to draw.
const MAX_DRAWN: usize = 1000;

/// Longer lines, in bytes, are named and not drawn, for the same reason.
const MAX_LINE: usize = 64 << 10;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// What is wrong, in one line.
    pub message: String,
    /// Line of the offending text, from 1.
    pub line: usize,
    /// Column of its first character, from 1, counted in characters.
    pub column: usize,
    /// More about the cause.
    pub note: Option<String>,
    /// What to write instead.
    pub help: Option<String>,
    /// The offending line within the source, and the bytes of that line to underline.
    pub(super) excerpt: Span,
    pub(super) marked: Span,
}

impl Diagnostic {
    fn draw(&self, file: &str, source: &str, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let excerpt = &source[self.excerpt.start..self.excerpt.end];
        let mut group = if excerpt.len() > MAX_LINE {
            title.element(Origin::path(file).line(self.line).char_column(self.column))
        } else {
            let marked = AnnotationKind::Primary.span(self.marked.start..self.marked.end);
            let snippet = Snippet::source(excerpt).line_start(self.line).path(file);
            title.element(snippet.annotation(marked))
        };
        if let Some(note) = &self.note {
            group = group.element(Level::NOTE.message(note.as_str()));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}
