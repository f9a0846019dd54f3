//! What an answer's head means for its replica.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use crate::clock::Clock;
use crate::fleet::{Outcome, Phase};

/// What an answer with this status means for the replica, if it comes whole.
pub(super) fn classify_status(status: StatusCode, headers: &HeaderMap, clock: Clock) -> Outcome {
    match status.as_u16() {
        429 | 503 => Outcome::Busy { retry_after: parse_retry_after(headers, || clock.unix_time()) },
        500 | 502 | 504 => Outcome::Failed { phase: Phase::FirstByte },
        // 501 and the like are about what was asked for, as 4xx are.
        400.. => Outcome::Refused,
        _ => Outcome::Completed,
    }
}

/// How long a replica asks to be left alone: `Retry-After` as seconds or as a date, which is none if it has passed.
///
/// A date is one of the replica's own clock, so its `Date` says how far off that is; without it ours has to do.
fn parse_retry_after(headers: &HeaderMap, time_of_day: impl FnOnce() -> Duration) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = parse_date(text)?;
    let said = headers.get(header::DATE).and_then(|date| parse_date(date.to_str().ok()?.trim()));
    Some(then.saturating_sub(said.unwrap_or_else(time_of_day)))
}

fn parse_date(date: &str) -> Option<Duration> {
    httpdate::parse_http_date(date).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_blamed_on_whom_they_concern() {
        let meaning = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            classify_status(status, &HeaderMap::new(), Clock::start())
        };
        assert_eq!(meaning(200), Outcome::Completed);
        assert_eq!(meaning(404), Outcome::Refused);
        assert_eq!(meaning(429), Outcome::Busy { retry_after: None });
        assert_eq!(meaning(503), Outcome::Busy { retry_after: None });
        assert_eq!(meaning(501), Outcome::Refused);
        assert_eq!(meaning(500), Outcome::Failed { phase: Phase::FirstByte });
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
        assert_eq!(after(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT"), date]), Some(37), "by its own clock");
        assert_eq!(after(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(0), "it has passed");
        for nothing in ["", "-1", "soon", "1.5", "Sun, 32 Nov 1994 08:50:37 GMT", "Sun, 06 Nov 1066 08:50:37 GMT"] {
            assert_eq!(after(&[("retry-after", nothing), date]), None, "{nothing}");
        }
        assert_eq!(after(&[]), None);
    }
}
