//! Counting tokens with a model's own vocabulary.
//!
//! A tokenizer is slow (3 MB/s), takes seconds for adversarial text, and can panic. So it gets text in bounded chunks,
//! cut where words end, up to a total limit, and never on a thread that serves other requests.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "tokenizer-json")]
use std::sync::Arc;

use tiktoken_rs::CoreBPE;

use super::super::pieces::{PromptPiece, for_each_piece};
use super::super::prompt_members::PromptMembers;
use super::text_stats::TextStats;

/// The longest chunk of text given to the tokenizer.
const MAX_CHUNK_BYTES: usize = 4 * 1024;
/// The text of a prompt that is tokenized at most. A longer prompt is sampled evenly and its count extrapolated.
pub const MAX_TOKENIZED_BYTES: usize = 128 * 1024;

/// A vocabulary to count tokens with.
#[derive(Clone)]
pub enum Tokenizer {
    /// OpenAI's `o200k_base`.
    O200k,
    /// OpenAI's `cl100k_base`.
    Cl100k,
    /// A `tokenizer.json`.
    #[cfg(feature = "tokenizer-json")]
    File(String, Arc<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// Returns the built-in vocabulary of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "o200k" => Some(Self::O200k),
            "cl100k" => Some(Self::Cl100k),
            _ => None,
        }
    }

    /// Reads a `tokenizer.json`.
    ///
    /// *Errors*: the file cannot be read or is not a tokenizer.
    #[cfg(feature = "tokenizer-json")]
    pub fn from_file(path: &str) -> Result<Self, String> {
        let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(|error| error.to_string())?;
        Ok(Self::File(path.to_owned(), Arc::new(tokenizer)))
    }

    /// Reads a `tokenizer.json`.
    ///
    /// *Errors*: always, because this build lacks the feature.
    #[cfg(not(feature = "tokenizer-json"))]
    pub fn from_file(_path: &str) -> Result<Self, String> {
        Err("this build cannot read a tokenizer.json: build it with `--features tokenizer-json`".to_owned())
    }

    /// Returns its name in a configuration.
    pub fn name(&self) -> &str {
        match self {
            Self::O200k => "o200k",
            Self::Cl100k => "cl100k",
            #[cfg(feature = "tokenizer-json")]
            Self::File(path, _) => path,
        }
    }

    /// Counts the tokens of a prompt's text into `stats`. Leaves `stats` unchanged if the tokenizer panics.
    ///
    /// *Shape*: exact up to [`MAX_TOKENIZED_BYTES`] of text, except for words longer than 4 KiB; beyond that by evenly
    /// spread samples. Turns, images and token ids are counted separately. *Cost*: about 3 MB/s for at most
    /// [`MAX_TOKENIZED_BYTES`]; the first call loads the vocabulary. It blocks its thread.
    pub fn count_tokens(&self, prompt: &PromptMembers<'_>, stats: &mut TextStats) {
        let mut text = String::new();
        for_each_piece(prompt, |piece| match piece {
            PromptPiece::Text(part) | PromptPiece::Tools(part) => text.push_str(part),
            // A turn ends a word.
            PromptPiece::Turn(_) | PromptPiece::TokenId(_) | PromptPiece::Media(..) => text.push('\n'),
        });
        let breaks = u64::from(stats.turns + stats.token_ids + stats.images + stats.audio);
        let counted = catch_unwind(AssertUnwindSafe(|| self.count_sampled(&text)));
        if let Ok(tokens) = counted {
            stats.counted_tokens = Some(u32::try_from(tokens.saturating_sub(breaks)).unwrap_or(u32::MAX));
        }
    }

    /// Returns the tokens of `text`, extrapolated from samples if it is long.
    fn count_sampled(&self, text: &str) -> u64 {
        let stride = text.len().div_ceil(MAX_TOKENIZED_BYTES).max(1);
        let (mut bytes, mut tokens) = (0, 0);
        for chunk in split_chunks(text).step_by(stride) {
            bytes += chunk.len() as u64;
            tokens += self.count_exact(chunk) as u64;
        }
        if bytes == 0 { 0 } else { (tokens as u128 * text.len() as u128 / u128::from(bytes)) as u64 }
    }

    fn count_exact(&self, text: &str) -> usize {
        let count = |bpe: &CoreBPE| bpe.encode_ordinary(text).len();
        match self {
            Self::O200k => count(tiktoken_rs::o200k_base_singleton()),
            Self::Cl100k => count(tiktoken_rs::cl100k_base_singleton()),
            #[cfg(feature = "tokenizer-json")]
            Self::File(_, tokenizer) => tokenizer.encode_fast(text, false).map_or(0, |encoded| encoded.len()),
        }
    }
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Tokenizer {}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns `text` in chunks of at most [`MAX_CHUNK_BYTES`]. Each ends before a blank between words, if there is one:
/// only there every vocabulary begins a token.
fn split_chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let limit = MAX_CHUNK_BYTES.min(rest.len());
        let max = (0..=limit).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(limit);
        let end = if max == rest.len() { max } else { word_end(rest, max) };
        let (chunk, after) = rest.split_at(end);
        rest = after;
        Some(chunk)
    })
}

