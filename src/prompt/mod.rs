//! Floor 1: reading requests. Which endpoint a path is, what a body says that a router must know, and how a body is
//! edited without being written anew.
//!
//! Bodies are borrowed, never owned: unknown members pass unread, and an edit replaces a range of bytes.

mod bad_body;
mod census;
mod count;
pub mod endpoint;
mod estimator;
mod json;
pub mod multipart;
mod opening;
mod prefix;
mod request;
mod splice;
mod walk;

pub use bad_body::BodyError;
pub use census::TextStats;
pub use count::{MAX_TOKENIZED_BYTES, Tokenizer};
pub use endpoint::ApiEndpoint;
pub use estimator::{MediaTokens, TokenEstimator};
pub use opening::conversation_hash;
pub use prefix::{PromptFingerprint, fingerprint_and_count};
pub use request::{AffinityHints, ModelField, ParsedBody, PromptMembers};
pub use splice::{BodyEdit, BodyPieces, EditError, splice};
pub use walk::{MediaKind, PromptPiece, for_each_piece};
