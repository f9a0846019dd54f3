//! The health of a pool member: failures, checks, stalls, busy answers, and the retry budget.

pub(super) mod activity;
pub(super) mod busy_backoff;
pub(super) mod member_health;
pub(super) mod port_state;
pub(super) mod retry_budget;
pub(super) mod stall_detector;
