//! Where a request goes, as far as its head tells: to us, or to which of the replicas' paths.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use http::request::Parts;

use super::client;
use crate::dialect::Dialect;
use crate::fleet::{Fleet, PathPolicy, VirtualHost};
use crate::http::{has_media_type, is_json, normalize_path};
use crate::prompt::endpoint::{self, BodyKind, EndpointError};
use crate::server::RequestError;

/// What a request's host, method and path come to.
pub(in crate::server) enum RouteTarget {
    /// One of our own paths, without the site's prefix, and the site if there is one.
    Local(String, Option<Arc<VirtualHost>>),
    /// A replica's path.
    Proxied(ProxyRoute),
}

impl RouteTarget {
    /// Tells whether it is open to everybody: what supervisors and load balancers ask for.
    pub(in crate::server) fn is_public(&self) -> bool {
        matches!(self, Self::Local(path, _) if matches!(path.as_str(), "/livez" | "/readyz" | "/health"))
    }
}

/// A call of a replica's path.
pub(in crate::server) struct ProxyRoute {
    pub(in crate::server) virtual_host: Arc<VirtualHost>,
    /// Path and query as the replica gets them.
    pub(in crate::server) path: String,
    pub(in crate::server) dialect: Dialect,
    pub(in crate::server) body_kind: BodyKind,
    /// It is a question of the API's: what is wrong with an answer can be told, and another replica can answer as well.
    pub(in crate::server) inspect_response: bool,
    /// The stored response the path is about.
    pub(in crate::server) response_id: Option<String>,
}

/// Our own paths on the data listener.
fn is_local_path(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/health" | "/v1/models")
        || path.strip_prefix("/v1/models/").is_some_and(|name| !name.is_empty())
}

/// Finds a request's target.
///
/// *Errors*: no pool takes the host and path, or the path is none that may reach a replica; the site where there is one.
pub(in crate::server) fn match_route(
    fleet: &Fleet,
    head: &Parts,
) -> Result<RouteTarget, (RequestError, Option<Arc<VirtualHost>>)> {
    let path = head.uri.path();
    let host = client::request_host(head);
    let Some(site) = fleet.virtual_host(&host, path) else {
        return if is_local_path(path) {
            Ok(RouteTarget::Local(path.to_owned(), None))
        } else {
            Err((unknown_path_error(path), None))
        };
    };
    if let Some(status) = blocked_status(fleet, &site, &host, path) {
        return Err((RequestError::BlockedPath(status), Some(site)));
    }
    match_in_host(site.clone(), head).map_err(|refusal| (refusal, Some(site)))
}

fn unknown_path_error(path: &str) -> RequestError {
    RequestError::UnknownPath(path.chars().take(256).collect())
}

/// The status that a path is refused with, if it is, however it is spelt.
fn blocked_status(fleet: &Fleet, site: &VirtualHost, host: &str, path: &str) -> Option<u16> {
    let refuses = |site: &VirtualHost, path: &[u8]| site.pools().iter().find_map(|pool| pool.blocked_status(path));
    let normal = match normalize_path(path) {
        Cow::Borrowed(path) => return refuses(site, path),
        Cow::Owned(normal) => normal,
    };
    refuses(site, path.as_bytes()).or_else(|| refuses(site, &normal)).or_else(|| {
        // `/open/../closed` is found at one pool and means another.
        let meant = fleet.virtual_host(host, &String::from_utf8_lossy(&normal))?;
        refuses(&meant, &normal)
    })
}

/// Finds the target among the paths of a site.
fn match_in_host(site: Arc<VirtualHost>, head: &Parts) -> Result<RouteTarget, RequestError> {
    let path = head.uri.path();
    // A pool's prefix is taken off where an API path is left behind it; `/v1/embeddings` as a prefix stays whole.
    let behind = path.strip_prefix(site.path_prefix()).unwrap_or(path);
    let open = site.pools().iter().any(|pool| *pool.path_policy() == PathPolicy::Any);
    let only_open = site.pools().iter().all(|pool| *pool.path_policy() == PathPolicy::Any);
    if !only_open && (is_local_path(behind) || is_local_path(path)) {
        let own = if is_local_path(behind) { behind } else { path };
        return Ok(RouteTarget::Local(own.to_owned(), Some(site)));
    }
    let mut wrong_method = None;
    for path in [behind, path] {
        match endpoint::match_endpoint(&head.method, path) {
            Ok(found) => {
                return Ok(RouteTarget::Proxied(ProxyRoute {
                    path: with_query(if only_open { head.uri.path() } else { path }, head),
                    dialect: found.endpoint.dialect,
                    inspect_response: head.method == Method::POST,
                    body_kind: if only_open { BodyKind::None } else { found.endpoint.body },
                    response_id: found.response_id.filter(|_| !only_open).map(str::to_owned),
                    virtual_host: site,
                }));
            }
            Err(EndpointError::MethodNotAllowed { allow }) => wrong_method = Some(allow),
            Err(EndpointError::UnknownPath) => {}
        }
        let opened = site
            .pools()
            .iter()
            .any(|p| matches!(p.path_policy(), PathPolicy::Listed(extra) if extra.iter().any(|e| e == path)));
        if opened {
            return Ok(RouteTarget::Proxied(unlisted_route(site, with_query(path, head), body_kind(head))));
        }
    }
    if open && head.method != Method::CONNECT {
        return Ok(RouteTarget::Proxied(unlisted_route(site, with_query(path, head), BodyKind::None)));
    }
    Err(match wrong_method {
        Some(allow) => RequestError::MethodNotAllowed { method: head.method.to_string(), allow },
        None => unknown_path_error(path),
    })
}

const fn unlisted_route(site: Arc<VirtualHost>, path: String, body: BodyKind) -> ProxyRoute {
    ProxyRoute {
        virtual_host: site,
        path,
        dialect: Dialect::Other,
        body_kind: body,
        inspect_response: false,
        response_id: None,
    }
}

/// How the body of a path that we know nothing of names its model.
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
