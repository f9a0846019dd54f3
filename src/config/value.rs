//! One configured value, and what it can be read as.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use super::amount;
use super::nearest::suggest;
use super::report::{At, Issue, Place, conceals};

/// What reading gives: all that is wrong, not only the first.
pub(crate) type Read<T> = Result<T, Vec<Issue>>;

/// A value, where it is and what it is for.
#[derive(Clone)]
pub(super) struct Value<'a> {
    /// The key it belongs to, for messages.
    pub(super) key: &'a str,
    /// What the key takes, as the end of "`key` takes ...".
    pub(super) wants: &'a str,
    pub(super) given: &'a DeValue<'a>,
    pub(super) at: Place,
    /// From the environment: a string need not be quoted, so anything can be one.
    pub(super) unquoted: bool,
}

impl<'a> Value<'a> {
    pub(super) fn flag(&self) -> Read<bool> {
        self.given.as_bool().ok_or_else(|| self.wrong())
    }

    pub(super) fn text(&self) -> Read<Cow<'a, str>> {
        match self.given {
            DeValue::String(text) => Ok(Cow::Borrowed(text)),
            DeValue::Array(_) | DeValue::Table(_) => Err(self.wrong()),
            _ if self.unquoted => Ok(Cow::Owned(self.at.written().to_owned())),
            _ => Err(self.wrong()),
        }
    }

    /// A whole number of at least `least`.
    pub(super) fn count(&self, least: usize) -> Read<usize> {
        let number = self.given.as_integer().and_then(|n| usize::from_str_radix(n.as_str(), n.radix()).ok());
        number.filter(|n| *n >= least).ok_or_else(|| self.wrong())
    }

    /// A number of bytes of at least `least`.
    pub(super) fn size(&self, least: usize) -> Read<usize> {
        self.amount().and_then(|text| amount::size(&text)).filter(|n| *n >= least).ok_or_else(|| self.wrong())
    }

    /// A time, 0 included.
    pub(super) fn time(&self) -> Read<Duration> {
        self.amount().and_then(|text| amount::time(&text)).ok_or_else(|| self.wrong())
    }

    /// A time that must pass for anything to work.
    pub(super) fn some_time(&self) -> Read<Duration> {
        self.time()?.checked_sub(Duration::from_nanos(1)).ok_or_else(|| self.wrong())?;
        self.time()
    }

    /// The values of a list; one value counts as a list of one.
    pub(super) fn list(&self) -> Vec<Value<'a>> {
        match self.given {
            DeValue::Array(items) => items
                .iter()
                .map(|item| Value { given: item.get_ref(), at: self.at.at(item.span()), ..self.clone() })
                .collect(),
            _ => vec![self.clone()],
        }
    }

    /// Each value of a list as `read` takes it; all that is wrong with any.
    pub(super) fn each<T>(&self, mut read: impl FnMut(&Value<'a>) -> Read<T>) -> Read<Vec<T>> {
        let mut issues = Vec::new();
        let mut all = Vec::new();
        for item in self.list() {
            match read(&item) {
                Ok(one) => all.push(one),
                Err(mut found) => issues.append(&mut found),
            }
        }
        if issues.is_empty() { Ok(all) } else { Err(issues) }
    }

    /// The one of `known` that the text names; `what` is its plural.
    pub(super) fn one_of<T: Copy>(&self, what: &str, known: &[(&str, T)]) -> Read<T> {
        let text = self.text()?;
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| {
            self.at.issue(format!("unknown {} `{text}`", self.key)).help(suggest(&text, what, &names)).into()
        })
    }

    /// The text's words with their places; all at the whole value where escapes keep the two apart.
    pub(super) fn words(&self) -> Read<Vec<At<String>>> {
        let text = self.text()?;
        let place = |word: &str| {
            // Where the word is in `text`: both are slices of one string.
            let from = word.as_ptr() as usize - text.as_ptr() as usize;
            self.within(&text, from..from + word.len())
        };
        Ok(text.split_whitespace().map(|word| At::new(word.to_owned(), place(word))).collect())
    }

    /// The place of a part of the value's text; the whole value where escapes keep the two apart.
    pub(super) fn within(&self, text: &str, part: Range<usize>) -> Place {
        let written = self.at.written();
        let quotes = ["\"", "'", "\"\"\"", "'''", ""].iter().find(|quote| {
            let inner = written.strip_prefix(**quote).and_then(|rest| rest.strip_suffix(**quote));
            inner == Some(text)
        });
        match quotes.map(|quote| self.at.start() + quote.len()) {
            Some(start) => self.at.at(start + part.start..start + part.end),
            None => self.at.clone(),
        }
    }

    /// What was read, and where.
    pub(super) fn here<T>(&self, value: T) -> At<T> {
        At::new(value, self.at.clone())
    }

    pub(super) fn issue(&self, message: impl Into<String>) -> Issue {
        self.at.issue(message)
    }

    /// Says what the key was given, and what it takes.
    pub(super) fn wrong(&self) -> Vec<Issue> {
        let secret = conceals(&format!("{} =", self.key));
        let given = match self.given {
            DeValue::String(text) if !secret => format!("`{text}`"),
            DeValue::Integer(number) if !secret => format!("`{number}`"),
            DeValue::Float(number) if !secret => format!("`{number}`"),
            other => kind(other).to_owned(),
        };
        let issue = self.issue(format!("`{}` cannot be {given}", self.key));
        issue.help(format!("`{}` takes {}", self.key, self.wants)).into()
    }

    /// The text that times and sizes are read from, numbers included.
    fn amount(&self) -> Option<Cow<'a, str>> {
        match self.given {
            DeValue::String(text) => Some(Cow::Borrowed(text)),
            DeValue::Integer(number) if number.radix() == 10 => Some(Cow::Borrowed(number.as_str())),
            DeValue::Float(number) => Some(Cow::Borrowed(number.as_str())),
            _ => None,
        }
    }
}

/// What TOML calls a value, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
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
