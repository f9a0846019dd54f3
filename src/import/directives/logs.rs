//! Logs: where they go, and how their lines are written.

use crate::import::context::{BlockScope, ImportContext, ImportedKey, quote_toml};
use crate::import::report::RemarkKind;
use crate::import::syntax::parser::Directive;
use crate::log_format::{BUILT_IN_FORMATS, LogEscape, LogFormat};

/// nginx's levels of `error_log`, all of which `log.level` knows.
const ERROR_LOG_LEVELS: [&str; 8] = ["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"];
/// The format of an `access_log` that names none.
const COMBINED_FORMAT: &str = "combined";

/// `access_log off | PATH [FORMAT] [buffer=...] ...`.
pub(in crate::import) fn handle_access_log(walk: &mut ImportContext, directive: &Directive) {
    let mut format = COMBINED_FORMAT.to_owned();
    for word in directive.args.iter().skip(1) {
        match word.text.split_once('=') {
            None if word.text == "gzip" => {
                report_option(walk, directive, RemarkKind::Impossible, &word.text, "logs are not compressed");
            }
            None => format.clone_from(&word.text),
            Some(("if", _)) => {
                report_option(walk, directive, RemarkKind::Impossible, &word.text, "every request has its line");
            }
            Some(("gzip", _)) => {
                report_option(walk, directive, RemarkKind::Impossible, &word.text, "logs are not compressed");
            }
            Some(_) => report_option(
                walk,
                directive,
                RemarkKind::NotNeeded,
                &word.text,
                "lines are gathered and written by a thread",
            ),
        }
    }
    // A server's log says more about what it serves than that of all servers; a location's is an exception.
    let rank = match walk.scope {
        BlockScope::Server => 2,
        BlockScope::Location => 0,
        _ => 1,
    };
    set_sink(walk, directive, "log.access", rank);
    walk.used_log_formats.push(format.clone());
    walk.set_max("log.format", format, rank, directive);
}

/// `error_log PATH [LEVEL]`.
pub(in crate::import) fn handle_error_log(walk: &mut ImportContext, directive: &Directive) {
    let rank = if walk.scope == BlockScope::Server { 2 } else { 1 };
    match directive.arg(1) {
        "" => {}
        level if ERROR_LOG_LEVELS.contains(&level) => walk.set_max("log.level", quote_toml(level), rank, directive),
        word => report_option(walk, directive, RemarkKind::Impossible, word, "that is no level"),
    }
    set_sink(walk, directive, "log.error", rank);
}

fn report_option(walk: &mut ImportContext, directive: &Directive, kind: RemarkKind, word: &str, why: &str) {
    walk.report.add_remark_at(
        kind,
        format!("`{word}` of {}", directive.name.text),
        directive.source_line(),
        why.to_owned(),
    );
}

fn set_sink(walk: &mut ImportContext, directive: &Directive, key: &'static str, rank: u128) {
    let to = match directive.arg(0) {
        "" => return walk.reject_argument(directive, "a path or off"),
        "off" if key == "log.access" => "off".to_owned(),
        "/dev/null" => "off".to_owned(),
        "/dev/stdout" => "stdout".to_owned(),
        "stderr" | "/dev/stderr" => "stderr".to_owned(),
        text if text.contains('$') => {
            return walk.report.add_impossible(directive, "there are no variables: one file takes all lines");
        }
        text if text.starts_with("syslog:") || text.starts_with("memory:") => {
            return walk.report.add_impossible(directive, "logs go to a file, stdout or stderr");
        }
        text if text.ends_with('/') => return walk.reject_argument(directive, "the path of a file"),
        text if text.contains('/') => text.to_owned(),
        text => format!("./{text}"),
    };
    walk.set_key(key, quote_toml(&to), rank, directive);
}

/// `log_format NAME [escape=...] TEXT ...`; judged when it is known which are used.
pub(in crate::import) fn handle_log_format(walk: &mut ImportContext, directive: &Directive) {
    if directive.args.len() < 2 {
        return walk.reject_argument(directive, "a name and a text");
    }
    if let Some(word) = directive.args.get(1)
        && let Some(escape) = word.text.strip_prefix("escape=")
        && !["default", "json", "none"].contains(&escape)
    {
        let issue = word.span.diagnostic(format!("`log_format` knows no escape `{escape}`"));
        return walk.report.add_diagnostic(issue.with_help("escapes: default, json, none"));
    }
    walk.log_formats.push(directive.clone());
}

/// Carries the format of the log that is kept. Where one cannot be, lines have our own form.
pub(in crate::import) fn finish_log_formats(walk: &mut ImportContext) {
    let chosen =
        walk.settings.remove("log.format").filter(|_| walk.settings.get("log.access").is_some_and(ImportedKey::is_on));
    for format in std::mem::take(&mut walk.log_formats) {
        let name = format.arg(0);
        if chosen.as_ref().is_some_and(|chosen| chosen.value == name) {
            convert_log_format(walk, &format);
        } else if walk.used_log_formats.iter().any(|named| named == name) {
            walk.report.add_not_needed(&format, "the log that uses it is not kept");
        } else {
            walk.report.add_not_needed(&format, "no access_log uses it");
        }
    }
    if let Some(mut chosen) = chosen.filter(|chosen| chosen.value == COMBINED_FORMAT) {
        chosen.value = quote_toml(COMBINED_FORMAT);
        walk.settings.insert("log.format", chosen);
    }
}

/// Takes a `log_format` as the format of our log.
fn convert_log_format(walk: &mut ImportContext, directive: &Directive) {
    let mut pieces = directive.arg_texts();
    let name = pieces.remove(0);
    // Ours have three names that nginx leaves to the user, or nearly; what has a `$` in it is no name here.
    let ours = BUILT_IN_FORMATS.contains(&name) || name.contains('$');
    let name = if ours { format!("nginx_{}", name.replace('$', "_")) } else { name.to_owned() };
    let word = pieces.first().and_then(|piece| piece.strip_prefix("escape="));
    let escape = match word {
        Some("json") => LogEscape::Json,
        Some("none") => LogEscape::None,
        _ => LogEscape::Default,
    };
    let text = pieces.split_off(usize::from(word.is_some())).concat();
    if let Err(bad) = LogFormat::new(&text, escape) {
        return walk.report.add_unsupported(directive, format!("{bad}: lines have a form of their own until then"));
    }
    let entry = match word {
        Some(word) => format!("{{ format = {}, escape = {} }}", quote_toml(&text), quote_toml(word)),
        None => quote_toml(&text),
    };
    walk.set_max("log.format", quote_toml(&name), 0, directive);
    walk.set_key("log.formats", format!("{{ {} = {entry} }}", quote_toml(&name)), 0, directive);
}

/// The names of the variables in a text: `$name` or `${name}`.
pub(in crate::import) fn variable_names(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).map(|after| {
        let after = after.strip_prefix('{').unwrap_or(after);
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        after.get(..end).unwrap_or_default()
    })
}
