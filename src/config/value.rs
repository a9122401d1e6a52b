//! Single values: what a key asks for, made of what TOML has.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::findings::{Problem, quote, shorten};
use super::suggest::nearest;
use super::units;

/// Text as it stands.
pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, Problem> {
    value.as_str().ok_or_else(|| mismatch("text in quotes", value))
}

/// A type of whole numbers.
pub(super) trait Whole: TryFrom<i128> + PartialOrd + fmt::Display {}

impl<T: TryFrom<i128> + PartialOrd + fmt::Display> Whole for T {}

/// A whole number within `range`.
pub(super) fn number<T: Whole>(
    value: &DeValue<'_>,
    range: RangeInclusive<T>,
) -> Result<T, Problem> {
    let integer = match value {
        DeValue::Integer(integer) => integer,
        DeValue::String(text) if text.parse::<i64>().is_ok() => {
            return Err(mismatch("a whole number", value).help(format!("write {text}")));
        }
        other => return Err(mismatch("a whole number", other)),
    };
    let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
    number
        .and_then(|number| T::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            let number = shorten(&integer.to_string());
            Problem::new(format!("{number} is out of range ({least} to {most})"))
        })
}

/// The value that `word` stands for.
pub(super) fn choose<T: Copy>(word: &str, choices: &[(&'static str, T)]) -> Result<T, Problem> {
    let words = || choices.iter().map(|(word, _)| *word);
    let chosen = choices.iter().find(|(choice, _)| *choice == word).map(|(_, value)| *value);
    chosen.ok_or_else(|| unknown_value(word, words()))
}

/// The problem of a word that is none of `words`.
pub(super) fn unknown_value(
    word: &str,
    words: impl Iterator<Item = &'static str> + Clone,
) -> Problem {
    let help = match nearest(word, words.clone()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("one of {}", words.collect::<Vec<_>>().join(", ")),
    };
    Problem::new(format!("unknown value {}", quote(word))).help(help)
}

/// A duration, zero included.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, Problem> {
    match value {
        DeValue::String(text) => units::parse_duration(text),
        DeValue::Integer(integer) if integer.as_str().len() <= 9 && integer.radix() == 10 => {
            let number = integer.as_str().trim_start_matches(['+', '-']);
            Err(mismatch("a duration", value).help(format!("write \"{number}s\"")))
        }
        other => Err(mismatch("a duration", other).help("write \"5s\" or \"250ms\"")),
    }
}

/// The problem of a value that is of another type.
pub(super) fn mismatch(expected: &str, found: &DeValue<'_>) -> Problem {
    let found = match found {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Problem::new(format!("expected {expected}, found {found}"))
}
