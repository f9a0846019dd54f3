//! Directives that set or hide headers.

use crate::config::{Diagnostic, forbidden_reason, has_control_chars};
use crate::import::blocks::HeaderDirective;
use crate::import::context::ImportContext;
use crate::import::syntax::directive::{Directive, DirectiveWord};
use crate::log_format::{LogFormat, LogFormatError, ValueAvailability};

/// A rule for the value of a request header that the router sets itself.
enum SentHeaderRule {
    /// With these values the router sends the same.
    SameAsDefault(&'static [&'static str], &'static str),
    /// Any other value is not possible.
    Impossible(&'static str),
}

/// The request headers that the router sets itself.
const BUILT_IN_REQUEST_HEADERS: [(&str, &[SentHeaderRule]); 5] = [
    ("x-real-ip", &[SentHeaderRule::SameAsDefault(&["$remote_addr"], "it is sent")]),
    (
        "x-request-id",
        &[SentHeaderRule::SameAsDefault(
            &["$request_id", "$http_x_request_id"],
            "it is sent, the client's or a new one",
        )],
    ),
    (
        "host",
        &[
            SentHeaderRule::SameAsDefault(&["$proxy_host"], "it is the replica's address"),
            SentHeaderRule::Impossible("HTTP/1.1 requires a Host"),
        ],
    ),
    (
        "connection",
        &[
            SentHeaderRule::SameAsDefault(&["", "close", "keep-alive"], "connections to replicas are reused"),
            SentHeaderRule::Impossible(UPGRADE_REASON),
        ],
    ),
    (
        "upgrade",
        &[SentHeaderRule::SameAsDefault(&[""], "it is not forwarded"), SentHeaderRule::Impossible(UPGRADE_REASON)],
    ),
];

const UPGRADE_REASON: &str = "write `websocket = true` into the pool if clients open WebSockets";

/// `proxy_set_header NAME VALUE`.
pub(super) fn handle_proxy_set_header(context: &mut ImportContext, directive: &Directive) {
    let Some((name, value)) = parse_header_pair(context, directive) else { return };
    let must_set = must_set_request_header(context, directive, &name, &value);
    let value =
        if must_set { convert_value(context, directive, value, ValueAvailability::AtRequest) } else { Some(value) };
    if let (Some(level), Some(value)) = (context.open.level(), value) {
        level.request_headers.push(HeaderDirective { name, value, must_set, is_always: true });
    }
}

/// Returns whether router.toml must set a request header; remarks why not.
fn must_set_request_header(context: &mut ImportContext, directive: &Directive, name: &str, value: &str) -> bool {
    let name_lower = name.to_ascii_lowercase();
    let rules = BUILT_IN_REQUEST_HEADERS.iter().filter(|(known, _)| *known == name_lower).flat_map(|(_, rules)| *rules);
    for rule in rules {
        match rule {
            SentHeaderRule::SameAsDefault(values, reason) if values.contains(&value) => {
                context.report.add_not_needed(directive, *reason);
                return false;
            }
            SentHeaderRule::Impossible(reason) if value.is_empty() || name_lower != "host" => {
                context.report.add_impossible(directive, *reason);
                return false;
            }
            SentHeaderRule::SameAsDefault(..) | SentHeaderRule::Impossible(_) => {}
        }
    }
    if let Some(reason) = forbidden_reason(name) {
        context.report.add_impossible(directive, reason);
        return false;
    }
    context.report.carried_count += 1;
    true
}

/// Returns the value for router.toml; `None` if the header is left out.
///
/// A request header with an unknown value becomes empty, so that no client can send a header that only the proxy may
/// set.
fn convert_value(
    context: &mut ImportContext,
    directive: &Directive,
    value: String,
    available: ValueAvailability,
) -> Option<String> {
    let reason = match LogFormat::for_header(&value, available) {
        Ok(_) if !has_control_chars(&value) => return Some(value),
        Ok(_) => "a header cannot contain control characters".to_owned(),
        Err(bad @ (LogFormatError::MissingName { .. } | LogFormatError::UnclosedBrace { .. })) => {
            let span = directive.args.get(1).map_or(&directive.name.span, |word| &word.span);
            context.report.add_diagnostic(
                span.diagnostic(bad.to_string()).with_help("nginx allows `$` in a value only for a variable"),
            );
            return None;
        }
        Err(bad @ (LogFormatError::UnknownVariable { .. } | LogFormatError::NotYetAvailable { .. })) => bad.to_string(),
    };
    if available == ValueAvailability::AtResponse {
        context.report.add_impossible(directive, format!("{reason}: the header is left out"));
        return None;
    }
    if directive.arg(0).eq_ignore_ascii_case("host") {
        // Servers choose by this header what they answer with.
        let issue = directive.name.span.diagnostic(format!("this Host cannot be carried over: {reason}"));
        context.report.add_diagnostic(issue.with_help("write the name, or a variable such as $host"));
        return None;
    }
    context.report.carried_count = context.report.carried_count.saturating_sub(1);
    context.report.add_impossible(directive, format!("{reason}: replicas do not get the header"));
    Some(String::new())
}

/// `add_header NAME VALUE [always]`.
pub(super) fn handle_add_header(context: &mut ImportContext, directive: &Directive) {
    let is_always = directive.arg(2) == "always";
    let mut pair = directive.clone();
    pair.args.truncate(if is_always { 2 } else { 3 });
    let Some((name, value)) = parse_header_pair(context, &pair) else { return };
    let mut must_set = false;
    match (name.to_ascii_lowercase().as_str(), value.as_str()) {
        ("x-request-id", "$request_id") => context.report.add_not_needed(directive, "every response has it"),
        ("x-accel-buffering", "no") => context.report.add_not_needed(directive, "streams have it already"),
        (_, "") => context.report.add_not_needed(directive, "empty headers are not added"),
        (name, _) => match forbidden_reason(name) {
            Some(reason) => context.report.add_impossible(directive, reason),
            None => must_set = true,
        },
    }
    let value =
        if must_set { convert_value(context, directive, value, ValueAvailability::AtResponse) } else { Some(value) };
    let Some(value) = value else { return };
    context.report.carried_count += usize::from(must_set);
    if let Some(level) = context.open.level() {
        level.response_headers.push(HeaderDirective { name, value, must_set, is_always });
    }
}

/// `proxy_hide_header NAME`.
pub(super) fn handle_proxy_hide_header(context: &mut ImportContext, directive: &Directive) {
    let name = directive.arg(0).to_owned();
    if let Some(reason) = forbidden_reason(&name) {
        return context.report.add_not_needed(directive, reason);
    }
    if name.parse::<http::HeaderName>().is_err() {
        return context.reject_argument(directive, "a header name, such as X-Powered-By");
    }
    context.report.carried_count += 1;
    if let Some(level) = context.open.level() {
        level.hidden_headers.push(name);
    }
}

/// Returns a header's name and value; `None` and a diagnostic if they are invalid.
fn parse_header_pair(context: &mut ImportContext, directive: &Directive) -> Option<(String, String)> {
    let directive_name = &directive.name.text;
    match directive.args.as_slice() {
        [name, ..] if name.text.contains('$') => {
            context.report.add_diagnostic(diagnose_missing_space(directive_name, name));
            None
        }
        [name, _] if name.text.parse::<http::HeaderName>().is_err() => {
            let issue = name.span.diagnostic(format!("`{}` is no valid header name", name.text));
            context
                .report
                .add_diagnostic(issue.with_help(format!("for example {directive_name} X-Real-IP $remote_addr;")));
            None
        }
        [name, value] => Some((name.text.clone(), value.text.clone())),
        [only] => {
            context.report.add_diagnostic(diagnose_missing_space(directive_name, only));
            None
        }
        words => {
            let issue = directive
                .name
                .span
                .diagnostic(format!("`{directive_name}` takes a name and a value, not {} words", words.len()));
            context
                .report
                .add_diagnostic(issue.with_help("put quotes around a value with spaces, and a `;` at the end"));
            None
        }
    }
}

/// Returns the diagnostic of a name and a value without a space between them.
fn diagnose_missing_space(directive: &str, word: &DirectiveWord) -> Diagnostic {
    let issue = word.span.diagnostic(format!("`{directive}` takes a name and a value"));
    let value_start = word.text.find(['$', '"', '\'']).filter(|start| *start > 0);
    match value_start.and_then(|start| word.text.split_at_checked(start)) {
        Some((name, value)) => issue.with_help(format!("a space is missing: write {directive} {name} {value};")),
        None => issue.with_help(format!("for example {directive} {} \"...\";", word.text)),
    }
}
