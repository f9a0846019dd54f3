//! Every metric there is: names, help, units and buckets. A public contract.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Counter, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::failing;
use super::families::{self, Family, escaped};
use super::gaps::{self, AllGaps};
use super::shadows::{self, Shadows};
use super::tenants::Tenants;
use crate::fleet::{Fleet, GAP_SECONDS, Observer, Outcome, Pool, Replica, Report, Truth};
use crate::units::{ModelName, Usage};

const REQUESTS: &str = "tokenweir_requests_total";
const ATTEMPTS: &str = "tokenweir_attempts_total";
const IN_FLIGHT: &str = "tokenweir_in_flight";
const PREFILL: &str = "tokenweir_prefill_tokens";
const RESIDENT: &str = "tokenweir_resident_tokens";
const DECODING: &str = "tokenweir_decoding_streams";
const PROMPT_TOKENS: &str = "tokenweir_prompt_tokens_total";
const CACHED_TOKENS: &str = "tokenweir_cached_prompt_tokens_total";
const COMPLETION_TOKENS: &str = "tokenweir_completion_tokens_total";
const TTFT: &str = "tokenweir_ttft_seconds";
const ITL: &str = "tokenweir_itl_seconds";
const TPOT: &str = "tokenweir_tpot_seconds";
const STREAM_SPEED: &str = "tokenweir_stream_tokens_per_second";
const ESTIMATE_ERROR: &str = "tokenweir_prompt_estimate_error_ratio";
const DURATION: &str = "tokenweir_duration_seconds";
const OVERHEAD: &str = "tokenweir_overhead_seconds";
const HANDSHAKES_FAILED: &str = "tokenweir_tls_handshakes_failed_total";
pub(super) const TENANT_REQUESTS: &str = "tokenweir_tenant_requests_total";
pub(super) const TENANT_PROMPT: &str = "tokenweir_tenant_prompt_tokens_total";
pub(super) const TENANT_COMPLETION: &str = "tokenweir_tenant_completion_tokens_total";
const LOG_LOST: &str = "tokenweir_log_lines_lost_total";

/// What is on a replica now.
const LOADS: [Family<Replica>; 4] = [
    Family::gauge(IN_FLIGHT, "Requests on the replica now, from every pool that has it.", |replica| {
        Some(f64::from(replica.in_flight()))
    }),
    Family::gauge(PREFILL, "Prompt tokens of requests on the replica that have had no first token yet.", |replica| {
        Some(replica.load().prefill.0 as f64)
    }),
    Family::gauge(RESIDENT, "Prompt and generated tokens of all requests on the replica.", |replica| {
        Some(replica.load().resident.0 as f64)
    }),
    Family::gauge(DECODING, "Streams on the replica that have had their first token.", |replica| {
        Some(f64::from(replica.load().decoding))
    }),
];

/// What engines say of themselves, and what of it is not ours.
const ENGINES: [Family<Truth>; 8] = [
    Family::gauge("tokenweir_engine_requests_running", "Requests in the engine's batch, as it says.", |truth| {
        Some(f64::from(truth.vitals.running))
    }),
    Family::gauge("tokenweir_engine_requests_waiting", "Requests in the engine's queue, as it says.", |truth| {
        Some(f64::from(truth.vitals.waiting))
    }),
    Family::gauge(
        "tokenweir_engine_kv_usage_ratio",
        "Share of the KV memory that requests hold, as the engine says.",
        |truth| truth.vitals.kv_usage,
    ),
    Family::gauge(
        "tokenweir_engine_kv_tokens",
        "Tokens that the engine's KV memory has room for, as it says.",
        |truth| truth.vitals.kv_capacity.map(|tokens| tokens.0 as f64),
    ),
    Family::gauge(
        "tokenweir_foreign_requests",
        "Requests on the engine that did not come through this router.",
        |truth| Some(f64::from(truth.foreign.requests)),
    ),
    Family::gauge("tokenweir_foreign_tokens", "Prompt and generated tokens of those requests, estimated.", |truth| {
        Some(truth.foreign.load.resident.0 as f64)
    }),
    Family::counter(
        "tokenweir_engine_prompt_tokens_total",
        "Prompt tokens by the engine's own count, whoever asked.",
        |truth| truth.vitals.prompt.map(|tokens| tokens.0 as f64),
    ),
    Family::counter("tokenweir_engine_completion_tokens_total", "Generated tokens, likewise.", |truth| {
        truth.vitals.generated.map(|tokens| tokens.0 as f64)
    }),
];

/// Seconds, from a cached prefix on a fast engine to a long prefill in a queue.
const WAIT_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    320.0, 640.0,
];
/// Tokens a second.
const SPEED_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0];
/// Shares of the prompt.
const ERROR_BUCKETS: &[f64] = &[0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0];
/// Seconds of the router's own work, from 10 us to 50 ms.
const OVERHEAD_BUCKETS: &[f64] =
    &[10e-6, 20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 10e-3, 50e-3];

