//! Durations as people write them, `"250ms"`, `"5s"`, `"1m30s"`, `"2d"`, and rates: `"50/s"`.

use std::num::NonZeroU32;
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

/// Units of rates, by the names that they go by.
const PERIODS: [(&[&str], Duration); 3] = [
    (&["s", "sec", "second"], Duration::from_secs(1)),
    (&["m", "min", "minute"], Duration::from_mins(1)),
    (&["h", "hour"], Duration::from_hours(1)),
];

/// The most that a rate can be, in any period.
pub(super) const MAX_RATE: u32 = 1_000_000;

/// Reads a rate: a whole number, `/`, and a unit of time.
///
/// # Errors
///
/// Anything else, zero, and what exceeds [`MAX_RATE`].
pub(super) fn parse_rate(text: &str) -> Result<(NonZeroU32, Duration), Problem> {
    const HELP: &str = "write \"50/s\", \"50/m\" or \"50/h\"";
    let Some((number, unit)) = text.split_once('/') else {
        let problem = Problem::new(format!("{} has no unit of time", quote(text)));
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let help =
            if is_number { format!("write \"{}/s\"", shorten(text)) } else { HELP.to_owned() };
        return Err(problem.help(help));
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::new(format!("{} is not a rate", quote(text))).help(HELP));
    }
    let Some((_, period)) = PERIODS.iter().find(|(names, _)| names.contains(&unit)) else {
        let problem = Problem::new(format!("unknown unit {}", quote(unit)));
        return Err(problem.help("units of a rate are s, m and h"));
    };
    let count = number.parse().ok().and_then(NonZeroU32::new);
    match count.filter(|count| count.get() <= MAX_RATE) {
        Some(count) => Ok((count, *period)),
        None => {
            let message = format!("{} is out of range (1 to {MAX_RATE})", shorten(number));
            Err(Problem::new(message).help("write \"\" for no limit"))
        }
    }
}

/// Writes a duration the way [`parse_duration`] reads it. Less than a microsecond is dropped.
pub fn format_duration(duration: Duration) -> String {
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

    #[test]
    fn rates() {
        for (text, count, seconds) in [
            ("50/s", 50, 1),
            ("50/sec", 50, 1),
            ("1/second", 1, 1),
            ("50/m", 50, 60),
            ("50/min", 50, 60),
            ("050/minute", 50, 60),
            ("1000000/h", 1_000_000, 3_600),
            ("7/hour", 7, 3_600),
        ] {
            let expected = (NonZeroU32::new(count).unwrap(), Duration::from_secs(seconds));
            assert_eq!(parse_rate(text), Ok(expected), "{text}");
        }
        for (text, message, help) in [
            ("", "'' has no unit of time", "write \"50/s\", \"50/m\" or \"50/h\""),
            ("50", "'50' has no unit of time", "write \"50/s\""),
            ("fast", "'fast' has no unit of time", "write \"50/s\", \"50/m\" or \"50/h\""),
            ("/s", "'/s' is not a rate", "write \"50/s\", \"50/m\" or \"50/h\""),
            ("5.5/s", "'5.5/s' is not a rate", "write \"50/s\", \"50/m\" or \"50/h\""),
            ("-5/s", "'-5/s' is not a rate", "write \"50/s\", \"50/m\" or \"50/h\""),
            ("50 / s", "'50 / s' is not a rate", "write \"50/s\", \"50/m\" or \"50/h\""),
            ("50/d", "unknown unit 'd'", "units of a rate are s, m and h"),
            ("50/", "unknown unit ''", "units of a rate are s, m and h"),
            ("0/s", "0 is out of range (1 to 1000000)", "write \"\" for no limit"),
            ("1000001/s", "1000001 is out of range (1 to 1000000)", "write \"\" for no limit"),
            (
                "99999999999999999999/s",
                "99999999999999999999 is out of range (1 to 1000000)",
                "write \"\" for no limit",
            ),
        ] {
            let problem = parse_rate(text).unwrap_err();
            assert_eq!((&*problem.message, &*problem.help.unwrap()), (message, help), "{text}");
        }
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
