//! The keys of `[log]`, and formats in nginx's `log_format` language.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::key_spec::{KeySpec, read_table, unknown_key};
use super::log_words::{EXPECTED_SINK, parse_log_sink};
use super::settings_draft::SettingsDraft;
use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::suggest::closest_match;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::log_format::{
    BUILT_IN_FORMATS, LogEscape, LogFormat, LogFormatError, ValueAvailability, available_variable_names,
};
use crate::units::LogLevel;

pub(super) static LOG_SCHEMA: &[KeySpec<SettingsDraft>] = &[
    KeySpec {
        name: "access",
        expected: EXPECTED_SINK,
        default: "\"stdout\"",
        doc: "The access log: one line per request. Hosts and routes may have others, see their `access_log`.",
        set: |d, v| parse_log_sink(v).map(|sink| d.settings.log.access = sink),
    },
    KeySpec {
        name: "format",
        expected: "\"text\", \"json\", \"combined\", a name from `formats`, or a format such as '$remote_addr $status'",
        default: "\"text\"",
        doc: "The format of the access log: `text` for people, `json` for one object a line, `combined` as in nginx.",
        set: set_format,
    },
    KeySpec {
        name: "formats",
        expected: "formats by name, such as { main = '$remote_addr $status' }",
        default: "{}",
        doc: "Named formats in nginx's `log_format` language; a table `{ format = '...', escape = \"json\" }` sets how \
              values are escaped: `default`, `json` or `none`.",
        set: |d, v| parse_named_formats(v, &mut d.settings.log.formats),
    },
    KeySpec {
        name: "error",
        expected: EXPECTED_SINK,
        default: "\"stderr\"",
        doc: "The error log.",
        set: |d, v| parse_log_sink(v).map(|sink| d.settings.log.error = sink),
    },
    KeySpec {
        name: "level",
        expected: "\"error\", \"warn\" or \"info\"",
        default: "\"info\"",
        doc: "The lowest level written to the error log; nginx's other levels are accepted too.",
        set: |d, v| v.one_of("levels", &LEVELS).map(|level| d.settings.log.level = level),
    },
];

/// nginx's levels and the levels that they are here.
const LEVELS: [(&str, LogLevel); 8] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("notice", LogLevel::Info),
    ("debug", LogLevel::Info),
    ("crit", LogLevel::Error),
    ("alert", LogLevel::Error),
    ("emerg", LogLevel::Error),
];
const ESCAPES: [(&str, LogEscape); 3] =
    [("default", LogEscape::Default), ("json", LogEscape::Json), ("none", LogEscape::None)];

/// A format as far as it is read.
#[derive(Default)]
struct FormatDraft {
    text: Option<String>,
    escape: LogEscape,
}

static FORMAT_SCHEMA: &[KeySpec<FormatDraft>] = &[
    KeySpec {
        name: "format",
        expected: "a format such as '$remote_addr $status'",
        default: "",
        doc: "The text with its variables.",
        set: |d, v| parse_format_text(v).map(|text| d.text = Some(text)),
    },
    KeySpec {
        name: "escape",
        expected: "\"default\", \"json\" or \"none\"",
        default: "\"default\"",
        doc: "How values are escaped.",
        set: |d, v| v.one_of("escapes", &ESCAPES).map(|escape| d.escape = escape),
    },
];

/// Sets the format, or its name, which is looked up once all formats are known.
fn set_format(draft: &mut SettingsDraft, value: &TomlValue<'_>) -> ReadResult<()> {
    let text = value.string()?;
    if text.contains('$') {
        draft.format_name = None;
        draft.settings.log.format = parse_format(value)?;
    } else {
        draft.format_name = Some(value.spanned(text.into_owned()));
    }
    Ok(())
}

/// Reads `formats`. The name of a wrong format is kept, so that `format` can still refer to it without a second error.
fn parse_named_formats(value: &TomlValue<'_>, formats: &mut BTreeMap<String, LogFormat>) -> ReadResult<()> {
    let mut errors = Vec::new();
    formats.clear();
    for entry in value.entries()? {
        let SpannedValue { value: name, span } = &entry.key;
        if BUILT_IN_FORMATS.contains(name) {
            let diagnostic = span.diagnostic(format!("the format `{name}` is built in"));
            errors.push(diagnostic.with_help("choose another name"));
            continue;
        }
        let expected = "a format such as '$remote_addr $status', or { format = '...', escape = \"json\" }";
        let format = parse_format(&entry.to_value(expected)).unwrap_or_else(|more| {
            errors.extend(more);
            LogFormat::default()
        });
        formats.insert((*name).to_owned(), format);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Reads one format, which is its text or a table.
fn parse_format(value: &TomlValue<'_>) -> ReadResult<LogFormat> {
    let mut draft = FormatDraft::default();
    if matches!(value.raw, DeValue::Table(_)) {
        let entries = value.entries()?;
        let mut errors =
            read_table(FORMAT_SCHEMA, &entries, &mut draft, |key| unknown_key(FORMAT_SCHEMA, "a format", key));
        if !entries.iter().any(|entry| entry.key.value == "format") {
            let diagnostic = value.diagnostic("`format` is missing");
            errors.push(diagnostic.with_help("write { format = '...', escape = \"json\" }"));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
    } else {
        draft.text = Some(parse_format_text(value)?);
    }
    compile(value, &draft.text.unwrap_or_default(), draft.escape)
}

/// Reads the text of a format: a string, or the strings of a list joined, as nginx's `log_format` does.
fn parse_format_text(value: &TomlValue<'_>) -> ReadResult<String> {
    let pieces = value.map_list(|piece| {
        let text = piece.string()?.into_owned();
        LogFormat::new(&text, LogEscape::Default)
            .map_err(|error| diagnose_format(piece, &text, &error, ValueAvailability::AtEnd))?;
        Ok(text)
    })?;
    let text = pieces.concat();
    compile(value, &text, LogEscape::Default)?;
    Ok(text)
}

fn compile(value: &TomlValue<'_>, text: &str, escape: LogEscape) -> ReadResult<LogFormat> {
    LogFormat::new(text, escape).map_err(|error| value.diagnostic(error.to_string()).into())
}

/// Returns the error of a format with the variables that are available at that time.
pub(super) fn diagnose_format(
    value: &TomlValue<'_>,
    text: &str,
    error: &LogFormatError,
    availability: ValueAvailability,
) -> Vec<Diagnostic> {
    let (LogFormatError::UnknownVariable { span, .. }
    | LogFormatError::NotYetAvailable { span, .. }
    | LogFormatError::MissingName { span }
    | LogFormatError::UnclosedBrace { span }) = error;
    let diagnostic = value.subspan(text, span.clone()).diagnostic(error.to_string());
    let (LogFormatError::UnknownVariable { name, .. } | LogFormatError::NotYetAvailable { name, .. }) = error else {
        return diagnostic.into();
    };
    let known = available_variable_names(availability);
    if matches!(error, LogFormatError::NotYetAvailable { .. }) {
        return diagnostic.with_help(format!("variables available then: {}", known.join(", "))).into();
    }
    let help = match closest_match(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `${near}`?"),
        None => format!("variables: {}", known.join(", ")),
    };
    diagnostic.with_help(help).into()
}
