//! Directives on headers and bodies, judged by their arguments: is it what happens here anyway?

use super::server::NginxLocation;
use crate::config::{Diagnostic, forbidden_reason, has_control_chars, is_cors_origin};
use crate::import::context::{ImportContext, quote_toml};
use crate::import::syntax::parser::{Directive, DirectiveWord};
use crate::log_format::{LogFormat, LogFormatError, ValueAvailability};

/// What a block says of headers, and what keeps requests from what is in it. A block that says nothing of one of these
/// has what the block around it says.
#[derive(Default)]
pub(in crate::import) struct BlockDirectives {
    /// `proxy_set_header`s.
    request_headers: Vec<HeaderDirective>,
    /// `add_header`s.
    response_headers: Vec<HeaderDirective>,
    /// The names of `proxy_hide_header`s.
    hidden_headers: Vec<String>,
    pub(in crate::import) access_rules: Vec<Directive>,
}

/// A header as it is written.
#[derive(Clone)]
struct HeaderDirective {
    name: String,
    value: String,
    /// Whether it must be set, since it is not so by itself.
    must_set: bool,
}

/// A header's name and its values, for router.toml.
pub(in crate::import) type TomlHeader = (String, Vec<String>);

/// What a header's value is compared with.
enum SentHeaderRule {
    /// With these values it is what replicas get anyway.
    SameAsDefault(&'static [&'static str], &'static str),
    /// Never sent so.
    Impossible(&'static str),
}

/// The headers of a request that are our own business.
const BUILT_IN_REQUEST_HEADERS: [(&str, &[SentHeaderRule]); 5] = [
    ("x-real-ip", &[SentHeaderRule::SameAsDefault(&["$remote_addr"], "it is sent")]),
    (
        "x-request-id",
        &[SentHeaderRule::SameAsDefault(
            &["$request_id", "$http_x_request_id"],
            "it is sent, the client's own or a new one",
        )],
    ),
    (
        "host",
        &[
            SentHeaderRule::SameAsDefault(&["$proxy_host"], "it is the replica's"),
            SentHeaderRule::Impossible("HTTP/1.1 asks for a Host"),
        ],
    ),
    (
        "connection",
        &[
            SentHeaderRule::SameAsDefault(&["", "close", "keep-alive"], "connections to replicas are kept"),
            SentHeaderRule::Impossible(UPGRADE_REASON),
        ],
    ),
    (
        "upgrade",
        &[SentHeaderRule::SameAsDefault(&[""], "it is not passed on"), SentHeaderRule::Impossible(UPGRADE_REASON)],
    ),
];

const UPGRADE_REASON: &str = "connections are not upgraded to WebSocket";

/// `proxy_set_header NAME VALUE`.
pub(in crate::import) fn handle_proxy_set_header(walk: &mut ImportContext, directive: &Directive) {
    let Some((name, value)) = parse_header_pair(walk, directive) else { return };
    let set = classify_request_header(walk, directive, &name, &value);
    let value = if set { convert_value(walk, directive, value, ValueAvailability::AtRequest) } else { Some(value) };
    if let (Some(level), Some(value)) = (walk.block_stack.last_mut(), value) {
        level.request_headers.push(HeaderDirective { name, value, must_set: set });
    }
}

/// Whether a header of requests must be set; says why not.
fn classify_request_header(walk: &mut ImportContext, directive: &Directive, name: &str, value: &str) -> bool {
    for sent in
        BUILT_IN_REQUEST_HEADERS.iter().filter(|(known, _)| *known == to_lowercase(name)).flat_map(|(_, sent)| *sent)
    {
        match sent {
            SentHeaderRule::SameAsDefault(values, why) if values.contains(&value) => {
                walk.report.add_not_needed(directive, *why);
                return false;
            }
            SentHeaderRule::Impossible(why) if value.is_empty() || to_lowercase(name) != "host" => {
                walk.report.add_impossible(directive, *why);
                return false;
            }
            SentHeaderRule::SameAsDefault(..) | SentHeaderRule::Impossible(_) => {}
        }
    }
    if let Some(why) = forbidden_reason(name) {
        walk.report.add_impossible(directive, why);
        return false;
    }
    walk.report.carried_count += 1;
    true
}

fn to_lowercase(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// The value as router.toml takes it. A header whose value is not known here is taken away, so that no client can send
/// what only the proxy should say; an answer does without.
fn convert_value(
    walk: &mut ImportContext,
    directive: &Directive,
    value: String,
    known: ValueAvailability,
) -> Option<String> {
    let why = match LogFormat::for_header(&value, known) {
        Ok(_) if !has_control_chars(&value) => return Some(value),
        Ok(_) => "no header can hold control characters".to_owned(),
        Err(bad @ (LogFormatError::MissingName { .. } | LogFormatError::UnclosedBrace { .. })) => {
            let at = directive.args.get(1).map_or(&directive.name.span, |word| &word.span);
            walk.report.add_diagnostic(
                at.diagnostic(bad.to_string()).with_help("nginx takes no `$` in a value but for a variable"),
            );
            return None;
        }
        Err(bad @ (LogFormatError::UnknownVariable { .. } | LogFormatError::NotYetAvailable { .. })) => bad.to_string(),
    };
    if known == ValueAvailability::AtResponse {
        walk.report.add_impossible(directive, format!("{why}: the header is left out"));
        return None;
    }
    walk.report.carried_count = walk.report.carried_count.saturating_sub(1);
    walk.report.add_impossible(directive, format!("{why}: replicas do not get the header"));
    Some(String::new())
}

/// The key in `Authorization: Bearer KEY`, if that is what a header says.
fn bearer_token<'a>(name: &str, value: &'a str) -> Option<&'a str> {
    let key = value.strip_prefix("Bearer ").filter(|_| name == "authorization")?;
    (!key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && b != b'$')).then_some(key)
}

