//! The token counts of a response, merged from the `usage` objects of every dialect, and the event that carries them.
//!
//! Engines move other members to that event when usage is requested: llama.cpp its `timings`, vLLM its
//! `system_fingerprint`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::json_object::JsonObject;
use crate::units::{Tokens, Usage};

/// A `usage` object on the wire, with the counts of every dialect. A count that is absent, `null` or not a whole number
/// is `None` and does not affect the others.
#[derive(Debug, Default, Deserialize)]
pub struct UsageObject<'a> {
    #[serde(borrow, default)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    total_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt_tokens_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input_tokens_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cache_read_input_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cache_creation_input_tokens: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct TokenDetails<'a> {
    #[serde(borrow, default)]
    cached_tokens: Option<&'a RawValue>,
}

/// The latest value of each count in the `usage` objects of one response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageCounts {
    prompt: Option<u64>,
    /// Prompt tokens read from the cache and written to it, which `prompt` leaves out: Anthropic's `input_tokens`
    /// counts only those after the last cached one.
    extra_prompt: [Option<u64>; 2],
    cached: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
}

impl UsageCounts {
    /// Overwrites every count that `wire` has.
    pub fn merge(&mut self, wire: &UsageObject<'_>) {
        let details = wire.prompt_tokens_details.or(wire.input_tokens_details);
        let details = details.and_then(|raw| serde_json::from_str::<JsonObject<TokenDetails<'_>>>(raw.get()).ok());
        let cached = details.and_then(|JsonObject(d)| parse_count(d.cached_tokens));
        let read = parse_count(wire.cache_read_input_tokens);
        let update = |old: &mut Option<u64>, new: Option<u64>| *old = new.or(*old);
        update(&mut self.prompt, parse_count(wire.prompt_tokens).or(parse_count(wire.input_tokens)));
        update(&mut self.extra_prompt[0], read);
        update(&mut self.extra_prompt[1], parse_count(wire.cache_creation_input_tokens));
        update(&mut self.cached, cached.or(read));
        update(&mut self.completion, parse_count(wire.completion_tokens).or(parse_count(wire.output_tokens)));
        update(&mut self.total, parse_count(wire.total_tokens));
    }

    /// Returns the counts under their common names; `None` before the first count of the prompt, the completion or
    /// both.
    pub fn usage(&self) -> Option<Usage> {
        self.prompt.or(self.completion).or(self.total)?;
        let completion = self.completion.unwrap_or(0);
        // Rerankers report only a total, which is all prompt.
        let prompt = self.prompt.or(self.total.map(|total| total.saturating_sub(completion))).unwrap_or(0);
        let extra = self.extra_prompt.iter().flatten().fold(0, |sum: u64, n| sum.saturating_add(*n));
        let prompt = Tokens(prompt.saturating_add(extra));
        Some(Usage { prompt, cached: self.cached.map(Tokens), completion: Tokens(completion) })
    }
}

fn parse_count(raw: Option<&RawValue>) -> Option<u64> {
    raw?.get().parse().ok()
}

/// The members of a usage event that every event has, or that mean nothing without the others.
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
    // Data of several lines: in JSON a line break is white space, and an event's data is written as one line.
    if text.contains(['\n', '\r']) {
        text = text.replace(['\n', '\r'], " ");
    }
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge_objects(objects: &[&str]) -> Option<(u64, Option<u64>, u64)> {
        let mut counts = UsageCounts::default();
        objects.iter().for_each(|text| counts.merge(&serde_json::from_str(text).unwrap()));
        counts.usage().map(|u| (u.prompt.0, u.cached.map(|t| t.0), u.completion.0))
    }

    #[test]
    fn counts_of_every_dialect_are_read() {
        let chat = r#"{"prompt_tokens":12,"total_tokens":20,"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":4}}"#;
        assert_eq!(merge_objects(&[chat]), Some((12, Some(4), 8)));
        let responses =
            r#"{"input_tokens":7,"input_tokens_details":{"cached_tokens":0},"output_tokens":4,"total_tokens":11}"#;
        assert_eq!(merge_objects(&[responses]), Some((7, Some(0), 4)));
        assert_eq!(merge_objects(&[r#"{"prompt_tokens":5,"total_tokens":5}"#]), Some((5, None, 0)));
        assert_eq!(merge_objects(&[r#"{"total_tokens":9}"#]), Some((9, None, 0)));
    }

    #[test]
    fn cached_input_tokens_of_messages_count_as_prompt() {
        let start = r#"{"input_tokens":12,"output_tokens":0}"#;
        let end = r#"{"input_tokens":4,"output_tokens":6,"cache_creation_input_tokens":0,"cache_read_input_tokens":8}"#;
        assert_eq!(merge_objects(&[start, end]), Some((12, Some(8), 6)));
        assert_eq!(merge_objects(&[end, r#"{"output_tokens":7}"#]), Some((12, Some(8), 7)));
    }

    #[test]
    fn invalid_counts_are_absent_and_do_not_affect_others() {
        assert_eq!(
            merge_objects(&[r#"{"prompt_tokens":"x","completion_tokens":3,"prompt_tokens_details":7}"#]),
            Some((0, None, 3))
        );
        assert_eq!(merge_objects(&[r#"{"prompt_tokens":-1,"completion_tokens":null}"#]), None);
        assert_eq!(merge_objects(&["{}"]), None);
    }

    #[test]
    fn event_without_usage_is_one_line() {
        let event = "{\"choices\":[],\n\"usage\":{},\"timings\":{\n\"ms\":\r1}}";
        let rest = event_without_usage(event.as_bytes(), false).unwrap();
        assert!(rest.starts_with(r#"{"timings":{ "ms": 1},"choices":"#) && !rest.contains(['\n', '\r']), "{rest}");
    }

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
