//! Reading an event's JSON: by a search for keys where that is enough, as JSON where it is not.
//!
//! The search looks for a key with its quotes, `"usage"`, and for the colon after it. No text of a model or a user can
//! fake one. Within a JSON string a quote is always escaped, so the text `"usage":{` arrives as `\"usage\":{`, which
//! does not contain `"usage"`. A string that is exactly `usage` is followed by `,`, `}` or `]`, never by a colon,
//! unless it is a key.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::event::{ErrorBlame, EventContent, RawEvent, WantedFields};
use super::json_object::JsonObject;
use crate::http::StatusMeaning;

static KEY_FINDERS: LazyLock<KeyFinders> = LazyLock::new(|| KeyFinders {
    usage: Finder::new(b"\"usage\""),
    kind: Finder::new(b"\"type\""),
    id: Finder::new(b"\"id\""),
});

struct KeyFinders {
    usage: Finder<'static>,
    kind: Finder<'static>,
    id: Finder<'static>,
}

/// The members of an event, or of the object within it, that are read; `null` is `None`.
#[derive(Deserialize)]
pub(super) struct EventMembers<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) choices: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) system_fingerprint: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) message: Option<&'a RawValue>,
}

/// The members of an error object that show whose fault it is.
#[derive(Deserialize)]
struct ErrorFault<'a> {
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
}

/// Returns the event's type: its name, or the value of the first `"type"` within it that `is_known`.
pub(super) fn find_event_type<'a>(event: &RawEvent<'a>, is_known: impl Fn(&[u8]) -> bool) -> Option<&'a [u8]> {
    if is_known(event.name) {
        return Some(event.name);
    }
    let string = |value: &'a [u8]| value.strip_prefix(b"\"")?.split(|byte| *byte == b'"').next();
    let key = &KEY_FINDERS.kind;
    let mut types = find_values(key, event.data).chain(find_values(key, event.tail)).filter_map(string);
    types.find(|kind| is_known(kind))
}

/// Reads an event whose type is `error`.
pub(super) fn read_error<'a>(event: &RawEvent<'a>) -> EventContent<'a> {
    let error = parse_members(event).and_then(|members| members.error);
    EventContent { error: Some(error.map_or(ErrorBlame::Replica, blame_error)), ..EventContent::default() }
}

/// Returns whether the value of a member `error` reports an error. Some servers write `""`, `{}`, `[]`, `false`, `0` or an
/// object of such values into good responses.
pub fn is_error_value(value: &RawValue) -> bool {
    match value.get() {
        "null" | "\"\"" | "{}" | "[]" | "false" | "0" => false,
        text => serde_json::from_str(text).map_or(true, |value| !is_empty_value(&value)),
    }
}

fn is_empty_value(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_set) => !is_set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.iter().all(is_empty_value),
        Value::Object(members) => members.values().all(is_empty_value),
    }
}

/// Returns who is to blame for an error. vLLM repeats the status as `code`; a 408 is about the server.
pub fn blame_error(error: &RawValue) -> ErrorBlame {
    let Some(fault) = parse_object::<ErrorFault<'_>>(error) else { return ErrorBlame::Replica };
    let code = fault.code.map_or("", RawValue::get).trim_matches('"');
    match code.parse::<u16>().map(|status| (status, StatusMeaning::of(status))) {
        Ok((408, _)) => ErrorBlame::Replica,
        Ok((_, StatusMeaning::RequestFault)) if !code.starts_with('5') => ErrorBlame::Request,
        Ok((_, StatusMeaning::Busy)) => ErrorBlame::Load,
        Ok(_) => ErrorBlame::Replica,
        Err(_) => match (code, fault.kind.map_or("", RawValue::get).trim_matches('"')) {
            ("rate_limit_exceeded", _) | (_, "overloaded_error" | "rate_limit_error") => ErrorBlame::Load,
            (_, "invalid_request_error" | "BadRequestError") => ErrorBlame::Request,
            _ => ErrorBlame::Replica,
        },
    }
}

/// Reads the id and the usage of the object that `inner` picks, or of the event itself if it picks none.
pub(super) fn read_inner_object<'a>(
    event: &RawEvent<'a>,
    wanted: WantedFields,
    inner: impl Fn(&EventMembers<'a>) -> Option<&'a RawValue>,
) -> EventContent<'a> {
    let Some(outer) = parse_members(event) else { return read_by_search(event, wanted) };
    let picked = inner(&outer).and_then(parse_object).unwrap_or(outer);
    EventContent {
        id: if wanted.id { picked.id.and_then(parse_value) } else { None },
        usage: picked.usage.and_then(parse_object),
        ..EventContent::default()
    }
}

/// Reads the first id and the last usage at any depth, for an event that is cut or is not JSON.
pub(super) fn read_by_search<'a>(event: &RawEvent<'a>, wanted: WantedFields) -> EventContent<'a> {
    let last_usage = |text| {
        find_values(&KEY_FINDERS.usage, text).filter(|value| value.starts_with(b"{")).last().and_then(parse_prefix)
    };
    let id = if wanted.id { find_values(&KEY_FINDERS.id, event.data).next().and_then(parse_prefix) } else { None };
    EventContent { usage: last_usage(event.tail).or_else(|| last_usage(event.data)), id, ..EventContent::default() }
}

/// Returns the text after `key` and its colon, for each place where the key stands.
pub(super) fn find_values<'a>(key: &Finder<'_>, text: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    key.find_iter(text).filter_map(move |at| {
        let after = text.get(at + key.needle().len()..)?.trim_ascii_start();
        Some(after.strip_prefix(b":")?.trim_ascii_start())
    })
}

/// Parses the event's members; `None` if it is cut or is not a JSON object.
pub(super) fn parse_members<'a>(event: &RawEvent<'a>) -> Option<EventMembers<'a>> {
    if !event.tail.is_empty() {
        return None;
    }
    serde_json::from_slice::<JsonObject<EventMembers<'_>>>(event.data).ok().map(|object| object.0)
}

/// Parses a value; `None` if it has another type.
pub(super) fn parse_value<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// Parses an object; `None` if the value is not one.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    parse_value::<JsonObject<T>>(raw).map(|object| object.0)
}

/// Parses the JSON value at the start of `text`, whatever follows it.
pub(super) fn parse_prefix<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    serde_json::Deserializer::from_slice(text).into_iter().next()?.ok()
}
