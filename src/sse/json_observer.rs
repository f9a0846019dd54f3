//! A plain JSON response, read as it passes: its structure is followed byte by byte and only a few values are kept, so
//! that a body of megabytes needs no memory.

use memchr::memchr2;
use serde_json::value::RawValue;

use super::answer_state::AnswerState;
use crate::dialect::{DialectSpec, JsonObject, UsageObject, blame_error, is_error_value};

/// A value longer than this is not kept; a `usage` object has some hundred bytes.
const MAX_VALUE_BYTES: usize = 4 * 1024;

/// The length of the longest key looked for, `finish_reason`, and one byte more to recognize a longer one.
const KEY_BUFFER_BYTES: usize = 14;

/// Blocks of this size are skipped at once where they have no brace, bracket or quote.
const SKIP_BLOCK_BYTES: usize = 32;

/// The structure of a plain JSON response.
///
/// *Shape*: any bytes, JSON or not, cut anywhere. A key counts only at its own depth, so that neither text nor metadata
/// in the response can pass for it: `id`, `usage`, `error` and `stop_reason` of the outermost object, `finish_reason`
/// of its choices. *Cost*: 0.1 to 1 ns a byte.
#[derive(Debug, Default)]
pub(super) struct JsonObserver {
    /// `stop_reason` null means that the response was aborted.
    null_stop_reason_aborts: bool,
    state: JsonState,
    depth: u32,
    /// The first bytes of the last string, escapes included.
    key: Vec<u8>,
    /// The outermost object's current member is `choices`.
    in_choices: bool,
    captured: Option<CapturedValue>,
    value: Vec<u8>,
    /// The outermost value has ended; the rest is ignored.
    is_over: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum JsonState {
    #[default]
    Outside,
    AfterString,
    String,
    /// In a string, after a backslash.
    Escape,
}

/// The member whose value is being kept.
#[derive(Clone, Copy, Debug)]
struct CapturedValue {
    member: CapturedMember,
    depth: u32,
    /// The start of the value, or of its continuation, in this chunk.
    start: usize,
}

#[derive(Clone, Copy, Debug)]
enum CapturedMember {
    Id,
    Usage,
    Error,
    FinishReason,
    StopReason,
}

impl JsonObserver {
    /// Returns an observer of a response that has not begun.
    pub(super) fn new(dialect: &DialectSpec) -> Self {
        Self { null_stop_reason_aborts: dialect.null_stop_reason_aborts, ..Self::default() }
    }

    /// Reads the next chunk of the body into `answer`.
    pub(super) fn observe(&mut self, chunk: &[u8], answer: &mut AnswerState) {
        answer.has_content |= !chunk.trim_ascii().is_empty();
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty() && !self.is_over) {
            match self.state {
                JsonState::String => at += self.scan_string(rest),
                JsonState::Escape => {
                    self.state = JsonState::String;
                    at += 1;
                }
                JsonState::Outside | JsonState::AfterString => {
                    if matches!(self.state, JsonState::Outside) && self.captured.is_none() {
                        at += plain_prefix_len(rest);
                    }
                    self.scan_structure(chunk, at, answer);
                    at += 1;
                }
            }
        }
        if let Some(captured) = &mut self.captured {
            append_bounded(&mut self.value, chunk.get(captured.start..).unwrap_or_default());
            captured.start = 0;
        }
        answer.done = self.is_over;
    }

    /// Scans within a string; returns the number of bytes scanned.
    fn scan_string(&mut self, rest: &[u8]) -> usize {
        let end = memchr2(b'"', b'\\', rest);
        let text = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let room = (KEY_BUFFER_BYTES - self.key.len()).min(text.len());
        self.key.extend_from_slice(text.get(..room).unwrap_or_default());
        let Some(end) = end else { return rest.len() };
        self.state = if rest.get(end) == Some(&b'"') {
            JsonState::AfterString
        } else {
            // A key with an escape never matches: it is made too long.
            self.key.resize(KEY_BUFFER_BYTES, b'\\');
            JsonState::Escape
        };
        end + 1
    }

