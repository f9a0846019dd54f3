//! Logs: where they go, and how their lines are written.

use super::remark::Kind;
use super::tree::Directive;
use super::walk::{Scope, Setting, Walk, quoted};
use crate::telemetry::{BUILT_IN, Escape, Format};

/// nginx's levels of `error_log`, all of which `log.level` knows.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"];
/// The format of an `access_log` that names none.
const COMBINED: &str = "combined";

/// `access_log off | PATH [FORMAT] [buffer=...] ...`.
pub(super) fn access_log(walk: &mut Walk, directive: &Directive) {
    let mut format = COMBINED.to_owned();
    for word in directive.args.iter().skip(1) {
        match word.text.split_once('=') {
            None if word.text == "gzip" => part(walk, directive, Kind::Cannot, &word.text, "logs are not compressed"),
            None => format.clone_from(&word.text),
            Some(("if", _)) => part(walk, directive, Kind::Cannot, &word.text, "every request has its line"),
            Some(("gzip", _)) => part(walk, directive, Kind::Cannot, &word.text, "logs are not compressed"),
            Some(_) => part(walk, directive, Kind::NotNeeded, &word.text, "lines are gathered and written by a thread"),
        }
    }
    // A server's log says more about what it serves than that of all servers; a location's is an exception.
    let rank = match walk.scope {
        Scope::Server => 2,
        Scope::Location => 0,
        _ => 1,
    };
    sink(walk, directive, "log.access", rank);
    walk.named_formats.push(format.clone());
    walk.raise("log.format", format, rank, directive);
}

/// `error_log PATH [LEVEL]`.
pub(super) fn error_log(walk: &mut Walk, directive: &Directive) {
    let rank = if walk.scope == Scope::Server { 2 } else { 1 };
    match directive.arg(1) {
        "" => {}
        level if LEVELS.contains(&level) => walk.raise("log.level", quoted(level), rank, directive),
        word => part(walk, directive, Kind::Cannot, word, "that is no level"),
    }
    sink(walk, directive, "log.error", rank);
}

fn part(walk: &mut Walk, directive: &Directive, kind: Kind, word: &str, why: &str) {
    walk.notes.about(kind, format!("`{word}` of {}", directive.name.text), directive.place(), why.to_owned());
}

fn sink(walk: &mut Walk, directive: &Directive, key: &'static str, rank: u128) {
    let to = match directive.arg(0) {
        "" => return walk.wrong(directive, "a path or off"),
        "off" if key == "log.access" => "off".to_owned(),
        "/dev/null" => "off".to_owned(),
        "/dev/stdout" => "stdout".to_owned(),
        "stderr" | "/dev/stderr" => "stderr".to_owned(),
        text if text.contains('$') => {
            return walk.notes.cannot(directive, "there are no variables: one file takes all lines");
        }
        text if text.starts_with("syslog:") || text.starts_with("memory:") => {
            return walk.notes.cannot(directive, "logs go to a file, stdout or stderr");
        }
        text if text.ends_with('/') => return walk.wrong(directive, "the path of a file"),
        text if text.contains('/') => text.to_owned(),
        text => format!("./{text}"),
    };
    walk.set(key, quoted(&to), rank, directive);
}

/// `log_format NAME [escape=...] TEXT ...`; judged when it is known which are used.
pub(super) fn log_format(walk: &mut Walk, directive: &Directive) {
    if directive.args.len() < 2 {
        return walk.wrong(directive, "a name and a text");
    }
    if let Some(word) = directive.args.get(1)
        && let Some(escape) = word.text.strip_prefix("escape=")
        && !["default", "json", "none"].contains(&escape)
    {
        let issue = word.at.issue(format!("`log_format` knows no escape `{escape}`"));
        return walk.notes.issue(issue.help("escapes: default, json, none"));
    }
    walk.formats.push(directive.clone());
}

/// Carries the format of the log that is kept. Where one cannot be, lines have our own form.
pub(super) fn judge_formats(walk: &mut Walk) {
    let chosen =
        walk.settings.remove("log.format").filter(|_| walk.settings.get("log.access").is_some_and(Setting::is_on));
    for format in std::mem::take(&mut walk.formats) {
        let name = format.arg(0);
        if chosen.as_ref().is_some_and(|chosen| chosen.value == name) {
            carry(walk, &format);
        } else if walk.named_formats.iter().any(|named| named == name) {
            walk.notes.not_needed(&format, "the log that uses it is not kept");
        } else {
            walk.notes.not_needed(&format, "no access_log uses it");
        }
    }
    if let Some(mut chosen) = chosen.filter(|chosen| chosen.value == COMBINED) {
        chosen.value = quoted(COMBINED);
        walk.settings.insert("log.format", chosen);
    }
}

/// Takes a `log_format` as the format of our log.
fn carry(walk: &mut Walk, directive: &Directive) {
    let mut pieces = directive.texts();
    let name = pieces.remove(0);
    // Ours have three names that nginx leaves to the user, or nearly; what has a `$` in it is no name here.
    let ours = BUILT_IN.contains(&name) || name.contains('$');
    let name = if ours { format!("nginx_{}", name.replace('$', "_")) } else { name.to_owned() };
    let word = pieces.first().and_then(|piece| piece.strip_prefix("escape="));
    let escape = match word {
        Some("json") => Escape::Json,
        Some("none") => Escape::None,
        _ => Escape::Default,
    };
    let text = pieces.split_off(usize::from(word.is_some())).concat();
    if let Err(bad) = Format::new(&text, escape) {
        return walk.notes.not_yet(directive, format!("{bad}: lines have a form of their own until then"));
    }
    let entry = match word {
        Some(word) => format!("{{ format = {}, escape = {} }}", quoted(&text), quoted(word)),
        None => quoted(&text),
    };
    walk.raise("log.format", quoted(&name), 0, directive);
    walk.set("log.formats", format!("{{ {} = {entry} }}", quoted(&name)), 0, directive);
}

/// The names of the variables in a text: `$name` or `${name}`.
pub(super) fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).map(|after| {
        let after = after.strip_prefix('{').unwrap_or(after);
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        after.get(..end).unwrap_or_default()
    })
}
