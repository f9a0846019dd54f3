//! Floor 1: reading requests. Which endpoint a path is, what a body says that a router must know, and how a body is
//! edited without being written anew.
//!
//! Bodies are borrowed, never owned: unknown members pass unread, and an edit replaces a range of bytes.

mod body_error;
mod conversation_hash;
pub mod endpoint;
mod fingerprint;
mod json;
pub mod multipart;
mod parsed_body;
mod pieces;
mod splice;
mod text_stats;
mod token_estimator;
mod tokenizer;

pub use body_error::BodyError;
pub use conversation_hash::conversation_hash;
pub use endpoint::ApiEndpoint;
pub use fingerprint::{PromptFingerprint, fingerprint_and_count};
pub use parsed_body::{AffinityHints, ModelField, ParsedBody, PromptMembers};
pub use pieces::{MediaKind, PromptPiece, for_each_piece};
pub use splice::{BodyEdit, BodyPieces, EditError, splice};
pub use text_stats::TextStats;
pub use token_estimator::{MediaTokens, TokenEstimator};
pub use tokenizer::{MAX_TOKENIZED_BYTES, Tokenizer};
