//! keepalived.conf into directives: first its lines, then, for each host that it is for, a tree.

use std::collections::HashMap;
use std::path::Path;

use super::super::ledger::{Id, Ledger};
use super::super::tree::Node;
use super::super::{Error, Files, named, pattern};

/// How deep includes and blocks may lie in each other.
const MOST_LEVELS: usize = 32;

/// Most lines, of all files together: includes multiply.
const MOST_LINES: usize = 200_000;

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    id: Id,
    file: String,
    number: usize,
    tokens: Vec<Token>,
    /// Only for the host of this name, or for all others: `@main`, `@^main`.
    only: Option<(bool, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
}

/// Reads a file and what it includes.
pub(super) fn lines(
    path: &Path,
    files: &dyn Files,
    ledger: &mut Ledger,
) -> Result<Vec<Line>, Error> {
    let text = named(files, path)?;
    let mut all = Vec::new();
    let mut variables = HashMap::new();
    read(path, &text, files, 0, &mut variables, &mut all, ledger)?;
    Ok(all)
}

/// The names of the hosts that some lines are for.
pub(super) fn hosts(lines: &[Line]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (_, name) in lines.iter().filter_map(|line| line.only.as_ref()) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn read(
    path: &Path,
    text: &str,
    files: &dyn Files,
    level: usize,
    variables: &mut HashMap<String, String>,
    all: &mut Vec<Line>,
    ledger: &mut Ledger,
) -> Result<(), Error> {
    let name = path.display().to_string();
    let file = ledger.file(name.clone());
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let wrong = |message: &str| {
            Err(Error::Syntax { file: name.clone(), line: number, message: message.to_owned() })
        };
        if all.len() > MOST_LINES {
            return wrong("there are too many lines");
        }
        let trimmed = raw.trim();
        if let Some((variable, value)) = definition(trimmed) {
            let id = ledger.enter(file, number, number, raw);
            ledger.needless(id, "variables are replaced by what they stand for");
            let value = replaced(value, variables);
            variables.insert(variable.to_owned(), value);
            continue;
        }
        let mut tokens = match tokens(&replaced(raw, variables)) {
            Ok(tokens) => tokens,
            Err(message) => return wrong(message),
        };
        let Some(first) = tokens.first() else { continue };
        let mut only = None;
        if let Token::Word(word) = first
            && let Some(host) = word.strip_prefix('@')
        {
            let is_for_others = host.starts_with('^');
            only = Some((!is_for_others, host.trim_start_matches('^').to_owned()));
            tokens.remove(0);
        }
        let id = ledger.enter(file, number, number, raw);
        if tokens.iter().all(|token| !matches!(token, Token::Word(_))) {
            ledger.structure(id);
        }
        if let [Token::Word(word), Token::Word(what)] = &tokens[..]
            && matches!(
                word.as_str(),
                "include" | "includer" | "includem" | "includew" | "includeb"
            )
        {
            include(path, what, id, files, level, variables, all, ledger)?;
            continue;
        }
        all.push(Line { id, file: name.clone(), number, tokens, only });
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "what `read` has, for the next file")]
fn include(
    from: &Path,
    what: &str,
    id: Id,
    files: &dyn Files,
    level: usize,
    variables: &mut HashMap<String, String>,
    all: &mut Vec<Line>,
    ledger: &mut Ledger,
) -> Result<(), Error> {
    if level >= MOST_LEVELS {
        ledger.lost(id, "files include each other without end");
        return Ok(());
    }
    let pattern = from.with_file_name(what);
    let found = pattern::expand(&pattern, files);
    if found.is_empty() {
        ledger.needless(id, "there is no such file");
    }
    for path in found {
        match files.read(&path) {
            Ok(text) => {
                ledger.carried(id);
                read(&path, &text, files, level + 1, variables, all, ledger)?;
            }
            Err(error) => ledger.lost(id, format!("{} cannot be read: {error}", path.display())),
        }
    }
    Ok(())
}

/// `$NAME=VALUE`
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('$')?.split_once('=')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name = name.trim();
    (!name.is_empty() && name.chars().all(is_name)).then(|| (name, value.trim()))
}

