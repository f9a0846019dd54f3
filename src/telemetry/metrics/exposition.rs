//! The Prometheus text format.

use std::fmt::{Display, Write};

use super::histogram::Histogram;
use super::spec::MetricSpec;

/// The body of a scrape.
pub(super) struct Exposition {
    text: String,
}

/// The samples of one metric.
pub(super) struct SampleWriter<'a> {
    spec: &'a MetricSpec,
    text: &'a mut String,
}

impl Exposition {
    /// Returns an exposition that begins with `text`.
    pub(super) const fn new(text: String) -> Self {
        Self { text }
    }

    /// Appends a metric with the samples that `write` adds; without samples, nothing.
    pub(super) fn write_metric(&mut self, spec: &MetricSpec, write: impl FnOnce(&mut SampleWriter<'_>)) {
        let start = self.text.len();
        let MetricSpec { name, kind, help, .. } = spec;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        let header_end = self.text.len();
        write(&mut SampleWriter { spec, text: &mut self.text });
        if self.text.len() == header_end {
            self.text.truncate(start);
        } else {
            self.text.push('\n');
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl SampleWriter<'_> {
    /// Appends a sample of a counter or gauge. `label_values` are in the order of [`MetricSpec::labels`].
    pub(super) fn sample(&mut self, label_values: &[&str], value: impl Display) {
        self.text.push_str(self.spec.name);
        let labels = self.format_labels(label_values);
        self.write_value(&labels, value);
    }

    /// Appends a series of a histogram; a histogram without observations has none.
    pub(super) fn histogram(&mut self, label_values: &[&str], histogram: &Histogram) {
        let (counts, sum) = histogram.snapshot();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let labels = self.format_labels(label_values);
        let comma = if labels.is_empty() { "" } else { "," };
        let name = self.spec.name;
        let mut cumulative = 0;
        for (bound, count) in self.spec.bounds().iter().zip(&counts) {
            cumulative += count;
            let _ = writeln!(self.text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulative}");
        }
        let _ = writeln!(self.text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
        let _ = write!(self.text, "{name}_sum");
        self.write_value(&labels, sum);
        let _ = write!(self.text, "{name}_count");
        self.write_value(&labels, total);
    }

    fn write_value(&mut self, labels: &str, value: impl Display) {
        let _ = if labels.is_empty() {
            writeln!(self.text, " {value}")
        } else {
            writeln!(self.text, "{{{labels}}} {value}")
        };
    }

    fn format_labels(&self, values: &[&str]) -> String {
        debug_assert_eq!(values.len(), self.spec.labels.len(), "{}", self.spec.name);
        let mut labels = String::new();
        for (label, value) in self.spec.labels.iter().zip(values) {
            let comma = if labels.is_empty() { "" } else { "," };
            let _ = write!(labels, "{comma}{label}=\"");
            push_escaped(value, &mut labels);
            labels.push('"');
        }
        labels
    }
}

/// Appends a label value, escaped as the text format requires.
fn push_escaped(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static GAUGE: MetricSpec = MetricSpec::gauge("g", &["a", "b"], "x", "G.");
    static PLAIN: MetricSpec = MetricSpec::histogram("x", &[], "x", &[0.5, 2.0], "X.");
    static LABELLED: MetricSpec = MetricSpec::histogram("x", &["a"], "x", &[0.5, 2.0], "X.");

    fn render(spec: &'static MetricSpec, label_values: &[&str], observed: &[f64]) -> String {
        let (histogram, mut exposition) = (Histogram::new(spec), Exposition::new(String::new()));
        observed.iter().for_each(|value| histogram.record(*value));
        exposition.write_metric(spec, |samples| samples.histogram(label_values, &histogram));
        exposition.into_text()
    }

    #[test]
    fn buckets_are_cumulative_and_the_last_counts_all() {
        let wanted = "# HELP x X.\n# TYPE x histogram\nx_bucket{a=\"b\",le=\"0.5\"} 2\nx_bucket{a=\"b\",le=\"2\"} 2\n\
            x_bucket{a=\"b\",le=\"+Inf\"} 3\nx_sum{a=\"b\"} 7.75\nx_count{a=\"b\"} 3\n\n";
        assert_eq!(render(&LABELLED, &["b"], &[0.5, 0.25, 7.0]), wanted);
        assert!(render(&PLAIN, &[], &[1.0]).ends_with("x_bucket{le=\"+Inf\"} 1\nx_sum 1\nx_count 1\n\n"));
    }

    #[test]
    fn metric_without_samples_is_left_out() {
        assert_eq!(render(&LABELLED, &["b"], &[]), "");
    }

    #[test]
    fn label_value_cannot_end_its_label() {
        let mut exposition = Exposition::new(String::new());
        exposition.write_metric(&GAUGE, |samples| samples.sample(&["a\"} 1\n\\", ""], 5.0));
        assert_eq!(exposition.into_text(), "# HELP g G.\n# TYPE g gauge\ng{a=\"a\\\"} 1\\n\\\\\",b=\"\"} 5\n\n");
    }
}
