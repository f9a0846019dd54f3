//! Layer 1: reading responses. [`BodyObserver`] is given every chunk of a response body, an event stream or plain JSON,
//! on its way to the client. It never alters, holds or copies the chunks.
//!
//! [`Scanner`] finds the events in a stream; the [dialect](crate::dialect) reads each of them. The result does not
//! depend on how the body is cut into chunks, and no input panics.

mod answer_state;
mod frame;
mod json_observer;
mod observer;
mod partial_event;
mod scanner;
mod sniffer;

#[cfg(test)]
mod tests;

pub use frame::EventFrame;
pub use observer::{BodyFormat, BodyObserver, ChunkStats, EventInfo};
pub use partial_event::{HEAD_BYTES, TAIL_BYTES};
pub use scanner::Scanner;
pub use sniffer::{FormatSniffer, SniffedFormat};

/// The comment that keeps a client's stream open between the response head and the first event.
pub const WAITING_COMMENT: &str = ": waiting\n\n";

/// The comment that keeps a client's stream open between two events.
pub const KEEP_ALIVE_COMMENT: &str = ": keep-alive\n\n";
