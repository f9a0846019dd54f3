//! Layer 1: chooses the replica for a request. Pure: candidates and a request in, a slot out.
//!
//! A policy owns no membership, health or retries, and is offered eligible replicas only. A new policy is a file in
//! `policies/`, with its row in `policies/mod.rs`.

mod candidate;
mod entry;
mod error;
mod hash_key;
mod hash_probe;
mod hash_ring;
mod hot_key;
mod key_movement;
#[cfg(test)]
mod laws;
mod policies;
mod policy;
mod seeded_rng;
mod select;
mod smooth_round_robin;
mod spec;

pub use candidate::{Candidate, SlowdownFactors, TokenLoad};
pub use entry::{BuildPolicy, PolicyBasis, PolicyEntry};
pub use error::PolicyError;
pub use hash_key::{HashKey, KeyPart};
pub use key_movement::moved_share;
pub use policies::policy_table;
pub use policy::{Policy, PolicyMember, PolicyRequest};
pub use seeded_rng::SeededRng;
pub use spec::PolicySpec;
