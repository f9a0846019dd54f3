//! Every metric there is: names, help, units and buckets. A public contract.
//!
//! The recorder keeps what has the configuration's labels. What is of a replica is kept in `series`: replicas come and go,
//! and the recorder forgets nothing, nor any sample of a histogram until it is read.

pub(super) mod gauges;
pub(super) mod health;
pub(super) mod histogram;
pub(super) mod replica;
pub(super) mod shadow;
pub(super) mod tenant;

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::fleet::{EngineReport, Fleet, INTERVAL_BOUNDS_SECONDS, LeaseObserver, LeaseReport, Replica};
use crate::units::{Moment, Usage};
use gauges::MetricFamily;
use histogram::{Histogram, HistogramSpec};
use replica::ReplicaMetrics;
use shadow::ShadowMetrics;
use tenant::TenantMetrics;

const REQUESTS: &str = "tokenweir_requests_total";
const TLS_HANDSHAKES_FAILED: &str = "tokenweir_tls_handshakes_failed_total";
pub(super) const TENANT_REQUESTS: &str = "tokenweir_tenant_requests_total";
pub(super) const TENANT_PROMPT_TOKENS: &str = "tokenweir_tenant_prompt_tokens_total";
pub(super) const TENANT_COMPLETION_TOKENS: &str = "tokenweir_tenant_completion_tokens_total";
const LOG_LINES_LOST: &str = "tokenweir_log_lines_lost_total";

/// A counter of each replica, and what it says.
pub(super) struct CounterSpec {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
}

pub(super) static ATTEMPTS: CounterSpec =
    CounterSpec { name: "tokenweir_attempts_total", help: "Requests sent to a replica, by how they ended." };
pub(super) static PROMPT_TOKENS: CounterSpec = CounterSpec {
    name: "tokenweir_prompt_tokens_total",
    help: "Prompt tokens as reported by the replicas, estimated of streams that ended before they were.",
};
pub(super) static CACHED_PROMPT_TOKENS: CounterSpec = CounterSpec {
    name: "tokenweir_cached_prompt_tokens_total",
    help: "Prompt tokens the replicas found in their prefix cache, as reported by them.",
};
pub(super) static COMPLETION_TOKENS: CounterSpec =
    CounterSpec { name: "tokenweir_completion_tokens_total", help: "Generated tokens, likewise." };

pub(super) static TTFT: HistogramSpec = HistogramSpec {
    name: "tokenweir_ttft_seconds",
    help: "From the choice of the replica to the first generated content of a stream.",
    bounds: WAIT_SECONDS_BUCKETS,
};
pub(super) static ITL: HistogramSpec = HistogramSpec {
    name: "tokenweir_itl_seconds",
    help: "Between two arrivals of generated content in a stream; each may bring several tokens.",
    bounds: &INTERVAL_BOUNDS_SECONDS,
};
pub(super) static TPOT: HistogramSpec = HistogramSpec {
    name: "tokenweir_tpot_seconds",
    help: "From a stream's first to its last content, for each token after the first.",
    bounds: &INTERVAL_BOUNDS_SECONDS,
};
pub(super) static STREAM_TOKENS_PER_SECOND: HistogramSpec = HistogramSpec {
    name: "tokenweir_stream_tokens_per_second",
    help: "Tokens a second of a stream after its first token: 1 / TPOT.",
    bounds: TOKENS_PER_SECOND_BUCKETS,
};
pub(super) static ESTIMATE_ERROR_RATIO: HistogramSpec = HistogramSpec {
    name: "tokenweir_prompt_estimate_error_ratio",
    help: "How far the estimate of a prompt's length was off, as a share of the length.",
    bounds: ERROR_RATIO_BUCKETS,
};
pub(super) static DURATION: HistogramSpec = HistogramSpec {
    name: "tokenweir_duration_seconds",
    help: "From the choice of the replica to the end of a completed answer.",
    bounds: WAIT_SECONDS_BUCKETS,
};
static OVERHEAD: HistogramSpec = HistogramSpec {
    name: "tokenweir_overhead_seconds",
    help: "From the last byte of the request to its first byte to a replica.",
    bounds: OVERHEAD_SECONDS_BUCKETS,
};

