//! The retry budget of a pool.

use crate::units::Moment;

/// Length of the budget's window, in seconds.
const WINDOW_SECONDS: u64 = 10;

/// Limits of a pool's retries, relative to its requests: those of the last 10 s, or those in flight if they are more,
/// as with long responses.
///
/// Retrying every failure would double the load when capacity is least. A fifth of the requests covers the death of one
/// replica in five.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudgetLimits {
    /// Retries for every hundred requests.
    pub percent: u32,
    /// Retries in addition, so that a pool with few requests has some.
    pub min_retries: u32,
}

impl Default for RetryBudgetLimits {
    /// 20 %, and 3.
    fn default() -> Self {
        Self { percent: 20, min_retries: 3 }
    }
}

/// Retries since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryStats {
    /// Retries made.
    pub made: u64,
    /// Retries denied by the budget.
    pub denied: u64,
}

/// The requests and retries of one second.
#[derive(Clone, Copy, Debug, Default)]
struct BudgetSecond {
    second: u64,
    requests: u64,
    retries: u64,
}

/// A pool's requests and retries of the last 10 s.
#[derive(Clone, Debug, Default)]
pub(in crate::fleet) struct RetryBudget {
    buckets: [BudgetSecond; WINDOW_SECONDS as usize],
    stats: RetryStats,
}

impl RetryBudget {
    /// Counts a request.
    pub(in crate::fleet) fn record_request(&mut self, now: Moment) {
        self.current_bucket(now).requests += 1;
    }

    /// Takes one retry from the budget. Returns whether there was one.
    pub(in crate::fleet) fn try_take(&mut self, limits: RetryBudgetLimits, in_flight: u64, now: Moment) -> bool {
        let second = self.current_bucket(now).second;
        // The current second and the nine before it.
        let recent = self.buckets.iter().filter(|bucket| bucket.second + WINDOW_SECONDS > second);
        let (requests, retries) = recent.fold((0, 0), |(r, s), bucket| (r + bucket.requests, s + bucket.retries));
        let max = requests.max(in_flight).saturating_mul(limits.percent.into()) / 100 + u64::from(limits.min_retries);
        let allowed = retries < max;
        self.current_bucket(now).retries += u64::from(allowed);
        self.stats.made += u64::from(allowed);
        self.stats.denied += u64::from(!allowed);
        allowed
    }

    /// Returns an unused retry to the budget.
    pub(in crate::fleet) fn return_retry(&mut self, now: Moment) {
        let bucket = self.current_bucket(now);
        bucket.retries = bucket.retries.saturating_sub(1);
        self.stats.made = self.stats.made.saturating_sub(1);
    }

    /// Returns the retries since the start.
    pub(in crate::fleet) const fn stats(&self) -> RetryStats {
        self.stats
    }

    fn current_bucket(&mut self, now: Moment) -> &mut BudgetSecond {
        let second = now.as_nanos() / 1_000_000_000;
        let index = usize::try_from(second % WINDOW_SECONDS).unwrap_or_default();
        let bucket = &mut self.buckets[index];
        // A worker that read its clock slightly earlier counts into the second that has begun.
        if second > bucket.second {
            *bucket = BudgetSecond { second, ..BudgetSecond::default() };
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at_millis(milliseconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(1_000) + Duration::from_millis(milliseconds)
    }

    fn count_allowed(budget: &mut RetryBudget, now: u64) -> u64 {
        (0..1_000).map(|_| u64::from(budget.try_take(RetryBudgetLimits::default(), 0, at_millis(now)))).sum()
    }

    #[test]
    fn budget_is_a_fifth_of_ten_seconds_and_three() {
        let mut budget = RetryBudget::default();
        assert_eq!(count_allowed(&mut budget, 0), 3);
        (0..100).for_each(|n| budget.record_request(at_millis(n * 10)));
        assert_eq!((count_allowed(&mut budget, 1_000), count_allowed(&mut budget, 9_900)), (20, 0));
        assert_eq!(count_allowed(&mut budget, 11_000), 3, "both are out of the window");
        assert_eq!(budget.stats(), RetryStats { made: 26, denied: 4_000 - 26 });
    }

    #[test]
    fn requests_in_flight_count_where_responses_are_long() {
        let mut budget = RetryBudget::default();
        budget.record_request(at_millis(0));
        let made = (0..100).filter(|_| budget.try_take(RetryBudgetLimits::default(), 50, at_millis(0))).count();
        assert_eq!(made, 10 + 3, "one replica of five has died with its share");
    }

    #[test]
    fn zero_limits_deny_all_retries() {
        let mut budget = RetryBudget::default();
        (0..100).for_each(|_| budget.record_request(at_millis(0)));
        assert!(!budget.try_take(RetryBudgetLimits { percent: 0, min_retries: 0 }, 100, at_millis(0)));
    }
}
