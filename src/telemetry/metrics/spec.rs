//! A row of the metric table.

/// The description of one metric. Name, labels and unit are a public contract.
pub(super) struct MetricSpec {
    pub(super) name: &'static str,
    /// Label names in the order in which label values are given; empty for a metric with one series.
    pub(super) labels: &'static [&'static str],
    pub(super) kind: MetricKind,
    /// The unit as written in `docs/metrics.md`.
    pub(super) unit: &'static str,
    /// One or more sentences, used as `# HELP` and in `docs/metrics.md`.
    pub(super) help: &'static str,
}

/// The type of a metric in the Prometheus text format.
#[derive(Clone, Copy)]
pub(super) enum MetricKind {
    Counter,
    Gauge,
    /// A histogram with these upper bucket bounds in ascending order; `+Inf` is implied.
    Histogram(&'static [f64]),
}

/// A section of `docs/metrics.md`.
pub(super) struct MetricSection {
    pub(super) title: &'static str,
    /// Text below the table; may be empty.
    pub(super) note: &'static str,
    pub(super) metrics: &'static [&'static MetricSpec],
}

impl MetricSpec {
    pub(super) const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        unit: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, labels, kind: MetricKind::Counter, unit, help }
    }

    pub(super) const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        unit: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, labels, kind: MetricKind::Gauge, unit, help }
    }

    pub(super) const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        unit: &'static str,
        bounds: &'static [f64],
        help: &'static str,
    ) -> Self {
        Self { name, labels, kind: MetricKind::Histogram(bounds), unit, help }
    }

    /// Returns the upper bucket bounds; empty for counters and gauges.
    pub(super) const fn bounds(&self) -> &'static [f64] {
        match self.kind {
            MetricKind::Histogram(bounds) => bounds,
            MetricKind::Counter | MetricKind::Gauge => &[],
        }
    }
}

impl MetricKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}
