//! Reads the beginning of a response before any of it is relayed. Until then another replica can be tried.

use http::StatusCode;
use http::response::Parts;

use super::classify;
use super::error::SendError;
use super::request::ResponseExpectations;
use super::response::{ResponseFault, ResponseKind, UpstreamBody};
use super::response_timer::{FrameWait, ResponseTimer};
use crate::dialect::{Dialect, reports_unknown_model};
use crate::http::{content_length, is_json};
use crate::sse::{BodyFormat, BodyObserver, EventInfo};

/// Largest JSON response that is held until it is complete.
const MAX_PEEKED_JSON_BYTES: u64 = 1 << 20;
/// Most bytes of a stream that are held for its first event.
const MAX_PEEKED_STREAM_BYTES: u64 = 64 << 10;
/// Most bytes of an error response that are held to see whether it is about the model.
const MAX_PEEKED_ERROR_BYTES: u64 = 16 << 10;

/// What a response has shown before any of it is relayed.
#[derive(Default)]
pub(super) struct PeekResult {
    pub(super) fault: Option<ResponseFault>,
    /// Observer of the held frames of a JSON document; `None` for any other response.
    pub(super) observer: Option<BodyObserver>,
    /// Whether the replica says that it does not have the requested model.
    pub(super) unknown_model: bool,
}

/// How much of a response is read.
enum PeekUntil {
    FirstEvent,
    End,
    EndOfError,
    FirstByte,
}

/// Reads as much of a response as must not be relayed yet; the body keeps it for its reader.
///
/// *Errors*: the response was interrupted or took too long.
pub(super) async fn peek_response(
    body: &mut UpstreamBody,
    head: &Parts,
    expectations: &ResponseExpectations,
    timer: &ResponseTimer<'_>,
) -> Result<PeekResult, SendError> {
    match peek_until(head, expectations) {
        PeekUntil::FirstEvent => peek_first_event(body, expectations.dialect, timer).await,
        PeekUntil::End => peek_json(body, expectations.dialect, timer).await,
        PeekUntil::EndOfError => peek_error(body, head.status, timer).await,
        PeekUntil::FirstByte => peek_first_byte(body, timer).await,
    }
}

fn peek_until(head: &Parts, expectations: &ResponseExpectations) -> PeekUntil {
    if classify::is_readable_stream(head, expectations.dialect) {
        return PeekUntil::FirstEvent;
    }
    let is_within = |limit| content_length(&head.headers).is_none_or(|length| length <= limit);
    let may_be_about_model = matches!(head.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST);
    if expectations.buffer_json && may_be_about_model && is_json(&head.headers) && is_within(MAX_PEEKED_ERROR_BYTES) {
        return PeekUntil::EndOfError;
    }
    let is_held = expectations.buffer_json && head.status.is_success() && is_json(&head.headers);
    let is_held = is_held && is_within(MAX_PEEKED_JSON_BYTES);
    if is_held { PeekUntil::End } else { PeekUntil::FirstByte }
}

async fn peek_first_event(
    body: &mut UpstreamBody,
    dialect: Dialect,
    timer: &ResponseTimer<'_>,
) -> Result<PeekResult, SendError> {
    let deadline = timer.hold_deadline();
    let mut observer = BodyObserver::new(dialect, BodyFormat::Stream);
    let mut first: Option<EventInfo> = None;
    while first.is_none() && body.buffered_bytes() <= MAX_PEEKED_STREAM_BYTES {
        let keep_first = |event: EventInfo| {
            if event.is_event && first.is_none() {
                first = Some(event);
            }
        };
        match timer.wait_for_frame(body, deadline, ResponseKind::EventStream).await? {
            FrameWait::Frame => observer.observe_events(body.last_buffered(), keep_first),
            FrameWait::End => {
                observer.finish_events(keep_first);
                let fault = first.as_ref().map_or(Some(ResponseFault::Empty), event_fault);
                return Ok(PeekResult { fault, ..PeekResult::default() });
            }
            FrameWait::TimedOut => {
                timer.check_time_left()?;
                return Ok(PeekResult::default());
            }
        };
    }
    Ok(PeekResult { fault: first.as_ref().and_then(event_fault), ..PeekResult::default() })
}

/// Returns the fault that the first event of a stream shows. An error about the request is the client's.
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
    timer: &ResponseTimer<'_>,
) -> Result<PeekResult, SendError> {
    let mut observer = BodyObserver::new(dialect, BodyFormat::Json);
    let mut answer_deadline = timer.answer_deadline;
    let mut deadline = answer_deadline.deadline;
    let mut has_begun = false;
    let mut has_ended = false;
    while !has_ended && body.buffered_bytes() <= MAX_PEEKED_JSON_BYTES {
        match timer.wait_for_frame(body, deadline, ResponseKind::Plain).await? {
            FrameWait::Frame => {
                observer.observe(body.last_buffered());
                has_begun = true;
                has_ended = body.has_ended();
                // The clock is read only if there is more to wait for.
                if !has_ended {
                    let now = timer.clock.now();
                    answer_deadline.record_begun(now);
                    deadline = now + timer.timeouts.idle;
                }
            }
            FrameWait::End => has_ended = true,
            FrameWait::TimedOut => {
                let now = timer.clock.now();
                if !answer_deadline.check(timer.replica, now) {
                    return Err(match has_begun {
                        true => timer.timeout_error("response stalled", timer.timeouts.idle, now),
                        false => timer.no_response_error(now),
                    });
                }
                deadline = answer_deadline.deadline;
            }
        }
    }
    let fault = match (observer.is_aborted(), observer.has_error()) {
        (true, _) => Some(ResponseFault::Aborted),
        (_, true) => Some(ResponseFault::Error),
        _ => None,
    };
    Ok(PeekResult { fault: fault.filter(|_| has_ended), observer: Some(observer), ..PeekResult::default() })
}

async fn peek_error(
    body: &mut UpstreamBody,
    status: StatusCode,
    timer: &ResponseTimer<'_>,
) -> Result<PeekResult, SendError> {
    let deadline = timer.hold_deadline();
    while body.buffered_bytes() <= MAX_PEEKED_ERROR_BYTES {
        match timer.wait_for_frame(body, deadline, ResponseKind::Plain).await? {
            FrameWait::Frame if !body.has_ended() => {}
            FrameWait::Frame | FrameWait::End => {
                let unknown_model = reports_unknown_model(status.as_u16(), &body.buffered_data());
                return Ok(PeekResult { unknown_model, ..PeekResult::default() });
            }
            FrameWait::TimedOut => {
                timer.check_time_left()?;
                break;
            }
        }
    }
    Ok(PeekResult::default())
}

async fn peek_first_byte(body: &mut UpstreamBody, timer: &ResponseTimer<'_>) -> Result<PeekResult, SendError> {
    if let FrameWait::TimedOut = timer.wait_for_frame(body, timer.hold_deadline(), ResponseKind::Plain).await? {
        timer.check_time_left()?;
    }
    Ok(PeekResult::default())
}
