//! Prompts as text, and as token counts and block hashes for the engine.

use serde_json::Value;

use crate::units::Tokens;

/// The start of the text that Claude Code puts in front of its system prompt and changes with each request.
const BILLING_HEADER: &str = "x-anthropic-billing-header";
/// Bytes of canonical text that count as a token.
const BYTES_PER_TOKEN: usize = 4;

/// A prompt for the engine.
#[derive(Clone, Debug, Default)]
pub(super) struct EmulatedPrompt {
    pub(super) tokens: u64,
    pub(super) block_hashes: Vec<u64>,
}

impl EmulatedPrompt {
    /// Counts and hashes canonical text in blocks of `block` tokens. Equal seeds and leading blocks give equal hashes.
    pub(super) fn from_text(text: &[u8], seed: u64, block: Tokens) -> Self {
        let block = usize::try_from(block.0).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_TOKEN);
        let mut hash = seed;
        let mut chain = |bytes: &[u8]| {
            hash = hash_bytes(bytes, hash);
            hash
        };
        let blocks = text.chunks_exact(block.max(1)).map(&mut chain).collect();
        Self { tokens: (text.len().div_ceil(BYTES_PER_TOKEN) as u64).max(1), block_hashes: blocks }
    }
}

/// Returns a hash of bytes that is the same on every machine.
pub(super) fn hash_bytes(bytes: &[u8], seed: u64) -> u64 {
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in bytes.chunks(8) {
        let word = chunk.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    }
    hash
}

/// Returns tools, system text and messages in order, so that conversations with a common beginning share a prefix.
///
/// Claude Code's changing text is dropped as by vLLM 0.32: the blocks of `system` that begin with it; in other texts of
/// the system, the line. Not from the role `developer`.
pub(super) fn chat_text(body: &Value, messages: &Value) -> Vec<u8> {
    let mut text = String::new();
    for field in ["tools", "instructions", "system"] {
        if let Some(value) = body.get(field).filter(|v| !v.is_null()) {
            match value {
                Value::Array(blocks) => {
                    let kept = blocks.iter().filter(|block| !block_text(block).starts_with(BILLING_HEADER));
                    push_content(&mut text, &kept.cloned().collect());
                }
                other => push_content(&mut text, &without_billing_header(other)),
            }
            text.push('\n');
        }
    }
    match messages {
        Value::Array(messages) => messages.iter().for_each(|message| push_message(&mut text, message)),
        other => push_content(&mut text, other),
    }
    text.into_bytes()
}

fn push_message(text: &mut String, message: &Value) {
    text.push_str(message.get("role").and_then(Value::as_str).unwrap_or_default());
    text.push('\n');
    let content = message.get("content").unwrap_or(message);
    if message.get("role").and_then(Value::as_str) == Some("system") {
        push_content(text, &without_billing_header(content));
    } else {
        push_content(text, content);
    }
    if let Some(calls) = message.get("tool_calls") {
        text.push_str(&calls.to_string());
    }
    text.push('\n');
}

fn block_text(block: &Value) -> &str {
    block.get("text").and_then(Value::as_str).unwrap_or_default()
}

/// Returns a text or its blocks without the line at the beginning.
fn without_billing_header(content: &Value) -> Value {
    match content {
        Value::String(text) if text.starts_with(BILLING_HEADER) => text.split_once('\n').map_or("", |cut| cut.1).into(),
        Value::Array(blocks) => {
            let cut = |block: &Value| match block_text(block) {
                text if text.starts_with(BILLING_HEADER) => without_billing_header(&text.into()),
                _ => block.clone(),
            };
            blocks.iter().map(cut).collect()
        }
        other => other.clone(),
    }
}

fn push_content(text: &mut String, content: &Value) {
    match content {
        Value::String(plain) => text.push_str(plain),
        Value::Array(parts) => {
            for part in parts {
                match part.get("text").and_then(Value::as_str).or(part.as_str()) {
                    Some(plain) => text.push_str(plain),
                    None => text.push_str(&part.to_string()),
                }
            }
        }
        other => text.push_str(&other.to_string()),
    }
}

/// Returns the texts of a completion's `prompt`: text, token ids, or a list of either.
pub(super) fn prompt_texts(prompt: &Value) -> Vec<Vec<u8>> {
    let ids =
        |ids: &[Value]| ids.iter().flat_map(|id| (id.as_u64().unwrap_or_default() as u32).to_le_bytes()).collect();
    match prompt {
        Value::Array(items) if items.iter().all(Value::is_number) => vec![ids(items)],
        Value::Array(items) => items.iter().flat_map(prompt_texts).collect(),
        Value::String(text) => vec![text.clone().into_bytes()],
        other => vec![other.to_string().into_bytes()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_conversation_has_the_blocks_of_the_shorter() {
        let messages = |count: usize| -> Value {
            (0..count)
                .map(|index| serde_json::json!({"role": "user", "content": format!("message {index}").repeat(30)}))
                .collect()
        };
        let prompt = |count| EmulatedPrompt::from_text(&chat_text(&Value::Null, &messages(count)), 7, Tokens(16));
        let (short, long) = (prompt(2), prompt(3));
        assert!(short.block_hashes.len() > 5 && long.block_hashes.len() > short.block_hashes.len());
        assert_eq!(long.block_hashes[..short.block_hashes.len()], short.block_hashes);
        let salted = EmulatedPrompt::from_text(&chat_text(&Value::Null, &messages(2)), 8, Tokens(16));
        assert!(salted.block_hashes.iter().zip(&short.block_hashes).all(|(a, b)| a != b));
    }

    #[test]
    fn prompts_count_a_token_per_four_bytes_and_at_least_one() {
        for (bytes, tokens, blocks) in [(0, 1, 0), (4, 1, 0), (5, 2, 0), (64, 16, 1), (130, 33, 2)] {
            let prompt = EmulatedPrompt::from_text(&vec![b'x'; bytes], 0, Tokens(16));
            assert_eq!((prompt.tokens, prompt.block_hashes.len()), (tokens, blocks), "{bytes} bytes");
        }
    }

    #[test]
    fn completion_prompts_are_texts_or_token_ids() {
        let texts = |json: &str| prompt_texts(&serde_json::from_str(json).unwrap());
        assert_eq!(texts(r#""ab""#), [b"ab"]);
        assert_eq!(texts(r#"["a","b"]"#), [b"a", b"b"]);
        assert_eq!(texts("[1,2]"), [[1, 0, 0, 0, 2, 0, 0, 0]]);
        assert_eq!(texts("[[1],[2]]"), [[1, 0, 0, 0], [2, 0, 0, 0]]);
    }
}
