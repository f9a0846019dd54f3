//! Events with `choices`, as chat completions and completions have them. Also the fallback for events of unknown types.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::event::{ErrorBlame, EventContent, RawEvent, WantedFields};
use super::event_json::{
    blame_error, find_values, is_error_value, parse_members, parse_object, parse_prefix, parse_value, read_by_search,
};
use super::json_object::JsonObject;
use super::usage::event_without_usage;

static CHOICE_KEY_FINDERS: LazyLock<ChoiceKeyFinders> = LazyLock::new(|| ChoiceKeyFinders {
    choices: Finder::new(b"\"choices\""),
    usage: Finder::new(b"\"usage\""),
    error: Finder::new(b"\"error\""),
    abort: Finder::new(b"\"abort\""),
    finish_reason: Finder::new(b"\"finish_reason\""),
});

struct ChoiceKeyFinders {
    choices: Finder<'static>,
    usage: Finder<'static>,
    error: Finder<'static>,
    abort: Finder<'static>,
    finish_reason: Finder<'static>,
}

#[derive(Deserialize)]
struct ChoiceObject<'a> {
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    token_ids: Option<&'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct DeltaObject<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

type Choices<'a> = Vec<JsonObject<ChoiceObject<'a>>>;

/// Reads an event with choices, or one of an unknown type.
pub(super) fn read_event<'a>(event: &RawEvent<'a>, wanted: WantedFields) -> EventContent<'a> {
    let keys = &*CHOICE_KEY_FINDERS;
    if event.data.trim_ascii() == b"[DONE]" {
        return EventContent { done: true, ..EventContent::default() };
    }
    let has_choices = find_values(&keys.choices, event.data).any(is_choice_array);
    if has_choices && !wanted.content && is_plain_content(keys, event) {
        return EventContent { has_content: true, ..EventContent::default() };
    }
    let Some(members) = parse_members(event) else { return read_unparsed(event, has_choices, wanted) };
    let choices: Option<Choices<'_>> = members.choices.and_then(parse_value);
    // Choices that cannot be parsed are still choices.
    let unparsed = members.choices.is_some() && choices.is_none();
    let choices = choices.unwrap_or_default();
    let usage = members.usage.and_then(parse_object);
    let named = members.object.is_some_and(|object| object.get() == r#""error""#).then_some(ErrorBlame::Replica);
    let error = members.error.filter(|error| is_error_value(error)).map(blame_error).or(named);
    let usage_only = usage.is_some() && choices.is_empty() && !unparsed && error.is_none();
    EventContent {
        has_content: choices.iter().any(has_content) || unparsed && has_choices && error.is_none(),
        usage_only,
        without_usage: if usage_only { event_without_usage(event.data, wanted.fingerprint) } else { None },
        has_fingerprint: members.system_fingerprint.is_some(),
        usage,
        id: if wanted.id { members.id.and_then(parse_value) } else { None },
        error,
        aborted: choices.iter().any(|JsonObject(c)| c.finish_reason.is_some_and(|r| r.get() == r#""abort""#))
            || unparsed && has_abort(keys, event.data),
        ..EventContent::default()
    }
}

/// Returns OpenAI's error event: a `data` line with an error object.
pub(super) fn error_event(message: &str, _sequence: u64) -> String {
    let error = json!({"message": message, "type": "api_error", "param": null, "code": "upstream_error"});
    format!("data: {}\n\n", json!({ "error": error }))
}

/// Returns whether an event with choices has nothing else to read.
fn is_plain_content(keys: &ChoiceKeyFinders, event: &RawEvent<'_>) -> bool {
    event.tail.is_empty()
        && keys.abort.find(event.data).is_none()
        && keys.error.find(event.data).is_none()
        && !find_values(&keys.usage, event.data).any(|value| value.starts_with(b"{"))
}

/// Reads an event that is cut or is not JSON.
fn read_unparsed<'a>(event: &RawEvent<'a>, has_choices: bool, wanted: WantedFields) -> EventContent<'a> {
    let keys = &*CHOICE_KEY_FINDERS;
    let is_error = starts_with_error(keys, event.data);
    // Choices that are cut, or cannot be parsed, count as content.
    let is_content = || {
        let choices = find_values(&keys.choices, event.data).find(|value| is_choice_array(value));
        choices.and_then(parse_prefix::<Choices<'_>>).is_none_or(|choices| choices.iter().any(has_content))
    };
    EventContent {
        has_content: has_choices && !is_error && is_content(),
        aborted: has_abort(keys, event.data) || has_abort(keys, event.tail),
        error: is_error.then_some(ErrorBlame::Replica),
        ..read_by_search(event, wanted)
    }
}

/// Returns whether the first member is `error` and reports one, as far as its value can be read.
fn starts_with_error(keys: &ChoiceKeyFinders, data: &[u8]) -> bool {
    let inner = data.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    let error = inner.filter(|inner| inner.starts_with(b"\"error\""));
    error
        .and_then(|inner| find_values(&keys.error, inner).next())
        .is_some_and(|value| parse_prefix::<&RawValue>(value).is_none_or(is_error_value))
}

fn is_choice_array(value: &[u8]) -> bool {
    value.strip_prefix(b"[").is_some_and(|inner| inner.trim_ascii_start().starts_with(b"{"))
}

fn has_abort(keys: &ChoiceKeyFinders, text: &[u8]) -> bool {
    find_values(&keys.finish_reason, text).any(|value| value.starts_with(b"\"abort\""))
}

fn has_content(JsonObject(choice): &JsonObject<ChoiceObject<'_>>) -> bool {
    let in_delta = choice.delta.and_then(parse_object::<DeltaObject<'_>>).is_some_and(|delta| {
        let pieces = [
            delta.content,
            delta.reasoning,
            delta.reasoning_content,
            delta.tool_calls,
            delta.refusal,
            delta.function_call,
        ];
        pieces.into_iter().any(is_non_empty)
    });
    in_delta || is_non_empty(choice.text) || is_non_empty(choice.token_ids)
}

fn is_non_empty(value: Option<&RawValue>) -> bool {
    value.is_some_and(|raw| !matches!(raw.get(), "\"\"" | "[]" | "{}"))
}
