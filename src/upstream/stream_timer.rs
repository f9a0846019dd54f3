//! How long an answer may be silent, and what happens while it is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::UpstreamResponse;
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::fleet::Replica;
use crate::units::Moment;

/// How often a silent stream is looked after.
pub(super) const HUNG_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Watches the time while an answer is passed on.
///
/// *Cost*: the alarm is moved when it rings, of a stream every [`HUNG_CHECK_INTERVAL`], and not at each event.
pub(super) struct StreamTimer {
    clock: Clock,
    idle_timeout: Duration,
    comment_interval: Duration,
    first_byte_deadline: Moment,
    total_deadline: Option<Moment>,
    /// When the client is told again that it has to wait; `None` for never.
    next_comment: Option<Moment>,
    /// The last sign of life.
    last_activity: Moment,
    /// When the alarm last rang.
    last_fired: Moment,
    /// Since when the client has not asked for more; the replica is not silent then, it is not listened to.
    client_busy_since: Option<Moment>,
    has_begun: bool,
    /// It is a stream of events, of which a replica that lives sends some.
    is_event_stream: bool,
    /// Made when the replica first lets us wait.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// What is to be done about an answer that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerEvent {
    /// The client is told to wait.
    CommentDue,
    /// Nothing has come for so long.
    IdleTimeout(Duration),
    /// Nothing has come yet, and its time is over.
    FirstByteTimeout,
    /// The request has taken longer than it may.
    TotalTimeout,
    /// The replica will not send anything any more.
    Hung,
}

impl StreamTimer {
    /// For an answer of which nothing has been passed on.
    pub(super) fn new(answer: &UpstreamResponse, streams: bool, timeouts: &Timeouts, clock: Clock) -> Self {
        let now = clock.now();
        let comments = answer.no_event_yet && !timeouts.waiting_comment.is_zero();
        Self {
            clock,
            idle_timeout: timeouts.idle,
            comment_interval: timeouts.waiting_comment,
            first_byte_deadline: answer.first_byte_deadline,
            total_deadline: answer.total_deadline,
            next_comment: comments.then(|| now + timeouts.waiting_comment),
            last_activity: now,
            last_fired: now,
            client_busy_since: None,
            has_begun: false,
            is_event_stream: streams,
            sleep: None,
        }
    }

    /// Takes note of a sign of life.
    pub(super) fn record_activity(&mut self, now: Moment) {
        self.last_activity = now;
        if !self.has_begun {
            (self.has_begun, self.next_comment, self.sleep) = (true, None, None);
        }
    }

    /// The client was given something.
    pub(super) fn on_client_busy(&mut self) {
        self.client_busy_since = Some(self.clock.now());
    }

    /// The client asks for more: the time since does not count as the replica's.
    pub(super) fn on_client_ready(&mut self) {
        if let Some(since) = self.client_busy_since.take() {
            self.last_activity = self.last_activity + self.clock.now().since(since);
        }
    }

    /// The client has the beginning of an event: no comment can come between.
    pub(super) const fn stop_comments(&mut self) {
        self.next_comment = None;
    }

    /// Tells when something must be done about the replica's silence. To be asked whenever there is nothing to pass on.
    pub(super) fn poll_event(&mut self, replica: &Replica, cx: &mut Context<'_>) -> Poll<TimerEvent> {
        loop {
            let (next, clock) = (self.next_wakeup(), self.clock);
            let alarm = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(clock.deadline(next))));
            ready!(alarm.as_mut().poll(cx));
            let now = self.clock.now();
            self.last_fired = now;
            self.sleep = None;
            if let Some(rung) = self.due_event(replica, now) {
                return Poll::Ready(rung);
            }
        }
    }

    /// Tells whether the request has taken longer than it may.
    pub(super) fn is_past_deadline(&self, now: Moment) -> bool {
        self.total_deadline.is_some_and(|until| now >= until)
    }

    fn next_wakeup(&self) -> Moment {
        let limit = if self.has_begun { self.last_activity + self.idle_timeout } else { self.first_byte_deadline };
        let look =
            if self.is_event_stream { self.last_fired.max(self.last_activity) + HUNG_CHECK_INTERVAL } else { limit };
        [self.total_deadline, self.next_comment].into_iter().flatten().fold(limit.min(look), Moment::min)
    }

    fn due_event(&mut self, replica: &Replica, now: Moment) -> Option<TimerEvent> {
        if self.is_past_deadline(now) {
            return Some(TimerEvent::TotalTimeout);
        }
        if self.has_begun && now.since(self.last_activity) >= self.idle_timeout {
            return Some(TimerEvent::IdleTimeout(self.idle_timeout));
        }
        if !self.has_begun && now >= self.first_byte_deadline {
            return Some(TimerEvent::FirstByteTimeout);
        }
        if self.is_event_stream && replica.port_state().is_hung(now) {
            return Some(TimerEvent::Hung);
        }
        let comment = self.next_comment.as_mut().filter(|comment| now >= **comment)?;
        *comment = now + self.comment_interval;
        Some(TimerEvent::CommentDue)
    }
}
