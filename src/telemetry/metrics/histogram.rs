//! Histograms of Prometheus: samples counted by class and nothing kept of each.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fleet::TokenIntervals;

/// What is measured, and the classes it is counted in.
pub(in crate::telemetry) struct HistogramSpec {
    pub(in crate::telemetry) name: &'static str,
    pub(in crate::telemetry) help: &'static str,
    /// Upper bounds of the classes, rising; what is above the last has one more.
    pub(in crate::telemetry) bounds: &'static [f64],
}

/// One series.
///
/// *Shape*: a counter for each class and the sum, 8 bytes each, however many samples there are. The exporter's own keeps
/// every sample until it is next read. *Cost*: some 20 ns a sample.
pub(in crate::telemetry) struct Histogram {
    spec: &'static HistogramSpec,
    buckets: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum_bits: AtomicU64,
}

impl Histogram {
    pub(in crate::telemetry) fn new(shape: &'static HistogramSpec) -> Self {
        let classes = (0..=shape.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { spec: shape, buckets: classes, sum_bits: AtomicU64::new(0) }
    }

    /// Counts a sample; a bound belongs to the class below it.
    pub(in crate::telemetry) fn record(&self, value: f64) {
        let class = self.spec.bounds.partition_point(|bound| *bound < value);
        self.add_samples(class, 1, value);
    }

    /// Counts the gaps of a stream, whose classes must be those of this series.
    pub(in crate::telemetry) fn record_intervals(&self, gaps: &TokenIntervals) {
        for (class, (gaps, seconds)) in gaps.buckets().enumerate().filter(|(_, (gaps, _))| *gaps > 0) {
            self.add_samples(class, gaps, seconds);
        }
    }

    fn add_samples(&self, class: usize, samples: u32, sum: f64) {
        if let Some(class) = self.buckets.get(class) {
            class.fetch_add(samples.into(), Ordering::Relaxed);
            let more = |bits| Some((f64::from_bits(bits) + sum).to_bits());
            // It is always `Some`.
            let _ = self.sum_bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// Appends the series; one that has counted nothing has none.
    fn write(&self, labels: &str, out: &mut String) {
        let HistogramSpec { name, bounds, .. } = self.spec;
        let counts: Vec<u64> = self.buckets.iter().map(|class| class.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return;
        }
        let (comma, braces) = if labels.is_empty() { ("", String::new()) } else { (",", format!("{{{labels}}}")) };
        let mut so_far = 0;
        // Writing to a string cannot fail.
        for (bound, count) in bounds.iter().zip(&counts) {
            so_far += count;
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {so_far}");
        }
        let sum = f64::from_bits(self.sum_bits.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {all}");
        let _ = writeln!(out, "{name}_sum{braces} {sum}\n{name}_count{braces} {all}");
    }
}

/// Appends all series of one shape, each with its labels.
pub(in crate::telemetry) fn render_histogram<'a>(
    shape: &HistogramSpec,
    all: impl IntoIterator<Item = (&'a str, &'a Histogram)>,
    out: &mut String,
) {
    let mut series = String::new();
    all.into_iter().for_each(|(labels, histogram)| histogram.write(labels, &mut series));
    if !series.is_empty() {
        let HistogramSpec { name, help, .. } = shape;
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram\n{series}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TEST_SPEC: HistogramSpec = HistogramSpec { name: "x", help: "X.", bounds: &[0.5, 2.0] };

    fn render_text(labels: &str, values: &[f64]) -> String {
        let (histogram, mut text) = (Histogram::new(&TEST_SPEC), String::new());
        values.iter().for_each(|value| histogram.record(*value));
        render_histogram(&TEST_SPEC, [(labels, &histogram)], &mut text);
        text
    }

    #[test]
    fn each_class_counts_what_is_below_and_the_last_counts_all() {
        let wanted = "# HELP x X.\n# TYPE x histogram\nx_bucket{a=\"b\",le=\"0.5\"} 2\nx_bucket{a=\"b\",le=\"2\"} 2\n\
            x_bucket{a=\"b\",le=\"+Inf\"} 3\nx_sum{a=\"b\"} 7.75\nx_count{a=\"b\"} 3\n\n";
        assert_eq!(render_text("a=\"b\"", &[0.5, 0.25, 7.0]), wanted);
        assert!(render_text("", &[1.0]).ends_with("x_bucket{le=\"+Inf\"} 1\nx_sum 1\nx_count 1\n\n"));
    }

    #[test]
    fn nothing_is_written_of_nothing() {
        assert_eq!(render_text("a=\"b\"", &[]), "");
    }
}
