//! Pools: replicas that can serve the same requests, and the choice among them.

mod acquire;
pub(super) mod acquire_request;
pub(super) mod eligibility;
mod health;
pub(super) mod lease;
pub(super) mod member;
pub(super) mod member_status;
mod models;
mod observe;
mod state;

pub use health::HealthTransition;
pub use state::Pool;
