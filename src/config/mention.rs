//! Where a file says what a message is about.
//!
//! What is wrong with a file that the configuration names is found after the configuration has been
//! read, by those who know nothing of lines. Their messages have the path, as it is written.

use toml::de::{DeTable, DeValue};

/// The line, from 1, of the path in `source` that `message` has as a word: the one that it has
/// first, where that is written first. `None` if there is none, or `source` is not TOML.
pub(super) fn line_of(source: &str, message: &str) -> Option<usize> {
    let table = DeTable::parse(source).ok()?;
    // Where it is in the message, and in the file.
    let mut found: Option<(usize, usize)> = None;
    let mut values: Vec<_> = table.get_ref().values().collect();
    while let Some(value) = values.pop() {
        match value.get_ref() {
            DeValue::String(text) => {
                if text.contains('/')
                    && let Some(at) = find(message, text)
                {
                    let candidate = (at, value.span().start);
                    found = Some(found.map_or(candidate, |best| best.min(candidate)));
                }
            }
            DeValue::Array(items) => values.extend(items.iter()),
            DeValue::Table(table) => values.extend(table.values()),
            _ => {}
        }
    }
    let (_, start) = found?;
    Some(source.get(..start)?.matches('\n').count() + 1)
}

/// Where `message` has this path, and not as a part of another one: `/` is the path of many a health
/// check, and a part of every file's.
fn find(message: &str, path: &str) -> Option<usize> {
    let goes_on = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    let stands_alone = |&(at, _): &(usize, &str)| {
        let (before, rest) = message.split_at(at);
        !before.ends_with(goes_on) && !rest[path.len()..].starts_with(goes_on)
    };
    message.match_indices(path).find(stands_alone).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
[[listener]]
bind = '127.0.0.1:1'
deny = ['10.0.0.0/8', '/etc/deny.txt']
[listener.tls]
certificates = [
  { cert = '/etc/a.pem', key = '/etc/a.pem.key' },
  { cert = '/etc/b.pem', key = '/etc/a.pem.key' },
  { cert = 'certs/c.pem', key = 'c.key' },
]
[pool.web.health]
path = '/'
";

    #[test]
    fn the_first_path_of_a_message_counts() {
        for (message, line) in [
            ("listener web: /etc/deny.txt: No such file", Some(3)),
            ("listener web: /etc/a.pem: no certificate in it", Some(6)),
            ("listener web: /etc/a.pem.key: no private key in it", Some(6)),
            ("listener web: /etc/b.pem: does not match /etc/a.pem.key", Some(7)),
            ("listener web: /etc/b.pem: expired", Some(7)),
            ("listener web: certs/c.pem: No such file", Some(8)),
            ("listener web: /etc/b.pem.old and /etc/b.pem", Some(7)),
            ("listener web: /etc/other.pem: expired", None),
            ("listener web: something else", None),
        ] {
            assert_eq!(line_of(FILE, message), line, "{message}");
        }
        assert_eq!(line_of("not = [", "not"), None);
    }
}
