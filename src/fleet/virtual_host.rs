//! Pool selection by a request's host, path and model.

use std::sync::Arc;

use thiserror::Error;

use super::{ModelListFault, PathPolicy, Pool, Route};

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

/// The pools that share a host and a path.
#[derive(Debug)]
pub struct VirtualHost {
    route: Route,
    pools: Vec<Arc<Pool>>,
}

impl VirtualHost {
    /// Returns the path prefix; empty for every path.
    pub fn path_prefix(&self) -> &str {
        self.route.path.as_deref().unwrap_or_default()
    }

    /// Returns the pools, in configuration order.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Returns whether clients may use the paths and the key header of Azure OpenAI.
    pub fn accepts_azure(&self) -> bool {
        self.pools.iter().any(|pool| pool.spec().route.accepts_azure)
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

    /// Returns whether `path` begins with the path prefix, in whole segments.
    fn matches_path(&self, path: &str) -> bool {
        path.strip_prefix(self.path_prefix()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Returns the pools grouped by route; longer paths first, so that the first match is the right one.
pub(super) fn build_virtual_hosts(pools: &[Arc<Pool>]) -> Vec<Arc<VirtualHost>> {
    let mut virtual_hosts: Vec<VirtualHost> = Vec::new();
    for pool in pools {
        let route = &pool.spec().route;
        match virtual_hosts.iter_mut().find(|v| v.route.is_same_route(route)) {
            Some(virtual_host) => virtual_host.pools.push(pool.clone()),
            None => virtual_hosts.push(VirtualHost { route: route.clone(), pools: vec![pool.clone()] }),
        }
    }
    virtual_hosts.sort_by_key(|v| std::cmp::Reverse(v.path_prefix().len()));
    virtual_hosts.into_iter().map(Arc::new).collect()
}

/// Returns the virtual host for a host (lower case, no port) and a path: those that name the host come before those
/// that do not.
pub(super) fn find_virtual_host<'a>(
    virtual_hosts: &'a [Arc<VirtualHost>],
    host: &str,
    path: &str,
) -> Option<&'a Arc<VirtualHost>> {
    let is_named = virtual_hosts.iter().any(|v| v.route.host.as_deref() == Some(host));
    let wanted = is_named.then_some(host);
    virtual_hosts.iter().find(|v| v.route.host.as_deref() == wanted && v.matches_path(path))
}
