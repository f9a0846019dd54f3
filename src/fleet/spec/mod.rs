//! The description of a fleet: the configuration's view of pools and replicas, as plain data.

pub(super) mod failure_policy;
pub(super) mod fleet;
pub(super) mod member;
pub(super) mod origin;
pub(super) mod path_policy;
pub(super) mod pool;
pub(super) mod sticky;
pub(super) mod tls;
