//! The members of a JSON request that a router must know, borrowed from its body.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

use super::agents::SessionMembers;
use super::prompt_members::PromptMembers;
use super::splice::BodyEdit;
use super::stream_options::{ObjectStart, StreamOptions};
use super::{BodyError, json};
use crate::units::Tokens;

/// The members of a request that matter to routing; `null` counts as absent.
///
/// *Shape*: borrowed from the body. Of a repeated member the last one counts, as in Python. A second `model` is an
/// error, because router and replica might read different ones.
#[derive(Debug)]
pub struct ParsedBody<'a> {
    /// The requested model; `None` if the body names none.
    pub model: Option<ModelField<'a>>,
    /// The response is wanted as an event stream.
    pub stream: bool,
    /// The output limit of a choice: `max_completion_tokens`, else `max_output_tokens`, else `max_tokens`. Also `None`
    /// if it is not a whole number, which the replica will refuse.
    pub max_output: Option<Tokens>,
    /// The number of choices for each prompt, `n`; `None` in the same cases.
    pub choice_count: Option<u32>,
    /// The members that hold the prompt.
    pub prompt: PromptMembers<'a>,
    /// The members that tie the request to earlier ones.
    pub affinity_hints: AffinityHints<'a>,
    /// The members that may name the session.
    pub session: SessionMembers<'a>,
    /// The position of a `model` that is `null`.
    null_model: Option<Range<usize>>,
    stream_options: StreamOptions,
    object_start: ObjectStart,
}

/// A model's name in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelField<'a> {
    /// The name.
    pub name: Cow<'a, str>,
    /// The position of its JSON string in the body, quotes included.
    pub range: Range<usize>,
}

/// The members that tie a request to a session or a cache; each is `None` if it is absent or not a string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AffinityHints<'a> {
    /// The end user.
    pub user: Option<Cow<'a, str>>,
    /// The client's hint at shared prefixes.
    pub prompt_cache_key: Option<Cow<'a, str>>,
    /// The stored response that this request continues.
    pub previous_response_id: Option<Cow<'a, str>>,
    /// The salt that separates this request's cache entries from others.
    pub cache_salt: Option<Cow<'a, str>>,
}

/// The members found by one pass over the body, as they are written.
#[derive(Default)]
struct MemberScan<'a> {
    /// `Some` for `null` too, so that a second one is noticed.
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    /// By precedence.
    max_output: [Option<&'a RawValue>; 3],
    n: Option<&'a RawValue>,
    prompt: PromptMembers<'a>,
    affinity_hints: AffinityHints<'a>,
    session: SessionMembers<'a>,
    has_members: bool,
}

impl<'a> ParsedBody<'a> {
    /// Parses a request's JSON body. All of it is checked as JSON.
    ///
    /// *Errors*: the body is not a JSON object (with line, column and byte), has two `model`s, or a `model` or `stream`
    /// of the wrong type. Members that only estimates need never cause an error. *Cost*: 0.5 us a KiB; no recursion, so
    /// that deep nesting cannot overflow the stack.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let text = std::str::from_utf8(body).map_err(|error| invalid_utf8(body, error.valid_up_to()))?;
        let trimmed = text.trim_ascii_start();
        if trimmed.is_empty() {
            return Err(BodyError::invalid_json("the body is empty", 0));
        }
        let mut found = MemberScan::default();
        json::for_each_member(text, |name, value| found.record(name, value))
            .map_err(|error| BodyError::invalid_json(&error, byte_offset(text, &error)))?;
        Ok(Self {
            null_model: found.model.filter(|v| v.get() == "null").map(|v| json::range_in(text, v)),
            model: found.model.filter(|v| v.get() != "null").map(|v| parse_model(text, v)).transpose()?,
            stream: found.stream.map(parse_stream).transpose()?.unwrap_or(false),
            max_output: found.max_output.into_iter().find_map(parse_number).map(Tokens),
            choice_count: parse_number(found.n).and_then(|n| u32::try_from(n).ok()),
            prompt: found.prompt,
            affinity_hints: found.affinity_hints,
            session: found.session,
            stream_options: found.stream_options.map(|v| StreamOptions::parse(text, v)).unwrap_or_default(),
            object_start: ObjectStart { offset: text.len() - trimmed.len() + 1, is_empty: !found.has_members },
        })
    }

    /// Returns the position of the value of `model`, whether a name or `null`; `None` without one.
    pub fn model_range(&self) -> Option<Range<usize>> {
        self.model.as_ref().map(|model| model.range.clone()).or_else(|| self.null_model.clone())
    }

    /// Returns the place where members can be inserted.
    pub const fn object_start(&self) -> ObjectStart {
        self.object_start
    }

    /// Returns whether the client itself requested the usage event of a stream.
    pub fn is_usage_requested(&self) -> bool {
        self.stream_options.is_usage_requested()
    }

    /// Returns whether the client itself refused the usage event of a stream.
    pub fn is_usage_refused(&self) -> bool {
        self.stream_options.is_usage_refused()
    }

    /// Returns the edit that requests the usage event; `None` if the client wrote `stream_options` of its own.
    ///
    /// Only for requests with `stream: true`: vLLM refuses `stream_options` on others.
    pub fn usage_edit(&self) -> Option<BodyEdit> {
        self.stream_options.usage_edit(self.object_start)
    }
}

