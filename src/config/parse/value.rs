//! One configured value, and what it can be read as.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use super::suggest::suggestion;
use super::units;
use crate::config::diagnostics::{Diagnostic, Span, SpannedValue, may_hold_secret};

/// What reading gives: all that is wrong, not only the first.
pub(crate) type ReadResult<T> = Result<T, Vec<Diagnostic>>;

/// A value, where it is and what it is for.
#[derive(Clone)]
pub(in crate::config) struct TomlValue<'a> {
    /// The key it belongs to, for messages.
    pub(in crate::config) key: &'a str,
    /// What the key takes, as the end of "`key` takes ...".
    pub(in crate::config) expected: &'a str,
    pub(in crate::config) raw: &'a DeValue<'a>,
    pub(in crate::config) span: Span,
    /// From the environment: a string need not be quoted, so anything can be one.
    pub(in crate::config) unquoted: bool,
}

impl<'a> TomlValue<'a> {
    pub(in crate::config) fn boolean(&self) -> ReadResult<bool> {
        self.raw.as_bool().ok_or_else(|| self.invalid())
    }

    pub(in crate::config) fn string(&self) -> ReadResult<Cow<'a, str>> {
        match self.raw {
            DeValue::String(text) => Ok(Cow::Borrowed(text)),
            DeValue::Array(_) | DeValue::Table(_) => Err(self.invalid()),
            _ if self.unquoted => Ok(Cow::Owned(self.span.text().to_owned())),
            _ => Err(self.invalid()),
        }
    }

    /// A whole number of at least `least`.
    pub(in crate::config) fn integer(&self, least: usize) -> ReadResult<usize> {
        let number = self.raw.as_integer().and_then(|n| usize::from_str_radix(n.as_str(), n.radix()).ok());
        number.filter(|n| *n >= least).ok_or_else(|| self.invalid())
    }

    /// A number of bytes of at least `least`.
    pub(in crate::config) fn byte_size(&self, least: usize) -> ReadResult<usize> {
        self.quantity_text()
            .and_then(|text| units::parse_size(&text))
            .filter(|n| *n >= least)
            .ok_or_else(|| self.invalid())
    }

    /// A time, 0 included.
    pub(in crate::config) fn duration(&self) -> ReadResult<Duration> {
        self.quantity_text().and_then(|text| units::parse_duration(&text)).ok_or_else(|| self.invalid())
    }

    /// A time that must pass for anything to work.
    pub(in crate::config) fn positive_duration(&self) -> ReadResult<Duration> {
        self.duration()?.checked_sub(Duration::from_nanos(1)).ok_or_else(|| self.invalid())?;
        self.duration()
    }

    /// The values of a list; one value counts as a list of one.
    pub(in crate::config) fn items(&self) -> Vec<TomlValue<'a>> {
        match self.raw {
            DeValue::Array(items) => items
                .iter()
                .map(|item| TomlValue { raw: item.get_ref(), span: self.span.with_range(item.span()), ..self.clone() })
                .collect(),
            _ => vec![self.clone()],
        }
    }

    /// Each value of a list as `read` takes it; all that is wrong with any.
    pub(in crate::config) fn map_list<T>(
        &self,
        mut read: impl FnMut(&TomlValue<'a>) -> ReadResult<T>,
    ) -> ReadResult<Vec<T>> {
        let mut issues = Vec::new();
        let mut all = Vec::new();
        for item in self.items() {
            match read(&item) {
                Ok(one) => all.push(one),
                Err(mut found) => issues.append(&mut found),
            }
        }
        if issues.is_empty() { Ok(all) } else { Err(issues) }
    }

    /// The one of `known` that the text names; `what` is its plural.
    pub(in crate::config) fn one_of<T: Copy>(&self, what: &str, known: &[(&str, T)]) -> ReadResult<T> {
        let text = self.string()?;
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| {
            self.span
                .diagnostic(format!("unknown {} `{text}`", self.key))
                .with_help(suggestion(&text, what, &names))
                .into()
        })
    }

    /// The text's words with their places; all at the whole value where escapes keep the two apart.
    pub(in crate::config) fn words(&self) -> ReadResult<Vec<SpannedValue<String>>> {
        let text = self.string()?;
        let place = |word: &str| {
            // Where the word is in `text`: both are slices of one string.
            let from = word.as_ptr() as usize - text.as_ptr() as usize;
            self.subspan(&text, from..from + word.len())
        };
        Ok(text.split_whitespace().map(|word| SpannedValue::new(word.to_owned(), place(word))).collect())
    }

    /// The place of a part of the value's text; the whole value where escapes keep the two apart.
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

    /// What was read, and where.
    pub(in crate::config) fn spanned<T>(&self, value: T) -> SpannedValue<T> {
        SpannedValue::new(value, self.span.clone())
    }

    pub(in crate::config) fn diagnostic(&self, message: impl Into<String>) -> Diagnostic {
        self.span.diagnostic(message)
    }

    /// Says what the key was given, and what it takes.
    pub(in crate::config) fn invalid(&self) -> Vec<Diagnostic> {
        let secret = may_hold_secret(&format!("{} =", self.key));
        let given = match self.raw {
            DeValue::String(text) if !secret => format!("`{text}`"),
            DeValue::Integer(number) if !secret => format!("`{number}`"),
            DeValue::Float(number) if !secret => format!("`{number}`"),
            other => type_name(other).to_owned(),
        };
        let issue = self.diagnostic(format!("`{}` cannot be {given}", self.key));
        issue.with_help(format!("`{}` takes {}", self.key, self.expected)).into()
    }

    /// The text that times and sizes are read from, numbers included.
    fn quantity_text(&self) -> Option<Cow<'a, str>> {
        match self.raw {
            DeValue::String(text) => Some(Cow::Borrowed(text)),
            DeValue::Integer(number) if number.radix() == 10 => Some(Cow::Borrowed(number.as_str())),
            DeValue::Float(number) => Some(Cow::Borrowed(number.as_str())),
            _ => None,
        }
    }
}

/// What TOML calls a value, with its article.
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
