//! Passing an answer on as it comes, and following it for the lease.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Body, Frame, SizeHint};

use super::error;
use super::event_filter::EventFilter;
use super::peek::{HUNG_CAUSE, ResponseFault, is_readable_stream};
use super::stream_timer::{StreamTimer, TimerEvent};
use super::{UpstreamBody, UpstreamResponse};
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::dialect::Dialect;
use crate::fleet::{Lease, Outcome, Phase, ResponseProgress};
use crate::http::is_event_stream;
use crate::sse::{BodyFormat, BodyObserver, ChunkStats, WAITING_COMMENT};
use crate::units::{Moment, Usage};

/// What an answer came to, for the log.
#[derive(Clone, Debug, Default)]
pub struct RelayResult {
    /// How it ended; `None` while it runs, and for ever if the client left.
    pub outcome: Option<Outcome>,
    /// When the first generated content came.
    pub first_token: Option<Moment>,
    /// When it ended.
    pub ended: Option<Moment>,
    /// The token counts the replica reported.
    pub usage: Option<Usage>,
    /// What broke the answer off.
    pub cause: Option<String>,
}

/// An answer's body on its way to the client, byte for byte.
///
/// Settles its lease at the end; dropped before, the lease ends as left by the client, unless the answer has reported an
/// error already, and the replica's connection is closed. Of a stream whole events go on, so that one that breaks off
/// can be ended by an error event; what is taken out of it is the business of the sieve.
pub struct RelayBody {
    body: UpstreamBody,
    lease: Option<Lease>,
    dialect: Dialect,
    observer: BodyObserver,
    /// Frames that the observer has seen already.
    observed_frames: usize,
    /// What may go on of a stream whose events are known.
    filter: Option<EventFilter>,
    /// What broke the answer off, to be told after what came before it.
    pending_error: Option<String>,
    /// Something was handed on since the client's connection last had a turn to write.
    unflushed: bool,
    /// What the answer means if it comes whole.
    outcome_if_complete: Outcome,
    timer: StreamTimer,
    clock: Clock,
    /// Only a stream has a first token; a JSON document comes whole.
    is_stream: bool,
    result: RelayResult,
}

impl RelayBody {
    /// Splits an answer into the replica's status and headers, and the body that settles `lease`.
    pub fn new(
        mut answer: UpstreamResponse,
        lease: Lease,
        dialect: Dialect,
        timeouts: &Timeouts,
        clock: Clock,
    ) -> (Parts, Self) {
        let kind = if is_event_stream(&answer.head.headers) { BodyFormat::Stream } else { BodyFormat::Json };
        let sifted = answer.head.status.is_success() && is_readable_stream(&answer.head.headers, dialect);
        // An answer that was known to be at fault and is passed on for want of a better one stays as it is.
        let sieve = sifted.then(|| EventFilter::new(answer.router_requested_usage, answer.fault.is_none()));
        let pulse = StreamTimer::new(&answer, sifted, timeouts, clock);
        let seen_before = if answer.observer.is_some() { answer.body.buffered_frames() } else { 0 };
        let mut relayed = Self {
            dialect,
            observer: answer.observer.take().unwrap_or_else(|| BodyObserver::new(dialect, kind)),
            observed_frames: seen_before,
            filter: sieve,
            pending_error: None,
            unflushed: false,
            outcome_if_complete: answer.outcome,
            timer: pulse,
            clock,
            is_stream: kind == BodyFormat::Stream,
            result: RelayResult { cause: answer.fault.map(|fault| fault.to_string()), ..RelayResult::default() },
            lease: Some(lease),
            body: answer.body,
        };
        if relayed.body.is_end_stream() {
            relayed.finish();
        }
        (answer.head, relayed)
    }

    /// What the answer has come to so far.
    pub const fn result(&self) -> &RelayResult {
        &self.result
    }

    /// The answer's own id, once it has been seen.
    pub fn id(&self) -> Option<&str> {
        self.observer.id()
    }

    /// Tells whether bytes may be taken out or added, so that the length the replica gave is not the client's.
    pub const fn rewrites_body(&self) -> bool {
        self.filter.is_some()
    }

    /// Looks at what came. What may go on of it is the frame itself, or ready in the sieve.
    fn observe_chunk(&mut self, bytes: &Bytes) {
        let now = self.clock.now();
        let seen = match &mut self.filter {
            Some(sieve) => sieve.push(bytes, &mut self.observer),
            None if self.observed_frames > 0 => {
                self.observed_frames -= 1;
                ChunkStats::default()
            }
            None => self.observer.observe(bytes),
        };
        match &self.filter {
            Some(sieve) if seen.events == 0 && sieve.is_empty() => {}
            Some(_) if seen.events == 0 => self.timer.stop_comments(),
            _ => self.timer.record_activity(now),
        }
        let content_events = if self.is_stream { seen.content_events } else { 0 };
        let progress = ResponseProgress { content_events, usage: self.observer.usage() };
        if let Some(lease) = &mut self.lease {
            lease.record_progress(progress, now);
            lease.replica().port_state().record_activity(now);
            self.result.first_token = lease.first_token();
            if self.filter.as_ref().is_some_and(|sieve| sieve.usage_mixed_in) {
                lease.replica().set_usage_support(false);
            }
        }
        if self.filter.as_ref().is_some_and(|sieve| sieve.aborted) {
            self.abort_with(
                Outcome::Failed { phase: Phase::Stream },
                ResponseFault::Aborted.to_string(),
                "gave the answer up",
            );
        } else if self.timer.is_past_deadline(now) && !self.body.is_end_stream() {
            self.on_timer_event(TimerEvent::TotalTimeout);
        }
    }

