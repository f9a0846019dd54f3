//! One generation of the fleet.

use std::sync::Arc;

use super::{Pool, Replica, RoutedPools};
use crate::routes::RouteTable;

/// One generation of the fleet: never changed, only replaced.
#[derive(Default)]
pub(super) struct FleetSnapshot {
    pub(super) pools: Vec<Arc<Pool>>,
    pub(super) routes: Arc<RouteTable>,
    /// The pools of each route, in the order of `routes`.
    pub(super) routed_pools: Vec<Arc<RoutedPools>>,
    /// All replicas, each once.
    pub(super) replicas: Vec<Arc<Replica>>,
    /// Whether some pool's policy has a hash key from the request's body.
    pub(super) needs_body: bool,
    /// Whether some pool's policy uses prompt fingerprints.
    pub(super) needs_prefix: bool,
    /// Whether some pool cuts clients' metadata from bodies.
    pub(super) cuts_metadata: bool,
}

impl FleetSnapshot {
    /// Returns the pool called `name`.
    pub(super) fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| &**pool.name() == name)
    }
}