/// `add_header NAME VALUE [always]`.
pub(in crate::import) fn handle_add_header(walk: &mut ImportContext, directive: &Directive) {
    let always = directive.arg(2) == "always";
    let mut short = directive.clone();
    short.args.truncate(if always { 2 } else { 3 });
    let Some((name, value)) = parse_header_pair(walk, &short) else { return };
    let mut set = false;
    match (to_lowercase(&name).as_str(), value.as_str()) {
        ("x-request-id", "$request_id") => walk.report.add_not_needed(directive, "every answer has it"),
        ("x-accel-buffering", "no") => walk.report.add_not_needed(directive, "streams have it"),
        ("access-control-allow-origin", origin) if is_cors_origin(origin) && !origin.contains('$') => {
            walk.set_key("cors.origins", format!("[{}]", quote_toml(origin)), 0, directive);
        }
        (name, _) if name.starts_with("access-control-") => {
            walk.report.add_not_needed(directive, "what browsers ask is answered for those that `cors.origins` lists");
        }
        (_, "") => walk.report.add_not_needed(directive, "an empty header is not added"),
        (name, _) => match forbidden_reason(name) {
            Some(why) => walk.report.add_impossible(directive, why),
            None => set = true,
        },
    }
    let value = if set { convert_value(walk, directive, value, ValueAvailability::AtResponse) } else { Some(value) };
    let Some(value) = value else { return };
    if set && always {
        walk.report.carried_count += 1;
    } else if set {
        walk.report.add_note(directive, "it is on every answer here, errors included, as with `always`");
    }
    if let Some(level) = walk.block_stack.last_mut() {
        level.response_headers.push(HeaderDirective { name, value, must_set: set });
    }
}

/// `proxy_hide_header NAME`.
pub(in crate::import) fn handle_proxy_hide_header(walk: &mut ImportContext, directive: &Directive) {
    let name = directive.arg(0).to_owned();
    if let Some(why) = forbidden_reason(&name) {
        return walk.report.add_not_needed(directive, why);
    }
    if name.parse::<http::HeaderName>().is_err() {
        return walk.reject_argument(directive, "a header's name, such as X-Powered-By");
    }
    walk.report.carried_count += 1;
    if let Some(level) = walk.block_stack.last_mut() {
        level.hidden_headers.push(name);
    }
}

/// `proxy_pass_request_body on | off` and `proxy_pass_request_headers on | off`.
pub(in crate::import) fn handle_proxy_pass_request(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "on" => walk.report.add_not_needed(directive, "a request is passed on whole"),
        _ => walk.report.add_impossible(directive, "a request is passed on whole"),
    }
}

/// `expires [modified] TIME | epoch | max | off`.
pub(in crate::import) fn handle_expires(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "off" => walk.report.add_not_needed(directive, "answers are not given an age"),
        _ => walk.report.add_impossible(directive, "how long an answer may be kept is said by the replica"),
    }
}

/// Gathers the headers that are in force at the end of a location.
pub(in crate::import) fn collect_headers(walk: &ImportContext, location: &mut NginxLocation) {
    let levels = || walk.block_stack.iter().rev();
    if let Some(level) = levels().find(|level| !level.request_headers.is_empty()) {
        let key = |line: &HeaderDirective| bearer_token(&to_lowercase(&line.name), &line.value).map(str::to_owned);
        location.api_key = level.request_headers.iter().rev().find_map(key);
        let lines = level.request_headers.iter().filter(|line| line.must_set && key(line).is_none());
        lines.for_each(|line| add_header_value(&mut location.request_headers, &line.name, &line.value));
    }
    for name in
        levels().find(|level| !level.hidden_headers.is_empty()).into_iter().flat_map(|level| &level.hidden_headers)
    {
        add_header_value(&mut location.response_headers, name, "");
    }
    for line in
        levels().find(|level| !level.response_headers.is_empty()).into_iter().flat_map(|level| &level.response_headers)
    {
        if line.must_set {
            add_header_value(&mut location.response_headers, &line.name, &line.value);
        }
    }
}

