//! Passing an answer on as it comes, and following it for the lease.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{Answer, AnswerBody};
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::fleet::{Lease, Outcome, Phase, Progress};
use crate::sse::{Kind, Observer};
use crate::units::{Dialect, Moment, Usage};

/// What an answer came to, for the log.
#[derive(Clone, Debug, Default)]
pub struct Ending {
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

/// An answer's body on its way to the client, byte for byte, frame by frame.
///
/// Settles its lease at the end; dropped before, the lease ends as left by the client and the replica's connection
/// is closed. Observing never fails, holds back or changes a byte.
pub struct Relayed {
    body: AnswerBody,
    lease: Option<Lease>,
    observer: Observer,
    /// What a whole answer with this status means.
    whole: Outcome,
    first_byte: Duration,
    between: Duration,
    clock: Clock,
    last_frame: Moment,
    has_begun: bool,
    /// Only a stream has a first token; a JSON document comes whole.
    streams: bool,
    /// Made when the replica first lets us wait.
    alarm: Option<Pin<Box<Sleep>>>,
    ending: Ending,
}

impl Relayed {
    /// Splits an answer into the replica's status and headers, and the body that settles `lease`.
    pub fn new(answer: Answer, lease: Lease, dialect: Dialect, timeouts: &Timeouts, clock: Clock) -> (Parts, Self) {
        let Answer { head, meaning, body, .. } = answer;
        let kind = if is_stream(&head.headers) { Kind::Stream } else { Kind::Whole };
        let mut relayed = Self {
            observer: Observer::new(dialect, kind),
            whole: meaning,
            first_byte: timeouts.first_byte,
            between: timeouts.idle,
            clock,
            last_frame: clock.now(),
            has_begun: false,
            streams: kind == Kind::Stream,
            alarm: None,
            ending: Ending::default(),
            lease: Some(lease),
            body,
        };
        if relayed.body.is_end_stream() {
            relayed.finish();
        }
        (head, relayed)
    }

    /// What the answer has come to so far.
    pub const fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The answer's own id, once it has been seen.
    pub fn id(&self) -> Option<&str> {
        self.observer.id()
    }

    fn follow(&mut self, bytes: &[u8]) {
        self.last_frame = self.clock.now();
        self.has_begun = true;
        let seen = self.observer.observe(bytes);
        let content_events = if self.streams { seen.content_events } else { 0 };
        let progress = Progress { content_events, usage: self.observer.usage() };
        if let Some(lease) = &mut self.lease {
            lease.progress(progress, self.last_frame);
            self.ending.first_token = lease.first_token();
        }
    }

    fn finish(&mut self) {
        self.observer.finish();
        let faulty = self.whole == Outcome::Completed && (self.observer.error() || self.observer.aborted());
        if faulty {
            self.ending.cause = Some("the replica ended its answer with an error".to_owned());
        }
        self.end(if faulty { Outcome::Failed { phase: Phase::Stream } } else { self.whole });
    }

    fn broken(&mut self, cause: String) -> Box<dyn Error + Send + Sync> {
        let error = cause.clone().into();
        self.ending.cause = Some(cause);
        self.end(Outcome::Failed { phase: Phase::Stream });
        error
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(mut lease) = self.lease.take() else { return };
        let now = self.clock.now();
        lease.progress(Progress { content_events: 0, usage: self.observer.usage() }, now);
        self.ending.usage = lease.usage();
        self.ending.outcome = Some(outcome);
        self.ending.ended = Some(now);
        lease.settle(outcome, now);
    }

    /// Tells whether the replica has been silent for too long. The alarm is moved only when it rings, not at each event.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let limit = if self.has_begun { self.between } else { self.first_byte };
        loop {
            let until = self.clock.deadline(self.last_frame + limit);
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.clock.now().since(self.last_frame) >= limit {
                return Poll::Ready(limit);
            }
            alarm.as_mut().reset(until);
        }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.lease.is_none() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    this.follow(bytes);
                }
                // A body of known length is not asked again after its last byte.
                if this.body.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let cause = error.source().map_or_else(|| error.to_string(), |s| format!("{error}: {s}"));
                Poll::Ready(Some(Err(this.broken(cause))))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_silence(cx) {
                Poll::Ready(limit) => Poll::Ready(Some(Err(this.broken(format!("no byte for {limit:?}"))))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Tells whether an answer is an event stream.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}

/// What an answer with this status means for the replica, if it comes whole.
pub(super) fn meaning(status: StatusCode, headers: &HeaderMap) -> Outcome {
    match status.as_u16() {
        429 | 503 => Outcome::Busy { retry_after: retry_after(headers) },
        500 | 502 | 504 => Outcome::Failed { phase: Phase::FirstByte },
        // 501 and the like are about what was asked for, as 4xx are.
        400.. => Outcome::Refused,
        _ => Outcome::Completed,
    }
}

/// `Retry-After` in seconds; dates are not read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_blamed_on_whom_they_concern() {
        let meaning = |status: u16| meaning(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
        assert_eq!(meaning(200), Outcome::Completed);
        assert_eq!(meaning(404), Outcome::Refused);
        assert_eq!(meaning(429), Outcome::Busy { retry_after: None });
        assert_eq!(meaning(503), Outcome::Busy { retry_after: None });
        assert_eq!(meaning(501), Outcome::Refused);
        assert_eq!(meaning(500), Outcome::Failed { phase: Phase::FirstByte });
    }
}
