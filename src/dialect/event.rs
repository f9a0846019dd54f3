//! An event of a stream, before and after it is read.

use std::borrow::Cow;

use super::usage::UsageObject;

/// An event that has data, as it was framed.
#[derive(Clone, Copy, Debug)]
pub struct RawEvent<'a> {
    /// The event's name; empty if it has none.
    pub name: &'a [u8],
    /// The `data` lines joined by `\n`; of a very long event only its first part.
    pub data: &'a [u8],
    /// The end of an event of which `data` is only the first part; empty for all others.
    pub tail: &'a [u8],
}

/// The fields read from one event.
#[derive(Debug, Default)]
pub struct EventContent<'a> {
    /// It carries a piece of the response.
    pub has_content: bool,
    /// Its token counts; `None` if it has none.
    pub usage: Option<UsageObject<'a>>,
    /// It carries `usage` and no choices.
    pub usage_only: bool,
    /// The JSON of such an event without its `usage`, for a client that did not ask for it. `None` if the client misses
    /// nothing without the event.
    pub without_usage: Option<Box<str>>,
    /// It carries a `system_fingerprint`.
    pub has_fingerprint: bool,
    /// The response's id; `None` if it is absent or not wanted.
    pub id: Option<Cow<'a, str>>,
    /// Who is to blame for the error that it reports; `None` if it reports none.
    pub error: Option<ErrorBlame>,
    /// A choice ended because its replica gave up.
    pub aborted: bool,
    /// Whether the message's `stop_reason` is null; `None` if the event does not have it.
    pub lacks_stop_reason: Option<bool>,
    /// It ends the response.
    pub done: bool,
}

/// Who is to blame for an error that a response reports after a status of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorBlame {
    /// The request: a 4xx within the response.
    Request,
    /// The load on the replica: a 429, 503 or 529 within the response.
    Load,
    /// The replica.
    Replica,
}

/// The fields of an event that must be exact; the others may be skipped, which is cheaper.
#[derive(Clone, Copy, Debug)]
pub struct WantedFields {
    /// Whether the event has content. Once content has been seen, any event with choices counts as content unless it
    /// must be parsed for another reason, even one with nothing but a `finish_reason`.
    pub content: bool,
    /// The response's id.
    pub id: bool,
    /// A `system_fingerprint` that comes with the usage only; vLLM moves it there.
    pub fingerprint: bool,
}
