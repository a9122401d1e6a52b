//! Lines of haproxy.cfg into words: quotes, escapes, comments and variables, by section 2.2 of its
//! configuration manual.

use std::collections::HashMap;

/// Splits a line. `variable` gives the value of an environment variable.
///
/// # Errors
///
/// What is wrong with the line.
pub(super) fn words(
    line: &str,
    variable: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    let mut in_quotes = false;
    while let Some(c) = chars.next() {
        match c {
            '#' if !in_quotes => break,
            c if c.is_whitespace() && !in_quotes => words.extend(word.take()),
            '"' => {
                in_quotes = !in_quotes;
                word.get_or_insert_default();
            }
            '\'' if !in_quotes => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a single quote is not closed".to_owned()),
                    }
                }
            }
            '\\' => {
                let word = word.get_or_insert_default();
                match chars.next() {
                    Some('n') if !in_quotes => word.push('\n'),
                    Some('r') if !in_quotes => word.push('\r'),
                    Some('t') if !in_quotes => word.push('\t'),
                    Some('x') if !in_quotes => {
                        let mut code = String::new();
                        while code.len() < 2 && chars.peek().is_some_and(char::is_ascii_hexdigit) {
                            code.extend(chars.next());
                        }
                        match u8::from_str_radix(&code, 16) {
                            Ok(byte) if code.len() == 2 => word.push(char::from(byte)),
                            _ => return Err("'\\x' is not followed by two hex digits".to_owned()),
                        }
                    }
                    // Within quotes only these are escaped.
                    Some(c) if in_quotes && !matches!(c, '\\' | '"' | '$') => {
                        word.extend(['\\', c])
                    }
                    Some(c) => word.push(c),
                    None => return Err("nothing follows the last '\\'".to_owned()),
                }
            }
            '$' if in_quotes => {
                let value = expanded(&mut chars, variable)?;
                word.get_or_insert_default().push_str(&value);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    if in_quotes {
        return Err("a double quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// Replaces variables in an address, where they count without quotes as well (section 11.1 of the
/// manual: "any part of the address string may reference any number of environment variables").
///
/// # Errors
///
/// The name of a variable that is not set, or what is wrong with the text.
pub(super) fn expand_address(
    text: &str,
    variable: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<String, String> {
    let mut found = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '$' => found.push_str(&expanded(&mut chars, variable)?),
            c => found.push(c),
        }
    }
    Ok(found)
}

/// The value of `NAME`, `{NAME}` or `{NAME-default}` after a `$`.
fn expanded(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    variable: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<String, String> {
    let is_braced = chars.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')) {
        name.push(c);
    }
    let mut default = None;
    if is_braced && chars.next_if_eq(&'-').is_some() {
        let mut text = String::new();
        text.extend(std::iter::from_fn(|| chars.next_if(|c| *c != '}')));
        default = Some(text);
    }
    if is_braced && chars.next() != Some('}') {
        return Err("'${' is not followed by a name and '}'".to_owned());
    }
    let value = variable(&name).or(default);
    value.ok_or_else(|| format!("the environment variable {name} is not set"))
}

/// Variables that the file itself sets.
#[derive(Debug, Default)]
pub(super) struct Variables(HashMap<String, String>);

impl Variables {
    /// `setenv` and its like. Whether it was one.
    pub(super) fn apply(&mut self, words: &[String], outer: &dyn super::super::Files) -> bool {
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["setenv", name, value] => {
                self.0.insert(name.to_owned(), value.to_owned());
            }
            ["presetenv", name, value] => {
                if self.get(name, outer).is_none() {
                    self.0.insert(name.to_owned(), value.to_owned());
                }
            }
            ["unsetenv" | "resetenv", ..] => {}
            _ => return false,
        }
        true
    }

    /// The value of a variable.
    pub(super) fn get(&self, name: &str, outer: &dyn super::super::Files) -> Option<String> {
        self.0.get(name).cloned().or_else(|| outer.variable(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Result<Vec<String>, String> {
        words(line, &mut |name| (name == "PORT").then(|| "443".to_owned()))
    }

    #[test]
    fn words_are_split_as_haproxy_splits_them() {
        for (line, expected) in [
            ("  bind *:80 # all", &["bind", "*:80"][..]),
            ("# nothing", &[]),
            (r"send a\ b\r\n", &["send", "a b\r\n"]),
            (r#"send "a b\n" 'c # "d'"#, &["send", r"a b\n", r#"c # "d"#]),
            (r#"bind "*:${PORT}" *:$PORT"#, &["bind", "*:443", "*:$PORT"]),
            (r#"bind "*:${NONE-8443}""#, &["bind", "*:8443"]),
            (r#"bind "*:${PORT-8443}""#, &["bind", "*:443"]),
            (r"x \x41\#\\", &["x", "A#\\"]),
            (r#"a"b c"d"#, &["ab cd"]),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
        for line in ["a 'b", "a \"b", "a \\", "\\x4", "\"${PORT\"", "\"$NONE\""] {
            split(line).unwrap_err();
        }
    }

    #[test]
    fn variables_of_addresses_count_without_quotes() {
        let expand =
            |text| expand_address(text, &mut |name| (name == "IP").then(|| "10.0.0.1".to_owned()));
        for (text, expected) in [
            ("${IP}:80", Ok("10.0.0.1:80")),
            ("$IP:80", Ok("10.0.0.1:80")),
            ("ipv4@${IP}:80", Ok("ipv4@10.0.0.1:80")),
            ("${NONE-127.0.0.1}:80", Ok("127.0.0.1:80")),
            ("10.0.0.2:80", Ok("10.0.0.2:80")),
            ("${NONE}:80", Err("the environment variable NONE is not set")),
            ("${IP:80", Err("'${' is not followed by a name and '}'")),
        ] {
            assert_eq!(expand(text).as_deref().map_err(String::as_str), expected, "{text}");
        }
    }
}
