//! Floor 1: reading answers. An observer of an answer's body, event stream or plain JSON, that is shown every chunk on
//! its way to the client and never alters, holds or copies it; and the words in which a broken stream is ended.
//!
//! [`Scanner`] knows the framing (which bytes are an event), [`BodyObserver`] the meaning (content, usage, end, failure).
//! Whatever the bytes are and however they are cut into chunks, what is seen is the same, and nothing panics.

mod ending;
mod event;
mod object;
mod observe;
mod said;
mod scan;
mod usage;
mod whole;

#[cfg(test)]
mod tests;

pub use ending::{WAITING_COMMENT, error_event};
pub use observe::{BodyFormat, BodyObserver, ChunkStats, EventInfo};
pub use scan::{EventFrame, HEAD_BYTES, Scanner, TAIL_BYTES};
