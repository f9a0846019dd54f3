//! From a request's host, path and model to its pool.

use std::sync::Arc;

use thiserror::Error;

use super::{Paths, Pool, Route};

/// Why a request has no pool.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoPool {
    /// No pool has this model.
    #[error("the model does not exist")]
    UnknownModel,
    /// Some replica has not said yet what it serves, and no other serves this model.
    #[error("no replica that has answered /v1/models so far serves the model, and some have not answered yet")]
    NotYetKnown,
    /// The request names no model and there are several to choose from.
    #[error("the request names no model")]
    ModelMissing,
}

/// The pools that share a host and a path.
#[derive(Debug)]
pub struct Site {
    route: Route,
    pools: Vec<Arc<Pool>>,
}

impl Site {
    /// The path's beginning that led here; empty if every path does.
    pub fn prefix(&self) -> &str {
        self.route.path.as_deref().unwrap_or_default()
    }

    /// The pools, in configuration order.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Finds the pool for `model`. O(pools).
    ///
    /// *Errors*: none has it, or none is named where several could be meant.
    pub fn pool(&self, model: Option<&str>) -> Result<&Arc<Pool>, NoPool> {
        let Some(model) = model else {
            return match self.pools.as_slice() {
                [only] => Ok(only),
                pools => pools.iter().find(|p| *p.paths() == Paths::Any).ok_or(NoPool::ModelMissing),
            };
        };
        // A pool that takes every path takes every model too, so those that name theirs come first.
        let named = self.pools.iter().find(|p| *p.paths() != Paths::Any && p.serves(model));
        if let Some(pool) = named.or_else(|| self.pools.iter().find(|p| p.serves(model))) {
            return Ok(pool);
        }
        let waiting = self.pools.iter().any(|p| p.configured_models().is_empty() && p.is_waiting());
        Err(if waiting { NoPool::NotYetKnown } else { NoPool::UnknownModel })
    }

    /// Tells whether `path` begins with this site's prefix, in whole segments.
    fn leads(&self, path: &str) -> bool {
        path.strip_prefix(self.prefix()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Groups pools by route; longer paths first, so that the first that matches is the right one.
pub(super) fn sites(pools: &[Arc<Pool>]) -> Vec<Arc<Site>> {
    let mut sites: Vec<Site> = Vec::new();
    for pool in pools {
        let route = &pool.spec().route;
        match sites.iter_mut().find(|s| s.route.meets(route)) {
            Some(site) => site.pools.push(pool.clone()),
            None => sites.push(Site { route: route.clone(), pools: vec![pool.clone()] }),
        }
    }
    sites.sort_by_key(|s| std::cmp::Reverse(s.prefix().len()));
    sites.into_iter().map(Arc::new).collect()
}

/// Finds the site for a host (lower case, no port) and a path: sites that name the host come before those that do not.
pub(super) fn find<'a>(sites: &'a [Arc<Site>], host: &str, path: &str) -> Option<&'a Arc<Site>> {
    let named = sites.iter().any(|s| s.route.host.as_deref() == Some(host));
    let wanted = named.then_some(host);
    sites.iter().find(|s| s.route.host.as_deref() == wanted && s.leads(path))
}
