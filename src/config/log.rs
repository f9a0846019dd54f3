//! The keys of the logs: formats in nginx's language, by name or on the spot.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::nearest::{nearest, suggest};
use super::report::{At, Issue};
use super::value::{Read, Value};
use crate::telemetry::{BUILT_IN, BadFormat, Escape, Format, Known, Level, known_variables};

/// nginx's names, and what they mean here.
pub(super) const LEVELS: [(&str, Level); 8] = [
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("notice", Level::Info),
    ("debug", Level::Info),
    ("crit", Level::Error),
    ("alert", Level::Error),
    ("emerg", Level::Error),
];
const ESCAPES: [(&str, Escape); 3] = [("default", Escape::Default), ("json", Escape::Json), ("none", Escape::None)];

/// Reads `format` where it is a format itself; `None` where it is a name.
pub(super) fn direct(value: &Value<'_>) -> Read<Option<Format>> {
    if value.text()?.contains('$') { format(value, Escape::Default).map(Some) } else { Ok(None) }
}

/// The name that `format` gives, to be looked up once all formats are known.
pub(super) fn name(value: &Value<'_>) -> Option<At<String>> {
    let name = value.text().ok()?;
    (!name.contains('$')).then(|| value.here(name.into_owned()))
}

/// Finds a format by name.
pub(super) fn find(name: &At<String>, named: &BTreeMap<String, Format>) -> Result<Format, Issue> {
    named.get(&name.value).cloned().or_else(|| Format::built_in(&name.value)).ok_or_else(|| {
        let known: Vec<&str> = BUILT_IN.into_iter().chain(named.keys().map(String::as_str)).collect();
        name.at.issue(format!("unknown format `{}`", name.value)).help(suggest(&name.value, "formats", &known))
    })
}

/// Reads `[log.formats]`. A name whose format is wrong is a name all the same, so that nothing else is said of it.
pub(super) fn named(value: &Value<'_>, formats: &mut BTreeMap<String, Format>) -> Read<()> {
    let DeValue::Table(table) = value.given else { return Err(value.wrong()) };
    let mut issues = Vec::new();
    formats.clear();
    for (key, given) in table {
        let name = key.get_ref().as_ref();
        if BUILT_IN.contains(&name) {
            let issue = value.at.at(key.span()).issue(format!("the format `{name}` is built in"));
            issues.push(issue.help("give this one another name"));
            continue;
        }
        let wants = "a format such as '$remote_addr $status', or { format = '...', escape = \"json\" }";
        let entry =
            Value { key: name, wants, given: given.get_ref(), at: value.at.at(given.span()), unquoted: value.unquoted };
        let format = one(&entry).unwrap_or_else(|mut found| {
            issues.append(&mut found);
            Format::default()
        });
        formats.insert(name.to_owned(), format);
    }
    if issues.is_empty() { Ok(()) } else { Err(issues) }
}

/// Reads one entry of `[log.formats]`.
fn one(value: &Value<'_>) -> Read<Format> {
    let DeValue::Table(table) = value.given else { return format(value, Escape::Default) };
    let mut issues = Vec::new();
    let (mut text, mut escape) = (None, Escape::Default);
    for (key, given) in table {
        let (name, wants) = (key.get_ref().as_ref(), "\"default\", \"json\" or \"none\"");
        let at = value.at.at(given.span());
        let given = Value { key: name, given: given.get_ref(), at, wants, unquoted: value.unquoted };
        match name {
            "format" => text = Some(Value { wants: "a format such as '$remote_addr $status'", ..given }),
            "escape" => match given.one_of("escapes", &ESCAPES) {
                Ok(read) => escape = read,
                Err(mut found) => issues.append(&mut found),
            },
            _ => {
                let issue = value.at.at(key.span()).issue(format!("unknown key `{name}` of a format"));
                issues.push(issue.help(suggest(name, "keys", &["format", "escape"])));
            }
        }
    }
    match text.map(|text| format(&text, escape)) {
        Some(Ok(format)) if issues.is_empty() => return Ok(format),
        Some(Ok(_)) => {}
        Some(Err(mut found)) => issues.append(&mut found),
        None => issues.push(value.issue("`format` is missing").help("write { format = '...', escape = \"json\" }")),
    }
    Err(issues)
}

/// Takes a format apart, a string or the strings of a list one after the other, as nginx's `log_format` does.
fn format(value: &Value<'_>, escape: Escape) -> Read<Format> {
    let pieces = value.each(|piece| {
        let text = piece.text()?.into_owned();
        Format::new(&text, escape).map_err(|bad| explain(piece, &text, &bad, Known::Ended))?;
        Ok(text)
    })?;
    Format::new(&pieces.concat(), escape).map_err(|bad| value.issue(bad.to_string()).into())
}

/// Says what is wrong with a format, and which variables have a value by then.
pub(super) fn explain(value: &Value<'_>, text: &str, bad: &BadFormat, by: Known) -> Vec<Issue> {
    let (BadFormat::Unknown { at, .. }
    | BadFormat::Early { at, .. }
    | BadFormat::Bare { at }
    | BadFormat::Unclosed { at }) = bad;
    let issue = value.within(text, at.clone()).issue(bad.to_string());
    let (BadFormat::Unknown { name, .. } | BadFormat::Early { name, .. }) = bad else { return issue.into() };
    let known = known_variables(by);
    if matches!(bad, BadFormat::Early { .. }) {
        return issue.help(format!("variables known then: {}", known.join(", "))).into();
    }
    let help = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `${near}`?"),
        None => format!("variables: {}", known.join(", ")),
    };
    issue.help(help).into()
}
