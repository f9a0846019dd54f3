//! A replica's activity: when it last sent something, and since when requests wait for a first byte.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::units::Moment;

/// One replica's activity, over all pools.
#[derive(Debug, Default)]
pub(in crate::fleet) struct ReplicaActivity {
    /// Requests sent since the start.
    requests_sent: AtomicU64,
    /// Time of the last data from it, in nanoseconds; 0 before the first.
    last_activity: AtomicU64,
    /// Requests without a first byte yet.
    unanswered: AtomicU32,
    /// Those among them whose first byte comes when the whole answer has been generated.
    unanswered_plain: AtomicU32,
    /// Time, in nanoseconds, of the last request sent while none was unanswered.
    unanswered_since: AtomicU64,
}

impl ReplicaActivity {
    /// Records that a request is sent.
    pub(in crate::fleet) fn record_request_sent(&self, now: Moment) {
        self.requests_sent.fetch_add(1, Ordering::Relaxed);
        if self.unanswered.fetch_add(1, Ordering::Relaxed) == 0 {
            self.unanswered_since.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// Records that a request has its first byte, or has ended without one.
    pub(in crate::fleet) fn record_response_started(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records that a request without a first byte asks for a plain answer.
    pub(in crate::fleet) fn record_plain_request(&self) {
        self.unanswered_plain.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that such a request has its first byte, or has ended without one.
    pub(in crate::fleet) fn record_plain_answer_started(&self) {
        self.unanswered_plain.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records data from the replica.
    pub(in crate::fleet) fn record_activity(&self, now: Moment) {
        self.last_activity.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Returns the number of requests sent since the start.
    pub(in crate::fleet) fn requests_sent(&self) -> u64 {
        self.requests_sent.load(Ordering::Relaxed)
    }

    /// Returns the number of requests without a first byte. Later silence may be due to a client that does not read.
    pub(in crate::fleet) fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Returns the number of those requests that ask for a plain answer.
    pub(in crate::fleet) fn unanswered_plain(&self) -> u32 {
        self.unanswered_plain.load(Ordering::Relaxed)
    }

    /// Returns the time of the last request sent while none was unanswered.
    pub(super) fn unanswered_since(&self) -> Moment {
        Moment::from_nanos(self.unanswered_since.load(Ordering::Relaxed))
    }

    /// Returns the time of the last data; [`Moment::ZERO`] before the first.
    pub(super) fn last_activity(&self) -> Moment {
        Moment::from_nanos(self.last_activity.load(Ordering::Relaxed))
    }

    /// Returns whether data came within `time`.
    pub(in crate::fleet) fn is_active_within(&self, time: Duration, now: Moment) -> bool {
        let last_activity = self.last_activity();
        last_activity > Moment::ZERO && now.since(last_activity) <= time
    }
}
