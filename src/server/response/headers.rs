//! Setting the headers that the configuration wants, on requests and on answers.

use http::{HeaderMap, HeaderValue};

use crate::config::{HeaderRule, HeaderTemplate};
use crate::log_format::RequestRecord;

/// Puts headers in the place of those that are there; one that comes to nothing is gone.
pub(in crate::server) fn set_request_headers(lines: &[HeaderRule], headers: &mut HeaderMap, facts: &RequestRecord<'_>) {
    for line in lines {
        headers.remove(&line.name);
        for value in line.values.iter().filter_map(|text| render_value(text, facts)) {
            headers.append(&line.name, value);
        }
    }
}

/// Adds headers to those that are there; one that is always empty takes away what was there before.
pub(in crate::server) fn add_response_headers(
    lines: &[HeaderRule],
    headers: &mut HeaderMap,
    facts: &RequestRecord<'_>,
) {
    for line in lines {
        for text in &line.values {
            if *text == HeaderTemplate::Empty {
                headers.remove(&line.name);
            } else if let Some(value) = render_value(text, facts) {
                headers.append(&line.name, value);
            }
        }
    }
}

/// What a text comes to. Nothing that could end the line, or the head, goes into a header.
fn render_value(text: &HeaderTemplate, facts: &RequestRecord<'_>) -> Option<HeaderValue> {
    match text {
        HeaderTemplate::Empty => None,
        HeaderTemplate::Constant(value) => Some(value.clone()),
        HeaderTemplate::Format(format) => {
            let mut made = Vec::new();
            format.render(facts, &mut made);
            HeaderValue::from_maybe_shared(bytes::Bytes::from(made)).ok().filter(|value| !value.is_empty())
        }
    }
}
