//! The statistics of a simulated replica.

use crate::units::Tokens;

/// The state of a replica; totals count from its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SchedulerStats {
    /// Requests in the batch.
    pub running: u32,
    /// Requests in the queue.
    pub waiting: u32,
    /// Share of the KV blocks held by running requests, 0 to 1.
    pub kv_usage: f64,
    /// Prompt and generated tokens of all requests, those in the queue included.
    pub resident: Tokens,
    /// Prompt tokens looked up in the prefix cache.
    pub cache_queries: Tokens,
    /// Prompt tokens found in the prefix cache.
    pub cache_hits: Tokens,
    /// Prompt tokens of requests whose prompt was computed, cached ones included.
    pub prompt: Tokens,
    /// Generated tokens.
    pub generated: Tokens,
    /// Requests put back into the queue because KV memory ran out.
    pub preemptions: u64,
    /// Finished requests.
    pub finished: u64,
    /// Aborted requests.
    pub aborted: u64,
}
