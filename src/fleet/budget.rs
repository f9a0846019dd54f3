//! How often a pool's requests may be sent a second time.

use crate::units::Moment;

/// The time over which requests are counted, in seconds.
const SECONDS: u64 = 10;

/// How many replays a pool may have for its requests: those that came in the last 10 s, or those in flight if they are
/// more, as long answers make them. Failures that are all retried are twice the load, at the time when there is least to
/// spare; but a fifth of them is what the death of one replica in five takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayLimits {
    /// Replays for every hundred requests.
    pub percent: u32,
    /// Replays on top, so that a pool with few requests has some.
    pub spare: u32,
}

impl Default for ReplayLimits {
    /// 20 %, and 3.
    fn default() -> Self {
        Self { percent: 20, spare: 3 }
    }
}

/// How often replays were asked for since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replays {
    /// Those that were made.
    pub made: u64,
    /// Those that the limits did not allow.
    pub denied: u64,
}

/// One second's requests and replays.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u64,
    requests: u64,
    replays: u64,
}

/// Counts a pool's requests and replays, second by second.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    buckets: [Bucket; SECONDS as usize],
    total: Replays,
}

impl Budget {
    /// Counts a request.
    pub(super) fn request(&mut self, now: Moment) {
        self.bucket(now).requests += 1;
    }

    /// Takes a replay out, if there is one left.
    pub(super) fn take(&mut self, limits: ReplayLimits, in_flight: u64, now: Moment) -> bool {
        let second = self.bucket(now).second;
        // Of the present second and the nine before it.
        let recent = self.buckets.iter().filter(|bucket| bucket.second + SECONDS > second);
        let (requests, replays) = recent.fold((0, 0), |(r, s), bucket| (r + bucket.requests, s + bucket.replays));
        let most = requests.max(in_flight).saturating_mul(limits.percent.into()) / 100 + u64::from(limits.spare);
        let some = replays < most;
        self.bucket(now).replays += u64::from(some);
        self.total.made += u64::from(some);
        self.total.denied += u64::from(!some);
        some
    }

    /// Puts back what was taken out and not used.
    pub(super) fn put_back(&mut self, now: Moment) {
        let bucket = self.bucket(now);
        bucket.replays = bucket.replays.saturating_sub(1);
        self.total.made = self.total.made.saturating_sub(1);
    }

    /// What was asked for since the start.
    pub(super) const fn total(&self) -> Replays {
        self.total
    }

    fn bucket(&mut self, now: Moment) -> &mut Bucket {
        let second = now.as_nanos() / 1_000_000_000;
        let at = usize::try_from(second % SECONDS).unwrap_or_default();
        let bucket = &mut self.buckets[at];
        // A worker that read its clock a little earlier counts into the second that has begun.
        if second > bucket.second {
            *bucket = Bucket { second, ..Bucket::default() };
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(1_000) + Duration::from_millis(milliseconds)
    }

    fn takes(budget: &mut Budget, now: u64) -> u64 {
        (0..1_000).map(|_| u64::from(budget.take(ReplayLimits::default(), 0, at(now)))).sum()
    }

    #[test]
    fn a_fifth_of_the_requests_of_ten_seconds_and_three_may_be_replayed() {
        let mut budget = Budget::default();
        assert_eq!(takes(&mut budget, 0), 3);
        (0..100).for_each(|n| budget.request(at(n * 10)));
        assert_eq!((takes(&mut budget, 1_000), takes(&mut budget, 9_900)), (20, 0));
        assert_eq!(takes(&mut budget, 11_000), 3, "both are forgotten");
        assert_eq!(budget.total(), Replays { made: 26, denied: 4_000 - 26 });
    }

    #[test]
    fn where_answers_are_long_those_in_flight_count() {
        let mut budget = Budget::default();
        budget.request(at(0));
        let made = (0..100).filter(|_| budget.take(ReplayLimits::default(), 50, at(0))).count();
        assert_eq!(made, 10 + 3, "a replica of five has died with its share");
    }

    #[test]
    fn nothing_may_be_replayed_where_that_is_said() {
        let mut budget = Budget::default();
        (0..100).for_each(|_| budget.request(at(0)));
        assert!(!budget.take(ReplayLimits { percent: 0, spare: 0 }, 100, at(0)));
    }
}
