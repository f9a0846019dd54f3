//! Directives on proxying that one rule cannot decide: the router has no key for them, and the arguments say whether
//! the router does the same without one.

use crate::import::context::ImportContext;
use crate::import::syntax::directive::Directive;

/// `expires [modified] TIME | epoch | max | off`.
pub(super) fn handle_expires(context: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "off" => context.report.add_not_needed(directive, "responses get no expiry"),
        _ => context.report.add_impossible(directive, "the expiry of responses is up to the replicas"),
    }
}

/// `proxy_http_version 1.0 | 1.1 | 2`.
pub(super) fn handle_proxy_http_version(context: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "1.1" => context.report.add_not_needed(directive, "requests to replicas use HTTP/1.1"),
        "1.0" | "2" => context.report.add_impossible(directive, "requests to replicas use HTTP/1.1"),
        _ => context.reject_argument(directive, "1.0 or 1.1"),
    }
}

/// `proxy_next_upstream error | timeout | http_503 | non_idempotent | off ...`.
pub(super) fn handle_proxy_next_upstream(context: &mut ImportContext, directive: &Directive) {
    let words = directive.arg_texts();
    if let Some(unknown) = directive.args.iter().find(|word| !is_retry_condition(&word.text)) {
        let issue = unknown.span.diagnostic(format!("`proxy_next_upstream` has no condition `{}`", unknown.text));
        context.report.add_diagnostic(issue.with_help("conditions: error, timeout, invalid_header, http_500, http_502, http_503, http_504, http_403, http_404, http_429, non_idempotent, off"));
    } else if words.contains(&"off") {
        context.report.add_impossible(directive, "a request that reached no replica is always retried on the next");
    } else if words.iter().any(|word| ["http_403", "http_404"].contains(word)) {
        context.report.add_impossible(directive, "a 403 or 404 is forwarded to the client, not retried");
    } else {
        let reason =
            "failed connections, empty responses, 429 and 5xx are retried on another replica, POST requests too";
        context.report.add_not_needed(directive, reason);
    }
}

fn is_retry_condition(word: &str) -> bool {
    let status =
        word.strip_prefix("http_").is_some_and(|n| ["500", "502", "503", "504", "403", "404", "429"].contains(&n));
    status || ["error", "timeout", "invalid_header", "non_idempotent", "updating", "off"].contains(&word)
}

/// Directives without effect when they are off.
pub(super) fn handle_unless_off(context: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "off" => context.report.add_not_needed(directive, "the router has no such feature"),
        "default" => context.report.add_not_needed(directive, "replicas do not redirect"),
        _ => context.report.add_impossible(directive, "requests and responses are forwarded unchanged"),
    }
}
