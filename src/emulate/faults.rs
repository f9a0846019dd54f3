//! Faults of an emulated replica and their injection.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

/// A fault. `N` counts events of a stream, a chat's opening role event included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulatedFault {
    /// `500`, `503` (with `Retry-After: 1`), `429`, or any other status from 400 up: an error response.
    Status(u16),
    /// `close-before-head`: the connection is closed after the request was read.
    CloseBeforeHead,
    /// `close-after-head`: the connection is closed after the response head.
    CloseAfterHead,
    /// `die-midstream=N`: the connection is closed after N events; a whole response is cut in half.
    DieMidstream(u64),
    /// `cut-midstream=N`: the body ends properly after N events, without usage or `[DONE]`.
    CutMidstream(u64),
    /// `stall=N`: nothing is sent after N events; a whole response is never sent.
    Stall(u64),
    /// `error-event=N`: as vLLM with a dead engine: an error event after N events, then `[DONE]`; a whole response is a
    /// 500.
    ErrorEvent(u64),
    /// `abort-event=N`: as vLLM on SIGTERM: finish reason `abort` after N events, also in a whole response.
    AbortEvent(u64),
    /// `bad-chunk=N`: the size line of the chunk after N events is not a number.
    BadChunk(u64),
    /// `no-usage`: usage is omitted.
    NoUsage,
    /// `usage-everywhere`: every event has usage.
    UsageEverywhere,
    /// `slow-headers=MS`: the response is delayed.
    SlowHeaders(Duration),
    /// `slow-first=MS`: the first event is delayed after the head.
    SlowFirst(Duration),
    /// `close-keepalive`: the connection is closed after the response without notice.
    CloseKeepalive,
}

impl EmulatedFault {
    /// Parses `NAME` or `NAME=ARG`; `None` if the fault is unknown. The default argument is 1 (event) or 1000 (ms).
    pub fn parse(text: &str) -> Option<Self> {
        let (name, argument) = match text.trim().split_once('=') {
            Some((name, argument)) => (name, Some(argument.trim().parse::<u64>().ok()?)),
            None => (text.trim(), None),
        };
        let events = argument.unwrap_or(1);
        let time = Duration::from_millis(argument.unwrap_or(1000));
        Some(match name {
            "refuse-500" => Self::Status(500),
            "close-before-head" => Self::CloseBeforeHead,
            "close-after-head" => Self::CloseAfterHead,
            "die-midstream" => Self::DieMidstream(events),
            "cut-midstream" => Self::CutMidstream(events),
            "stall" => Self::Stall(events),
            "error-event" => Self::ErrorEvent(events),
            "abort-event" => Self::AbortEvent(events),
            "bad-chunk" => Self::BadChunk(events),
            "no-usage" => Self::NoUsage,
            "usage-everywhere" => Self::UsageEverywhere,
            "slow-headers" => Self::SlowHeaders(time),
            "slow-first" => Self::SlowFirst(time),
            "close-keepalive" => Self::CloseKeepalive,
            status => Self::Status(status.parse().ok().filter(|s| (400..600).contains(s))?),
        })
    }
}

/// The fault that is injected into the requests of a replica; at most one at a time.
#[derive(Debug, Default)]
pub(super) struct FaultInjector {
    active: Option<ActiveFault>,
}

#[derive(Debug)]
struct ActiveFault {
    fault: EmulatedFault,
    remaining: Option<u64>,
    path: Option<String>,
}

/// The body of `POST /emulate/faults`.
#[derive(Deserialize)]
struct FaultOrder {
    fault: String,
    count: Option<u64>,
    path: Option<String>,
}

impl FaultInjector {
    /// Injects `fault` into the next `count` requests (absent or null: until cleared) of `path` (absent: every POST).
    /// Returns whether the order is valid; otherwise nothing changes.
    pub(super) fn apply_order(&mut self, json: &[u8]) -> bool {
        let Ok(order) = serde_json::from_slice::<FaultOrder>(json) else { return false };
        let Some(fault) = EmulatedFault::parse(&order.fault) else { return false };
        self.active = Some(ActiveFault { fault, remaining: order.count, path: order.path });
        true
    }

    pub(super) fn clear(&mut self) {
        self.active = None;
    }

    /// Returns the fault that a request meets, and counts the request.
    pub(super) fn take_fault(&mut self, method: &Method, path: &str) -> Option<EmulatedFault> {
        let active = self.active.as_mut()?;
        let applies = match &active.path {
            Some(fault_path) => fault_path == path,
            None => method == Method::POST,
        };
        if !applies {
            return None;
        }
        match &mut active.remaining {
            None => {}
            Some(0) => return None,
            Some(remaining) => *remaining -= 1,
        }
        Some(active.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_parsed_by_name_and_argument() {
        assert_eq!(EmulatedFault::parse("503"), Some(EmulatedFault::Status(503)));
        assert_eq!(EmulatedFault::parse("refuse-500"), Some(EmulatedFault::Status(500)));
        assert_eq!(EmulatedFault::parse(" die-midstream=7 "), Some(EmulatedFault::DieMidstream(7)));
        assert_eq!(EmulatedFault::parse("slow-first=20"), Some(EmulatedFault::SlowFirst(Duration::from_millis(20))));
        for invalid in ["", "200", "die-midstream=x", "no-such"] {
            assert_eq!(EmulatedFault::parse(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn counted_faults_run_out_and_apply_to_posts_or_their_path() {
        let mut faults = FaultInjector::default();
        assert!(faults.apply_order(br#"{"fault":"500","count":2}"#));
        assert_eq!(faults.take_fault(&Method::GET, "/health"), None);
        let met: Vec<_> = (0..3).map(|_| faults.take_fault(&Method::POST, "/v1/x").is_some()).collect();
        assert_eq!(met, [true, true, false]);
        assert!(faults.apply_order(br#"{"fault":"503","count":null,"path":"/health"}"#));
        assert!(
            faults.take_fault(&Method::GET, "/health").is_some() && faults.take_fault(&Method::POST, "/v1/x").is_none()
        );
        assert!(!faults.apply_order(b"{}"));
        faults.clear();
        assert_eq!(faults.take_fault(&Method::GET, "/health"), None);
    }
}
