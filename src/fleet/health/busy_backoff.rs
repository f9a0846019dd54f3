//! Backoff from a replica that has responded with 429, 503 or 529.

use std::time::Duration;

use crate::units::Moment;

/// The backoff where the replica sends no `Retry-After`,
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// doubled each time it is busy again, up to this.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Upper bound of a replica's `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The backoff from one member. 429, 503 and 529 never eject: the replica works, and is chosen when no other one is free.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct BusyBackoff {
    deadline: Moment,
    backoff: Duration,
}

impl BusyBackoff {
    /// Records a 429, 503 or 529.
    pub(in crate::fleet) fn record(&mut self, retry_after: Option<Duration>, now: Moment) {
        if let Some(retry_after) = retry_after {
            self.deadline = self.deadline.max(now + retry_after.min(MAX_RETRY_AFTER));
            return;
        }
        // Responses to requests that were in flight already add nothing.
        if self.is_active(now) {
            return;
        }
        let still_busy = self.backoff > Duration::ZERO && now.since(self.deadline) <= MAX_BACKOFF;
        self.backoff = if still_busy { (self.backoff * 2).min(MAX_BACKOFF) } else { INITIAL_BACKOFF };
        self.deadline = now + self.backoff;
    }

    /// Returns whether the member is busy.
    pub(in crate::fleet) fn is_active(&self, now: Moment) -> bool {
        now < self.deadline
    }

    /// Returns the end of the backoff.
    pub(in crate::fleet) const fn deadline(&self) -> Moment {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_millis(milliseconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(100) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn busy_lasts_for_retry_after() {
        let mut busy = BusyBackoff::default();
        busy.record(Some(Duration::from_secs(7)), at_millis(0));
        busy.record(Some(Duration::from_secs(2)), at_millis(0));
        assert!(busy.is_active(at_millis(6_999)) && !busy.is_active(at_millis(7_000)));
        busy.record(Some(Duration::from_secs(1 << 40)), at_millis(0));
        assert!(!busy.is_active(at_millis(300_000)));
    }

    #[test]
    fn backoff_doubles_while_busy_and_resets_later() {
        let mut busy = BusyBackoff::default();
        let mut now = 0;
        for seconds in [1, 2, 4, 5, 5] {
            busy.record(None, at_millis(now));
            busy.record(None, at_millis(now + 500));
            now += seconds * 1_000;
            assert!(busy.is_active(at_millis(now - 1)) && !busy.is_active(at_millis(now)), "{seconds}");
        }
        busy.record(None, at_millis(now + 60_000));
        assert!(!busy.is_active(at_millis(now + 61_000)));
    }
}