impl ModelField<'_> {
    /// Returns the edit that replaces this name by `name`.
    pub fn replacement(&self, name: &str) -> BodyEdit {
        BodyEdit::replace(self.range.clone(), serde_json::Value::from(name).to_string())
    }
}

impl<'a> MemberScan<'a> {
    /// Records a member.
    ///
    /// *Errors*: a second `model`.
    fn record(&mut self, name: &str, value: &'a RawValue) -> Result<(), &'static str> {
        self.has_members = true;
        let given = (value.get() != "null").then_some(value);
        match name {
            "model" if self.model.is_some() => return Err("duplicate member `model`"),
            "model" => self.model = Some(value),
            "stream" => self.stream = given,
            "stream_options" => self.stream_options = Some(value),
            "max_completion_tokens" => self.max_output[0] = given,
            "max_output_tokens" => self.max_output[1] = given,
            "max_tokens" => self.max_output[2] = given,
            "n" => self.n = given,
            "user" => self.affinity_hints.user = given.and_then(json::parse_string),
            "prompt_cache_key" => self.affinity_hints.prompt_cache_key = given.and_then(json::parse_string),
            "previous_response_id" => self.affinity_hints.previous_response_id = given.and_then(json::parse_string),
            "cache_salt" => self.affinity_hints.cache_salt = given.and_then(json::parse_string),
            "metadata" => self.session.metadata = given,
            "session_id" | "conversation_id" => self.session.id = given,
            "conversation" => self.session.conversation = given,
            _ => self.prompt.set(name, given),
        }
        Ok(())
    }
}

fn parse_model<'a>(text: &str, value: &'a RawValue) -> Result<ModelField<'a>, BodyError> {
    match json::parse_string(value) {
        Some(name) => Ok(ModelField { name, range: json::range_in(text, value) }),
        None => Err(BodyError::wrong_type("model", "a string", value)),
    }
}

fn parse_stream(value: &RawValue) -> Result<bool, BodyError> {
    match value.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(BodyError::wrong_type("stream", "a boolean", value)),
    }
}

fn parse_number(value: Option<&RawValue>) -> Option<u64> {
    value?.get().parse().ok()
}

/// Returns the error of a body that is not UTF-8 from `byte` on, with line and column from 1.
fn invalid_utf8(body: &[u8], byte: usize) -> BodyError {
    let before = body.get(..byte).unwrap_or_default();
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    BodyError::invalid_json(format_args!("invalid UTF-8 at line {line} column {column}"), byte)
}

