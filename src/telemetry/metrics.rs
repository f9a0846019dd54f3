//! Every metric there is: names, help, units and buckets. A public contract.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::fleet::{Fleet, Observer, Outcome, Pool, Replica, Report};

const REQUESTS: &str = "tokenweir_requests_total";
const ATTEMPTS: &str = "tokenweir_attempts_total";
const IN_FLIGHT: &str = "tokenweir_in_flight";
const READY: &str = "tokenweir_pool_ready";
const PROMPT_TOKENS: &str = "tokenweir_prompt_tokens_total";
const CACHED_TOKENS: &str = "tokenweir_cached_prompt_tokens_total";
const COMPLETION_TOKENS: &str = "tokenweir_completion_tokens_total";
const TTFT: &str = "tokenweir_ttft_seconds";
const DURATION: &str = "tokenweir_duration_seconds";
const OVERHEAD: &str = "tokenweir_overhead_seconds";
const HANDSHAKES_FAILED: &str = "tokenweir_tls_handshakes_failed_total";
const LOG_LOST: &str = "tokenweir_log_lines_lost_total";

/// Seconds, from a cached prefix on a fast engine to a long prefill in a queue.
const WAIT_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    320.0, 640.0,
];
/// Seconds of the router's own work, from 10 us to 50 ms.
const OVERHEAD_BUCKETS: &[f64] =
    &[10e-6, 20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 10e-3, 50e-3];

/// Counters of one replica in one pool, looked up once and kept.
struct Series {
    pool: Arc<str>,
    replica: Arc<str>,
    outcomes: [(&'static str, Counter); 6],
    prompt: Counter,
    cached: Counter,
    completion: Counter,
    ttft: Histogram,
    duration: Histogram,
    in_flight: Gauge,
}

/// The process's metrics. Labels come from the configuration and from replicas' own answers, never from a client.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    series: ArcSwap<Vec<Arc<Series>>>,
    requests: [Counter; 6],
    overhead: Histogram,
    handshakes_failed: Counter,
}

fn metadata() -> Metadata<'static> {
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()))
}

impl Metrics {
    /// Metrics that nothing has been counted in.
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for (name, buckets) in [(TTFT, WAIT_BUCKETS), (DURATION, WAIT_BUCKETS), (OVERHEAD, OVERHEAD_BUCKETS)] {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
                .expect("the bucket lists above are not empty");
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        describe(&recorder);
        let class = |class: &'static str| counter(&recorder, REQUESTS, vec![Label::new("status", class)]);
        let requests = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"].map(class);
        let overhead = histogram(&recorder, OVERHEAD, Vec::new());
        let handshakes_failed = counter(&recorder, HANDSHAKES_FAILED, Vec::new());
        Self { handle, series: ArcSwap::default(), requests, overhead, handshakes_failed, recorder }
    }

