//! Signs of life: when something last came from a replica, and since when somebody waits for it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::units::Moment;

/// One replica's signs of life.
#[derive(Debug, Default)]
pub(in crate::fleet) struct ReplicaActivity {
    /// When something last came, in nanoseconds; 0 if nothing has.
    last_activity: AtomicU64,
    /// Requests of which nothing has come yet.
    unanswered: AtomicU32,
    /// When a request was last given while there was none of those.
    unanswered_since: AtomicU64,
}

impl ReplicaActivity {
    /// A request is sent.
    pub(in crate::fleet) fn record_request_sent(&self, now: Moment) {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) == 0 {
            self.unanswered_since.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// An answer has begun, or nobody waits for it any more.
    pub(in crate::fleet) fn record_response_started(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
    }

    /// Something came.
    pub(in crate::fleet) fn record_activity(&self, now: Moment) {
        self.last_activity.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Requests of which nothing has come yet. Others may be silent because their client does not read.
    pub(in crate::fleet) fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// When a request was last given while no other was waited for.
    pub(in crate::fleet) fn unanswered_since(&self) -> Moment {
        Moment::from_nanos(self.unanswered_since.load(Ordering::Relaxed))
    }

    /// When something last came; [`Moment::ZERO`] if nothing has.
    pub(in crate::fleet) fn last_activity(&self) -> Moment {
        Moment::from_nanos(self.last_activity.load(Ordering::Relaxed))
    }

    /// Tells whether something has come within `time`.
    pub(in crate::fleet) fn is_active_within(&self, time: Duration, now: Moment) -> bool {
        let progressed = self.last_activity();
        progressed > Moment::ZERO && now.since(progressed) <= time
    }
}
