//! The metric table: name, labels, kind, unit and help of every metric. `/metrics` and `docs/metrics.md` follow it.
//!
//! A new metric is a row here, listed in its section, and a call where it is counted.

use super::spec::{MetricSection, MetricSpec};
use crate::fleet::INTERVAL_BOUNDS_SECONDS;

const REPLICA: &[&str] = &["pool", "replica"];
const MODEL: &[&str] = &["pool", "replica", "model"];

/// Seconds, from a cached prefix on a fast engine to a long prefill in a queue.
const WAIT_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    320.0, 640.0,
];
const TOKENS_PER_SECOND: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0];
/// Error as a share of the prompt's length.
const ERROR_RATIO: &[f64] = &[0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0];
/// Seconds of the router's own work, from 10 us to 50 ms.
const OVERHEAD_SECONDS: &[f64] =
    &[10e-6, 20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 10e-3, 50e-3];

pub(super) static REQUESTS: MetricSpec = MetricSpec::counter(
    "tokenweir_requests_total",
    &["status"],
    "requests",
    "Requests answered to clients, by class of status. `other`: the client left before there was a status.",
);
pub(super) static ATTEMPTS: MetricSpec = MetricSpec::counter(
    "tokenweir_attempts_total",
    &["pool", "replica", "outcome"],
    "requests",
    "Requests sent to a replica, by outcome: `completed`, `client_gone`, `refused` (4xx), `busy` (429, 503 or 529), `failed`, \
     `router_error`.",
);
pub(super) static RETRIES: MetricSpec = MetricSpec::counter(
    "tokenweir_retries_total",
    &["pool", "result"],
    "requests",
    "Requests that a replica failed before a byte reached the client: `made` at a second replica, or `denied` by the \
     retry budget.",
);
pub(super) static DURATION: MetricSpec = MetricSpec::histogram(
    "tokenweir_duration_seconds",
    REPLICA,
    "seconds",
    WAIT_SECONDS,
    "Time from the choice of the replica to the end of a completed response.",
);
pub(super) static OVERHEAD: MetricSpec = MetricSpec::histogram(
    "tokenweir_overhead_seconds",
    &[],
    "seconds",
    OVERHEAD_SECONDS,
    "The router's own time, from the last byte of a request to its first byte to a replica.",
);

pub(super) static IN_FLIGHT: MetricSpec = MetricSpec::gauge(
    "tokenweir_in_flight",
    REPLICA,
    "requests",
    "Requests in flight on the replica, from every pool that contains it.",
);
pub(super) static PREFILL_TOKENS: MetricSpec = MetricSpec::gauge(
    "tokenweir_prefill_tokens",
    REPLICA,
    "tokens",
    "Prompt tokens of requests on the replica that have had no first token yet, estimated.",
);
pub(super) static RESIDENT_TOKENS: MetricSpec = MetricSpec::gauge(
    "tokenweir_resident_tokens",
    REPLICA,
    "tokens",
    "Prompt and generated tokens of all requests on the replica, as known so far.",
);
pub(super) static DECODING_STREAMS: MetricSpec = MetricSpec::gauge(
    "tokenweir_decoding_streams",
    REPLICA,
    "streams",
    "Streams on the replica that have had their first token.",
);
pub(super) static POOL_READY: MetricSpec =
    MetricSpec::gauge("tokenweir_pool_ready", &["pool"], "0 or 1", "1 if the pool has a replica that can be chosen.");
pub(super) static EJECTED: MetricSpec =
    MetricSpec::gauge("tokenweir_ejected", REPLICA, "0 or 1", "1 if the replica is ejected.");
pub(super) static EJECTIONS: MetricSpec = MetricSpec::counter(
    "tokenweir_ejections_total",
    &["pool", "replica", "reason"],
    "ejections",
    "Ejections of the replica, by cause: `refused` connections, `failed` requests, `stalled`, or a failed health `check`.",
);

