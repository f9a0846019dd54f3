//! Floor 2: the state that requests share: pools, replicas and the leases on them. One lock per pool, no I/O, no clock.

mod origin;
mod spec;

pub use origin::{BadOrigin, Origin};
pub use spec::{ApiKey, MemberSpec, Paths, PolicySpec, PoolSpec, Route};
