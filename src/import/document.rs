//! A TOML document as it will be written, with what may be left out of it and what may not.

use std::fmt::Write as _;

use super::ledger::Id;

/// What is lost when a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// The key.
    Optional,
    /// The table that it is in.
    Needed,
    /// The whole section: without the key it would let more in, or trust more.
    Guard,
}

/// `name = value`
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// As it is written.
    pub(super) value: String,
    pub(super) remark: Option<String>,
    pub(super) weight: Weight,
}

/// A table with a header, or the sections of the file with none.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// With its brackets.
    pub(super) header: String,
    /// Where it comes from.
    pub(super) from: Option<Id>,
    /// Lines of comment above it.
    pub(super) comments: Vec<String>,
    pub(super) keys: Vec<Key>,
    pub(super) tables: Vec<Self>,
    /// Whether the table around it goes with it.
    pub(super) guard: bool,
}

/// What a line of the text is: the tables that lead there, by their indices, and the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) tables: Vec<usize>,
    pub(super) key: Option<usize>,
}

impl Table {
    pub(super) fn new(header: impl Into<String>, from: Id) -> Self {
        Self { header: header.into(), from: Some(from), ..Self::default() }
    }

    /// Adds a key.
    pub(super) fn key(&mut self, name: &'static str, value: impl Into<String>, weight: Weight) {
        self.keys.push(Key { name, value: value.into(), remark: None, weight });
    }

    /// Adds a key that can be missed, if there is a value.
    pub(super) fn option(&mut self, name: &'static str, value: Option<String>) {
        if let Some(value) = value {
            self.key(name, value, Weight::Optional);
        }
    }

    /// Remarks on the last key.
    pub(super) fn remark(&mut self, remark: impl Into<String>) {
        if let Some(key) = self.keys.last_mut() {
            key.remark = Some(remark.into());
        }
    }

    /// The table that a target is in.
    pub(super) fn find(&self, tables: &[usize]) -> Option<&Self> {
        match tables.split_first() {
            None => Some(self),
            Some((first, rest)) => self.tables.get(*first)?.find(rest),
        }
    }

    /// The same, to change it.
    pub(super) fn find_mut(&mut self, tables: &[usize]) -> Option<&mut Self> {
        match tables.split_first() {
            None => Some(self),
            Some((first, rest)) => self.tables.get_mut(*first)?.find_mut(rest),
        }
    }

    /// The text, and what each of its lines is.
    pub(super) fn render(&self) -> (String, Vec<Target>) {
        let mut text = String::new();
        let mut targets = Vec::new();
        self.write(&mut Vec::new(), &mut text, &mut targets);
        (text, targets)
    }

    fn write(&self, path: &mut Vec<usize>, text: &mut String, targets: &mut Vec<Target>) {
        let here = path.clone();
        let target = |key| Target { tables: here.clone(), key };
        let indent = "  ".repeat(path.len().saturating_sub(1));
        for comment in &self.comments {
            let _ = writeln!(text, "{}", format!("{indent}# {comment}").trim_end());
            targets.push(target(None));
        }
        if !self.header.is_empty() {
            let _ = writeln!(text, "{indent}{}", self.header);
            targets.push(target(None));
        }
        for (index, key) in self.keys.iter().enumerate() {
            let line = format!("{indent}{} = {}", key.name, key.value);
            match &key.remark {
                Some(remark) => {
                    let _ = writeln!(text, "{line}  # {remark}");
                }
                None => {
                    let _ = writeln!(text, "{line}");
                }
            }
            // A list may take several lines.
            for _ in line.lines() {
                targets.push(target(Some(index)));
            }
        }
        for (index, table) in self.tables.iter().enumerate() {
            text.push('\n');
            targets.push(target(None));
            path.push(index);
            table.write(path, text, targets);
            path.pop();
        }
    }
}

/// Text in quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A list of texts: on one line if it fits.
pub(super) fn list(items: &[String], indent: usize) -> String {
    const WIDTH: usize = 84;
    let quoted_items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    let line = format!("[{}]", quoted_items.join(", "));
    if line.chars().count() <= WIDTH {
        return line;
    }
    let space = "  ".repeat(indent);
    let mut text = String::from("[\n");
    for item in quoted_items {
        let _ = writeln!(text, "{space}  {item},");
    }
    let _ = write!(text, "{space}]");
    text
}

/// A name as a part of a header.
pub(super) fn bare(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { quoted(name) }
}
