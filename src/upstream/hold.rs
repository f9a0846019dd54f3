//! Holding an answer back until it has shown whether it is worth passing on: as long as the client has nothing of it,
//! another replica can be asked.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use http::response::Parts;
use http::{HeaderMap, header};
use tokio::time::timeout_at;

use super::Errand;
use super::answer::AnswerBody;
use super::failure::Failure;
use super::pulse::LOOK;
use super::relay::is_stream;
use crate::clock::Clock;
use crate::config::Timeouts;
use crate::fleet::{Phase, Pool, Replica};
use crate::sse::{Judged, Kind, Observer};
use crate::units::{Dialect, Moment};

/// A JSON answer up to this size is held until it is complete.
const JSON_BYTES: u64 = 1 << 20;
/// The most of a stream that is held for its first event.
const STREAM_BYTES: u64 = 64 << 10;

/// Why a stream is given up that might stay open for ever.
pub(super) const HUNG: &str = "its port refuses connections and nothing comes from it";

/// How an answer that began as a success shows that it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It reports an error, in the first event of a stream or in a JSON document.
    Error,
    /// The replica gave it up: `finish_reason` "abort".
    Aborted,
    /// A stream that ended before its first event.
    Empty,
}

/// What an answer has shown before any of it is passed on.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) fault: Option<Fault>,
    /// Has seen all that was held of a JSON document.
    pub(super) observer: Option<Observer>,
    /// A stream that has been given its time and has no event yet.
    pub(super) waits: bool,
}

/// How much of an answer is awaited.
enum Until {
    FirstEvent,
    End,
    FirstByte,
}

/// What waiting for a frame came to.
enum Waited {
    /// There is one more.
    Frame,
    /// There are no more.
    Nothing,
    /// It was waited for long enough.
    Passed,
}

impl fmt::Display for Fault {
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
pub(super) async fn hold(
    body: &mut AnswerBody,
    head: &Parts,
    errand: &Errand,
    patience: &Patience<'_>,
) -> Result<Shown, Failure> {
    match until(head, errand) {
        Until::FirstEvent => first_event(body, errand.dialect, patience).await,
        Until::End => whole(body, errand.dialect, patience).await,
        Until::FirstByte => first_byte(body, patience).await,
    }
}

fn until(head: &Parts, errand: &Errand) -> Until {
    if head.status.is_success() && is_readable_stream(&head.headers, errand.dialect) {
        return Until::FirstEvent;
    }
    let small = || length(&head.headers).is_none_or(|length| length <= JSON_BYTES);
    let held = errand.holds_json && head.status.is_success() && is_json(&head.headers) && small();
    if held { Until::End } else { Until::FirstByte }
}

/// Tells whether an answer is a stream whose events are known and can be read as they pass.
pub(super) fn is_readable_stream(headers: &HeaderMap, dialect: Dialect) -> bool {
    dialect != Dialect::Other && is_stream(headers) && !headers.contains_key(header::CONTENT_ENCODING)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/json"))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn first_event(body: &mut AnswerBody, dialect: Dialect, patience: &Patience<'_>) -> Result<Shown, Failure> {
    let latest = patience.hold_until();
    let mut observer = Observer::new(dialect, Kind::Stream);
    let mut first: Option<Judged> = None;
    while first.is_none() && body.early_bytes() <= STREAM_BYTES {
        let note = |event: Judged| {
            if event.data && first.is_none() {
                first = Some(event);
            }
        };
        match patience.frame(body, latest, true).await? {
            Waited::Frame => observer.judge(body.latest(), note),
            Waited::Nothing => {
                observer.finish_judging(note);
                let fault = first.as_ref().map_or(Some(Fault::Empty), fault);
                return Ok(Shown { fault, ..Shown::default() });
            }
            Waited::Passed => {
                patience.still_waits()?;
                return Ok(Shown { waits: true, ..Shown::default() });
            }
        };
    }
    Ok(Shown { fault: first.as_ref().and_then(fault), ..Shown::default() })
}

/// What the first event of a stream shows. An error that is about the request is the client's.
fn fault(first: &Judged) -> Option<Fault> {
    match first {
        Judged { error: true, refused: false, .. } => Some(Fault::Error),
        Judged { aborted: true, .. } => Some(Fault::Aborted),
        _ => None,
    }
}

async fn whole(body: &mut AnswerBody, dialect: Dialect, patience: &Patience<'_>) -> Result<Shown, Failure> {
    let mut observer = Observer::new(dialect, Kind::Whole);
    let mut latest = patience.first_by;
    let mut begun = false;
    let mut ended = false;
    while !ended && body.early_bytes() <= JSON_BYTES {
        match patience.frame(body, latest, false).await? {
            Waited::Frame => {
                observer.observe(body.latest());
                begun = true;
                ended = body.has_ended();
                // Asked for only if there is more to wait for.
                latest = if ended { latest } else { patience.clock.now() + patience.timeouts.idle };
            }
            Waited::Nothing => ended = true,
            Waited::Passed if begun => {
                return Err(Failure::late(Phase::FirstByte, "the answer fell silent", patience.timeouts.idle));
            }
            Waited::Passed => return Err(patience.late()),
        }
    }
    let fault = match (observer.aborted(), observer.error()) {
        (true, _) => Some(Fault::Aborted),
        (_, true) => Some(Fault::Error),
        _ => None,
    };
    Ok(Shown { fault: fault.filter(|_| ended), observer: Some(observer), waits: false })
}

async fn first_byte(body: &mut AnswerBody, patience: &Patience<'_>) -> Result<Shown, Failure> {
    if let Waited::Passed = patience.frame(body, patience.hold_until(), false).await? {
        patience.still_waits()?;
    }
    Ok(Shown::default())
}

/// How long one replica is waited for.
pub(super) struct Patience<'a> {
    pub(super) clock: Clock,
    pub(super) timeouts: &'a Timeouts,
    pub(super) pool: &'a Pool,
    pub(super) replica: &'a Replica,
    /// The time to the first byte, the prompt's part in it included, and when it is over.
    pub(super) first_byte: Duration,
    pub(super) first_by: Moment,
    /// When the whole request must be over.
    pub(super) until: Option<Moment>,
}

