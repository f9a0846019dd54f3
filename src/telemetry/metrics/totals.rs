//! Totals for readers in the process.

use std::sync::Arc;

use super::names;
use crate::fleet::Outcome;

/// What has been counted for one replica in one pool since the start, over all models.
#[derive(Clone, Debug)]
pub struct ReplicaTotals {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The replica's name.
    pub replica: Arc<str>,
    /// Requests that ended, by [`Outcome::index`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Prompt tokens of requests that ended.
    pub prompt_tokens: u64,
    /// Those of them that the replica reported as cached.
    pub cached_tokens: u64,
    /// Those that the router expected to be cached.
    pub estimated_cached_tokens: u64,
    /// Streams by time to first token, a count per bucket; the bounds are [`ttft_bounds`].
    pub ttft: Vec<u64>,
}

/// What has been counted for one shadow policy since the start.
#[derive(Clone, Debug)]
pub struct ShadowTotals {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The policy's name.
    pub policy: &'static str,
    /// Requests for which it would have chosen the same replica.
    pub same_choices: u64,
    /// Requests for which it would have chosen another.
    pub other_choices: u64,
    /// Prompt tokens that would have been cached on the replicas that it chose.
    pub cached_tokens: u64,
}

/// Returns the upper bounds of the buckets of [`ReplicaTotals::ttft`] in seconds, without the last, which has none.
pub fn ttft_bounds() -> &'static [f64] {
    names::TTFT.bounds()
}
