//! Reads the beginning of a response before any of it is relayed. Until then another replica can be tried.

use http::StatusCode;
use http::response::Parts;

use super::classify;
use super::error::SendError;
use super::request::ResponseExpectations;
use super::response::{ResponseFault, ResponseKind, UpstreamBody};
use super::response_timer::{FrameWait, ResponseTimer};
use crate::dialect::{Dialect, ErrorBlame, reports_unknown_model};
use crate::http::{content_length, is_event_stream, is_json};
use crate::sse::{BodyFormat, BodyObserver, EventInfo, FormatSniffer, SniffedFormat};

/// Largest JSON response that is held until it is complete.
const MAX_PEEKED_JSON_BYTES: u64 = 1 << 20;
/// Most bytes of a stream that are held for its first event.
const MAX_PEEKED_STREAM_BYTES: u64 = 64 << 10;
/// Most bytes of an error response that are held to see whether it is about the model.
const MAX_PEEKED_ERROR_BYTES: u64 = 16 << 10;

/// What a response has shown before any of it is relayed.
pub(super) struct PeekResult {
    pub(super) fault: Option<ResponseFault>,
    /// The format of the body, by its first bytes or else by its content type.
    pub(super) format: BodyFormat,
    /// Whether it is a stream whose events can be read.
    pub(super) is_readable_stream: bool,
    /// Observer of the held frames of a JSON document; `None` for any other response.
    pub(super) observer: Option<BodyObserver>,
    /// Whether the replica says that it does not have the requested model.
    pub(super) unknown_model: bool,
}

impl PeekResult {
    const fn new(format: BodyFormat) -> Self {
        Self { fault: None, format, is_readable_stream: false, observer: None, unknown_model: false }
    }
}

/// How much of a response is read, by its content type.
enum PeekUntil {
    FirstEvent,
    End,
    EndOfError,
    FirstByte,
}

/// The body of a response that is peeked at.
struct PeekedBody<'a> {
    body: &'a mut UpstreamBody,
    dialect: Dialect,
    timer: &'a ResponseTimer<'a>,
    /// Finds out the format from the first bytes; `None` if it is known, or cannot be read.
    sniffer: Option<FormatSniffer>,
}

/// Reads as much of a response as must not be relayed yet; the body keeps it for its reader.
///
/// The first bytes overrule the content type: some servers label streams as JSON, or JSON as a stream.
///
/// *Errors*: the response was interrupted or took too long.
pub(super) async fn peek_response(
    body: &mut UpstreamBody,
    head: &Parts,
    expectations: &ResponseExpectations,
    timer: &ResponseTimer<'_>,
) -> Result<PeekResult, SendError> {
    let dialect = expectations.dialect;
    let sniffer = classify::is_readable(head, dialect).then(FormatSniffer::default);
    let mut peeked = PeekedBody { body, dialect, timer, sniffer };
    let other_format = match peek_until(head, expectations) {
        PeekUntil::FirstEvent => match peeked.peek_first_event().await? {
            Some(result) => return Ok(result),
            None => BodyFormat::Json,
        },
        PeekUntil::End => match peeked.peek_json().await? {
            Some(result) => return Ok(result),
            None => BodyFormat::Stream,
        },
        PeekUntil::FirstByte if peeked.peek_first_byte().await? == SniffedFormat::Known(BodyFormat::Stream) => {
            BodyFormat::Stream
        }
        PeekUntil::EndOfError => {
            let unknown_model = peeked.peek_error(head.status).await?;
            return Ok(PeekResult { unknown_model, ..PeekResult::new(BodyFormat::Json) });
        }
        PeekUntil::FirstByte => {
            let is_stream = is_event_stream(&head.headers);
            return Ok(PeekResult::new(if is_stream { BodyFormat::Stream } else { BodyFormat::Json }));
        }
    };
    peeked.sniffer = None;
    let result = match other_format {
        BodyFormat::Stream => peeked.peek_first_event().await?,
        BodyFormat::Json => peeked.peek_json().await?,
    };
    Ok(result.expect("without a sniffer the format is settled"))
}

