//! Passing an answer on as it comes, and following it for the lease.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};

use super::failure;
use super::hold::{Fault, HUNG, is_readable_stream};
use super::pulse::{Pulse, Rung};
use super::sieve::Sieve;
use super::{Answer, AnswerBody};
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::fleet::{Lease, Outcome, Phase, Progress};
use crate::sse::{Kind, Observer, Seen, WAITING, error_event};
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

/// An answer's body on its way to the client, byte for byte.
///
/// Settles its lease at the end; dropped before, the lease ends as left by the client, unless the answer has reported an
/// error already, and the replica's connection is closed. Of a stream whole events go on, so that one that breaks off
/// can be ended by an error event; what is taken out of it is the business of the sieve.
pub struct Relayed {
    body: AnswerBody,
    lease: Option<Lease>,
    dialect: Dialect,
    observer: Observer,
    /// Frames that the observer has seen already.
    seen_before: usize,
    /// What may go on of a stream whose events are known.
    sieve: Option<Sieve>,
    /// What broke the answer off, to be told after what came before it.
    broken: Option<String>,
    /// Something was handed on since the client's connection last had a turn to write.
    unflushed: bool,
    /// What the answer means if it comes whole.
    whole: Outcome,
    pulse: Pulse,
    clock: Clock,
    /// Only a stream has a first token; a JSON document comes whole.
    streams: bool,
    ending: Ending,
}

impl Relayed {
    /// Splits an answer into the replica's status and headers, and the body that settles `lease`.
    pub fn new(mut answer: Answer, lease: Lease, dialect: Dialect, timeouts: &Timeouts, clock: Clock) -> (Parts, Self) {
        let kind = if is_stream(&answer.head.headers) { Kind::Stream } else { Kind::Whole };
        let sifted = answer.head.status.is_success() && is_readable_stream(&answer.head.headers, dialect);
        // An answer that was known to be at fault and is passed on for want of a better one stays as it is.
        let sieve = sifted.then(|| Sieve::new(answer.usage_is_ours, answer.fault.is_none()));
        let pulse = Pulse::new(&answer, sifted, timeouts, clock);
        let seen_before = if answer.observer.is_some() { answer.body.early_frames() } else { 0 };
        let mut relayed = Self {
            dialect,
            observer: answer.observer.take().unwrap_or_else(|| Observer::new(dialect, kind)),
            seen_before,
            sieve,
            broken: None,
            unflushed: false,
            whole: answer.meaning,
            pulse,
            clock,
            streams: kind == Kind::Stream,
            ending: Ending { cause: answer.fault.map(|fault| fault.to_string()), ..Ending::default() },
            lease: Some(lease),
            body: answer.body,
        };
        if relayed.body.is_end_stream() {
            relayed.finish();
        }
        (answer.head, relayed)
    }

    /// What the answer has come to so far.
    pub const fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The answer's own id, once it has been seen.
    pub fn id(&self) -> Option<&str> {
        self.observer.id()
    }

    /// Tells whether bytes may be taken out or added, so that the length the replica gave is not the client's.
    pub const fn edits(&self) -> bool {
        self.sieve.is_some()
    }

    /// Looks at what came. What may go on of it is the frame itself, or ready in the sieve.
    fn follow(&mut self, bytes: &Bytes) {
        let now = self.clock.now();
        let seen = match &mut self.sieve {
            Some(sieve) => sieve.push(bytes, &mut self.observer),
            None if self.seen_before > 0 => {
                self.seen_before -= 1;
                Seen::default()
            }
            None => self.observer.observe(bytes),
        };
        match &self.sieve {
            Some(sieve) if seen.events == 0 && sieve.is_empty() => {}
            Some(_) if seen.events == 0 => self.pulse.hush(),
            _ => self.pulse.beats(now),
        }
        let content_events = if self.streams { seen.content_events } else { 0 };
        let progress = Progress { content_events, usage: self.observer.usage() };
        if let Some(lease) = &mut self.lease {
            lease.progress(progress, now);
            lease.replica().door().stirs(now);
            self.ending.first_token = lease.first_token();
            if self.sieve.as_ref().is_some_and(|sieve| sieve.leaked) {
                lease.replica().learn_usage(false);
            }
        }
        if self.sieve.as_ref().is_some_and(|sieve| sieve.aborted) {
            self.fail(Outcome::Failed { phase: Phase::Stream }, Fault::Aborted.to_string(), "gave the answer up");
        } else if self.pulse.is_over(now) && !self.body.is_end_stream() {
            self.give_up(Rung::Over);
        }
    }

