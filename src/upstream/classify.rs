//! What the head of a response says about the replica and the body.

use std::time::{Duration, SystemTime};

use http::response::Parts;
use http::{HeaderMap, Response, StatusCode, Version, header};

use crate::clock::Clock;
use crate::dialect::Dialect;
use crate::fleet::{Outcome, Phase};
use crate::http::StatusMeaning;

/// Returns the outcome of a response with this status, if it is completed.
pub(super) fn classify_status(status: StatusCode, headers: &HeaderMap, clock: Clock) -> Outcome {
    match StatusMeaning::of(status.as_u16()) {
        StatusMeaning::Success => Outcome::Completed,
        StatusMeaning::RequestFault => Outcome::Refused,
        StatusMeaning::Busy => Outcome::Busy { retry_after: parse_retry_after(headers, || clock.unix_time()) },
        StatusMeaning::ReplicaFault => Outcome::Failed { phase: Phase::FirstByte },
    }
}

/// Returns whether a response may be about an idle connection and not about the request on it: a 408 that closes the
/// connection, which HAProxy and others send when no request has come in time.
pub(super) fn is_idle_timeout<B>(response: &Response<B>) -> bool {
    let closes = || {
        let option = response.headers().get(header::CONNECTION).and_then(|value| value.to_str().ok());
        option.map_or(response.version() == Version::HTTP_10, |option| option.eq_ignore_ascii_case("close"))
    };
    response.status() == StatusCode::REQUEST_TIMEOUT && closes()
}

/// Returns whether the content of a response can be read while it passes.
pub(super) fn is_readable(head: &Parts, dialect: Dialect) -> bool {
    head.status.is_success() && dialect.has_known_events() && !head.headers.contains_key(header::CONTENT_ENCODING)
}

/// Returns whether bytes may be inserted into a response: it has no declared length and no coding.
pub(super) fn is_extensible(head: &Parts) -> bool {
    !head.headers.contains_key(header::CONTENT_LENGTH) && !head.headers.contains_key(header::CONTENT_ENCODING)
}

/// Parses `Retry-After`, seconds or a date; zero for a date in the past.
///
/// A date is by the replica's clock, so it is compared with the response's `Date`; without one, with `unix_time`.
fn parse_retry_after(headers: &HeaderMap, unix_time: impl FnOnce() -> Duration) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let retry_at = parse_date(text)?;
    let sent_at = headers.get(header::DATE).and_then(|date| parse_date(date.to_str().ok()?.trim()));
    Some(retry_at.saturating_sub(sent_at.unwrap_or_else(unix_time)))
}

fn parse_date(date: &str) -> Option<Duration> {
    httpdate::parse_http_date(date).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_classes_map_to_outcomes() {
        let outcome = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            classify_status(status, &HeaderMap::new(), Clock::start())
        };
        assert_eq!(outcome(200), Outcome::Completed);
        assert_eq!(outcome(404), Outcome::Refused);
        assert_eq!(outcome(429), Outcome::Busy { retry_after: None });
        assert_eq!(outcome(501), Outcome::Refused);
        assert_eq!(outcome(521), Outcome::Failed { phase: Phase::FirstByte });
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT.
        const EXAMPLE_SECONDS: u64 = 784_111_777;
        let after = |lines: &[(&'static str, &str)]| {
            let lines = lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let now = Duration::from_secs(EXAMPLE_SECONDS);
            parse_retry_after(&lines.collect(), || now).map(|after| after.as_secs())
        };
        let date = ("date", "Sun, 06 Nov 1994 08:50:00 GMT");
        assert_eq!(after(&[("retry-after", "7")]), Some(7));
        assert_eq!(after(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")]), Some(60));
        assert_eq!(after(&[("retry-after", "Sunday, 06-Nov-94 08:50:37 GMT")]), Some(60));
        assert_eq!(
            after(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT"), date]),
            Some(37),
            "by the replica's clock"
        );
        assert_eq!(after(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(0), "in the past");
        for invalid in ["", "-1", "soon", "1.5", "Sun, 32 Nov 1994 08:50:37 GMT", "Sun, 06 Nov 1066 08:50:37 GMT"] {
            assert_eq!(after(&[("retry-after", invalid), date]), None, "{invalid}");
        }
        assert_eq!(after(&[]), None);
    }
}