/// What is on a replica now.
const LOAD_FAMILIES: [MetricFamily<Replica>; 4] = [
    MetricFamily::gauge(
        "tokenweir_in_flight",
        "Requests on the replica now, from every pool that has it.",
        |replica| Some(f64::from(replica.in_flight())),
    ),
    MetricFamily::gauge(
        "tokenweir_prefill_tokens",
        "Prompt tokens of requests on the replica that have had no first token yet.",
        |replica| Some(replica.load().prefill.0 as f64),
    ),
    MetricFamily::gauge(
        "tokenweir_resident_tokens",
        "Prompt and generated tokens of all requests on the replica.",
        |replica| Some(replica.load().resident.0 as f64),
    ),
    MetricFamily::gauge(
        "tokenweir_decoding_streams",
        "Streams on the replica that have had their first token.",
        |replica| Some(f64::from(replica.load().decoding_streams)),
    ),
];

/// What engines say of themselves, and what of it is not ours.
const ENGINE_FAMILIES: [MetricFamily<EngineReport>; 8] = [
    MetricFamily::gauge("tokenweir_engine_requests_running", "Requests in the engine's batch, as it says.", |truth| {
        Some(f64::from(truth.stats.running))
    }),
    MetricFamily::gauge("tokenweir_engine_requests_waiting", "Requests in the engine's queue, as it says.", |truth| {
        Some(f64::from(truth.stats.waiting))
    }),
    MetricFamily::gauge(
        "tokenweir_engine_kv_usage_ratio",
        "Share of the KV memory that requests hold, as the engine says.",
        |truth| truth.stats.kv_usage,
    ),
    MetricFamily::gauge(
        "tokenweir_engine_kv_tokens",
        "Tokens that the engine's KV memory has room for, as it says.",
        |truth| truth.stats.kv_capacity.map(|tokens| tokens.0 as f64),
    ),
    MetricFamily::gauge(
        "tokenweir_external_requests",
        "Requests on the engine that did not come through this router.",
        |truth| Some(f64::from(truth.external.requests)),
    ),
    MetricFamily::gauge(
        "tokenweir_external_tokens",
        "Prompt and generated tokens of those requests, estimated.",
        |truth| Some(truth.external.load.resident.0 as f64),
    ),
    MetricFamily::counter(
        "tokenweir_engine_prompt_tokens_total",
        "Prompt tokens by the engine's own count, whoever asked.",
        |truth| truth.stats.prompt_tokens.map(|tokens| tokens.0 as f64),
    ),
    MetricFamily::counter("tokenweir_engine_completion_tokens_total", "Generated tokens, likewise.", |truth| {
        truth.stats.generated_tokens.map(|tokens| tokens.0 as f64)
    }),
];

/// Seconds, from a cached prefix on a fast engine to a long prefill in a queue.
const WAIT_SECONDS_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    320.0, 640.0,
];
/// Tokens a second.
const TOKENS_PER_SECOND_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0];
/// Shares of the prompt.
const ERROR_RATIO_BUCKETS: &[f64] = &[0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0];
/// Seconds of the router's own work, from 10 us to 50 ms.
const OVERHEAD_SECONDS_BUCKETS: &[f64] =
    &[10e-6, 20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 10e-3, 50e-3];

/// The process's metrics. Labels come from the configuration and from replicas' own answers, never from a client.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    replica_metrics: ReplicaMetrics,
    tenant_metrics: TenantMetrics,
    requests: [Counter; 6],
    overhead: Histogram,
    handshakes_failed: Counter,
    shadow_metrics: ShadowMetrics,
}

/// Classes of statuses, by their first digit.
pub(super) const STATUS_CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn count_status(classes: &[Counter; 6], status: u16) {
    classes.get(usize::from(status / 100)).unwrap_or(&classes[0]).increment(1);
}

