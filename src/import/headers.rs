//! Directives on headers and bodies, judged by their arguments: is it what happens here anyway?

use super::server::Location;
use super::tree::{Directive, Word};
use super::walk::{Walk, quoted};
use crate::config::{Issue, barred, has_controls, is_origin};
use crate::telemetry::{BadFormat, Format, Known};

/// What a block says of headers, and what keeps requests from what is in it. A block that says nothing of one of these
/// has what the block around it says.
#[derive(Default)]
pub(super) struct Level {
    /// `proxy_set_header`s.
    request: Vec<Line>,
    /// `add_header`s.
    response: Vec<Line>,
    /// The names of `proxy_hide_header`s.
    hidden: Vec<String>,
    pub(super) guards: Vec<Directive>,
}

/// A header as it is written.
#[derive(Clone)]
struct Line {
    name: String,
    value: String,
    /// Whether it must be set, since it is not so by itself.
    set: bool,
}

/// A header's name and its values, for router.toml.
pub(super) type Header = (String, Vec<String>);

/// What a header's value is compared with.
enum Sent {
    /// With these values it is what replicas get anyway.
    Same(&'static [&'static str], &'static str),
    /// Never sent so.
    Cannot(&'static str),
}

/// The headers of a request that are our own business.
const SENT: [(&str, &[Sent]); 5] = [
    ("x-real-ip", &[Sent::Same(&["$remote_addr"], "it is sent")]),
    (
        "x-request-id",
        &[Sent::Same(&["$request_id", "$http_x_request_id"], "it is sent, the client's own or a new one")],
    ),
    ("host", &[Sent::Same(&["$proxy_host"], "it is the replica's"), Sent::Cannot("HTTP/1.1 asks for a Host")]),
    (
        "connection",
        &[Sent::Same(&["", "close", "keep-alive"], "connections to replicas are kept"), Sent::Cannot(UPGRADE)],
    ),
    ("upgrade", &[Sent::Same(&[""], "it is not passed on"), Sent::Cannot(UPGRADE)]),
];

const UPGRADE: &str = "connections are not upgraded to WebSocket";

/// `proxy_set_header NAME VALUE`.
pub(super) fn proxy_set_header(walk: &mut Walk, directive: &Directive) {
    let Some((name, value)) = pair(walk, directive) else { return };
    let set = judge(walk, directive, &name, &value);
    let value = if set { evaluable(walk, directive, value, Known::Asked) } else { Some(value) };
    if let (Some(level), Some(value)) = (walk.levels.last_mut(), value) {
        level.request.push(Line { name, value, set });
    }
}

/// Whether a header of requests must be set; says why not.
fn judge(walk: &mut Walk, directive: &Directive, name: &str, value: &str) -> bool {
    for sent in SENT.iter().filter(|(known, _)| *known == lower(name)).flat_map(|(_, sent)| *sent) {
        match sent {
            Sent::Same(values, why) if values.contains(&value) => {
                walk.notes.not_needed(directive, *why);
                return false;
            }
            Sent::Cannot(why) if value.is_empty() || lower(name) != "host" => {
                walk.notes.cannot(directive, *why);
                return false;
            }
            Sent::Same(..) | Sent::Cannot(_) => {}
        }
    }
    if let Some(why) = barred(name) {
        walk.notes.cannot(directive, why);
        return false;
    }
    walk.notes.carried += 1;
    true
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// The value as router.toml takes it. A header whose value is not known here is taken away, so that no client can send
/// what only the proxy should say; an answer does without.
fn evaluable(walk: &mut Walk, directive: &Directive, value: String, known: Known) -> Option<String> {
    let why = match Format::header(&value, known) {
        Ok(_) if !has_controls(&value) => return Some(value),
        Ok(_) => "no header can hold control characters".to_owned(),
        Err(bad @ (BadFormat::Bare { .. } | BadFormat::Unclosed { .. })) => {
            let at = directive.args.get(1).map_or(&directive.name.at, |word| &word.at);
            walk.notes.issue(at.issue(bad.to_string()).help("nginx takes no `$` in a value but for a variable"));
            return None;
        }
        Err(bad @ (BadFormat::Unknown { .. } | BadFormat::Early { .. })) => bad.to_string(),
    };
    if known == Known::Answered {
        walk.notes.cannot(directive, format!("{why}: the header is left out"));
        return None;
    }
    walk.notes.carried = walk.notes.carried.saturating_sub(1);
    walk.notes.cannot(directive, format!("{why}: replicas do not get the header"));
    Some(String::new())
}

/// The key in `Authorization: Bearer KEY`, if that is what a header says.
fn bearer<'a>(name: &str, value: &'a str) -> Option<&'a str> {
    let key = value.strip_prefix("Bearer ").filter(|_| name == "authorization")?;
    (!key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && b != b'$')).then_some(key)
}

