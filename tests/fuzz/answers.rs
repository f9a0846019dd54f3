//! The scanner of JSON responses and events: its fields equal those that serde_json reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use tokenweir::dialect::Dialect;
use tokenweir::sse::{BodyFormat, BodyObserver};

/// Names whose values are compared; inputs that repeat one are skipped.
const NAMES: [&str; 13] = [
    "choices",
    "error",
    "id",
    "object",
    "system_fingerprint",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "cached_tokens",
    "response",
    "message",
];
/// Longer values of a document are ignored, and so are longer ids.
const VALUE_BYTES: usize = 4096;
const ID_BYTES: usize = 256;
const FIRST: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_repeated = |name: &&str| text.matches(&format!("\"{name}\"")).count() > 1;
    // Escaped names are not read; the counts of other dialects have unit tests.
    if text.contains('\\') || text.contains("put_tokens") || NAMES.iter().any(is_repeated) {
        return;
    }
    if let Ok(Value::Object(json)) = serde_json::from_str(text) {
        check_document(text, &json);
        check_event(text, &json);
    }
});

/// Checks the JSON as a whole response.
fn check_document(text: &str, json: &Map<String, Value>) {
    let mut observer = BodyObserver::new(Dialect::Chat, BodyFormat::Json);
    observer.observe(text.as_bytes());
    assert!(observer.is_done());
    let field = |name: &str| json.get(name).filter(|value| value.to_string().len() < VALUE_BYTES);
    if text.len() <= VALUE_BYTES {
        assert_eq!(observer.id(), id(field("id")));
        assert_eq!(observer.has_error(), reports_error(field("error")));
        assert_eq!(counts(&observer), expected_counts(field("usage")));
        if has_one_reason(text) && json.get("choices").is_none_or(Value::is_array) {
            assert_eq!(observer.is_aborted(), is_aborted(json));
        }
    }
}

/// Checks the same JSON as an event, which is read less exactly after the first content.
fn check_event(text: &str, json: &Map<String, Value>) {
    if text.contains(['\n', '\r']) {
        return;
    }
    for has_content in [false, true] {
        let mut observer = BodyObserver::new(Dialect::Chat, BodyFormat::Stream);
        if has_content {
            observer.observe(FIRST);
        }
        let mut events = Vec::new();
        observer.observe_events(format!("data: {text}\n\n").as_bytes(), |event| events.push(event));
        let [event] = events.as_slice() else { panic!("expected one event: {events:?}") };
        let error = reports_error(json.get("error")) || json.get("object").is_some_and(|object| object == "error");
        let choices = json.get("choices").and_then(Value::as_array);
        assert_eq!(event.error.is_some(), error);
        assert_eq!(counts(&observer), expected_counts(json.get("usage")));
        assert_eq!(event.has_usage, json.get("usage").is_some_and(Value::is_object));
        assert!(!event.usage_only || event.has_usage && choices.is_none_or(Vec::is_empty) && !error);
        // A choice that is not an object makes the others unreadable.
        if has_one_reason(text) && choices.is_none_or(|choices| choices.iter().all(Value::is_object)) {
            assert_eq!(event.aborted, is_aborted(json));
        }
        if !has_content {
            assert_eq!(observer.id(), id(json.get("id")));
        }
    }
}

fn id(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|id| id.len() <= ID_BYTES)
}

/// Returns whether the value of `error` reports one: some value in it is no blank, zero or false.
fn reports_error(value: Option<&Value>) -> bool {
    value.is_some_and(|value| match value {
        Value::Array(items) => items.iter().any(|item| reports_error(Some(item))),
        Value::Object(members) => members.values().any(|member| reports_error(Some(member))),
        Value::String(text) => text.chars().any(|c| !c.is_whitespace()),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(is_set) => *is_set,
        Value::Null => false,
    })
}

/// Returns whether no choice can have two reasons, of which serde_json reads the last one.
fn has_one_reason(text: &str) -> bool {
    text.matches("\"finish_reason\"").count() <= 1
}

fn is_aborted(json: &Map<String, Value>) -> bool {
    let choices = json.get("choices").and_then(Value::as_array);
    choices.into_iter().flatten().any(|choice| choice["finish_reason"] == "abort")
}

fn counts(observer: &BodyObserver) -> Option<(u64, Option<u64>, u64)> {
    observer.usage().map(|usage| (usage.prompt.0, usage.cached.map(|tokens| tokens.0), usage.completion.0))
}

/// Returns prompt, cached and completion tokens.
fn expected_counts(usage: Option<&Value>) -> Option<(u64, Option<u64>, u64)> {
    let usage = usage.filter(|usage| usage.is_object())?;
    let count = |name: &str| usage[name].as_u64();
    let (prompt, completion, total) = (count("prompt_tokens"), count("completion_tokens"), count("total_tokens"));
    prompt.or(completion).or(total)?;
    let rest = total.map(|total| total.saturating_sub(completion.unwrap_or(0)));
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    Some((prompt.or(rest).unwrap_or(0), cached, completion.unwrap_or(0)))
}
