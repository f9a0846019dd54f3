//! The intervals between the tokens of one stream, counted in a fixed histogram until the stream ends.

use std::time::Duration;

/// Upper bounds of the histogram's buckets, in seconds.
pub const INTERVAL_BOUNDS_SECONDS: [f64; 20] = [
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0,
    5.0,
];

/// Histogram of intervals between arrivals of generated content: 252 bytes, whatever the stream's length.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenIntervals {
    buckets: [IntervalBucket; INTERVAL_BOUNDS_SECONDS.len() + 1],
}

#[derive(Clone, Copy, Debug, Default)]
struct IntervalBucket {
    count: u32,
    sum_seconds: f32,
}

impl TokenIntervals {
    /// Records an interval. O(1).
    pub(in crate::fleet) fn record(&mut self, interval: Duration) {
        let seconds = interval.as_secs_f64();
        let index = INTERVAL_BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.count = bucket.count.saturating_add(1);
            bucket.sum_seconds += seconds as f32;
        }
    }

    /// Returns each bucket's count and sum in seconds; the last bucket has no upper bound.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, f64)> {
        self.buckets.iter().map(|bucket| (bucket.count, f64::from(bucket.sum_seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_counted_in_their_bucket_with_their_sum() {
        let mut intervals = TokenIntervals::default();
        for ms in [20, 16, 600, 60_000] {
            intervals.record(Duration::from_millis(ms));
        }
        let counted = intervals.buckets().enumerate().filter(|(_, (intervals, _))| *intervals > 0);
        let counted: Vec<_> =
            counted.map(|(index, (intervals, sum))| (index, intervals, (sum * 1e3).round() as u64)).collect();
        assert_eq!(counted, [(6, 2, 36), (16, 1, 600), (20, 1, 60_000)]);
    }
}