/// Returns the last position up to `max` of a blank between two words; `max` if there is none.
fn word_end(text: &str, max: usize) -> usize {
    let bytes = text.as_bytes();
    let is_letter = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphabetic);
    let is_word_end = |at: &usize| bytes.get(*at) == Some(&b' ') && is_letter(at - 1) && is_letter(at + 1);
    (1..=max).rev().find(is_word_end).unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use super::super::super::ParsedBody;
    use super::*;

    fn count_body(vocabulary: &Tokenizer, body: &str) -> u32 {
        let request = ParsedBody::parse(body.as_bytes()).unwrap();
        let mut stats = TextStats::from_prompt(&request.prompt);
        vocabulary.count_tokens(&request.prompt, &mut stats);
        stats.counted_tokens.unwrap()
    }

    #[test]
    fn text_in_chunks_counts_the_same_as_whole() {
        let text = include_str!("../../../tests/data/texts/code.txt");
        let body = serde_json::json!({ "prompt": text }).to_string();
        let bpe = tiktoken_rs::o200k_base_singleton();
        assert!(text.len() > 2 * MAX_CHUNK_BYTES);
        assert_eq!(count_body(&Tokenizer::O200k, &body) as usize, bpe.encode_ordinary(text).len());
    }

    #[test]
    fn long_texts_are_sampled() {
        let text = include_str!("../../../tests/data/texts/code.txt").repeat(100);
        let exact = tiktoken_rs::cl100k_base_singleton().encode_ordinary(&text).len() as f64;
        let body = serde_json::json!({ "prompt": text }).to_string();
        let ratio = f64::from(count_body(&Tokenizer::Cl100k, &body)) / exact;
        assert!((0.97..1.03).contains(&ratio), "{ratio}");
    }

    #[test]
    fn adversarial_texts_are_counted_in_bounded_time_without_a_panic() {
        for text in [" ".repeat(1_000_000), "a".repeat(1_000_000), "\u{1f600}".repeat(200_000), "\\n".repeat(500_000)] {
            let tokens = count_body(&Tokenizer::O200k, &format!("{{\"prompt\":\"{text}\"}}"));
            assert!(tokens > 1000, "{tokens}");
        }
    }

    #[test]
    fn turns_are_not_counted_as_text() {
        let body = r#"{"messages":[{"role":"user","content":"hello"},{"role":"user","content":"hello"}]}"#;
        assert_eq!(count_body(&Tokenizer::O200k, body), 2);
    }

    #[test]
    fn unknown_names_and_files_are_errors() {
        assert_eq!(Tokenizer::from_name("p50k"), None);
        assert!(Tokenizer::from_file("/nowhere/tokenizer.json").is_err());
    }
}
