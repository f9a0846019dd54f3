//! Where a request goes, as far as its head tells: to us, or to which of the replicas' paths.

use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, header};

use super::Refusal;
use super::identify;
use crate::fleet::{Fleet, Paths, Site};
use crate::prompt::endpoint::{self, BodyKind, Unlisted};
use crate::telemetry::normal_path;
use crate::units::Dialect;

/// What a request's host, method and path come to.
pub(super) enum Target {
    /// One of our own paths, without the site's prefix, and the site if there is one.
    Own(String, Option<Arc<Site>>),
    /// A replica's path.
    Replica(Call),
}

impl Target {
    /// Tells whether it is open to everybody: what supervisors and load balancers ask for.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Own(path, _) if matches!(path.as_str(), "/livez" | "/readyz" | "/health"))
    }
}

/// A call of a replica's path.
pub(super) struct Call {
    pub(super) site: Arc<Site>,
    /// Path and query as the replica gets them.
    pub(super) path: String,
    pub(super) dialect: Dialect,
    pub(super) body: BodyKind,
    /// It is a question of the API's: what is wrong with an answer can be told, and another replica can answer as well.
    pub(super) judged: bool,
    /// The stored response the path is about.
    pub(super) response: Option<String>,
}

/// Our own paths on the data listener.
fn is_own(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/health" | "/v1/models")
        || path.strip_prefix("/v1/models/").is_some_and(|name| !name.is_empty())
}

/// Finds a request's target.
///
/// *Errors*: no pool takes the host and path, or the path is none that may reach a replica; the site where there is one.
pub(super) fn find(fleet: &Fleet, head: &Parts) -> Result<Target, (Refusal, Option<Arc<Site>>)> {
    let path = head.uri.path();
    let host = identify::host(head);
    let Some(site) = fleet.site(&host, path) else {
        return if is_own(path) { Ok(Target::Own(path.to_owned(), None)) } else { Err((unknown(path), None)) };
    };
    if let Some(status) = refused(fleet, &site, &host, path) {
        return Err((Refusal::Refused(status), Some(site)));
    }
    within(site.clone(), head).map_err(|refusal| (refusal, Some(site)))
}

fn unknown(path: &str) -> Refusal {
    Refusal::UnknownPath(path.chars().take(256).collect())
}

/// The status that a path is refused with, if it is, however it is spelt.
fn refused(fleet: &Fleet, site: &Site, host: &str, path: &str) -> Option<u16> {
    let refuses = |site: &Site, path: &[u8]| site.pools().iter().find_map(|pool| pool.refuses(path));
    let normal = match normal_path(path) {
        Cow::Borrowed(path) => return refuses(site, path),
        Cow::Owned(normal) => normal,
    };
    refuses(site, path.as_bytes()).or_else(|| refuses(site, &normal)).or_else(|| {
        // `/open/../closed` is found at one pool and means another.
        let meant = fleet.site(host, &String::from_utf8_lossy(&normal))?;
        refuses(&meant, &normal)
    })
}

/// Finds the target among the paths of a site.
fn within(site: Arc<Site>, head: &Parts) -> Result<Target, Refusal> {
    let path = head.uri.path();
    // A pool's prefix is taken off where an API path is left behind it; `/v1/embeddings` as a prefix stays whole.
    let behind = path.strip_prefix(site.prefix()).unwrap_or(path);
    let open = site.pools().iter().any(|pool| *pool.paths() == Paths::Any);
    let only_open = site.pools().iter().all(|pool| *pool.paths() == Paths::Any);
    if !only_open && (is_own(behind) || is_own(path)) {
        let own = if is_own(behind) { behind } else { path };
        return Ok(Target::Own(own.to_owned(), Some(site)));
    }
    let mut wrong_method = None;
    for path in [behind, path] {
        match endpoint::find(&head.method, path) {
            Ok(found) => {
                return Ok(Target::Replica(Call {
                    path: with_query(if only_open { head.uri.path() } else { path }, head),
                    dialect: found.endpoint.dialect,
                    judged: head.method == Method::POST,
                    body: if only_open { BodyKind::None } else { found.endpoint.body },
                    response: found.response_id.filter(|_| !only_open).map(str::to_owned),
                    site,
                }));
            }
            Err(Unlisted::Method { allow }) => wrong_method = Some(allow),
            Err(Unlisted::Path) => {}
        }
        let opened =
            site.pools().iter().any(|p| matches!(p.paths(), Paths::Listed(extra) if extra.iter().any(|e| e == path)));
        if opened {
            return Ok(Target::Replica(other(site, with_query(path, head), body_kind(head))));
        }
    }
    if open && head.method != Method::CONNECT {
        return Ok(Target::Replica(other(site, with_query(path, head), BodyKind::None)));
    }
    Err(match wrong_method {
        Some(allow) => Refusal::Method { method: head.method.to_string(), allow },
        None => unknown(path),
    })
}

const fn other(site: Arc<Site>, path: String, body: BodyKind) -> Call {
    Call { site, path, dialect: Dialect::Other, body, judged: false, response: None }
}

/// How the body of a path that we know nothing of names its model.
fn body_kind(head: &Parts) -> BodyKind {
    let starts = |headers: &HeaderMap, kind: &str| {
        let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        value.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind))
    };
    match head.method {
        Method::POST if starts(&head.headers, "multipart/form-data") => BodyKind::Multipart,
        Method::POST if starts(&head.headers, "application/json") => BodyKind::Json,
        _ => BodyKind::None,
    }
}

fn with_query(path: &str, head: &Parts) -> String {
    match head.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