fn add_header_value(headers: &mut Vec<TomlHeader>, name: &str, value: &str) {
    match headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        Some((_, values)) => values.push(value.to_owned()),
        None => headers.push((name.to_owned(), vec![value.to_owned()])),
    }
}

/// A header's name and its value.
fn parse_header_pair(walk: &mut ImportContext, directive: &Directive) -> Option<(String, String)> {
    let directive_name = &directive.name.text;
    match directive.args.as_slice() {
        [name, ..] if name.text.contains('$') => {
            walk.report.add_diagnostic(diagnose_missing_space(directive_name, name));
            None
        }
        [name, _] if name.text.parse::<http::HeaderName>().is_err() => {
            let issue = name.span.diagnostic(format!("`{}` is no header's name", name.text));
            walk.report
                .add_diagnostic(issue.with_help(format!("for example {directive_name} X-Real-IP $remote_addr;")));
            None
        }
        [name, value] => Some((name.text.clone(), value.text.clone())),
        [only] => {
            walk.report.add_diagnostic(diagnose_missing_space(directive_name, only));
            None
        }
        words => {
            let issue = directive
                .name
                .span
                .diagnostic(format!("`{directive_name}` takes a name and a value, not {} words", words.len()));
            walk.report.add_diagnostic(issue.with_help("put quotes around a value with spaces, and a `;` at the end"));
            None
        }
    }
}

/// A name and a value that have grown together.
fn diagnose_missing_space(directive: &str, word: &DirectiveWord) -> Diagnostic {
    let issue = word.span.diagnostic(format!("`{directive}` takes a name and a value"));
    let at = word.text.find(['$', '"', '\'']).filter(|at| *at > 0);
    match at.and_then(|at| word.text.split_at_checked(at)) {
        Some((name, value)) => issue.with_help(format!("a space is lost: write {directive} {name} {value};")),
        None => issue.with_help(format!("for example {directive} {} \"...\";", word.text)),
    }
}

/// `proxy_http_version 1.0 | 1.1 | 2`.
pub(in crate::import) fn handle_proxy_http_version(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "1.1" => walk.report.add_not_needed(directive, "replicas are spoken to in HTTP/1.1"),
        "1.0" | "2" => walk.report.add_impossible(directive, "replicas are spoken to in HTTP/1.1"),
        _ => walk.reject_argument(directive, "1.0 or 1.1"),
    }
}

/// `proxy_next_upstream error | timeout | http_503 | non_idempotent | off ...`.
pub(in crate::import) fn handle_proxy_next_upstream(walk: &mut ImportContext, directive: &Directive) {
    let words = directive.arg_texts();
    if let Some(i) = words.iter().position(|word| !is_retry_condition(word)) {
        let word = words.get(i).copied().unwrap_or_default();
        let at = directive.args.get(i).map_or(&directive.name.span, |word| &word.span);
        let issue = at.diagnostic(format!("`proxy_next_upstream` knows no `{word}`"));
        walk.report.add_diagnostic(issue.with_help("words: error, timeout, invalid_header, http_500, http_502, http_503, http_504, http_403, http_404, http_429, non_idempotent, off"));
    } else if words.contains(&"off") {
        walk.report.add_impossible(directive, "a request that reached no replica is always sent to the next");
    } else if words.iter().any(|word| ["http_403", "http_404"].contains(word)) {
        walk.report.add_impossible(directive, "an answer of 403 or 404 is passed on; failures lead to another replica");
    } else {
        let why = "a failed connection, an answer without a byte, a 429 and 5xx lead to another replica, POSTs too";
        walk.report.add_not_needed(directive, why);
    }
}

fn is_retry_condition(word: &str) -> bool {
    let status =
        word.strip_prefix("http_").is_some_and(|n| ["500", "502", "503", "504", "403", "404", "429"].contains(&n));
    status || ["error", "timeout", "invalid_header", "non_idempotent", "updating", "off"].contains(&word)
}

/// Directives that say nothing when they are off.
pub(in crate::import) fn handle_unless_off(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "off" => walk.report.add_not_needed(directive, "there is no such thing here"),
        "default" => walk.report.add_not_needed(directive, "replicas do not redirect"),
        _ => walk.report.add_impossible(directive, "requests and answers are passed on as they are"),
    }
}

/// `real_ip_header NAME`.
pub(in crate::import) fn handle_real_ip_header(walk: &mut ImportContext, directive: &Directive) {
    if directive.arg(0).eq_ignore_ascii_case("x-forwarded-for") {
        walk.report.add_not_needed(directive, "that is the header which trusted proxies tell the client's address in");
    } else {
        walk.report.add_impossible(directive, "trusted proxies tell the client's address in X-Forwarded-For");
    }
}
