//! Logs: targets, levels and formats.

use crate::import::blocks::{AccessLogTarget, BlockScope};
use crate::import::context::{ImportContext, ImportedLogFormat};
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_toml;
use crate::log_format::{BUILT_IN_FORMATS, LogEscape, LogFormat};

/// nginx's levels of `error_log`; `log.level` has all of them.
const ERROR_LOG_LEVELS: [&str; 8] = ["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"];
/// The default format of `access_log`.
const COMBINED_FORMAT: &str = "combined";
/// The router's own format, in place of one that it cannot write.
const FALLBACK_FORMAT: &str = "text";

/// `access_log off | PATH [FORMAT] [buffer=...] ...`.
pub(super) fn handle_access_log(context: &mut ImportContext, directive: &Directive) {
    let mut format = COMBINED_FORMAT;
    for word in directive.args.iter().skip(1) {
        let (kind, reason) = match word.text.split_once('=') {
            None if word.text != "gzip" => {
                format = &word.text;
                continue;
            }
            Some(("if", _)) => (RemarkKind::Impossible, "every request is logged"),
            None | Some(("gzip", _)) => (RemarkKind::Impossible, "log files are not compressed"),
            Some(_) => (RemarkKind::NotNeeded, "lines are buffered and written by a thread"),
        };
        report_option(context, directive, kind, &word.text, reason);
    }
    let log = parse_sink(context, directive).and_then(|target| {
        let format =
            if target == "off" { COMBINED_FORMAT.to_owned() } else { find_format(context, directive, format)? };
        Some(AccessLogTarget { target, format })
    });
    context.report.carried_count += usize::from(log.is_some());
    if let Some(level) = context.open.level() {
        level.access_logs.push(log);
    }
}

/// Returns the name that a format has in router.toml.
fn find_format(context: &mut ImportContext, directive: &Directive, name: &str) -> Option<String> {
    if name == COMBINED_FORMAT {
        return Some(name.to_owned());
    }
    if let Some(format) = context.log_formats.iter_mut().find(|format| format.directive.arg(0) == name) {
        format.is_used = true;
        return Some(format.name.clone());
    }
    let word = directive.args.iter().find(|word| word.text == name).unwrap_or(&directive.name);
    let issue = word.span.diagnostic(format!("unknown log format `{name}`"));
    context.report.add_diagnostic(issue.with_help("a `log_format` of this name must stand before it"));
    None
}

/// `error_log PATH [LEVEL]`.
pub(super) fn handle_error_log(context: &mut ImportContext, directive: &Directive) {
    let rank = if context.open.scope == BlockScope::Server { 2 } else { 1 };
    match directive.arg(1) {
        "" => {}
        level if ERROR_LOG_LEVELS.contains(&level) => context.set_max("log.level", quote_toml(level), rank, directive),
        word => report_option(context, directive, RemarkKind::Impossible, word, "not a log level"),
    }
    if let Some(target) = parse_sink(context, directive) {
        context.set_key("log.error", quote_toml(&target), rank, directive);
    }
}

fn report_option(context: &mut ImportContext, directive: &Directive, kind: RemarkKind, word: &str, reason: &str) {
    context.report.add_remark_at(
        kind,
        format!("`{word}` of {}", directive.name.text),
        directive.source_line(),
        reason.to_owned(),
    );
}

/// Returns where a log goes; `None` and a remark or a diagnostic if the router cannot write there.
fn parse_sink(context: &mut ImportContext, directive: &Directive) -> Option<String> {
    let reason = match directive.arg(0) {
        "off" if directive.name.text == "access_log" => return Some("off".to_owned()),
        "/dev/null" => return Some("off".to_owned()),
        "/dev/stdout" => return Some("stdout".to_owned()),
        "stderr" | "/dev/stderr" => return Some("stderr".to_owned()),
        text if text.contains('$') => "variables in a path are not supported: one file gets all lines",
        text if text.starts_with("syslog:") || text.starts_with("memory:") => "logs can go to a file, stdout or stderr",
        text if text.contains(char::is_whitespace) => "a path with spaces is not supported",
        text if text.is_empty() || text.ends_with('/') => {
            context.reject_argument(directive, "the path of a file");
            return None;
        }
        text if text.contains('/') => return Some(text.to_owned()),
        text => return Some(format!("./{text}")),
    };
    context.report.add_impossible(directive, reason);
    None
}

/// `log_format NAME [escape=...] TEXT ...`; written at the end, if it is used.
pub(super) fn handle_log_format(context: &mut ImportContext, directive: &Directive) {
    if directive.args.len() < 2 {
        return context.reject_argument(directive, "a name and a text");
    }
    let mut pieces = directive.arg_texts();
    let given = pieces.remove(0);
    let escape_word = pieces.first().and_then(|piece| piece.strip_prefix("escape="));
    let escape = match escape_word {
        None | Some("default") => LogEscape::Default,
        Some("json") => LogEscape::Json,
        Some("none") => LogEscape::None,
        Some(unknown) => {
            let span = directive.args.get(1).map_or(&directive.name.span, |word| &word.span);
            let issue = span.diagnostic(format!("`log_format` has no escape `{unknown}`"));
            return context.report.add_diagnostic(issue.with_help("escapes: default, json, none"));
        }
    };
    let is_known = |format: &ImportedLogFormat| format.directive.arg(0) == given;
    if given == COMBINED_FORMAT || context.log_formats.iter().any(is_known) {
        let issue = directive.name.span.diagnostic(format!("duplicate log format `{given}`"));
        return context.report.add_diagnostic(issue.with_help("rename one of them"));
    }
    let text = pieces.split_off(usize::from(escape_word.is_some())).concat();
    let entry = match LogFormat::new(&text, escape) {
        Err(bad) => Err(format!("{bad}: the router's own format is used")),
        Ok(_) => Ok(match escape_word {
            Some(word) => format!("{{ format = {}, escape = {} }}", quote_toml(&text), quote_toml(word)),
            None => quote_toml(&text),
        }),
    };
    let name = if entry.is_ok() { choose_format_name(context, given) } else { FALLBACK_FORMAT.to_owned() };
    context.log_formats.push(ImportedLogFormat { directive: directive.clone(), name, entry, is_used: false });
}

/// Returns the name of a format in router.toml: names of built-in formats are free in nginx, and the router's names
/// are words without `$`.
fn choose_format_name(context: &ImportContext, given: &str) -> String {
    let is_word_char = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_free = |name: &str| !context.log_formats.iter().any(|format| format.name == name);
    if !given.is_empty() && given.chars().all(is_word_char) && !BUILT_IN_FORMATS.contains(&given) && is_free(given) {
        return given.to_owned();
    }
    let mut name = format!("nginx_{}", given.replace(|c| !is_word_char(c), "_"));
    while !is_free(&name) {
        name.push('_');
    }
    name
}

/// Writes the formats that access logs use.
pub(in crate::import) fn finish_log_formats(context: &mut ImportContext) {
    let mut entries = Vec::new();
    let formats = std::mem::take(&mut context.log_formats);
    for format in &formats {
        match &format.entry {
            _ if !format.is_used => context.report.add_not_needed(&format.directive, "no access_log uses it"),
            Err(reason) => context.report.add_unsupported(&format.directive, reason.clone()),
            Ok(entry) => {
                entries.push(format!("{} = {entry}", quote_toml(&format.name)));
                context.report.carried_count += 1;
            }
        }
    }
    if let Some(first) = formats.first().filter(|_| !entries.is_empty()) {
        context.set_max("log.formats", format!("{{ {} }}", entries.join(", ")), 0, &first.directive);
    }
}
