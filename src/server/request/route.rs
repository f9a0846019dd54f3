//! The target of a request: a local path or a replica's path, and the pool that serves it.

use std::sync::Arc;

use http::Method;
use http::request::Parts;

use super::azure::{self, AzurePath};
use super::parse::ParsedRequest;
use crate::dialect::Dialect;
use crate::fleet::{Fleet, FoundRoute, NoReplica, PathPolicy, Pool, PoolLookupError, RoutedPools};
use crate::http::{has_media_type, is_json};
use crate::prompt::endpoint::{self, BodyKind, EndpointError, EndpointMatch};
use crate::routes::{ArrivalAddr, PathMatch, RouteAction, replace_path};
use crate::server::proxy::response_table::ResponseOwner;
use crate::server::{AppState, RequestError};
use crate::tenants::Tenant;
use crate::units::{Moment, ReplicaId};

/// The longest path or model name in an error text, in characters.
const MAX_NAME_CHARS: usize = 256;

/// A request with its route and its target.
pub(in crate::server) struct RoutedRequest {
    /// `None` if no route takes the request.
    pub(in crate::server) routed: Option<Arc<RoutedPools>>,
    pub(in crate::server) target: Result<RouteTarget, RequestError>,
}

/// The target of a request by its host, method and path.
pub(in crate::server) enum RouteTarget {
    /// A browser's preflight request, for any path.
    Preflight,
    /// OPTIONS on a path that replicas serve.
    Options {
        /// The methods that the path has.
        allow: Vec<Method>,
    },
    /// A path that the router serves itself.
    Local {
        /// Path and query, without the route's prefix.
        path: String,
    },
    /// A host that is closed, or a path that it has no route for.
    NotFound,
    /// The answer of the route itself.
    Answer,
    /// A redirect to the path with a slash at its end.
    AddSlash,
    /// A path that replicas serve.
    Proxied(ProxyRoute),
}

impl RouteTarget {
    /// Returns whether no key is needed: the paths for supervisors and load balancers, and what the route answers itself.
    pub(in crate::server) fn is_public(&self) -> bool {
        let is_public = |path: &str| matches!(path.split('?').next(), Some("/livez" | "/readyz" | "/health"));
        match self {
            Self::Local { path } => is_public(path),
            Self::NotFound | Self::Answer | Self::AddSlash => true,
            Self::Preflight => true,
            Self::Options { .. } | Self::Proxied(_) => false,
        }
    }

    /// Returns the dialect of the path; `None` if it has none of its own.
    pub(in crate::server) const fn dialect(&self) -> Option<Dialect> {
        match self {
            Self::Proxied(route) => Some(route.dialect),
            Self::Preflight
            | Self::Options { .. }
            | Self::Local { .. }
            | Self::NotFound
            | Self::Answer
            | Self::AddSlash => None,
        }
    }
}

/// A path that replicas serve.
pub(in crate::server) struct ProxyRoute {
    pub(in crate::server) routed: Arc<RoutedPools>,
    /// Path and query as the replica gets them.
    pub(in crate::server) path: String,
    pub(in crate::server) dialect: Dialect,
    pub(in crate::server) body_kind: BodyKind,
    /// Whether the path is a known endpoint of the API: its response can be checked, and another replica can repeat it.
    pub(in crate::server) inspect_response: bool,
    /// For a path that counts a prompt's tokens: the answer up to the number, which the router can estimate.
    pub(in crate::server) token_count: Option<&'static str>,
    /// The model that the path names, in place of the body's; `None` for other paths than Azure's.
    pub(in crate::server) path_model: Option<Arc<str>>,
    /// The stored response that the path names; `None` for other paths.
    pub(super) response_id: Option<String>,
}

/// The replicas that a request may go to.
pub(in crate::server) enum PoolSelection {
    /// The replicas of this pool and of its fallbacks.
    Pool(Arc<Pool>),
    /// The replica of this pool that holds the response the request is about.
    Owner(Arc<Pool>, ReplicaId),
    /// Every replica of the route in turn: the response that the path names has no known owner.
    Search,
}

impl PoolSelection {
    /// Returns the pool; `None` for a search.
    pub(in crate::server) const fn pool(&self) -> Option<&Arc<Pool>> {
        match self {
            Self::Pool(pool) | Self::Owner(pool, _) => Some(pool),
            Self::Search => None,
        }
    }
}

/// Returns whether the data listener serves `path` itself.
fn is_local_path(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/health" | "/v1/models")
        || path.strip_prefix("/v1/models/").is_some_and(|name| !name.is_empty())
}