pub(super) static PROMPT_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_prompt_tokens_total",
    MODEL,
    "tokens",
    "Prompt tokens of requests that ended, cached tokens included.",
);
pub(super) static CACHED_PROMPT_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_cached_prompt_tokens_total",
    MODEL,
    "tokens",
    "Prompt tokens that the replica found in its prefix cache, as reported.",
);
pub(super) static ESTIMATED_CACHED_PROMPT_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_estimated_cached_prompt_tokens_total",
    MODEL,
    "tokens",
    "Prompt tokens that the router expected in the replica's prefix cache when it chose.",
);
pub(super) static COMPLETION_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_completion_tokens_total",
    MODEL,
    "tokens",
    "Tokens generated for requests that ended.",
);
pub(super) static TTFT: MetricSpec = MetricSpec::histogram(
    "tokenweir_ttft_seconds",
    MODEL,
    "seconds",
    WAIT_SECONDS,
    "Time from the choice of the replica to the first generated content of a stream.",
);
pub(super) static ITL: MetricSpec = MetricSpec::histogram(
    "tokenweir_itl_seconds",
    MODEL,
    "seconds",
    &INTERVAL_BOUNDS_SECONDS,
    "Time between two events with generated content in a stream; an event may carry several tokens.",
);
pub(super) static TPOT: MetricSpec = MetricSpec::histogram(
    "tokenweir_tpot_seconds",
    MODEL,
    "seconds",
    &INTERVAL_BOUNDS_SECONDS,
    "Time from a stream's first to its last content, per token after the first.",
);
pub(super) static STREAM_TOKENS_PER_SECOND: MetricSpec = MetricSpec::histogram(
    "tokenweir_stream_tokens_per_second",
    MODEL,
    "tokens/s",
    TOKENS_PER_SECOND,
    "Speed of a stream after its first token: 1 / TPOT.",
);
pub(super) static ESTIMATE_ERROR_RATIO: MetricSpec = MetricSpec::histogram(
    "tokenweir_prompt_estimate_error_ratio",
    MODEL,
    "share",
    ERROR_RATIO,
    "Difference between the estimated and the reported prompt length, as a share of the reported length.",
);

pub(super) static ENGINE_REQUESTS_RUNNING: MetricSpec =
    MetricSpec::gauge("tokenweir_engine_requests_running", REPLICA, "requests", "Requests in the engine's batch.");
pub(super) static ENGINE_REQUESTS_WAITING: MetricSpec =
    MetricSpec::gauge("tokenweir_engine_requests_waiting", REPLICA, "requests", "Requests in the engine's queue.");
pub(super) static ENGINE_KV_USAGE_RATIO: MetricSpec = MetricSpec::gauge(
    "tokenweir_engine_kv_usage_ratio",
    REPLICA,
    "share",
    "Share of the engine's KV memory that requests hold.",
);
pub(super) static ENGINE_KV_TOKENS: MetricSpec =
    MetricSpec::gauge("tokenweir_engine_kv_tokens", REPLICA, "tokens", "Capacity of the engine's KV memory.");
pub(super) static ENGINE_PROMPT_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_engine_prompt_tokens_total",
    REPLICA,
    "tokens",
    "Prompt tokens by the engine's own count since it started, from all its clients.",
);
pub(super) static ENGINE_COMPLETION_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_engine_completion_tokens_total",
    REPLICA,
    "tokens",
    "Generated tokens by the engine's own count since it started, for all its clients.",
);
pub(super) static EXTERNAL_REQUESTS: MetricSpec = MetricSpec::gauge(
    "tokenweir_external_requests",
    REPLICA,
    "requests",
    "Requests on the engine that did not come through this router.",
);
pub(super) static EXTERNAL_TOKENS: MetricSpec = MetricSpec::gauge(
    "tokenweir_external_tokens",
    REPLICA,
    "tokens",
    "Prompt and generated tokens of requests that did not come through this router, estimated.",
);

pub(super) static SHADOW_DECISIONS: MetricSpec = MetricSpec::counter(
    "tokenweir_shadow_decisions_total",
    &["pool", "policy", "same"],
    "requests",
    "Requests that ended, by whether the pool's `shadow` policy would have chosen the same replica.",
);
pub(super) static SHADOW_CACHED_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_shadow_cached_tokens_total",
    &["pool", "policy"],
    "tokens",
    "Prompt tokens that would have been cached on the replicas that the `shadow` policy chose, estimated.",
);

