//! The words of logs: destinations, and names of formats.

use std::collections::BTreeMap;

use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::suggest::{closest_match, suggestion};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::log_format::{BUILT_IN_FORMATS, LogFormat};
use crate::units::LogSink;

pub(super) const EXPECTED_SINK: &str = "\"stdout\", \"stderr\", \"off\" or a path with a `/`";

/// Reads a log's destination.
pub(super) fn parse_log_sink(value: &TomlValue<'_>) -> ReadResult<LogSink> {
    parse_sink_word(value, &value.string()?)
}

/// Reads the word of `value` that is a log's destination. A path must have a slash, so that `stdot` is not a file.
pub(super) fn parse_sink_word(value: &TomlValue<'_>, word: &str) -> ReadResult<LogSink> {
    match word {
        "off" => Ok(LogSink::Off),
        "stdout" => Ok(LogSink::Stdout),
        "stderr" => Ok(LogSink::Stderr),
        path if path.contains('/') && !path.ends_with('/') => Ok(LogSink::File(path.into())),
        word => {
            let Some(near) = closest_match(word, ["stdout", "stderr", "off"]) else { return Err(value.invalid()) };
            let diagnostic = value.diagnostic(format!("`{}` cannot be `{word}`", value.key));
            let help = format!("did you mean `{near}`? `{}` takes {}", value.key, value.expected);
            Err(diagnostic.with_help(help).into())
        }
    }
}

/// Returns the format called `name`.
///
/// *Errors*: there is none.
pub(in crate::config) fn find_format(
    name: &SpannedValue<String>,
    named: &BTreeMap<String, LogFormat>,
) -> Result<LogFormat, Diagnostic> {
    let SpannedValue { value: name, span } = name;
    named.get(name).cloned().or_else(|| LogFormat::built_in(name)).ok_or_else(|| {
        let known: Vec<&str> = BUILT_IN_FORMATS.into_iter().chain(named.keys().map(String::as_str)).collect();
        span.diagnostic(format!("unknown format `{name}`")).with_help(suggestion(name, "formats", &known))
    })
}
