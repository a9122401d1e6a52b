//! nginx.conf into directives, its includes included.

use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

use super::super::ledger::Ledger;
use super::super::tree::Node;
use super::super::{Error, Files, named, pattern};

/// How deep includes and blocks may lie in each other.
const MOST_LEVELS: usize = 32;

/// Reads a file and what it includes. Relative names are relative to the main file's directory.
pub(super) fn read(
    path: &Path,
    files: &dyn Files,
    ledger: &mut Ledger,
) -> Result<Vec<Node>, Error> {
    let base = path.with_file_name("");
    let text = named(files, path)?;
    file(path, &text, &Place { base: &base, files, level: 0 }, ledger)
}

struct Place<'a> {
    base: &'a Path,
    files: &'a dyn Files,
    level: usize,
}

fn file(
    path: &Path,
    text: &str,
    place: &Place<'_>,
    ledger: &mut Ledger,
) -> Result<Vec<Node>, Error> {
    let name = path.display().to_string();
    let file = ledger.file(name.clone());
    let mut reader = Reader { chars: text.chars().peekable(), line: 1, file, name };
    let nodes = reader.block(place, 0, ledger)?;
    Ok(nodes)
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
    file: usize,
    name: String,
}

/// What a directive ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Semicolon,
    Open,
    Close,
    File,
}

impl Reader<'_> {
    fn wrong<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::Syntax { file: self.name.clone(), line: self.line, message: message.into() })
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        if c == Some('\n') {
            self.line += 1;
        }
        c
    }

    /// Directives up to the end of the block, or of the file.
    fn block(
        &mut self,
        place: &Place<'_>,
        depth: usize,
        ledger: &mut Ledger,
    ) -> Result<Vec<Node>, Error> {
        if depth > MOST_LEVELS {
            return self.wrong("blocks lie too deep in each other");
        }
        let mut nodes = Vec::new();
        loop {
            let mut first = self.line;
            let (words, end) = self.directive(&mut first)?;
            let Some(name) = words.first() else {
                match end {
                    End::Close if depth > 0 => return Ok(nodes),
                    End::Close => return self.wrong("unexpected \"}\""),
                    End::File if depth > 0 => {
                        return self.wrong("a block is not closed: \"}\" is missing");
                    }
                    End::File => return Ok(nodes),
                    End::Open => return self.wrong("unexpected \"{\""),
                    End::Semicolon => return self.wrong("unexpected \";\""),
                }
            };
            let text = words.join(" ");
            match end {
                End::Semicolon if name == "include" && words.len() == 2 => {
                    let id = ledger.enter(self.file, first, self.line, &text);
                    nodes.extend(include(&words[1], id, place, ledger)?);
                }
                End::Semicolon => {
                    let id = ledger.enter(self.file, first, self.line, &text);
                    nodes.push(Node { id, words, block: None });
                }
                End::Open => {
                    let id = ledger.enter(self.file, first, self.line, &text);
                    let block = self.block(place, depth + 1, ledger)?;
                    nodes.push(Node { id, words, block: Some(block) });
                }
                End::Close | End::File => {
                    self.line = first;
                    return self.wrong(format!("\"{name}\" is not terminated by \";\""));
                }
            }
        }
    }

    /// The words up to `;`, `{` or `}`. `first` becomes the line of the first.
    fn directive(&mut self, first: &mut usize) -> Result<(Vec<String>, End), Error> {
        let mut words: Vec<String> = Vec::new();
        loop {
            match self.chars.peek().copied() {
                None => return Ok((words, End::File)),
                Some(c) if c.is_whitespace() => {
                    self.next();
                }
                Some('#') => while self.next().is_some_and(|c| c != '\n') {},
                Some(c @ (';' | '{' | '}')) => {
                    self.next();
                    let end = match c {
                        ';' => End::Semicolon,
                        '{' => End::Open,
                        _ => End::Close,
                    };
                    return Ok((words, end));
                }
                Some(_) => {
                    if words.is_empty() {
                        *first = self.line;
                    }
                    let word = self.word()?;
                    words.push(word);
                }
            }
        }
    }

    fn word(&mut self) -> Result<String, Error> {
        let mut word = String::new();
        if let Some(quote) = self.chars.next_if(|c| matches!(c, '"' | '\'')) {
            loop {
                match self.next() {
                    Some(c) if c == quote => return Ok(word),
                    Some('\\') => match self.next() {
                        Some(c @ ('"' | '\'' | '\\' | ' ' | ';')) => word.push(c),
                        Some('t') => word.push('\t'),
                        Some('r') => word.push('\r'),
                        Some('n') => word.push('\n'),
                        Some(c) => word.extend(['\\', c]),
                        None => return self.wrong("a quote is not closed"),
                    },
                    Some(c) => word.push(c),
                    None => return self.wrong("a quote is not closed"),
                }
            }
        }
        while let Some(c) = self.chars.peek().copied() {
            match c {
                c if c.is_whitespace() => break,
                ';' | '{' => break,
                '$' => {
                    word.extend(self.next());
                    // `${name}`
                    if self.chars.peek() == Some(&'{') {
                        while let Some(c) = self.next() {
                            word.push(c);
                            if c == '}' {
                                break;
                            }
                        }
                    }
                }
                '\\' => {
                    word.extend(self.next());
                    word.extend(self.next());
                }
                _ => word.extend(self.next()),
            }
        }
        Ok(word)
    }
}

