//! A row of the table of dialects.

use super::error_body::ErrorDetails;
use super::event::{EventContent, RawEvent, WantedFields};
use super::prompt_members::{ContentMember, PromptMember};

/// A dialect's row of the table.
#[derive(Debug)]
pub struct DialectSpec {
    /// Reads one event of a stream. *Cost*: about 50 ns for an ordinary one, 0.5 to 1 us where JSON must be parsed.
    pub read_event: for<'a> fn(&RawEvent<'a>, WantedFields) -> EventContent<'a>,
    /// Writes the event that ends a broken stream, from a message and the number of events before it. `None` if the
    /// events of its streams are not known.
    pub error_event: Option<fn(&str, u64) -> String>,
    /// Writes the JSON body of an error response of our own.
    pub error_body: fn(&ErrorDetails<'_>) -> String,
    /// The top-level members of a request that hold the prompt.
    pub prompt_members: &'static [PromptMember],
    /// The members within a prompt whose values are not plain text. A name has one meaning in all dialects.
    pub content_members: &'static [(&'static str, ContentMember)],
    /// Whether `stream_options.include_usage` adds `usage` to a stream. vLLM refuses the member elsewhere.
    pub takes_stream_options: bool,
    /// Whether a JSON response with `stop_reason` null was aborted by its replica.
    pub null_stop_reason_aborts: bool,
    /// Whether the replica stores its responses, so that requests for them must reach the same one.
    pub stores_responses: bool,
}
