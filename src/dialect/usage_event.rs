//! The event that carries a stream's usage, and what engines move to it when usage is requested: llama.cpp its
//! `timings`, vLLM its `system_fingerprint`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The members of such an event that every event has, or that mean nothing without the others.
const ORDINARY_MEMBERS: [&str; 8] =
    ["choices", "created", "id", "model", "object", "obfuscation", "service_tier", "usage"];
const FINGERPRINT: &str = "system_fingerprint";

/// Many clients read the first choice of every event, so an event that remains gets one that adds nothing.
const EMPTY_CHAT_CHOICE: &str = r#"[{"index":0,"delta":{},"finish_reason":null}]"#;
const EMPTY_TEXT_CHOICE: &str = r#"[{"index":0,"text":"","logprobs":null,"finish_reason":null}]"#;

/// The members of an object in their order; names may repeat.
struct OrderedMembers<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for OrderedMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = OrderedMembers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(OrderedMembers(members))
    }
}

/// Returns the usage event `data` without its usage and with an empty choice, for a client that did not ask for usage.
/// `None` if the client misses nothing without it: it carries no other member with a value.
///
/// A `system_fingerprint` counts if `wants_fingerprint`, that is if no earlier event had one.
pub(super) fn event_without_usage(data: &[u8], wants_fingerprint: bool) -> Option<Box<str>> {
    let OrderedMembers(members) = serde_json::from_slice(data).ok()?;
    let is_missed = |name: &str, value: &RawValue| {
        !ORDINARY_MEMBERS.contains(&name) && value.get() != "null" && (name != FINGERPRINT || wants_fingerprint)
    };
    if !members.iter().any(|(name, value)| is_missed(name, value)) {
        return None;
    }
    let is_text = members.iter().any(|(name, value)| name == "object" && value.get() == r#""text_completion""#);
    let mut text = String::with_capacity(data.len());
    for (name, value) in members.iter().filter(|(name, _)| !matches!(&**name, "choices" | "usage")) {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(&format!("{}:{}", serde_json::Value::from(&**name), value.get()));
    }
    text.push_str(",\"choices\":");
    text.push_str(if is_text { EMPTY_TEXT_CHOICE } else { EMPTY_CHAT_CHOICE });
    text.push('}');
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_engines_move_to_the_usage_event_survive_without_it() {
        let chat = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":3},"timings":{"n":4.50, "big":12345678901234567890},"x":null}"#;
        assert_eq!(
            event_without_usage(chat.as_bytes(), false).as_deref(),
            Some(
                r#"{"id":"c","timings":{"n":4.50, "big":12345678901234567890},"x":null,"choices":[{"index":0,"delta":{},"finish_reason":null}]}"#
            )
        );
        let text = r#"{"usage":{},"choices":[],"object":"text_completion","system_fingerprint":"f"}"#;
        assert_eq!(
            event_without_usage(text.as_bytes(), true).as_deref(),
            Some(
                r#"{"object":"text_completion","system_fingerprint":"f","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":null}]}"#
            )
        );
    }

    #[test]
    fn event_with_nothing_else_is_not_missed() {
        for event in [
            r#"{"choices":[],"usage":{}}"#,
            r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"default","obfuscation":"x","choices":[],"usage":{},"system_fingerprint":"seen","y":null}"#,
            "[]",
            "{",
        ] {
            assert_eq!(event_without_usage(event.as_bytes(), false), None, "{event}");
        }
    }
}
