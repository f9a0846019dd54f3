//! One configured value and the types it can be read as; the entries of a table.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::suggest::suggestion;
use super::units;
use crate::config::diagnostics::{Diagnostic, Span, SpannedValue, may_hold_secret};

/// The result of reading: all errors, not only the first.
pub(crate) type ReadResult<T> = Result<T, Vec<Diagnostic>>;

/// A value, its place and its key.
#[derive(Clone)]
pub(in crate::config) struct TomlValue<'a> {
    /// The name of its key, for messages.
    pub(in crate::config) key: &'a str,
    /// The values that the key takes, as the end of "`key` takes ...".
    pub(in crate::config) expected: &'a str,
    pub(in crate::config) raw: &'a DeValue<'a>,
    pub(in crate::config) span: Span,
    /// Whether it is from the environment, where strings need no quotes and any value can be one.
    pub(super) unquoted: bool,
}

/// An entry of a TOML table: a key and its value.
pub(in crate::config) struct TomlEntry<'a> {
    pub(in crate::config) key: SpannedValue<&'a str>,
    pub(in crate::config) value: SpannedValue<&'a DeValue<'a>>,
    unquoted: bool,
}

impl<'a> TomlEntry<'a> {
    /// Returns an entry from the environment, where strings need no quotes.
    pub(in crate::config) fn from_variable(key: SpannedValue<&'a str>, value: SpannedValue<&'a DeValue<'a>>) -> Self {
        Self { key, value, unquoted: true }
    }

    /// Returns the entries of a table; `span` is any place in its source.
    pub(in crate::config) fn of_table(table: &'a DeTable<'a>, span: &Span) -> Vec<Self> {
        let entries = table.iter().map(|(key, value)| Self {
            key: SpannedValue::new(key.get_ref().as_ref(), span.with_range(key.span())),
            value: SpannedValue::new(value.get_ref(), span.with_range(value.span())),
            unquoted: false,
        });
        entries.collect()
    }

    /// Returns the entry's value; `expected` is what its key takes.
    pub(in crate::config) fn to_value(&self, expected: &'a str) -> TomlValue<'a> {
        let SpannedValue { value: raw, span } = &self.value;
        TomlValue { key: self.key.value, expected, raw, span: span.clone(), unquoted: self.unquoted }
    }
}

impl<'a> TomlValue<'a> {
    /// Reads `true` or `false`.
    pub(in crate::config) fn boolean(&self) -> ReadResult<bool> {
        self.raw.as_bool().ok_or_else(|| self.invalid())
    }

    /// Reads a string.
    pub(in crate::config) fn string(&self) -> ReadResult<Cow<'a, str>> {
        match self.raw {
            DeValue::String(text) => Ok(Cow::Borrowed(text)),
            DeValue::Array(_) | DeValue::Table(_) => Err(self.invalid()),
            _ if self.unquoted => Ok(Cow::Owned(self.span.text().to_owned())),
            _ => Err(self.invalid()),
        }
    }

    /// Reads a whole number of at least `min`.
    pub(in crate::config) fn integer(&self, min: usize) -> ReadResult<usize> {
        let number = self.raw.as_integer().and_then(|n| usize::from_str_radix(n.as_str(), n.radix()).ok());
        number.filter(|n| *n >= min).ok_or_else(|| self.invalid())
    }

    /// Reads a whole number of at least `min` that fits a `u32`.
    pub(in crate::config) fn integer_u32(&self, min: usize) -> ReadResult<u32> {
        u32::try_from(self.integer(min)?).map_err(|_| self.invalid())
    }

    /// Reads a size of at least `min` bytes.
    pub(in crate::config) fn byte_size(&self, min: usize) -> ReadResult<usize> {
        self.quantity_text()
            .and_then(|text| units::parse_size(&text))
            .filter(|n| *n >= min)
            .ok_or_else(|| self.invalid())
    }

    /// Reads a duration, which may be 0.
    pub(in crate::config) fn duration(&self) -> ReadResult<Duration> {
        self.quantity_text().and_then(|text| units::parse_duration(&text)).ok_or_else(|| self.invalid())
    }

    /// Reads a duration above 0.
    pub(in crate::config) fn positive_duration(&self) -> ReadResult<Duration> {
        let duration = self.duration()?;
        if duration.is_zero() { Err(self.invalid()) } else { Ok(duration) }
    }

