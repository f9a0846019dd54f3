//! The keys of the logs: formats in nginx's language, by name or on the spot.

use std::collections::BTreeMap;

use toml::de::DeValue;

use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::suggest::{closest_match, suggestion};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::log_format::{
    BUILT_IN_FORMATS, LogEscape, LogFormat, LogFormatError, ValueAvailability, available_variable_names,
};
use crate::telemetry::LogLevel;

/// nginx's names, and what they mean here.
pub(in crate::config) const LEVELS: [(&str, LogLevel); 8] = [
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

/// Reads `format` where it is a format itself; `None` where it is a name.
pub(in crate::config) fn parse_inline_format(value: &TomlValue<'_>) -> ReadResult<Option<LogFormat>> {
    if value.string()?.contains('$') { parse_format(value, LogEscape::Default).map(Some) } else { Ok(None) }
}

/// The name that `format` gives, to be looked up once all formats are known.
pub(in crate::config) fn parse_format_name(value: &TomlValue<'_>) -> Option<SpannedValue<String>> {
    let name = value.string().ok()?;
    (!name.contains('$')).then(|| value.spanned(name.into_owned()))
}

/// Finds a format by name.
pub(in crate::config) fn find_format(
    name: &SpannedValue<String>,
    named: &BTreeMap<String, LogFormat>,
) -> Result<LogFormat, Diagnostic> {
    named.get(&name.value).cloned().or_else(|| LogFormat::built_in(&name.value)).ok_or_else(|| {
        let known: Vec<&str> = BUILT_IN_FORMATS.into_iter().chain(named.keys().map(String::as_str)).collect();
        name.span.diagnostic(format!("unknown format `{}`", name.value)).with_help(suggestion(
            &name.value,
            "formats",
            &known,
        ))
    })
}

/// Reads `[log.formats]`. A name whose format is wrong is a name all the same, so that nothing else is said of it.
pub(in crate::config) fn parse_named_formats(
    value: &TomlValue<'_>,
    formats: &mut BTreeMap<String, LogFormat>,
) -> ReadResult<()> {
    let DeValue::Table(table) = value.raw else { return Err(value.invalid()) };
    let mut issues = Vec::new();
    formats.clear();
    for (key, given) in table {
        let name = key.get_ref().as_ref();
        if BUILT_IN_FORMATS.contains(&name) {
            let issue = value.span.with_range(key.span()).diagnostic(format!("the format `{name}` is built in"));
            issues.push(issue.with_help("give this one another name"));
            continue;
        }
        let wants = "a format such as '$remote_addr $status', or { format = '...', escape = \"json\" }";
        let entry = TomlValue {
            key: name,
            expected: wants,
            raw: given.get_ref(),
            span: value.span.with_range(given.span()),
            unquoted: value.unquoted,
        };
        let format = parse_format_entry(&entry).unwrap_or_else(|mut found| {
            issues.append(&mut found);
            LogFormat::default()
        });
        formats.insert(name.to_owned(), format);
    }
    if issues.is_empty() { Ok(()) } else { Err(issues) }
}

/// Reads one entry of `[log.formats]`.
fn parse_format_entry(value: &TomlValue<'_>) -> ReadResult<LogFormat> {
    let DeValue::Table(table) = value.raw else { return parse_format(value, LogEscape::Default) };
    let mut issues = Vec::new();
    let (mut text, mut escape) = (None, LogEscape::Default);
    for (key, given) in table {
        let (name, wants) = (key.get_ref().as_ref(), "\"default\", \"json\" or \"none\"");
        let at = value.span.with_range(given.span());
        let given = TomlValue { key: name, raw: given.get_ref(), span: at, expected: wants, unquoted: value.unquoted };
        match name {
            "format" => text = Some(TomlValue { expected: "a format such as '$remote_addr $status'", ..given }),
            "escape" => match given.one_of("escapes", &ESCAPES) {
                Ok(read) => escape = read,
                Err(mut found) => issues.append(&mut found),
            },
            _ => {
                let issue = value.span.with_range(key.span()).diagnostic(format!("unknown key `{name}` of a format"));
                issues.push(issue.with_help(suggestion(name, "keys", &["format", "escape"])));
            }
        }
    }
    match text.map(|text| parse_format(&text, escape)) {
        Some(Ok(format)) if issues.is_empty() => return Ok(format),
        Some(Ok(_)) => {}
        Some(Err(mut found)) => issues.append(&mut found),
        None => issues
            .push(value.diagnostic("`format` is missing").with_help("write { format = '...', escape = \"json\" }")),
    }
    Err(issues)
}

/// Takes a format apart, a string or the strings of a list one after the other, as nginx's `log_format` does.
fn parse_format(value: &TomlValue<'_>, escape: LogEscape) -> ReadResult<LogFormat> {
    let pieces = value.map_list(|piece| {
        let text = piece.string()?.into_owned();
        LogFormat::new(&text, escape).map_err(|bad| diagnose_format(piece, &text, &bad, ValueAvailability::AtEnd))?;
        Ok(text)
    })?;
    LogFormat::new(&pieces.concat(), escape).map_err(|bad| value.diagnostic(bad.to_string()).into())
}

/// Says what is wrong with a format, and which variables have a value by then.
pub(in crate::config) fn diagnose_format(
    value: &TomlValue<'_>,
    text: &str,
    bad: &LogFormatError,
    by: ValueAvailability,
) -> Vec<Diagnostic> {
    let (LogFormatError::UnknownVariable { span: at, .. }
    | LogFormatError::NotYetAvailable { span: at, .. }
    | LogFormatError::MissingName { span: at }
    | LogFormatError::UnclosedBrace { span: at }) = bad;
    let issue = value.subspan(text, at.clone()).diagnostic(bad.to_string());
    let (LogFormatError::UnknownVariable { name, .. } | LogFormatError::NotYetAvailable { name, .. }) = bad else {
        return issue.into();
    };
    let known = available_variable_names(by);
    if matches!(bad, LogFormatError::NotYetAvailable { .. }) {
        return issue.with_help(format!("variables known then: {}", known.join(", "))).into();
    }
    let help = match closest_match(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `${near}`?"),
        None => format!("variables: {}", known.join(", ")),
    };
    issue.with_help(help).into()
}