impl Patience<'_> {
    /// The moment until which the first byte, and the request, are waited for.
    pub(super) fn latest(&self) -> Moment {
        self.until.map_or(self.first_by, |until| until.min(self.first_by))
    }

    /// Why no head has come by then.
    pub(super) fn late(&self) -> Failure {
        match self.until {
            Some(until) if until < self.first_by => Failure::over(),
            _ => Failure::late(Phase::FirstByte, "no answer", self.first_byte),
        }
    }

    /// Waits for an answer's head.
    pub(super) async fn head<T>(&self, exchange: impl Future<Output = T>) -> Result<T, Failure> {
        let (mut exchange, latest) = (pin!(exchange), self.latest());
        loop {
            let look = latest.min(self.clock.now() + LOOK);
            if let Ok(head) = timeout_at(self.clock.deadline(look), &mut exchange).await {
                return Ok(head);
            }
            let now = self.clock.now();
            if now >= latest {
                return Err(self.late());
            }
            self.still_lives(false, now)?;
        }
    }

    /// Tells whether something is to be expected of the replica. By a stream something would come; a plain answer is
    /// silent until it is done, and is given up only where another replica can give it.
    fn still_lives(&self, streams: bool, now: Moment) -> Result<(), Failure> {
        let door = self.replica.door();
        let left = |limit| door.is_quiet_for(limit, now) && self.pool.ready_without(self.replica, now);
        let hangs = if streams { door.has_hung(now) } else { self.pool.spec().failing.stalled.is_some_and(left) };
        if hangs { Err(Failure::told(Phase::FirstByte, "no answer", HUNG.to_owned())) } else { Ok(()) }
    }

    fn hold_until(&self) -> Moment {
        self.first_by.min(self.clock.now() + self.timeouts.hold)
    }

    /// Tells whether there is time left for the first byte.
    fn still_waits(&self) -> Result<(), Failure> {
        if self.clock.now() < self.first_by { Ok(()) } else { Err(self.late()) }
    }

    /// Waits for the next frame, and leaves it to the body.
    async fn frame(&self, body: &mut AnswerBody, latest: Moment, streams: bool) -> Result<Waited, Failure> {
        let end = self.until.map_or(latest, |until| until.min(latest));
        let mut look = end.min(self.clock.now() + LOOK);
        loop {
            match timeout_at(self.clock.deadline(look), body.prefetch()).await {
                Ok(Ok(true)) => return Ok(Waited::Frame),
                Ok(Ok(false)) => return Ok(Waited::Nothing),
                Ok(Err(error)) => {
                    return Err(Failure::new(Phase::FirstByte, "the answer broke off before it could be used", &error));
                }
                Err(_) => {}
            }
            let now = self.clock.now();
            if self.until.is_some_and(|until| now >= until) {
                return Err(Failure::over());
            }
            if now >= latest {
                return Ok(Waited::Passed);
            }
            self.still_lives(streams, now)?;
            look = end.min(now + LOOK);
        }
    }
}
