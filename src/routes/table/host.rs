//! One host of the table: its names and its routes, in the order in which nginx tries them.

use std::sync::Arc;

use super::host_spec::{HostSpec, RouteLookup, ServerCertificates};
use crate::routes::{HostName, PathMatch, Route, RouteAction};

/// A host of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Host {
    names: Vec<HostName>,
    exact: Vec<Arc<Route>>,
    /// The longest first.
    prefixes: Vec<Arc<Route>>,
    /// In the order of the file.
    regexes: Vec<Arc<Route>>,
    /// The route of paths that have none, and of requests that are refused early; `None` for a host that is not closed.
    not_found: Option<Arc<Route>>,
    certificates: ServerCertificates,
}

impl Host {
    /// Builds the host, and adds its routes to `routes`.
    pub(super) fn new(spec: HostSpec, routes: &mut Vec<Arc<Route>>) -> Self {
        let mut host = Self {
            names: spec.names,
            exact: Vec::new(),
            prefixes: Vec::new(),
            regexes: Vec::new(),
            not_found: None,
            certificates: spec.certificates,
        };
        let server_name = host.names.first().map(|name| Arc::from(name.server_name()));
        let mut add = |route: Route| {
            let route = Arc::new(Route { index: routes.len(), server_name: server_name.clone(), ..route });
            routes.push(route.clone());
            route
        };
        for route in spec.routes {
            let route = add(route);
            match route.path {
                PathMatch::Exact(_) => host.exact.push(route),
                PathMatch::Regex(_) => host.regexes.push(route),
                PathMatch::Prefix(_) | PathMatch::FinalPrefix(_) | PathMatch::Segments(_) => host.prefixes.push(route),
            }
        }
        // Of equal texts a pool's own path comes first, then the first in the file.
        let is_pool_path = |route: &Route| matches!(route.path, PathMatch::Segments(_));
        host.prefixes.sort_by_key(|route| (std::cmp::Reverse(route.path.prefix().len()), !is_pool_path(route)));
        if spec.is_closed {
            host.not_found =
                Some(add(Route::new(PathMatch::Prefix("/".to_owned()), RouteAction::NotFound, spec.scope)));
        }
        host
    }

    pub(super) const fn is_nameless(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn names(&self) -> &[HostName] {
        &self.names
    }

    pub(super) const fn certificates(&self) -> &ServerCertificates {
        &self.certificates
    }

    /// Returns its routes in the order in which they are tried, that of paths without a route last, if there are any.
    pub(super) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let takes_all = self.prefixes.last().is_some_and(|route| matches!(route.path.prefix(), "" | "/"));
        let not_found = self.not_found.iter().filter(move |_| !takes_all);
        self.exact.iter().chain(&self.regexes).chain(&self.prefixes).chain(not_found)
    }

    /// Returns the route of paths that have none; `None` for a host that is not closed.
    pub(super) const fn not_found(&self) -> Option<&Arc<Route>> {
        self.not_found.as_ref()
    }

    /// Returns how well its names fit `host`; `None` if none does.
    pub(super) fn fit(&self, host: &str) -> Option<(u8, usize)> {
        self.names.iter().filter_map(|name| name.fit(host)).max()
    }

    /// Returns the route of a path in normal form.
    pub(super) fn find(&self, path: &[u8]) -> RouteLookup<'_> {
        if let Some(exact) = self.exact.iter().find(|route| route.path.matches(path)) {
            return RouteLookup::Found(exact);
        }
        let prefix = self.prefixes.iter().find(|route| route.path.matches(path));
        let is_whole = prefix.is_some_and(|route| route.path.prefix().len() == path.len());
        if !is_whole && let Some(route) = self.prefixes.iter().find(|route| route.adds_slash(path)) {
            return RouteLookup::AddSlash(route);
        }
        if !prefix.is_some_and(|route| matches!(route.path, PathMatch::FinalPrefix(_)))
            && let Some(regex) = self.regexes.iter().find(|route| route.path.matches(path))
        {
            return RouteLookup::Found(regex);
        }
        prefix.or(self.not_found.as_ref()).map_or(RouteLookup::Unknown, RouteLookup::Found)
    }
}
