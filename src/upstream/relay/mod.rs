//! Relays a response to the client and follows it for the lease.
//!
//! Back-pressure: a frame is read from the replica only when the client's side asks for it.

mod content;
mod error;
mod event_filter;
mod settlement;
mod stream_timer;

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Body, Frame, SizeHint};

use super::error::describe_error;
use super::response::{UpstreamBody, UpstreamResponse};
use crate::clock::Clock;
use crate::dialect::Dialect;
use crate::fleet::{Lease, Outcome, Phase};
use crate::routes::Timeouts;
use content::RelayedContent;
use error::RelayError;
use settlement::Settlement;
use stream_timer::{StreamTimer, TimerEvent};

pub use settlement::RelayResult;

/// The body of a response on its way to the client, byte for byte.
///
/// Settles its lease at the end. Dropped before, it closes the replica's connection, and the lease ends as
/// `client_gone` unless the response has already reported an error. Of a stream whole events pass, so that an
/// interrupted one can end in an error event; `event_filter` says which bytes are removed.
pub struct RelayBody {
    body: UpstreamBody,
    content: RelayedContent,
    settlement: Settlement,
    timer: StreamTimer,
    clock: Clock,
    /// The error to end with after the bytes that are ready; `None` if there is none.
    pending_error: Option<String>,
    /// Whether bytes were returned since the client's connection last had a turn to write.
    unflushed: bool,
}

impl RelayBody {
    /// Splits a response into the replica's status and headers, and the body that settles `lease`.
    pub fn new(
        mut response: UpstreamResponse,
        lease: Lease,
        dialect: Dialect,
        timeouts: &Timeouts,
        clock: Clock,
    ) -> (Parts, Self) {
        let content = RelayedContent::new(&mut response, dialect);
        let mut relay = Self {
            timer: StreamTimer::new(&response, &content, timeouts, clock),
            settlement: Settlement::new(lease, response.outcome, response.fault),
            content,
            body: response.body,
            clock,
            pending_error: None,
            unflushed: false,
        };
        if relay.body.is_end_stream() {
            relay.finish();
        }
        (response.head, relay)
    }

    /// Returns the result so far.
    pub const fn result(&self) -> &RelayResult {
        self.settlement.result()
    }

    /// Returns the response's own id; `None` until it has been seen.
    pub fn id(&self) -> Option<&str> {
        self.content.id()
    }

    /// Returns whether bytes may be removed or added, so that the replica's `Content-Length` does not hold.
    pub const fn rewrites_body(&self) -> bool {
        self.content.is_filtered()
    }

    /// Observes a chunk. What may pass is the chunk itself, or ready in the filter.
    fn observe_chunk(&mut self, chunk: &Bytes) {
        let now = self.clock.now();
        let observed = self.content.observe(chunk);
        if observed.stats.events > 0 || !self.content.is_filtered() {
            self.timer.record_activity(now);
        }
        self.settlement.record_progress(self.content.progress(observed.stats), now);
        if observed.usage_mixed_in {
            self.settlement.disable_usage_requests();
        }
        if observed.aborted {
            self.end_with_error(&RelayError::Aborted);
        } else if self.timer.is_past_deadline(now) && !self.body.is_end_stream() {
            self.end_with_error(&RelayError::TotalTimeout);
        }
    }

    /// Settles a response that the replica has ended.
    fn finish(&mut self) {
        if self.content.finish().aborted {
            return self.end_with_error(&RelayError::Aborted);
        }
        let outcome = self.reported_outcome().unwrap_or(self.settlement.outcome_if_complete());
        self.settle(outcome);
    }

    /// Ends a response that cannot be completed. A client of a stream gets an error event in its endpoint's format.
    fn end_with_error(&mut self, error: &RelayError) {
        self.content.end_with_error(error);
        self.body.close();
        self.pending_error = Some(error.to_string());
        self.settlement.set_cause(error.to_string());
        self.settle(error.outcome());
    }

    /// Returns the outcome that the body reports and the status does not; `None` if there is none.
    fn reported_outcome(&mut self) -> Option<Outcome> {
        if self.settlement.outcome_if_complete() != Outcome::Completed {
            return None;
        }
        if self.content.reports_replica_error() {
            self.settlement.set_cause("the replica ended the response with an error".to_owned());
            return Some(Outcome::Failed { phase: Phase::Stream });
        }
        if self.content.reports_overload() {
            self.settlement.set_cause("the replica ended the response with an overload error".to_owned());
            return Some(Outcome::Busy { retry_after: None });
        }
        self.content.reports_client_error().then_some(Outcome::Refused)
    }

    fn settle(&mut self, outcome: Outcome) {
        self.settlement.settle(outcome, self.content.usage(), self.clock);
    }

    /// Returns the next frame that the filter does not hold; `None` when there is nothing more to read.
    fn poll_replica(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        while let Some(lease) = self.settlement.lease() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(chunk) = frame.data_ref() {
                        self.observe_chunk(chunk);
                    }
                    // A body of known length is not polled again after its last byte.
                    if !self.settlement.is_settled() && self.body.is_end_stream() {
                        self.finish();
                    }
                    if !self.content.is_filtered() || !frame.is_data() {
                        return Poll::Ready(Some(frame));
                    }
                    if self.content.has_ready_bytes() {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => self.end_with_error(&RelayError::Interrupted(describe_error(&error))),
                Poll::Ready(None) => self.finish(),
                Poll::Pending => {
                    match ready!(self.timer.poll_event(lease.replica(), self.content.is_between_events(), cx)) {
                        TimerEvent::CommentDue => return Poll::Ready(Some(Frame::data(self.content.pause_comment()))),
                        TimerEvent::Expired(error) => self.end_with_error(&error),
                    }
                }
            }
        }
        Poll::Ready(None)
    }
}

impl Body for RelayBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.timer.on_client_ready();
        let mut frame = this.content.pop();
        if frame.is_none() {
            frame = ready!(this.poll_replica(cx)).or_else(|| this.content.pop());
        }
        if let Some(frame) = frame {
            this.unflushed = true;
            this.timer.on_client_busy();
            return Poll::Ready(Some(Ok(frame)));
        }
        if this.pending_error.is_some() && std::mem::take(&mut this.unflushed) {
            // hyper discards what it has not written when a body fails, so it gets a turn to write first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(this.pending_error.take().map(|cause| Err(cause.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.settlement.is_settled() && self.pending_error.is_none() && !self.content.has_ready_bytes()
    }

    fn size_hint(&self) -> SizeHint {
        if self.content.is_filtered() { SizeHint::default() } else { self.body.size_hint() }
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        // Clients leave once they have read an error, which still counts against the replica.
        if !self.settlement.is_settled()
            && let Some(outcome) = self.reported_outcome()
        {
            self.settle(outcome);
        }
    }
}