    /// Counts a client that could not agree on TLS with us.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.increment(1);
    }

    /// Counts one answered request by its status, 0 if the client left before there was one, and the time the router
    /// itself took from the last byte of the request to its first byte to a replica.
    pub fn answered(&self, status: u16, overhead: Option<Duration>) {
        let class = usize::from(status / 100);
        self.requests.get(class).unwrap_or(&self.requests[0]).increment(1);
        if let Some(overhead) = overhead {
            self.overhead.record(overhead.as_secs_f64());
        }
    }

    /// The whole exposition as Prometheus text. Gauges are read from the fleet now, so they cannot drift.
    pub fn render(&self, fleet: &Fleet, now: crate::units::Moment, log_lines_lost: u64) -> String {
        for pool in fleet.pools() {
            let labels = vec![Label::new("pool", SharedString::from_shared(pool.name().clone()))];
            gauge(&self.recorder, READY, labels).set(f64::from(u8::from(pool.ready(now))));
            for replica in pool.replicas() {
                self.series(&pool, replica).in_flight.set(f64::from(replica.in_flight()));
            }
        }
        counter(&self.recorder, LOG_LOST, Vec::new()).absolute(log_lines_lost);
        self.handle.run_upkeep();
        self.handle.render()
    }

    fn series(&self, pool: &Pool, replica: &Replica) -> Arc<Series> {
        let known = |list: &[Arc<Series>]| {
            list.iter().find(|s| s.pool == *pool.name() && s.replica == *replica.name()).cloned()
        };
        if let Some(found) = known(&self.series.load()) {
            return found;
        }
        let made = Arc::new(self.make(pool, replica));
        self.series.rcu(|list| match known(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
        });
        known(&self.series.load()).unwrap_or(made)
    }

    fn make(&self, pool: &Pool, replica: &Replica) -> Series {
        let labels = || {
            vec![
                Label::new("pool", SharedString::from_shared(pool.name().clone())),
                Label::new("replica", SharedString::from_shared(replica.name().clone())),
            ]
        };
        let outcome = |name: &'static str| {
            let mut labels = labels();
            labels.push(Label::new("outcome", name));
            (name, counter(&self.recorder, ATTEMPTS, labels))
        };
        Series {
            pool: pool.name().clone(),
            replica: replica.name().clone(),
            outcomes: ["completed", "client_gone", "refused", "busy", "failed", "ours"].map(outcome),
            prompt: counter(&self.recorder, PROMPT_TOKENS, labels()),
            cached: counter(&self.recorder, CACHED_TOKENS, labels()),
            completion: counter(&self.recorder, COMPLETION_TOKENS, labels()),
            ttft: histogram(&self.recorder, TTFT, labels()),
            duration: histogram(&self.recorder, DURATION, labels()),
            in_flight: gauge(&self.recorder, IN_FLIGHT, labels()),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Metrics {
    fn settled(&self, report: &Report<'_>) {
        let series = self.series(report.pool, report.replica);
        let name = report.outcome.as_str();
        if let Some((_, counter)) = series.outcomes.iter().find(|(outcome, _)| *outcome == name) {
            counter.increment(1);
        }
        if let Some(first) = report.first_token {
            series.ttft.record(first.since(report.chosen).as_secs_f64());
        }
        if report.outcome == Outcome::Completed {
            series.duration.record(report.ended.since(report.chosen).as_secs_f64());
        }
        if let Some(usage) = report.usage {
            series.prompt.increment(usage.prompt.0);
            series.cached.increment(usage.cached.unwrap_or_default().0);
            series.completion.increment(usage.completion.0);
        }
    }
}

fn describe(recorder: &PrometheusRecorder) {
    let counters = [
        (REQUESTS, "Requests answered, by the class of the status; `other`: the client left first."),
        (ATTEMPTS, "Requests sent to a replica, by how they ended."),
        (PROMPT_TOKENS, "Prompt tokens as reported by the replicas."),
        (CACHED_TOKENS, "Prompt tokens the replicas found in their prefix cache, as reported by them."),
        (COMPLETION_TOKENS, "Generated tokens as reported by the replicas."),
        (HANDSHAKES_FAILED, "Connections of clients that ended in their TLS handshake."),
        (LOG_LOST, "Log lines dropped because the log could not be written fast enough."),
    ];
    for (name, help) in counters {
        recorder.describe_counter(KeyName::from(name), Some(Unit::Count), help.into());
    }
    recorder.describe_gauge(IN_FLIGHT.into(), None, "Requests on the replica now, from every pool that has it.".into());
    recorder.describe_gauge(READY.into(), None, "1 if the pool has a replica that can be chosen.".into());
    let histograms = [
        (TTFT, Unit::Seconds, "From the choice of the replica to the first generated content of a stream."),
        (DURATION, Unit::Seconds, "From the choice of the replica to the end of a completed answer."),
        (OVERHEAD, Unit::Seconds, "From the last byte of the request to its first byte to a replica."),
    ];
    for (name, unit, help) in histograms {
        recorder.describe_histogram(name.into(), Some(unit), help.into());
    }
}

fn counter(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &metadata())
}

fn gauge(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Gauge {
    recorder.register_gauge(&Key::from_parts(name, labels), &metadata())
}

fn histogram(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Histogram {
    recorder.register_histogram(&Key::from_parts(name, labels), &metadata())
}
