//! How long a replica that has said it is busy is passed over.

use std::time::Duration;

use crate::units::Moment;

/// The time where the replica says none,
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// doubled each time that it says so again, up to this.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A replica's own time is believed up to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A replica's 429s and 503s. They never eject: the replica works, and is asked when nobody else is free.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct BusyBackoff {
    deadline: Moment,
    backoff: Duration,
}

impl BusyBackoff {
    /// Takes note of a 429 or 503.
    pub(in crate::fleet) fn record(&mut self, retry_after: Option<Duration>, now: Moment) {
        if let Some(after) = retry_after {
            self.deadline = self.deadline.max(now + after.min(MAX_RETRY_AFTER));
            return;
        }
        // Requests that were on their way already say nothing new.
        if self.is_active(now) {
            return;
        }
        let again = self.backoff > Duration::ZERO && now.since(self.deadline) <= MAX_BACKOFF;
        self.backoff = if again { (self.backoff * 2).min(MAX_BACKOFF) } else { INITIAL_BACKOFF };
        self.deadline = now + self.backoff;
    }

    /// Tells whether it is passed over.
    pub(in crate::fleet) fn is_active(&self, now: Moment) -> bool {
        now < self.deadline
    }

    /// When it is not any more.
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
    fn a_busy_replica_is_passed_over_for_as_long_as_it_says() {
        let mut busy = BusyBackoff::default();
        busy.record(Some(Duration::from_secs(7)), at_millis(0));
        busy.record(Some(Duration::from_secs(2)), at_millis(0));
        assert!(busy.is_active(at_millis(6_999)) && !busy.is_active(at_millis(7_000)));
        busy.record(Some(Duration::from_secs(1 << 40)), at_millis(0));
        assert!(!busy.is_active(at_millis(300_000)));
    }

    #[test]
    fn the_time_doubles_while_it_stays_busy_and_begins_anew_later() {
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