/// Returns a request's route and target; `is_preflight`: it is a browser's preflight request that may be answered.
pub(in crate::server) fn match_route(
    fleet: &Fleet,
    arrival: &ArrivalAddr,
    host: &str,
    head: &Parts,
    is_preflight: bool,
) -> RoutedRequest {
    let path = head.uri.path();
    let (routed, target) = match fleet.find_route(arrival, host, path) {
        FoundRoute::Route(routed) => {
            let target = match &routed.route().action {
                RouteAction::Answer(_) => Ok(RouteTarget::Answer),
                RouteAction::NotFound => Ok(RouteTarget::NotFound),
                RouteAction::Pools(_) if is_preflight => Ok(RouteTarget::Preflight),
                RouteAction::Pools(_) => {
                    let find_route = |path: &str| fleet.find_route(arrival, host, path);
                    match_in_route(&find_route, routed.clone(), head)
                }
            };
            (Some(routed), target)
        }
        FoundRoute::AddSlash(routed) => (Some(routed), Ok(RouteTarget::AddSlash)),
        FoundRoute::Closed => (None, Ok(RouteTarget::NotFound)),
        FoundRoute::Unknown if is_preflight => (None, Ok(RouteTarget::Preflight)),
        FoundRoute::Unknown if is_local_path(path) => (None, Ok(RouteTarget::Local { path: with_query(path, head) })),
        FoundRoute::Unknown => (None, Err(unknown_path_error(path))),
    };
    RoutedRequest { routed, target }
}

/// Returns the error of a path that has no target.
pub(in crate::server) fn unknown_path_error(path: &str) -> RequestError {
    RequestError::UnknownPath(path.chars().take(MAX_NAME_CHARS).collect())
}

/// Returns the target among the paths of a route that leads to pools.
///
/// *Errors*: the path is unknown or malformed.
fn match_in_route(
    find_route: &dyn Fn(&str) -> FoundRoute,
    routed: Arc<RoutedPools>,
    head: &Parts,
) -> Result<RouteTarget, RequestError> {
    let route = routed.route();
    let replaced = route.replace_path.as_ref().map(|text| replace_path(&route.path, text, head.uri.path()));
    // nginx drops the mark of a query without a byte from a path that it replaces.
    let drops_query = replaced.is_some() && head.uri.query() == Some("");
    let with_query = |path: &str, head: &Parts| if drops_query { path.to_owned() } else { with_query(path, head) };
    let path = replaced.as_deref().unwrap_or_else(|| head.uri.path());
    // The prefix of a pool's path is removed where an API path follows it; `/v1/embeddings` as a prefix stays whole.
    let stripped = match &route.path {
        PathMatch::Segments(prefix) => path.strip_prefix(prefix.as_str()).unwrap_or(path),
        _ => path,
    };
    let has_any_path = routed.pools().iter().any(|pool| *pool.path_policy() == PathPolicy::Any);
    let only_any_path = routed.pools().iter().all(|pool| *pool.path_policy() == PathPolicy::Any);
    if !only_any_path && (is_local_path(stripped) || is_local_path(path)) {
        let local = if is_local_path(stripped) { stripped } else { path };
        return Ok(RouteTarget::Local { path: with_query(local, head) });
    }
    let mut allowed_methods = None;
    if routed.accepts_azure()
        && !only_any_path
        && let Some(azure) = AzurePath::parse(stripped)
    {
        match match_azure(find_route, &routed, &azure, head) {
            Err(RequestError::MethodNotAllowed { allow, .. }) => allowed_methods = Some(allow),
            Err(RequestError::UnknownPath(_)) => {}
            result => return result,
        }
    }
    let full_path = path;
    for path in [stripped, full_path] {
        match endpoint::match_endpoint(&head.method, path) {
            Ok(found) => {
                let mut route = endpoint_route(routed, with_query(path, head), &found, head);
                if only_any_path {
                    route.path = with_query(full_path, head);
                    (route.body_kind, route.token_count, route.response_id) = (BodyKind::None, None, None);
                }
                return Ok(RouteTarget::Proxied(route));
            }
            Err(EndpointError::MethodNotAllowed { allow }) => allowed_methods = Some(allow),
            Err(EndpointError::UnknownPath) => {}
        }
        let is_listed = routed
            .pools()
            .iter()
            .any(|p| matches!(p.path_policy(), PathPolicy::Listed(extra) if extra.iter().any(|e| e == path)));
        if is_listed {
            let path = with_query(path, head);
            return Ok(RouteTarget::Proxied(unlisted_route(routed, path, body_kind(head))));
        }
    }
    if has_any_path && head.method != Method::CONNECT {
        let path = with_query(path, head);
        return Ok(RouteTarget::Proxied(unlisted_route(routed, path, BodyKind::None)));
    }
    Err(match allowed_methods {
        Some(allow) if head.method == Method::OPTIONS => return Ok(RouteTarget::Options { allow }),
        Some(allow) => RequestError::MethodNotAllowed { method: head.method.to_string(), allow },
        None => unknown_path_error(path),
    })
}

