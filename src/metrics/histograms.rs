//! Histograms of processes before this one, added to what this one has measured.
//!
//! The exporter's histograms can only be measured into, a sample at a time. So what other processes
//! have measured is kept beside them, by series as it is written, and added when all is written.
//! Buckets, counts and sums are sums all of them, so that is exact. Pure: text in, text out.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::iter;

/// Series of histograms and their values, in the order in which they are written.
pub type Series = Vec<(String, f64)>;

/// What the names of a histogram's series end in.
const ENDS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The histogram among `names` that a series is of.
fn family<'a>(names: &[&'a str], series: &str) -> Option<&'a str> {
    let name = series.split('{').next().unwrap_or_default();
    let of = ENDS.iter().find_map(|end| name.strip_suffix(end))?;
    names.iter().find(|known| **known == of).copied()
}

/// The series in a line of the exposition format, with its value; `None` in a comment.
fn read(line: &str) -> Option<(&str, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    Some((series, value.parse().ok()?))
}

/// The series of the histograms of these names in a text.
pub fn series(names: &[&str], text: &str) -> Series {
    let all = text.lines().filter_map(read).filter(|(series, _)| family(names, series).is_some());
    all.map(|(series, value)| (series.to_owned(), value)).collect()
}

/// Adds what is in `more`.
pub fn add(to: &mut Series, more: &Series) {
    let sums: HashMap<_, _> = more.iter().map(|(series, value)| (&**series, *value)).collect();
    let known: HashSet<String> = to.iter().map(|(series, _)| series.clone()).collect();
    for (series, value) in to.iter_mut() {
        *value += sums.get(&**series).copied().unwrap_or(0.0);
    }
    to.extend(more.iter().filter(|(series, _)| !known.contains(series)).cloned());
}

/// What `now` has grown by since `before`.
pub fn growth(now: &Series, before: &Series) -> Series {
    let before: HashMap<_, _> = before.iter().map(|(series, value)| (&**series, *value)).collect();
    let more = |(series, value): &(String, f64)| {
        let more = value - before.get(&**series).copied().unwrap_or(0.0);
        (more > 0.0).then(|| (series.clone(), more))
    };
    now.iter().filter_map(more).collect()
}

/// A text with what is in `before` added to the histograms of these names. Those that it does not
/// have are put where others of their name are.
pub fn render(names: &[&str], text: String, before: &Series) -> String {
    if before.is_empty() {
        return text;
    }
    let values: HashMap<_, _> = before.iter().map(|(series, value)| (&**series, *value)).collect();
    let own: HashMap<_, _> = text.lines().filter_map(read).collect();
    let missing = |of: &str| {
        let of_family = before.iter().filter(move |(series, _)| family(names, series) == Some(of));
        of_family.filter(|(series, _)| !own.contains_key(&**series)).collect::<Vec<_>>()
    };
    let mut out = String::with_capacity(text.len() + before.len() * 80);
    let mut put = |line: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{line}");
    };
    let mut written = Vec::new();
    let lines = text.lines().map(Some).chain(iter::once(None));
    let mut last = None;
    for line in lines {
        let of = line.and_then(read).and_then(|(series, _)| family(names, series));
        if let Some(ended) = last.filter(|_| of != last) {
            missing(ended).iter().for_each(|(series, value)| put(format_args!("{series} {value}")));
            written.push(ended);
        }
        last = of;
        let Some(line) = line else { break };
        match read(line).filter(|_| of.is_some()) {
            Some((series, value)) => {
                let value = value + values.get(series).copied().unwrap_or(0.0);
                put(format_args!("{series} {value}"));
            }
            None => put(format_args!("{line}")),
        }
    }
    for name in names.iter().filter(|name| !written.contains(name)) {
        let missing = missing(name);
        if !missing.is_empty() {
            put(format_args!("# TYPE {name} histogram"));
        }
        missing.iter().for_each(|(series, value)| put(format_args!("{series} {value}")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 2] = ["wait_seconds", "work_seconds"];
    const TEXT: &str = "# TYPE requests counter\nrequests 7\n\
        # TYPE wait_seconds histogram\n\
        wait_seconds_bucket{pool=\"a\",le=\"0.1\"} 1\n\
        wait_seconds_bucket{pool=\"a\",le=\"+Inf\"} 3\n\
        wait_seconds_sum{pool=\"a\"} 1.5\n\
        wait_seconds_count{pool=\"a\"} 3\n\
        # TYPE waiting gauge\nwaiting 2\n";

    fn series_of(text: &str) -> Series {
        series(&NAMES, text)
    }

    #[test]
    fn a_text_is_written_as_it_was_when_nothing_came_before() {
        assert_eq!(render(&NAMES, TEXT.to_owned(), &Vec::new()), TEXT);
        assert_eq!(series_of(TEXT).len(), 4);
    }

    #[test]
    fn what_came_before_is_added_where_it_belongs() {
        let before = TEXT.replace("} 3", "} 5").replace("waiting 2", "waiting 9")
            + "wait_seconds_count{pool=\"b c\"} 4\nwork_seconds_sum 2.5\n";
        let text = render(&NAMES, TEXT.to_owned(), &series_of(&before));
        let has = |line: &str| text.lines().any(|found| found == line);
        for line in [
            "requests 7",
            "waiting 2",
            "wait_seconds_bucket{pool=\"a\",le=\"0.1\"} 2",
            "wait_seconds_bucket{pool=\"a\",le=\"+Inf\"} 8",
            "wait_seconds_sum{pool=\"a\"} 3",
            "wait_seconds_count{pool=\"b c\"} 4",
            "# TYPE work_seconds histogram",
            "work_seconds_sum 2.5",
        ] {
            assert!(has(line), "{line} in:\n{text}");
        }
        // A family is in one piece.
        let of_wait: Vec<_> =
            text.lines().enumerate().filter(|(_, line)| line.starts_with("wait_")).collect();
        assert_eq!(of_wait.last().unwrap().0 - of_wait[0].0 + 1, of_wait.len(), "{text}");
    }

    #[test]
    fn growth_and_what_it_grew_from_are_the_whole() {
        let before = series_of(TEXT);
        let now =
            series_of(&(TEXT.replace("} 3", "} 10") + "wait_seconds_count{pool=\"new\"} 1\n"));
        let grown = growth(&now, &before);
        assert_eq!(grown.len(), 3, "{grown:?}");
        let mut sum = before;
        add(&mut sum, &grown);
        let sorted = |mut series: Series| {
            series.sort_by(|(one, _), (other, _)| one.cmp(other));
            series
        };
        assert_eq!(sorted(sum), sorted(now));
    }
}
