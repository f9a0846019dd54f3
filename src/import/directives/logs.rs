//! Logs: targets, levels and formats.

use crate::import::blocks::BlockScope;
use crate::import::context::{ImportContext, ImportedKey};
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_toml;
use crate::log_format::{BUILT_IN_FORMATS, LogEscape, LogFormat};

/// nginx's levels of `error_log`; `log.level` has all of them.
const ERROR_LOG_LEVELS: [&str; 8] = ["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"];
/// The default format of `access_log`.
const COMBINED_FORMAT: &str = "combined";

/// `access_log off | PATH [FORMAT] [buffer=...] ...`.
pub(super) fn handle_access_log(context: &mut ImportContext, directive: &Directive) {
    let mut format = COMBINED_FORMAT.to_owned();
    for word in directive.args.iter().skip(1) {
        match word.text.split_once('=') {
            None if word.text == "gzip" => {
                report_option(context, directive, RemarkKind::Impossible, &word.text, "log files are not compressed");
            }
            None => format.clone_from(&word.text),
            Some(("if", _)) => {
                report_option(context, directive, RemarkKind::Impossible, &word.text, "every request is logged");
            }
            Some(("gzip", _)) => {
                report_option(context, directive, RemarkKind::Impossible, &word.text, "log files are not compressed");
            }
            Some(_) => report_option(
                context,
                directive,
                RemarkKind::NotNeeded,
                &word.text,
                "lines are buffered and written by a thread",
            ),
        }
    }
    // A server's log is more specific than the global one; a location's is an exception.
    let rank = match context.open.scope {
        BlockScope::Server => 2,
        BlockScope::Location => 0,
        _ => 1,
    };
    set_sink(context, directive, "log.access", rank);
    context.deferred.used_log_formats.push(format.clone());
    context.set_max("log.format", format, rank, directive);
}

/// `error_log PATH [LEVEL]`.
pub(super) fn handle_error_log(context: &mut ImportContext, directive: &Directive) {
    let rank = if context.open.scope == BlockScope::Server { 2 } else { 1 };
    match directive.arg(1) {
        "" => {}
        level if ERROR_LOG_LEVELS.contains(&level) => context.set_max("log.level", quote_toml(level), rank, directive),
        word => report_option(context, directive, RemarkKind::Impossible, word, "not a log level"),
    }
    set_sink(context, directive, "log.error", rank);
}

fn report_option(context: &mut ImportContext, directive: &Directive, kind: RemarkKind, word: &str, reason: &str) {
    context.report.add_remark_at(
        kind,
        format!("`{word}` of {}", directive.name.text),
        directive.source_line(),
        reason.to_owned(),
    );
}

fn set_sink(context: &mut ImportContext, directive: &Directive, key: &'static str, rank: u128) {
    let target = match directive.arg(0) {
        "" => return context.reject_argument(directive, "a path or off"),
        "off" if key == "log.access" => "off".to_owned(),
        "/dev/null" => "off".to_owned(),
        "/dev/stdout" => "stdout".to_owned(),
        "stderr" | "/dev/stderr" => "stderr".to_owned(),
        text if text.contains('$') => {
            return context
                .report
                .add_impossible(directive, "variables in a path are not supported: one file gets all lines");
        }
        text if text.starts_with("syslog:") || text.starts_with("memory:") => {
            return context.report.add_impossible(directive, "logs can go to a file, stdout or stderr");
        }
        text if text.ends_with('/') => return context.reject_argument(directive, "the path of a file"),
        text if text.contains('/') => text.to_owned(),
        text => format!("./{text}"),
    };
    context.set_key(key, quote_toml(&target), rank, directive);
}

/// `log_format NAME [escape=...] TEXT ...`; converted at the end, if it is used.
pub(super) fn handle_log_format(context: &mut ImportContext, directive: &Directive) {
    if directive.args.len() < 2 {
        return context.reject_argument(directive, "a name and a text");
    }
    if let Some(word) = directive.args.get(1)
        && let Some(escape) = word.text.strip_prefix("escape=")
        && !["default", "json", "none"].contains(&escape)
    {
        let issue = word.span.diagnostic(format!("`log_format` has no escape `{escape}`"));
        return context.report.add_diagnostic(issue.with_help("escapes: default, json, none"));
    }
    context.deferred.log_formats.push(directive.clone());
}

/// Carries over the format of the access log that is kept. Without one the router's own format applies.
pub(in crate::import) fn finish_log_formats(context: &mut ImportContext) {
    let chosen = context
        .settings
        .remove("log.format")
        .filter(|_| context.settings.get("log.access").is_some_and(ImportedKey::is_on));
    for format in std::mem::take(&mut context.deferred.log_formats) {
        let name = format.arg(0);
        if chosen.as_ref().is_some_and(|chosen| chosen.value == name) {
            convert_log_format(context, &format);
        } else if context.deferred.used_log_formats.iter().any(|named| named == name) {
            context.report.add_not_needed(&format, "its access_log is not carried over");
        } else {
            context.report.add_not_needed(&format, "no access_log uses it");
        }
    }
    if let Some(mut chosen) = chosen.filter(|chosen| chosen.value == COMBINED_FORMAT) {
        chosen.value = quote_toml(COMBINED_FORMAT);
        context.settings.insert("log.format", chosen);
    }
}

/// Converts a `log_format` to `log.format` and `log.formats`.
fn convert_log_format(context: &mut ImportContext, directive: &Directive) {
    let mut pieces = directive.arg_texts();
    let name = pieces.remove(0);
    // The router's built-in names are free in nginx, and its own names have no `$`.
    let is_reserved = BUILT_IN_FORMATS.contains(&name) || name.contains('$');
    let name = if is_reserved { format!("nginx_{}", name.replace('$', "_")) } else { name.to_owned() };
    let word = pieces.first().and_then(|piece| piece.strip_prefix("escape="));
    let escape = match word {
        Some("json") => LogEscape::Json,
        Some("none") => LogEscape::None,
        _ => LogEscape::Default,
    };
    let text = pieces.split_off(usize::from(word.is_some())).concat();
    if let Err(bad) = LogFormat::new(&text, escape) {
        return context.report.add_unsupported(directive, format!("{bad}: the router's own format is used"));
    }
    let entry = match word {
        Some(word) => format!("{{ format = {}, escape = {} }}", quote_toml(&text), quote_toml(word)),
        None => quote_toml(&text),
    };
    context.set_max("log.format", quote_toml(&name), 0, directive);
    context.set_key("log.formats", format!("{{ {} = {entry} }}", quote_toml(&name)), 0, directive);
}
