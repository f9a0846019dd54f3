//! Generation of text: the request, its progress and the events of its stream.

pub(super) mod event_sink;
pub(super) mod generation;
pub(super) mod request;
pub(super) mod tool_call;
