//! Requests by class of status.

use metrics::Counter;

use super::recorder::CounterRecorder;
use super::spec::MetricSpec;

/// Classes by the first digit of the status; `other` is 0, for a client that left before there was one.
const STATUS_CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// A counter for each class of status.
pub(super) struct StatusCounters([Counter; STATUS_CLASSES.len()]);

impl StatusCounters {
    /// Registers the counters of `spec`, whose last label is the class; `label_values` are those before it.
    pub(super) fn new(recorder: &CounterRecorder, spec: &'static MetricSpec, label_values: &[&str]) -> Self {
        Self(STATUS_CLASSES.map(|class| recorder.counter(spec, &[label_values, &[class]].concat())))
    }

    /// Records a request that ended with `status`.
    pub(super) fn record(&self, status: u16) {
        self.0.get(usize::from(status / 100)).unwrap_or(&self.0[0]).increment(1);
    }
}
