//! What a JSON answer, or an event of a stream, is found to say without being parsed is what serde_json reads in it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use tokenweir::sse::{Kind, Observer};
use tokenweir::units::Dialect;

/// Names whose values are compared; one that is there twice has two.
const NAMES: [&str; 12] = [
    "choices",
    "error",
    "id",
    "object",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "cached_tokens",
    "response",
    "message",
];
/// Longer values of a document are given up, and so are longer ids.
const VALUE_BYTES: usize = 4096;
const ID_BYTES: usize = 256;
const FIRST: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let twice = |name: &&str| text.matches(&format!("\"{name}\"")).count() > 1;
    // Escaped names are for nobody; of other dialects' counts there are tests.
    if text.contains('\\') || text.contains("put_tokens") || NAMES.iter().any(twice) {
        return;
    }
    if let Ok(Value::Object(said)) = serde_json::from_str(text) {
        document(text, &said);
        event(text, &said);
    }
});

fn document(text: &str, said: &Map<String, Value>) {
    let mut observer = Observer::new(Dialect::Chat, Kind::Whole);
    observer.observe(text.as_bytes());
    assert!(observer.done());
    let of = |name: &str| said.get(name).filter(|value| value.to_string().len() < VALUE_BYTES);
    if text.len() <= VALUE_BYTES {
        assert_eq!(observer.id(), id(of("id")));
        assert_eq!(observer.error(), is_there(of("error")));
        assert_eq!(counts(&observer), wanted(of("usage")));
        if once(text) && said.get("choices").is_none_or(Value::is_array) {
            assert_eq!(observer.aborted(), is_aborted(said));
        }
    }
}

/// The same as an event, which is looked at less closely once an answer has begun.
fn event(text: &str, said: &Map<String, Value>) {
    if text.contains(['\n', '\r']) {
        return;
    }
    for begun in [false, true] {
        let mut observer = Observer::new(Dialect::Chat, Kind::Stream);
        if begun {
            observer.observe(FIRST);
        }
        let mut judged = Vec::new();
        observer.judge(format!("data: {text}\n\n").as_bytes(), |event| judged.push(event));
        let [event] = judged.as_slice() else { panic!("one event is one: {judged:?}") };
        let error = is_there(said.get("error")) || said.get("object").is_some_and(|object| object == "error");
        let choices = said.get("choices").and_then(Value::as_array);
        assert_eq!(event.error, error);
        assert_eq!(counts(&observer), wanted(said.get("usage")));
        assert_eq!(event.usage, said.get("usage").is_some_and(Value::is_object));
        assert!(!event.usage_only || event.usage && choices.is_none_or(Vec::is_empty) && !error);
        // A choice that is none spoils the others; such a server is not judged.
        if once(text) && choices.is_none_or(|choices| choices.iter().all(Value::is_object)) {
            assert_eq!(event.aborted, is_aborted(said));
        }
        if !begun {
            assert_eq!(observer.id(), id(said.get("id")));
        }
    }
}

fn id(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|id| id.len() <= ID_BYTES)
}

fn is_there(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

/// Whether no choice can have two reasons, of which serde_json takes the last one.
fn once(text: &str) -> bool {
    text.matches("\"finish_reason\"").count() <= 1
}

fn is_aborted(said: &Map<String, Value>) -> bool {
    let choices = said.get("choices").and_then(Value::as_array);
    choices.into_iter().flatten().any(|choice| choice["finish_reason"] == "abort")
}

fn counts(observer: &Observer) -> Option<(u64, Option<u64>, u64)> {
    observer.usage().map(|usage| (usage.prompt.0, usage.cached.map(|tokens| tokens.0), usage.completion.0))
}

/// Prompt, cached and completion tokens.
fn wanted(usage: Option<&Value>) -> Option<(u64, Option<u64>, u64)> {
    let usage = usage.filter(|usage| usage.is_object())?;
    let count = |name: &str| usage[name].as_u64();
    let (prompt, completion, total) = (count("prompt_tokens"), count("completion_tokens"), count("total_tokens"));
    prompt.or(completion).or(total)?;
    let rest = total.map(|total| total.saturating_sub(completion.unwrap_or(0)));
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    Some((prompt.or(rest).unwrap_or(0), cached, completion.unwrap_or(0)))
}
