//! What coding agents put into requests besides the prompt: changing text in front of it, and the id of the session.

mod metadata_cut;
mod session_members;
pub(super) mod volatile_text;

pub use metadata_cut::metadata_edits;
pub use session_members::{MAX_SESSION_ID_BYTES, SessionMembers, is_session_id};
