//! One route: which paths it is for, what happens to their requests, and with which settings.

use std::sync::Arc;

use super::{Answer, PathMatch, RouteScope};

/// A route: nginx's `location`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its paths.
    pub path: PathMatch,
    /// What happens to its requests.
    pub action: RouteAction,
    /// The text that takes the place of the matched path, as the URI of nginx's `proxy_pass`; `None`: the replica gets
    /// the path as received.
    pub replace_path: Option<String>,
    /// Its settings.
    pub scope: Arc<RouteScope>,
    /// The first name of its host; `None` for a host without names. Set by the table.
    pub server_name: Option<Arc<str>>,
    /// Its place among all routes. Set by the table.
    pub index: usize,
}

/// What happens to the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// They go to the pool of these whose model they name.
    Pools(Vec<Arc<str>>),
    /// They are answered.
    Answer(Answer),
    /// They are answered with 404.
    NotFound,
}

impl Route {
    /// Returns a route that no table has yet.
    pub const fn new(path: PathMatch, action: RouteAction, scope: Arc<RouteScope>) -> Self {
        Self { path, action, replace_path: None, scope, server_name: None, index: 0 }
    }

    /// Returns the names of its pools; empty for a route that answers itself.
    pub fn pools(&self) -> &[Arc<str>] {
        match &self.action {
            RouteAction::Pools(pools) => pools,
            RouteAction::Answer(_) | RouteAction::NotFound => &[],
        }
    }

    /// Returns whether `path` lacks only the slash at the end of the route's path, so that nginx redirects to it.
    pub(super) fn adds_slash(&self, path: &[u8]) -> bool {
        let (PathMatch::Prefix(prefix) | PathMatch::FinalPrefix(prefix)) = &self.path else { return false };
        self.has_slash_redirect() && prefix.strip_suffix('/').is_some_and(|prefix| prefix.as_bytes() == path)
    }

    fn has_slash_redirect(&self) -> bool {
        let (PathMatch::Prefix(prefix) | PathMatch::FinalPrefix(prefix)) = &self.path else { return false };
        prefix.len() > 1 && prefix.ends_with('/') && matches!(self.action, RouteAction::Pools(_))
    }

    /// Returns whether its answer may be a redirect to a path, for which the connection's own port is needed.
    pub(super) fn may_redirect(&self) -> bool {
        self.has_slash_redirect() || matches!(self.action, RouteAction::Answer(Answer::Redirect { .. }))
    }
}
