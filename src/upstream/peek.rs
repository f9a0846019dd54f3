//! Holding an answer back until it has shown whether it is worth passing on: as long as the client has nothing of it,
//! another replica can be asked.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use http::response::Parts;
use http::{HeaderMap, header};
use tokio::time::timeout_at;

use super::ResponseExpectations;
use super::error::SendError;
use super::response::UpstreamBody;
use super::stream_timer::HUNG_CHECK_INTERVAL;
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::dialect::Dialect;
use crate::fleet::{Phase, Pool, Replica};
use crate::http::{content_length, is_event_stream, is_json};
use crate::sse::{BodyFormat, BodyObserver, EventInfo};
use crate::units::Moment;

/// A JSON answer up to this size is held until it is complete.
const MAX_PEEKED_JSON_BYTES: u64 = 1 << 20;
/// The most of a stream that is held for its first event.
const MAX_PEEKED_STREAM_BYTES: u64 = 64 << 10;

/// Why a stream is given up that might stay open for ever.
pub(super) const HUNG_CAUSE: &str = "its port refuses connections and nothing comes from it";

/// How an answer that began as a success shows that it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFault {
    /// It reports an error, in the first event of a stream or in a JSON document.
    Error,
    /// The replica gave it up: `finish_reason` "abort".
    Aborted,
    /// A stream that ended before its first event.
    Empty,
}

/// What an answer has shown before any of it is passed on.
#[derive(Default)]
pub(super) struct PeekResult {
    pub(super) fault: Option<ResponseFault>,
    /// Has seen all that was held of a JSON document.
    pub(super) observer: Option<BodyObserver>,
    /// A stream that has been given its time and has no event yet.
    pub(super) no_event_yet: bool,
}

/// How much of an answer is awaited.
enum PeekUntil {
    FirstEvent,
    End,
    FirstByte,
}

/// What waiting for a frame came to.
enum FrameWait {
    /// There is one more.
    Frame,
    /// There are no more.
    End,
    /// It was waited for long enough.
    TimedOut,
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "the replica answered 200 and an error",
            Self::Aborted => "the replica gave its answer up",
            Self::Empty => "the replica's stream ended before its first event",
        })
    }
}

/// Reads as much of an answer as must not reach the client yet; the body keeps it for its reader.
///
/// *Errors*: the answer broke off, or took too long. Nothing of it is lost to the client, who has none of it.
pub(super) async fn peek_response(
    body: &mut UpstreamBody,
    head: &Parts,
    errand: &ResponseExpectations,
    patience: &ResponseTimer<'_>,
) -> Result<PeekResult, SendError> {
    match peek_until(head, errand) {
        PeekUntil::FirstEvent => peek_first_event(body, errand.dialect, patience).await,
        PeekUntil::End => peek_json(body, errand.dialect, patience).await,
        PeekUntil::FirstByte => peek_first_byte(body, patience).await,
    }
}

fn peek_until(head: &Parts, errand: &ResponseExpectations) -> PeekUntil {
    if head.status.is_success() && is_readable_stream(&head.headers, errand.dialect) {
        return PeekUntil::FirstEvent;
    }
    let small = || content_length(&head.headers).is_none_or(|length| length <= MAX_PEEKED_JSON_BYTES);
    let held = errand.buffer_json && head.status.is_success() && is_json(&head.headers) && small();
    if held { PeekUntil::End } else { PeekUntil::FirstByte }
}

/// Tells whether an answer is a stream whose events are known and can be read as they pass.
pub(super) fn is_readable_stream(headers: &HeaderMap, dialect: Dialect) -> bool {
    dialect.has_known_events() && is_event_stream(headers) && !headers.contains_key(header::CONTENT_ENCODING)
}

async fn peek_first_event(
    body: &mut UpstreamBody,
    dialect: Dialect,
    patience: &ResponseTimer<'_>,
) -> Result<PeekResult, SendError> {
    let latest = patience.hold_deadline();
    let mut observer = BodyObserver::new(dialect, BodyFormat::Stream);
    let mut first: Option<EventInfo> = None;
    while first.is_none() && body.buffered_bytes() <= MAX_PEEKED_STREAM_BYTES {
        let note = |event: EventInfo| {
            if event.is_event && first.is_none() {
                first = Some(event);
            }
        };
        match patience.wait_for_frame(body, latest, true).await? {
            FrameWait::Frame => observer.observe_events(body.last_buffered(), note),
            FrameWait::End => {
                observer.finish_events(note);
                let fault = first.as_ref().map_or(Some(ResponseFault::Empty), event_fault);
                return Ok(PeekResult { fault, ..PeekResult::default() });
            }
            FrameWait::TimedOut => {
                patience.check_time_left()?;
                return Ok(PeekResult { no_event_yet: true, ..PeekResult::default() });
            }
        };
    }
    Ok(PeekResult { fault: first.as_ref().and_then(event_fault), ..PeekResult::default() })
}

/// What the first event of a stream shows. An error that is about the request is the client's.
fn event_fault(first: &EventInfo) -> Option<ResponseFault> {
    match first {
        EventInfo { is_error: true, is_client_error: false, .. } => Some(ResponseFault::Error),
        EventInfo { aborted: true, .. } => Some(ResponseFault::Aborted),
        _ => None,
    }
}