fn peek_until(head: &Parts, expectations: &ResponseExpectations) -> PeekUntil {
    if classify::is_readable(head, expectations.dialect) && is_event_stream(&head.headers) {
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

impl PeekedBody<'_> {
    /// Returns whether the last frame shows that the body has the other format than `expected`.
    fn is_other_than(&mut self, expected: BodyFormat) -> bool {
        let Some(sniffer) = &mut self.sniffer else { return false };
        match sniffer.sniff(self.body.last_buffered()) {
            SniffedFormat::Undecided => false,
            SniffedFormat::Known(format) if format != expected => true,
            SniffedFormat::Known(_) | SniffedFormat::Unknown => {
                self.sniffer = None;
                false
            }
        }
    }

    /// Waits for the first event of a stream; returns `None` if the body is JSON.
    ///
    /// *Errors*: the response was interrupted or took too long.
    async fn peek_first_event(&mut self) -> Result<Option<PeekResult>, SendError> {
        let result = |fault| PeekResult { fault, is_readable_stream: true, ..PeekResult::new(BodyFormat::Stream) };
        let deadline = self.timer.hold_deadline();
        let mut observer = BodyObserver::new(self.dialect, BodyFormat::Stream);
        let mut first: Option<EventInfo> = None;
        for frame in self.body.buffered_chunks() {
            observer.observe_events(frame, keep_first(&mut first));
        }
        while first.is_none() && self.body.buffered_bytes() <= MAX_PEEKED_STREAM_BYTES {
            match self.timer.wait_for_frame(self.body, deadline, ResponseKind::EventStream).await? {
                FrameWait::Frame if self.is_other_than(BodyFormat::Stream) => return Ok(None),
                FrameWait::Frame => {
                    observer.observe_events(self.body.last_buffered(), keep_first(&mut first));
                }
                FrameWait::End => {
                    observer.finish_events(keep_first(&mut first));
                    return Ok(Some(result(first.as_ref().map_or(Some(ResponseFault::Empty), event_fault))));
                }
                FrameWait::TimedOut => {
                    self.timer.check_time_left()?;
                    return Ok(Some(result(None)));
                }
            }
        }
        Ok(Some(result(first.as_ref().and_then(event_fault))))
    }

    /// Waits for the end of a JSON document; returns `None` if the body is a stream.
    ///
    /// Some servers keep a response alive by white space. It is relayed then, once it was held as long as a stream is.
    ///
    /// *Errors*: the response was interrupted or took too long.
    async fn peek_json(&mut self) -> Result<Option<PeekResult>, SendError> {
        let timer = self.timer;
        let hold_deadline = timer.hold_deadline();
        let mut observer = BodyObserver::new(self.dialect, BodyFormat::Json);
        for frame in self.body.buffered_chunks() {
            observer.observe(frame);
        }
        let mut answer_deadline = timer.answer_deadline;
        let mut deadline = answer_deadline.deadline;
        let mut has_begun = self.body.buffered_bytes() > 0;
        let mut has_ended = false;
        while !has_ended && self.body.buffered_bytes() <= MAX_PEEKED_JSON_BYTES {
            let is_blank = has_begun && !observer.has_content();
            let wakeup = if is_blank { deadline.min(hold_deadline) } else { deadline };
            match timer.wait_for_frame(self.body, wakeup, ResponseKind::Plain).await? {
                FrameWait::Frame if self.is_other_than(BodyFormat::Json) => return Ok(None),
                FrameWait::Frame => {
                    observer.observe(self.body.last_buffered());
                    has_begun = true;
                    has_ended = self.body.has_ended();
                    // The clock is read only if there is more to wait for.
                    if !has_ended {
                        let now = timer.clock.now();
                        answer_deadline.record_begun(now);
                        deadline = now + timer.timeouts.idle;
                    }
                }
                FrameWait::End => has_ended = true,
                FrameWait::TimedOut if is_blank && timer.clock.now() >= hold_deadline => break,
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
        let fault = match (observer.is_aborted(), observer.has_error(), observer.has_busy_error()) {
            (true, ..) => Some(ResponseFault::Aborted),
            (_, true, _) => Some(ResponseFault::Error),
            (_, _, true) => Some(ResponseFault::Busy),
            _ => None,
        };
        Ok(Some(PeekResult {
            fault: fault.filter(|_| has_ended),
            observer: Some(observer),
            ..PeekResult::new(BodyFormat::Json)
        }))
    }

    /// Waits for the end of an error response; returns whether the replica says that it does not have the model.
    ///
    /// *Errors*: the response was interrupted or took too long.
    async fn peek_error(&mut self, status: StatusCode) -> Result<bool, SendError> {
        let Self { body, timer, .. } = self;
        let deadline = timer.hold_deadline();
        while body.buffered_bytes() <= MAX_PEEKED_ERROR_BYTES {
            match timer.wait_for_frame(body, deadline, ResponseKind::Plain).await? {
                FrameWait::Frame if !body.has_ended() => {}
                FrameWait::Frame | FrameWait::End => {
                    return Ok(reports_unknown_model(status.as_u16(), &body.buffered_data()));
                }
                FrameWait::TimedOut => {
                    timer.check_time_left()?;
                    break;
                }
            }
        }
        Ok(false)
    }

    /// Waits for the first bytes of a response of an unknown type, and returns what they say about its format.
    ///
    /// *Errors*: the response was interrupted or took too long.
    async fn peek_first_byte(&mut self) -> Result<SniffedFormat, SendError> {
        let deadline = self.timer.hold_deadline();
        loop {
            match self.timer.wait_for_frame(self.body, deadline, ResponseKind::Plain).await? {
                FrameWait::Frame => {}
                FrameWait::End => return Ok(SniffedFormat::Unknown),
                FrameWait::TimedOut => {
                    self.timer.check_time_left()?;
                    return Ok(SniffedFormat::Unknown);
                }
            }
            let Some(sniffer) = &mut self.sniffer else { return Ok(SniffedFormat::Unknown) };
            let format = sniffer.sniff(self.body.last_buffered());
            if format != SniffedFormat::Undecided {
                return Ok(format);
            }
        }
    }
}

/// Returns the receiver of events that keeps the first one that is no comment.
fn keep_first(first: &mut Option<EventInfo>) -> impl FnMut(EventInfo) {
    |event| {
        if event.is_event && first.is_none() {
            *first = Some(event);
        }
    }
}

/// Returns the fault that the first event of a stream shows. An error about the request is the client's.
fn event_fault(first: &EventInfo) -> Option<ResponseFault> {
    match first {
        EventInfo { error: Some(ErrorBlame::Replica), .. } => Some(ResponseFault::Error),
        EventInfo { error: Some(ErrorBlame::Load), .. } => Some(ResponseFault::Busy),
        EventInfo { aborted: true, .. } => Some(ResponseFault::Aborted),
        _ => None,
    }
}
