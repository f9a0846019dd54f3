//! The configured headers: set on requests to replicas and added to responses, with `X-Upstream` and `X-Decision`.

use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::log_format::RequestRecord;
use crate::routes::{HeaderRule, HeaderRules, HeaderTemplate};
use crate::server::request_log::RequestLog;

const X_UPSTREAM: HeaderName = HeaderName::from_static("x-upstream");
const X_DECISION: HeaderName = HeaderName::from_static("x-decision");

/// Sets the configured headers on a request to the last attempt's replica.
pub(in crate::server) fn apply_request_headers(log: &RequestLog, headers: &mut HeaderMap) {
    let context = log.context();
    let rules = context.settings.headers.for_request(log.pool_name(), &context.scope().headers);
    if !rules.is_empty() {
        log.with_record(None, |record| set_request_headers(rules, headers, record));
    }
}

/// Sets the configured headers on a response, a replica's or the router's own.
pub(in crate::server) fn apply_response_headers<B>(log: &mut RequestLog, response: &mut Response<B>) {
    let context = log.shared_context();
    let settings = &context.settings;
    let rules = settings.headers.for_response(log.pool_name(), &context.scope().headers);
    if settings.x_upstream
        && !rules.iter().any(|rule| rule.name == X_UPSTREAM)
        && let Some(name) = log.last_replica_name().and_then(|name| HeaderValue::try_from(name).ok())
    {
        response.headers_mut().insert(X_UPSTREAM, name);
    }
    if let Some(decision) = log.decision_line().and_then(|line| HeaderValue::try_from(line).ok()) {
        response.headers_mut().insert(X_DECISION, decision);
    }
    let status = response.status().as_u16();
    let on_success = HeaderRules::for_success(&context.scope().headers, status);
    if !rules.is_empty() || !on_success.is_empty() {
        log.capture_response_headers(response.headers());
        log.with_record(Some(status), |record| {
            add_response_headers(rules, response.headers_mut(), record);
            add_response_headers(on_success, response.headers_mut(), record);
        });
    }
}

/// Replaces headers by the configured ones; a header whose value is empty is removed.
fn set_request_headers(rules: &[HeaderRule], headers: &mut HeaderMap, record: &RequestRecord<'_>) {
    for rule in rules {
        headers.remove(&rule.name);
        for value in rule.values.iter().filter_map(|template| render_value(template, record)) {
            headers.append(&rule.name, value);
        }
    }
}

/// Appends the configured headers; a template that is always empty removes the header.
fn add_response_headers(rules: &[HeaderRule], headers: &mut HeaderMap, record: &RequestRecord<'_>) {
    for rule in rules {
        for template in &rule.values {
            if *template == HeaderTemplate::Empty {
                headers.remove(&rule.name);
            } else if let Some(value) = render_value(template, record) {
                headers.append(&rule.name, value);
            }
        }
    }
}

/// Returns the value of a template; `None` if it is empty or would end the header line.
fn render_value(template: &HeaderTemplate, record: &RequestRecord<'_>) -> Option<HeaderValue> {
    match template {
        HeaderTemplate::Empty => None,
        HeaderTemplate::Constant(value) => Some(value.clone()),
        HeaderTemplate::Format(format) => {
            let mut text = Vec::new();
            format.render(record, &mut text);
            HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok().filter(|value| !value.is_empty())
        }
    }
}
