//! The observed content of a response, and the bytes of it that may pass.

use bytes::Bytes;
use http_body::Frame;

use super::error::RelayError;
use super::event_filter::{EventFilter, FilterRules, Filtered};
use crate::dialect::Dialect;
use crate::fleet::ResponseProgress;
use crate::sse::{BodyFormat, BodyObserver, ChunkStats, KEEP_ALIVE_COMMENT, WAITING_COMMENT};
use crate::units::Usage;
use crate::upstream::classify;
use crate::upstream::response::{ResponseKind, UpstreamResponse};

/// The content of a response, observed chunk by chunk.
pub(super) struct RelayedContent {
    dialect: Dialect,
    format: BodyFormat,
    observer: BodyObserver,
    /// Frames still to be read that `observer` has seen already.
    observed_frames: usize,
    /// Filter of a stream whose events can be read; `None` if frames pass as they are.
    filter: Option<EventFilter>,
    /// Whether comments may be inserted between the events.
    takes_comments: bool,
}

impl RelayedContent {
    /// Takes over the observer of `response`.
    pub(super) fn new(response: &mut UpstreamResponse, dialect: Dialect) -> Self {
        let (format, is_readable) = (response.format, response.is_readable_stream);
        // A response with a known fault, relayed because no replica gave a better one, stays as it is.
        let rules = FilterRules { removes_usage: response.removes_usage, stops_at_abort: response.fault.is_none() };
        let peeked = response.observer.take();
        Self {
            dialect,
            format,
            observed_frames: if peeked.is_some() { response.body.buffered_frames() } else { 0 },
            observer: peeked.unwrap_or_else(|| BodyObserver::new(dialect, format)),
            takes_comments: is_readable || format == BodyFormat::Stream && classify::is_extensible(&response.head),
            filter: is_readable.then(|| EventFilter::new(rules)),
        }
    }

    /// Returns whether this is a stream into which comments may be inserted.
    pub(super) const fn takes_comments(&self) -> bool {
        self.takes_comments
    }

    /// Returns whether the client has received whole events only, and will receive more. To be asked when no bytes are
    /// ready.
    pub(super) fn is_between_events(&self) -> bool {
        let is_whole = match &self.filter {
            Some(filter) => !filter.is_partially_sent(),
            None => self.observer.pending_bytes() == 0,
        };
        is_whole && !self.observer.is_done()
    }

    /// Returns the comment for a pause of the stream.
    pub(super) fn pause_comment(&self) -> Bytes {
        let has_begun = self.filter.as_ref().is_none_or(|filter| filter.events_sent() > 0);
        Bytes::from_static(if has_begun { KEEP_ALIVE_COMMENT } else { WAITING_COMMENT }.as_bytes())
    }

    /// Returns whether a live replica sends data all the time.
    pub(super) const fn kind(&self) -> ResponseKind {
        if self.is_filtered() { ResponseKind::EventStream } else { ResponseKind::Plain }
    }

    pub(super) const fn is_filtered(&self) -> bool {
        self.filter.is_some()
    }

    /// Observes the next chunk and makes ready what the filter lets pass.
    pub(super) fn observe(&mut self, chunk: &Bytes) -> Filtered {
        match &mut self.filter {
            Some(filter) => filter.push(chunk, &mut self.observer),
            None if self.observed_frames > 0 => {
                self.observed_frames -= 1;
                Filtered::default()
            }
            None => Filtered { stats: self.observer.observe(chunk), ..Filtered::default() },
        }
    }

    /// Observes the end of the body and makes ready what the filter lets pass.
    pub(super) fn finish(&mut self) -> Filtered {
        match &mut self.filter {
            Some(filter) => filter.finish(&mut self.observer),
            None => Filtered { stats: self.observer.finish(), ..Filtered::default() },
        }
    }

    /// Ends a filtered stream: by an error event, or by the bytes that were held if the client needs no other ending.
    pub(super) fn end_with_error(&mut self, error: &RelayError) {
        let Some(filter) = &mut self.filter else { return };
        let observer = &self.observer;
        let has_error = observer.has_error() || observer.has_busy_error() || observer.has_client_error();
        let has_ending = has_error || observer.is_done();
        // The client has received nothing of what came after an abort.
        let needs_ending = matches!(error, RelayError::Aborted) || !has_ending;
        match self.dialect.error_event(error.client_message(), filter.events_sent()).filter(|_| needs_ending) {
            Some(ending) => filter.end_with(ending),
            None => filter.flush(),
        }
    }

    /// Removes the next bytes that may pass; `None` if none are ready.
    pub(super) fn pop(&mut self) -> Option<Frame<Bytes>> {
        self.filter.as_mut().and_then(EventFilter::pop).map(Frame::data)
    }

    pub(super) fn has_ready_bytes(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| !filter.is_empty())
    }

    /// Returns the progress that a chunk made. Only a stream has a first token; a JSON document arrives whole.
    pub(super) fn progress(&self, stats: ChunkStats) -> ResponseProgress {
        let content_events = if self.format == BodyFormat::Stream { stats.content_events } else { 0 };
        ResponseProgress { content_events, usage: self.observer.usage() }
    }

    /// Returns the token counts reported so far; `None` before the first.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.observer.usage()
    }

    /// Returns the response's own id; `None` until it has been seen.
    pub(super) fn id(&self) -> Option<&str> {
        self.observer.id()
    }

    /// Returns whether the body reports an abort, or an error that the replica is to blame for.
    pub(super) fn reports_replica_error(&self) -> bool {
        self.observer.has_error() || self.observer.is_aborted()
    }

    /// Returns whether the body reports an error about the load on the replica.
    pub(super) fn reports_overload(&self) -> bool {
        self.observer.has_busy_error()
    }

    /// Returns whether the body reports an error about the request.
    pub(super) fn reports_client_error(&self) -> bool {
        self.observer.has_client_error()
    }
}