/// `add_header NAME VALUE [always]`.
pub(super) fn add_header(walk: &mut Walk, directive: &Directive) {
    let always = directive.arg(2) == "always";
    let mut short = directive.clone();
    short.args.truncate(if always { 2 } else { 3 });
    let Some((name, value)) = pair(walk, &short) else { return };
    let mut set = false;
    match (lower(&name).as_str(), value.as_str()) {
        ("x-request-id", "$request_id") => walk.notes.not_needed(directive, "every answer has it"),
        ("x-accel-buffering", "no") => walk.notes.not_needed(directive, "streams have it"),
        ("access-control-allow-origin", origin) if is_origin(origin) && !origin.contains('$') => {
            walk.set("cors.origins", format!("[{}]", quoted(origin)), 0, directive);
        }
        (name, _) if name.starts_with("access-control-") => {
            walk.notes.not_needed(directive, "what browsers ask is answered for those that `cors.origins` lists");
        }
        (_, "") => walk.notes.not_needed(directive, "an empty header is not added"),
        (name, _) => match barred(name) {
            Some(why) => walk.notes.cannot(directive, why),
            None => set = true,
        },
    }
    let value = if set { evaluable(walk, directive, value, Known::Answered) } else { Some(value) };
    let Some(value) = value else { return };
    if set && always {
        walk.notes.carried += 1;
    } else if set {
        walk.notes.note(directive, "it is on every answer here, errors included, as with `always`");
    }
    if let Some(level) = walk.levels.last_mut() {
        level.response.push(Line { name, value, set });
    }
}

/// `proxy_hide_header NAME`.
pub(super) fn proxy_hide_header(walk: &mut Walk, directive: &Directive) {
    let name = directive.arg(0).to_owned();
    if let Some(why) = barred(&name) {
        return walk.notes.not_needed(directive, why);
    }
    if name.parse::<http::HeaderName>().is_err() {
        return walk.wrong(directive, "a header's name, such as X-Powered-By");
    }
    walk.notes.carried += 1;
    if let Some(level) = walk.levels.last_mut() {
        level.hidden.push(name);
    }
}

/// `proxy_pass_request_body on | off` and `proxy_pass_request_headers on | off`.
pub(super) fn passed(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "on" => walk.notes.not_needed(directive, "a request is passed on whole"),
        _ => walk.notes.cannot(directive, "a request is passed on whole"),
    }
}

/// `expires [modified] TIME | epoch | max | off`.
pub(super) fn expires(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "off" => walk.notes.not_needed(directive, "answers are not given an age"),
        _ => walk.notes.cannot(directive, "how long an answer may be kept is said by the replica"),
    }
}

/// Gathers the headers that are in force at the end of a location.
pub(super) fn close(walk: &Walk, location: &mut Location) {
    let levels = || walk.levels.iter().rev();
    if let Some(level) = levels().find(|level| !level.request.is_empty()) {
        let key = |line: &Line| bearer(&lower(&line.name), &line.value).map(str::to_owned);
        location.key = level.request.iter().rev().find_map(key);
        let lines = level.request.iter().filter(|line| line.set && key(line).is_none());
        lines.for_each(|line| put(&mut location.request, &line.name, &line.value));
    }
    for name in levels().find(|level| !level.hidden.is_empty()).into_iter().flat_map(|level| &level.hidden) {
        put(&mut location.response, name, "");
    }
    for line in levels().find(|level| !level.response.is_empty()).into_iter().flat_map(|level| &level.response) {
        if line.set {
            put(&mut location.response, &line.name, &line.value);
        }
    }
}

fn put(headers: &mut Vec<Header>, name: &str, value: &str) {
    match headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        Some((_, values)) => values.push(value.to_owned()),
        None => headers.push((name.to_owned(), vec![value.to_owned()])),
    }
}

/// A header's name and its value.
fn pair(walk: &mut Walk, directive: &Directive) -> Option<(String, String)> {
    let directive_name = &directive.name.text;
    match directive.args.as_slice() {
        [name, ..] if name.text.contains('$') => {
            walk.notes.issue(lost_space(directive_name, name));
            None
        }
        [name, _] if name.text.parse::<http::HeaderName>().is_err() => {
            let issue = name.at.issue(format!("`{}` is no header's name", name.text));
            walk.notes.issue(issue.help(format!("for example {directive_name} X-Real-IP $remote_addr;")));
            None
        }
        [name, value] => Some((name.text.clone(), value.text.clone())),
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
