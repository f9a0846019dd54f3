//! Passing an answer on as it comes, and following it for the lease.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::trim::Trim;
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
/// is closed. Observing never fails or changes a byte; only a usage event that we asked for ourselves is taken out, and
/// for its sake the beginning of an unfinished event is held until its end comes.
pub struct Relayed {
    body: AnswerBody,
    lease: Option<Lease>,
    observer: Observer,
    /// Takes out the usage event that the client did not ask for.
    trim: Option<Trim>,
    /// What broke the answer off, to be told after what came before it.
    broken: Option<String>,
    /// Something was handed on since the client's connection last had a turn to write.
    unflushed: bool,
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
        let Answer { head, meaning, body, usage_is_ours, .. } = answer;
        let kind = if is_stream(&head.headers) { Kind::Stream } else { Kind::Whole };
        let mut relayed = Self {
            observer: Observer::new(dialect, kind),
            trim: (usage_is_ours && kind == Kind::Stream).then(Trim::default),
            broken: None,
            unflushed: false,
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

    /// Tells whether bytes may be taken out, so that the length the replica gave is not the client's.
    pub const fn trims(&self) -> bool {
        self.trim.is_some()
    }

    /// Looks at what came. What may go on of it is the frame itself, or ready in `trim`.
    fn follow(&mut self, bytes: &Bytes) {
        self.last_frame = self.clock.now();
        self.has_begun = true;
        let seen = match &mut self.trim {
            Some(trim) => trim.push(bytes, &mut self.observer),
            None => self.observer.observe(bytes),
        };
        let content_events = if self.streams { seen.content_events } else { 0 };
        let progress = Progress { content_events, usage: self.observer.usage() };
        if let Some(lease) = &mut self.lease {
            lease.progress(progress, self.last_frame);
            self.ending.first_token = lease.first_token();
            if self.trim.as_ref().is_some_and(|trim| trim.leaked) {
                lease.replica().learn_usage(false);
            }
        }
    }

    fn finish(&mut self) {
        match &mut self.trim {
            Some(trim) => trim.finish(&mut self.observer),
            None => {
                self.observer.finish();
            }
        }
        let faulty = self.whole == Outcome::Completed && (self.observer.error() || self.observer.aborted());
        if faulty {
            self.ending.cause = Some("the replica ended its answer with an error".to_owned());
        }
        self.end(if faulty { Outcome::Failed { phase: Phase::Stream } } else { self.whole });
    }

    fn fail(&mut self, cause: String) {
        if let Some(trim) = &mut self.trim {
            trim.flush();
        }
        self.broken = Some(cause.clone());
        self.ending.cause = Some(cause);
        self.end(Outcome::Failed { phase: Phase::Stream });
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(mut lease) = self.lease.take() else { return };
        let now = self.clock.now();
        lease.counts(self.observer.usage(), now);
        self.ending.usage = lease.usage();
        self.ending.outcome = Some(outcome);
        self.ending.ended = Some(now);
        lease.settle(outcome, now);
    }

    /// The next frame that came and was not kept for trimming; `None` when there is nothing more to come.
    fn poll_replica(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        while self.lease.is_some() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.follow(bytes);
                    }
                    // A body of known length is not asked again after its last byte.
                    if self.body.is_end_stream() {
                        self.finish();
                    }
                    if self.trim.is_none() || !frame.is_data() {
                        return Poll::Ready(Some(frame));
                    }
                    if self.trim.as_ref().is_some_and(|trim| !trim.is_empty()) {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    let cause = error.source().map_or_else(|| error.to_string(), |s| format!("{error}: {s}"));
                    self.fail(cause);
                }
                Poll::Ready(None) => self.finish(),
                Poll::Pending => match self.poll_silence(cx) {
                    Poll::Ready(limit) => self.fail(format!("no byte for {limit:?}")),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
        Poll::Ready(None)
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
        let trimmed = |this: &mut Self| this.trim.as_mut().and_then(Trim::pop).map(Frame::data);
        let mut frame = trimmed(this);
        if frame.is_none() {
            frame = ready!(this.poll_replica(cx)).or_else(|| trimmed(this));
        }
        if let Some(frame) = frame {
            this.unflushed = true;
            return Poll::Ready(Some(Ok(frame)));
        }
        if this.broken.is_some() && std::mem::take(&mut this.unflushed) {
            // hyper throws away what it has not written yet when a body fails: it gets a turn to write first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(this.broken.take().map(|cause| Err(cause.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none() && self.broken.is_none() && self.trim.as_ref().is_none_or(Trim::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        if self.trim.is_some() { SizeHint::default() } else { self.body.size_hint() }
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
