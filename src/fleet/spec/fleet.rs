//! The description of a fleet.

use std::sync::Arc;

use crate::fleet::PoolSpec;
use crate::routes::RouteTable;

/// All pools, and the routes that lead to them.
#[derive(Clone, Debug)]
pub struct FleetSpec {
    /// The pools, in configuration order.
    pub pools: Vec<PoolSpec>,
    /// The routes; a pool that they name and that is not among `pools` is left out.
    pub routes: Arc<RouteTable>,
}

impl From<Vec<PoolSpec>> for FleetSpec {
    /// The pools with the routes that they name themselves.
    fn from(pools: Vec<PoolSpec>) -> Self {
        let routes = RouteTable::from_pools(pools.iter().map(|pool| (&pool.name, &pool.route)));
        Self { pools, routes: Arc::new(routes) }
    }
}
