//! How long a response is awaited before any of it is relayed.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout_at;

use super::error::SendError;
use super::response::{ResponseKind, UpstreamBody};
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::fleet::{Lease, Phase, Pool, Replica};
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
    /// Time to the first byte, prefill of the prompt included.
    first_byte_timeout: Duration,
    pub(super) first_byte_deadline: Moment,
    /// Deadline of the whole request; `None` for no limit.
    pub(super) total_deadline: Option<Moment>,
}

impl<'a> ResponseTimer<'a> {
    /// Returns a timer that has to be started.
    pub(super) fn new(lease: &'a Lease, timeouts: &'a Timeouts, total_deadline: Option<Moment>, clock: Clock) -> Self {
        Self {
            clock,
            timeouts,
            pool: lease.pool(),
            replica: lease.replica(),
            // Prefill of a long prompt takes long: 1 s more for each 1,000 tokens.
            first_byte_timeout: timeouts.first_byte + Duration::from_millis(lease.prompt().0),
            first_byte_deadline: Moment::ZERO,
            total_deadline,
        }
    }

    /// Starts the time to the first byte at `now`.
    pub(super) fn start(&mut self, now: Moment) {
        self.first_byte_deadline = now + self.first_byte_timeout;
    }

    /// Returns the moment until which a first byte is held back.
    pub(super) fn hold_deadline(&self) -> Moment {
        self.first_byte_deadline.min(self.clock.now() + self.timeouts.first_event_hold)
    }

    /// Returns the error of a response that has not begun by its deadline.
    pub(super) fn timeout_error(&self) -> SendError {
        match self.total_deadline {
            Some(total) if total < self.first_byte_deadline => SendError::total_timeout(),
            _ => SendError::timeout(Phase::FirstByte, "no response", self.first_byte_timeout),
        }
    }

    /// Checks that the time to the first byte is not over.
    ///
    /// *Errors*: it is over.
    pub(super) fn check_time_left(&self) -> Result<(), SendError> {
        if self.clock.now() < self.first_byte_deadline { Ok(()) } else { Err(self.timeout_error()) }
    }

    /// Waits for the head of a response.
    ///
    /// *Errors*: the deadline has passed, or the replica has hung.
    pub(super) async fn wait_for_head<T>(&self, exchange: impl Future<Output = T>) -> Result<T, SendError> {
        let mut exchange = pin!(exchange);
        let deadline = self.capped(self.first_byte_deadline);
        loop {
            let next_check = deadline.min(self.clock.now() + HUNG_CHECK_INTERVAL);
            if let Ok(head) = timeout_at(self.clock.deadline(next_check), &mut exchange).await {
                return Ok(head);
            }
            let now = self.clock.now();
            if now >= deadline {
                return Err(self.timeout_error());
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
