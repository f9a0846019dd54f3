//! The times between the parts of one stream, counted without a word to anyone until it ends.

use std::time::Duration;

/// Upper bounds of the classes that gaps are counted in, in seconds.
pub const INTERVAL_BOUNDS_SECONDS: [f64; 20] = [
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0,
    5.0,
];

/// Gaps between arrivals of generated content, by class: 252 bytes, whatever the stream's length.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenIntervals {
    buckets: [IntervalBucket; INTERVAL_BOUNDS_SECONDS.len() + 1],
}

#[derive(Clone, Copy, Debug, Default)]
struct IntervalBucket {
    count: u32,
    /// In seconds.
    sum_seconds: f32,
}

impl TokenIntervals {
    /// Counts a gap. O(1).
    pub(in crate::fleet) fn record(&mut self, gap: Duration) {
        let seconds = gap.as_secs_f64();
        let class = INTERVAL_BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        if let Some(class) = self.buckets.get_mut(class) {
            class.count = class.count.saturating_add(1);
            class.sum_seconds += seconds as f32;
        }
    }

    /// The number of gaps in each class and their sum in seconds, the class beyond the last bound included.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, f64)> {
        self.buckets.iter().map(|class| (class.count, f64::from(class.sum_seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_in_their_class_with_their_sum() {
        let mut gaps = TokenIntervals::default();
        for ms in [20, 16, 600, 60_000] {
            gaps.record(Duration::from_millis(ms));
        }
        let counted = gaps.buckets().enumerate().filter(|(_, (gaps, _))| *gaps > 0);
        let counted: Vec<_> = counted.map(|(class, (gaps, sum))| (class, gaps, (sum * 1e3).round() as u64)).collect();
        assert_eq!(counted, [(6, 2, 36), (16, 1, 600), (20, 1, 60_000)]);
    }
}
