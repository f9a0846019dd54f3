//! Setting the headers that the configuration wants, on requests and on answers.

use http::{HeaderMap, HeaderValue};

use crate::config::{HeaderLine, HeaderText};
use crate::telemetry::Facts;

/// Puts headers in the place of those that are there; one that comes to nothing is gone.
pub(super) fn replace(lines: &[HeaderLine], headers: &mut HeaderMap, facts: &Facts<'_>) {
    for line in lines {
        headers.remove(&line.name);
        for value in line.values.iter().filter_map(|text| value(text, facts)) {
            headers.append(&line.name, value);
        }
    }
}

/// Adds headers to those that are there; one that is always empty takes away what was there before.
pub(super) fn add(lines: &[HeaderLine], headers: &mut HeaderMap, facts: &Facts<'_>) {
    for line in lines {
        for text in &line.values {
            if *text == HeaderText::Nothing {
                headers.remove(&line.name);
            } else if let Some(value) = value(text, facts) {
                headers.append(&line.name, value);
            }
        }
    }
}

/// What a text comes to. Nothing that could end the line, or the head, goes into a header.
fn value(text: &HeaderText, facts: &Facts<'_>) -> Option<HeaderValue> {
    match text {
        HeaderText::Nothing => None,
        HeaderText::Same(value) => Some(value.clone()),
        HeaderText::Made(format) => {
            let mut made = Vec::new();
            format.put(facts, &mut made);
            HeaderValue::from_maybe_shared(bytes::Bytes::from(made)).ok().filter(|value| !value.is_empty())
        }
    }
}
