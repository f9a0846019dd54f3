//! The access logs of a host or a route.

use std::sync::Arc;

use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::schema::log_words::{find_format, parse_sink_word};
use crate::config::settings::LogSettings;
use crate::routes::AccessLogSpec;
use crate::units::LogSink;

/// An access log as far as it is read.
pub(super) struct AccessLogDraft {
    sink: LogSink,
    /// The name of its format; `None` for the format of `[log]`.
    format_name: Option<SpannedValue<String>>,
}

/// Reads a list of access logs; empty for `off`.
pub(super) fn parse_access_logs(value: &TomlValue<'_>) -> ReadResult<Vec<AccessLogDraft>> {
    let logs = value.map_list(parse_access_log)?;
    match logs.as_slice() {
        [] => Err(value.invalid()),
        [AccessLogDraft { sink: LogSink::Off, .. }] => Ok(Vec::new()),
        logs if logs.iter().any(|log| log.sink == LogSink::Off) => {
            let issue = value.diagnostic(format!("`{}` is `off` and names a log", value.key));
            Err(issue.with_help("keep one of them").into())
        }
        _ => Ok(logs),
    }
}

/// Reads `off`, `stdout`, `stderr` or a path, with the name of a format behind it or not.
fn parse_access_log(value: &TomlValue<'_>) -> ReadResult<AccessLogDraft> {
    let mut words = value.words()?.into_iter();
    let sink = words.next().ok_or_else(|| value.invalid())?;
    let sink = parse_sink_word(value, &sink.value)?;
    let format_name = words.next();
    match words.next().or_else(|| format_name.clone().filter(|_| sink == LogSink::Off)) {
        Some(word) => {
            let issue = word.span.diagnostic(format!("`{}` has one word too many: `{}`", value.key, word.value));
            Err(issue.with_help(format!("`{}` takes {}", value.key, value.expected)).into())
        }
        None => Ok(AccessLogDraft { sink, format_name }),
    }
}

/// Returns the access logs with their formats.
///
/// *Errors*: those of unknown formats are added to `errors`.
pub(super) fn resolve_access_logs(
    drafts: &[AccessLogDraft],
    log: &LogSettings,
    errors: &mut Vec<Diagnostic>,
) -> Arc<[AccessLogSpec]> {
    let mut specs = Vec::new();
    for AccessLogDraft { sink, format_name } in drafts {
        let format =
            format_name.as_ref().map_or_else(|| Ok(log.format.clone()), |name| find_format(name, &log.formats));
        match format {
            Ok(format) => specs.push(AccessLogSpec { sink: sink.clone(), format }),
            Err(error) => errors.push(error),
        }
    }
    specs.into()
}