/// A line with its variables replaced.
fn replaced(line: &str, variables: &HashMap<String, String>) -> String {
    const MOST: usize = 64 << 10;
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let braced = after.strip_prefix('{');
        let name = braced.unwrap_or(after);
        let length = name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
        let value = variables.get(&name[..length]);
        match value.filter(|_| text.len() < MOST) {
            Some(value) => {
                text.push_str(value);
                rest = &name[length..];
                if braced.is_some() {
                    rest = rest.strip_prefix('}').unwrap_or(rest);
                }
            }
            None => {
                text.push('$');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

fn tokens(line: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '!' | '#' => break,
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => word.extend(chars.next()),
                        Some(c) => word.push(c),
                        None => return Err("a quote is not closed"),
                    }
                }
            }
            '$' if chars.peek() == Some(&'{') => {
                let word = word.get_or_insert_default();
                word.push(c);
                for c in chars.by_ref() {
                    word.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
            '{' | '}' => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(if c == '{' { Token::Open } else { Token::Close });
            }
            c if c.is_whitespace() => tokens.extend(word.take().map(Token::Word)),
            c => word.get_or_insert_default().push(c),
        }
    }
    tokens.extend(word.map(Token::Word));
    Ok(tokens)
}

/// The directives that hold on a host.
pub(super) fn tree(lines: &[Line], host: Option<&str>) -> Result<Vec<Node>, Error> {
    // The blocks that are open, each with the directive that it belongs to; the file at first.
    let mut open: Vec<Vec<Node>> = vec![Vec::new()];
    for line in lines {
        if let Some((is_for_it, name)) = &line.only
            && (host == Some(name.as_str())) != *is_for_it
        {
            continue;
        }
        let wrong = |message: &str| {
            let message = message.to_owned();
            Err(Error::Syntax { file: line.file.clone(), line: line.number, message })
        };
        let mut words: Vec<String> = Vec::new();
        let close = |open: &mut Vec<Vec<Node>>| {
            let block = open.pop().filter(|_| !open.is_empty());
            let Some(block) = block else { return false };
            if let Some(node) = open.last_mut().and_then(|outer| outer.last_mut()) {
                node.block.get_or_insert_default().extend(block);
            }
            true
        };
        let flush = |words: &mut Vec<String>, open: &mut Vec<Vec<Node>>| {
            if !words.is_empty()
                && let Some(block) = open.last_mut()
            {
                block.push(Node { id: line.id, words: std::mem::take(words), block: None });
            }
        };
        for token in &line.tokens {
            match token {
                Token::Word(word) => words.push(word.clone()),
                Token::Open => {
                    flush(&mut words, &mut open);
                    if open.last().is_none_or(Vec::is_empty) {
                        return wrong("a '{' has no name before it");
                    }
                    if open.len() > MOST_LEVELS {
                        return wrong("blocks lie too deep in each other");
                    }
                    open.push(Vec::new());
                }
                Token::Close => {
                    flush(&mut words, &mut open);
                    if !close(&mut open) {
                        return wrong("unexpected '}'");
                    }
                }
            }
        }
        flush(&mut words, &mut open);
    }
    if open.len() > 1 {
        let (file, line) =
            lines.last().map_or((String::new(), 1), |line| (line.file.clone(), line.number));
        let message = "a block is not closed: '}' is missing".to_owned();
        return Err(Error::Syntax { file, line, message });
    }
    Ok(open.pop().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::tests::Memory;

    #[test]
    fn lines_are_for_all_hosts_or_for_one() {
        let text = "$P=150 \n! no\na {\n @main priority $P # no\n @^main priority \"1 0\"\n}\nb\n{\n c ${P}x }\n";
        let files = Memory::of(&[("k", text)]);
        let mut ledger = Ledger::default();
        let lines = lines(Path::new("k"), &files, &mut ledger).unwrap();
        assert_eq!(hosts(&lines), ["main"]);
        let on_main = tree(&lines, Some("main")).unwrap();
        assert_eq!(on_main[0].children()[0].words, ["priority", "150"]);
        let elsewhere = tree(&lines, Some("other")).unwrap();
        assert_eq!(elsewhere[0].children()[0].words, ["priority", "1 0"]);
        assert_eq!(elsewhere[1].children()[0].words, ["c", "150x"]);
    }

    #[test]
    fn what_is_not_closed_is_an_error_with_its_line() {
        for (text, expected) in [
            ("a {\n b\n", "k:2: a block is not closed: '}' is missing"),
            ("a\n}\n", "k:2: unexpected '}'"),
            ("{\n", "k:1: a '{' has no name before it"),
            ("a \"b\n", "k:1: a quote is not closed"),
        ] {
            let files = Memory::of(&[("k", text)]);
            let mut ledger = Ledger::default();
            let read = lines(Path::new("k"), &files, &mut ledger);
            let error = read.and_then(|lines| tree(&lines, None)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
