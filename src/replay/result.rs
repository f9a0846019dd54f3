//! What a replay comes to.

use serde::Serialize;

use crate::units::Tokens;

/// What a replay comes to: times in seconds, of the requests that are measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReplayResult {
    /// The policy as it is written.
    pub policy: String,
    /// Mean time from a request's arrival to its first token.
    pub ttft_mean_s: f64,
    /// Its median.
    pub ttft_p50_s: f64,
    /// Its 99th percentile, by nearest rank.
    pub ttft_p99_s: f64,
    /// Mean over answers of at least two tokens of the mean time between them.
    pub tpot_mean_s: f64,
    /// Mean time from a request's arrival to its last token.
    pub e2e_mean_s: f64,
    /// Share of the prompts' tokens that the engines had cached.
    pub hit_pct: f64,
    /// Tokens in flight on the busiest replica by those on the average one, both averaged over time; 1 is even.
    pub imbalance: f64,
    /// Share of the requests that were answered as fast as [`super::Slo`] says.
    pub goodput_pct: f64,
    /// Counts that the above are made of.
    #[serde(skip)]
    pub counts: ReplayCounts,
    /// Prompt tokens that each replica computed and tokens that it generated, over all requests.
    #[serde(skip)]
    pub replica_work: Vec<Tokens>,
}

/// Counts of a replay. Of the engines: over all its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCounts {
    /// Requests in the trace.
    pub requests: u64,
    /// Requests that the figures are of.
    pub measured: u64,
    /// Requests that no engine could take: they need more memory than it has.
    pub refused: u64,
    /// Prompt tokens of the requests that engines answered.
    pub prompt: Tokens,
    /// Those of them that were cached.
    pub cached: Tokens,
    /// Tokens that engines generated.
    pub output: Tokens,
}
