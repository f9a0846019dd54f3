//! The number of tokens of a prompt: counted features, an estimate that is learned from them, and exact tokenizers.

mod text_stats;
mod token_estimator;
mod tokenizer;

pub(super) use text_stats::TextCounter;
pub use text_stats::TextStats;
pub use token_estimator::{MediaTokens, TokenEstimator};
pub use tokenizer::{MAX_TOKENIZED_BYTES, Tokenizer};