    /// The answer has come to its end.
    fn finish(&mut self) {
        match &mut self.sieve {
            Some(sieve) => sieve.finish(&mut self.observer),
            None => {
                self.observer.finish();
            }
        }
        if self.sieve.as_ref().is_some_and(|sieve| sieve.aborted) {
            return self.fail(
                Outcome::Failed { phase: Phase::Stream },
                Fault::Aborted.to_string(),
                "gave the answer up",
            );
        }
        let outcome = self.shown().unwrap_or(self.whole);
        self.end(outcome);
    }

    /// What the answer has said of itself that its status did not.
    fn shown(&mut self) -> Option<Outcome> {
        if self.whole != Outcome::Completed {
            return None;
        }
        if self.observer.error() || self.observer.aborted() {
            self.ending.cause = Some("the replica ended its answer with an error".to_owned());
            return Some(Outcome::Failed { phase: Phase::Stream });
        }
        self.observer.refused().then_some(Outcome::Refused)
    }

    /// The answer cannot be brought to its end: the client is told, in its endpoint's words where they are known.
    fn fail(&mut self, outcome: Outcome, cause: String, told: &str) {
        // Who has been told of an error, or has the whole answer, needs no other ending.
        let is_told = self.observer.error() || self.observer.refused() || self.observer.done();
        if let Some(sieve) = &mut self.sieve {
            // Of what came behind an abort the client has nothing.
            let is_told = is_told && !sieve.aborted;
            let ending = error_event(self.dialect, &format!("the replica {told}"), sieve.events());
            match ending.filter(|_| !is_told) {
                Some(ending) => sieve.end_with(ending),
                None => sieve.flush(),
            }
        }
        self.body.close();
        self.broken = Some(cause.clone());
        self.ending.cause = Some(cause);
        self.end(outcome);
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

    /// The next frame that came and was not kept in the sieve; `None` when there is nothing more to come.
    fn poll_replica(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        while let Some(lease) = &self.lease {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.follow(bytes);
                    }
                    // A body of known length is not asked again after its last byte.
                    if self.lease.is_some() && self.body.is_end_stream() {
                        self.finish();
                    }
                    if self.sieve.is_none() || !frame.is_data() {
                        return Poll::Ready(Some(frame));
                    }
                    if self.sieve.as_ref().is_some_and(|sieve| !sieve.is_empty()) {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    let failed = Outcome::Failed { phase: Phase::Stream };
                    self.fail(failed, failure::told(&error), "broke the answer off");
                }
                Poll::Ready(None) => self.finish(),
                Poll::Pending => match ready!(self.pulse.poll(lease.replica(), cx)) {
                    Rung::Comment => return Poll::Ready(Some(Frame::data(Bytes::from_static(WAITING.as_bytes())))),
                    rung => self.give_up(rung),
                },
            }
        }
        Poll::Ready(None)
    }

    /// Ends an answer that nothing comes of any more.
    fn give_up(&mut self, rung: Rung) {
        let failed = Outcome::Failed { phase: Phase::Stream };
        match rung {
            Rung::Silent(limit) => self.fail(failed, format!("nothing for {limit:?}"), "fell silent"),
            Rung::Late => {
                self.fail(failed, "nothing within the time to the first byte".to_owned(), "did not begin in time");
            }
            Rung::Hung => self.fail(failed, HUNG.to_owned(), "fell silent"),
            Rung::Over => {
                self.fail(Outcome::Ours, "it took longer than `timeouts.total`".to_owned(), "took longer than it may");
            }
            Rung::Comment => {}
        }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.pulse.resumes();
        let sifted = |this: &mut Self| this.sieve.as_mut().and_then(Sieve::pop).map(Frame::data);
        let mut frame = sifted(this);
        if frame.is_none() {
            frame = ready!(this.poll_replica(cx)).or_else(|| sifted(this));
        }
        if let Some(frame) = frame {
            this.unflushed = true;
            this.pulse.rests();
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
        self.lease.is_none() && self.broken.is_none() && self.sieve.as_ref().is_none_or(Sieve::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        if self.sieve.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // Clients leave when they have read of an error; it is the replica's all the same.
        if self.lease.is_some()
            && let Some(outcome) = self.shown()
        {
            self.end(outcome);
        }
    }
}

/// Tells whether an answer is an event stream.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}
