//! How long the first byte of a response is awaited.
//!
//! A stream has a first event when its prompt has been computed. A plain answer has its first byte when it has been
//! generated as a whole, so the time says nothing about a replica that sends data on other requests.

use std::time::Duration;

use crate::fleet::{Lease, Replica};
use crate::routes::Timeouts;
use crate::units::Moment;

/// By how much the wait for a plain answer is extended at a time.
const EXTENSION: Duration = Duration::from_secs(2);

/// The deadline of a response's first byte. Copies are extended on their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerDeadline {
    pub(super) sent_at: Moment,
    /// The time to the first byte, prefill of the prompt included.
    pub(super) timeout: Duration,
    pub(super) deadline: Moment,
    /// A replica is alive that has sent data on another request within this time.
    alive_within: Duration,
    extension: Extension,
}

/// Until when the wait may be extended.
#[derive(Clone, Copy, Debug)]
enum Extension {
    /// Not at all: the response is a stream.
    Never,
    /// `plain_answer_max` after the request.
    UpTo(Duration),
    /// As long as the replica is alive.
    Unlimited,
}

impl AnswerDeadline {
    /// Returns the deadline of the response to the lease's request, which is sent at `now`.
    pub(super) fn new(lease: &Lease, timeouts: &Timeouts, wants_stream: bool, now: Moment) -> Self {
        let (timeout, extension) = match (wants_stream, timeouts.plain_answer_max) {
            (true, _) => (timeouts.first_byte, Extension::Never),
            (false, Duration::ZERO) => (timeouts.plain_answer.max(timeouts.first_byte), Extension::Unlimited),
            (false, max) => (timeouts.plain_answer.max(timeouts.first_byte).min(max), Extension::UpTo(max)),
        };
        // Prefill of a long prompt takes long: 1 s more for each 1,000 tokens.
        let timeout = timeout + Duration::from_millis(lease.prompt().0);
        Self { sent_at: now, timeout, deadline: now + timeout, alive_within: timeouts.idle, extension }
    }

    /// Moves the time of sending to `now`, when a connection has been made.
    pub(super) fn restart(&mut self, now: Moment) {
        (self.sent_at, self.deadline) = (now, now + self.timeout);
    }

    /// Records that the response has begun by `now`. From here on only pauses of a plain answer are bounded by it.
    pub(super) fn record_begun(&mut self, now: Moment) {
        self.deadline = now;
    }

    /// Returns whether there is still time at `now`. Extends the deadline of a plain answer while its replica is alive.
    pub(super) fn check(&mut self, replica: &Replica, now: Moment) -> bool {
        if now < self.deadline {
            return true;
        }
        let extended = match self.extension {
            Extension::Never => return false,
            Extension::UpTo(max) => (now + EXTENSION).min(self.sent_at + max),
            Extension::Unlimited => now + EXTENSION,
        };
        let is_extended = extended > now && self.is_alive(replica, now);
        if is_extended {
            self.deadline = extended;
        }
        is_extended
    }

    /// Returns whether the replica has sent data on another request since this one was sent, and lately.
    pub(super) fn is_alive(&self, replica: &Replica, now: Moment) -> bool {
        replica.is_active_within(now.since(self.sent_at).min(self.alive_within), now)
    }
}
