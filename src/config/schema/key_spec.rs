//! One key as a row of a table, and the reader of such tables.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::suggest::key_suggestion;
use crate::config::parse::value::{ReadResult, TomlEntry, TomlValue};
use crate::units::ModelName;

/// One key. The row feeds the reader, the help of errors, docs/configuration.md, and the test of `config/router.toml`.
pub(in crate::config) struct KeySpec<T: 'static> {
    pub(in crate::config) name: &'static str,
    /// The accepted values, as the end of "`key` takes ...".
    pub(in crate::config) expected: &'static str,
    /// Its default as TOML; empty if there is none. A test compares it with the code's.
    pub(in crate::config) default: &'static str,
    /// Its meaning in one sentence.
    pub(in crate::config) doc: &'static str,
    /// Reads its value into a draft.
    pub(in crate::config) set: fn(&mut T, &TomlValue<'_>) -> ReadResult<()>,
}

pub(in crate::config) const EXPECTED_BOOLEAN: &str = "true or false";
pub(super) const EXPECTED_COUNT: &str = "a whole number from 1";
pub(super) const EXPECTED_DURATION: &str =
    "a time such as \"30s\", \"500ms\", \"1h30m\" or a number of seconds, up to 365 days";
pub(super) const EXPECTED_POSITIVE_DURATION: &str =
    "a time above 0 such as \"30s\", \"500ms\", \"1h30m\" or a number of seconds, up to 365 days";
pub(super) const EXPECTED_SIZE: &str = "a size from 1 such as \"32MiB\", \"64k\" or a number of bytes";

impl<T> KeySpec<T> {
    /// Reads an entry of this key into `draft` and returns the errors.
    pub(in crate::config) fn read(&self, draft: &mut T, entry: &TomlEntry<'_>) -> Vec<Diagnostic> {
        (self.set)(draft, &entry.to_value(self.expected)).err().unwrap_or_default()
    }
}

/// Returns the row of the key `name`.
pub(in crate::config) fn find_key<T>(rows: &'static [KeySpec<T>], name: &str) -> Option<&'static KeySpec<T>> {
    rows.iter().find(|row| row.name == name)
}

/// Returns the names of all keys.
pub(in crate::config) fn key_names<T>(rows: &'static [KeySpec<T>]) -> impl Iterator<Item = &'static str> {
    rows.iter().map(|row| row.name)
}

/// Reads the entries of a table into `draft`, each by its row, and returns the errors; `unknown` makes that of a key
/// without a row.
pub(in crate::config) fn read_table<T>(
    rows: &'static [KeySpec<T>],
    entries: &[TomlEntry<'_>],
    draft: &mut T,
    unknown: impl Fn(&SpannedValue<&str>) -> Diagnostic,
) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    for entry in entries {
        match find_key(rows, entry.key.value) {
            Some(row) => errors.extend(row.read(draft, entry)),
            None => errors.push(unknown(&entry.key)),
        }
    }
    errors
}

/// Returns the error of a key that a table does not have; `place` is the table in messages.
pub(in crate::config) fn unknown_key<T>(
    rows: &'static [KeySpec<T>],
    place: &str,
    key: &SpannedValue<&str>,
) -> Diagnostic {
    let SpannedValue { value: name, span } = key;
    let known: Vec<&str> = key_names(rows).collect();
    span.diagnostic(format!("unknown key `{name}` in {place}")).with_help(key_suggestion(name, &known))
}

/// Reads the path of a file.
pub(in crate::config) fn parse_file_path(value: &TomlValue<'_>) -> ReadResult<PathBuf> {
    let text = value.string()?;
    if is_file_path(&text) { Ok(text.as_ref().into()) } else { Err(value.invalid()) }
}

/// Returns whether a text can be the path of a file.
pub(crate) fn is_file_path(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('/') && !text.contains(char::is_control)
}

/// Reads a name.
pub(in crate::config) fn parse_name(value: &TomlValue<'_>) -> ReadResult<Arc<str>> {
    let text = value.string()?;
    if is_name(&text) { Ok((*text).into()) } else { Err(value.invalid()) }
}

/// Reads a model's name, or a pattern: the beginning of names, with a `*` behind it.
pub(in crate::config) fn parse_model_name(value: &TomlValue<'_>) -> ReadResult<ModelName> {
    let name = parse_name(value)?;
    let beginning = name.strip_suffix('*').unwrap_or(&name);
    if beginning.contains('*') {
        let error = value.span.diagnostic(format!("`{name}` has a `*` that is not at its end"));
        return Err(vec![
            error.with_help("a pattern is the beginning of names, such as \"claude-*\", or \"*\" for all"),
        ]);
    }
    Ok((&*name).into())
}

/// Returns whether a text can be a name: one line without spaces around it.
pub(crate) fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.trim() == text && !text.contains(char::is_control)
}

/// Returns whether a secret can be sent in a header.
pub(in crate::config) fn is_header_safe(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic())
}
