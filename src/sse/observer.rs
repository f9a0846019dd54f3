//! The observer of one answer: what its events, or its JSON, say so far.

use std::ops::Range;

use super::answer_state::AnswerState;
use super::event::{self, EventContent, WantedFields};
use super::json_observer::JsonObserver;
use super::scanner::{EventFrame, Scanner};
use crate::units::{Dialect, Usage};

/// How an answer's body is framed, as its content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// An event stream.
    Stream,
    /// One JSON document.
    Json,
}

/// What one chunk added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkStats {
    /// Events that ended in the chunk, comments included.
    pub events: u32,
    /// Events among them that carry a piece of the answer. A JSON document counts as one, when its first byte comes.
    pub content_events: u32,
}

/// What one event of a stream is, for whoever must judge it before the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventInfo {
    /// Where the event lies, in bytes from the stream's start.
    pub range: Range<u64>,
    /// It is an event; `false` for comments and blank lines.
    pub is_event: bool,
    /// It carries a piece of the answer.
    pub has_content: bool,
    /// It carries token counts.
    pub has_usage: bool,
    /// It carries `usage` and nothing else, as the event that `include_usage` asks for does.
    pub usage_only: bool,
    /// It reports an error.
    pub is_error: bool,
    /// That error is about the request, as a 4xx is.
    pub is_client_error: bool,
    /// It says that the replica gave the answer up: `finish_reason` "abort", or a message that stops without a reason,
    /// which is how vLLM words it there.
    pub aborted: bool,
    /// It ends the answer.
    pub done: bool,
}

/// Watches the body of one answer go by.
///
/// *Shape*: what is seen does not depend on how the body is cut into chunks; any bytes are allowed.
/// *Cost*: about 70 ns for an ordinary event; JSON is parsed only up to the first content event and where an event
/// has a `usage` object or looks like a failure. Memory is bounded (see [`Scanner`]).
#[derive(Debug)]
pub struct BodyObserver {
    dialect: Dialect,
    body: ObservedBody,
    state: AnswerState,
}

#[derive(Debug)]
enum ObservedBody {
    Stream(Scanner),
    Json(JsonObserver),
}

impl BodyObserver {
    /// An observer of an answer that has not begun.
    pub fn new(dialect: Dialect, kind: BodyFormat) -> Self {
        let body = match kind {
            BodyFormat::Stream => ObservedBody::Stream(Scanner::new()),
            BodyFormat::Json => ObservedBody::Json(JsonObserver::new(dialect)),
        };
        Self { dialect, body, state: AnswerState::default() }
    }

    /// Looks at the next chunk of the body.
    pub fn observe(&mut self, chunk: &[u8]) -> ChunkStats {
        self.observe_events(chunk, |_| ())
    }

    /// Looks at the next chunk of the body and tells `each` of every event of the stream that ends in it, in order.
    pub fn observe_events(&mut self, chunk: &[u8], mut each: impl FnMut(EventInfo)) -> ChunkStats {
        let Self { dialect, body, state: said } = self;
        let mut seen = ChunkStats::default();
        match body {
            ObservedBody::Stream(scanner) => {
                scanner.scan(chunk, |frame| each(apply_event(*dialect, said, &frame, &mut seen)));
            }
            ObservedBody::Json(whole) => {
                let begun = said.has_content;
                whole.observe(chunk, said);
                seen.content_events = u32::from(said.has_content && !begun);
            }
        }
        seen
    }

    /// The body has ended: looks at an event that lacks its blank line.
    pub fn finish(&mut self) -> ChunkStats {
        self.finish_events(|_| ())
    }

    /// As [`BodyObserver::finish`], and tells `each` of that event.
    pub fn finish_events(&mut self, mut each: impl FnMut(EventInfo)) -> ChunkStats {
        let Self { dialect, body, state: said } = self;
        let mut seen = ChunkStats::default();
        if let ObservedBody::Stream(scanner) = body {
            scanner.finish(|frame| each(apply_event(*dialect, said, &frame, &mut seen)));
        }
        seen
    }

    /// Bytes at the end of what was observed that belong to an event whose end has not come. Zero for a JSON document.
    pub fn pending_bytes(&self) -> u64 {
        match &self.body {
            ObservedBody::Stream(scanner) => scanner.pending_bytes(),
            ObservedBody::Json(_) => 0,
        }
    }

    /// True once a piece of the answer was seen: of a stream, an event with content; of a JSON document, any byte.
    pub fn has_content(&self) -> bool {
        self.state.has_content
    }

    /// The token counts reported so far, the latest value of each; `None` before the first.
    pub fn usage(&self) -> Option<Usage> {
        self.state.usage_counts.usage()
    }

    /// True once the answer said that it is complete: `[DONE]`, `response.completed`, `.incomplete` or `.failed`,
    /// `message_stop`, or the end of the JSON document. Some servers never say so.
    pub fn is_done(&self) -> bool {
        self.state.done
    }

    /// True once the answer reported an error in its body that is not about the request.
    pub fn has_error(&self) -> bool {
        self.state.has_error
    }

    /// True once a stream reported an error that is about the request, as a 4xx is.
    pub fn has_client_error(&self) -> bool {
        self.state.has_client_error
    }

    /// True once a choice ended with `finish_reason` "abort", or a message without a reason.
    pub fn is_aborted(&self) -> bool {
        self.state.aborted
    }

    /// The response's id, at most 256 bytes.
    pub fn id(&self) -> Option<&str> {
        self.state.id.as_deref()
    }
}

/// Takes what `frame` says into `said`.
fn apply_event(dialect: Dialect, said: &mut AnswerState, frame: &EventFrame<'_>, seen: &mut ChunkStats) -> EventInfo {
    let seek = WantedFields { content: !said.has_content, id: said.id.is_none() };
    let event = match frame.data {
        Some(_) => event::parse_event(dialect, frame, seek),
        None => EventContent::default(),
    };
    seen.events += 1;
    seen.content_events += u32::from(event.has_content);
    said.has_content |= event.has_content;
    if let Some(wire) = &event.usage {
        said.usage_counts.merge(wire);
    }
    said.set_id(event.id.as_deref());
    said.done |= event.done;
    said.has_error |= event.is_error && !event.is_client_error;
    said.has_client_error |= event.is_client_error;
    said.lacks_stop_reason = event.lacks_stop_reason.unwrap_or(said.lacks_stop_reason);
    let aborted = event.aborted || event.done && said.lacks_stop_reason;
    said.aborted |= aborted;
    let EventContent {
        has_content: content, usage_only, is_error: error, is_client_error: refused, done, usage, ..
    } = event;
    let (range, data, usage) = (frame.range.clone(), frame.data.is_some() || !frame.name.is_empty(), usage.is_some());
    EventInfo {
        range,
        is_event: data,
        has_content: content,
        has_usage: usage,
        usage_only,
        is_error: error,
        is_client_error: refused,
        aborted,
        done,
    }
}
