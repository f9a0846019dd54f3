//! `docs/metrics.md`, rendered from the metric table.

use std::fmt::Write;

use super::names::SECTIONS;
use super::spec::{MetricKind, MetricSpec};

const INTRODUCTION: &str = "# Metrics

<!-- Generated from src/telemetry/metrics/names.rs: UPDATE=1 cargo test --test it tokens::metrics -->

The admin listener (`127.0.0.1:9464` by default) serves `/metrics` in the Prometheus text format.

- Names, labels and units are a contract: they change only with a line in the changelog.
- Label values come from the configuration and from the replicas' model lists, never from a client. `model` is empty if no
  replica lists the requested model.
- Series of a removed replica disappear 15 minutes after its removal, so that the last values are scraped. Its load gauges
  disappear at once.
";

const DASHBOARD: &str = "
## Prometheus and Grafana

1. Scrape the routers: [config/prometheus/prometheus.yml](../config/prometheus/prometheus.yml) has one; add yours to its
   targets.
2. Import [config/grafana/tokenweir.json](../config/grafana/tokenweir.json) into Grafana 10 or later (*Dashboards*, *New*,
   *Import*). Its rows read from top to bottom: now, latency, balance, engines, trouble; by pool, model and replica.

3. Alerts are in [config/prometheus/rules.yml](../config/prometheus/rules.yml), with what to do in each: a router down, a pool
   without a replica, a replica ejected, imbalance, slow first tokens (95 % within 2 s, by burn rate), retries, log lines lost.
   `promtool test rules rules.test.yml` runs their tests.

`.ci/prometheus` runs Prometheus with these files against two replicas under load and evaluates every panel.
";

/// Returns the text of `docs/metrics.md`.
pub fn metrics_markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    for section in &SECTIONS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n## {}\n\n| metric | labels | unit | meaning |\n|---|---|---|---|", section.title);
        for spec in section.metrics {
            write_row(spec, &mut text);
        }
        if !section.note.is_empty() {
            let _ = writeln!(text, "\n{}", section.note);
        }
    }
    text.push_str(DASHBOARD);
    text
}

fn write_row(spec: &MetricSpec, text: &mut String) {
    let labels: Vec<String> = spec.labels.iter().map(|label| format!("`{label}`")).collect();
    let kind = match spec.kind {
        MetricKind::Histogram(_) => "Histogram. ",
        MetricKind::Counter | MetricKind::Gauge => "",
    };
    let _ = writeln!(text, "| `{}` | {} | {} | {kind}{} |", spec.name, labels.join(", "), spec.unit, spec.help);
}