pub(super) static TENANT_REQUESTS: MetricSpec = MetricSpec::counter(
    "tokenweir_tenant_requests_total",
    &["tenant", "status"],
    "requests",
    "Requests answered to clients with this API key, by class of status.",
);
pub(super) static TENANT_PROMPT_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_tenant_prompt_tokens_total",
    &["tenant"],
    "tokens",
    "Prompt tokens of clients with this API key, as reported by the replicas.",
);
pub(super) static TENANT_COMPLETION_TOKENS: MetricSpec = MetricSpec::counter(
    "tokenweir_tenant_completion_tokens_total",
    &["tenant"],
    "tokens",
    "Tokens generated for clients with this API key, as reported by the replicas.",
);

pub(super) static TLS_HANDSHAKES_FAILED: MetricSpec = MetricSpec::counter(
    "tokenweir_tls_handshakes_failed_total",
    &[],
    "connections",
    "Client connections that ended in their TLS handshake.",
);
pub(super) static LOG_LINES_LOST: MetricSpec = MetricSpec::counter(
    "tokenweir_log_lines_lost_total",
    &[],
    "lines",
    "Lines of the logs and of the traffic record that were dropped because they could not be written fast enough.",
);

/// Every metric, by section of `docs/metrics.md` and in its order.
pub(super) static SECTIONS: [MetricSection; 7] = [
    MetricSection { title: "Requests", note: "", metrics: &[&REQUESTS, &ATTEMPTS, &RETRIES, &DURATION, &OVERHEAD] },
    MetricSection {
        title: "Replicas",
        note: "",
        metrics: &[&IN_FLIGHT, &PREFILL_TOKENS, &RESIDENT_TOKENS, &DECODING_STREAMS, &POOL_READY, &EJECTED, &EJECTIONS],
    },
    MetricSection {
        title: "Tokens and latency",
        note: "Token totals are those that replicas report; they are counted when a request ends. If the client did not ask \
               for usage, the router requests it and removes it from the stream. A request that ends before its usage \
               arrives counts as estimated.",
        metrics: &[
            &PROMPT_TOKENS,
            &CACHED_PROMPT_TOKENS,
            &ESTIMATED_CACHED_PROMPT_TOKENS,
            &COMPLETION_TOKENS,
            &TTFT,
            &ITL,
            &TPOT,
            &STREAM_TOKENS_PER_SECOND,
            &ESTIMATE_ERROR_RATIO,
        ],
    },
    MetricSection {
        title: "Engines",
        note: "Read from each replica's own `/metrics`. A series is absent if the engine does not report the value. It \
               disappears when the engine has not answered for three times `engine_metrics`.",
        metrics: &[
            &ENGINE_REQUESTS_RUNNING,
            &ENGINE_REQUESTS_WAITING,
            &ENGINE_KV_USAGE_RATIO,
            &ENGINE_KV_TOKENS,
            &ENGINE_PROMPT_TOKENS,
            &ENGINE_COMPLETION_TOKENS,
            &EXTERNAL_REQUESTS,
            &EXTERNAL_TOKENS,
        ],
    },
    MetricSection {
        title: "Shadow policies",
        note: "Present in pools with a `shadow` policy.",
        metrics: &[&SHADOW_DECISIONS, &SHADOW_CACHED_TOKENS],
    },
    MetricSection {
        title: "API keys",
        note: "Present if `[[key]]` tables are configured. `tenant` is the name of the key.",
        metrics: &[&TENANT_REQUESTS, &TENANT_PROMPT_TOKENS, &TENANT_COMPLETION_TOKENS],
    },
    MetricSection { title: "Process", note: "", metrics: &[&TLS_HANDSHAKES_FAILED, &LOG_LINES_LOST] },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_in_one_section() {
        let rows = include_str!("names.rs").matches(": MetricSpec =").count() - 1;
        let mut names: Vec<&str> = SECTIONS.iter().flat_map(|section| section.metrics).map(|spec| spec.name).collect();
        assert_eq!(names.len(), rows);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows);
    }
}