/// Returns the target of a path of Azure OpenAI.
///
/// *Errors*: the path that it stands for is answered otherwise or unknown, or has not the method.
fn match_azure(
    find_route: &dyn Fn(&str) -> FoundRoute,
    routed: &Arc<RoutedPools>,
    azure: &AzurePath<'_>,
    head: &Parts,
) -> Result<RouteTarget, RequestError> {
    let AzurePath { path, deployment } = azure;
    let full_path = format!("{}{path}", routed.route().path.prefix().trim_end_matches('/'));
    for path in [path, &full_path] {
        // What another route answers or refuses is not reached by another name.
        if let FoundRoute::Route(other) = find_route(path)
            && let RouteAction::Answer(answer) = &other.route().action
        {
            return Err(RequestError::BlockedPath(answer.status()));
        }
    }
    let query = head.uri.query().and_then(azure::strip_api_version);
    let target = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    if deployment.is_none() && is_local_path(path) {
        return Ok(RouteTarget::Local { path: target });
    }
    match endpoint::match_endpoint(&head.method, path) {
        Ok(found) => {
            let route = endpoint_route(routed.clone(), target, &found, head);
            Ok(RouteTarget::Proxied(ProxyRoute { path_model: deployment.map(Arc::from), ..route }))
        }
        Err(EndpointError::MethodNotAllowed { allow }) => {
            Err(RequestError::MethodNotAllowed { method: head.method.to_string(), allow })
        }
        Err(EndpointError::UnknownPath) => Err(unknown_path_error(path)),
    }
}

/// Returns the route of a known endpoint; `target` is the path and query that the replica gets.
fn endpoint_route(routed: Arc<RoutedPools>, target: String, found: &EndpointMatch<'_>, head: &Parts) -> ProxyRoute {
    ProxyRoute {
        routed,
        path: target,
        dialect: found.endpoint.dialect,
        body_kind: match found.endpoint.body {
            BodyKind::Multipart if is_json(&head.headers) => BodyKind::Json,
            kind => kind,
        },
        inspect_response: head.method == Method::POST,
        token_count: found.endpoint.token_count,
        path_model: None,
        response_id: found.response_id.map(str::to_owned),
    }
}

const fn unlisted_route(routed: Arc<RoutedPools>, path: String, body_kind: BodyKind) -> ProxyRoute {
    ProxyRoute {
        routed,
        path,
        dialect: Dialect::Other,
        body_kind,
        inspect_response: false,
        token_count: None,
        path_model: None,
        response_id: None,
    }
}

/// Returns how the body of an unknown endpoint names its model.
fn body_kind(head: &Parts) -> BodyKind {
    match head.method {
        Method::POST if has_media_type(&head.headers, "multipart/form-data") => BodyKind::Multipart,
        Method::POST if is_json(&head.headers) => BodyKind::Json,
        _ => BodyKind::None,
    }
}

fn with_query(path: &str, head: &Parts) -> String {
    match head.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// Returns the replicas that a parsed request may go to.
///
/// Models and responses that the tenant's key may not use are reported as unknown.
///
/// *Errors*: the model or the response is unknown, or several pools match a request that names no model.
pub(in crate::server) fn select_pool(
    app: &AppState,
    route: &ProxyRoute,
    parsed: &ParsedRequest,
    tenant: Option<&Tenant>,
    now: Moment,
) -> Result<PoolSelection, RequestError> {
    let model = parsed.model.as_deref();
    if let (Some(tenant), Some(name)) = (tenant, model)
        && !tenant.can_use_model(name)
    {
        return Err(RequestError::from_lookup(PoolLookupError::UnknownModel, model));
    }
    let response_id = route.response_id.as_ref().or(parsed.previous_response_id.as_ref());
    let owner = response_id.and_then(|id| app.tables.responses.get(id, now));
    if owner.as_ref().is_some_and(|owner| owner.tenant.as_deref() != tenant.map(|tenant| &*tenant.name)) {
        return Err(RequestError::UnknownResponse);
    }
    let selection = match owner {
        Some(ResponseOwner { pool, replica, .. }) => {
            PoolSelection::Owner(app.fleet.pool(&pool).ok_or(NoReplica::PinnedUnavailable)?, replica)
        }
        None if route.response_id.is_some() => PoolSelection::Search,
        None => {
            let pool = route.routed.find_pool(model).map_err(|e| RequestError::from_lookup(e, model))?;
            PoolSelection::Pool(pool.clone())
        }
    };
    if let Some(tenant) = tenant.filter(|tenant| tenant.models.is_some() && model.is_none()) {
        check_unnamed_model(tenant, route, &selection)?;
    }
    Ok(selection)
}

/// Checks a request that names no model for a tenant whose key is limited to some models.
///
/// *Errors*: the pool has other models too, or the response has no known owner.
fn check_unnamed_model(tenant: &Tenant, route: &ProxyRoute, selection: &PoolSelection) -> Result<(), RequestError> {
    let Some(pool) = selection.pool() else { return Err(RequestError::UnknownResponse) };
    // The owner's tenant is this one, so the response was made with this key.
    if route.response_id.is_some() {
        return Ok(());
    }
    let models = pool.models();
    if models.is_empty() || !models.iter().all(|name| tenant.can_use_model(name.as_str())) {
        return Err(RequestError::ModelRequiredByKey);
    }
    Ok(())
}
