//! Counting tokens with a model's own vocabulary, for those who want the prompt's length exactly.
//!
//! A tokenizer is slow (3 MB/s), takes seconds for texts made to hurt it, and can panic. So text is given to it in
//! pieces of a bounded length, cut where words end, never more than a budget of it, and never on a thread that others
//! wait for.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "tokenizer-json")]
use std::sync::Arc;

use tiktoken_rs::CoreBPE;

use super::pieces::{PromptPiece, for_each_piece};
use super::{PromptMembers, TextStats};

/// Text is counted in pieces of at most this length.
const MAX_CHUNK_BYTES: usize = 4 * 1024;
/// Of longer prompts so much is counted, in pieces spread evenly over the text, and the rest is taken to be like it.
pub const MAX_TOKENIZED_BYTES: usize = 128 * 1024;

/// A vocabulary that prompts can be counted by.
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
    /// The vocabulary that is part of the program under this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "o200k" => Some(Self::O200k),
            "cl100k" => Some(Self::Cl100k),
            _ => None,
        }
    }

    /// Reads a `tokenizer.json`.
    ///
    /// *Errors*: the file cannot be read, is no tokenizer, or this build cannot read any; for people.
    #[cfg(feature = "tokenizer-json")]
    pub fn file(path: &str) -> Result<Self, String> {
        let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(|error| error.to_string())?;
        Ok(Self::File(path.to_owned(), Arc::new(tokenizer)))
    }

    /// Reads a `tokenizer.json`.
    ///
    /// *Errors*: the file cannot be read, is no tokenizer, or this build cannot read any; for people.
    #[cfg(not(feature = "tokenizer-json"))]
    pub fn from_file(_path: &str) -> Result<Self, String> {
        Err("this build cannot read a tokenizer.json: build it with `--features tokenizer-json`".to_owned())
    }

    /// What it is called in a configuration.
    pub fn name(&self) -> &str {
        match self {
            Self::O200k => "o200k",
            Self::Cl100k => "cl100k",
            #[cfg(feature = "tokenizer-json")]
            Self::File(path, _) => path,
        }
    }

    /// Counts a prompt's text into `census`, in place of what was counted of its makeup. Leaves the census as it is if
    /// the tokenizer fails.
    ///
    /// *Shape*: exact up to [`MAX_TOKENIZED_BYTES`] of text, but for words longer than 4 KiB; beyond that by evenly spread
    /// samples. Turns, pictures and token ids stay counted as they are. *Cost*: what the tokenizer takes, about 3 MB/s, for
    /// at most [`MAX_TOKENIZED_BYTES`]; the first call loads the vocabulary. Blocks: not for a thread that others wait for.
    pub fn count_tokens(&self, text: &PromptMembers<'_>, census: &mut TextStats) {
        let mut whole = String::new();
        for_each_piece(text, |piece| match piece {
            PromptPiece::Text(text) | PromptPiece::Tools(text) => whole.push_str(text),
            // A turn ends a word.
            PromptPiece::Turn(_) | PromptPiece::TokenId(_) | PromptPiece::Media(..) => whole.push('\n'),
        });
        let breaks = u64::from(census.turns + census.token_ids + census.images + census.audio);
        let counted = catch_unwind(AssertUnwindSafe(|| self.count_sampled(&whole)));
        if let Ok(tokens) = counted {
            census.counted_tokens = Some(u32::try_from(tokens.saturating_sub(breaks)).unwrap_or(u32::MAX));
        }
    }

    /// The tokens of `text`, or as many as its samples tell.
    fn count_sampled(&self, text: &str) -> u64 {
        let pieces = split_chunks(text);
        let every = text.len().div_ceil(MAX_TOKENIZED_BYTES).max(1);
        let (mut bytes, mut tokens) = (0, 0);
        for piece in pieces.step_by(every) {
            bytes += piece.len() as u64;
            tokens += self.count_exact(piece) as u64;
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

/// `text` in pieces of at most [`MAX_CHUNK_BYTES`], each ending before the blank in front of a word if there is one:
/// vocabularies begin a token there and nowhere else for sure.
fn split_chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let most = MAX_CHUNK_BYTES.min(rest.len());
        let most = (0..=most).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(most);
        let at = if most == rest.len() { most } else { word_end(rest, most) };
        let (piece, behind) = rest.split_at(at);
        rest = behind;
        Some(piece)
    })
}

/// The last place up to `most` of a blank between two words; `most` if there is none.
fn word_end(text: &str, most: usize) -> usize {
    let bytes = text.as_bytes();
    let letter = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphabetic);
    let between = |at: &usize| bytes.get(*at) == Some(&b' ') && letter(at - 1) && letter(at + 1);
    (1..=most).rev().find(between).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::super::ParsedBody;
    use super::*;

    fn count_body(vocabulary: &Tokenizer, body: &str) -> u32 {
        let request = ParsedBody::parse(body.as_bytes()).unwrap();
        let mut census = TextStats::from_prompt(&request.prompt);
        vocabulary.count_tokens(&request.prompt, &mut census);
        census.counted_tokens.unwrap()
    }

    #[test]
    fn text_in_pieces_counts_as_much_as_whole() {
        let text = include_str!("../../tests/data/texts/code.txt");
        let body = serde_json::json!({ "prompt": text }).to_string();
        let bpe = tiktoken_rs::o200k_base_singleton();
        assert!(text.len() > 2 * MAX_CHUNK_BYTES);
        assert_eq!(count_body(&Tokenizer::O200k, &body) as usize, bpe.encode_ordinary(text).len());
    }

    #[test]
    fn long_texts_are_sampled() {
        let text = include_str!("../../tests/data/texts/code.txt").repeat(100);
        let exact = tiktoken_rs::cl100k_base_singleton().encode_ordinary(&text).len() as f64;
        let body = serde_json::json!({ "prompt": text }).to_string();
        let ratio = f64::from(count_body(&Tokenizer::Cl100k, &body)) / exact;
        assert!((0.97..1.03).contains(&ratio), "{ratio}");
    }

    #[test]
    fn texts_made_to_hurt_are_counted_in_bounded_time_and_without_a_panic() {
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
    fn unknown_names_are_no_vocabulary() {
        assert_eq!(Tokenizer::from_name("p50k"), None);
        assert!(Tokenizer::from_file("/nowhere/tokenizer.json").is_err());
    }
}
