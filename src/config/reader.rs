//! Takes typed values out of the sections of a TOML table.
//!
//! A [`Section`] reports the keys that do not belong into it when it is opened, and each value that
//! is not what its key asks for when it is taken. It never stops at either.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::findings::{Findings, Problem, Span, Spanned, quote, shorten};
use super::suggest::nearest;
use super::value::{self, Whole, mismatch, text};
use super::vocabulary::{Vocabulary, homes};

/// What a file says about one key.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something that has been reported.
    Wrong,
    /// A value.
    Given(Spanned<T>),
}

impl<T> Field<T> {
    /// The value, or `default` in place of an absent or wrong one.
    pub(super) fn or(self, default: T) -> T {
        self.given().map_or(default, |given| given.value)
    }

    /// The value, or what `default` makes in place of an absent or wrong one.
    pub(super) fn or_else(self, default: impl FnOnce() -> T) -> T {
        self.given().map_or_else(default, |given| given.value)
    }

    /// The value, if there is a right one.
    pub(super) fn value(self) -> Option<T> {
        self.given().map(|given| given.value)
    }

    /// The value and its place, if there is a right one.
    pub(super) fn given(self) -> Option<Spanned<T>> {
        match self {
            Self::Given(given) => Some(given),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// The same by reference.
    pub(super) fn as_given(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Given(given) => Some(given),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// One section of a file, open for reading.
pub(super) struct Section<'a, 'text> {
    table: &'a DeTable<'text>,
    /// Where the section is written: its header.
    pub(super) span: Span,
    vocabulary: &'static Vocabulary,
    is_stand_in: bool,
    pub(super) errors: &'a mut Findings,
}

impl<'a, 'text> Section<'a, 'text> {
    /// Opens a section and reports every key that does not belong into it.
    pub(super) fn open(
        vocabulary: &'static Vocabulary,
        table: &'a DeTable<'text>,
        span: Span,
        errors: &'a mut Findings,
    ) -> Self {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !vocabulary.keys.contains(&name) {
                refuse(vocabulary, name, key.span().into(), errors);
            }
        }
        Self { table, span, vocabulary, is_stand_in: false, errors }
    }

    /// Opens an empty section in place of one that cannot be read and has been reported. None of
    /// its keys is absent: nobody knows what was meant to be there.
    fn stand_in(
        vocabulary: &'static Vocabulary,
        nothing: &'a DeTable<'text>,
        span: Span,
        errors: &'a mut Findings,
    ) -> Self {
        Self { is_stand_in: true, ..Self::open(vocabulary, nothing, span, errors) }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Field<bool> {
        self.read(key, |value| match value {
            DeValue::Boolean(flag) => Ok(*flag),
            other => Err(mismatch("true or false", other)),
        })
    }

    /// A whole number within `range`.
    pub(super) fn number<T: Whole>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> Field<T> {
        self.read(key, |value| value::number(value, range))
    }

    /// A limit; 0 and absence mean that there is none.
    pub(super) fn limit(&mut self, key: &'static str) -> Option<NonZeroU32> {
        NonZeroU32::new(self.number(key, 0..=u32::MAX).or(0))
    }

    /// A duration longer than zero.
    pub(super) fn duration(&mut self, key: &'static str) -> Field<Duration> {
        self.read(key, |value| match value::duration(value)? {
            Duration::ZERO => Err(Problem::new("must be longer than zero")),
            duration => Ok(duration),
        })
    }

    /// A duration that may be zero.
    pub(super) fn duration_or_zero(&mut self, key: &'static str) -> Field<Duration> {
        self.read(key, value::duration)
    }

    /// Text that `parse` makes something of.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Field<T> {
        self.read(key, |value| parse(text(value)?))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Field<T> {
        self.parsed(key, |word| value::choose(word, choices))
    }

    /// A list of values that `convert` makes something of, or a single such value. Wrong elements
    /// are reported and left out; an empty list is wrong as a whole.
    pub(super) fn one_or_more<T>(
        &mut self,
        key: &'static str,
        mut convert: impl FnMut(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Field<Vec<Spanned<T>>> {
        let Some((value, span)) = self.take(key) else {
            return self.absent();
        };
        let elements = elements(value, span);
        if elements.is_empty() {
            self.errors.wrong(span, format!("{key}: must not be empty"));
            return Field::Wrong;
        }
        let mut values = Vec::with_capacity(elements.len());
        for (element, span) in elements {
            match convert(element) {
                Ok(value) => values.push(Spanned { value, span }),
                Err(problem) => self.errors.problem(span, key, problem),
            }
        }
        Field::Given(Spanned { value: values, span })
    }

    /// A list of up to `most` texts that `parse` makes something of, or a single such text. It may
    /// be empty; no two of its elements are the same.
    pub(super) fn distinct<T: Clone + Eq + Hash + fmt::Display>(
        &mut self,
        key: &'static str,
        most: usize,
        parse: impl FnMut(&str) -> Result<T, Problem>,
    ) -> Field<Vec<T>> {
        match self.each_once(key, most, parse) {
            Field::Absent => Field::Absent,
            Field::Wrong => Field::Wrong,
            Field::Given(Spanned { value, span }) => {
                let value = value.into_iter().map(|element| element.value).collect();
                Field::Given(Spanned { value, span })
            }
        }
    }

    /// The same, each element with its place.
    pub(super) fn each_once<T: Clone + Eq + Hash + fmt::Display>(
        &mut self,
        key: &'static str,
        most: usize,
        mut parse: impl FnMut(&str) -> Result<T, Problem>,
    ) -> Field<Vec<Spanned<T>>> {
        let Some((value, span)) = self.take(key) else {
            return self.absent();
        };
        let elements = elements(value, span);
        if elements.len() > most {
            self.errors.wrong(span, format!("{key}: {} are more than {most}", elements.len()));
            return Field::Wrong;
        }
        let mut values = Vec::with_capacity(elements.len());
        let mut first: HashMap<T, Span> = HashMap::new();
        let mut sound = true;
        for (element, span) in elements {
            match text(element).and_then(&mut parse) {
                Ok(value) => {
                    if let Some(&first) = first.get(&value) {
                        let shown = quote(&value.to_string());
                        let message = format!("{key}: {shown} is already listed");
                        self.errors.clash(span, message, first);
                        sound = false;
                    } else {
                        first.insert(value.clone(), span);
                        values.push(Spanned { value, span });
                    }
                }
                Err(problem) => {
                    self.errors.problem(span, key, problem);
                    sound = false;
                }
            }
        }
        if !sound {
            return Field::Wrong;
        }
        Field::Given(Spanned { value: values, span })
    }

    /// The section `key` of this one, read by `read`.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        vocabulary: &'static Vocabulary,
        read: impl FnOnce(Section<'_, '_>) -> T,
    ) -> Field<T> {
        let Some((value, span)) = self.take(key) else {
            return self.absent();
        };
        let DeValue::Table(table) = value else {
            let problem = mismatch(vocabulary.title, value);
            self.errors.problem(span, key, problem);
            return Field::Wrong;
        };
        let value = read(Section::open(vocabulary, table, span, self.errors));
        Field::Given(Spanned { value, span })
    }

    /// The same; an empty section is read in place of an absent or wrong one.
    pub(super) fn section_or_empty<T>(
        &mut self,
        key: &'static str,
        vocabulary: &'static Vocabulary,
        read: impl Fn(Section<'_, '_>) -> T,
    ) -> T {
        let nothing = DeTable::new();
        match self.section(key, vocabulary, &read) {
            Field::Given(section) => section.value,
            Field::Absent => read(Section::open(vocabulary, &nothing, self.span, self.errors)),
            Field::Wrong => read(Section::stand_in(vocabulary, &nothing, self.span, self.errors)),
        }
    }

    /// The sections `[[key]]` of this one, each read by `read`. One that is written `[key]` is
    /// reported and read all the same.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        vocabulary: &'static Vocabulary,
        mut read: impl FnMut(Section<'_, '_>) -> T,
    ) -> Field<Vec<T>> {
        let Some((value, span)) = self.take(key) else {
            return self.absent();
        };
        let elements = elements(value, span);
        if let DeValue::Table(_) = value {
            let title = vocabulary.title;
            let help = if title.starts_with('[') {
                format!("write {title}, in double brackets")
            } else {
                format!("write {key} = [{title}]")
            };
            self.errors.wrong(span, format!("{key}: there can be several of these")).help(help);
        }
        let mut values = Vec::with_capacity(elements.len());
        let mut sound = true;
        for (element, span) in elements {
            if let DeValue::Table(table) = element {
                values.push(read(Section::open(vocabulary, table, span, self.errors)));
            } else {
                let problem = mismatch(vocabulary.title, element);
                self.errors.problem(span, key, problem);
                sound = false;
            }
        }
        if values.is_empty() && !sound {
            return Field::Wrong;
        }
        Field::Given(Spanned { value: values, span })
    }

    /// The sections `[key.NAME]` in the order of the file, each read by `read`. In place of one
    /// that is no section, an empty one is read: its name is known all the same.
    pub(super) fn named_sections<T>(
        &mut self,
        key: &'static str,
        vocabulary: &'static Vocabulary,
        mut read: impl FnMut(Spanned<String>, Section<'_, '_>) -> T,
    ) -> Field<Vec<T>> {
        let Some((value, span)) = self.take(key) else {
            return self.absent();
        };
        let DeValue::Table(table) = value else {
            let problem = mismatch(vocabulary.title, value);
            self.errors.problem(span, key, problem);
            return Field::Wrong;
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut values = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let span = value.span().into();
            let name =
                Spanned { value: name.get_ref().clone().into_owned(), span: name.span().into() };
            if let DeValue::Table(table) = value.get_ref() {
                let section = Section::open(vocabulary, table, span, self.errors);
                values.push(read(name, section));
            } else {
                let problem = mismatch(vocabulary.title, value.get_ref());
                self.errors.problem(span, &shorten(&name.value), problem);
                let nothing = DeTable::new();
                values.push(read(name, Section::stand_in(vocabulary, &nothing, span, self.errors)));
            }
        }
        Field::Given(Spanned { value: values, span })
    }

    /// Where `key` itself is written, whatever its value.
    pub(super) fn key_span(&self, key: &str) -> Option<Span> {
        self.table.get_key_value(key).map(|(key, _)| key.span().into())
    }

    /// What `convert` makes of the value.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Field<T> {
        let Some((value, span)) = self.take(key) else {
            return self.absent();
        };
        match convert(value) {
            Ok(value) => Field::Given(Spanned { value, span }),
            Err(problem) => {
                self.errors.problem(span, key, problem);
                Field::Wrong
            }
        }
    }

    fn absent<T>(&self) -> Field<T> {
        if self.is_stand_in { Field::Wrong } else { Field::Absent }
    }

    fn take(&self, key: &'static str) -> Option<(&'a DeValue<'text>, Span)> {
        debug_assert!(self.vocabulary.keys.contains(&key), "{key} is not in the vocabulary");
        let value = self.table.get(key)?;
        Some((value.get_ref(), value.span().into()))
    }
}

/// The elements of a list, or the one value that stands for a list of it.
fn elements<'a, 'text>(value: &'a DeValue<'text>, span: Span) -> Vec<(&'a DeValue<'text>, Span)> {
    match value {
        DeValue::Array(array) => array.iter().map(|e| (e.get_ref(), e.span().into())).collect(),
        single => vec![(single, span)],
    }
}

/// Reports a key that is not one of the section's.
fn refuse(section: &Vocabulary, key: &str, span: Span, errors: &mut Findings) {
    if section.later.contains(&key) {
        errors.wrong(span, format!("{} is not supported yet", quote(key)));
        return;
    }
    let title = section.title;
    let finding = errors.wrong(span, format!("unknown key {} in {title}", quote(key)));
    let homes = homes(key);
    if !homes.is_empty() {
        finding.note(format!("'{key}' is a key of {}", homes.join(", ")));
    }
    if let Some(near) = nearest(key, section.all()) {
        finding.help(format!("did you mean '{near}'?"));
    }
}