    /// The answer has come to its end.
    fn finish(&mut self) {
        match &mut self.filter {
            Some(sieve) => sieve.finish(&mut self.observer),
            None => {
                self.observer.finish();
            }
        }
        if self.filter.as_ref().is_some_and(|sieve| sieve.aborted) {
            return self.abort_with(
                Outcome::Failed { phase: Phase::Stream },
                ResponseFault::Aborted.to_string(),
                "gave the answer up",
            );
        }
        let outcome = self.reported_outcome().unwrap_or(self.outcome_if_complete);
        self.settle_lease(outcome);
    }

    /// What the answer has said of itself that its status did not.
    fn reported_outcome(&mut self) -> Option<Outcome> {
        if self.outcome_if_complete != Outcome::Completed {
            return None;
        }
        if self.observer.has_error() || self.observer.is_aborted() {
            self.result.cause = Some("the replica ended its answer with an error".to_owned());
            return Some(Outcome::Failed { phase: Phase::Stream });
        }
        self.observer.has_client_error().then_some(Outcome::Refused)
    }

    /// The answer cannot be brought to its end: the client is told, in its endpoint's words where they are known.
    fn abort_with(&mut self, outcome: Outcome, cause: String, told: &str) {
        // Who has been told of an error, or has the whole answer, needs no other ending.
        let is_told = self.observer.has_error() || self.observer.has_client_error() || self.observer.is_done();
        if let Some(sieve) = &mut self.filter {
            // Of what came behind an abort the client has nothing.
            let is_told = is_told && !sieve.aborted;
            let ending = self.dialect.error_event(&format!("the replica {told}"), sieve.events_sent());
            match ending.filter(|_| !is_told) {
                Some(ending) => sieve.end_with(ending),
                None => sieve.flush(),
            }
        }
        self.body.close();
        self.pending_error = Some(cause.clone());
        self.result.cause = Some(cause);
        self.settle_lease(outcome);
    }

    fn settle_lease(&mut self, outcome: Outcome) {
        let Some(mut lease) = self.lease.take() else { return };
        let now = self.clock.now();
        lease.set_usage(self.observer.usage(), now);
        self.result.usage = lease.usage();
        self.result.outcome = Some(outcome);
        self.result.ended = Some(now);
        lease.settle(outcome, now);
    }

    /// The next frame that came and was not kept in the sieve; `None` when there is nothing more to come.
    fn poll_replica(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        while let Some(lease) = &self.lease {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.observe_chunk(bytes);
                    }
                    // A body of known length is not asked again after its last byte.
                    if self.lease.is_some() && self.body.is_end_stream() {
                        self.finish();
                    }
                    if self.filter.is_none() || !frame.is_data() {
                        return Poll::Ready(Some(frame));
                    }
                    if self.filter.as_ref().is_some_and(|sieve| !sieve.is_empty()) {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    let failed = Outcome::Failed { phase: Phase::Stream };
                    self.abort_with(failed, error::describe_error(&error), "broke the answer off");
                }
                Poll::Ready(None) => self.finish(),
                Poll::Pending => match ready!(self.timer.poll_event(lease.replica(), cx)) {
                    TimerEvent::CommentDue => {
                        return Poll::Ready(Some(Frame::data(Bytes::from_static(WAITING_COMMENT.as_bytes()))));
                    }
                    rung => self.on_timer_event(rung),
                },
            }
        }
        Poll::Ready(None)
    }

    /// Ends an answer that nothing comes of any more.
    fn on_timer_event(&mut self, rung: TimerEvent) {
        let failed = Outcome::Failed { phase: Phase::Stream };
        match rung {
            TimerEvent::IdleTimeout(limit) => self.abort_with(failed, format!("nothing for {limit:?}"), "fell silent"),
            TimerEvent::FirstByteTimeout => {
                self.abort_with(
                    failed,
                    "nothing within the time to the first byte".to_owned(),
                    "did not begin in time",
                );
            }
            TimerEvent::Hung => self.abort_with(failed, HUNG_CAUSE.to_owned(), "fell silent"),
            TimerEvent::TotalTimeout => {
                self.abort_with(
                    Outcome::RouterError,
                    "it took longer than `timeouts.total`".to_owned(),
                    "took longer than it may",
                );
            }
            TimerEvent::CommentDue => {}
        }
    }
}

impl Body for RelayBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.timer.on_client_ready();
        let sifted = |this: &mut Self| this.filter.as_mut().and_then(EventFilter::pop).map(Frame::data);
        let mut frame = sifted(this);
        if frame.is_none() {
            frame = ready!(this.poll_replica(cx)).or_else(|| sifted(this));
        }
        if let Some(frame) = frame {
            this.unflushed = true;
            this.timer.on_client_busy();
            return Poll::Ready(Some(Ok(frame)));
        }
        if this.pending_error.is_some() && std::mem::take(&mut this.unflushed) {
            // hyper throws away what it has not written yet when a body fails: it gets a turn to write first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(this.pending_error.take().map(|cause| Err(cause.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none() && self.pending_error.is_none() && self.filter.as_ref().is_none_or(EventFilter::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        if self.filter.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        // Clients leave when they have read of an error; it is the replica's all the same.
        if self.lease.is_some()
            && let Some(outcome) = self.reported_outcome()
        {
            self.settle_lease(outcome);
        }
    }
}
