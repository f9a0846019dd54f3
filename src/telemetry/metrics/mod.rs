//! The metrics of the process. [`names`] has every metric in one table; each other file counts one group of them.

mod exposition;
mod fleet_gauges;
mod histogram;
mod labelled_series;
mod markdown;
mod names;
mod recorder;
mod replica;
mod shadow;
mod spec;
mod status_counters;
mod tenant;
mod totals;

use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;

use crate::fleet::{Fleet, LeaseObserver, LeaseReport};
use crate::units::{Moment, Usage};
use exposition::Exposition;
use histogram::Histogram;
use recorder::CounterRecorder;
use replica::ReplicaMetrics;
use shadow::ShadowMetrics;
use status_counters::StatusCounters;
use tenant::TenantMetrics;

pub use markdown::metrics_markdown;
pub use totals::{ReplicaTotals, ShadowTotals, ttft_bounds};

/// The process's metrics. Label values come from the configuration and from replicas' model lists, never from a client.
pub struct Metrics {
    recorder: CounterRecorder,
    requests: StatusCounters,
    overhead: Histogram,
    handshakes_failed: Counter,
    log_lines_lost: Counter,
    replica_metrics: ReplicaMetrics,
    tenant_metrics: TenantMetrics,
    shadow_metrics: ShadowMetrics,
}

impl Metrics {
    /// Returns metrics in which nothing has been counted.
    pub fn new() -> Self {
        let recorder = CounterRecorder::new();
        Self {
            requests: StatusCounters::new(&recorder, &names::REQUESTS, &[]),
            overhead: Histogram::new(&names::OVERHEAD),
            handshakes_failed: recorder.counter(&names::TLS_HANDSHAKES_FAILED, &[]),
            log_lines_lost: recorder.counter(&names::LOG_LINES_LOST, &[]),
            replica_metrics: ReplicaMetrics::default(),
            tenant_metrics: TenantMetrics::default(),
            shadow_metrics: ShadowMetrics::default(),
            recorder,
        }
    }

    /// Records a client connection that failed its TLS handshake.
    pub fn record_handshake_failure(&self) {
        self.handshakes_failed.increment(1);
    }

    /// Records an answered request: its status, 0 if the client left before there was one, and the router's own time
    /// from the last byte of the request to its first byte to a replica; `None` if it was sent to none.
    pub fn record_response(&self, status: u16, overhead: Option<Duration>) {
        self.requests.record(status);
        if let Some(overhead) = overhead {
            self.overhead.record(overhead.as_secs_f64());
        }
    }

    /// Records a request that was answered to a client with the API key `tenant`, and its tokens if they are known.
    pub fn record_tenant_response(&self, tenant: &Arc<str>, status: u16, usage: Option<Usage>) {
        self.tenant_metrics.record(&self.recorder, tenant, status, usage);
    }

    /// Removes the series of replicas that were removed a while ago. [`Metrics::render`] does so too.
    pub fn sync_replicas(&self, fleet: &Fleet, now: Moment) {
        self.replica_metrics.sync_replicas(fleet, now);
    }

    /// Returns the totals of every replica in every pool.
    pub fn replica_totals(&self) -> Vec<ReplicaTotals> {
        self.replica_metrics.totals()
    }

    /// Returns the totals of every shadow policy.
    pub fn shadow_totals(&self) -> Vec<ShadowTotals> {
        self.shadow_metrics.totals()
    }

    /// Returns all metrics in the Prometheus text format.
    pub fn render(&self, fleet: &Fleet, now: Moment, log_lines_lost: u64) -> String {
        self.log_lines_lost.absolute(log_lines_lost);
        let mut exposition = Exposition::new(self.recorder.render());
        exposition.write_metric(&names::OVERHEAD, |samples| samples.histogram(&[], &self.overhead));
        self.sync_replicas(fleet, now);
        self.replica_metrics.render(&mut exposition);
        fleet_gauges::render_fleet(fleet, now, &mut exposition);
        exposition.into_text()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl LeaseObserver for Metrics {
    fn on_settled(&self, report: &LeaseReport<'_>) {
        self.replica_metrics.record(report);
        if let Some(result) = report.shadow_result {
            self.shadow_metrics.record(&self.recorder, report.pool, result);
        }
    }
}
