//! An answer in progress, and the trait that writes it in a dialect.

use std::ops::Range;

use crate::emulate::generate::request::{GenerateRequest, UsageOptions};
use crate::emulate::generate::tool_call::CHARS_PER_TOKEN;
use crate::emulate::prompt::hash_bytes;

/// Every word is one token.
const FILLER_WORDS: [&str; 24] = [
    "water", "flows", "over", "the", "weir", "and", "each", "gate", "opens", "when", "its", "share", "is", "due", "so",
    "that", "no", "basin", "spills", "while", "another", "stands", "dry", "today",
];

/// Returns the text of a choice's token.
pub(super) fn token_text(choice: usize, index: u64) -> String {
    let word = FILLER_WORDS[(index as usize).wrapping_add(choice * 7) % FILLER_WORDS.len()];
    if index == 0 { word.to_owned() } else { format!(" {word}") }
}

/// Returns the text of a choice's tokens.
pub(in crate::emulate) fn choice_text(choice: usize, tokens: Range<u64>) -> String {
    tokens.map(|index| token_text(choice, index)).collect()
}

/// Returns the log probability of a token, or of its alternative of this rank.
pub(super) fn token_logprob(index: u64, rank: u64) -> f64 {
    -0.25 - (index % 7) as f64 / 8.0 - rank as f64
}

/// An answer in progress.
#[derive(Debug)]
pub(in crate::emulate) struct AnswerProgress {
    pub(in crate::emulate) request: GenerateRequest,
    /// The response id with the dialect's prefix.
    pub(in crate::emulate) id: String,
    /// Creation time in seconds since the Unix epoch.
    pub(in crate::emulate) created: u64,
    /// Prompt tokens found in the cache, of all prompts.
    pub(in crate::emulate) cached_tokens: u64,
    /// Tokens generated so far, by choice.
    pub(in crate::emulate) generated_tokens: Vec<u64>,
    /// Whether a fault omits usage.
    pub(in crate::emulate) omits_usage: bool,
}

impl AnswerProgress {
    pub(super) fn completion_tokens(&self) -> u64 {
        self.generated_tokens.iter().sum()
    }

    /// Returns the events of this stream that contain usage.
    pub(super) fn usage_options(&self) -> UsageOptions {
        if self.omits_usage { UsageOptions::default() } else { self.request.usage_options }
    }
}

/// Tokens of one choice that are sent together.
#[derive(Clone, Debug)]
pub(in crate::emulate) struct TokenChunk {
    pub(in crate::emulate) choice: usize,
    /// Indices of the choice's tokens; may be empty.
    pub(in crate::emulate) tokens: Range<u64>,
    /// Set on a choice's last chunk.
    pub(in crate::emulate) finish_reason: Option<&'static str>,
}

/// Writes an answer in one dialect. Events are complete SSE events, blank line included.
pub(in crate::emulate) trait DialectWriter: Send {
    /// Returns the events before the first token.
    fn write_opening_events(&mut self, answer: &AnswerProgress) -> Vec<String>;

    /// Returns the events of a chunk.
    fn write_chunk_events(&mut self, answer: &AnswerProgress, chunk: &TokenChunk) -> Vec<String>;

    /// Returns the events after the last chunk.
    fn write_final_events(&mut self, answer: &AnswerProgress) -> Vec<String>;

    /// Returns the whole answer as JSON, every choice finished for the reason `finish`.
    fn write_response(&mut self, answer: &AnswerProgress, finish: &str) -> String;
}

/// Returns the part of the tool call's arguments for these tokens; all parts together are a JSON object. Empty if the
/// answer is no tool call.
pub(super) fn tool_arguments(answer: &AnswerProgress, choice: usize, tokens: Range<u64>) -> String {
    let Some(call) = &answer.request.tool_call else { return String::new() };
    match &call.arguments {
        Some(written) => {
            let length = (tokens.end - tokens.start) as usize * CHARS_PER_TOKEN;
            written.chars().skip(tokens.start as usize * CHARS_PER_TOKEN).take(length).collect()
        }
        None => filler_arguments(choice, tokens, answer.request.output_tokens),
    }
}

fn filler_arguments(choice: usize, tokens: Range<u64>, output: u64) -> String {
    let fragment = |index: u64| match (index, output) {
        (0, 1) => "{}".to_owned(),
        (0, _) => r#"{"text":""#.to_owned(),
        (index, _) if index + 1 == output => r#""}"#.to_owned(),
        (index, _) => token_text(choice, index),
    };
    tokens.map(fragment).collect()
}

/// Returns the id of a choice's tool call, which begins with `prefix`.
pub(super) fn tool_call_id(answer: &AnswerProgress, choice: usize, prefix: &str) -> String {
    format!("{prefix}{:016x}", hash_bytes(answer.id.as_bytes(), choice as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argument_parts_form_a_json_object() {
        for output in 1..6 {
            let joined: String = (0..output).map(|index| filler_arguments(1, index..index + 1, output)).collect();
            assert!(serde_json::from_str::<serde_json::Value>(&joined).unwrap().is_object(), "{joined}");
        }
    }
}
