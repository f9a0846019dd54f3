//! The timeouts of a response that is being relayed: idle timeout between events, total timeout, comments in pauses.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::content::RelayedContent;
use super::error::RelayError;
use crate::clock::Clock;
use crate::fleet::Replica;
use crate::routes::Timeouts;
use crate::units::Moment;
use crate::upstream::answer_deadline::AnswerDeadline;
use crate::upstream::response::{ResponseKind, UpstreamResponse};
use crate::upstream::response_timer::HUNG_CHECK_INTERVAL;

/// Measures how long the replica sends nothing.
///
/// *Cost*: the sleep is renewed when it ends, for a stream every [`HUNG_CHECK_INTERVAL`], and not at each event.
pub(super) struct StreamTimer {
    clock: Clock,
    idle_timeout: Duration,
    /// The longest time without a byte for the client of a stream; `None` if no comments are sent.
    comment_interval: Option<Duration>,
    answer_deadline: AnswerDeadline,
    total_deadline: Option<Moment>,
    /// When the replica last sent data.
    last_activity: Moment,
    /// When the client was last given bytes.
    last_sent: Moment,
    /// When `sleep` last ended.
    last_fired: Moment,
    /// Since when the client has not polled; the replica is not read then. `None` while it polls.
    client_busy_since: Option<Moment>,
    has_begun: bool,
    kind: ResponseKind,
    /// Sleep until the next deadline; `None` until the replica first sends nothing.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// What is due while the replica sends nothing.
#[derive(Debug)]
pub(super) enum TimerEvent {
    /// A comment, so that nothing in front of the router takes the client's stream for dead.
    CommentDue,
    /// The end of the response.
    Expired(RelayError),
}

impl StreamTimer {
    /// Returns the timer of a response of which nothing has been relayed.
    pub(super) fn new(
        response: &UpstreamResponse,
        content: &RelayedContent,
        timeouts: &Timeouts,
        clock: Clock,
    ) -> Self {
        let now = clock.now();
        let sends_comments = content.takes_comments() && !timeouts.waiting_comment.is_zero();
        Self {
            clock,
            idle_timeout: timeouts.idle,
            comment_interval: sends_comments.then_some(timeouts.waiting_comment),
            answer_deadline: response.answer_deadline,
            total_deadline: response.total_deadline,
            last_activity: now,
            last_sent: now,
            last_fired: now,
            client_busy_since: None,
            has_begun: false,
            kind: content.kind(),
            sleep: None,
        }
    }

    /// Records that the replica sent data at `now`.
    pub(super) fn record_activity(&mut self, now: Moment) {
        self.last_activity = now;
        if !self.has_begun {
            self.has_begun = true;
            self.answer_deadline.record_begun(now);
            self.sleep = None;
        }
    }

    /// Records that bytes were returned to the client.
    pub(super) fn on_client_busy(&mut self) {
        let now = self.clock.now();
        self.client_busy_since = Some(now);
        self.last_sent = now;
    }

    /// Records that the client polls. The time since it was given bytes does not count as the replica's.
    pub(super) fn on_client_ready(&mut self) {
        if let Some(since) = self.client_busy_since.take() {
            self.last_activity = self.last_activity + self.clock.now().since(since);
        }
    }

    /// Waits for the next timer event. Poll it whenever there is nothing to relay. `between_events` says whether the
    /// client has received whole events only, so that a comment may follow.
    pub(super) fn poll_event(
        &mut self,
        replica: &Replica,
        between_events: bool,
        cx: &mut Context<'_>,
    ) -> Poll<TimerEvent> {
        loop {
            let clock = self.clock;
            let wakeup = self.next_wakeup();
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(clock.deadline(wakeup))));
            ready!(sleep.as_mut().poll(cx));
            let now = self.clock.now();
            self.last_fired = now;
            self.sleep = None;
            if let Some(event) = self.due_event(replica, between_events, now) {
                return Poll::Ready(event);
            }
        }
    }

    /// Returns whether the total deadline has passed.
    pub(super) fn is_past_deadline(&self, now: Moment) -> bool {
        self.total_deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Returns the deadline of the next data, as extended so far.
    fn response_deadline(&self) -> Moment {
        match self.has_begun {
            true => self.answer_deadline.deadline.max(self.last_activity + self.idle_timeout),
            false => self.answer_deadline.deadline,
        }
    }

    fn timeout_error(&self, replica: &Replica, now: Moment) -> RelayError {
        match (self.has_begun, self.answer_deadline.is_alive(replica, now)) {
            (true, _) => RelayError::IdleTimeout(self.idle_timeout),
            (false, true) => RelayError::Slow,
            (false, false) => RelayError::FirstByteTimeout,
        }
    }

    fn next_wakeup(&self) -> Moment {
        let limit = self.response_deadline();
        let first = match self.kind {
            ResponseKind::EventStream => limit.min(self.last_fired.max(self.last_activity) + HUNG_CHECK_INTERVAL),
            ResponseKind::Plain => limit,
        };
        [self.total_deadline, self.next_comment()].into_iter().flatten().fold(first, Moment::min)
    }

    /// Returns when the next comment is due, or is tried again because the client had a part of an event; `None` for
    /// never.
    fn next_comment(&self) -> Option<Moment> {
        let interval = self.comment_interval?;
        let due = self.last_sent + interval;
        Some(if due > self.last_fired { due } else { self.last_fired + interval.min(HUNG_CHECK_INTERVAL) })
    }

    fn is_comment_due(&self, now: Moment) -> bool {
        self.comment_interval.is_some_and(|interval| now.since(self.last_sent) >= interval)
    }

    fn due_event(&mut self, replica: &Replica, between_events: bool, now: Moment) -> Option<TimerEvent> {
        if self.is_past_deadline(now) {
            return Some(TimerEvent::Expired(RelayError::TotalTimeout));
        }
        if now >= self.response_deadline() && !self.answer_deadline.check(replica, now) {
            return Some(TimerEvent::Expired(self.timeout_error(replica, now)));
        }
        if self.kind == ResponseKind::EventStream && replica.port_state().is_hung(now) {
            return Some(TimerEvent::Expired(RelayError::Hung));
        }
        (between_events && self.is_comment_due(now)).then_some(TimerEvent::CommentDue)
    }
}
