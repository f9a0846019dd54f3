//! The pools of a route, and the choice of one by a request's model.

use std::sync::Arc;

use thiserror::Error;

use super::{ModelListFault, PathPolicy, Pool};
use crate::routes::Route;

/// Why a request has no pool.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PoolLookupError {
    /// No pool has this model.
    #[error("the model does not exist")]
    UnknownModel,
    /// No known replica serves this model, and some have not answered `/v1/models` yet.
    #[error("no replica that has answered /v1/models so far serves the model, and some have not answered yet")]
    ModelsPending,
    /// No known replica serves this model, and some give no list of theirs.
    #[error("no replica that lists its models serves the model, and of another {0}")]
    NoModelList(ModelListFault),
    /// The request names no model, and there are several pools.
    #[error("the request names no model")]
    ModelMissing,
}

/// The result of a lookup.
#[derive(Clone, Debug)]
pub enum FoundRoute {
    /// This route; it may be one that answers itself.
    Route(Arc<RoutedPools>),
    /// The route is for the path with a slash at its end: the client is redirected there.
    AddSlash(Arc<RoutedPools>),
    /// No host takes the request, and there are hosts that are closed.
    Closed,
    /// No host takes the request, or a host that is not closed has no route for the path.
    Unknown,
}

/// The pools of a route; none for a route that answers itself.
#[derive(Debug)]
pub struct RoutedPools {
    route: Arc<Route>,
    pools: Vec<Arc<Pool>>,
}

impl RoutedPools {
    /// Returns the pools that `route` names, of `pools`.
    pub(super) fn new(route: &Arc<Route>, pools: &[Arc<Pool>]) -> Self {
        let named = |name| pools.iter().find(|pool| pool.name() == name).cloned();
        Self { route: route.clone(), pools: route.pools().iter().filter_map(named).collect() }
    }

    /// Returns the route.
    pub const fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Returns the pools, in configuration order.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Returns whether clients may use the paths and the key header of Azure OpenAI.
    pub fn accepts_azure(&self) -> bool {
        self.pools.iter().any(|pool| pool.spec().accepts_azure)
    }

    /// Returns whether some pool takes its models from the lists of its replicas.
    pub fn learns_models(&self) -> bool {
        self.pools.iter().any(|pool| pool.learns_models())
    }

    /// Returns the pool for `model`. O(pools).
    ///
    /// *Errors*: no pool has the model, or none is named and there are several pools.
    pub fn find_pool(&self, model: Option<&str>) -> Result<&Arc<Pool>, PoolLookupError> {
        let Some(model) = model else {
            return match self.pools.as_slice() {
                [only] => Ok(only),
                pools => {
                    pools.iter().find(|p| *p.path_policy() == PathPolicy::Any).ok_or(PoolLookupError::ModelMissing)
                }
            };
        };
        if let Some(pool) = self.find_by_model(model) {
            return Ok(pool);
        }
        // A pool that passes every path takes every model that no other pool has.
        if let Some(pool) = self.pools.iter().find(|pool| pool.takes_any_model()) {
            return Ok(pool);
        }
        let mut pending = self.pools.iter().filter(|p| p.learns_models() && p.is_waiting_for_models()).peekable();
        if pending.peek().is_none() {
            return Err(PoolLookupError::UnknownModel);
        }
        Err(pending
            .find_map(|p| p.model_list_fault())
            .map_or(PoolLookupError::ModelsPending, PoolLookupError::NoModelList))
    }

    /// Returns the pool that `model` fits best: by its own name, else by the longest pattern. Of two, one with listed paths
    /// comes first, then that which the configuration names first.
    pub fn find_by_model(&self, model: &str) -> Option<&Arc<Pool>> {
        let mut best = None;
        for pool in &self.pools {
            let Some(fit) = pool.model_fit(model) else { continue };
            let rank = (fit, *pool.path_policy() != PathPolicy::Any);
            if best.is_none_or(|(known, _)| rank > known) {
                best = Some((rank, pool));
            }
        }
        best.map(|(_, pool)| pool)
    }
}
