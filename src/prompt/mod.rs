//! Layer 1: reading requests. Which endpoint a path is, what a body says that a router must know, and how a body is
//! edited in place.
//!
//! Bodies are borrowed, never owned: unknown members pass unread, and an edit replaces a range of bytes.

pub mod agents;
mod body_error;
mod conversation_hash;
pub mod endpoint;
mod fingerprint;
mod json;
pub mod multipart;
mod parsed_body;
mod pieces;
mod prompt_members;
mod splice;
mod stream_options;
mod tokens;
mod turns;
mod unescape;

pub use crate::dialect::MediaKind;
pub use body_error::BodyError;
pub use conversation_hash::{conversation_hash, user_turn_hash};
pub use endpoint::ApiEndpoint;
pub use fingerprint::{PromptFingerprint, fingerprint_and_count};
pub use parsed_body::{AffinityHints, ModelField, ParsedBody};
pub use pieces::{PromptPiece, for_each_piece};
pub use prompt_members::PromptMembers;
pub use splice::{BodyEdit, BodyPieces, EditError, splice};
pub use stream_options::ObjectStart;
pub use tokens::{MAX_TOKENIZED_BYTES, MediaTokens, TextStats, TokenEstimator, Tokenizer};