fn include(
    what: &str,
    id: super::super::ledger::Id,
    place: &Place<'_>,
    ledger: &mut Ledger,
) -> Result<Vec<Node>, Error> {
    if place.level >= MOST_LEVELS {
        ledger.lost(id, "files include each other without end");
        return Ok(Vec::new());
    }
    let pattern: PathBuf = place.base.join(what);
    let mut nodes = Vec::new();
    let found = pattern::expand(&pattern, place.files);
    if found.is_empty() {
        ledger.needless(id, "there is no such file");
    }
    for path in found {
        match place.files.read(&path) {
            Ok(text) => {
                ledger.carried(id);
                let inner = Place { base: place.base, files: place.files, level: place.level + 1 };
                nodes.extend(file(&path, &text, &inner, ledger)?);
            }
            Err(error) => {
                // A table of types is not missed.
                if what.ends_with("mime.types") || what.contains("modules") {
                    ledger.needless(id, "it concerns requests, or modules of nginx");
                } else {
                    ledger.lost(id, format!("{} cannot be read: {error}", path.display()));
                }
            }
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::tests::Memory;

    fn words(nodes: &[Node]) -> String {
        let mut text = String::new();
        for node in nodes {
            text.push_str(&format!("{:?}", node.words));
            if let Some(block) = &node.block {
                text.push_str(&format!("{{{}}}", words(block)));
            }
        }
        text
    }

    #[test]
    fn directives_are_read_as_nginx_reads_them() {
        let files = Memory::of(&[
            ("etc/nginx.conf", "a 'b;c' \"d\\\"e\" ${x}y; # no\ns {\n include in/*.conf;\n}\n"),
            ("etc/in/2.conf", "two;"),
            ("etc/in/1.conf", "one\n 1;"),
            ("etc/in/3.txt", "three;"),
        ]);
        let mut ledger = Ledger::default();
        let nodes = read(Path::new("etc/nginx.conf"), &files, &mut ledger).unwrap();
        let expected = r#"["a", "b;c", "d\"e", "${x}y"]["s"]{["one", "1"]["two"]}"#;
        assert_eq!(words(&nodes), expected);
    }

    #[test]
    fn what_is_not_closed_is_an_error_with_its_line() {
        for (text, expected) in [
            ("a {\n b;\n", "n:3: a block is not closed: \"}\" is missing"),
            ("a;\n}\n", "n:2: unexpected \"}\""),
            ("a\n\nb", "n:1: \"a\" is not terminated by \";\""),
            ("a \"b\n", "n:2: a quote is not closed"),
            (";", "n:1: unexpected \";\""),
        ] {
            let files = Memory::of(&[("n", text)]);
            let error = read(Path::new("n"), &files, &mut Ledger::default()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
