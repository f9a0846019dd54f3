//! Directives on headers and bodies, judged by their arguments: is it what happens here anyway?

use super::tree::{Directive, Word};
use super::walk::{Walk, quoted};
use crate::config::Issue;

/// What a header's value is compared with.
enum Sent {
    /// With these values it is what replicas get anyway.
    Same(&'static [&'static str], &'static str),
    /// Never sent so.
    Cannot(&'static str),
}

/// The headers of a request that are our own business.
const SENT: [(&str, &[Sent]); 9] = [
    ("x-real-ip", &[Sent::Same(&["$remote_addr"], "it is sent")]),
    ("x-forwarded-for", &[Sent::Same(&["$proxy_add_x_forwarded_for"], "it is sent")]),
    ("x-forwarded-proto", &[Sent::Same(&["$scheme", "http"], "it is sent")]),
    (
        "x-forwarded-host",
        &[Sent::Same(&["$http_host", "$host", "$host:$server_port"], "it is sent, as the client wrote it")],
    ),
    (
        "x-request-id",
        &[Sent::Same(&["$request_id", "$http_x_request_id"], "it is sent, the client's own or a new one")],
    ),
    ("host", &[Sent::Same(&["$proxy_host"], "it is the replica's")]),
    (
        "connection",
        &[Sent::Same(&["", "close", "keep-alive"], "connections to replicas are kept"), Sent::Cannot(UPGRADE)],
    ),
    ("upgrade", &[Sent::Same(&[""], "it is not passed on"), Sent::Cannot(UPGRADE)]),
    ("accept-encoding", &[Sent::Same(&["", "identity"], "chat and completions are asked for uncompressed")]),
];

const UPGRADE: &str = "connections are not upgraded to WebSocket";

/// `proxy_set_header NAME VALUE`.
pub(super) fn proxy_set_header(walk: &mut Walk, directive: &Directive) {
    let Some((name, value)) = pair(walk, directive) else { return };
    if let Some(level) = walk.headers.last_mut() {
        level.push((name.clone(), value.clone()));
    }
    if bearer(&name, &value).is_some() {
        walk.notes.carried += 1;
        return;
    }
    for sent in SENT.iter().filter(|(known, _)| *known == name).flat_map(|(_, sent)| *sent) {
        match sent {
            Sent::Same(values, why) if values.contains(&value.as_str()) => {
                walk.notes.not_needed(directive, *why);
                return;
            }
            Sent::Same(..) => {}
            Sent::Cannot(why) => {
                walk.notes.cannot(directive, *why);
                return;
            }
        }
    }
    walk.notes.not_yet(
        directive,
        if name == "host" { "replicas get their own" } else { "replicas get the client's headers" },
    );
}

/// The key in `Authorization: Bearer KEY`, if that is what a header says.
pub(super) fn bearer<'a>(name: &str, value: &'a str) -> Option<&'a str> {
    let key = value.strip_prefix("Bearer ").filter(|_| name == "authorization")?;
    (!key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && b != b'$')).then_some(key)
}

/// `add_header NAME VALUE [always]`.
pub(super) fn add_header(walk: &mut Walk, directive: &Directive) {
    let mut short = directive.clone();
    short.args.truncate(if directive.arg(2) == "always" { 2 } else { 3 });
    let Some((name, value)) = pair(walk, &short) else { return };
    match (name.as_str(), value.as_str()) {
        ("x-upstream", "$upstream_addr") => walk.set("x_upstream", "true".to_owned(), 0, directive),
        ("x-request-id", "$request_id") => walk.notes.not_needed(directive, "every answer has it"),
        ("x-accel-buffering", "no") => walk.notes.not_needed(directive, "streams have it"),
        ("access-control-allow-origin", origin)
            if origin == "*" || (origin.contains("://") && !origin.contains('$')) =>
        {
            walk.set("cors.origins", format!("[{}]", quoted(origin)), 0, directive);
        }
        (name, _) if name.starts_with("access-control-") => {
            walk.notes.not_needed(directive, "what browsers ask is answered for those that `cors.origins` lists");
        }
        (_, "$upstream_addr") => walk.notes.not_yet(directive, "`x_upstream = true` sends it as X-Upstream"),
        _ => walk.notes.not_yet(directive, "clients get the replica's headers"),
    }
}

