//! "Did you mean": the one candidate that a mistyped word is likely to stand for.
//!
//! Called for unknown keys, values and names. It must rather stay silent than guess wildly.

/// The candidate nearest to `word`, when one is near enough to be worth mentioning.
///
/// Case and `-` for `_` do not count. Near is at most one edit in three characters (insert, delete,
/// replace, swap neighbours); failing that, the only candidate that contains the word or is
/// contained in it.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = fold(word);
    if word.is_empty() || word.len() > MAX_LENGTH {
        return None;
    }
    let allowed = (word.len() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    let mut related: Option<&str> = None;
    let mut ambiguous = false;
    for candidate in candidates {
        let folded = fold(candidate);
        if folded.len() > MAX_LENGTH {
            continue;
        }
        if folded.len().abs_diff(word.len()) <= allowed {
            let distance = distance(&word, &folded);
            // A word of one or two letters is one edit away from everything as short.
            let plausible = distance <= allowed && distance < folded.len().max(word.len());
            if plausible && best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, candidate));
            }
        }
        if contains(&word, &folded) || contains(&folded, &word) {
            ambiguous |= related.is_some();
            related = Some(candidate);
        }
    }
    best.map(|(_, candidate)| candidate).or_else(|| related.filter(|_| !ambiguous))
}

/// Longest word considered, in characters: keeps the cost of a comparison small.
const MAX_LENGTH: usize = 128;

/// Shorter words are part of too many others by chance.
const MIN_CONTAINED: usize = 3;

fn fold(word: &str) -> Vec<char> {
    word.chars()
        .take(MAX_LENGTH + 1)
        .map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })
        .collect()
}

fn contains(whole: &[char], part: &[char]) -> bool {
    part.len() >= MIN_CONTAINED && whole.windows(part.len()).any(|window| window == part)
}

/// Optimal string alignment: the edits between two words, a swap of neighbours counting as one.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = last;
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits() {
        for (a, b, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("weight", "weigth", 1),
            ("kitten", "sitting", 3),
            ("same", "same", 0),
            ("é", "e", 1),
        ] {
            assert_eq!(distance(&fold(a), &fold(b)), expected, "{a} {b}");
            assert_eq!(distance(&fold(b), &fold(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn near_words_only() {
        let keys = ["workers", "pin", "max_connections", "drain_timeout"];
        for (word, expected) in [
            ("worker", Some("workers")),
            ("WORKERS", Some("workers")),
            ("max-connections", Some("max_connections")),
            ("maxconn", None),
            ("drain", Some("drain_timeout")),
            ("pni", Some("pin")),
            ("x", None),
            ("", None),
            ("threads", None),
        ] {
            assert_eq!(nearest(word, keys), expected, "{word}");
        }
    }

    #[test]
    fn an_ambiguous_part_is_no_suggestion() {
        let keys = ["connect_timeout", "queue_timeout"];
        assert_eq!(nearest("timeout", keys), None);
        assert_eq!(nearest("queue", keys), Some("queue_timeout"));
    }
}
