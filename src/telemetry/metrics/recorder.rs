//! Counters whose label values come from the configuration, kept by the `metrics` crate's Prometheus recorder.
//!
//! The recorder keeps a series forever and every observation of a histogram until the next scrape. So series of
//! replicas and all histograms are kept by [`super::labelled_series`] and [`super::histogram`] instead.

use metrics::{Counter, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::spec::MetricSpec;

/// The recorder and its text.
pub(super) struct CounterRecorder {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl CounterRecorder {
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        Self { handle: recorder.handle(), recorder }
    }

    /// Returns the counter of `spec` with these label values, in the order of [`MetricSpec::labels`].
    pub(super) fn counter(&self, spec: &'static MetricSpec, label_values: &[&str]) -> Counter {
        debug_assert_eq!(label_values.len(), spec.labels.len(), "{}", spec.name);
        let labels: Vec<Label> =
            spec.labels.iter().zip(label_values).map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        self.recorder.describe_counter(KeyName::from(spec.name), Some(Unit::Count), spec.help.into());
        let metadata = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
        self.recorder.register_counter(&Key::from_parts(spec.name, labels), &metadata)
    }

    /// Returns all counters in the Prometheus text format.
    pub(super) fn render(&self) -> String {
        self.handle.render()
    }
}