/// A header's name, lower case, and its value.
fn pair(walk: &mut Walk, directive: &Directive) -> Option<(String, String)> {
    let directive_name = &directive.name.text;
    match directive.args.as_slice() {
        [name, ..] if name.text.contains('$') => {
            walk.notes.issue(lost_space(directive_name, name));
            None
        }
        [name, value] => Some((name.text.to_ascii_lowercase(), value.text.clone())),
        [only] => {
            walk.notes.issue(lost_space(directive_name, only));
            None
        }
        words => {
            let issue = directive
                .name
                .at
                .issue(format!("`{directive_name}` takes a name and a value, not {} words", words.len()));
            walk.notes.issue(issue.help("put quotes around a value with spaces, and a `;` at the end"));
            None
        }
    }
}

/// A name and a value that have grown together.
fn lost_space(directive: &str, word: &Word) -> Issue {
    let issue = word.at.issue(format!("`{directive}` takes a name and a value"));
    let at = word.text.find(['$', '"', '\'']).filter(|at| *at > 0);
    match at.and_then(|at| word.text.split_at_checked(at)) {
        Some((name, value)) => issue.help(format!("a space is lost: write {directive} {name} {value};")),
        None => issue.help(format!("for example {directive} {} \"...\";", word.text)),
    }
}

/// `proxy_http_version 1.0 | 1.1 | 2`.
pub(super) fn proxy_http_version(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "1.1" => walk.notes.not_needed(directive, "replicas are spoken to in HTTP/1.1"),
        "1.0" | "2" => walk.notes.cannot(directive, "replicas are spoken to in HTTP/1.1"),
        _ => walk.wrong(directive, "1.0 or 1.1"),
    }
}

/// `proxy_next_upstream error | timeout | http_503 | non_idempotent | off ...`.
pub(super) fn proxy_next_upstream(walk: &mut Walk, directive: &Directive) {
    let words = directive.texts();
    if let Some(i) = words.iter().position(|word| !is_reason(word)) {
        let word = words.get(i).copied().unwrap_or_default();
        let at = directive.args.get(i).map_or(&directive.name.at, |word| &word.at);
        let issue = at.issue(format!("`proxy_next_upstream` knows no `{word}`"));
        walk.notes.issue(issue.help("words: error, timeout, invalid_header, http_500, http_502, http_503, http_504, http_403, http_404, http_429, non_idempotent, off"));
    } else if words.contains(&"off") {
        walk.notes.cannot(directive, "a request that reached no replica is always sent to the next");
    } else if words.iter().any(|word| ["http_403", "http_404"].contains(word)) {
        walk.notes.cannot(directive, "an answer of 403 or 404 is passed on; failures lead to another replica");
    } else {
        let why = "a failed connection, an answer without a byte, a 429 and 5xx lead to another replica, POSTs too";
        walk.notes.not_needed(directive, why);
    }
}

fn is_reason(word: &str) -> bool {
    let status =
        word.strip_prefix("http_").is_some_and(|n| ["500", "502", "503", "504", "403", "404", "429"].contains(&n));
    status || ["error", "timeout", "invalid_header", "non_idempotent", "updating", "off"].contains(&word)
}

/// Directives that say nothing when they are off.
pub(super) fn unless_off(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "off" => walk.notes.not_needed(directive, "there is no such thing here"),
        "default" => walk.notes.not_needed(directive, "replicas do not redirect"),
        _ => walk.notes.cannot(directive, "requests and answers are passed on as they are"),
    }
}

/// `real_ip_header NAME`.
pub(super) fn real_ip_header(walk: &mut Walk, directive: &Directive) {
    if directive.arg(0).eq_ignore_ascii_case("x-forwarded-for") {
        walk.notes.not_needed(directive, "that is the header which trusted proxies tell the client's address in");
    } else {
        walk.notes.cannot(directive, "trusted proxies tell the client's address in X-Forwarded-For");
    }
}

/// `gzip on | off`.
pub(super) fn gzip(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "off" => walk.notes.not_needed(directive, "answers are not compressed"),
        "on" => {
            walk.notes.not_needed(directive, "of itself it compresses text/html only; for other types see gzip_types");
        }
        _ => walk.wrong(directive, "on or off"),
    }
}

/// `gzip_types TYPE ...`.
pub(super) fn gzip_types(walk: &mut Walk, directive: &Directive) {
    if directive.texts().iter().any(|kind| ["*", "application/json", "text/event-stream"].contains(kind)) {
        walk.notes.not_yet(directive, "answers are not compressed");
    } else {
        walk.notes.not_needed(directive, "the API answers application/json and text/event-stream");
    }
}