async fn peek_json(
    body: &mut UpstreamBody,
    dialect: Dialect,
    patience: &ResponseTimer<'_>,
) -> Result<PeekResult, SendError> {
    let mut observer = BodyObserver::new(dialect, BodyFormat::Json);
    let mut latest = patience.first_byte_deadline;
    let mut begun = false;
    let mut ended = false;
    while !ended && body.buffered_bytes() <= MAX_PEEKED_JSON_BYTES {
        match patience.wait_for_frame(body, latest, false).await? {
            FrameWait::Frame => {
                observer.observe(body.last_buffered());
                begun = true;
                ended = body.has_ended();
                // Asked for only if there is more to wait for.
                latest = if ended { latest } else { patience.clock.now() + patience.timeouts.idle };
            }
            FrameWait::End => ended = true,
            FrameWait::TimedOut if begun => {
                return Err(SendError::timeout(Phase::FirstByte, "the answer fell silent", patience.timeouts.idle));
            }
            FrameWait::TimedOut => return Err(patience.timeout_error()),
        }
    }
    let fault = match (observer.is_aborted(), observer.has_error()) {
        (true, _) => Some(ResponseFault::Aborted),
        (_, true) => Some(ResponseFault::Error),
        _ => None,
    };
    Ok(PeekResult { fault: fault.filter(|_| ended), observer: Some(observer), no_event_yet: false })
}

async fn peek_first_byte(body: &mut UpstreamBody, patience: &ResponseTimer<'_>) -> Result<PeekResult, SendError> {
    if let FrameWait::TimedOut = patience.wait_for_frame(body, patience.hold_deadline(), false).await? {
        patience.check_time_left()?;
    }
    Ok(PeekResult::default())
}

/// How long one replica is waited for.
pub(super) struct ResponseTimer<'a> {
    pub(super) clock: Clock,
    pub(super) timeouts: &'a Timeouts,
    pub(super) pool: &'a Pool,
    pub(super) replica: &'a Replica,
    /// The time to the first byte, the prompt's part in it included, and when it is over.
    pub(super) first_byte_timeout: Duration,
    pub(super) first_byte_deadline: Moment,
    /// When the whole request must be over.
    pub(super) total_deadline: Option<Moment>,
}

impl ResponseTimer<'_> {
    /// The moment until which the first byte, and the request, are waited for.
    pub(super) fn head_deadline(&self) -> Moment {
        self.total_deadline.map_or(self.first_byte_deadline, |until| until.min(self.first_byte_deadline))
    }

    /// Why no head has come by then.
    pub(super) fn timeout_error(&self) -> SendError {
        match self.total_deadline {
            Some(until) if until < self.first_byte_deadline => SendError::total_timeout(),
            _ => SendError::timeout(Phase::FirstByte, "no answer", self.first_byte_timeout),
        }
    }

    /// Waits for an answer's head.
    pub(super) async fn wait_for_head<T>(&self, exchange: impl Future<Output = T>) -> Result<T, SendError> {
        let (mut exchange, latest) = (pin!(exchange), self.head_deadline());
        loop {
            let look = latest.min(self.clock.now() + HUNG_CHECK_INTERVAL);
            if let Ok(head) = timeout_at(self.clock.deadline(look), &mut exchange).await {
                return Ok(head);
            }
            let now = self.clock.now();
            if now >= latest {
                return Err(self.timeout_error());
            }
            self.check_alive(false, now)?;
        }
    }

    /// Tells whether something is to be expected of the replica. By a stream something would come; a plain answer is
    /// silent until it is done, and is given up only where another replica can give it.
    fn check_alive(&self, streams: bool, now: Moment) -> Result<(), SendError> {
        let door = self.replica.port_state();
        let left =
            |limit| door.is_closed_and_silent_for(limit, now) && self.pool.has_eligible_other_than(self.replica, now);
        let hangs =
            if streams { door.is_hung(now) } else { self.pool.spec().failure_policy.stall_timeout.is_some_and(left) };
        if hangs { Err(SendError::with_cause(Phase::FirstByte, "no answer", HUNG_CAUSE.to_owned())) } else { Ok(()) }
    }

    fn hold_deadline(&self) -> Moment {
        self.first_byte_deadline.min(self.clock.now() + self.timeouts.first_event_hold)
    }

    /// Tells whether there is time left for the first byte.
    fn check_time_left(&self) -> Result<(), SendError> {
        if self.clock.now() < self.first_byte_deadline { Ok(()) } else { Err(self.timeout_error()) }
    }

    /// Waits for the next frame, and leaves it to the body.
    async fn wait_for_frame(
        &self,
        body: &mut UpstreamBody,
        latest: Moment,
        streams: bool,
    ) -> Result<FrameWait, SendError> {
        let end = self.total_deadline.map_or(latest, |until| until.min(latest));
        let mut look = end.min(self.clock.now() + HUNG_CHECK_INTERVAL);
        loop {
            match timeout_at(self.clock.deadline(look), body.buffer_frame()).await {
                Ok(Ok(true)) => return Ok(FrameWait::Frame),
                Ok(Ok(false)) => return Ok(FrameWait::End),
                Ok(Err(error)) => {
                    return Err(SendError::new(
                        Phase::FirstByte,
                        "the answer broke off before it could be used",
                        &error,
                    ));
                }
                Err(_) => {}
            }
            let now = self.clock.now();
            if self.total_deadline.is_some_and(|until| now >= until) {
                return Err(SendError::total_timeout());
            }
            if now >= latest {
                return Ok(FrameWait::TimedOut);
            }
            self.check_alive(streams, now)?;
            look = end.min(now + HUNG_CHECK_INTERVAL);
        }
    }
}