/// Returns the offset of the line and column that `error` names.
fn byte_offset(text: &str, error: &serde_json::Error) -> usize {
    let lines_before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    lines_before + error.column().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::splice;
    use super::*;
    use crate::dialect::PromptPart;

    fn parse_body(body: &str) -> Result<ParsedBody<'_>, BodyError> {
        ParsedBody::parse(body.as_bytes())
    }

    fn apply_edit(body: &str, edit: BodyEdit) -> String {
        let pieces = splice(&Bytes::copy_from_slice(body.as_bytes()), vec![edit]).unwrap();
        String::from_utf8(pieces.into_iter().flatten().collect()).unwrap()
    }

    #[test]
    fn members_are_borrowed_and_null_is_absent() {
        let body = r#" {"model" : "a\u0062", "stream":true,"messages":[{"role":"user"}],"max_tokens":5,"n":2,"user":"u",
            "prompt_cache_key":null,"previous_response_id":7,"cache_salt":"\"","tools":null,"x":{"model":"no"}}"#;
        let request = parse_body(body).unwrap();
        let model = request.model.unwrap();
        assert_eq!((model.name.as_ref(), &body[model.range]), ("ab", r#""a\u0062""#));
        assert!(request.stream);
        assert_eq!((request.max_output, request.choice_count), (Some(Tokens(5)), Some(2)));
        assert_eq!(request.prompt.find(PromptPart::Turns).unwrap().get(), r#"[{"role":"user"}]"#);
        assert!(request.prompt.find(PromptPart::Tools).is_none());
        let keys = AffinityHints { user: Some("u".into()), cache_salt: Some("\"".into()), ..AffinityHints::default() };
        assert_eq!(request.affinity_hints, keys);
        let nulls = parse_body(r#"{"model":null,"stream":null,"max_tokens":null,"n":null}"#).unwrap();
        assert_eq!((nulls.model, nulls.stream, nulls.max_output, nulls.choice_count), (None, false, None, None));
    }

    #[test]
    fn newer_names_of_the_output_limit_win_and_invalid_values_are_ignored() {
        let limit = |body: &str| parse_body(body).unwrap().max_output.map(|t| t.0);
        assert_eq!(limit(r#"{"max_tokens":1,"max_completion_tokens":2}"#), Some(2));
        assert_eq!(limit(r#"{"max_tokens":1,"max_completion_tokens":null}"#), Some(1));
        assert_eq!(limit(r#"{"max_output_tokens":3}"#), Some(3));
        for invalid in [r#""x""#, "-1", "1.5", "{}", "1e400", "99999999999999999999"] {
            assert_eq!(limit(&format!(r#"{{"max_tokens":{invalid},"n":{invalid}}}"#)), None, "{invalid}");
        }
    }

    #[test]
    fn wrong_types_are_refused_in_openai_words() {
        for (body, param, message) in [
            (r#"{"model":5}"#, "model", "Invalid type for 'model': expected a string, but got an integer instead."),
            (r#"{"model":1.5}"#, "model", "Invalid type for 'model': expected a string, but got a decimal instead."),
            (r#"{"model":[]}"#, "model", "Invalid type for 'model': expected a string, but got an array instead."),
            (
                r#"{"stream":"yes"}"#,
                "stream",
                "Invalid type for 'stream': expected a boolean, but got a string instead.",
            ),
            (r#"{"stream":{}}"#, "stream", "Invalid type for 'stream': expected a boolean, but got an object instead."),
        ] {
            assert_eq!(parse_body(body).unwrap_err(), BodyError::invalid_member(param, message));
        }
    }

    #[test]
    fn bodies_that_are_not_json_objects_are_refused_with_the_place() {
        for (body, reason) in [
            (&b""[..], "empty (byte 0)"),
            (b" \n", "empty"),
            (b"[1,2]", "expected an object at line 1 column 0 (byte 0)"),
            (b"5", "expected an object"),
            (b"null", "expected an object"),
            (b"{\"a\":1,}", "trailing comma at line 1 column 8 (byte 7)"),
            (b"{\"a\":1}\n x", "trailing characters at line 2 column 2 (byte 9)"),
            (b"{\"a\":", "EOF while parsing"),
            (b"{\"a\":[1,}", "expected value at line 1 column 9 (byte 8)"),
            (b"{\"a\":NaN}", "expected value"),
            (b"{\"a\":\"\x01\"}", "control character"),
            (b"{\"a\":\n\"\xff\"}", "invalid UTF-8 at line 2 column 2 (byte 7)"),
            (b"{\"model\":\"a\",\n\"model\":\"a\"}", "duplicate member `model` at line 2"),
            (b"{\"model\":null,\"model\":\"a\"}", "duplicate member `model`"),
        ] {
            let error = ParsedBody::parse(body).unwrap_err();
            assert!(
                error.message.contains(reason) && error.message.contains("(byte "),
                "{} lacks {reason}",
                error.message
            );
            assert_eq!(error.param, None);
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        const DEEP: usize = 1_000_000;
        for name in ["x", "messages", "model", "user", "stream_options", "max_tokens"] {
            let open = format!("{{\"{name}\":{}", "[".repeat(DEEP));
            assert!(parse_body(&open).is_err());
            let closed = format!("{open}{}}}", "]".repeat(DEEP));
            assert_eq!(parse_body(&closed).is_ok(), name != "model");
            let objects = format!("{{\"{name}\":{}0{}}}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP));
            assert_eq!(parse_body(&objects).is_ok(), name != "model");
        }
    }

    #[test]
    fn usage_is_requested_with_one_edit() {
        for (before, after) in [
            (r#"{"a":1}"#, r#"{"stream_options":{"include_usage":true},"a":1}"#),
            (" { }", r#" {"stream_options":{"include_usage":true} }"#),
            (r#"{"stream_options": null }"#, r#"{"stream_options": {"include_usage":true} }"#),
        ] {
            let request = parse_body(before).unwrap();
            assert!(!request.is_usage_requested());
            let edited = apply_edit(before, request.usage_edit().unwrap());
            assert_eq!(edited, after);
            assert!(parse_body(&edited).unwrap().is_usage_requested());
        }
        for left in [
            r#"{"stream_options":{ }}"#,
            r#"{"stream_options":{"continuous_usage_stats":true}}"#,
            r#"{"stream_options":{"include_usage":false}}"#,
            r#"{"stream_options":{"include_usage":null,"a":1}}"#,
            r#"{"stream_options":5}"#,
            r#"{"stream_options":{"include_usage":1}}"#,
            r#"{"stream_options":[]}"#,
        ] {
            let request = parse_body(left).unwrap();
            assert!(request.usage_edit().is_none() && !request.is_usage_requested());
        }
        let wants = parse_body(r#"{"stream_options":{"include_usage":true}}"#).unwrap();
        assert!(wants.is_usage_requested() && wants.usage_edit().is_none());
    }

    #[test]
    fn replacing_the_model_changes_no_other_byte() {
        let body = "{\"x\":1e400,\"x\":-0.0 , \"y\":\"\\ud800\\/\",\"model\" :\t\"old\"\n,\"z\":[1.000,2E+2]}";
        let renamed = apply_edit(body, parse_body(body).unwrap().model.unwrap().replacement("a\"b"));
        assert_eq!(renamed, body.replace("\"old\"", r#""a\"b""#));
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{0,5}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    fn json_noise() -> impl Strategy<Value = Vec<u8>> {
        let words = vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"model\"",
            "\"stream\"",
            "\"stream_options\"",
            "true",
            "null",
            "5",
            "\"",
            "\\",
            "\"a\"",
            "\"include_usage\"",
            "\"max_tokens\"",
            " ",
            "\n",
            "\u{e9}",
        ];
        let word = prop_oneof![
            9 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
            1 => any::<Vec<u8>>(),
        ];
        prop::collection::vec(word, 0..30).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(body in json_noise()) {
            if let Ok(request) = ParsedBody::parse(&body) {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok());
                if let Some(edit) = request.usage_edit() {
                    let text = String::from_utf8(body.clone()).unwrap();
                    prop_assert!(parse_body(&apply_edit(&text, edit)).unwrap().is_usage_requested());
                }
            }
        }

        #[test]
        fn edited_json_differs_in_the_edited_member_only(
            mut members in prop::collection::btree_map("[a-z]{0,5}|stream_options", json_value(), 0..5),
            (old, new) in (".{0,9}", ".{0,9}"),
            pretty in any::<bool>(),
        ) {
            members.remove("stream");
            members.insert("model".to_owned(), Value::from(old));
            let body = if pretty { serde_json::to_string_pretty(&members) } else { serde_json::to_string(&members) };
            let body = body.unwrap();
            let model = parse_body(&body).unwrap().model.unwrap();
            let renamed = apply_edit(&body, model.replacement(&new));
            prop_assert_eq!(&renamed[..model.range.start], &body[..model.range.start]);
            prop_assert!(renamed.ends_with(&body[model.range.end..]));
            members.insert("model".to_owned(), Value::from(new));
            let expected: Value = members.into_iter().collect();
            prop_assert_eq!(serde_json::from_str::<Value>(&renamed).unwrap(), expected);
        }
    }
}
