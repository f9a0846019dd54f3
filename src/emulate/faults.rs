//! The ways in which an emulated replica can misbehave, and when it does.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

/// A misbehaviour. `N` counts events of a stream, a chat's opening role event included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulatedFault {
    /// `500`, `503` (with `Retry-After: 1`), `429`, or any other status from 400 up: an error instead of an answer.
    Status(u16),
    /// `close-before-head`: the request is read, the connection closed without a byte.
    CloseBeforeHead,
    /// `close-after-head`: head, then closed.
    CloseAfterHead,
    /// `die-midstream=N`: closed after N events without the end of the chunked body; a plain answer is cut in half.
    DieMidstream(u64),
    /// `cut-midstream=N`: the body ends properly after N events, without usage or `[DONE]`.
    CutMidstream(u64),
    /// `stall=N`: silent after N events; a plain answer never comes.
    Stall(u64),
    /// `error-event=N`: vLLM's killed engine: an error event, then `[DONE]`; a plain answer is a 500.
    ErrorEvent(u64),
    /// `abort-event=N`: vLLM's SIGTERM: finish reason `abort` after N events; a plain answer says so too.
    AbortEvent(u64),
    /// `bad-chunk=N`: the size line of the chunk after N events is not a number.
    BadChunk(u64),
    /// `no-usage`: never tells usage.
    NoUsage,
    /// `usage-everywhere`: tells usage in every event.
    UsageEverywhere,
    /// `slow-headers=MS`.
    SlowHeaders(Duration),
    /// `slow-first=MS`: head at once, the first event so much later.
    SlowFirst(Duration),
    /// `close-keepalive`: answers, then closes the connection although it did not say so.
    CloseKeepalive,
}

impl EmulatedFault {
    /// Reads `NAME` or `NAME=ARG`; `None` if there is no such fault. An absent argument is 1 (event) or 1000 (ms).
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

/// The fault that all clients of a replica get: at most one at a time.
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

/// `POST /emulate/faults`.
#[derive(Deserialize)]
struct FaultOrder {
    fault: String,
    count: Option<u64>,
    path: Option<String>,
}

impl FaultInjector {
    /// Takes an order: `fault` for the next `count` requests (absent or null: until cleared) of `path` (absent: every
    /// POST). Returns false, changing nothing, if the order cannot be read.
    pub(super) fn apply_order(&mut self, json: &[u8]) -> bool {
        let Ok(order) = serde_json::from_slice::<FaultOrder>(json) else { return false };
        let Some(fault) = EmulatedFault::parse(&order.fault) else { return false };
        self.active = Some(ActiveFault { fault, remaining: order.count, path: order.path });
        true
    }

    pub(super) fn clear(&mut self) {
        self.active = None;
    }

    /// The fault that a request meets, which uses one of `count` up.
    pub(super) fn take_fault(&mut self, method: &Method, path: &str) -> Option<EmulatedFault> {
        let standing = self.active.as_mut()?;
        let meant = match &standing.path {
            Some(wanted) => wanted == path,
            None => method == Method::POST,
        };
        if !meant {
            return None;
        }
        match &mut standing.remaining {
            None => {}
            Some(0) => return None,
            Some(left) => *left -= 1,
        }
        Some(standing.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_by_name_and_argument() {
        assert_eq!(EmulatedFault::parse("503"), Some(EmulatedFault::Status(503)));
        assert_eq!(EmulatedFault::parse("refuse-500"), Some(EmulatedFault::Status(500)));
        assert_eq!(EmulatedFault::parse(" die-midstream=7 "), Some(EmulatedFault::DieMidstream(7)));
        assert_eq!(EmulatedFault::parse("slow-first=20"), Some(EmulatedFault::SlowFirst(Duration::from_millis(20))));
        for bad in ["", "200", "die-midstream=x", "no-such"] {
            assert_eq!(EmulatedFault::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn counted_faults_run_out_and_mean_posts_or_their_path() {
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
