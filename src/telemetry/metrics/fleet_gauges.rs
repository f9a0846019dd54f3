//! The metrics that follow what replicas have on them now, and what their engines say of themselves, as Prometheus text.
//!
//! Written out for each scrape and not kept by the recorder, whose series stay once they are there: a replica that has
//! left has no load, and a value is absent where its engine does not tell it, or is too old to be believed.

use std::fmt::Write;
use std::sync::Arc;

use crate::fleet::{EngineReport, Fleet, Replica};
use crate::units::Moment;

/// A metric with a series for each replica of each pool.
pub(in crate::telemetry) struct MetricFamily<T> {
    name: &'static str,
    /// Prometheus's `CONTENT_TYPE`.
    kind: &'static str,
    help: &'static str,
    /// `None` where nobody tells.
    value: fn(&T) -> Option<f64>,
}

impl<T> MetricFamily<T> {
    pub(in crate::telemetry) const fn gauge(
        name: &'static str,
        help: &'static str,
        value: fn(&T) -> Option<f64>,
    ) -> Self {
        Self { name, kind: "gauge", help, value }
    }

    pub(in crate::telemetry) const fn counter(
        name: &'static str,
        help: &'static str,
        value: fn(&T) -> Option<f64>,
    ) -> Self {
        Self { name, kind: "counter", help, value }
    }
}

/// Appends what is so at `now`, family by family; nothing of a family without any value.
pub(in crate::telemetry) fn render_families(
    replicas: &[MetricFamily<Replica>],
    engines: &[MetricFamily<EngineReport>],
    (fleet, now): (&Fleet, Moment),
    out: &mut String,
) {
    let mut all = Vec::new();
    let mut told = Vec::new();
    for pool in fleet.pools() {
        for replica in pool.replicas() {
            let labels = format!("pool=\"{}\",replica=\"{}\"", escape_label(pool.name()), escape_label(replica.name()));
            told.extend(replica.engine_report(now).map(|truth| (labels.clone(), truth)));
            all.push((labels, replica.clone()));
        }
    }
    replicas.iter().for_each(|family| family.write(&all, out));
    engines.iter().for_each(|family| family.write(&told, out));
}

impl<T> MetricFamily<T> {
    fn write(&self, all: &[(String, Arc<T>)], out: &mut String) {
        let Self { name, kind, help, value } = self;
        let mut values = all.iter().filter_map(|(labels, of)| Some((labels, value(of)?))).peekable();
        if values.peek().is_none() {
            return;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
        out.push('\n');
    }
}

/// A label's value as the text format wants it.
pub(in crate::telemetry) fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_label() {
        assert_eq!(escape_label("a\"} 1\n\\"), "a\\\"} 1\\n\\\\");
    }
}
