//! How long a response is awaited before any of it is relayed.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout_at;

use super::answer_deadline::AnswerDeadline;
use super::error::SendError;
use super::request::ResponseExpectations;
use super::response::{ResponseKind, UpstreamBody};
use crate::clock::Clock;
use crate::fleet::{Lease, Phase, Pool, Replica};
use crate::routes::Timeouts;
use crate::units::Moment;

/// How often a replica that sends nothing is checked for having hung.
pub(super) const HUNG_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The result of waiting for a frame.
pub(super) enum FrameWait {
    /// The body holds one more frame.
    Frame,
    /// The body has ended.
    End,
    /// The deadline has passed.
    TimedOut,
}

/// The deadlines of one attempt, and the replica that is awaited.
pub(super) struct ResponseTimer<'a> {
    pub(super) clock: Clock,
    pub(super) timeouts: &'a Timeouts,
    pool: &'a Pool,
    pub(super) replica: &'a Replica,
    pub(super) answer_deadline: AnswerDeadline,
    /// Deadline of the whole request; `None` for no limit.
    pub(super) total_deadline: Option<Moment>,
}

impl<'a> ResponseTimer<'a> {
    /// Returns the timer of a request that is sent at `now`.
    pub(super) fn new(
        lease: &'a Lease,
        timeouts: &'a Timeouts,
        expectations: &ResponseExpectations,
        clock: Clock,
        now: Moment,
    ) -> Self {
        Self {
            clock,
            timeouts,
            pool: lease.pool(),
            replica: lease.replica(),
            answer_deadline: AnswerDeadline::new(lease, timeouts, expectations.wants_stream, now),
            total_deadline: expectations.total_deadline,
        }
    }

    /// Returns the moment until which a first byte is held back.
    pub(super) fn hold_deadline(&self) -> Moment {
        self.answer_deadline.deadline.min(self.clock.now() + self.timeouts.first_event_hold)
    }

    /// Returns the error of a response of which nothing more has come for `waited`, at `now`.
    ///
    /// A replica that sends data on other requests is not to blame.
    pub(super) fn timeout_error(&self, summary: &'static str, waited: Duration, now: Moment) -> SendError {
        if self.total_deadline.is_some_and(|total| now >= total) {
            return SendError::total_timeout();
        }
        let error = SendError::timeout(Phase::FirstByte, summary, waited);
        if self.answer_deadline.is_alive(self.replica, now) { error.without_blame() } else { error }
    }

    /// Returns the error of a response that has not begun by its deadline.
    pub(super) fn no_response_error(&self, now: Moment) -> SendError {
        self.timeout_error("no response", self.answer_deadline.timeout, now)
    }

    /// Checks that the time to the first byte is not over.
    ///
    /// *Errors*: it is over.
    pub(super) fn check_time_left(&self) -> Result<(), SendError> {
        let now = self.clock.now();
        let mut answer_deadline = self.answer_deadline;
        if answer_deadline.check(self.replica, now) { Ok(()) } else { Err(self.no_response_error(now)) }
    }

    /// Waits for the head of a response.
    ///
    /// *Errors*: the deadline has passed, or the replica has hung.
    pub(super) async fn wait_for_head<T>(&self, exchange: impl Future<Output = T>) -> Result<T, SendError> {
        let mut exchange = pin!(exchange);
        let mut answer_deadline = self.answer_deadline;
        loop {
            let next_check = self.capped(answer_deadline.deadline).min(self.clock.now() + HUNG_CHECK_INTERVAL);
            if let Ok(head) = timeout_at(self.clock.deadline(next_check), &mut exchange).await {
                return Ok(head);
            }
            let now = self.clock.now();
            if self.total_deadline.is_some_and(|total| now >= total) || !answer_deadline.check(self.replica, now) {
                return Err(self.no_response_error(now));
            }
            self.check_alive(ResponseKind::Plain, now)?;
        }
    }

    /// Waits for the next frame until `deadline`; the body keeps the frame for its reader.
    ///
    /// *Errors*: the response was interrupted, the time of the whole request is over, or the replica has hung.
    pub(super) async fn wait_for_frame(
        &self,
        body: &mut UpstreamBody,
        deadline: Moment,
        kind: ResponseKind,
    ) -> Result<FrameWait, SendError> {
        let end = self.capped(deadline);
        let mut next_check = end.min(self.clock.now() + HUNG_CHECK_INTERVAL);
        loop {
            match timeout_at(self.clock.deadline(next_check), body.buffer_frame()).await {
                Ok(Ok(true)) => return Ok(FrameWait::Frame),
                Ok(Ok(false)) => return Ok(FrameWait::End),
                Ok(Err(error)) => return Err(SendError::new(Phase::FirstByte, "response interrupted", &error)),
                Err(_) => {}
            }
            let now = self.clock.now();
            if self.total_deadline.is_some_and(|total| now >= total) {
                return Err(SendError::total_timeout());
            }
            if now >= deadline {
                return Ok(FrameWait::TimedOut);
            }
            self.check_alive(kind, now)?;
            next_check = end.min(now + HUNG_CHECK_INTERVAL);
        }
    }

    fn capped(&self, deadline: Moment) -> Moment {
        self.total_deadline.map_or(deadline, |total| total.min(deadline))
    }

    /// Checks that the replica can still be expected to send data.
    ///
    /// A live replica keeps sending events. A plain response is silent until it is complete, so it is abandoned only
    /// where another replica can give it.
    ///
    /// *Errors*: the replica has hung, or has been silent for too long.
    fn check_alive(&self, kind: ResponseKind, now: Moment) -> Result<(), SendError> {
        let port = self.replica.port_state();
        let is_hung = match kind {
            ResponseKind::EventStream => port.is_hung(now),
            ResponseKind::Plain => self.pool.spec().failure_policy.stall_timeout.is_some_and(|limit| {
                port.is_closed_and_silent_for(limit, now) && self.pool.has_eligible_other_than(self.replica, now)
            }),
        };
        if is_hung { Err(SendError::hung()) } else { Ok(()) }
    }
}
