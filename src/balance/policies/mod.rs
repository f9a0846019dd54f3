//! The policies, one file each. Their rows are in `balance/table.rs`.

pub(super) mod cache_aware;
pub(super) mod hash;
pub(super) mod ip_hash;
pub(super) mod least_conn;
pub(super) mod least_prefill;
pub(super) mod least_time;
pub(super) mod least_tokens;
pub(super) mod lmetric;
pub(super) mod prefix_hash;
pub(super) mod random;
pub(super) mod round_robin;
pub(super) mod token_cost;
