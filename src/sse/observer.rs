//! The observer of one response: what its events, or its JSON document, have said so far.

use std::ops::Range;

use super::answer_state::AnswerState;
use super::frame::EventFrame;
use super::json_observer::JsonObserver;
use super::scanner::Scanner;
use crate::dialect::{Dialect, DialectSpec, ErrorBlame, EventContent, RawEvent, WantedFields};
use crate::units::Usage;

/// The framing of a response body, from its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// An event stream.
    Stream,
    /// One JSON document.
    Json,
}

/// The events that one chunk completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkStats {
    /// Events that ended in the chunk, comments included.
    pub events: u32,
    /// Events among them that carry a piece of the response. A JSON document counts as one, at its first byte.
    pub content_events: u32,
}

/// A summary of one event of a stream, for callers that decide about it before the client receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventInfo {
    /// The event's position, in bytes from the stream's start.
    pub range: Range<u64>,
    /// It is an event; `false` for comments and blank lines.
    pub is_event: bool,
    /// It carries a piece of the response.
    pub has_content: bool,
    /// It carries token counts.
    pub has_usage: bool,
    /// It carries `usage` and no choices, like the event that `include_usage` adds.
    pub usage_only: bool,
    /// The JSON of such an event without its usage; `None` if nothing else in it is of interest.
    pub without_usage: Option<Box<str>>,
    /// Who is to blame for the error that it reports; `None` if it reports none.
    pub error: Option<ErrorBlame>,
    /// The replica aborted the response: `finish_reason` "abort", or a message that stops without a reason, as vLLM
    /// writes it there.
    pub aborted: bool,
    /// It ends the response.
    pub done: bool,
}

/// Observes the body of one response as it passes.
///
/// *Shape*: the result does not depend on how the body is cut into chunks; any bytes are allowed.
/// *Cost*: about 70 ns for an ordinary event. JSON is parsed only up to the first content event, and where an event has
/// a `usage` object or may be an error. Memory is bounded (see [`Scanner`]).
#[derive(Debug)]
pub struct BodyObserver {
    dialect: &'static DialectSpec,
    body: ObservedBody,
    answer: AnswerState,
}

#[derive(Debug)]
enum ObservedBody {
    Stream(Scanner),
    Json(JsonObserver),
}

impl BodyObserver {
    /// Returns an observer of a response that has not begun.
    pub fn new(dialect: Dialect, format: BodyFormat) -> Self {
        let dialect = dialect.spec();
        let body = match format {
            BodyFormat::Stream => ObservedBody::Stream(Scanner::new()),
            BodyFormat::Json => ObservedBody::Json(JsonObserver::new(dialect)),
        };
        Self { dialect, body, answer: AnswerState::default() }
    }

    /// Reads the next chunk of the body.
    pub fn observe(&mut self, chunk: &[u8]) -> ChunkStats {
        self.observe_events(chunk, |_| ())
    }

    /// Reads the next chunk of the body and passes every event of the stream that ends in it to `each`, in order.
    pub fn observe_events(&mut self, chunk: &[u8], mut each: impl FnMut(EventInfo)) -> ChunkStats {
        let Self { dialect, body, answer } = self;
        let mut stats = ChunkStats::default();
        match body {
            ObservedBody::Stream(scanner) => {
                scanner.scan(chunk, |frame| each(apply_event(dialect, answer, &frame, &mut stats)));
            }
            ObservedBody::Json(observer) => {
                let had_content = answer.has_content;
                observer.observe(chunk, answer);
                stats.content_events = u32::from(answer.has_content && !had_content);
            }
        }
        stats
    }

    /// Reads the end of the body: the last event may lack its blank line.
    pub fn finish(&mut self) -> ChunkStats {
        self.finish_events(|_| ())
    }

    /// Does the same as [`BodyObserver::finish`] and passes that event to `each`.
    pub fn finish_events(&mut self, mut each: impl FnMut(EventInfo)) -> ChunkStats {
        let Self { dialect, body, answer } = self;
        let mut stats = ChunkStats::default();
        if let ObservedBody::Stream(scanner) = body {
            scanner.finish(|frame| each(apply_event(dialect, answer, &frame, &mut stats)));
        }
        stats
    }

    /// Returns the number of observed bytes that belong to an unfinished event; zero for a JSON document.
    pub fn pending_bytes(&self) -> u64 {
        match &self.body {
            ObservedBody::Stream(scanner) => scanner.pending_bytes(),
            ObservedBody::Json(_) => 0,
        }
    }

    /// Returns whether a piece of the response has passed: of a stream, an event with content; of a JSON document, any
    /// byte.
    pub fn has_content(&self) -> bool {
        self.answer.has_content
    }

    /// Returns the latest value of each token count; `None` before the first.
    pub fn usage(&self) -> Option<Usage> {
        self.answer.usage_counts.usage()
    }

    /// Returns whether the response is complete by its own account: `[DONE]`, `response.completed`, `.incomplete` or
    /// `.failed`, `message_stop`, or the end of the JSON document. Some servers send none of these.
    pub fn is_done(&self) -> bool {
        self.answer.done
    }

    /// Returns whether the body reported an error that the replica is to blame for.
    pub fn has_error(&self) -> bool {
        self.answer.has_error
    }

    /// Returns whether the body reported an error that is about the load on the replica, like a 503.
    pub fn has_busy_error(&self) -> bool {
        self.answer.has_busy_error
    }

    /// Returns whether the body reported an error that is about the request, like a 4xx.
    pub fn has_client_error(&self) -> bool {
        self.answer.has_client_error
    }

    /// Returns whether a choice ended with `finish_reason` "abort", or a message without a reason.
    pub fn is_aborted(&self) -> bool {
        self.answer.aborted
    }

    /// Returns the response's id, at most 256 bytes.
    pub fn id(&self) -> Option<&str> {
        self.answer.id.as_deref()
    }
}

/// Reads the event in `frame` into `answer` and `stats`.
fn apply_event(
    dialect: &DialectSpec,
    answer: &mut AnswerState,
    frame: &EventFrame<'_>,
    stats: &mut ChunkStats,
) -> EventInfo {
    let wanted =
        WantedFields { content: !answer.has_content, id: answer.id.is_none(), fingerprint: !answer.has_fingerprint };
    let event = match frame.data {
        Some(data) => (dialect.read_event)(&RawEvent { name: frame.name, data, tail: frame.tail }, wanted),
        None => EventContent::default(),
    };
    stats.events += 1;
    stats.content_events += u32::from(event.has_content);
    answer.has_content |= event.has_content;
    if let Some(usage) = &event.usage {
        answer.usage_counts.merge(usage);
    }
    answer.set_id(event.id.as_deref());
    answer.done |= event.done;
    answer.has_fingerprint |= event.has_fingerprint;
    if let Some(blame) = event.error {
        answer.record_error(blame);
    }
    answer.lacks_stop_reason = event.lacks_stop_reason.unwrap_or(answer.lacks_stop_reason);
    let aborted = event.aborted || event.done && answer.lacks_stop_reason;
    answer.aborted |= aborted;
    EventInfo {
        range: frame.range.clone(),
        is_event: frame.data.is_some() || !frame.name.is_empty(),
        has_content: event.has_content,
        has_usage: event.usage.is_some(),
        usage_only: event.usage_only,
        without_usage: event.without_usage,
        error: event.error,
        aborted,
        done: event.done,
    }
}
