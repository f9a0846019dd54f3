//! Floor 1: reading answers. An observer of an answer's body, event stream or plain JSON, that is shown every chunk on
//! its way to the client and never alters, holds or copies it; and the words in which a broken stream is ended.
//!
//! [`Scanner`] knows the framing (which bytes are an event), [`BodyObserver`] the meaning (content, usage, end, failure).
//! Whatever the bytes are and however they are cut into chunks, what is seen is the same, and nothing panics.

mod answer_state;
mod error_event;
mod event;
mod json_object;
mod json_observer;
mod observer;
mod scanner;
mod usage;

#[cfg(test)]
mod tests;

pub use error_event::{WAITING_COMMENT, error_event};
pub use observer::{BodyFormat, BodyObserver, ChunkStats, EventInfo};
pub use scanner::{EventFrame, HEAD_BYTES, Scanner, TAIL_BYTES};
