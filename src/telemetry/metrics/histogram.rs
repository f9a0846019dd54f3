//! A Prometheus histogram.

use std::sync::atomic::{AtomicU64, Ordering};

use super::spec::MetricSpec;
use crate::fleet::TokenIntervals;

/// One series of a histogram.
///
/// *Shape*: a counter per bucket and the sum, 8 bytes each, for any number of observations. The exporter's own
/// histogram keeps every observation until the next scrape. *Cost*: some 20 ns an observation.
pub(super) struct Histogram {
    bounds: &'static [f64],
    /// One more than `bounds`; the last counts what is above them all.
    buckets: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum_bits: AtomicU64,
}

impl Histogram {
    pub(super) fn new(spec: &MetricSpec) -> Self {
        let bounds = spec.bounds();
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_bits: AtomicU64::new(0) }
    }

    /// Records an observation; one that equals a bound belongs to the bucket below it.
    pub(super) fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.add_observations(bucket, 1, value);
    }

    /// Records the token intervals of a stream. Their buckets must be those of this histogram.
    pub(super) fn record_intervals(&self, intervals: &TokenIntervals) {
        for (bucket, (count, seconds)) in intervals.buckets().enumerate().filter(|(_, (count, _))| *count > 0) {
            self.add_observations(bucket, count, seconds);
        }
    }

    /// Returns the observations per bucket, not cumulated, and their sum.
    pub(super) fn snapshot(&self) -> (Vec<u64>, f64) {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        (counts, f64::from_bits(self.sum_bits.load(Ordering::Relaxed)))
    }

    fn add_observations(&self, bucket: usize, count: u32, sum: f64) {
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(count.into(), Ordering::Relaxed);
            let add = |bits| Some((f64::from_bits(bits) + sum).to_bits());
            // `add` always returns `Some`.
            let _ = self.sum_bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }
}
