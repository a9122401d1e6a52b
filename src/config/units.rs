//! Durations as people write them: `"250ms"`, `"5s"`, `"1m30s"`, `"2d"`.

use std::time::Duration;

use super::findings::{Problem, quote, shorten};

/// The longest duration that can be written: 366 days. There is no infinite timeout.
pub(super) const MAX_DURATION: Duration = Duration::from_hours(366 * 24);

/// Units in microseconds, longest first, which is the order they are written in.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Reads a duration: whole numbers, each with its unit, the longer unit first and each at most
/// once.
///
/// # Errors
///
/// Anything else, and what exceeds [`MAX_DURATION`].
pub(super) fn parse_duration(text: &str) -> Result<Duration, Problem> {
    if text.is_empty() {
        return Err(Problem::new("a duration is missing").help("write \"5s\" or \"250ms\""));
    }
    if ["infinite", "infinity", "inf", "never", "none", "off"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
    {
        return Err(Problem::new("there is no infinite timeout")
            .help(format!("the longest is \"{}\"", format_duration(MAX_DURATION))));
    }
    let mut rest = text;
    let mut micros: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (number, after) = split_at_first(rest, |c| !c.is_ascii_digit());
        let (name, after) = split_at_first(after, |c| !c.is_ascii_alphabetic());
        if number.is_empty() {
            return Err(not_a_duration(text));
        }
        if name.is_empty() {
            return Err(if after.is_empty() && number.len() == text.len() {
                Problem::new(format!("{} has no unit", quote(text)))
                    .help(format!("write \"{}s\"", shorten(number)))
            } else {
                not_a_duration(text)
            });
        }
        if !UNITS.iter().any(|(unit, _)| *unit == name) {
            return Err(Problem::new(format!("unknown unit {}", quote(name)))
                .help("units are us, ms, s, m, h and d"));
        }
        let Some((_, unit)) = units.find(|(unit, _)| *unit == name) else {
            return Err(not_a_duration(text));
        };
        // A number too large for its type is a duration too long: both saturate.
        let number: u64 = number.parse().unwrap_or(u64::MAX);
        micros = micros.saturating_add(number.saturating_mul(*unit));
        rest = after;
    }
    let duration = Duration::from_micros(micros);
    if duration > MAX_DURATION {
        return Err(Problem::new(format!("{} is longer than 366 days", quote(text)))
            .help("there is no infinite timeout"));
    }
    Ok(duration)
}

/// Writes a duration the way [`parse_duration`] reads it. Less than a microsecond is dropped.
pub(super) fn format_duration(duration: Duration) -> String {
    let mut micros = duration.as_micros();
    if micros == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, unit) in UNITS {
        let number = micros / u128::from(unit);
        micros %= u128::from(unit);
        if number > 0 {
            text.push_str(&number.to_string());
            text.push_str(name);
        }
    }
    text
}

fn not_a_duration(text: &str) -> Problem {
    Problem::new(format!("{} is not a duration", quote(text)))
        .help("write whole numbers with their units, the longest first, as in \"1m30s\"")
}

fn split_at_first(text: &str, pattern: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(pattern).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0s", 0),
            ("0ms", 0),
            ("250ms", 250),
            ("1000us", 1),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("0090s", 90_000),
            ("366d", 31_622_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration() {
        for (text, message) in [
            ("", "a duration is missing"),
            ("5", "'5' has no unit"),
            ("s", "'s' is not a duration"),
            ("-5s", "'-5s' is not a duration"),
            ("1.5s", "'1.5s' is not a duration"),
            ("5 s", "'5 s' is not a duration"),
            (" 5s", "' 5s' is not a duration"),
            ("1m30", "'1m30' is not a duration"),
            ("30s1m", "'30s1m' is not a duration"),
            ("1s1s", "'1s1s' is not a duration"),
            ("5min", "unknown unit 'min'"),
            ("5S", "unknown unit 'S'"),
            ("5µs", "'5µs' is not a duration"),
            ("Never", "there is no infinite timeout"),
            ("367d", "'367d' is longer than 366 days"),
            ("366d1us", "'366d1us' is longer than 366 days"),
            ("99999999999999999999s", "'99999999999999999999s' is longer than 366 days"),
            ("99999999999999d", "'99999999999999d' is longer than 366 days"),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().message, message, "{text}");
        }
        assert_eq!(parse_duration("5").unwrap_err().help.unwrap(), "write \"5s\"");
    }

    proptest! {
        #[test]
        fn every_duration_survives_its_text(micros in 0..=MAX_DURATION.as_micros()) {
            let duration = Duration::from_micros(u64::try_from(micros).unwrap());
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,12}|[0-9]{1,3}[a-z]{0,2}[0-9]{0,25}[dhmsu]{0,2}") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert!(duration <= MAX_DURATION);
            }
        }
    }
}
