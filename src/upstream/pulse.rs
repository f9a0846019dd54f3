//! How long an answer may be silent, and what happens while it is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::Answer;
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::fleet::Replica;
use crate::units::Moment;

/// How often a silent stream is looked after.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// Watches the time while an answer is passed on.
///
/// *Cost*: the alarm is moved when it rings, of a stream every [`LOOK`], and not at each event.
pub(super) struct Pulse {
    clock: Clock,
    idle: Duration,
    waiting: Duration,
    first_by: Moment,
    until: Option<Moment>,
    /// When the client is told again that it has to wait; `None` for never.
    comment: Option<Moment>,
    /// The last sign of life.
    last: Moment,
    /// When the alarm last rang.
    rang: Moment,
    /// Since when the client has not asked for more; the replica is not silent then, it is not listened to.
    resting: Option<Moment>,
    has_begun: bool,
    /// It is a stream of events, of which a replica that lives sends some.
    streams: bool,
    /// Made when the replica first lets us wait.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// What is to be done about an answer that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rung {
    /// The client is told to wait.
    Comment,
    /// Nothing has come for so long.
    Silent(Duration),
    /// Nothing has come yet, and its time is over.
    Late,
    /// The request has taken longer than it may.
    Over,
    /// The replica will not send anything any more.
    Hung,
}

impl Pulse {
    /// For an answer of which nothing has been passed on.
    pub(super) fn new(answer: &Answer, streams: bool, timeouts: &Timeouts, clock: Clock) -> Self {
        let now = clock.now();
        let comments = answer.waits && !timeouts.waiting.is_zero();
        Self {
            clock,
            idle: timeouts.idle,
            waiting: timeouts.waiting,
            first_by: answer.first_by,
            until: answer.until,
            comment: comments.then(|| now + timeouts.waiting),
            last: now,
            rang: now,
            resting: None,
            has_begun: false,
            streams,
            alarm: None,
        }
    }

    /// Takes note of a sign of life.
    pub(super) fn beats(&mut self, now: Moment) {
        self.last = now;
        if !self.has_begun {
            (self.has_begun, self.comment, self.alarm) = (true, None, None);
        }
    }

    /// The client was given something.
    pub(super) fn rests(&mut self) {
        self.resting = Some(self.clock.now());
    }

    /// The client asks for more: the time since does not count as the replica's.
    pub(super) fn resumes(&mut self) {
        if let Some(since) = self.resting.take() {
            self.last = self.last + self.clock.now().since(since);
        }
    }

    /// The client has the beginning of an event: no comment can come between.
    pub(super) const fn hush(&mut self) {
        self.comment = None;
    }

    /// Tells when something must be done about the replica's silence. To be asked whenever there is nothing to pass on.
    pub(super) fn poll(&mut self, replica: &Replica, cx: &mut Context<'_>) -> Poll<Rung> {
        loop {
            let (next, clock) = (self.next(), self.clock);
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(clock.deadline(next))));
            ready!(alarm.as_mut().poll(cx));
            let now = self.clock.now();
            self.rang = now;
            self.alarm = None;
            if let Some(rung) = self.due(replica, now) {
                return Poll::Ready(rung);
            }
        }
    }

    /// Tells whether the request has taken longer than it may.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    fn next(&self) -> Moment {
        let limit = if self.has_begun { self.last + self.idle } else { self.first_by };
        let look = if self.streams { self.rang.max(self.last) + LOOK } else { limit };
        [self.until, self.comment].into_iter().flatten().fold(limit.min(look), Moment::min)
    }

    fn due(&mut self, replica: &Replica, now: Moment) -> Option<Rung> {
        if self.is_over(now) {
            return Some(Rung::Over);
        }
        if self.has_begun && now.since(self.last) >= self.idle {
            return Some(Rung::Silent(self.idle));
        }
        if !self.has_begun && now >= self.first_by {
            return Some(Rung::Late);
        }
        if self.streams && replica.door().has_hung(now) {
            return Some(Rung::Hung);
        }
        let comment = self.comment.as_mut().filter(|comment| now >= **comment)?;
        *comment = now + self.waiting;
        Some(Rung::Comment)
    }
}