/// What is counted of one replica in one pool, looked up once and kept.
struct Series {
    pool: Arc<str>,
    replica: Arc<str>,
    outcomes: [(&'static str, Counter); 6],
    duration: Histogram,
    /// By model.
    tokens: ArcSwap<Vec<Arc<TokenSeries>>>,
}

/// What is counted of one model on one replica in one pool.
struct TokenSeries {
    model: Option<ModelName>,
    prompt: Counter,
    cached: Counter,
    completion: Counter,
    ttft: Histogram,
    itl: AllGaps,
    tpot: Histogram,
    speed: Histogram,
    error: Histogram,
}

/// The process's metrics. Labels come from the configuration and from replicas' own answers, never from a client.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    series: ArcSwap<Vec<Arc<Series>>>,
    tenants: Tenants,
    requests: [Counter; 6],
    overhead: Histogram,
    handshakes_failed: Counter,
    shadows: Shadows,
}

/// Classes of statuses, by their first digit.
pub(super) const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn count(classes: &[Counter; 6], status: u16) {
    classes.get(usize::from(status / 100)).unwrap_or(&classes[0]).increment(1);
}

fn metadata() -> Metadata<'static> {
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()))
}

impl Metrics {
    /// Metrics that nothing has been counted in.
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        let buckets = [
            (TTFT, WAIT_BUCKETS),
            (TPOT, &GAP_SECONDS),
            (STREAM_SPEED, SPEED_BUCKETS),
            (ESTIMATE_ERROR, ERROR_BUCKETS),
            (DURATION, WAIT_BUCKETS),
            (OVERHEAD, OVERHEAD_BUCKETS),
        ];
        for (name, buckets) in buckets {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
                .expect("the bucket lists above are not empty");
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        describe(&recorder);
        let requests = CLASSES.map(|class| counter(&recorder, REQUESTS, vec![Label::new("status", class)]));
        let overhead = histogram(&recorder, OVERHEAD, Vec::new());
        let handshakes_failed = counter(&recorder, HANDSHAKES_FAILED, Vec::new());
        let (series, tenants, shadows) = (ArcSwap::default(), Tenants::default(), Shadows::default());
        Self { handle, series, tenants, requests, overhead, handshakes_failed, shadows, recorder }
    }

    /// Counts a client that could not agree on TLS with us.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.increment(1);
    }

    /// Counts one answered request by its status, 0 if the client left before there was one, and the time the router
    /// itself took from the last byte of the request to its first byte to a replica.
    pub fn answered(&self, status: u16, overhead: Option<Duration>) {
        count(&self.requests, status);
        if let Some(overhead) = overhead {
            self.overhead.record(overhead.as_secs_f64());
        }
    }

    /// Counts a request that was answered to whoever has the key called `tenant`, and the tokens that it came to.
    pub fn answered_to(&self, tenant: &Arc<str>, status: u16, usage: Option<Usage>) {
        let series = self.tenants.of(tenant, &self.recorder);
        count(&series.requests, status);
        if let Some(usage) = usage {
            series.prompt.increment(usage.prompt.0);
            series.completion.increment(usage.completion.0);
        }
    }

    /// The whole exposition as Prometheus text. Gauges are read from the fleet now, so they cannot drift.
    pub fn render(&self, fleet: &Fleet, now: crate::units::Moment, log_lines_lost: u64) -> String {
        counter(&self.recorder, LOG_LOST, Vec::new()).absolute(log_lines_lost);
        let mut text = self.handle.render();
        self.render_gaps(&mut text);
        families::render(&LOADS, &ENGINES, (fleet, now), &mut text);
        failing::render(fleet, now, &mut text);
        text
    }

    /// Adds up what the recorder keeps sample by sample until it is asked: without it an unread process would grow.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn render_gaps(&self, out: &mut String) {
        let series = self.series.load();
        let tokens: Vec<_> = series.iter().map(|series| (series, series.tokens.load())).collect();
        let all = tokens.iter().flat_map(|(series, tokens)| {
            tokens.iter().map(|of| {
                let model = of.model.as_ref().map(ModelName::as_str).unwrap_or_default();
                let [pool, replica, model] = [&*series.pool, &*series.replica, model].map(escaped);
                (format!("pool=\"{pool}\",replica=\"{replica}\",model=\"{model}\""), &of.itl)
            })
        });
        gaps::render(ITL, all, out);
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
        let labels = || labels(pool, replica);
        let outcome = |name: &'static str| {
            let mut labels = labels();
            labels.push(Label::new("outcome", name));
            (name, counter(&self.recorder, ATTEMPTS, labels))
        };
        Series {
            pool: pool.name().clone(),
            replica: replica.name().clone(),
            outcomes: ["completed", "client_gone", "refused", "busy", "failed", "ours"].map(outcome),
            duration: histogram(&self.recorder, DURATION, labels()),
            tokens: ArcSwap::default(),
        }
    }

    /// The series of the report's model; made when it is first asked for.
    fn tokens(&self, series: &Series, report: &Report<'_>) -> Arc<TokenSeries> {
        let known = |list: &[Arc<TokenSeries>]| list.iter().find(|s| s.model.as_ref() == report.model).cloned();
        if let Some(found) = known(&series.tokens.load()) {
            return found;
        }
        let labels = || {
            let model = report.model.map(ModelName::to_string).unwrap_or_default();
            let mut labels = labels(report.pool, report.replica);
            labels.push(Label::new("model", model));
            labels
        };
        let made = Arc::new(TokenSeries {
            model: report.model.cloned(),
            prompt: counter(&self.recorder, PROMPT_TOKENS, labels()),
            cached: counter(&self.recorder, CACHED_TOKENS, labels()),
            completion: counter(&self.recorder, COMPLETION_TOKENS, labels()),
            ttft: histogram(&self.recorder, TTFT, labels()),
            itl: AllGaps::default(),
            tpot: histogram(&self.recorder, TPOT, labels()),
            speed: histogram(&self.recorder, STREAM_SPEED, labels()),
            error: histogram(&self.recorder, ESTIMATE_ERROR, labels()),
        });
        series.tokens.rcu(|list| match known(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
        });
        known(&series.tokens.load()).unwrap_or(made)
    }
}

