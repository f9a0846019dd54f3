//! The hosts and routes of pools that name their `host` and `path` themselves.

use std::sync::Arc;

use super::host_spec::{HostSpec, ServerCertificates};
use crate::routes::{Answer, HostName, PathMatch, PoolRoute, Route, RouteAction, RouteScope};

/// Adds the routes of pools to `hosts`: to the host of that name, else to a new one with `scope`.
///
/// Pools with the same host and path share a route.
pub fn add_pool_routes<'a>(
    hosts: &mut Vec<HostSpec>,
    pools: impl IntoIterator<Item = (&'a Arc<str>, &'a PoolRoute)>,
    scope: &Arc<RouteScope>,
) {
    for (pool, route) in pools {
        let host = find_or_add_host(hosts, route.host.as_deref(), scope);
        let path = PathMatch::Segments(route.path.clone().unwrap_or_default());
        let is_refused = route.blocked_paths.iter().find(|blocked| !blocked.exact && covers_path(&blocked.path, &path));
        let action = match is_refused {
            Some(blocked) => RouteAction::Answer(Answer::Status(blocked.status)),
            None => RouteAction::Pools(vec![pool.clone()]),
        };
        match host.routes.iter_mut().find(|known| known.path == path) {
            Some(Route { action: RouteAction::Pools(pools), .. }) if is_refused.is_none() => pools.push(pool.clone()),
            Some(known) => known.action = action,
            None => host.routes.push(Route::new(path, action, host.scope.clone())),
        }
        for blocked in &route.blocked_paths {
            let path = blocked.path.clone();
            let path = if blocked.exact { PathMatch::Exact(path) } else { PathMatch::Prefix(path) };
            if !host.routes.iter().any(|known| known.path == path) {
                let action = RouteAction::Answer(Answer::Status(blocked.status));
                host.routes.push(Route::new(path, action, host.scope.clone()));
            }
        }
    }
}

/// Returns whether every path of `path` begins with `blocked`.
fn covers_path(blocked: &str, path: &PathMatch) -> bool {
    path.prefix().starts_with(blocked) || blocked == "/"
}

fn find_or_add_host<'a>(hosts: &'a mut Vec<HostSpec>, name: Option<&str>, scope: &Arc<RouteScope>) -> &'a mut HostSpec {
    let wanted = name.and_then(|name| name.parse::<HostName>().ok());
    let is_wanted = |host: &HostSpec| match &wanted {
        Some(name) => host.names.contains(name),
        None => host.names.is_empty() && host.listens.is_empty(),
    };
    let place = hosts.iter().position(is_wanted).unwrap_or_else(|| {
        hosts.push(HostSpec {
            names: wanted.into_iter().collect(),
            listens: Vec::new(),
            scope: scope.clone(),
            routes: Vec::new(),
            is_closed: false,
            certificates: ServerCertificates::default(),
        });
        hosts.len() - 1
    });
    &mut hosts[place]
}