fn metadata() -> Metadata<'static> {
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()))
}

impl Metrics {
    /// Metrics that nothing has been counted in.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        describe_counters(&recorder);
        let requests =
            STATUS_CLASSES.map(|class| register_counter(&recorder, REQUESTS, vec![Label::new("status", class)]));
        let overhead = Histogram::new(&OVERHEAD);
        let handshakes_failed = register_counter(&recorder, TLS_HANDSHAKES_FAILED, Vec::new());
        let (series, tenants, shadows) =
            (ReplicaMetrics::default(), TenantMetrics::default(), ShadowMetrics::default());
        Self {
            handle,
            replica_metrics: series,
            tenant_metrics: tenants,
            requests,
            overhead,
            handshakes_failed,
            shadow_metrics: shadows,
            recorder,
        }
    }

    /// Counts a client that could not agree on TLS with us.
    pub fn record_handshake_failure(&self) {
        self.handshakes_failed.increment(1);
    }

    /// Counts one answered request by its status, 0 if the client left before there was one, and the time the router
    /// itself took from the last byte of the request to its first byte to a replica.
    pub fn record_response(&self, status: u16, overhead: Option<Duration>) {
        count_status(&self.requests, status);
        if let Some(overhead) = overhead {
            self.overhead.record(overhead.as_secs_f64());
        }
    }

    /// Counts a request that was answered to whoever has the key called `tenant`, and the tokens that it came to.
    pub fn record_tenant_response(&self, tenant: &Arc<str>, status: u16, usage: Option<Usage>) {
        let series = self.tenant_metrics.get_or_create(tenant, &self.recorder);
        count_status(&series.requests, status);
        if let Some(usage) = usage {
            series.prompt_tokens.increment(usage.prompt.0);
            series.completion_tokens.increment(usage.completion.0);
        }
    }

    /// Forgets replicas that left a while ago; a scrape does so too.
    pub fn sync_replicas(&self, fleet: &Fleet, now: Moment) {
        self.replica_metrics.sync_replicas(fleet, now);
    }

    /// The whole exposition as Prometheus text. Gauges are read from the fleet now, so they cannot drift.
    pub fn render(&self, fleet: &Fleet, now: Moment, log_lines_lost: u64) -> String {
        register_counter(&self.recorder, LOG_LINES_LOST, Vec::new()).absolute(log_lines_lost);
        let mut text = self.handle.render();
        histogram::render_histogram(&OVERHEAD, [("", &self.overhead)], &mut text);
        self.sync_replicas(fleet, now);
        self.replica_metrics.render(&mut text);
        gauges::render_families(&LOAD_FAMILIES, &ENGINE_FAMILIES, (fleet, now), &mut text);
        health::render_health(fleet, now, &mut text);
        text
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
        if let Some(shadowed) = report.shadow_result {
            self.shadow_metrics.record(&self.recorder, report.pool.name(), shadowed);
        }
    }
}

fn describe_counters(recorder: &PrometheusRecorder) {
    let counters = [
        (REQUESTS, "Requests answered, by the class of the status; `other`: the client left first."),
        (TLS_HANDSHAKES_FAILED, "Connections of clients that ended in their TLS handshake."),
        (TENANT_REQUESTS, "Requests answered to a key's clients, by the class of the status."),
        (TENANT_PROMPT_TOKENS, "Prompt tokens of a key's clients, as reported by the replicas."),
        (TENANT_COMPLETION_TOKENS, "Tokens generated for a key's clients, as reported by the replicas."),
        (LOG_LINES_LOST, "Log lines dropped because the log could not be written fast enough."),
    ];
    for (name, help) in counters.into_iter().chain(shadow::SHADOW_COUNTERS) {
        recorder.describe_counter(KeyName::from(name), Some(Unit::Count), help.into());
    }
}

pub(super) fn register_counter(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &metadata())
}