impl TokenSeries {
    fn count(&self, report: &Report<'_>) {
        if let Some(usage) = counted(report) {
            self.prompt.increment(usage.prompt.0);
            self.cached.increment(usage.cached.unwrap_or_default().0);
            self.completion.increment(usage.completion.0);
        }
        let Some((first, last)) = report.first_token.zip(report.last_token) else { return };
        self.ttft.record(first.since(report.chosen).as_secs_f64());
        self.itl.add(report.gaps);
        let (seconds, tokens) = (last.since(first).as_secs_f64(), report.usage.unwrap_or(report.estimated).completion);
        if tokens.0 > 1 && seconds > 0.0 {
            let per_token = seconds / (tokens.0 - 1) as f64;
            self.tpot.record(per_token);
            self.speed.record(1.0 / per_token);
        }
        if let Some(usage) = report.usage.filter(|usage| usage.prompt.0 > 0) {
            let ratio = report.estimated.prompt.0 as f64 / usage.prompt.0 as f64;
            self.error.record((ratio - 1.0).abs());
        }
    }
}

/// The tokens a request came to: as reported, or where a stream ended before it was, as estimated. `None` if as far as
/// one can tell nothing was computed.
fn counted(report: &Report<'_>) -> Option<Usage> {
    report.usage.or_else(|| report.first_token.map(|_| report.estimated))
}

fn labels(pool: &Pool, replica: &Replica) -> Vec<Label> {
    vec![
        Label::new("pool", SharedString::from_shared(pool.name().clone())),
        Label::new("replica", SharedString::from_shared(replica.name().clone())),
    ]
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
        if report.outcome == Outcome::Completed {
            series.duration.record(report.ended.since(report.chosen).as_secs_f64());
        }
        if counted(report).is_some() {
            self.tokens(&series, report).count(report);
        }
        if let Some(shadowed) = report.shadowed {
            self.shadows.count(&self.recorder, report.pool.name(), shadowed);
        }
    }
}

fn describe(recorder: &PrometheusRecorder) {
    let counters = [
        (REQUESTS, "Requests answered, by the class of the status; `other`: the client left first."),
        (ATTEMPTS, "Requests sent to a replica, by how they ended."),
        (PROMPT_TOKENS, "Prompt tokens as reported by the replicas, estimated of streams that ended before they were."),
        (CACHED_TOKENS, "Prompt tokens the replicas found in their prefix cache, as reported by them."),
        (COMPLETION_TOKENS, "Generated tokens, likewise."),
        (HANDSHAKES_FAILED, "Connections of clients that ended in their TLS handshake."),
        (TENANT_REQUESTS, "Requests answered to a key's clients, by the class of the status."),
        (TENANT_PROMPT, "Prompt tokens of a key's clients, as reported by the replicas."),
        (TENANT_COMPLETION, "Tokens generated for a key's clients, as reported by the replicas."),
        (LOG_LOST, "Log lines dropped because the log could not be written fast enough."),
    ];
    for (name, help) in counters.into_iter().chain(shadows::HELP) {
        recorder.describe_counter(KeyName::from(name), Some(Unit::Count), help.into());
    }
    let histograms = [
        (TTFT, Unit::Seconds, "From the choice of the replica to the first generated content of a stream."),
        (TPOT, Unit::Seconds, "From a stream's first to its last content, for each token after the first."),
        (STREAM_SPEED, Unit::Count, "Tokens a second of a stream after its first token: 1 / TPOT."),
        (ESTIMATE_ERROR, Unit::Count, "How far the estimate of a prompt's length was off, as a share of the length."),
        (DURATION, Unit::Seconds, "From the choice of the replica to the end of a completed answer."),
        (OVERHEAD, Unit::Seconds, "From the last byte of the request to its first byte to a replica."),
    ];
    for (name, unit, help) in histograms {
        recorder.describe_histogram(name.into(), Some(unit), help.into());
    }
}

pub(super) fn counter(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &metadata())
}

fn histogram(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Histogram {
    recorder.register_histogram(&Key::from_parts(name, labels), &metadata())
}
