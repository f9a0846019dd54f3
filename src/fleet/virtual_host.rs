//! From a request's host, path and model to its pool.

use std::sync::Arc;

use thiserror::Error;

use super::{PathPolicy, Pool, Route};

/// Why a request has no pool.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PoolLookupError {
    /// No pool has this model.
    #[error("the model does not exist")]
    UnknownModel,
    /// Some replica has not said yet what it serves, and no other serves this model.
    #[error("no replica that has answered /v1/models so far serves the model, and some have not answered yet")]
    ModelsPending,
    /// The request names no model and there are several to choose from.
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
    /// The path's beginning that led here; empty if every path does.
    pub fn path_prefix(&self) -> &str {
        self.route.path.as_deref().unwrap_or_default()
    }

    /// The pools, in configuration order.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Finds the pool for `model`. O(pools).
    ///
    /// *Errors*: none has it, or none is named where several could be meant.
    pub fn find_pool(&self, model: Option<&str>) -> Result<&Arc<Pool>, PoolLookupError> {
        let Some(model) = model else {
            return match self.pools.as_slice() {
                [only] => Ok(only),
                pools => {
                    pools.iter().find(|p| *p.path_policy() == PathPolicy::Any).ok_or(PoolLookupError::ModelMissing)
                }
            };
        };
        // A pool that takes every path takes every model too, so those that name theirs come first.
        let named = self.pools.iter().find(|p| *p.path_policy() != PathPolicy::Any && p.has_model(model));
        if let Some(pool) = named.or_else(|| self.pools.iter().find(|p| p.has_model(model))) {
            return Ok(pool);
        }
        let waiting = self.pools.iter().any(|p| p.configured_models().is_empty() && p.is_waiting_for_models());
        Err(if waiting { PoolLookupError::ModelsPending } else { PoolLookupError::UnknownModel })
    }

    /// Tells whether `path` begins with this site's prefix, in whole segments.
    fn matches_path(&self, path: &str) -> bool {
        path.strip_prefix(self.path_prefix()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Groups pools by route; longer paths first, so that the first that matches is the right one.
pub(super) fn build_virtual_hosts(pools: &[Arc<Pool>]) -> Vec<Arc<VirtualHost>> {
    let mut sites: Vec<VirtualHost> = Vec::new();
    for pool in pools {
        let route = &pool.spec().route;
        match sites.iter_mut().find(|s| s.route.is_same_route(route)) {
            Some(site) => site.pools.push(pool.clone()),
            None => sites.push(VirtualHost { route: route.clone(), pools: vec![pool.clone()] }),
        }
    }
    sites.sort_by_key(|s| std::cmp::Reverse(s.path_prefix().len()));
    sites.into_iter().map(Arc::new).collect()
}

/// Finds the site for a host (lower case, no port) and a path: sites that name the host come before those that do not.
pub(super) fn find_virtual_host<'a>(
    sites: &'a [Arc<VirtualHost>],
    host: &str,
    path: &str,
) -> Option<&'a Arc<VirtualHost>> {
    let named = sites.iter().any(|s| s.route.host.as_deref() == Some(host));
    let wanted = named.then_some(host);
    sites.iter().find(|s| s.route.host.as_deref() == wanted && s.matches_path(path))
}
