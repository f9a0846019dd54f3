//! How long a replica that has said it is busy is passed over.

use std::time::Duration;

use crate::units::Moment;

/// The time where the replica says none,
const FIRST: Duration = Duration::from_secs(1);
/// doubled each time that it says so again, up to this.
const LONGEST: Duration = Duration::from_secs(5);
/// A replica's own time is believed up to this.
const BELIEVED: Duration = Duration::from_secs(300);

/// A replica's 429s and 503s. They never eject: the replica works, and is asked when nobody else is free.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busy {
    until: Moment,
    step: Duration,
}

impl Busy {
    /// Takes note of a 429 or 503.
    pub(super) fn told(&mut self, retry_after: Option<Duration>, now: Moment) {
        if let Some(after) = retry_after {
            self.until = self.until.max(now + after.min(BELIEVED));
            return;
        }
        // Requests that were on their way already say nothing new.
        if self.is_now(now) {
            return;
        }
        let again = self.step > Duration::ZERO && now.since(self.until) <= LONGEST;
        self.step = if again { (self.step * 2).min(LONGEST) } else { FIRST };
        self.until = now + self.step;
    }

    /// Tells whether it is passed over.
    pub(super) fn is_now(&self, now: Moment) -> bool {
        now < self.until
    }

    /// When it is not any more.
    pub(super) const fn until(&self) -> Moment {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(100) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_busy_replica_is_passed_over_for_as_long_as_it_says() {
        let mut busy = Busy::default();
        busy.told(Some(Duration::from_secs(7)), at(0));
        busy.told(Some(Duration::from_secs(2)), at(0));
        assert!(busy.is_now(at(6_999)) && !busy.is_now(at(7_000)));
        busy.told(Some(Duration::from_secs(1 << 40)), at(0));
        assert!(!busy.is_now(at(300_000)));
    }

    #[test]
    fn the_time_doubles_while_it_stays_busy_and_begins_anew_later() {
        let mut busy = Busy::default();
        let mut now = 0;
        for seconds in [1, 2, 4, 5, 5] {
            busy.told(None, at(now));
            busy.told(None, at(now + 500));
            now += seconds * 1_000;
            assert!(busy.is_now(at(now - 1)) && !busy.is_now(at(now)), "{seconds}");
        }
        busy.told(None, at(now + 60_000));
        assert!(!busy.is_now(at(now + 61_000)));
    }
}