    /// Reads the byte `chunk[at]`, if there is one; it is outside strings.
    fn scan_structure(&mut self, chunk: &[u8], at: usize, answer: &mut AnswerState) {
        let Some(&byte) = chunk.get(at) else { return };
        match byte {
            b'"' => {
                self.key.clear();
                self.state = JsonState::String;
                return;
            }
            b' ' | b'\t' | b'\n' | b'\r' => return,
            b':' if matches!(self.state, JsonState::AfterString) => self.begin_value(at + 1),
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b',' => self.end_value(chunk, at, answer),
            b'}' | b']' => {
                self.end_value(chunk, at, answer);
                self.is_over |= self.depth == 1;
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
        self.state = JsonState::Outside;
    }

    /// Handles the colon after a key whose value begins at `from`.
    fn begin_value(&mut self, from: usize) {
        let member = match (self.depth, self.key.as_slice()) {
            (1, b"id") => Some(CapturedMember::Id),
            (1, b"usage") => Some(CapturedMember::Usage),
            (1, b"error") => Some(CapturedMember::Error),
            (1, b"stop_reason") if self.null_stop_reason_aborts => Some(CapturedMember::StopReason),
            (3, b"finish_reason") if self.in_choices => Some(CapturedMember::FinishReason),
            _ => None,
        };
        if self.depth == 1 {
            self.in_choices = self.key == b"choices";
        }
        if let (Some(member), None) = (member, self.captured) {
            self.value.clear();
            self.captured = Some(CapturedValue { member, depth: self.depth, start: from });
        }
    }

    /// Handles the end, before `chunk[at]`, of a value at the current depth.
    fn end_value(&mut self, chunk: &[u8], at: usize, answer: &mut AnswerState) {
        let Some(captured) = self.captured.take_if(|captured| captured.depth == self.depth) else { return };
        append_bounded(&mut self.value, chunk.get(captured.start..at).unwrap_or_default());
        let value = self.value.trim_ascii();
        match captured.member {
            CapturedMember::Id => answer.set_id(serde_json::from_slice::<String>(value).ok().as_deref()),
            CapturedMember::Error => match serde_json::from_slice::<&RawValue>(value) {
                Ok(error) if is_error_value(error) => answer.record_error(blame_error(error)),
                Ok(_) => {}
                // Too long to be kept whole.
                Err(_) => answer.has_error = true,
            },
            CapturedMember::FinishReason => answer.aborted |= value == b"\"abort\"",
            CapturedMember::StopReason => answer.aborted |= value == b"null",
            CapturedMember::Usage => {
                if let Ok(JsonObject(wire)) = serde_json::from_slice::<JsonObject<UsageObject<'_>>>(value) {
                    answer.usage_counts.merge(&wire);
                }
            }
        }
        self.value = Vec::new();
    }
}

/// Appends as much as fits in `MAX_VALUE_BYTES`. A value cut short is no longer JSON and is ignored when it ends.
fn append_bounded(value: &mut Vec<u8>, more: &[u8]) {
    let room = MAX_VALUE_BYTES.saturating_sub(value.len()).min(more.len());
    value.extend_from_slice(more.get(..room).unwrap_or_default());
}

/// Returns the number of bytes before the next quote, brace or bracket. *Cost*: the block test compiles to vector
/// instructions.
fn plain_prefix_len(rest: &[u8]) -> usize {
    // `[`, `]`, `{` and `}` differ in three bits only. The other bytes with the same five bits do not occur outside
    // strings.
    let is_stop = |byte: &u8| *byte == b'"' || *byte | 0x26 == 0x7f;
    let mut skipped = 0;
    for block in rest.chunks(SKIP_BLOCK_BYTES) {
        if block.iter().fold(false, |stop, byte| stop | is_stop(byte)) {
            return skipped + block.iter().position(is_stop).unwrap_or(block.len());
        }
        skipped += block.len();
    }
    skipped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe_body(body: &str, size: usize) -> (Option<u64>, Option<String>, [bool; 3]) {
        let (mut observer, mut answer) = (JsonObserver::default(), AnswerState::default());
        body.as_bytes().chunks(size).for_each(|chunk| observer.observe(chunk, &mut answer));
        (
            answer.usage_counts.usage().map(|u| u.prompt.0),
            answer.id.map(String::from),
            [answer.has_error, answer.aborted, answer.done],
        )
    }

    #[test]
    fn members_are_found_for_any_chunk_size() {
        let body = r#" {"id" : "a\"b", "choices":[{"message":{"content":"x \"usage\":{\"prompt_tokens\":9}, }]"},
            "finish_reason":"abort"}], "usage": {"prompt_tokens": 12, "x": [{}, "}"]}, "prompt_token_ids":[1,2,3] } "#;
        for size in 1..=body.len() {
            assert_eq!(observe_body(body, size), (Some(12), Some("a\"b".to_owned()), [false, true, true]), "{size}");
        }
    }

    #[test]
    fn keys_count_only_at_their_own_depth() {
        let body = r#"{"metadata":{"usage":{"prompt_tokens":1},"id":"no","error":{}},"x":[{"finish_reason":"abort"}],
            "usage\u0020":{"prompt_tokens":2},"usages":{"prompt_tokens":3},"finish_reason":"abort","error":null}"#;
        for size in [1, 5, body.len()] {
            assert_eq!(observe_body(body, size), (None, None, [false, false, true]));
        }
    }

    #[test]
    fn usage_is_found_before_and_after_megabytes() {
        let numbers = "[0.25,-1.5e-3],".repeat(100_000);
        let usage = r#""usage":{"prompt_tokens":7,"total_tokens":7}"#;
        let text = "abc\\\"usage\\\"".repeat(100_000);
        for body in
            [format!("{{{usage},\"data\":[{numbers}0],\"t\":\"{text}\"}}"), format!("{{\"d\":[{numbers}0],{usage}}}")]
        {
            for size in [1000, 16_384, body.len()] {
                assert_eq!(observe_body(&body, size), (Some(7), None, [false, false, true]));
            }
        }
    }

    #[test]
    fn error_bodies_are_errors() {
        assert_eq!(observe_body(r#"{"error":{"message":"x"}}"#, 3).2, [true, false, true]);
        assert_eq!(observe_body(r#"{"error":"x""#, 3).2, [false, false, false]);
        assert_eq!(observe_body("Internal Server Error", 4).2, [false; 3]);
        assert_eq!(observe_body("]]}}", 4).2, [false; 3]);
    }

    #[test]
    fn empty_errors_are_none_and_overlong_ones_are_errors() {
        for nothing in [
            "null",
            "\"\"",
            "\" \"",
            "{}",
            "{ }",
            "[]",
            "false",
            "0",
            "0.0",
            "[{}, \"\"]",
            "{\"code\":0,\"message\":\"\"}",
        ] {
            assert_eq!(
                observe_body(&format!("{{\"error\": {nothing} ,\"x\":1}}"), 2).2,
                [false, false, true],
                "{nothing}"
            );
        }
        let long = format!("{{\"error\":\"{}\"}}", "x".repeat(10_000));
        for error in ["{\"error\":true}", "{\"error\":1}", "{\"error\":\"x\"}", "{\"error\":{\"code\":1}}", &long] {
            assert_eq!(observe_body(error, 100).2, [true, false, true]);
        }
    }

    #[test]
    fn overlong_values_are_ignored_and_not_kept() {
        let body = format!(r#"{{"id":"{}","usage":{{"prompt_tokens":1}}}}"#, "x".repeat(1_000_000));
        assert_eq!(observe_body(&body, 1000), (Some(1), None, [false, false, true]));
    }
}
