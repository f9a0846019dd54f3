//! The load of a replica: token ledger, engine report, learned speeds and lengths, and an estimate of its prefix cache.

pub(super) mod engine_stats;
pub(super) mod latency;
pub(super) mod ledger;
pub(super) mod length_estimate;
pub(super) mod prefix_cache;
pub(super) mod relative_speed;
pub(super) mod token_intervals;