    /// Returns the values of a list; a single value counts as a list of one.
    pub(super) fn items(&self) -> Vec<TomlValue<'a>> {
        match self.raw {
            DeValue::Array(items) => items
                .iter()
                .map(|item| TomlValue { raw: item.get_ref(), span: self.span.with_range(item.span()), ..self.clone() })
                .collect(),
            _ => vec![self.clone()],
        }
    }

    /// Reads each value of a list by `read`.
    ///
    /// *Errors*: those of every value.
    pub(in crate::config) fn map_list<T>(
        &self,
        mut read: impl FnMut(&TomlValue<'a>) -> ReadResult<T>,
    ) -> ReadResult<Vec<T>> {
        let mut errors = Vec::new();
        let mut values = Vec::new();
        for item in self.items() {
            match read(&item) {
                Ok(value) => values.push(value),
                Err(more) => errors.extend(more),
            }
        }
        if errors.is_empty() { Ok(values) } else { Err(errors) }
    }

    /// Returns the entries of a table.
    ///
    /// *Errors*: the value is no table.
    pub(in crate::config) fn entries(&self) -> ReadResult<Vec<TomlEntry<'a>>> {
        let DeValue::Table(table) = self.raw else { return Err(self.invalid()) };
        let entries = TomlEntry::of_table(table, &self.span).into_iter();
        Ok(entries.map(|entry| TomlEntry { unquoted: self.unquoted, ..entry }).collect())
    }

    /// Returns the value of `known` that the text names; `kind` is the plural of the names.
    pub(in crate::config) fn one_of<T: Copy>(&self, kind: &str, known: &[(&str, T)]) -> ReadResult<T> {
        let text = self.string()?;
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| {
            self.span
                .diagnostic(format!("unknown {} `{text}`", self.key))
                .with_help(suggestion(&text, kind, &names))
                .into()
        })
    }

    /// Returns the words of the text with their places; with escapes in the text, the place is the whole value.
    pub(in crate::config) fn words(&self) -> ReadResult<Vec<SpannedValue<String>>> {
        let text = self.string()?;
        let place = |word: &str| {
            // Both are slices of one string.
            let start = word.as_ptr() as usize - text.as_ptr() as usize;
            self.subspan(&text, start..start + word.len())
        };
        Ok(text.split_whitespace().map(|word| SpannedValue::new(word.to_owned(), place(word))).collect())
    }

    /// Returns the place of a part of the value's text; with escapes in the text, the place of the whole value.
    pub(in crate::config) fn subspan(&self, text: &str, part: Range<usize>) -> Span {
        let written = self.span.text();
        let quotes = ["\"", "'", "\"\"\"", "'''", ""].iter().find(|quote| {
            let inner = written.strip_prefix(**quote).and_then(|rest| rest.strip_suffix(**quote));
            inner == Some(text)
        });
        match quotes.map(|quote| self.span.start() + quote.len()) {
            Some(start) => self.span.with_range(start + part.start..start + part.end),
            None => self.span.clone(),
        }
    }

    /// Returns `value` with the place of this one.
    pub(in crate::config) fn spanned<T>(&self, value: T) -> SpannedValue<T> {
        SpannedValue::new(value, self.span.clone())
    }

    pub(in crate::config) fn diagnostic(&self, message: impl Into<String>) -> Diagnostic {
        self.span.diagnostic(message)
    }

    /// Returns the error for a value that the key does not take.
    pub(in crate::config) fn invalid(&self) -> Vec<Diagnostic> {
        let secret = may_hold_secret(&format!("{} =", self.key));
        let given = match self.raw {
            DeValue::String(text) if !secret => format!("`{text}`"),
            DeValue::Integer(number) if !secret => format!("`{number}`"),
            DeValue::Float(number) if !secret => format!("`{number}`"),
            other => type_name(other).to_owned(),
        };
        let diagnostic = self.diagnostic(format!("`{}` cannot be {given}", self.key));
        diagnostic.with_help(format!("`{}` takes {}", self.key, self.expected)).into()
    }

    /// Returns the text that durations and sizes are parsed from, numbers included.
    fn quantity_text(&self) -> Option<Cow<'a, str>> {
        match self.raw {
            DeValue::String(text) => Some(Cow::Borrowed(text)),
            DeValue::Integer(number) if number.radix() == 10 => Some(Cow::Borrowed(number.as_str())),
            DeValue::Float(number) => Some(Cow::Borrowed(number.as_str())),
            _ => None,
        }
    }
}

/// Returns the value's TOML type with its article.
pub(in crate::config) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
