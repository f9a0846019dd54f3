//! Logs: where they go, and whether their lines say what ours say.

use super::remark::Kind;
use super::tree::Directive;
use super::walk::{Scope, Walk, quoted};

/// The variables whose values are in each line of our access log.
const SAID: [&str; 16] = [
    "time_local",
    "time_iso8601",
    "msec",
    "remote_addr",
    "request",
    "request_method",
    "request_uri",
    "uri",
    "status",
    "upstream_addr",
    "upstream_status",
    "request_time",
    "upstream_response_time",
    "upstream_header_time",
    "request_id",
    "binary_remote_addr",
];

/// `access_log off | PATH [FORMAT] [buffer=...] ...`.
pub(super) fn access_log(walk: &mut Walk, directive: &Directive) {
    for word in directive.args.iter().skip(1) {
        match word.text.split_once('=') {
            None if word.text == "gzip" => part(walk, directive, Kind::Cannot, &word.text, "logs are not compressed"),
            None => walk.named_formats.push(word.text.clone()),
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
}

/// `error_log PATH [LEVEL]`.
pub(super) fn error_log(walk: &mut Walk, directive: &Directive) {
    if !directive.arg(1).is_empty() {
        part(walk, directive, Kind::NotNeeded, directive.arg(1), "the error log has one level");
    }
    sink(walk, directive, "log.error", if walk.scope == Scope::Server { 2 } else { 1 });
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
    walk.formats.push(directive.clone());
}

/// Judges the formats.
pub(super) fn judge_formats(walk: &mut Walk) {
    for format in std::mem::take(&mut walk.formats) {
        let text: String = format.args.iter().skip(1).map(|word| word.text.as_str()).collect();
        if !walk.named_formats.iter().any(|name| name == format.arg(0)) {
            walk.notes.not_needed(&format, "no access_log uses it");
            continue;
        }
        if text.starts_with("escape=json") || text.trim_start().starts_with('{') {
            walk.set("log.format", quoted("json"), 0, &format);
            walk.notes.note(&format, "the objects have the names of our own access log");
            continue;
        }
        let mut unsaid: Vec<&str> = variables(&text).filter(|name| !SAID.contains(name)).collect();
        unsaid.dedup();
        if unsaid.is_empty() {
            walk.notes.not_needed(&format, "each line tells all of it, in a form of its own");
        } else {
            let why = format!("lines have a form of their own and do not tell ${}", unsaid.join(", $"));
            walk.notes.not_yet(&format, why);
        }
    }
}

/// The names of the variables in a text: `$name` or `${name}`.
pub(super) fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).map(|after| {
        let after = after.strip_prefix('{').unwrap_or(after);
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        after.get(..end).unwrap_or_default()
    })
}
