//! What configurations write instead of names: durations, file patterns, simple expressions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Files;

/// Reads a number with a unit of time; without one it is in `unit`.
pub(super) fn duration(text: &str, unit: Duration) -> Option<Duration> {
    const MAX_SECONDS: u64 = 366 * 86_400;
    let mut total = Duration::ZERO;
    let mut rest = text;
    if text.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u32 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit = match &rest[..letters] {
            "" => unit,
            "us" => Duration::from_micros(1),
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86_400),
            "w" => Duration::from_secs(7 * 86_400),
            "y" => Duration::from_secs(365 * 86_400),
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        total = total.checked_add(unit.checked_mul(number)?)?;
    }
    Some(total.min(Duration::from_secs(MAX_SECONDS)))
}

/// Whether `name` is of the pattern `glob`: `*`, `?` and `[…]`.
pub(super) fn matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    // Where the last star stands, and what it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    let (mut g, mut n) = (0, 0);
    while n < name.len() {
        if glob.get(g) == Some(&'*') {
            star = Some((g, n));
            g += 1;
        } else if let Some(length) = one(&glob[g..], name[n]) {
            g += length;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            g = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// The length of the pattern's first element, if it stands for `c`.
fn one(glob: &[char], c: char) -> Option<usize> {
    match *glob.first()? {
        '?' => Some(1),
        '[' => {
            let end = 1 + glob.iter().skip(1).position(|c| *c == ']')?;
            let set = &glob[1..end];
            let (is_negated, set) = match set.first() {
                Some('!' | '^') => (true, &set[1..]),
                _ => (false, set),
            };
            let is_in = set.contains(&c)
                || set
                    .windows(3)
                    .any(|range| range[1] == '-' && (range[0]..=range[2]).contains(&c));
            (is_in != is_negated).then_some(end + 1)
        }
        first => (first == c).then_some(1),
    }
}

/// The files that `pattern` stands for, in order; itself, if it is no pattern.
pub(super) fn expand(pattern: &Path, files: &dyn Files) -> Vec<PathBuf> {
    const MOST: usize = 4096;
    let is_glob = |part: &str| part.contains(['*', '?', '[']);
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str().to_string_lossy().into_owned();
        if !is_glob(&part) {
            for path in &mut found {
                path.push(&part);
            }
            continue;
        }
        found = found
            .iter()
            .flat_map(|directory| {
                let here = Path::new(".");
                let listed = if directory.as_os_str().is_empty() { here } else { directory };
                let mut names = files.list(listed).unwrap_or_default();
                names.retain(|name| {
                    matches(&part, name) && (!name.starts_with('.') || part.starts_with('.'))
                });
                names.into_iter().map(|name| directory.join(name)).collect::<Vec<_>>()
            })
            .take(MOST)
            .collect();
    }
    found
}

/// The names that a regular expression stands for, if that is plain to see: `^a\.example\.com$`,
/// `^(a|b)\.example\.com$`, `\.example\.com$` (those below it).
pub(super) fn names_of_regex(regex: &str) -> Option<Vec<String>> {
    let regex = regex.strip_suffix('$')?;
    if let Some(alternatives) = regex.strip_prefix("^(")
        && let Some((inner, rest)) = alternatives.split_once(')')
    {
        let inner = inner.strip_prefix("?:").unwrap_or(inner);
        let rest = literal(rest)?;
        return inner.split('|').map(|one| Some(format!("{}{rest}", literal(one)?))).collect();
    }
    let any_below = regex.strip_prefix("^.*\\.").or_else(|| regex.strip_prefix("^.+\\."));
    let below =
        any_below.or_else(|| regex.strip_prefix(".*\\.")).or_else(|| regex.strip_prefix("\\."));
    if let Some(parent) = below {
        return Some(vec![format!("*.{}", literal(parent)?)]);
    }
    Some(vec![literal(regex.strip_prefix('^')?)?])
}

/// The text that a regular expression stands for, if it is only one.
pub(super) fn literal(regex: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = regex.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(|c| !c.is_ascii_alphanumeric())?),
            // A dot for any character is nearly always one that was not escaped.
            '.' => text.push('.'),
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/') => text.push(c),
            _ => return None,
        }
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_all_three() {
        let millis = Duration::from_millis(1);
        for (text, expected) in [
            ("5000", Some(5_000)),
            ("5s", Some(5_000)),
            ("1m30s", Some(90_000)),
            ("1h 30m", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("s", None),
            ("5 parsecs", None),
            ("99999999999s", None),
        ] {
            let found = duration(text, millis).map(|found| found.as_millis());
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(duration("9999y", millis), Some(Duration::from_secs(366 * 86_400)));
    }

    #[test]
    fn patterns_of_files() {
        for (glob, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("?a[0-9]*", "xa7", true),
            ("?a[!0-9]", "xa7", false),
            ("[", "[", false),
            ("**", "", true),
        ] {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        }
    }

    #[test]
    fn expressions_that_are_names() {
        for (regex, names) in [
            (r"^a\.example\.com$", Some(&["a.example.com"][..])),
            (r"^(a|b)\.example\.com$", Some(&["a.example.com", "b.example.com"])),
            (r"\.example\.com$", Some(&["*.example.com"])),
            (r"^.+\.example\.com$", Some(&["*.example.com"])),
            (r"^a[0-9]+\.example\.com$", None),
            (r"a\.example", None),
        ] {
            let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(names_of_regex(regex), names, "{regex}");
        }
    }
}
